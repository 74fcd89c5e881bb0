"""MUTAN: a Tucker decomposition of the bilinear form between modalities, of limited rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.blocks import check_range
from mmbench_fusion.projection import Projections


class Mutan(nn.Module):
    """fused = norm(sum over r of product over present m of (N_m,r q_m + n_m,r)), q_m = tanh(norm_m(W_m x_m + b_m)).

    Source: Ben-Younes et al. 2017, arXiv:1705.06676. Differs in the layer norms, in the biases n, through which
    products of fewer modalities survive, and in taking any number of modalities into the product; the paper has two.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality is a factor of one.

    Raises:
        UsageError: `rank` is less than 1.
    """

    def __init__(
        self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, modality_dim: int, rank: int, fused_dim: int
    ) -> None:
        super().__init__()
        check_range("rank", rank, 1)
        self.fused_dim = fused_dim
        self.rank = rank
        self.projections = Projections(dims, modality_dim)
        self.cores = nn.ModuleList(nn.Linear(modality_dim, rank * fused_dim) for _ in dims)
        self.norm = nn.LayerNorm(fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors, present = self.projections(features)  # (B, M, modality_dim), (B, M)
        mapped = torch.stack([core(vectors[:, m].tanh()) for m, core in enumerate(self.cores)], dim=1)
        factors = mapped.masked_fill(~present.unsqueeze(2), 1.0).unflatten(2, (self.rank, self.fused_dim))
        return self.norm(factors.prod(dim=1).sum(dim=1))  # (B, M, rank, fused_dim) -> (B, fused_dim)
