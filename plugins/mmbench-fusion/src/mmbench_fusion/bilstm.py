"""Bidirectional LSTM over the joined token sequence of all modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.blocks import BidirectionalRNN
from mmbench.features import masked_mean
from mmbench_fusion.presence import compact
from mmbench_fusion.projection import TokenProjections


class BiLstm(nn.Module):
    """fused = relu(norm(W mean over real tokens of BiLSTM([tokens of all modalities, one modality after the other]))).

    Source: Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735, in both directions as in Graves &
    Schmidhuber 2005, doi:10.1016/j.neunet.2005.06.042. Modalities follow one another in the order of their names, each
    token with a learned mark of its modality; padding between them is moved to the end, so the network never reads it.

    Shapes: {modality: Features} each (B, T, D of that modality) -> (B, fused_dim). A missing
    modality has no token.
    """

    def __init__(
        self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, model_dim: int, hidden_dim: int, fused_dim: int
    ) -> None:
        super().__init__()
        self.fused_dim = fused_dim
        self.projections = TokenProjections(dims, model_dim)
        self.rnn = BidirectionalRNN("lstm", model_dim, hidden_dim, num_layers=1, dropout=0.0)
        self.linear = nn.Linear(2 * hidden_dim, fused_dim)
        self.norm = nn.LayerNorm(fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        tokens, masks = self.projections(features)
        joined, mask = compact(torch.cat(tokens, dim=1), torch.cat(masks, dim=1))
        pooled = masked_mean(self.rnn(joined, mask), mask)  # (B, 2 * hidden_dim)
        return self.norm(self.linear(pooled)).relu()
