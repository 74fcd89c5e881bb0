"""Adversarial training: the prediction must hold where features are pushed the worst way, a little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.blocks import check_range
from mmbench.features import without_padding

if TYPE_CHECKING:
    from mmbench.train import Step

Pushes = Mapping[str, tuple[Tensor, ...]]


class Adversarial(nn.Module):
    """loss = task loss + adversarial_weight * task loss of the prediction from pushed features.

    No number of a modality's features is pushed by more than b = epsilon times their root mean square over the batch.
    `num_steps` = 1 pushes by b along the sign of the loss's gradient (FGSM); more steps go 2.5 b / num_steps each from
    a random start and stay within b (PGD). The push is a constant to the gradient that trains.

    Source: Goodfellow et al. 2015, arXiv:1412.6572 (FGSM), Madry et al. 2018, arXiv:1706.06083 (PGD); on embeddings as
    Miyato et al. 2017, arXiv:1605.07725, because inputs of many kinds have no common distance. What is missing or
    padding stays as it is.

    Args:
        dims: Feature width by modality.
        tasks: What is predicted.
        adversarial_weight: Factor of the second loss.
        epsilon: How far to push, in root mean squares of the features.
        num_steps: Steps of the attack; each fuses once, and once more goes back.

    Raises:
        UsageError: `num_steps` is not within 1 and 100, or `epsilon` is negative.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        adversarial_weight: float,
        epsilon: float,
        num_steps: int,
    ) -> None:
        super().__init__()
        check_range("num_steps", num_steps, 1, 100)
        check_range("epsilon", epsilon, 0.0, 100.0)
        self.adversarial_weight, self.epsilon, self.num_steps = adversarial_weight, epsilon, num_steps

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the task loss and {"adversarial": scalar}."""
        pushed = push(step.output.features, self.attack(step))
        return {
            "task": step.task_loss(step.output.logits),
            "adversarial": self.adversarial_weight * step.task_loss(step.model.fuse(pushed).logits),
        }

    def attack(self, step: Step) -> Pushes:
        """Return the pushes that raise the loss, by modality and layer, in the shape of the features."""
        features = {name: _detached(given) for name, given in step.output.features.items()}
        bounds = {
            name: [self.epsilon * rms(one.tensor, one.real) for one in given.layers] for name, given in features.items()
        }
        pushes = {name: tuple(torch.zeros_like(one.tensor) for one in given.layers) for name, given in features.items()}
        if self.num_steps > 1:
            pushes = {
                name: tuple(
                    bound * (2.0 * torch.rand(one.shape, generator=step.generator).to(one, non_blocking=True) - 1.0)
                    for bound, one in zip(bounds[name], given)
                )
                for name, given in pushes.items()
            }
        size = 1.0 if self.num_steps == 1 else 2.5 / self.num_steps
        for _ in range(self.num_steps):
            gradients = self._gradients(step, features, pushes)
            pushes = {
                name: tuple(
                    torch.clamp(one + size * bound * gradient.sign(), -bound, bound)
                    for one, gradient, bound in zip(given, gradients[name], bounds[name])
                )
                for name, given in pushes.items()
            }
        return pushes

    def _gradients(self, step: Step, features: Mapping[str, Features], pushes: Pushes) -> Pushes:
        with torch.enable_grad():
            leaves = {name: tuple(one.detach().requires_grad_() for one in given) for name, given in pushes.items()}
            loss = step.task_loss(step.model.fuse(push(features, leaves)).logits)
            flat = [one for given in leaves.values() for one in given]
            found = iter(torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True))
        return {name: tuple(next(found) for _ in given) for name, given in leaves.items()}


def push(features: Mapping[str, Features], pushes: Pushes) -> dict[str, Features]:
    """Add pushes to features, where these are real; their losses, already counted, are left behind."""
    pushed = {}
    for name, given in features.items():
        values = tuple(
            layer.tensor + one * layer.real.unsqueeze(-1) for layer, one in zip(given.layers, pushes[name], strict=True)
        )
        pushed[name] = replace(given, values=values if isinstance(given.values, tuple) else values[0], losses={})
    return pushed


def rms(values: Tensor, mask: Tensor) -> Tensor:
    """Root mean square over what is real: (B, …, D), (B, …) -> scalar."""
    weights = mask.unsqueeze(-1).to(values.dtype)
    total = without_padding(values, mask).square().sum() / (weights.sum() * values.shape[-1]).clamp(min=1.0)
    return total.sqrt()


def _detached(features: Features) -> Features:
    values = features.values
    return replace(
        features,
        values=tuple(value.detach() for value in values) if isinstance(values, tuple) else values.detach(),
        losses={},
    )
