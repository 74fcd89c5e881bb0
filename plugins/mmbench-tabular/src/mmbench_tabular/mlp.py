"""`mlp`: a perceptron over columns of numbers, some of which may be missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import Standardiser, check_range
from mmbench.spec import Layout


@dataclass(frozen=True)
class Columns:
    """The numbers as they are; NaN stays NaN."""

    version: ClassVar[str] = "1"

    def __call__(self, row: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shapes: float32 (F,) -> float32 (F,)."""
        return row


class TabularMLP(nn.Module):
    """`depth` hidden layers of `width` ReLU units, then one linear layer.

    Each column is standardised by its mean and deviation over the known training values. A missing value (NaN) reads
    as the mean, and a second input per column is 1 where the value is missing, else 0.

    Source: Gorishniy et al. 2021, arXiv:2106.11959, section 3.1.

    Shapes: float32 (B, F) -> (B, feature_dim).

    Raises:
        UsageError: an option is out of range.
    """

    def __init__(
        self, modality: Modality, layout: Layout, *, feature_dim: int, width: int, depth: int, dropout: float
    ) -> None:
        super().__init__()
        check_range("feature_dim", feature_dim, 1)
        check_range("width", width, 1)
        check_range("depth", depth, 1)
        check_range("dropout", dropout, 0.0, 1.0)
        self.feature_dim = feature_dim
        self.transform = Columns()
        num_features = modality.facts["num_features"]
        self.standardise = Standardiser(num_features)
        layers: list[nn.Module] = []
        dim = 2 * num_features
        for _ in range(depth):
            layers += [nn.Linear(dim, width), nn.ReLU(), nn.Dropout(dropout)]
            dim = width
        self.layers = nn.Sequential(*layers, nn.Linear(dim, feature_dim))

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of each column over its known training values."""
        self.standardise.fit(values)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        missing = values.isnan()
        known = self.standardise(values).masked_fill(missing, 0.0)
        return Features(self.layers(torch.cat([known, missing.to(known.dtype)], dim=1)))
