"""Multimodal variational autoencoder: one latent variable behind all modalities, told by a product of experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmbench import TaskSpec
from mmbench_objectives.codes import decoder, mean_over, target
from mmbench_objectives.vectors import pooled, vector_dims

if TYPE_CHECKING:
    from mmbench.features import Features
    from mmbench.train import Step

_MAX_LOG_VARIANCE = 8.0


class Mvae(nn.Module):
    """loss = task loss - elbo_weight * mean over samples of the sum of ELBO(S) over S in {all, {1}, …, {M}}.

    Modality m is an expert N(mu_m, v_m) on the latent z. The product of the experts S and of the prior N(0, I) has the
    precision T = 1 + sum over S of 1 / v_m and the mean sum over S of (mu_m / v_m) / T. With one draw of z from it,
    ELBO(S) = sum over m in S of log N(f_m; D_m(z), I), without its constant, - kl_weight * KL(product, prior).

    Source: Wu & Goodman 2018, arXiv:1802.05335; its sub-sampled objective without further random subsets (with two
    modalities there are none). Differs in generating features instead of inputs: targets are standardised per sample
    and get no gradient (see `mmbench_objectives.codes.target`); and in training the task beside it.

    Args:
        dims: Feature width by modality.
        tasks: What is predicted.
        elbo_weight: Factor of the bound.
        kl_weight: The paper's beta, which it raises from 0 to 1 over hundreds of epochs.
        latent_dim: Width of z.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        elbo_weight: float,
        kl_weight: float,
        latent_dim: int,
    ) -> None:
        super().__init__()
        widths = vector_dims(dims)
        self.names = tuple(widths)
        self.elbo_weight, self.kl_weight = elbo_weight, kl_weight
        self.experts = nn.ModuleList(nn.Linear(width, 2 * latent_dim) for width in widths.values())
        self.decoders = nn.ModuleList(decoder(latent_dim, width) for width in widths.values())

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the task loss and {"elbo": scalar}, the weighted negative bound."""
        features = [step.output.features[name] for name in self.names]
        present = torch.stack([given.present for given in features], dim=1)  # (B, M)
        told = torch.stack([expert(pooled(given)).float() for expert, given in zip(self.experts, features)], dim=1)
        means, log_variances = told.chunk(2, dim=2)  # (B, M, Z) each
        log_variances = log_variances.clamp(-_MAX_LOG_VARIANCE, _MAX_LOG_VARIANCE)
        count = len(features)
        subsets = [list(range(count)), *([[m] for m in range(count)] if count > 1 else [])]
        bounds = []
        for subset in subsets:
            asked = torch.zeros_like(present)
            asked[:, subset] = present[:, subset]
            bounds.append(mean_over(self._bound(step, features, means, log_variances, asked), asked.any(dim=1)))
        return {
            "task": step.task_loss(step.output.logits),
            "elbo": -self.elbo_weight * torch.stack(bounds).sum(),
        }

    def _bound(
        self, step: Step, features: Sequence[Features], means: Tensor, log_variances: Tensor, asked: Tensor
    ) -> Tensor:
        """ELBO of the modalities that are asked, per sample: (B,)."""
        mean, log_variance = product_of_experts(means, log_variances, asked)
        noise = torch.randn(mean.shape, generator=step.generator).to(mean, non_blocking=True)
        latent = mean + (0.5 * log_variance).exp() * noise
        bound = -self.kl_weight * kl_from_prior(mean, log_variance)
        for m, (decode, given) in enumerate(zip(self.decoders, features)):
            error = (decode(latent).float() - target(given)).square().sum(dim=1)
            bound = bound - 0.5 * error * asked[:, m]
        return bound


def product_of_experts(means: Tensor, log_variances: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of the product of the asked Gaussians and N(0, I).

    Shapes: means (B, M, Z), log_variances (B, M, Z), asked (B, M) -> (B, Z), (B, Z).
    """
    precisions = (-log_variances).exp() * asked.unsqueeze(2)
    total = 1.0 + precisions.sum(dim=1)
    return (means * precisions).sum(dim=1) / total, -total.log()


def kl_from_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance), N(0, I)): (B, Z), (B, Z) -> (B,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=1)
