"""Retrieval: how well the vectors of one modality find their partners among those of another.

A sample's target is the number of its group: samples of one group are partners of each other (an image and its five
captions are five samples of one group). Every sample asks once in each direction; among the candidates, what is the
same vector in the same group counts once, so that an image with five captions is one image to be found.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

#: Vectors of one group that agree so far, relative to their length, are the same thing encoded twice.
_SAME = 1e-4
_CHUNK = 512


def directions(vectors: NDArray[Any], dim: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield (queries, candidates) for every ordered pair of modalities, each (N, dim)."""
    by_modality = [np.asarray(part, dtype=np.float64) for part in np.split(vectors, vectors.shape[1] // dim, axis=1)]
    yield from itertools.permutations(by_modality, 2)


def recall(vectors: NDArray[Any], groups: NDArray[np.int64], dim: int, k: int) -> Floats:
    """The chance that one of a sample's partners is among the k best candidates, mean over directions.

    It is 0 or 1 unless candidates tie; then it is the expectation over their random order.

    Shapes: vectors (N, M * dim), groups (N,) -> (N,).
    """
    each = [_recall(*_counts(queries, candidates, groups), k=k) for queries, candidates in directions(vectors, dim)]
    mean: Floats = np.mean(each, axis=0)
    return mean


def ranks(vectors: NDArray[Any], groups: NDArray[np.int64], dim: int) -> Floats:
    """Rank of each sample's best partner, 1 is best, ties at their middle; one row for each direction: (2 …, N)."""
    found = []
    for queries, candidates in directions(vectors, dim):
        above, level, partners = _counts(queries, candidates, groups)
        found.append(above + 1 + level / (partners + 1))
    return np.stack(found)


def _counts(
    queries: Floats, candidates: Floats, groups: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """For each query: strangers above its best partner, strangers level with it, and partners level with it."""
    kept = _distinct(candidates, groups)
    candidates, owners = candidates[kept], groups[kept]
    above, level, partners = (np.zeros(len(queries), dtype=np.int64) for _ in range(3))
    for start in range(0, len(queries), _CHUNK):
        rows = slice(start, start + _CHUNK)
        similarity = queries[rows] @ candidates.T
        own = groups[rows, None] == owners[None, :]
        best = np.where(own, similarity, -np.inf).max(axis=1, keepdims=True)
        above[rows] = ((similarity > best) & ~own).sum(axis=1)
        level[rows] = ((similarity == best) & ~own).sum(axis=1)
        partners[rows] = ((similarity == best) & own).sum(axis=1)
    return above, level, partners


def _recall(above: NDArray[np.int64], level: NDArray[np.int64], partners: NDArray[np.int64], *, k: int) -> Floats:
    """1 - P(no partner among the first `free` of those that tie) = 1 - C(level, free) / C(level + partners, free)."""
    free = np.clip(k - above, 0, None)
    missed = np.ones(len(above))
    for draw in range(int(free.max(initial=0))):
        drawn = draw < free
        remaining = level + partners - draw
        share = np.where(remaining > 0, np.clip(level - draw, 0, None) / np.maximum(remaining, 1), 0.0)
        missed = np.where(drawn, missed * share, missed)
    return 1.0 - missed


def _distinct(vectors: Floats, groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of candidates, without those that repeat an earlier one of their group."""
    order = np.argsort(groups, kind="stable")
    kept: list[int] = []
    for _, members in itertools.groupby(order, key=lambda position: groups[position]):
        chosen: list[int] = []
        for position in members:
            length = float(np.linalg.norm(vectors[position]))
            if all(np.abs(vectors[position] - vectors[other]).max() > _SAME * length for other in chosen):
                chosen.append(int(position))
        kept += chosen
    return np.array(sorted(kept), dtype=np.int64)
