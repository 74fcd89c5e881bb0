"""Non-local gate: each modality's tokens take up what resembles them in the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.features import masked_mean
from mmbench_fusion.presence import masked_softmax
from mmbench_fusion.projection import TokenProjections, others


class NonLocalGate(nn.Module):
    """z_m = t_m + O_m softmax((Q_m t_m)(K_m t_o)^T) (V_m t_o), t_o the tokens of all other modalities.

    fused = relu(norm(W [mean of z_1; …; mean of z_M] + b)), means over real tokens; t_m = norm_m(W_m x_m + b_m) + e_m.

    Source: the NL-gate of Wang et al. 2020, arXiv:1905.12681, after the non-local block of Wang et al. 2018,
    arXiv:1711.07971: one head, embedded Gaussian without a scale, residual without a norm. Differs in the width, which
    is halved inside as in the non-local block, and in joining the tokens of all others where there are more than two.

    Shapes: {modality: Features} each (B, T, D of that modality) -> (B, fused_dim). A missing modality is nobody's key,
    and its mean is zero.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, model_dim: int, fused_dim: int) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.projections = TokenProjections(dims, model_dim)
        inner_dim = max(1, model_dim // 2)
        self.queries = nn.ModuleList(nn.Linear(model_dim, inner_dim) for _ in dims)
        self.keys = nn.ModuleList(nn.Linear(model_dim, inner_dim, bias=False) for _ in dims)
        self.values = nn.ModuleList(nn.Linear(model_dim, inner_dim) for _ in dims)
        self.outs = nn.ModuleList(nn.Linear(inner_dim, model_dim) for _ in dims)
        self.linear = nn.Linear(len(dims) * model_dim, fused_dim)
        self.norm = nn.LayerNorm(fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        tokens, masks = self.projections(features)
        pooled = []
        for own, (query, key, value, out) in enumerate(zip(self.queries, self.keys, self.values, self.outs)):
            rest, rest_mask = others(tokens, own), others(masks, own)
            scores = query(tokens[own]) @ key(rest).transpose(1, 2)  # (B, T own, T others)
            weights = masked_softmax(scores, rest_mask.unsqueeze(1).expand_as(scores))
            gated = tokens[own] + out(weights @ value(rest))
            pooled.append(masked_mean(gated, masks[own]))  # (B, model_dim)
        return self.norm(self.linear(torch.cat(pooled, dim=1))).relu()
