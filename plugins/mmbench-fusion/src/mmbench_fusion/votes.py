"""Votes: the unimodal predictions of one task, side by side, and their weighted average as probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmbench import Features
from mmbench.spec import TaskKind
from mmbench_fusion.presence import masked_mean_over_modalities, presence

_NOTHING = -1e4
"""Log weight of an absent vote: far below any real one, and finite, so that its gradient is zero and not NaN."""


def stack_votes(logits: Mapping[str, Features], names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Logits of the named modalities, zero where a sample lacks the modality, in single precision.

    Shapes: {modality: Features (B, K)} -> votes (B, M, K) and presence (B, M).
    """
    present = presence(logits, names)
    votes = torch.stack([logits[name].tensor for name in names], dim=1).float()
    return votes.masked_fill(~present.unsqueeze(2), 0.0), present


def average_votes(kind: TaskKind, votes: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of probabilities (multiclass, multilabel) as logits, or of values (regression).

    Shapes: votes (B, M, K), weights (B, M), not negative, zero for absent modalities, of any sum -> (B, K).
    """
    total = weights.sum(dim=1, keepdim=True)  # (B, 1)
    nobody = total <= 0
    total = total.masked_fill(nobody, 1.0)
    share = (weights / total).unsqueeze(2)  # (B, M, 1)
    if kind == "regression":
        return (share * votes).sum(dim=1)
    log_share = share.clamp(min=1e-30).log().masked_fill(share <= 0, _NOTHING)
    if kind == "multilabel":
        yes = torch.logsumexp(log_share + F.logsigmoid(votes), dim=1)
        no = torch.logsumexp(log_share + F.logsigmoid(-votes), dim=1)
        return (yes - no).masked_fill(nobody, 0.0)
    mean = torch.logsumexp(log_share + F.log_softmax(votes, dim=2), dim=1)
    return mean.masked_fill(nobody, -math.log(votes.shape[2]))


def multiply_votes(kind: TaskKind, votes: Tensor, present: Tensor) -> Tensor:
    """Product of probabilities over present modalities, as logits; for regression the mean value.

    Shapes: votes (B, M, K), zero for absent modalities, present (B, M) -> (B, K).
    """
    if kind == "regression":
        return masked_mean_over_modalities(votes, present)
    factors = F.log_softmax(votes, dim=2) if kind == "multiclass" else votes
    return factors.masked_fill(~present.unsqueeze(2), 0.0).sum(dim=1)
