"""Product of experts: each modality believes in a Gaussian; their product is the joint belief."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.projection import Projections


class ProductOfExperts(nn.Module):
    """fused = (sum over present m of T_m * u_m) / (1 + sum over present m of T_m), the mean of a product of Gaussians.

    Expert m has mean u_m = U_m h_m + c_m and precision T_m = exp(V_m h_m + d_m), kept within e^-6 and e^6;
    h_m = norm_m(W_m x_m + b_m); the prior has mean 0 and precision 1.

    Source: Wu & Goodman 2018, arXiv:1802.05335 (MVAE). Differs in giving the mean of the joint posterior instead of a
    sample: there is no decoder here, and a supervised loss.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality is no expert; with
    none left the prior's mean, zero, remains.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, model_dim: int, fused_dim: int) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.projections = Projections(dims, model_dim)
        self.experts = nn.ModuleList(nn.Linear(model_dim, 2 * fused_dim) for _ in dims)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors, present = self.projections(features)  # (B, M, model_dim), (B, M)
        beliefs = torch.stack([expert(vectors[:, m]) for m, expert in enumerate(self.experts)], dim=1)
        mean, log_precision = beliefs.chunk(2, dim=2)  # (B, M, fused_dim) each
        precision = log_precision.clamp(-6.0, 6.0).exp().masked_fill(~present.unsqueeze(2), 0.0)
        return (precision * mean).sum(dim=1) / (1.0 + precision.sum(dim=1))
