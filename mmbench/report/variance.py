"""Variance of a score over seeds and over test samples, with the seeds' part pooled over the rows of a board.

A row's score is modeled as x[m, s, n] = mean[m] + seed[m, s] + sample[m, n] + residual[m, s, n]: seeds of different
rows are independent, samples are shared by all rows and seeds. Two or three seeds estimate a row's own variance over
seeds so badly that no difference would ever be significant; rows of one board are trained alike, so they share it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.special
import scipy.stats
from numpy.typing import NDArray

from mmbench.sample_intervals import cluster_sums

Floats: TypeAlias = NDArray[np.float64]

#: Rows needed for an estimate of how much their variances differ.
MIN_POOLED = 3
#: A row whose variance over seeds has a smaller p-value than this, given the others', keeps its own.
OUTLIER_LEVEL = 1e-6
#: Rows are never taken to be more alike than this: so few of them cannot show that they are. In simulations of 20
#: equal rows, a fourth of which vary six times as much over seeds as the others, 1 to 6 of 100 boards have a false
#: difference; with 10 instead of 6 it is 3 to 10, with 40 it is 10 to 14.
MAX_PRIOR_DEGREES = 6.0


@dataclass(frozen=True)
class RowSeeds:
    """The variance of one row's score between seeds.

    Attributes:
        variance: Of one seed's score.
        degrees: Its degrees of freedom.
        residual: The part of it that another draw of test samples would change.
    """

    variance: float
    degrees: float
    residual: float


@dataclass(frozen=True)
class SeedVariance:
    """Variance of a score between seeds, by row; of one seed, not of the mean.

    Attributes:
        variance: (M,) moderated: between the row's own and the pooled one.
        degrees: (M,) degrees of freedom of `variance`.
        residual: (M,) the part that is the residual's: what another draw of test samples would change by seed.
        pooled_degrees: Degrees of freedom of all rows together, an upper limit for any combination of rows.
    """

    variance: Floats
    degrees: Floats
    residual: Floats
    pooled_degrees: float

    @property
    def of_seeds(self) -> Floats:
        """(M,) what is left without the residual's part: the variance of the row's expected score over seeds."""
        left: Floats = np.maximum(self.variance - self.residual, 0.0)
        return left

    def of_row(self, at: int) -> RowSeeds:
        """Return one row's variance."""
        return RowSeeds(float(self.variance[at]), float(self.degrees[at]), float(self.residual[at]))

    @classmethod
    def stack(cls, rows: Sequence[RowSeeds | None]) -> SeedVariance:
        """Join rows that are not pooled; None for one that does not vary."""
        known = [row or RowSeeds(0.0, 1.0, 0.0) for row in rows]
        return cls(
            np.array([row.variance for row in known]),
            np.array([row.degrees for row in known]),
            np.array([row.residual for row in known]),
            sum(row.degrees for row in rows if row is not None),
        )


def residual_variance(scores: Floats, clusters: NDArray[np.int64] | None = None) -> Floats:
    """Return the variance that the interaction of seeds and samples adds to the mean over samples of one seed.

    The mean square of the interaction in a two-way analysis of variance, over the number of samples.

    Shapes: (M, S, N) -> (M,).
    """
    num_seeds, num_samples = scores.shape[1:]
    centered = scores - scores.mean(axis=2, keepdims=True)
    interaction = cluster_sums(centered - centered.mean(axis=1, keepdims=True), clusters)  # (M, S, G)
    num_clusters = interaction.shape[2]
    if num_seeds < 2 or num_clusters < 2:
        return np.zeros(len(scores))
    scale = (num_seeds - 1) * (num_clusters - 1) / num_clusters * num_samples**2
    found: Floats = np.square(interaction).sum(axis=(1, 2)) / scale
    return found


def seed_variance(scores: Floats, clusters: NDArray[np.int64] | None = None) -> SeedVariance:
    """Return the moderated variance over seeds of each row.

    The empirical Bayes estimate of Smyth 2004 ("Linear models and empirical Bayes methods for assessing differential
    expression"): rows' variances come from a scaled inverse chi-squared distribution, whose scale and degrees of
    freedom are estimated from all rows; each row's variance is drawn to the scale the more, the more alike the rows
    are. Rows that stand out (one of whose seeds failed, say) are left out of the pool and keep their own variance, as
    in Phipson et al. 2016. A pooled variance below what samples alone add to it is raised to that. Fewer than three
    rows keep their own.

    Shapes: scores (M, S, N) with two seeds or more; clusters (N,) numbers of the groups of samples.
    """
    by_seed = scores.mean(axis=2)
    return moderated(by_seed.var(axis=1, ddof=1), residual_variance(scores, clusters), scores.shape[1] - 1)


def moderated(variance: Floats, residual: Floats, degrees: int) -> SeedVariance:
    """Return `seed_variance` from the rows' own variances over seeds, their residual parts and degrees of freedom."""
    num_rows = len(variance)
    # A variance far below what samples add says only that it is small.
    floor = np.maximum(residual, residual.mean())
    raised = np.maximum(variance, floor)
    own = SeedVariance(variance, np.full(num_rows, float(degrees)), residual, float(num_rows * degrees))
    if num_rows < MIN_POOLED or not (raised > 0).all():
        return own
    typical = max(float(np.median(variance)) / (scipy.stats.chi2.median(degrees) / degrees), float(floor.mean()))
    ordinary = scipy.stats.chi2.sf(degrees * variance / typical, degrees) >= OUTLIER_LEVEL
    if ordinary.sum() < MIN_POOLED:
        return own
    prior, prior_degrees = _prior(raised[ordinary], degrees)
    pooled_degrees = float(ordinary.sum() * degrees)
    # The mean is pulled up by rows with large variances, the scale of the prior is not: the larger one is safe for
    # both.
    prior = max(prior, float(variance[ordinary].mean()))
    drawn = (prior_degrees * prior + degrees * variance) / (prior_degrees + degrees)
    total = np.full(num_rows, min(prior_degrees + degrees, pooled_degrees))
    drawn = np.where(ordinary, drawn, variance)
    total = np.where(ordinary, total, degrees)
    return SeedVariance(np.maximum(drawn, residual), total, residual, pooled_degrees)


def _prior(variance: Floats, degrees: int) -> tuple[float, float]:
    """Scale and degrees of freedom of the distribution of variances, by the moments of their logarithms."""
    logs = np.log(variance)
    half = degrees / 2
    centered = logs - scipy.special.digamma(half) + math.log(half)
    excess = float(centered.var(ddof=1)) - float(scipy.special.polygamma(1, half))
    least = float(scipy.special.polygamma(1, MAX_PRIOR_DEGREES / 2))
    if excess <= least:
        return 0.0, MAX_PRIOR_DEGREES
    prior_half = _inverse_trigamma(excess)
    mean = float(centered.mean()) + float(scipy.special.digamma(prior_half)) - math.log(prior_half)
    return math.exp(mean), 2 * prior_half


def _inverse_trigamma(value: float) -> float:
    """Return x with trigamma(x) = value > 0, by Newton's method on the reciprocal, which is nearly linear."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(scipy.special.polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(scipy.special.polygamma(2, x))
        x += step
        if abs(step) < 1e-8 * x:
            break
    return x
