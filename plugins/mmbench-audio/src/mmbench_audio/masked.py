"""Convolution blocks over time in which padding never reaches a real frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        frames = values.movedim(-1, 1)  # (B, T, C, …)
        shape = [-1, *[1] * (frames.dim() - 3)]
        gain, bias = (weight.view(shape).expand(frames.shape[2:]) for weight in (self.gain, self.bias))
        # Copied back into the layout that convolutions are fast in.
        return F.layer_norm(frames, frames.shape[2:], gain, bias).movedim(1, -1).contiguous()


class MaskedConv(nn.Module):
    """Convolution, frame normalisation and ReLU; strides shorten the mask as they shorten time.

    With an odd kernel and half of it as padding, output frame t is centred on input frame t * stride: it is real
    exactly when that one is, and reads zeros where its kernel reaches past the end.

    Args:
        conv: `nn.Conv1d` or `nn.Conv2d` with time as its last axis.
        normalise: Whether to normalise frames before the ReLU.

    Shapes: values (B, C, …, T), zero at padded frames, mask (B, T) or None -> values (B, C', …, T'), again zero at
    padded frames, mask (B, T') or None.
    """

    def __init__(self, conv: nn.Conv1d | nn.Conv2d, *, normalise: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm = FrameNorm(conv.out_channels) if normalise else nn.Identity()

    def forward(self, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        values = self.norm(self.conv(values))
        if mask is not None:
            mask = mask[:, :: self.conv.stride[-1]]
            shape = [mask.shape[0], *[1] * (values.dim() - 2), mask.shape[1]]
            # In place, as neither convolution nor normalisation looks at its output again; finite, so zero times it is
            # zero, at half the time of masked_fill.
            values = values.mul_(mask.view(shape).to(values.dtype))
        return values.relu_(), mask
