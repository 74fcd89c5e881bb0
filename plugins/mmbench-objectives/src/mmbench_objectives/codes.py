"""What generative objectives share: targets of one scale, small decoders, and their squared error."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mmbench.features import Features
from mmbench_objectives.vectors import pooled


def decoder(code_dim: int, width: int) -> nn.Module:
    """A network from a code to features, with one hidden layer: (B, code_dim) -> (B, width)."""
    return nn.Sequential(nn.Linear(code_dim, 2 * code_dim), nn.ReLU(), nn.Linear(2 * code_dim, width))


def target(features: Features) -> Tensor:
    """What a decoder should give: pooled features, each sample's brought to mean 0 and variance 1, without gradient.

    A modality whose features are large must not decide the loss, and encoders must not shrink features to please it.

    Shapes: Features (B, D), (B, T, D) or a pyramid -> (B, D).
    """
    values = pooled(features).detach().float()
    return F.layer_norm(values, values.shape[1:])


def mean_over(values: Tensor, there: Tensor) -> Tensor:
    """The mean over samples that are there; zero without any: (B,), (B,) -> scalar."""
    weights = there.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1.0)
