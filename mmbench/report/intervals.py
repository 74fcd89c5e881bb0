"""How sure a score is: 95 % confidence intervals over seeds and test samples, or groups of samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.special
from numpy.typing import ArrayLike, NDArray

from mmbench.influence import Shape
from mmbench.report.variance import RowSeeds, moderated, residual_variance
from mmbench.sample_intervals import bounds_over_samples, cluster_sums, variance_of_sums

Floats: TypeAlias = NDArray[np.float64]
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
        over: What would vary if one did it all again: "samples", "seeds", or "seeds and samples"; "groups of samples"
            where these are drawn in groups.
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
    bias: float = 0.0,
    least_variance: float = 0.0,
) -> Interval | Undefined:
    """Mean over seeds of a mean over samples, with an interval over both seeds and samples.

    All seeds share the test samples (a layout crossed with seeds). The samples' part depends on what is measured
    (`mmbench.sample_intervals`). The seeds' part is Student's t with the spread that seeds show, symmetric on the
    arcsine of the root for a share. What of that spread is seeds and samples together counts once. The two parts'
    distances from the value are joined by Pythagoras (Graybill & Wang 1980; Zou & Donner 2008, "Construction of
    confidence limits about effect measures"), the seeds' weighted so that it holds as often as it says. With one seed
    the interval says how that one model would do on other samples, and nothing of other seeds.

    Shapes: (S, N) score of each sample under each seed, or (N,) for one seed.

    Args:
        per_sample: The scores; of a metric that is no mean, its value plus each sample's influence.
        shape: "share" for right (1) and wrong (0) answers; see `Shape`.
        clusters: (N,) the number of the group of each sample: groups are drawn, not samples.
        seeds: Variance over seeds, pooled over the rows of a board; from these scores alone where it is not given.
        bias, least_variance: As in `Influence`, mean over seeds.

    >>> interval = mean_interval([1.0] * 90 + [0.0] * 10, shape="share")
    >>> interval.value, round(interval.low, 2), round(interval.high, 2), interval.over
    (0.9, 0.83, 0.94, 'samples')
    """
    scores = finite(per_sample)
    scores = scores[None] if scores.ndim == 1 else scores
    if scores.ndim != 2:
        raise ValueError(f"scores must be (seeds, samples) or (samples,), got shape {scores.shape}")
    num_seeds, num_samples = scores.shape
    value, clustered = float(scores.mean()), clusters is not None
    sums = cluster_sums(scores.mean(axis=0) - value, clusters)  # (G,)
    if len(sums) < 2:
        what = "group of test samples" if clustered else "test sample"
        return Undefined(f"{len(sums)} {what}: an interval over samples needs at least two")
    variance = variance_of_sums(sums, num_samples, shape, clustered=clustered)
    error = math.sqrt(variance)
    if num_seeds > 1:
        seeds = own_seeds(scores, clusters) if seeds is None else seeds
        variance = max(0.0, variance - seeds.residual / num_seeds)
    low, high = bounds_over_samples(value, variance + least_variance, sums, shape, clustered=clustered, bias=bias)
    over = drawn_anew(num_seeds, clustered=clustered)
    if num_seeds < 2 or seeds is None:
        return Interval(value, *clipped(low, high, shape), over, error)
    reach = math.sqrt(
        seeds.variance / num_seeds * _seed_weight(seeds.variance / num_seeds, variance, seeds.degrees)
    ) * float(scipy.special.stdtrit(seeds.degrees, 0.975))
    below, above = _arcsine_reaches(value, reach) if shape in ("share", "unit") and 0 < value < 1 else (reach, reach)
    low, high = value - math.hypot(min(low - value, 0.0), below), value + math.hypot(max(high - value, 0.0), above)
    return Interval(value, *clipped(low, high, shape), over, error)


def drawn_anew(num_seeds: int, *, clustered: bool) -> str:
    """Return what an interval of `mean_interval` is over: "seeds and samples", or "groups of samples" with one seed."""
    samples = "groups of samples" if clustered else "samples"
    return f"seeds and {samples}" if num_seeds > 1 else samples


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
