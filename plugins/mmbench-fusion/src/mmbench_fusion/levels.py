"""Levels: the layers of several encoders brought side by side, aligned from the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Dims = Mapping[str, int | Sequence[int]]


@dataclass(frozen=True)
class Member:
    """One layer of one modality.

    Attributes:
        row: Place of the modality in the sorted names.
        name: The modality.
        layer: Place of the layer in its pyramid, from 0.
        dim: Width of the layer.
    """

    row: int
    name: str
    layer: int
    dim: int


def aligned(dims: Dims) -> list[list[Member]]:
    """Return the members of every level, early ones first.

    The last layers of all modalities stand at the last level, the last but one before it, and so on: what an encoder
    with fewer layers lacks, it lacks at the beginning.

    >>> [[(member.name, member.layer) for member in level] for level in aligned({"a": (4, 8, 8), "b": (5, 6)})]
    [[('a', 0)], [('a', 1), ('b', 0)], [('a', 2), ('b', 1)]]
    """
    widths = {name: (dim,) if isinstance(dim, int) else tuple(dim) for name, dim in dims.items()}
    depth = max(len(layers) for layers in widths.values())
    levels: list[list[Member]] = [[] for _ in range(depth)]
    for row, (name, layers) in enumerate(sorted(widths.items())):
        for layer, dim in enumerate(layers):
            levels[depth - len(layers) + layer].append(Member(row, name, layer, dim))
    return levels
