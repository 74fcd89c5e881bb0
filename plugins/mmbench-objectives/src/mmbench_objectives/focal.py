"""Focal loss: samples that are already classified well count less, so that easy ones do not drown the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbench import TaskSpec
from mmbench.blocks import check_range

if TYPE_CHECKING:
    from mmbench.train import Step


class Focal(nn.Module):
    """loss = sum over tasks of weight * mean over samples of -(1 - p)^gamma log p, p the probability of the truth.

    Multiclass: p is the softmax probability of the true class. Multilabel: a sample's loss is the mean over labels,
    and p is the sigmoid probability of the label's presence or absence. `class_weights=balanced` multiplies each term
    by its class weight (the paper's alpha) and divides a multiclass sum by the sum of the weights; gamma 0 is then the
    loss of `supervised`.

    Source: Lin et al. 2017, arXiv:1708.02002, equations 4 and 5. Differs in that heads keep their usual
    initialization (the paper starts detection from a prior of 0.01), and in the mean over samples instead of the sum
    over anchors divided by the number of matched ones.

    Args:
        dims: Feature width by modality.
        tasks: What is predicted, multiclass or multilabel.
        gamma: How fast the weight of a sample falls with its probability; 0 is cross entropy.

    Raises:
        UsageError: `gamma` is not within 0 and 10.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, gamma: float) -> None:
        super().__init__()
        check_range("gamma", gamma, 0.0, 10.0)
        self.tasks, self.gamma = tuple(tasks), gamma

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the focal loss of the fused prediction as {"task": scalar}."""
        terms = [
            task.weight
            * focal_loss(
                task.kind,
                step.output.logits[task.name],
                step.batch.targets[task.name],
                self.gamma,
                step.class_weights.get(task.name),
                step.sample_weights,
            )
            for task in self.tasks
        ]
        return {"task": torch.stack(terms).sum()}


def focal_loss(
    kind: str,
    logits: Tensor,
    target: Tensor,
    gamma: float,
    class_weights: Tensor | None = None,
    sample_weights: Tensor | None = None,
) -> Tensor:
    """Return the focal loss of one task, computed in float32.

    Shapes: logits (B, K); target int64 (B,) for "multiclass", else float32 (B, K); class_weights (K,), sample_weights
    (B,) -> a scalar.
    """
    logits = logits.float()
    shares = torch.ones(len(logits), device=logits.device) if sample_weights is None else sample_weights
    if kind == "multiclass":
        log_p = -F.cross_entropy(logits, target, reduction="none")  # (B,)
        each = -_modulation(log_p, gamma) * log_p
        shares = shares if class_weights is None else shares * class_weights[target]
    else:
        log_p = -F.binary_cross_entropy_with_logits(logits, target, reduction="none")  # (B, K)
        by_label = -_modulation(log_p, gamma) * log_p
        each = (by_label if class_weights is None else by_label * torch.where(target > 0, class_weights, 1.0)).mean(1)
    return (shares * each).sum() / shares.sum().clamp(min=torch.finfo(torch.float32).tiny)


def _modulation(log_p: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma; the bound keeps its gradient finite where p rounds to 1 and gamma is below 1."""
    return (-torch.expm1(log_p)).clamp(min=1e-12) ** gamma
