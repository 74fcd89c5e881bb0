"""Presence: which modality each sample has, and values from which everything absent is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmbench.features import Features, without_padding


def presence(features: Mapping[str, Features], names: Sequence[str]) -> Tensor:
    """Which of the named modalities each sample has.

    Shapes: {modality: Features} -> (B, M), boolean, in the order of `names`.
    """
    return torch.stack([features[name].present for name in names], dim=1)


def present_vectors(features: Mapping[str, Features], names: Sequence[str]) -> list[Tensor]:
    """The vectors of the named modalities, zero where a sample lacks the modality, whatever stood there before.

    Shapes: {modality: Features (B, D of that modality)} -> M tensors (B, D of that modality), in the order of `names`.
    """
    return [without_padding(features[name].tensor, features[name].present) for name in names]


def real_tokens(features: Features) -> tuple[Tensor, Tensor]:
    """The tokens of one modality, or of one layer of a pyramid, zero where there is only padding, and their mask.

    Shapes: Features (B, T, D) -> (B, T, D) and (B, T).
    """
    mask = features.token_mask
    return without_padding(features.tensor, mask), mask


def masked_softmax(scores: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Softmax over what is real; zeros, never NaN, where nothing is.

    Shapes: scores and mask of one shape -> that shape.
    """
    lowest = torch.finfo(scores.dtype).min
    weights = scores.masked_fill(~mask, lowest).softmax(dim=dim)
    return weights.masked_fill(~mask, 0.0)


def compact(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the real tokens of each sequence to its front, in their order, as recurrent networks need them.

    Shapes: tokens (B, T, D), mask (B, T) -> (B, T, D) and (B, T).
    """
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
    return tokens.gather(1, order.unsqueeze(2).expand_as(tokens)), mask.gather(1, order)


def masked_mean_over_modalities(vectors: Tensor, present: Tensor) -> Tensor:
    """Mean over the modalities that a sample has; zeros where it has none.

    Shapes: vectors (B, M, D), present (B, M) -> (B, D).
    """
    total = without_padding(vectors, present).sum(dim=1)
    return total / present.sum(dim=1, keepdim=True).clamp(min=1).to(total.dtype)
