"""P-values of several tests, adjusted together."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p-values of several tests so that the chance of one false alarm among all stays at 5 % (Holm 1979).

    Shapes: any, kept; NaN for a test that was not made stays NaN and does not count.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    given = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(given.shape, np.nan)
    made = np.isfinite(given)
    known = given[made]
    order = np.argsort(known, kind="stable")
    factors = np.arange(len(known), 0, -1)
    ordered = np.maximum.accumulate(np.minimum(known[order] * factors, 1.0))
    back = np.empty_like(ordered)
    back[order] = ordered
    adjusted[made] = back
    return adjusted
