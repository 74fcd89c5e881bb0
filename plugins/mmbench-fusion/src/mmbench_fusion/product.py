"""Product: every modality projected to one width, and multiplied place by place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.projection import Projections


class Product(nn.Module):
    """fused = product over present modalities of norm_m(W_m x_m + b_m); ones where a sample has none.

    The Hadamard product is what low-rank bilinear pooling (MLB, Kim et al. 2017, arXiv:1610.04325) computes; the layer
    norms take the place of its tanh and keep the products of several modalities at one scale.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality is a factor of one.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, fused_dim: int) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.projections = Projections(dims, fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors, present = self.projections(features)  # (B, M, fused_dim), (B, M)
        return vectors.masked_fill(~present.unsqueeze(2), 1.0).prod(dim=1)
