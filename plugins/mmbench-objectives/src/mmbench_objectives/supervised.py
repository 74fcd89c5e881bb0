"""Supervised training: the tasks' losses on the fused prediction, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from mmbench import TaskSpec

if TYPE_CHECKING:
    from mmbench.train import Step


class Supervised(nn.Module):
    """loss = sum over tasks of weight * loss(fused prediction, target); the measure for every other objective."""

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec]) -> None:
        super().__init__()

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the loss of the fused prediction as {"task": scalar}."""
        return {"task": step.task_loss(step.output.logits)}
