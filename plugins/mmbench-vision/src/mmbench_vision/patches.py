"""`patches`: the image cut into squares, each brought to one width, and nothing more."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import check_range
from mmbench.spec import Layout
from mmbench_vision.pixels import PixelScaler, SquarePixels, square_side


class Patches(nn.Module):
    """`grid` x `grid` patches of the standardised image through one linear layer.

    Nothing here looks beyond a patch or bends: all understanding is left to what reads the tokens, as in early fusion.
    Tokens carry no position; a vector is all of them side by side, in their places.

    Source: the patch embedding of Dosovitskiy et al. 2020, arXiv:2010.11929.

    Shapes: uint8 (B, C, S, S) -> (B, grid * grid, token_dim), or (B, grid * grid * token_dim).

    Raises:
        UsageError: an option is out of range.
    """

    def __init__(self, modality: Modality, layout: Layout, *, token_dim: int, grid: int, max_side: int) -> None:
        super().__init__()
        check_range("token_dim", token_dim, 1)
        check_range("grid", grid, 1)
        self.layout = layout
        channels = modality.facts["channels"]
        grid = min(grid, square_side(modality, max_side))
        side = square_side(modality, max_side, multiple_of=grid)
        self.feature_dim = token_dim * (grid * grid if layout == "vector" else 1)
        self.transform = SquarePixels(side=side, channels=channels)
        self.scale = PixelScaler(channels)
        self.embed = nn.Conv2d(channels, token_dim, kernel_size=side // grid, stride=side // grid)

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of each channel over the training images."""
        self.scale.fit(values)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        tokens = self.embed(self.scale(values)).flatten(2).transpose(1, 2)  # (B, grid * grid, token_dim)
        return Features(tokens.flatten(1) if self.layout == "vector" else tokens)
