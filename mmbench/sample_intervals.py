"""95 % intervals of a metric over test samples, or groups of samples, from the influence of each."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import scipy.special
from numpy.typing import NDArray

from mmbench.influence import Influence, Shape

Floats: TypeAlias = NDArray[np.float64]

Z95 = 1.959963984540054


def cluster_sums(values: Floats, clusters: NDArray[np.int64] | None) -> Floats:
    """Return sums of values over the samples of each cluster; the values themselves without clusters.

    Shapes: (..., N) -> (..., G).
    """
    if clusters is None:
        return values
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    sums: Floats = np.add.reduceat(values[..., order], starts, axis=-1)
    return sums


def clusters_of_names(names: tuple[str, ...]) -> NDArray[np.int64] | None:
    """Return the number of each sample's group from the groups' names; None where every sample stands alone.

    A sample without a name stands alone.

    >>> clusters_of_names(("b", "a", "b", "")).tolist()
    [2, 1, 2, 0]
    """
    unique = [name or f"\\0{place}" for place, name in enumerate(names)]
    if len(set(unique)) == len(unique):
        return None
    found: NDArray[np.int64] = np.unique(np.asarray(unique, dtype=str), return_inverse=True)[1].ravel()
    return found


def interval_over_samples(
    influence: Influence, clusters: NDArray[np.int64] | None = None
) -> tuple[float, float] | None:
    """Return the interval of one model's metric over test samples; None for fewer than two samples or groups.

    >>> low, high = interval_over_samples(Influence(0.9, np.array([0.1] * 90 + [-0.9] * 10), "share"))
    >>> round(low, 4), round(high, 4)
    (0.8256, 0.9448)
    """
    sums = cluster_sums(influence.each, clusters)
    if len(sums) < 2:
        return None
    variance = variance_of_sums(sums, len(influence.each), influence.shape, clustered=clusters is not None)
    return bounds_over_samples(
        influence.value,
        variance + influence.least_variance,
        sums,
        influence.shape,
        clustered=clusters is not None,
        bias=influence.bias,
    )


def variance_of_sums(sums: Floats, num_samples: int, shape: Shape, *, clustered: bool) -> float:
    """Return the variance of a mean from the centered sums over each group of samples, (G,)."""
    variance = float(np.square(sums).sum()) / num_samples**2
    # Wilson's interval wants the variance of a share itself, without the correction for having estimated the share.
    return variance if shape == "share" and not clustered else variance * len(sums) / (len(sums) - 1)


def bounds_over_samples(
    value: float, variance: float, sums: Floats, shape: Shape, *, clustered: bool, bias: float = 0.0
) -> tuple[float, float]:
    """Return the bounds of a metric from its variance and the centered sums over each group of samples, (G,).

    A share of right answers has Wilson's interval (1927), for as many answers as its variance amounts to. A mean of
    errors has Student's with Hall's transformation (1992, "On the removal of skewness by transformation"), for errors
    are lopsided. What lies between 0 and 1 has Student's on the logarithm of the odds, a correlation on Fisher's z, a
    coefficient of determination on the logarithm of what it leaves unexplained. The bounds hold the value itself.
    """
    num = len(sums)
    student = float(scipy.special.stdtrit(num - 1, 0.975))
    if shape == "share":
        return wilson(value, variance, num, student if clustered else Z95)
    if shape == "mean":
        low, high = _hall(value, math.sqrt(variance), sums, student)
    elif shape == "unit":
        low, high = _on_odds(value - bias, variance, num, student)
    elif shape == "correlation":
        low, high = _on_fishers_z(value, math.sqrt(variance), student)
    else:
        low, high = _on_unexplained(value, math.sqrt(variance), student)
    return min(low, value), max(high, value)


def skewness_of_mean(sums: Floats) -> float:
    """Return the skewness of a mean over samples, estimated from the centered sums over each group of samples, (G,).

    Near 1 where one sample decides the mean's error, near 0 where all matter alike.

    >>> round(skewness_of_mean(np.array([99.0] + [-1.0] * 99)), 2), round(skewness_of_mean(np.array([1.0, -1.0])), 2)
    (0.98, 0.0)
    """
    spread = float(np.square(sums).mean())
    return float((sums**3).mean()) / spread**1.5 / math.sqrt(len(sums)) if spread else 0.0


def wilson(value: float, variance: float, num: int, quantile: float = Z95) -> tuple[float, float]:
    """Return Wilson's interval of a share, for as many answers as its variance over samples amounts to.

    N out of N right: N / (N + z²) to 1, for so many answers cannot show that no further one is wrong.
    """
    spread = value * (1 - value)
    squared = quantile**2 * (variance / spread if spread and variance else 1 / num)  # z² / n
    center = (value + squared / 2) / (1 + squared)
    half = math.sqrt(squared * (spread + squared / 4)) / (1 + squared)
    # Rounding would leave 4e-19 where the formula gives 0, and 1 - 1e-16 where it gives 1.
    return 0.0 if value == 0 else max(0.0, center - half), 1.0 if value == 1 else min(1.0, center + half)


def _hall(value: float, error: float, sums: Floats, student: float) -> tuple[float, float]:
    """Student's interval of a mean, without the skewness of its studentized distribution (Hall 1992)."""
    if not error or not sums.any():
        return value, value
    skewness = skewness_of_mean(sums)
    if abs(skewness) < 1e-9:
        return value - student * error, value + student * error

    def inverse(quantile: float) -> float:
        return float(3 / skewness * (np.cbrt(1 + skewness * (quantile - skewness / 6)) - 1))

    return value - inverse(student) * error, value - inverse(-student) * error


def _on_odds(value: float, variance: float, num: int, student: float) -> tuple[float, float]:
    if not variance:
        return wilson(min(max(value, 0.0), 1.0), 0.0, num, student)
    error = math.sqrt(variance)
    if min(value, 1 - value) < max(error, 0.5 / num):  # odds are no scale so near an end
        return max(0.0, value - student * error), min(1.0, value + student * error)
    middle, half = math.log(value / (1 - value)), student * error / (value * (1 - value))
    return float(scipy.special.expit(middle - half)), float(scipy.special.expit(middle + half))


def _on_fishers_z(value: float, error: float, student: float) -> tuple[float, float]:
    inside = min(max(value, -1 + 1e-12), 1 - 1e-12)
    middle, half = math.atanh(inside), student * error / (1 - inside**2)
    return math.tanh(middle - half), math.tanh(middle + half)


def _on_unexplained(value: float, error: float, student: float) -> tuple[float, float]:
    left = 1 - value
    if left <= 0:
        return value, value
    factor = math.exp(min(student * error / left, 700.0))
    return 1 - left * factor, 1 - left / factor
