"""Gated multimodal unit: the modalities together decide how far each of them opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.presence import presence, present_vectors


class Gated(nn.Module):
    """fused = sum over present m of z_m * tanh(W_m x_m), with [z_1; …; z_M] = sigmoid(norm(V [x_1; …; x_M])).

    Source: Arevalo et al. 2017, arXiv:1702.01992, the unit for more than two modalities (their figure 2a). For two
    modalities the paper ties the gates, z and 1 - z; here each modality has a gate of its own. Differs also in biases,
    and in the layer norm, without which the gates stay half open when the encoders' outputs are small, and three-way
    parity is not learned.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality adds nothing, and
    the gates see zeros in its place.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, fused_dim: int) -> None:
        super().__init__()
        self.names = tuple(sorted(dims))
        self.fused_dim = fused_dim
        self.linears = nn.ModuleList(nn.Linear(dims[name], fused_dim) for name in self.names)
        self.gates = nn.Linear(sum(dims.values()), len(self.names) * fused_dim)
        self.gate_norm = nn.LayerNorm(len(self.names) * fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors = present_vectors(features, self.names)
        present = presence(features, self.names)  # (B, M)
        gates = self.gate_norm(self.gates(torch.cat(vectors, dim=1))).sigmoid()
        gates = gates.unflatten(1, (len(self.names), self.fused_dim))  # (B, M, fused_dim)
        hidden = torch.stack([linear(vector).tanh() for linear, vector in zip(self.linears, vectors)], dim=1)
        return (gates * hidden).masked_fill(~present.unsqueeze(2), 0.0).sum(dim=1)
