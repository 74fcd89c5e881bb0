"""`vit-tiny`: a transformer over a few patches of the image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import TransformerBlock, check_range
from mmbench.spec import Layout
from mmbench_vision.pixels import PixelScaler, SquarePixels, square_side


class TinyViT(nn.Module):
    """Vision transformer over `grid` x `grid` patches with learned positions.

    Source: Dosovitskiy et al. 2020, arXiv:2010.11929. Differs from it in fixing the number of patches and not their
    size, which keeps the cost the same for every image, and in having no class token: a vector is one linear layer over
    all patches in their places, which learns from a thousand images where a mean over patches needs many more. A
    pyramid has the patches after every layer; its last level is the sequence.

    Shapes: uint8 (B, C, S, S) -> (B, feature_dim), or (B, grid * grid, feature_dim); a pyramid has `depth` levels, all
    but the last of `width`.

    Raises:
        UsageError: an option is out of range, or `num_heads` does not divide `width`.
    """

    def __init__(
        self,
        modality: Modality,
        layout: Layout,
        *,
        feature_dim: int,
        width: int,
        depth: int,
        num_heads: int,
        grid: int,
        dropout: float,
        max_side: int,
    ) -> None:
        super().__init__()
        check_range("feature_dim", feature_dim, 1)
        check_range("depth", depth, 1)
        check_range("grid", grid, 1)
        check_range("dropout", dropout, 0.0, 1.0)
        self.layout = layout
        self.feature_dim: int | tuple[int, ...] = feature_dim
        if layout == "pyramid":
            self.feature_dim = (*[width] * (depth - 1), feature_dim)
        channels = modality.facts["channels"]
        grid = min(grid, square_side(modality, max_side))
        side = square_side(modality, max_side, multiple_of=grid)
        self.transform = SquarePixels(side=side, channels=channels)
        self.scale = PixelScaler(channels)
        self.embed = nn.Conv2d(channels, width, kernel_size=side // grid, stride=side // grid)
        self.position = nn.Parameter(torch.randn(grid * grid, width) * 0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, num_heads, mlp_dim=2 * width, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(grid * grid * width if layout == "vector" else width, feature_dim)

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of each channel over the training images."""
        self.scale.fit(values)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        patches = self.embed(self.scale(values)).flatten(2).transpose(1, 2)  # (B, T, width)
        tokens = self.dropout(patches + self.position)
        early = []
        for block in self.blocks:
            tokens = block(tokens)
            early.append(tokens)
        tokens = self.norm(tokens)
        if self.layout == "vector":
            return Features(self.project(tokens.flatten(1)))
        tokens = self.project(tokens)
        return Features((*early[:-1], tokens) if self.layout == "pyramid" else tokens)
