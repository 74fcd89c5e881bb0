"""Uncertainty weighting: several tasks, each weighted by how noisy it turns out to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmbench import TaskSpec

if TYPE_CHECKING:
    from mmbench.train import Step


class Uncertainty(nn.Module):
    """loss = sum over tasks of c exp(-s) L + s / 2, with a learned s = log variance per task, starting at zero.

    c is 1 for multiclass and multilabel, 1/2 for regression, whose L is the squared error of standardised targets.

    Source: Kendall et al. 2018, arXiv:1705.07115, equations 7 and 10, with s learned instead of the variance for
    stability, as its authors do. Fixed weights of the tasks still multiply their L.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        self.factors = {task.name: 0.5 if task.kind == "regression" else 1.0 for task in tasks}
        self.log_variances = nn.Parameter(torch.zeros(len(tasks)))

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return {"task.NAME": weighted loss plus its price} for each task."""
        losses = {}
        for (name, factor), log_variance in zip(self.factors.items(), self.log_variances):
            loss = step.task_loss({name: step.output.logits[name]})
            losses[f"task.{name}"] = factor * (-log_variance).exp() * loss + 0.5 * log_variance
        return losses
