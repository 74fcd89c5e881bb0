"""Concatenation: the vectors side by side, read by one hidden layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.presence import presence, present_vectors


class Concat(nn.Module):
    """fused = relu(norm(W [x_1; …; x_M; a_1; …; a_M] + b)), with a_m = 1 where a sample lacks modality m, else 0.

    The hidden layer is there because a linear head on a bare concatenation is additive over modalities, which no
    training can make solve XOR. The layer norm makes the layer indifferent to how large the encoders' outputs are.

    Source: the early-fusion baseline of Ngiam et al. 2011 (ICML) and of most papers since.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality enters as zeros
    and by its flag.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, fused_dim: int) -> None:
        super().__init__()
        self.names = tuple(sorted(dims))
        self.fused_dim = fused_dim
        self.linear = nn.Linear(sum(dims.values()) + len(dims), fused_dim)
        self.norm = nn.LayerNorm(fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors = present_vectors(features, self.names)
        absent = ~presence(features, self.names)  # (B, M)
        joined = torch.cat([*vectors, absent.to(vectors[0].dtype)], dim=1)  # (B, sum of D + M)
        return self.norm(self.linear(joined)).relu()
