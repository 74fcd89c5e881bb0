"""`mlp`: a perceptron over all pixels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import check_range
from mmbench.spec import Layout
from mmbench_vision.pixels import PixelScaler, SquarePixels, square_side


class ImageMLP(nn.Module):
    """`depth` hidden layers of `width` ReLU units over the flattened image, then one linear layer.

    Shapes: uint8 (B, C, S, S) -> (B, feature_dim).

    Raises:
        UsageError: an option is out of range.
    """

    def __init__(
        self,
        modality: Modality,
        layout: Layout,
        *,
        feature_dim: int,
        width: int,
        depth: int,
        dropout: float,
        max_side: int,
    ) -> None:
        super().__init__()
        check_range("feature_dim", feature_dim, 1)
        check_range("width", width, 1)
        check_range("depth", depth, 1)
        check_range("dropout", dropout, 0.0, 1.0)
        self.feature_dim = feature_dim
        channels = modality.facts["channels"]
        side = square_side(modality, max_side)
        self.transform = SquarePixels(side=side, channels=channels)
        self.scale = PixelScaler(channels)
        layers: list[nn.Module] = []
        dim = channels * side * side
        for _ in range(depth):
            layers += [nn.Linear(dim, width), nn.ReLU(), nn.Dropout(dropout)]
            dim = width
        self.layers = nn.Sequential(*layers, nn.Linear(dim, feature_dim))

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of each channel over the training images."""
        self.scale.fit(values)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        return Features(self.layers(self.scale(values).flatten(1)))
