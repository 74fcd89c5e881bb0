"""`cnn`: three convolution blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import check_range
from mmbench.spec import Layout
from mmbench_vision.pixels import PixelScaler, SquarePixels, square_side

# The blocks halve the map until it is at most this high: 4 x 4 positions for any default image.
_FINAL_SIDE = 4


class ImageCNN(nn.Module):
    """Three blocks of convolution, group normalisation and ReLU; then one linear layer.

    The blocks have `width`, 2 `width` and 4 `width` channels. As many of them stride by two as it takes to bring the
    map down to 4 x 4, so a small image is not lost and a large one stays cheap. A vector reads the whole last map; a
    sequence has one token per position of it, with a learned position added. A pyramid has one token per position of
    every block's map: the last level is the sequence, the ones before are the maps themselves.

    Source: LeCun et al. 1998, doi:10.1109/5.726791; group normalisation (Wu & He 2018, arXiv:1803.08494) in place of
    batch normalisation, so that a sample's features do not depend on its batch.

    Shapes: uint8 (B, C, S, S) -> (B, feature_dim), or (B, T, feature_dim) with T positions; a pyramid also has
    (B, T_1, width) and (B, T_2, 2 width) before it.

    Raises:
        UsageError: an option is out of range.
    """

    def __init__(
        self, modality: Modality, layout: Layout, *, feature_dim: int, width: int, dropout: float, max_side: int
    ) -> None:
        super().__init__()
        check_range("feature_dim", feature_dim, 1)
        check_range("width", width, 1)
        check_range("dropout", dropout, 0.0, 1.0)
        self.layout = layout
        self.feature_dim: int | tuple[int, ...] = feature_dim
        if layout == "pyramid":
            self.feature_dim = (width, 2 * width, feature_dim)
        channels = modality.facts["channels"]
        side = square_side(modality, max_side)
        self.transform = SquarePixels(side=side, channels=channels)
        self.scale = PixelScaler(channels)
        blocks = []
        for stride, growth in zip(_strides(side), (1, 2, 4)):
            side = -(-side // stride)
            blocks.append(_block(channels, width * growth, stride, side))
            channels = width * growth
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        if layout == "vector":
            self.project = nn.Linear(channels * side * side, feature_dim)
        else:
            self.project = nn.Linear(channels, feature_dim)
            self.position = nn.Parameter(torch.randn(side * side, feature_dim) * 0.02)

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of each channel over the training images."""
        self.scale.fit(values)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        maps = self.scale(values)
        early = []
        for block in self.blocks:
            maps = block(maps)  # at last (B, 4 * width, H, W)
            if self.layout == "pyramid":
                early.append(_tokens(maps))
        if self.layout == "vector":
            return Features(self.project(self.dropout(maps.flatten(1))))
        tokens = self.project(self.dropout(_tokens(maps))) + self.position  # (B, H * W, feature_dim)
        return Features((*early[:-1], tokens) if self.layout == "pyramid" else tokens)


def _tokens(maps: Tensor) -> Tensor:
    """One token per position: (B, C, H, W) -> (B, H * W, C)."""
    return maps.flatten(2).transpose(1, 2)


def _block(channels: int, width: int, stride: int, side: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1),
        _normalisation(width, side),
        nn.ReLU(),
    )


def _normalisation(width: int, side: int) -> nn.Module:
    """Normalise groups of channels: as many equal groups of two values or more as there can be, at most 8.

    A single value, of one channel in a map of one pixel, has no deviation: normalised, it would say nothing of the
    image, and torch refuses it in a batch of one.
    """
    fitting = [groups for groups in (8, 4, 2, 1) if width % groups == 0 and width // groups * side * side > 1]
    return nn.GroupNorm(fitting[0], width) if fitting else nn.Identity()


def _strides(side: int) -> tuple[int, int, int]:
    """Stride of each block; a single halving goes to the second, two go to the first and the last."""
    halvings = 0
    while halvings < 3 and side > _FINAL_SIDE:
        side = -(-side // 2)
        halvings += 1
    return ((1, 1, 1), (1, 2, 1), (2, 1, 2), (2, 2, 2))[halvings]
