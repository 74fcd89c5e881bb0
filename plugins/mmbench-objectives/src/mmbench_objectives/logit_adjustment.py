"""Logit adjustment: the loss counts classes by their frequency in train, so that predictions need not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmbench import TaskSpec
from mmbench.blocks import check_range

if TYPE_CHECKING:
    from mmbench.train import Step


class LogitAdjustment(nn.Module):
    """loss = cross entropy of softmax(logits + tau * log prior), the prior being the classes' frequencies in train.

    Predictions use the logits alone, whose largest is then the class of the smallest balanced error (tau 1): the
    model learns log p(x | y) up to a constant instead of log p(y | x). Its probabilities are those of balanced
    classes, so its log loss and calibration error on imbalanced test data are worse by construction. A class without
    training samples keeps a prior of half a sample. Class weights multiply the loss as they do for `supervised`.

    Source: Menon et al. 2021, arXiv:2007.07314, equation 10 (the logit-adjusted softmax cross entropy).

    Args:
        dims: Feature width by modality.
        tasks: What is predicted, all multiclass.
        tau: Strength; 0 is cross entropy, 1 is consistent for the balanced error.

    Raises:
        UsageError: `tau` is not within 0 and 10.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, tau: float) -> None:
        super().__init__()
        check_range("tau", tau, 0.0, 10.0)
        self.names = tuple(task.name for task in tasks)
        for number, task in enumerate(tasks):
            self.register_buffer(f"adjustment_{number}", torch.zeros(task.num_outputs))
        self.tau = tau

    def observe_targets(self, targets: Mapping[str, Tensor]) -> None:
        """Count the classes of the training samples, {task: int64 (N,)}."""
        for number, name in enumerate(self.names):
            adjustment = self.get_buffer(f"adjustment_{number}")
            counts = torch.bincount(targets[name], minlength=len(adjustment)).to(adjustment)
            adjustment.copy_(self.tau * (counts.clamp(min=0.5) / counts.sum()).log())

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the loss of the adjusted logits as {"task": scalar}."""
        logits = step.output.logits
        adjusted = {
            name: logits[name].float() + self.get_buffer(f"adjustment_{number}")
            for number, name in enumerate(self.names)
        }
        return {"task": step.task_loss(adjusted)}
