"""Deep sets: modalities as the elements of a set, each read by one shared network, added, and read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.projection import Projections


class DeepSets(nn.Module):
    """fused = relu(norm(R sum over present m of relu(P (h_m + e_m) + p) + r)), h_m = norm_m(W_m x_m + b_m).

    Source: Zaheer et al. 2017, arXiv:1703.06114: rho(sum of phi(element)). The learned marks e_m make modalities
    distinguishable to the shared phi; without them a set could not tell who said what.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality is not in the set.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, model_dim: int, fused_dim: int) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.projections = Projections(dims, model_dim)
        self.marks = nn.Parameter(0.02 * torch.randn(len(dims), model_dim))
        self.phi = nn.Linear(model_dim, model_dim)
        self.rho = nn.Linear(model_dim, fused_dim)
        self.norm = nn.LayerNorm(fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors, present = self.projections(features)  # (B, M, model_dim), (B, M)
        elements = self.phi(vectors + self.marks).relu().masked_fill(~present.unsqueeze(2), 0.0)
        return self.norm(self.rho(elements.sum(dim=1))).relu()
