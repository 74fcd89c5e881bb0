"""What objectives read of encoders: one vector per sample and modality, whatever layout the features have."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mmbench.features import Features, without_padding


def vector_dims(dims: Mapping[str, int | tuple[int, ...]]) -> dict[str, int]:
    """Widths of what `pooled` gives: a pyramid counts by its last layer."""
    return {name: dim if isinstance(dim, int) else dim[-1] for name, dim in sorted(dims.items())}


def pooled(features: Features) -> Tensor:
    """The mean over real tokens, of the last layer where there are several; zeros for samples without the modality.

    Shapes: Features (B, D), (B, T, D) or a pyramid -> (B, D).
    """
    vector = features.layers[-1].to_vector()
    return without_padding(vector.tensor, vector.present)
