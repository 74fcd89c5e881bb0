"""Multimodal factorisation: what tells the label is kept apart from what only makes each modality what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmbench import TaskSpec
from mmbench_objectives.codes import decoder, mean_over, target
from mmbench_objectives.vectors import pooled, vector_dims

if TYPE_CHECKING:
    from mmbench.train import Step


class Mfm(nn.Module):
    """loss = task loss + factor_weight * (label loss + sum over modalities of the squared error + prior_weight * MMD).

    The discriminative factor F_y is read off all modalities' features, a generative factor F_m off each one's own.
    Heads on F_y predict the label; a decoder makes f_m from (F_y, F_m), with |. - f_m|^2 / D; the maximum mean
    discrepancy between the batch's factors and as many draws from N(0, I) keeps each of them near the prior.

    Source: Tsai et al. 2019, arXiv:1806.06176. Differs in working on features instead of inputs, with linear maps for
    the factors: targets are standardised per sample and get no gradient (see `mmbench_objectives.codes.target`); and in
    leaving the prediction to the core's heads on the fusion, beside which the heads on F_y learn the same. Absent
    modalities are zeros to F_y, and have neither factor nor error.

    Args:
        dims: Feature width by modality.
        tasks: What is predicted.
        factor_weight: Factor of everything beside the task's loss.
        prior_weight: Factor of the discrepancy within that.
        factor_dim: Width of each factor.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        factor_weight: float,
        prior_weight: float,
        factor_dim: int,
    ) -> None:
        super().__init__()
        widths = vector_dims(dims)
        self.names = tuple(widths)
        self.tasks = tuple(task.name for task in tasks)
        self.factor_weight, self.prior_weight = factor_weight, prior_weight
        self.shared = nn.Linear(sum(widths.values()), factor_dim)
        self.own = nn.ModuleList(nn.Linear(width, factor_dim) for width in widths.values())
        self.decoders = nn.ModuleList(decoder(2 * factor_dim, width) for width in widths.values())
        self.heads = nn.ModuleList(nn.Linear(factor_dim, task.num_outputs) for task in tasks)

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the task loss, {"label": …}, {"generation": …} and {"prior": …}, each weighted."""
        features = [step.output.features[name] for name in self.names]
        vectors = [pooled(given) for given in features]
        label_factor = self.shared(torch.cat(vectors, dim=1)).float()
        everybody = torch.ones(len(label_factor), dtype=torch.bool, device=label_factor.device)
        errors, gaps = [], [self._gap(step, label_factor, everybody)]
        for given, vector, factor, decode in zip(features, vectors, self.own, self.decoders):
            own_factor = factor(vector).float()
            made = decode(torch.cat([label_factor, own_factor], dim=1)).float()
            errors.append(mean_over((made - target(given)).square().mean(dim=1), given.present))
            gaps.append(self._gap(step, own_factor, given.present))
        logits = {task: head(label_factor) for task, head in zip(self.tasks, self.heads)}
        return {
            "task": step.task_loss(step.output.logits),
            "label": self.factor_weight * step.task_loss(logits),
            "generation": self.factor_weight * torch.stack(errors).sum(),
            "prior": self.factor_weight * self.prior_weight * torch.stack(gaps).sum(),
        }

    def _gap(self, step: Step, factor: Tensor, there: Tensor) -> Tensor:
        drawn = torch.randn(factor.shape, generator=step.generator).to(factor, non_blocking=True)
        return discrepancy(factor, drawn, there)


def discrepancy(x: Tensor, y: Tensor, there: Tensor) -> Tensor:
    """Squared maximum mean discrepancy under exp(-|a - b|^2 / (2 D)), over the rows that are there of both.

    Shapes: x (B, D), y (B, D), there (B,) -> scalar, not negative.
    """
    weights = there.to(x.dtype)
    pairs = weights.unsqueeze(0) * weights.unsqueeze(1) / pairs_of(weights)

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(dim=2)
        return ((-squared / (2.0 * x.shape[1])).exp() * pairs).sum()

    return mean_kernel(x, x) + mean_kernel(y, y) - 2.0 * mean_kernel(x, y)


def pairs_of(weights: Tensor) -> Tensor:
    """How many pairs of rows there are, at least one."""
    return weights.sum().square().clamp(min=1.0)
