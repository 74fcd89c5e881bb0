"""Prototypical modal rebalance: the modality that lags is pulled to its prototypes, the one ahead is held open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmbench import TaskSpec
from mmbench_objectives.codes import mean_over
from mmbench_objectives.vectors import pooled, vector_dims

if TYPE_CHECKING:
    from mmbench.features import Features
    from mmbench.train import EpochStart, Step


class Pmr(nn.Module):
    """loss = task loss + alpha * sum over modalities of c_m PCE_m - mu * sum over those ahead of c_rest H_m.

    p_m is the softmax over classes of minus the distance of a sample's f_m to the class's prototype; PCE_m is its
    cross-entropy, H_m its entropy, s_m the mean probability of the true class. A modality that lags, s_m below the mean
    s_rest of the others, gets c_m = min(s_rest / s_m - 1, 1), one that is ahead 0. c_rest is the mean of the others' c;
    the entropy term ends after the share `until` of training. Prototypes are the classes' mean features on the training
    samples before each epoch, in evaluation mode; from the second epoch on they move by 1 - momentum of the way.

    Source: Fan et al. 2023, arXiv:2211.07089. Differs in comparing with the mean of the others where there are more
    than two modalities (with two it is the paper's ratio), and in averages over the batch for its sums. Several tasks
    are averaged. Samples that lack a modality say nothing of it.

    Args:
        dims: Feature width by modality.
        tasks: What is predicted, all multiclass.
        alpha: Factor of the pull to prototypes.
        mu: Factor of the leader's entropy.
        momentum: How much of the old prototypes stays.
        until: Share of training, 0 to 1, after which entropies are left alone.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        alpha: float,
        mu: float,
        momentum: float,
        until: float,
    ) -> None:
        super().__init__()
        widths = vector_dims(dims)
        self.names = tuple(widths)
        self.tasks = {task.name: task.num_outputs for task in tasks}
        self.alpha, self.mu, self.momentum, self.until = alpha, mu, momentum, until
        self.keys = [(name, task) for name in self.names for task in self.tasks]
        for number, (name, task) in enumerate(self.keys):
            self.register_buffer(f"prototypes_{number}", torch.zeros(self.tasks[task], widths[name]))

    def prototypes(self, name: str, task: str) -> Tensor:
        """A modality's prototypes for a task: (K, D)."""
        return self.get_buffer(f"prototypes_{self.keys.index((name, task))}")

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the task loss, {"prototypes.NAME": …} and, while entropies count, {"entropy.NAME": …}."""
        scores: dict[str, Tensor] = {}
        pulls: dict[str, Tensor] = {}
        entropies: dict[str, Tensor] = {}
        for name in self.names:
            given = step.output.features[name]
            told = {task: self._log_probabilities(name, task, given) for task in self.tasks}
            true = {
                task: log_p.gather(1, step.batch.targets[task].unsqueeze(1)).squeeze(1) for task, log_p in told.items()
            }
            scores[name] = _mean([mean_over(log_p.detach().exp(), given.present) for log_p in true.values()])
            pulls[name] = _mean([-mean_over(log_p, given.present) for log_p in true.values()])
            entropies[name] = _mean(
                [mean_over(-(log_p.exp() * log_p).sum(dim=1), given.present) for log_p in told.values()]
            )
        lags = lagging(torch.stack([scores[name] for name in self.names]))
        losses = {"task": step.task_loss(step.output.logits)}
        for m, name in enumerate(self.names):
            losses[f"prototypes.{name}"] = self.alpha * lags[m] * pulls[name]
        if step.progress <= self.until:
            for m, name in enumerate(self.names):
                rest = (lags.sum() - lags[m]) / (len(self.names) - 1)
                losses[f"entropy.{name}"] = -self.mu * torch.where(lags[m] > 0, 0.0, rest) * entropies[name]
        return losses

    def before_epoch(self, start: EpochStart) -> None:
        """Move the prototypes to the classes' mean features."""
        sums = {key: torch.zeros_like(self.prototypes(*key)) for key in self.keys}
        counts = {key: sums[key].new_zeros(len(sums[key]), 1) for key in self.keys}
        for batch in start.seen():
            features = start.model.encode(batch)
            for name, task in self.keys:
                there = features[name].present.to(sums[name, task].dtype).unsqueeze(1)
                values = pooled(features[name]).to(there.dtype)
                sums[name, task].index_add_(0, batch.targets[task], values)
                counts[name, task].index_add_(0, batch.targets[task], there)
        for key in self.keys:
            now, kept = sums[key] / counts[key].clamp(min=1.0), self.momentum if start.epoch else 0.0
            self.prototypes(*key).mul_(kept).add_((1.0 - kept) * now)

    def _log_probabilities(self, name: str, task: str, features: Features) -> Tensor:
        """Log-probability of each class by the distances to prototypes: (B, K)."""
        gaps = pooled(features).float().unsqueeze(1) - self.prototypes(name, task)  # (B, K, D)
        distances = (gaps.square().sum(dim=2) + 1e-12).sqrt()  # the root of zero has no gradient
        return (-distances).log_softmax(dim=1)


def lagging(scores: Tensor) -> Tensor:
    """c by modality: how far the mean of the others is ahead, from 0 to 1: (M,) -> (M,)."""
    rest = (scores.sum() - scores) / (len(scores) - 1)
    return (rest / scores.clamp(min=1e-8) - 1.0).clamp(0.0, 1.0)


def _mean(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).mean()
