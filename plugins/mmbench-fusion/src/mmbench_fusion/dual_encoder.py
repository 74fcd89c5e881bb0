"""`dual-encoder`: modalities side by side in one space, for retrieval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmbench.features import Features
from mmbench.spec import TaskSpec
from mmbench_fusion.presence import present_vectors

#: The temperature that CLIP starts from, and the least it may reach.
_START, _LEAST = 0.07, 0.01


class DualEncoder(nn.Module):
    """Each modality projected to unit vectors of one space, and a learned temperature; nothing is joined.

    Source: Radford et al. 2021, CLIP, arXiv:2103.00020; for more than two modalities every pair is compared. The square
    root of the inverse temperature is the vectors' length, so that their dot products are CLIP's logits.

    Shapes: {modality: Features} each (B, D of that modality) -> (B, M * K), M in the order of sorted names, K the
    task's `num_outputs`.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        dim = tasks[0].num_outputs
        self.names = tuple(sorted(dims))
        self.fused_dim = len(self.names) * dim
        self.projections = nn.ModuleList(nn.Linear(dims[name], dim, bias=False) for name in self.names)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(_START)))

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Project; see the class."""
        length = self.log_scale.clamp(max=-math.log(_LEAST)).exp().sqrt()
        vectors = [
            length * nn.functional.normalize(projection(vector), dim=1)
            for projection, vector in zip(self.projections, present_vectors(features, self.names))
        ]
        return torch.cat(vectors, dim=1)
