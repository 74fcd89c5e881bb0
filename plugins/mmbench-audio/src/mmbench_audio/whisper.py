"""The encoder of Whisper, fed with its own log-mel spectrogram."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.pretrained import build
from mmbench.weights import WeightFolder
from mmbench_audio.backbone import Backbone, Hidden
from mmbench_audio.pcm import Pcm, to_float


class WhisperFrames(Backbone):
    """Whisper's encoder over windows of 30 s, as it was trained; padding is silence, and only real frames come out.

    The log-mel spectrogram is made on the device, in the arithmetic of the library's own processor. Whisper attends
    to the silence after a sound, so a short sound costs as much as a long one.

    Source: Radford et al. 2022, arXiv:2212.04356.

    Shapes: int16 (B, L) at 16 kHz, mask (B, L) or None -> hidden states (B, T, D), T = ceil(L / 320), mask (B, T)
    or None.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, config: Any, folder: WeightFolder, tuning: str) -> None:
        super().__init__()
        import transformers

        processor = transformers.WhisperFeatureExtractor.from_pretrained(folder.path, local_files_only=True)
        config.encoder_layerdrop = 0.0  # draws on the host, and trains layers by turns
        whole = build(transformers.WhisperModel, config, folder, tuning, needed="encoder.")
        self.encoder: nn.Module = whole.encoder
        self.encoder.embed_positions.requires_grad_(False)
        self.rate = int(processor.sampling_rate)
        self.window_size, self.hop = int(processor.n_fft), int(processor.hop_length)
        self.num_samples = int(processor.n_samples)
        self.samples_per_token = self.num_samples // config.max_source_positions
        self.register_buffer("window", torch.hann_window(self.window_size), persistent=False)
        filters = torch.as_tensor(processor.mel_filters, dtype=torch.float32)  # (n_fft / 2 + 1, M)
        self.register_buffer("filters", filters, persistent=False)
        self.num_layers = config.encoder_layers
        self.feature_dim = config.d_model

    def transform(self, max_seconds: float) -> Pcm:
        return Pcm(rate=self.rate, max_seconds=min(max_seconds, self.num_samples / self.rate))

    def forward(self, values: Tensor, mask: Tensor | None, *, all_layers: bool) -> Hidden:
        values, mask = values[:, : self.num_samples], None if mask is None else mask[:, : self.num_samples]
        with torch.autocast(values.device.type, enabled=False):  # quiet bands drown in the rounding of half precision
            spectrogram = self._log_mel(to_float(values, mask))
        given = self.encoder(spectrogram, output_hidden_states=all_layers)
        hidden = (*given.hidden_states[:-1], given.last_hidden_state) if all_layers else (given.last_hidden_state,)
        num_tokens = -(-values.shape[1] // self.samples_per_token)
        tokens = tuple(layer[:, :num_tokens] for layer in hidden)
        # A token is real when the first of its samples is.
        return Hidden(tokens, None if mask is None else mask[:, :: self.samples_per_token])

    def _log_mel(self, samples: Tensor) -> Tensor:
        """Return log-mel frames of 30 s: float32 (B, L) -> (B, M, 3000)."""
        # Beyond the last window that meets a sample there is silence, whose level is known without looking.
        length = min(samples.shape[1] + self.window_size, self.num_samples)
        samples = F.pad(samples, (0, length - samples.shape[1]))
        spectrum = torch.stft(samples, self.window_size, self.hop, window=self.window, return_complex=True)
        power = spectrum[..., :-1].abs().square()  # (B, F, T)
        bands = (self.filters.T @ power).clamp(min=1e-10).log10()
        bands = torch.maximum(bands, bands.amax(dim=(1, 2), keepdim=True) - 8.0)
        silence = bands.amax(dim=(1, 2), keepdim=True).sub(8.0).clamp(min=-10.0)
        missing = self.num_samples // self.hop - bands.shape[2]
        padded = torch.cat([bands, silence.expand(-1, bands.shape[1], missing)], dim=2)
        return (padded + 4.0) / 4.0
