"""Low-rank tensor fusion: what a linear layer makes of the outer product of all modalities, never formed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.blocks import check_range
from mmbench_fusion.projection import Projections


class LowRankTensor(nn.Module):
    """fused = norm(sum over r of w_r * (product over m of F_m,r [1; h_m]) + b) with h_m = norm_m(W_m x_m + b_m).

    Source: Liu et al. 2018, arXiv:1806.00064. The factors F are parameters of the module. (In several published
    reimplementations they sit in a plain list, unseen by the optimiser, and never train.) Differs from the authors'
    code in the layer norms around the product, and in the factors' starting point: ones in the bias row, so that at
    first each modality also reaches the result alone, and a scale that gives each factor's output a variance near one.

    Args:
        dims: Feature width by modality.
        tasks: What will be predicted.
        modality_dim: Width that each modality is projected to before the product.
        rank: Number of products that are summed.
        fused_dim: Width of the result.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality enters as
    [1; 0 … 0].

    Raises:
        UsageError: `rank` is less than 1.
    """

    def __init__(
        self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, modality_dim: int, rank: int, fused_dim: int
    ) -> None:
        super().__init__()
        check_range("rank", rank, 1)
        self.fused_dim = fused_dim
        self.projections = Projections(dims, modality_dim)
        self.factors = nn.Parameter(torch.empty(len(dims), rank, 1 + modality_dim, fused_dim))
        self.rank_weights = nn.Parameter(torch.full((rank,), rank**-0.5))
        self.bias = nn.Parameter(torch.zeros(fused_dim))
        self.norm = nn.LayerNorm(fused_dim)
        nn.init.normal_(self.factors, std=modality_dim**-0.5)
        nn.init.ones_(self.factors[:, :, 0])

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors, _ = self.projections(features)  # (B, M, modality_dim)
        extended = torch.cat([torch.ones_like(vectors[:, :, :1]), vectors], dim=2)
        mapped = torch.einsum("bmd,mrdf->bmrf", extended, self.factors)
        products = mapped.prod(dim=1)  # (B, rank, fused_dim)
        return self.norm(torch.einsum("brf,r->bf", products, self.rank_weights) + self.bias)
