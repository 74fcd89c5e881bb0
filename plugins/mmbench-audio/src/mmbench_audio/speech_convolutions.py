"""The convolutions that wav2vec 2.0 and its kin read waveforms with, such that padding reaches no real frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mmbench_audio.pcm import to_float


class SpeechConvolutions(nn.Module):
    """Normalisation of the waveform and strided convolutions, each frame of real samples only.

    The models of the "group norm" family normalise each channel of the first layer over all of time. The libraries do
    that over padding too, and advise to leave out the mask; here it goes over the real frames, so that a sample in a
    batch gives what it gives alone, and the mask is used for every family.

    Source: Baevski et al. 2020, arXiv:2006.11477, section 2.

    Args:
        conv_layers: The library's layers: each with `conv`, perhaps `layer_norm`, perhaps `activation` (else GELU).
        normalise: Whether each waveform is brought to mean 0 and variance 1.
        eps: Added to that variance.

    Shapes: int16 (B, L), mask (B, L) or None -> float (B, T, C), mask (B, T) or None.
    """

    def __init__(self, conv_layers: Iterable[nn.Module], *, normalise: bool, eps: float) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList(conv_layers)
        self.normalise = normalise
        self.eps = eps

    @property
    def min_samples(self) -> int:
        """How many samples the first frame reads."""
        return receptive_field(self.conv_layers)

    def forward(self, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        samples = to_float(values, mask)
        if self.normalise:
            samples = _normalised(samples.unsqueeze(1), mask, self.eps).squeeze(1)
        frames = samples.unsqueeze(1)  # (B, 1, L)
        lengths = None if mask is None else mask.sum(dim=1)
        for layer in self.conv_layers:
            frames, lengths = _convolve(layer, frames, lengths)
        real = None if lengths is None else _mask(lengths, frames.shape[2])
        return frames.transpose(1, 2), real


def receptive_field(conv_layers: Iterable[Any]) -> int:
    """Return how many samples one frame reads."""
    field, jump = 1, 1
    for layer in conv_layers:
        field += (layer.conv.kernel_size[0] - 1) * jump
        jump *= layer.conv.stride[0]
    return field


def _convolve(layer: Any, frames: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    frames = layer.conv(frames)
    if lengths is not None:
        (kernel,), (stride,) = layer.conv.kernel_size, layer.conv.stride
        lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
    norm = getattr(layer, "layer_norm", None)
    if isinstance(norm, nn.GroupNorm):
        mask = None if lengths is None else _mask(lengths, frames.shape[2])
        # In full precision, as torch's own normalisations are under autocast.
        frames = _normalised(frames.float(), mask, norm.eps) * norm.weight.view(-1, 1) + norm.bias.view(-1, 1)
    elif isinstance(norm, nn.LayerNorm):
        # torchaudio's subclass moves the channels last by itself; done here, both libraries' layers are served.
        channels_last = frames.transpose(1, 2)
        frames = nn.functional.layer_norm(
            channels_last, norm.normalized_shape, norm.weight, norm.bias, norm.eps
        ).transpose(1, 2)
    activation = getattr(layer, "activation", nn.functional.gelu)
    return activation(frames), lengths


def _normalised(values: Tensor, mask: Tensor | None, eps: float) -> Tensor:
    """Bring each channel of each sample to mean 0 and variance 1 over its real part, and padding to 0: (B, C, T)."""
    if mask is None:
        centred = values - values.mean(dim=2, keepdim=True)
        return centred * (centred.square().mean(dim=2, keepdim=True) + eps).rsqrt()
    real = mask.unsqueeze(1).to(values.dtype)  # (B, 1, T)
    count = real.sum(dim=2, keepdim=True).clamp(min=1.0)
    centred = (values - (values * real).sum(dim=2, keepdim=True) / count) * real
    return centred * (centred.square().sum(dim=2, keepdim=True) / count + eps).rsqrt()


def _mask(lengths: Tensor, size: int) -> Tensor:
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)
