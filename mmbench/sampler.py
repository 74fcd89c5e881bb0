"""Balanced sampling: training samples of rare classes are drawn as often as those of frequent ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmbench.spec import TaskSpec


@dataclass(frozen=True)
class WeightedSampler:
    """Draws samples with replacement.

    Attributes:
        cumulative: (N,) float64 on the CPU, cumulative probability of the samples.
    """

    cumulative: Tensor

    def draw(self, num_draws: int, generator: torch.Generator) -> Tensor:
        """Return positions of samples: int64 (num_draws,)."""
        # `torch.multinomial` takes 2^24 samples at most.
        uniform = torch.rand(num_draws, dtype=torch.float64, generator=generator)
        return torch.searchsorted(self.cumulative, uniform, right=True).clamp(max=len(self.cumulative) - 1)


def balanced_sampler(
    tasks: Sequence[TaskSpec], targets: Mapping[str, Tensor], subset: Tensor
) -> WeightedSampler | None:
    """Return a sampler that draws every class of a task equally often; None where no task has classes or labels.

    Multiclass: a sample's probability is proportional to 1 / (number of samples of its class). Multilabel: to the mean
    over its labels of 1 / (number of samples with the label), samples without labels being one more label. Of several
    tasks it is the mean of theirs.

    Args:
        tasks: Of the dataset.
        targets: Of the training samples, by task.
        subset: Positions of the samples to draw from.
    """
    probabilities = [
        _probabilities(task, targets[task.name].cpu()[subset])
        for task in tasks
        if task.kind in ("multiclass", "multilabel")
    ]
    if not probabilities:
        return None
    total = torch.stack(probabilities).mean(dim=0)
    return WeightedSampler((total / total.sum()).cumsum(0))


def _probabilities(task: TaskSpec, target: Tensor) -> Tensor:
    """Return the probability of each sample by one task: float64 (N,), of sum 1."""
    if task.kind == "multiclass":
        counts = torch.bincount(target, minlength=task.num_outputs).double()
        weights = 1 / counts[target]
    else:
        labels = torch.cat([target.double(), (target.sum(dim=1, keepdim=True) == 0).double()], dim=1)  # (N, K + 1)
        weights = (labels / labels.sum(dim=0).clamp(min=1)).sum(dim=1) / labels.sum(dim=1)
    return weights / weights.sum()
