"""Mixup of fused features: between two samples lies a mixture of their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mmbench import TaskSpec
from mmbench.blocks import check_range

if TYPE_CHECKING:
    from mmbench.train import Step


class Mixup(nn.Module):
    """loss = share * loss(heads(z), y) + (1 - share) * loss(heads(z), y_other), z = share * h + (1 - share) * h_other.

    h are the fused features, the other sample of each is drawn by a permutation of the batch, and share from
    Beta(alpha, alpha), once per step.

    Source: Zhang et al. 2018, arXiv:1710.09412; mixed where Verma et al. 2019, arXiv:1806.05236 (manifold mixup) mix
    last, in what the heads read: inputs of many kinds and lengths have no mean.

    Raises:
        UsageError: `alpha` is not within 0.01 and 100.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, alpha: float) -> None:
        super().__init__()
        check_range("alpha", alpha, 0.01, 100.0)
        self.alpha = alpha

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the mixed loss as {"task": scalar}."""
        fused = step.output.fused
        assert fused is not None  # the descriptor asks for feature-level fusions
        share, other = self.draw(step)
        other = other.to(fused.device, non_blocking=True)
        mixed = step.model.dropout(share * fused + (1.0 - share) * fused[other])
        logits = {task.name: head(mixed) for task, head in zip(step.model.tasks, step.model.heads)}
        # The step's loss knows the targets in their own order: bring each mixture to where its other sample stands.
        back = other.argsort()
        of_other = step.task_loss({name: given[back] for name, given in logits.items()})
        return {"task": share * step.task_loss(logits) + (1.0 - share) * of_other}

    def draw(self, step: Step) -> tuple[float, Tensor]:
        """Draw the share and the other sample of each: (B,)."""
        other = torch.randperm(step.batch.size, generator=step.generator)
        seed = int(torch.randint(2**31, (), generator=step.generator))
        return float(np.random.default_rng(seed).beta(self.alpha, self.alpha)), other
