"""Summation: every modality projected to one width, and added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.projection import Projections


class Sum(nn.Module):
    """fused = sum over present modalities of norm_m(W_m x_m + b_m).

    Nothing follows the sum but the head, so the prediction is additive over modalities: what needs their interaction
    is out of reach, and a gap between `sum` and `concat` measures how much interaction there is.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality adds nothing.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, fused_dim: int) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.projections = Projections(dims, fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors, _ = self.projections(features)  # (B, M, fused_dim)
        return vectors.sum(dim=1)
