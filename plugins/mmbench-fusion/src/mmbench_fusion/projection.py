"""Projections: every modality brought to one width and one scale, so that no modality drowns another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench.features import Features
from mmbench_fusion.presence import presence, present_vectors, real_tokens


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


class TokenProjections(nn.Module):
    """One linear layer and one layer norm per modality for all its tokens, and a learned mark of the modality.

    Args:
        dims: Feature width by modality.
        width: The common width.

    Shapes: {modality: Features (B, T, D of that modality)} -> M token tensors (B, T of that modality, width), each
    with its mask (B, T of that modality), in the order of the sorted names.
    """

    def __init__(self, dims: Mapping[str, int], width: int) -> None:
        super().__init__()
        self.names = tuple(sorted(dims))
        self.linears = nn.ModuleList(nn.Linear(dims[name], width) for name in self.names)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.names)
        self.marks = nn.Parameter(0.02 * torch.randn(len(self.names), width))

    def forward(self, features: Mapping[str, Features]) -> tuple[list[Tensor], list[Tensor]]:
        """Project; see the class."""
        tokens, masks = [], []
        for name, linear, norm, mark in zip(self.names, self.linears, self.norms, self.marks):
            values, mask = real_tokens(features[name])
            tokens.append(norm(linear(values)) + mark)
            masks.append(mask)
        return tokens, masks


def others(parts: Sequence[Tensor], own: int) -> Tensor:
    """All parts but one, joined along their second axis: M x (B, T, …) -> (B, sum of the other T, …)."""
    return torch.cat([part for position, part in enumerate(parts) if position != own], dim=1)
