"""Contrastive alignment: what belongs to one sample should be found among what belongs to the others."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbench import TaskSpec
from mmbench.blocks import check_range
from mmbench_objectives.vectors import pooled, vector_dims

if TYPE_CHECKING:
    from mmbench.train import Step

_MAX_SCALE = 100.0


class InfoNce(nn.Module):
    """loss = task loss + alignment_weight * mean over pairs of modalities of the symmetric InfoNCE loss.

    With z_m = P_m f_m / |P_m f_m| and a learned scale s (at most 100), a pair (m, n) has the scores s z_m,i . z_n,j;
    the loss is the mean of the cross-entropies that find j = i among all j, and i among all i, given j.

    Source: Radford et al. 2021, arXiv:2103.00020 (CLIP), after van den Oord et al. 2018, arXiv:1807.03748. For more
    than two modalities every pair is aligned. Samples that lack either modality of a pair are neither asked nor
    offered. Other samples of the same class count as negatives, as in CLIP.

    Args:
        dims: Feature width by modality.
        tasks: What is predicted.
        alignment_weight: Factor of the alignment loss.
        embedding_dim: Width of the space in which modalities are compared.
        temperature: Where 1 / s starts.

    Raises:
        UsageError: `temperature` is not within 0.01 and 10.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        alignment_weight: float,
        embedding_dim: int,
        temperature: float,
    ) -> None:
        super().__init__()
        check_range("temperature", temperature, 1.0 / _MAX_SCALE, 10.0)
        widths = vector_dims(dims)
        self.names = tuple(widths)
        self.alignment_weight = alignment_weight
        self.projections = nn.ModuleList(nn.Linear(width, embedding_dim, bias=False) for width in widths.values())
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the task loss and {"alignment": scalar}."""
        features = step.output.features
        embedded = {
            name: F.normalize(projection(pooled(features[name])).float(), dim=1)
            for name, projection in zip(self.names, self.projections)
        }
        scale = self.log_scale.exp().clamp(max=_MAX_SCALE)
        pairs = [
            pair_loss(scale * embedded[one] @ embedded[other].T, features[one].present & features[other].present)
            for one, other in itertools.combinations(self.names, 2)
        ]
        return {
            "task": step.task_loss(step.output.logits),
            "alignment": self.alignment_weight * torch.stack(pairs).mean(),
        }


def pair_loss(scores: Tensor, complete: Tensor) -> Tensor:
    """Symmetric cross-entropy of finding the diagonal, over the samples that have both modalities; zero without any.

    Shapes: scores (B, B), complete (B,) -> scalar.
    """
    offered = scores.masked_fill(~(complete.unsqueeze(0) & complete.unsqueeze(1)), -1e4)
    by_row = offered.diagonal() - offered.logsumexp(dim=1)
    by_column = offered.diagonal() - offered.logsumexp(dim=0)
    weights = complete.to(scores.dtype) / complete.sum().clamp(min=1)
    return -0.5 * (weights * (by_row + by_column)).sum()
