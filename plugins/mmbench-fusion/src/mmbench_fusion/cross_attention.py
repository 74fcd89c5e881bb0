"""Cross-attention: the tokens of each modality look into the tokens of all the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.features import masked_mean
from mmbench_fusion.multihead import MultiheadAttention
from mmbench_fusion.projection import TokenProjections, others


class CrossAttention(nn.Module):
    """One round of attention from each modality into the others, then pooling, then one hidden layer.

    Tokens of m: t_m = norm_m(W_m x_m + b_m) + e_m; after looking: c_m = norm'_m(t_m + attend_m(t_m, tokens of the
    others)); fused = relu(norm(W [mean of c_1; …; mean of c_M] + b)), the means over real tokens.

    Source: the co-attention of ViLBERT (Lu et al. 2019, arXiv:1908.02265), one layer without its feed-forward part.
    For more than two modalities the keys are the joined tokens of all others. `mult` is the deep variant by pairs.

    Shapes: {modality: Features} each (B, T, D of that modality) -> (B, fused_dim). A missing modality is nobody's key,
    and its mean is zero.

    Raises:
        UsageError: `num_heads` does not divide `model_dim`.
    """

    def __init__(
        self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, model_dim: int, num_heads: int, fused_dim: int
    ) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.projections = TokenProjections(dims, model_dim)
        self.attentions = nn.ModuleList(MultiheadAttention(model_dim, num_heads) for _ in dims)
        self.attended_norms = nn.ModuleList(nn.LayerNorm(model_dim) for _ in dims)
        self.linear = nn.Linear(len(dims) * model_dim, fused_dim)
        self.norm = nn.LayerNorm(fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        tokens, masks = self.projections(features)
        pooled = []
        for own, (attend, norm) in enumerate(zip(self.attentions, self.attended_norms)):
            looked_up = attend(tokens[own], others(tokens, own), others(masks, own))
            pooled.append(masked_mean(norm(tokens[own] + looked_up), masks[own]))  # (B, model_dim)
        return self.norm(self.linear(torch.cat(pooled, dim=1))).relu()
