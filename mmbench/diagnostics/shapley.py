"""What each modality is worth: its exact Shapley share of the score above knowing nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def shapley_shares(score: Mapping[frozenset[str], float], modalities: Sequence[str]) -> dict[str, float]:
    """Share the score of all modalities, less that of none, out among them.

    A modality's share is its mean marginal gain over all orders in which modalities can be added:
    ``sum over S without m of |S|! (M - |S| - 1)! / M! * (score(S + m) - score(S))``. The shares add up to
    ``score(all) - score(none)``.

    Source: Shapley 1953, A value for n-person games; for modalities Hu et al. 2022, SHAPE, arXiv:2205.00302.

    Args:
        score: Of all 2^M subsets, more being better.
        modalities: Their names.

    Raises:
        KeyError: a subset has no score.

    >>> both = frozenset("ab")
    >>> shapley_shares({frozenset(): 0.5, frozenset("a"): 0.5, frozenset("b"): 0.5, both: 1.0}, "ab")
    {'a': 0.25, 'b': 0.25}
    """
    count = len(modalities)
    shares: dict[str, list[float]] = {name: [] for name in modalities}
    for code in range(2**count):
        subset = frozenset(name for at, name in enumerate(modalities) if code >> at & 1)
        for name in modalities:
            if name not in subset:
                weight = 1 / (count * math.comb(count - 1, len(subset)))
                shares[name].append(weight * (score[subset | {name}] - score[subset]))
    return {name: math.fsum(parts) for name, parts in shares.items()}
