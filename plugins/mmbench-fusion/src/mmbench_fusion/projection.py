"""Projections: every modality brought to one width and one scale, so that no modality drowns another."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmbench.features import Features
from mmbench_fusion.presence import presence, present_vectors


class Projections(nn.Module):
    """One linear layer and one layer norm per modality, to a common width.

    Modalities are taken in the order of their sorted names, so the order of a dict never matters.

    Args:
        dims: Feature width by modality.
        width: The common width.

    Shapes: {modality: Features (B, D of that modality)} -> vectors (B, M, width), zero where a sample lacks the
    modality, and presence (B, M).
    """

    def __init__(self, dims: Mapping[str, int], width: int) -> None:
        super().__init__()
        self.names = tuple(sorted(dims))
        self.linears = nn.ModuleList(nn.Linear(dims[name], width) for name in self.names)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.names)

    def forward(self, features: Mapping[str, Features]) -> tuple[Tensor, Tensor]:
        """Project; see the class."""
        projected = [
            norm(linear(vector))
            for linear, norm, vector in zip(self.linears, self.norms, present_vectors(features, self.names))
        ]
        present = presence(features, self.names)  # (B, M)
        vectors = torch.stack(projected, dim=1).masked_fill(~present.unsqueeze(2), 0.0)  # (B, M, width)
        return vectors, present
