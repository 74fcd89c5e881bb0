"""Mixture of experts: one expert per modality, and a gate that has heard all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.presence import masked_softmax
from mmbench_fusion.projection import Projections


class MixtureOfExperts(nn.Module):
    """fused = sum over m of w_m relu(E_m h_m + e_m), w = softmax over present m of G relu(F [h_1; …; h_M] + f) + g.

    h_m = norm_m(W_m x_m + b_m), zeros for a missing modality.

    Source: Jacobs et al. 1991, doi:10.1162/neco.1991.3.1.79, with an expert per modality. The gate has a hidden layer:
    with a linear gate and a linear head no parameters solve XOR. With it some do, but training seldom finds them, so
    nothing is promised.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality has weight zero.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, model_dim: int, fused_dim: int) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.projections = Projections(dims, model_dim)
        self.experts = nn.ModuleList(nn.Linear(model_dim, fused_dim) for _ in dims)
        self.gate = nn.Sequential(
            nn.Linear(len(dims) * model_dim, model_dim), nn.ReLU(), nn.Linear(model_dim, len(dims))
        )

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors, present = self.projections(features)  # (B, M, model_dim), (B, M)
        weights = masked_softmax(self.gate(vectors.flatten(1)), present, dim=1)
        answers = torch.stack([expert(vectors[:, m]).relu() for m, expert in enumerate(self.experts)], dim=1)
        return (weights.unsqueeze(2) * answers).sum(dim=1)
