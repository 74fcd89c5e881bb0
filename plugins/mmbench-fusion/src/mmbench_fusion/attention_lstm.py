"""LSTM over the joined token sequence, pooled by attention over its states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.presence import compact, masked_softmax
from mmbench_fusion.projection import TokenProjections


class AttentionLstm(nn.Module):
    """fused = relu(norm(W sum over t of a_t s_t)), a = softmax over real t of v . tanh(U s_t), s = LSTM(all tokens).

    Source: the attention pooling of Yang et al. 2016, "Hierarchical attention networks for document classification"
    (NAACL, N16-1174), over a one-directional LSTM. Modalities follow one another in the order of their names, each
    token with a learned mark of its modality; padding between them is moved to the end.

    Shapes: {modality: Features} each (B, T, D of that modality) -> (B, fused_dim). A missing modality has no token.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        model_dim: int,
        hidden_dim: int,
        attention_dim: int,
        fused_dim: int,
    ) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.projections = TokenProjections(dims, model_dim)
        self.lstm = nn.LSTM(model_dim, hidden_dim, batch_first=True)
        self.key = nn.Linear(hidden_dim, attention_dim)
        self.query = nn.Linear(attention_dim, 1, bias=False)
        self.linear = nn.Linear(hidden_dim, fused_dim)
        self.norm = nn.LayerNorm(fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        tokens, masks = self.projections(features)
        joined, mask = compact(torch.cat(tokens, dim=1), torch.cat(masks, dim=1))
        states, _ = self.lstm(joined)  # (B, T of all, hidden_dim)
        weights = masked_softmax(self.query(self.key(states).tanh()).squeeze(2), mask, dim=1)
        pooled = (weights.unsqueeze(1) @ states).squeeze(1)  # (B, hidden_dim)
        return self.norm(self.linear(pooled)).relu()
