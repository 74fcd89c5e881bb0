"""Similarity attention: pairs of tokens that resemble one another decide which tokens of both sides count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.features import masked_mean
from mmbench_fusion.presence import masked_softmax
from mmbench_fusion.projection import TokenProjections


class SimilarityAttention(nn.Module):
    """Weights w = softmax((A t_a)(A t_b)^T / sqrt(model_dim)) over all pairs of real tokens of two modalities.

    Each side is summed with them, c_a = sum over i, j of w_ij t_a,i and c_b = sum over i, j of w_ij t_b,j, and
    fused = relu(norm(W [c_a; c_b] + b)). Tokens are t_m = norm_m(W_m x_m + b_m) + e_m; A is shared, without bias.

    Source: the similarity form of co-attention (Lu et al. 2016, arXiv:1606.00061, affinity matrix), reduced to one map
    and one softmax; scaled as in Vaswani et al. 2017, arXiv:1706.03762, because without it the softmax is all but hard
    before training and keeps the pairs it began with. For more than two modalities c_m is the mean over its pairs.

    Shapes: {modality: Features} each (B, T, D of that modality) -> (B, fused_dim). A missing modality makes no pair; a
    modality left without a partner is averaged over its tokens.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, model_dim: int, fused_dim: int) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.scale = math.sqrt(model_dim)
        self.projections = TokenProjections(dims, model_dim)
        self.similarity = nn.Linear(model_dim, model_dim, bias=False)
        self.linear = nn.Linear(len(dims) * model_dim, fused_dim)
        self.norm = nn.LayerNorm(fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        tokens, masks = self.projections(features)
        mapped = [self.similarity(part) for part in tokens]
        weights = [torch.zeros_like(part[:, :, 0]) for part in tokens]  # (B, T of that modality), summed over pairs
        for first in range(len(tokens)):
            for second in range(first + 1, len(tokens)):
                scores = mapped[first] @ mapped[second].transpose(1, 2) / self.scale
                real = masks[first].unsqueeze(2) & masks[second].unsqueeze(1)  # (B, T first, T second)
                pairs = masked_softmax(scores.flatten(1), real.flatten(1)).view_as(scores)
                weights[first] = weights[first] + pairs.sum(dim=2)
                weights[second] = weights[second] + pairs.sum(dim=1)
        pooled = []
        for part, mask, weight in zip(tokens, masks, weights):
            num_pairs = weight.sum(dim=1, keepdim=True)  # each pair's weights sum to 1
            paired = (weight / num_pairs.clamp(min=1.0)).unsqueeze(1) @ part  # (B, 1, model_dim)
            pooled.append(torch.where(num_pairs > 0.5, paired.squeeze(1), masked_mean(part, mask)))
        return self.norm(self.linear(torch.cat(pooled, dim=1))).relu()
