"""How sure a score is: 95 % confidence intervals over seeds and test samples, or groups of samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from mmbench.report.variance import RowSeeds, cluster_sums, moderated, residual_variance

Floats: TypeAlias = NDArray[np.float64]
#: How a score is spread over samples: a share of right answers, a mean of errors, or (with its range) anything else.
Shape: TypeAlias = Literal["share", "mean", "unit", "correlation", "r2"]

_Z95 = 1.959963984540054
#: Slope and offset of `_seed_weight` by degrees of freedom; each serves all up to the next.
_CALIBRATION = {
    1: (0.14, 0.00), 2: (0.20, 0.05), 3: (0.25, 0.20), 4: (0.20, 0.30), 5: (0.25, 0.50), 8: (0.30, 0.80),
    12: (0.20, 0.80), 20: (0.14, 0.80), 40: (0.06, 0.50), 100: (0.04, 0.50),
}  # fmt: skip


@dataclass(frozen=True)
class Undefined:
    """An answer that the data cannot give, and why."""

    reason: str


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % confidence interval.

    Attributes:
        value: The point estimate.
        low, high: Bounds.
        over: What would vary if one did it all again: "samples", "seeds", or "seeds and samples".
        sample_error: Standard error from the samples alone; 0 where nothing is known of it.
    """

    value: float
    low: float
    high: float
    over: str
    sample_error: float = 0.0


def mean_interval(
    per_sample: ArrayLike,
    *,
    shape: Shape = "mean",
    clusters: NDArray[np.int64] | None = None,
    seeds: RowSeeds | None = None,
) -> Interval | Undefined:
    """Mean over seeds of a mean over samples, with an interval over both seeds and samples.

    All seeds share the test samples (a layout crossed with seeds). The samples' part is Wilson's interval (1927) for a
    share of right answers, for as many answers as its variance amounts to; for another mean, Student's with Hall's
    transformation (1992, "On the removal of skewness by transformation"), for errors are lopsided. The seeds' part is
    Student's t with the spread that seeds show, symmetric on the arcsine of the root for a share. What of that spread
    is seeds and samples together counts once. The two parts' distances from the value are joined by Pythagoras
    (Graybill & Wang 1980; Zou & Donner 2008, "Construction of confidence limits about effect measures"), the seeds'
    weighted so that it holds as often as it says. With one seed the interval says how that one model would do on other
    samples, and nothing of other seeds.

    Shapes: (S, N) score of each sample under each seed, or (N,) for one seed.

    Args:
        per_sample: The scores.
        shape: "share" for right (1) and wrong (0) answers.
        clusters: (N,) the number of the group of each sample: groups are drawn, not samples.
        seeds: Variance over seeds, pooled over the rows of a board; from these scores alone where it is not given.

    >>> interval = mean_interval([1.0] * 90 + [0.0] * 10, shape="share")
    >>> interval.value, round(interval.low, 2), round(interval.high, 2), interval.over
    (0.9, 0.83, 0.94, 'samples')
    """
    scores = finite(per_sample)
    scores = scores[None] if scores.ndim == 1 else scores
    if scores.ndim != 2:
        raise ValueError(f"scores must be (seeds, samples) or (samples,), got shape {scores.shape}")
    num_seeds, num_samples = scores.shape
    value = float(scores.mean())
    sums = cluster_sums(scores.mean(axis=0) - value, clusters)  # (G,)
    num_clusters = len(sums)
    if num_clusters < 2:
        what = "test sample" if clusters is None else "group of test samples"
        return Undefined(f"{num_clusters} {what}: an interval over samples needs at least two")
    variance = float(np.square(sums).sum()) / num_samples**2
    if shape != "share" or clusters is not None:
        variance *= num_clusters / (num_clusters - 1)
    error = math.sqrt(variance)
    if num_seeds > 1:
        seeds = own_seeds(scores, clusters) if seeds is None else seeds
        variance = max(0.0, variance - seeds.residual / num_seeds)
    low, high = _over_samples(value, variance, sums, shape, clustered=clusters is not None)
    if num_seeds < 2 or seeds is None:
        return Interval(value, *clipped(low, high, shape), "samples", error)
    reach = math.sqrt(
        seeds.variance / num_seeds * _seed_weight(seeds.variance / num_seeds, variance, seeds.degrees)
    ) * float(scipy.special.stdtrit(seeds.degrees, 0.975))
    below, above = _arcsine_reaches(value, reach) if shape == "share" and 0 < value < 1 else (reach, reach)
    low, high = value - math.hypot(min(low - value, 0.0), below), value + math.hypot(max(high - value, 0.0), above)
    return Interval(value, *clipped(low, high, shape), "seeds and samples", error)


def own_seeds(scores: Floats, clusters: NDArray[np.int64] | None = None) -> RowSeeds:
    """Return the variance over seeds that one row shows alone: (S, N) with two seeds or more."""
    residual = residual_variance(scores[None], clusters)
    found = moderated(scores.mean(axis=1).var(ddof=1)[None], residual, len(scores) - 1)
    return RowSeeds(float(found.variance[0]), float(found.degrees[0]), float(residual[0]))


def clipped(low: float, high: float, shape: Shape) -> tuple[float, float]:
    """Return bounds within the range that a score can have."""
    least = {"share": 0.0, "mean": -math.inf, "unit": 0.0, "correlation": -1.0, "r2": -math.inf}[shape]
    most = math.inf if shape == "mean" else 1.0
    return max(low, least), min(high, most)


def finite(values: ArrayLike, num_axes: int | None = None) -> Floats:
    """Return scores as numbers, refusing what is none.

    Raises:
        ValueError: they have other axes, are none at all or not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if num_axes is not None and array.ndim != num_axes:
        raise ValueError(f"{num_axes} axis was expected, got shape {array.shape}")
    if not array.size or not np.isfinite(array).all():
        raise ValueError("scores must be finite, and at least one; leave out what has no result, and say so")
    return array


def _over_samples(value: float, variance: float, sums: Floats, shape: Shape, *, clustered: bool) -> tuple[float, float]:
    """Bounds of a mean over samples from its variance and the centered sums of each group of samples, (G,)."""
    num = len(sums)
    student = float(scipy.special.stdtrit(num - 1, 0.975))
    if shape == "share":
        return _wilson(value, variance, num, student if clustered else _Z95)
    return _hall(value, math.sqrt(variance), sums, student)


def _wilson(value: float, variance: float, num: int, quantile: float = _Z95) -> tuple[float, float]:
    """Wilson's interval of a share, for as many answers as its variance over samples amounts to.

    N out of N right: N / (N + z²) to 1, for so many answers cannot show that no further one is wrong.
    """
    spread = value * (1 - value)
    squared = quantile**2 * (variance / spread if spread and variance else 1 / num)  # z² / n
    center = (value + squared / 2) / (1 + squared)
    half = math.sqrt(squared * (spread + squared / 4)) / (1 + squared)
    return max(0.0, center - half), min(1.0, center + half)


def _hall(value: float, error: float, sums: Floats, student: float) -> tuple[float, float]:
    """Student's interval of a mean, without the skewness of its studentized distribution (Hall 1992)."""
    num, spread = len(sums), float(np.square(sums).mean())
    if not spread or not error:
        return value, value
    skewness = float((sums**3).mean()) / spread**1.5 / math.sqrt(num)  # of the mean
    if abs(skewness) < 1e-9:
        return value - student * error, value + student * error

    def inverse(quantile: float) -> float:
        return 3 / skewness * (float(np.cbrt(1 + skewness * (quantile - skewness / 6))) - 1)

    return value - inverse(student) * error, value - inverse(-student) * error


def _arcsine_reaches(value: float, reach: float) -> tuple[float, float]:
    """How far below and above a share a symmetric reach goes, laid out where a share's spread is the same everywhere.

    That is the arcsine of its root. Shares of seeds near 1 spread further down than up, and a few seeds seldom show one
    of the low ones.
    """
    middle, half = math.asin(math.sqrt(value)), reach / (2 * math.sqrt(value * (1 - value)))
    low, high = math.sin(max(middle - half, 0.0)) ** 2, math.sin(min(middle + half, math.pi / 2)) ** 2
    return value - low, high - value


def _seed_weight(of_seeds: float, of_samples: float, degrees: float) -> float:
    """How much of the seeds' squared half-width counts beside the samples', given the two parts' variances.

    All of it where seeds decide, none where samples do: few seeds estimate their own variance so badly that taking
    all of it always would be right more often than promised. The constants bring the coverage of two normal parts near
    95 % over all ratios of their variances, rather above than below: 94.3 to 96.8 % at one degree of freedom, 94.9 to
    96.2 % at two, 95.0 to 95.7 % at four, where a weight of 1 gives up to 98.7, 97.7 and 96.6 % (numerical
    integration).
    """
    if not of_samples:
        return 1.0
    slope, offset = _CALIBRATION[max(known for known in _CALIBRATION if known <= max(degrees, 1.0))]
    ratio = of_seeds / of_samples + offset
    return math.exp(-slope / ratio) if ratio else 0.0
