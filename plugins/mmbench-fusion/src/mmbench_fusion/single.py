"""No fusion: one modality's vector passes through, which makes the unimodal baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench_fusion.presence import present_vectors


class Single(nn.Module):
    """The vector of the only modality; zeros where a sample lacks it, so that its head's bias answers.

    Shapes: {modality: Features (B, D)} -> (B, D).

    Raises:
        ValueError: there is not exactly one modality.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        if len(dims) != 1:
            raise ValueError(f"single takes one modality, got {', '.join(sorted(dims)) or 'none'}")
        ((self.name, self.fused_dim),) = dims.items()

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Pass the vector through; see the class."""
        return present_vectors(features, (self.name,))[0]
