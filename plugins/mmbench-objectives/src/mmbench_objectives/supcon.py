"""Supervised contrastive alignment: what is of one class lies together, whichever modality shows it."""

from __future__ import annotations

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


class SupervisedContrastive(nn.Module):
    """loss = task loss + contrastive_weight * mean over tasks of the supervised contrastive loss.

    Every modality of every sample is a view z = P_m f_m / |P_m f_m|. A view i is drawn to the views P(i) of its class,
    those of its own sample in other modalities among them, and pushed from all others:
    mean over i of -1 / |P(i)| * sum over p in P(i) of log(exp(z_i . z_p / t) / sum over a != i of exp(z_i . z_a / t)).

    Source: Khosla et al. 2020, arXiv:2004.11362, equation 2 (L_out). Differs in that views are modalities, not
    augmentations, and in training the task beside it instead of afterwards. Absent modalities are no views.

    Args:
        dims: Feature width by modality.
        tasks: What is predicted, all multiclass.
        contrastive_weight: Factor of the contrastive loss.
        embedding_dim: Width of the space in which views are compared.
        temperature: t.

    Raises:
        UsageError: `temperature` is not within 0.01 and 10.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        contrastive_weight: float,
        embedding_dim: int,
        temperature: float,
    ) -> None:
        super().__init__()
        check_range("temperature", temperature, 0.01, 10.0)
        widths = vector_dims(dims)
        self.names = tuple(widths)
        self.tasks = tuple(task.name for task in tasks)
        self.contrastive_weight, self.temperature = contrastive_weight, temperature
        self.projections = nn.ModuleList(nn.Linear(width, embedding_dim, bias=False) for width in widths.values())

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the task loss and {"contrastive": scalar}."""
        features = step.output.features
        views = torch.cat(
            [
                F.normalize(projection(pooled(features[name])).float(), dim=1)
                for name, projection in zip(self.names, self.projections)
            ]
        )  # (M B, E)
        there = torch.cat([features[name].present for name in self.names])
        losses = [
            contrastive_loss(
                views @ views.T / self.temperature, step.batch.targets[task].repeat(len(self.names)), there
            )
            for task in self.tasks
        ]
        return {
            "task": step.task_loss(step.output.logits),
            "contrastive": self.contrastive_weight * torch.stack(losses).mean(),
        }


def contrastive_loss(scores: Tensor, labels: Tensor, there: Tensor) -> Tensor:
    """The loss of the class over views that are there and have company of their class; zero without any.

    Shapes: scores (V, V), labels (V,), there (V,) -> scalar.
    """
    itself = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    others = there.unsqueeze(0) & there.unsqueeze(1) & ~itself
    log_share = scores - scores.masked_fill(~others, -1e4).logsumexp(dim=1, keepdim=True)
    company = (others & (labels.unsqueeze(0) == labels.unsqueeze(1))).to(scores.dtype)
    count = company.sum(dim=1)
    by_view = -(log_share * company).sum(dim=1) / count.clamp(min=1.0)
    return by_view.sum() / (count > 0).sum().clamp(min=1)
