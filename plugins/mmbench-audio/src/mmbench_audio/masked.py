"""Convolution blocks over time in which padding never reaches a real frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def zero_padding(values: Tensor, mask: Tensor | None) -> Tensor:
    """Set padded frames to zero, whatever they hold.

    Shapes: values (B, C, …, T), mask (B, T) or None -> (B, C, …, T).
    """
    if mask is None:
        return values
    shape = [mask.shape[0], *[1] * (values.dim() - 2), mask.shape[1]]
    return values.masked_fill(~mask.view(shape), 0.0)


class FrameNorm(nn.Module):
    """Normalise each frame over its channels (and frequencies), with a learned gain and bias per channel.

    Unlike batch or group normalisation, no frame's value depends on other frames, so none on the amount of padding.

    Source: Ba et al. 2016, arXiv:1607.06450, applied frame by frame.

    Shapes: (B, C, T) or (B, C, M, T) -> the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, values: Tensor) -> Tensor:
        axes = tuple(range(1, values.dim() - 1))
        variance, mean = torch.var_mean(values, dim=axes, correction=0, keepdim=True)
        shape = [-1, *[1] * (values.dim() - 2)]
        return (values - mean) * (variance + 1e-5).rsqrt() * self.gain.view(shape) + self.bias.view(shape)


class MaskedConv(nn.Module):
    """Convolution, frame normalisation and ReLU; strides shorten the mask as they shorten time.

    With an odd kernel and half of it as padding, output frame t is centred on input frame t * stride: it is real
    exactly when that one is, and reads zeros where its kernel reaches past the end.

    Args:
        conv: `nn.Conv1d` or `nn.Conv2d` with time as its last axis.

    Shapes: values (B, C, …, T), mask (B, T) or None -> values (B, C', …, T'), mask (B, T') or None.
    """

    def __init__(self, conv: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.stride = conv.stride[-1]
        self.norm = FrameNorm(conv.out_channels)

    def forward(self, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        values = self.norm(self.conv(zero_padding(values, mask))).relu()
        return values, None if mask is None else mask[:, :: self.stride]
