"""Max pooling over modalities: every modality projected to one width, the largest value kept in each place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.projection import Projections


class Max(nn.Module):
    """fused_j = max over present modalities of norm_m(W_m x_m + b_m)_j; zeros where a sample has no modality.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality never wins.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, fused_dim: int) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.projections = Projections(dims, fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors, present = self.projections(features)  # (B, M, fused_dim), (B, M)
        lowest = torch.finfo(vectors.dtype).min
        largest = vectors.masked_fill(~present.unsqueeze(2), lowest).amax(dim=1)
        return largest.masked_fill(~present.any(dim=1, keepdim=True), 0.0)
