"""Deep canonical correlation analysis: each modality's features should be told linearly from the others'."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmbench import TaskSpec
from mmbench_objectives.vectors import pooled, vector_dims

if TYPE_CHECKING:
    from mmbench.train import Step


class DeepCca(nn.Module):
    """loss = task loss - correlation_weight * mean over pairs of modalities of their summed canonical correlations.

    Each modality is projected to `embedding_dim` numbers. With the batch's covariances S_x + r I and S_y + r I and the
    cross-covariance S_xy, the canonical correlations are the singular values of L_x^-1 S_xy L_y^-T, where L L^T = S + r
    I.

    Source: Andrew et al. 2013, Deep canonical correlation analysis (ICML); Cholesky factors whiten instead of inverse
    square roots, which gives the same singular values and gradients that stay finite where eigenvalues coincide.
    Differs in estimating covariances from a batch, as Wang et al. 2015, arXiv:1602.01024 do (so that batches should be
    several times wider than `embedding_dim`), in training the task beside it, and in taking the mean over pairs where
    there are more than two modalities. Samples that lack either of a pair are left out.

    Args:
        dims: Feature width by modality.
        tasks: What is predicted.
        correlation_weight: Factor of the correlations.
        embedding_dim: How many numbers are correlated.
        ridge: r.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        correlation_weight: float,
        embedding_dim: int,
        ridge: float,
    ) -> None:
        super().__init__()
        widths = vector_dims(dims)
        self.names = tuple(widths)
        self.correlation_weight, self.ridge = correlation_weight, ridge
        self.projections = nn.ModuleList(nn.Linear(width, embedding_dim, bias=False) for width in widths.values())

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the task loss and {"correlation": scalar}, which is negative."""
        features = step.output.features
        views = {name: project(pooled(features[name])) for name, project in zip(self.names, self.projections)}
        found = [
            correlation(views[one], views[other], features[one].present & features[other].present, self.ridge)
            for one, other in itertools.combinations(self.names, 2)
        ]
        return {
            "task": step.task_loss(step.output.logits),
            "correlation": -self.correlation_weight * torch.stack(found).mean(),
        }


def correlation(x: Tensor, y: Tensor, complete: Tensor, ridge: float) -> Tensor:
    """The sum of the canonical correlations over complete samples; zero for fewer than two.

    Shapes: x (B, E), y (B, E), complete (B,) -> scalar.
    """
    with torch.autocast(x.device.type, enabled=False):
        weights = complete.double().unsqueeze(1)
        count = weights.sum()
        centred = [view.double() * weights for view in (x, y)]
        centred = [(view - view.sum(0) / count.clamp(min=1.0)) * weights for view in centred]
        scale = 1.0 / (count - 1.0).clamp(min=1.0)
        factors = []
        for view in centred:
            eye = torch.eye(view.shape[1], dtype=view.dtype, device=view.device)
            factors.append(torch.linalg.cholesky(scale * view.T @ view + ridge * eye))
        cross = torch.linalg.solve_triangular(factors[0], scale * centred[0].T @ centred[1], upper=False)
        whitened = torch.linalg.solve_triangular(factors[1], cross.T, upper=False).T  # L_x^-1 S_xy L_y^-T
        return torch.linalg.svdvals(whitened).sum().to(x.dtype)
