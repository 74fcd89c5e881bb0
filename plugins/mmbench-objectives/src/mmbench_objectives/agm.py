"""Adaptive gradient modulation: each modality learns as fast as its share of the prediction calls for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmbench import TaskSpec
from mmbench_objectives.modality_dropout import keep

if TYPE_CHECKING:
    from mmbench.train import Step

_MIN_LOG_PROBABILITY = math.log(1e-8)
_MAX_ADVANCE = 7.0


class Agm(nn.Module):
    """After each backward pass, gradients of encoder m are multiplied by k_m = exp(-alpha (r_m - t_m)).

    Modality m's part of the logits is its Shapley value over subsets of modalities, the others being absent; s_m is the
    mean log-probability that softmax of it gives to the true classes. r_m = exp(mean over others n of s_m - s_n) says
    how far m is ahead now, t_m the same of the running means of s: whoever is ahead of its usual place is held back.

    Source: Li et al. 2023, arXiv:2308.07686. Differs in that absent modalities are missing features (zeros under a
    False mask, or what the policy for missing modalities makes of them) instead of zeroed inputs, so that encoders run
    once; that no modality at all counts as logits of zero; and in bounding t_m - r_m by 7, so that a gradient cannot
    explode.

    Args:
        dims: Feature width by modality.
        tasks: What is predicted, all multiclass.
        alpha: How strongly gradients are modulated.
    """

    #: Every change that `after_backward` makes is made on the device, in place.
    capturable = True
    average: Tensor
    count: Tensor

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, alpha: float) -> None:
        super().__init__()
        self.names = tuple(sorted(dims))
        self.alpha = alpha
        self.register_buffer("average", torch.zeros(len(self.names)))  # (M,) running means of s
        self.register_buffer("count", torch.zeros(()))

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the task loss as {"task": scalar}."""
        return {"task": step.task_loss(step.output.logits)}

    def after_backward(self, step: Step) -> None:
        """Scale the encoders' gradients, then take this step into the running means."""
        scores = self.scores(step)
        factors = dict(zip(self.names, self.factors(scores).unbind()))
        for name, encoder in zip(step.model.modalities, step.model.encoders):
            for parameter in encoder.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(factors[name])
        self.count += 1
        self.average += (scores - self.average) / self.count

    def factors(self, scores: Tensor) -> Tensor:
        """k by modality for scores s: (M,) -> (M,). In the first step, of which there is no average, all are 1."""
        usual = torch.where(self.count > 0, self.average, scores)
        return (self.alpha * (ahead(usual) - ahead(scores)).clamp(max=_MAX_ADVANCE)).exp()

    @torch.no_grad()
    def scores(self, step: Step) -> Tensor:
        """s by modality: (M,)."""
        training = step.model.training
        step.model.eval()
        values = self._values(step)
        step.model.train(training)
        found = []
        for parts in shares(values, len(self.names)):
            terms = []
            for task, logits in parts.items():
                told = logits.float().log_softmax(dim=1).gather(1, step.batch.targets[task].unsqueeze(1))
                terms.append(told.clamp(min=_MIN_LOG_PROBABILITY).mean())
            found.append(torch.stack(terms).mean())
        return torch.stack(found)

    def _values(self, step: Step) -> dict[tuple[int, ...], Mapping[str, Tensor]]:
        """Logits by task for every subset of modalities, by their positions."""
        features = step.output.features
        nobody = torch.zeros(step.batch.size, dtype=torch.bool, device=next(iter(features.values())).present.device)
        gone = {name: keep(given, nobody) for name, given in features.items()}
        found: dict[tuple[int, ...], Mapping[str, Tensor]] = {}
        for size in range(1, len(self.names) + 1):
            for subset in itertools.combinations(range(len(self.names)), size):
                left = {name: (features if m in subset else gone)[name] for m, name in enumerate(self.names)}
                ordered = {name: left[name] for name in features}
                found[subset] = {task: logits.float() for task, logits in step.model.fuse(ordered).logits.items()}
        found[()] = {task: torch.zeros_like(logits) for task, logits in next(iter(found.values())).items()}
        return found


def shares(values: Mapping[tuple[int, ...], Mapping[str, Tensor]], count: int) -> list[dict[str, Tensor]]:
    """Shapley values of `count` modalities from the logits by task of every subset of them."""
    found = []
    for m in range(count):
        share: dict[str, Tensor] = {}
        for subset, without in values.items():
            if m in subset:
                continue
            weight = 1.0 / (count * math.comb(count - 1, len(subset)))
            joined = values[tuple(sorted((*subset, m)))]
            for task, logits in without.items():
                share[task] = share.get(task, 0.0) + weight * (joined[task] - logits)
        found.append(share)
    return found


def ahead(scores: Tensor) -> Tensor:
    """exp of the mean lead over the others: (M,) -> (M,)."""
    count = len(scores)
    return ((count * scores - scores.sum()) / (count - 1)).exp()
