"""Attention bottlenecks: modalities exchange what fits through a few shared tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbench import Features, TaskSpec
from mmbench.blocks import TransformerBlock, check_range
from mmbench_fusion.presence import masked_mean_over_modalities, presence
from mmbench_fusion.projection import TokenProjections


class Bottleneck(nn.Module):
    """In each layer every modality's block reads [summary_m; its tokens; bottlenecks]; then bottlenecks are averaged.

    The average is over present modalities; fused = relu(norm'(W mean over present m of norm(summary_m) + b)).

    Source: Nagrani et al. 2021, arXiv:2107.00135 (MBT), its fused layers only. The paper averages the logits that one
    linear classifier makes of the summary tokens, which equals the logits of the averaged summaries. Differs in the
    hidden layer that reads the average, as in this package's other token fusions: from scratch and in a short training
    the exchange alone is learned too slowly.

    Shapes: {modality: Features} each (B, T, D of that modality) -> (B, fused_dim). A missing modality has no part in
    any average.

    Raises:
        UsageError: `num_heads` does not divide `model_dim`, there is no bottleneck, or there are fewer than 2 layers,
            between which alone anything is exchanged.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        model_dim: int,
        num_heads: int,
        num_layers: int,
        num_bottlenecks: int,
        dropout: float,
        fused_dim: int,
    ) -> None:
        super().__init__()
        check_range("num_layers", num_layers, 2)
        check_range("num_bottlenecks", num_bottlenecks, 1)
        self.fused_dim = fused_dim
        self.projections = TokenProjections(dims, model_dim)
        self.summaries = nn.Parameter(0.02 * torch.randn(len(dims), 1, model_dim))
        self.bottlenecks = nn.Parameter(0.02 * torch.randn(num_bottlenecks, model_dim))
        self.layers = nn.ModuleList(
            nn.ModuleList(TransformerBlock(model_dim, num_heads, mlp_dim=2 * model_dim, dropout=dropout) for _ in dims)
            for _ in range(num_layers)
        )
        self.summary_norm = nn.LayerNorm(model_dim)
        self.linear = nn.Linear(model_dim, fused_dim)
        self.norm = nn.LayerNorm(fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        tokens, masks = self.projections(features)
        present = presence(features, self.projections.names)  # (B, M)
        size = len(present)
        shared = self.bottlenecks.expand(size, -1, -1).to(tokens[0].dtype)  # (B, bottlenecks, model_dim)
        streams = [
            torch.cat([summary.expand(size, 1, -1).to(part.dtype), part], dim=1)
            for summary, part in zip(self.summaries, tokens)
        ]
        num_shared = shared.shape[1]
        readable = [F.pad(mask, (1, num_shared), value=True) for mask in masks]  # summaries and bottlenecks are real
        for blocks in self.layers:
            given = []
            for own, block in enumerate(blocks):
                read = block(torch.cat([streams[own], shared], dim=1), readable[own])
                streams[own], own_shared = read[:, :-num_shared], read[:, -num_shared:]
                given.append(own_shared.flatten(1))
            shared = masked_mean_over_modalities(torch.stack(given, dim=1), present).view_as(shared)
        summaries = torch.stack([self.summary_norm(stream[:, 0]) for stream in streams], dim=1)  # (B, M, model_dim)
        return self.norm(self.linear(masked_mean_over_modalities(summaries, present))).relu()
