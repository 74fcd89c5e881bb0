"""Joint training: every modality must also predict alone, beside the fused prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from mmbench import TaskSpec
from mmbench_objectives.unimodal import unimodal_losses

if TYPE_CHECKING:
    from mmbench.train import Step


class Joint(nn.Module):
    """loss = loss(fused) + unimodal_weight * sum over modalities of loss(head of that modality alone).

    Keeps a modality learning when another one already explains the training labels; at decision level it is what
    makes every voter good on its own.

    Source: the uni-modal loss terms of Du et al. 2021, arXiv:2106.11059, and the equally weighted case of gradient
    blending (Wang et al. 2020, arXiv:1905.12681). Samples that lack a modality do not train its head.
    """

    needs_unimodal_heads = True

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, unimodal_weight: float) -> None:
        super().__init__()
        self.unimodal_weight = unimodal_weight

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the loss of the fused prediction and, for each modality, {"unimodal.NAME": scalar}."""
        alone = unimodal_losses(step.output, step.task_loss)
        return {
            "task": step.task_loss(step.output.logits),
            **{f"unimodal.{name}": self.unimodal_weight * loss for name, loss in alone.items()},
        }
