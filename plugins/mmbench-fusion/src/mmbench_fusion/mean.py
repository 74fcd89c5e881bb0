"""Mean: every modality projected to one width, and averaged over those that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.presence import masked_mean_over_modalities
from mmbench_fusion.projection import Projections


class Mean(nn.Module):
    """fused = mean over present modalities of norm_m(W_m x_m + b_m); zeros where a sample has none.

    Additive over modalities like `sum`, but of one scale whatever number of modalities a sample has.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim).
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, fused_dim: int) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.projections = Projections(dims, fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        return masked_mean_over_modalities(*self.projections(features))
