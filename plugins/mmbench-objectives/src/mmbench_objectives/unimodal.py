"""What each modality's own heads lose: only on samples that have the modality."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mmbench.model import Output


def unimodal_losses(output: Output, task_loss: Callable[[Mapping[str, Tensor]], Tensor]) -> dict[str, Tensor]:
    """Return the tasks' loss of each modality's heads, by modality, each a scalar.

    A sample that lacks a modality counts in its loss, as what its heads make of nothing, and gives it no gradient.
    """
    losses = {}
    for name, by_task in output.unimodal_logits.items():
        present = output.features[name].present.unsqueeze(1)  # (B, 1)
        losses[name] = task_loss(
            {task: torch.where(present, logits, logits.detach()) for task, logits in by_task.items()}
        )
    return losses
