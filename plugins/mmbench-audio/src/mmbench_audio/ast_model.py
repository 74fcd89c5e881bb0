"""AST, a vision transformer over spectrograms, of the transformers library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmbench import Waveform
from mmbench.features import without_padding
from mmbench.pretrained import build
from mmbench.weights import WeightFolder
from mmbench_audio.backbone import Backbone, Hidden
from mmbench_audio.waveform import at_rate

_WINDOW_MS, _HOP_MS = 25, 10  # of Kaldi's filter bank


@dataclass(frozen=True)
class KaldiBands:
    """Natural logarithm of the energy in mel bands, as Kaldi computes it.

    Attributes:
        rate: Waveforms are resampled to this, in Hz.
        num_mels: M, number of bands.
        max_seconds: What comes later is cut off.
    """

    version: ClassVar[str] = "1"

    rate: int
    num_mels: int
    max_seconds: float

    def __call__(self, sample: Waveform) -> NDArray[np.float32]:
        """Shapes: waveform -> float32 (T, M), a frame every 10 ms, at least one."""
        from torchaudio.compliance import kaldi

        samples = at_rate(sample, self.rate, self.max_seconds)
        short = self.rate * _WINDOW_MS // 1000 - len(samples)
        if short > 0:
            samples = torch.nn.functional.pad(samples, (0, short))
        bands: NDArray[np.float32] = kaldi.fbank(
            samples.unsqueeze(0), sample_frequency=self.rate, window_type="hanning", num_mel_bins=self.num_mels
        ).numpy()
        return bands


class AstPatches(Backbone):
    """AST over spectrograms of a fixed length, padded with zeros as it was trained; only real patches come out.

    A token is a patch of 16 bands by 160 ms, low bands first and time within them; a vector is the mean of the class
    and the distillation token.

    Source: Gong et al. 2021, arXiv:2104.01778.

    Shapes: float32 (B, T, M), mask (B, T) or None -> hidden states (B, P, D), mask (B, P) or None.
    """

    def __init__(self, config: Any, folder: WeightFolder, tuning: str) -> None:
        super().__init__()
        import transformers

        processor = transformers.ASTFeatureExtractor.from_pretrained(folder.path, local_files_only=True)
        self.model = build(transformers.ASTModel, config, folder, tuning)
        self.rate = int(processor.sampling_rate)
        self.num_mels = int(config.num_mel_bins)
        self.num_frames = int(config.max_length)
        self.mean, self.scale = (processor.mean, 2 * processor.std) if processor.do_normalize else (0.0, 1.0)
        self.stride = int(config.time_stride)
        self.grid = (
            (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1,
            (config.max_length - config.patch_size) // config.time_stride + 1,
        )
        self.num_layers = config.num_hidden_layers
        self.feature_dim = config.hidden_size

    def transform(self, max_seconds: float) -> KaldiBands:
        longest = ((self.num_frames - 1) * _HOP_MS + _WINDOW_MS) / 1000
        return KaldiBands(rate=self.rate, num_mels=self.num_mels, max_seconds=min(max_seconds, longest))

    def forward(self, values: Tensor, mask: Tensor | None, *, all_layers: bool) -> Hidden:
        mask = None if mask is None else mask[:, : self.num_frames]
        frames = without_padding(values[:, : self.num_frames].float(), mask)
        frames = torch.nn.functional.pad(frames, (0, 0, 0, self.num_frames - frames.shape[1]))
        given = self.model((frames - self.mean) / self.scale, output_hidden_states=all_layers)
        last = given.last_hidden_state
        layers = (*given.hidden_states[:-1], last) if all_layers else (last,)
        # A patch is real when the first of its frames is; there is always one.
        steps = max(min(-(-min(values.shape[1], self.num_frames) // self.stride), self.grid[1]), 1)
        real = None
        if mask is not None:
            real = mask[:, :: self.stride][:, :steps]
            real = real.unsqueeze(1).expand(-1, self.grid[0], -1).flatten(1)
        return Hidden(tuple(self._patches(layer, steps) for layer in layers), real, given.pooler_output)

    def _patches(self, tokens: Tensor, steps: int) -> Tensor:
        """Return the patches of the first time steps, without class and distillation token."""
        patches = tokens[:, 2:].unflatten(1, self.grid)  # (B, bands, time, D)
        return patches[:, :, :steps].flatten(1, 2)
