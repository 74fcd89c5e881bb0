"""MulT: crossmodal transformers for every ordered pair of modalities."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.blocks import TransformerBlock, check_range
from mmbench.features import masked_mean
from mmbench_fusion.multihead import MultiheadAttention
from mmbench_fusion.projection import TokenProjections


class Mult(nn.Module):
    """Each modality reads every other one through a crossmodal transformer, then itself through a transformer block.

    Crossmodal layer m <- n: t = t + attend(norm(t), norm(t_n)); t = t + mlp(norm(t)), the source t_n unchanged through
    the layers. The M - 1 results for m are joined by width, pass one self-attention block, and are averaged over the
    real tokens; fused = relu(norm(W [mean_1; …; mean_M] + b)).

    Source: Tsai et al. 2019, arXiv:1906.00295. Differs in the mean over tokens instead of the last one, which padding
    would make arbitrary, in positions being the encoders' business, and at the end, where the authors' residual MLP is
    a single hidden layer here.

    Shapes: {modality: Features} each (B, T, D of that modality) -> (B, fused_dim). From a missing modality nothing is
    read, and its mean is zero.

    Raises:
        UsageError: `num_heads` does not divide `model_dim`, or there is no layer.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        model_dim: int,
        num_heads: int,
        num_layers: int,
        dropout: float,
        fused_dim: int,
    ) -> None:
        super().__init__()
        check_range("num_layers", num_layers, 1)
        self.fused_dim = fused_dim
        self.projections = TokenProjections(dims, model_dim)
        self.pairs = list(itertools.permutations(range(len(dims)), 2))  # (target, source)
        self.crossmodal = nn.ModuleList(
            nn.ModuleList(CrossmodalLayer(model_dim, num_heads, dropout) for _ in range(num_layers)) for _ in self.pairs
        )
        joined_dim = (len(dims) - 1) * model_dim
        self.own = nn.ModuleList(
            TransformerBlock(joined_dim, num_heads, mlp_dim=2 * joined_dim, dropout=dropout) for _ in dims
        )
        self.linear = nn.Linear(len(dims) * joined_dim, fused_dim)
        self.norm = nn.LayerNorm(fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        tokens, masks = self.projections(features)
        read: list[list[Tensor]] = [[] for _ in tokens]
        for (target, source), layers in zip(self.pairs, self.crossmodal):
            reading = tokens[target]
            for layer in layers:
                reading = layer(reading, tokens[source], masks[source])
            read[target].append(reading)
        pooled = []
        for parts, mask, block in zip(read, masks, self.own):
            joined = block(torch.cat(parts, dim=2), mask)  # (B, T, (M - 1) * model_dim)
            pooled.append(masked_mean(joined, mask))
        return self.norm(self.linear(torch.cat(pooled, dim=1))).relu()


class CrossmodalLayer(nn.Module):
    """One pre-norm layer in which the tokens of one modality attend to those of another.

    Shapes: tokens (B, T, width), source (B, S, width), its mask (B, S) -> (B, T, width).
    """

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(width)
        self.source_norm = nn.LayerNorm(width)
        self.attend = MultiheadAttention(width, num_heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, source: Tensor, mask: Tensor) -> Tensor:
        """Read; see the class."""
        tokens = tokens + self.dropout(self.attend(self.token_norm(tokens), self.source_norm(source), mask))
        return tokens + self.dropout(self.mlp(tokens))
