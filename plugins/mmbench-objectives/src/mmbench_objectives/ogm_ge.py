"""OGM-GE: the encoder of the modality that is ahead learns more slowly, so that the others can follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmbench import TaskSpec
from mmbench_objectives.vectors import pooled, vector_dims

if TYPE_CHECKING:
    from mmbench.train import Step


class OgmGe(nn.Module):
    """On-the-fly gradient modulation with generalisation enhancement.

    After each backward pass, with s_m the summed probability that modality m alone gives to the true classes and r_m
    its ratio to the mean of the others' s: gradients of encoder m are multiplied by k_m = 1 - tanh(alpha r_m) where
    r_m > 1, else left as they are; then noise of the gradient's own standard deviation is added to weight matrices.

    Source: Peng et al. 2022, arXiv:2203.15332. Differs in where s comes from: the paper splits the fused linear layer
    into the modalities' parts, which exists for concatenation only; here a linear probe per modality reads the features
    without sending gradients back, so any fusion can be modulated. Differs also in the ratio to the mean of the others,
    where there are more than two modalities, and in treating all weight matrices like the paper's convolutions.

    Args:
        dims: Feature width by modality.
        tasks: What is predicted, all multiclass.
        alpha: How strongly a modality that is ahead is held back.
        until: Share of training, 0 to 1, after which gradients are left alone.
        enhance: Whether to add noise.
    """

    def __init__(
        self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, alpha: float, until: float, enhance: bool
    ) -> None:
        super().__init__()
        self.widths = vector_dims(dims)
        self.tasks = tuple(task.name for task in tasks)
        self.alpha, self.until, self.enhance = alpha, until, enhance
        self.probes = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, task.num_outputs) for task in tasks) for width in self.widths.values()
        )

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the task loss and each probe's loss, which trains the probe only."""
        losses = {"task": step.task_loss(step.output.logits)}
        for name, logits in self.probe(step).items():
            losses[f"probe.{name}"] = step.task_loss(logits)
        return losses

    def after_backward(self, step: Step) -> None:
        """Scale the encoders' gradients and add noise; see the class."""
        if step.progress > self.until:
            return
        factors = self.factors(step)
        for name, encoder in zip(step.model.modalities, step.model.encoders):
            for parameter in encoder.parameters():
                if parameter.grad is None:
                    continue
                parameter.grad.mul_(factors[name])
                if self.enhance and parameter.dim() >= 2:
                    noise = torch.randn(parameter.shape, generator=step.generator).to(parameter.grad, non_blocking=True)
                    parameter.grad.add_(noise * parameter.grad.std(correction=0))

    @torch.no_grad()
    def factors(self, step: Step) -> dict[str, Tensor]:
        """k_m by modality, each a scalar."""
        scores = {name: self._score(logits, step) for name, logits in self.probe(step).items()}
        factors = {}
        for name, score in scores.items():
            rest = torch.stack([other for key, other in scores.items() if key != name]).mean()
            ratio = score / rest.clamp(min=1e-8)
            factors[name] = torch.where(ratio > 1.0, 1.0 - (self.alpha * ratio).tanh(), torch.ones_like(ratio))
        return factors

    def probe(self, step: Step) -> dict[str, dict[str, Tensor]]:
        """The probes' logits by modality and task; features get no gradient from them."""
        return {
            name: {task: probe(pooled(step.output.features[name]).detach()) for task, probe in zip(self.tasks, probes)}
            for name, probes in zip(self.widths, self.probes)
        }

    def _score(self, logits: Mapping[str, Tensor], step: Step) -> Tensor:
        name_scores = [
            by_class.float().softmax(dim=1).gather(1, step.batch.targets[task].unsqueeze(1)).sum()
            for task, by_class in logits.items()
        ]
        return torch.stack(name_scores).sum()
