"""Multimodal adaptation gate: one main modality, moved by the others as far as they may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.errors import UsageError, did_you_mean
from mmbench_fusion.presence import presence, present_vectors


class AdaptationGate(nn.Module):
    """fused = norm(x + a H), H = sum over present others m of relu(G_m [x_m; x] + g_m) * (W_m x_m) + b.

    x is the main modality's vector; a = min(1, beta |x| / |H|) keeps the move in proportion.

    Source: Rahman et al. 2020, arXiv:1908.05787 (MAG), between layers of a language model there, after the encoders
    here. The main modality is text there; here an option, by default the first by name. Where the main modality is
    missing there is nothing to be in proportion to, and a = 1.

    Args:
        dims: Feature width by modality.
        tasks: What will be predicted.
        main: Name of the main modality; "" takes the first by name.
        beta: How far the others may move the main vector, relative to its length.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, D of the main modality).

    Raises:
        UsageError: no modality has the name `main`.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, main: str, beta: float) -> None:
        super().__init__()
        self.main = main or min(dims)
        if self.main not in dims:
            raise UsageError(
                f"mag has no modality {main!r} to be its main one.{did_you_mean(main, dims)} "
                f"There are {', '.join(sorted(dims))}"
            )
        self.others = tuple(name for name in sorted(dims) if name != self.main)
        self.fused_dim = dims[self.main]
        self.beta = beta
        self.gates = nn.ModuleList(nn.Linear(dims[name] + self.fused_dim, self.fused_dim) for name in self.others)
        self.shifts = nn.ModuleList(nn.Linear(dims[name], self.fused_dim, bias=False) for name in self.others)
        self.bias = nn.Parameter(torch.zeros(self.fused_dim))
        self.norm = nn.LayerNorm(self.fused_dim)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        (main,) = present_vectors(features, (self.main,))
        move = self.bias.expand_as(main)
        for gate, shift, vector in zip(self.gates, self.shifts, present_vectors(features, self.others)):
            move = move + gate(torch.cat([vector, main], dim=1)).relu() * shift(vector)  # absent: shift gives zero
        length = torch.linalg.vector_norm(main, dim=1, keepdim=True)  # (B, 1)
        limit = self.beta * length / torch.linalg.vector_norm(move, dim=1, keepdim=True).clamp(min=1e-6)
        limit = limit.clamp(max=1.0).masked_fill(~presence(features, (self.main,)), 1.0)
        return self.norm(main + limit * move)
