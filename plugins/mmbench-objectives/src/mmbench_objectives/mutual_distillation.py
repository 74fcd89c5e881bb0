"""Mutual distillation: the fused prediction and each modality's own learn from what the others say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmbench import TaskSpec
from mmbench.blocks import check_range
from mmbench_objectives.codes import mean_over
from mmbench_objectives.distillation import divergence
from mmbench_objectives.unimodal import unimodal_losses

if TYPE_CHECKING:
    from mmbench.train import Step


class MutualDistillation(nn.Module):
    """loss = loss(fused) + sum over modalities of loss(its head) + distillation_weight * mean over peers of L_peer.

    The peers are the fused prediction and each modality's. A peer's teacher is the mean of the other peers'
    probabilities at temperature t, without gradient; L is t^2 KL(teacher, peer) for multiclass tasks, the same summed
    over labels for multilabel ones, and the squared distance to the others' mean prediction for regression. Tasks are
    averaged. Where a modality is missing its peer neither teaches nor learns.

    Source: Zhang et al. 2018, arXiv:1706.00384 (deep mutual learning), with Hinton et al. 2015, arXiv:1503.02531 for
    the temperature. Differs in that peers share encoders, and in one averaged teacher, where the paper averages losses.

    Args:
        dims: Feature width by modality.
        tasks: What is predicted.
        distillation_weight: Factor of what peers learn from each other.
        temperature: t.

    Raises:
        UsageError: `temperature` is not within 0.1 and 100.
    """

    needs_unimodal_heads = True

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        distillation_weight: float,
        temperature: float,
    ) -> None:
        super().__init__()
        check_range("temperature", temperature, 0.1, 100.0)
        self.names = tuple(sorted(dims))
        self.kinds = {task.name: task.kind for task in tasks}
        self.distillation_weight, self.temperature = distillation_weight, temperature

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the task loss, {"unimodal.NAME": …} and {"distillation": …}."""
        output = step.output
        everywhere = torch.ones(step.batch.size, dtype=torch.bool, device=next(iter(output.logits.values())).device)
        there = torch.stack([everywhere, *(output.features[name].present for name in self.names)])  # (P, B)
        losses = []
        for task, kind in self.kinds.items():
            told = torch.stack([output.logits[task], *(output.unimodal_logits[name][task] for name in self.names)])
            losses.append(peer_loss(told.float(), there, kind, self.temperature))
        alone = unimodal_losses(output, step.task_loss)
        return {
            "task": step.task_loss(output.logits),
            **{f"unimodal.{name}": loss for name, loss in alone.items()},
            "distillation": self.distillation_weight * torch.stack(losses).mean(),
        }


def peer_loss(logits: Tensor, there: Tensor, kind: str, temperature: float) -> Tensor:
    """Mean over peers of what each has to learn from the mean of the others.

    Shapes: logits (P, B, K), there (P, B) -> scalar.
    """
    if kind == "regression":
        said = logits
    else:
        said = (logits / temperature).softmax(dim=2) if kind == "multiclass" else (logits / temperature).sigmoid()
    weights = there.to(said.dtype).unsqueeze(2)
    known = said.detach() * weights
    others = weights.sum(0, keepdim=True) - weights
    teacher = (known.sum(0, keepdim=True) - known) / others.clamp(min=1.0)
    learns = there & (others.squeeze(2) > 0)
    gaps = divergence(teacher, logits, kind, temperature)  # (P, B)
    return torch.stack([mean_over(gap, who) for gap, who in zip(gaps, learns)]).mean()
