"""Whether rows of a board differ: a paired test of every pair on the same samples, adjusted for all pairs together.

With one seed of right and wrong answers the test is McNemar's, exact. Otherwise it is a t test of the difference of the
means over seeds and samples: samples are paired, variance over seeds is pooled over rows (`mmbench.report.variance`),
and the two parts' degrees of freedom are joined by Satterthwaite's formula. Samples of one group (a speaker, a patient)
count as one observation.
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

from mmbench.influence import Shape
from mmbench.report.statistics import holm
from mmbench.report.variance import SeedVariance, seed_variance
from mmbench.sample_intervals import cluster_sums

Floats: TypeAlias = NDArray[np.float64]

ALPHA = 0.05


@dataclass(frozen=True)
class Pairs:
    """Every pair of M rows compared on the same samples.

    Attributes:
        difference: (M, M) mean of the row minus mean of the column.
        error: (M, M) standard error of the difference.
        degrees: (M, M) degrees of freedom of `error`.
        p_values: (M, M) two-sided, of one comparison alone; NaN where no test can be made.
        adjusted: (M, M) the same adjusted for all pairs by Holm's method; 1 on the diagonal.
        test: What was made, in words.
    """

    difference: Floats
    error: Floats
    degrees: Floats
    p_values: Floats
    adjusted: Floats
    test: str

    @property
    def differs(self) -> NDArray[np.bool_]:
        """(M, M) whether two rows are told apart at 5 % over all pairs."""
        with np.errstate(invalid="ignore"):
            found: NDArray[np.bool_] = self.adjusted < ALPHA
        return found

    def take(self, rows: Sequence[int]) -> Pairs:
        """Return the comparisons of some of the rows, adjusted for these alone."""
        at = np.ix_(rows, rows)
        return Pairs(
            self.difference[at],
            self.error[at],
            self.degrees[at],
            self.p_values[at],
            _adjust(self.p_values[at]),
            self.test,
        )

    @property
    def num_pairs(self) -> int:
        """How many pairs were tested."""
        return int(np.isfinite(self.p_values[np.triu_indices(len(self.p_values), k=1)]).sum())


def compare_pairs(
    scores: Floats, clusters: NDArray[np.int64] | None = None, *, seeds: SeedVariance | None = None
) -> Pairs:
    """Compare every pair of rows.

    Args:
        scores: (M, S, N), what each sample adds to the mean that the metric is, under each seed.
        clusters: (N,), the number of the group of each sample; None where samples are independent.
        seeds: Variance over seeds; estimated from the scores where it is not given.
    """
    num_rows, num_seeds, num_samples = scores.shape
    by_sample = scores.mean(axis=1)  # (M, N)
    means = by_sample.mean(axis=1)
    difference = means[:, None] - means[None]
    binary = is_share(scores)
    sums = cluster_sums(by_sample, clusters)  # (M, G)
    num_clusters = sums.shape[1]
    if num_clusters < 2:
        nothing = np.full((num_rows, num_rows), math.nan)
        return Pairs(difference, nothing, nothing, nothing, _adjust(nothing), "one sample alone says nothing")
    variance = _sample_variance(sums, cluster_sums(np.ones(num_samples), clusters), means, share=binary)
    degrees = np.full_like(variance, float(num_clusters - 1))
    if num_seeds > 1:
        seeds = seed_variance(scores, clusters) if seeds is None else seeds
        variance, degrees = _with_seeds(variance, degrees, seeds, num_seeds)
    if binary and num_seeds == 1 and clusters is None:
        p_values, test = mcnemar_pairs(scores[:, 0]), "exact McNemar"
    else:
        p_values = _t_test(difference, variance, degrees)
        test = "paired t test over " + ("seeds and " if num_seeds > 1 else "")
        test += "samples" if clusters is None else f"{num_clusters} groups of samples"
    return Pairs(difference, np.sqrt(variance), degrees, p_values, _adjust(p_values), test)


def interval_of_pair(pairs: Pairs, one: int, other: int, limit: float = math.inf) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two rows; it holds 0 wherever the test finds no difference.

    Exact tests of right and wrong answers ask for more than the normal approximation of the interval does.

    Args:
        pairs: The comparisons.
        one, other: The rows.
        limit: Largest difference that there can be, such as 1 for shares.
    """
    difference, p_value = float(pairs.difference[one, other]), float(pairs.p_values[one, other])
    half = float(scipy.special.stdtrit(pairs.degrees[one, other], 0.975) * pairs.error[one, other])
    low, high = difference - half, difference + half
    if not p_value < ALPHA:
        low, high = min(low, 0.0), max(high, 0.0)
    return max(low, -limit), min(high, limit)


def limit_of(shape: Shape) -> float:
    """Return the largest difference of two scores of this shape."""
    return {"share": 1.0, "unit": 1.0, "correlation": 2.0}.get(shape, math.inf)


def is_share(scores: Floats) -> bool:
    """Whether scores are right (1) or wrong (0) answers, so that their mean is a share."""
    return bool(((scores == 0) | (scores == 1)).all())


def mcnemar_pairs(right: Floats) -> Floats:
    """Return the p-value of McNemar's exact test for every pair: (M, N) of 0 and 1 -> (M, M)."""
    both = right @ right.T
    only = np.rint(right.sum(axis=1)[:, None] - both).astype(np.int64)  # (M, M): the row alone is right
    discordant = only + only.T
    tail = scipy.stats.binom.cdf(np.minimum(only, only.T), discordant, 0.5)
    found: Floats = np.where(discordant == 0, 1.0, np.minimum(1.0, 2 * tail))
    return found


def detectable_difference(pairs: Pairs, one: int, other: int, power: float = 0.8) -> float:
    """Return the smallest true difference of two rows that the test made finds with this power.

    At the level that Holm's method demands of the first of all pairs.
    """
    degrees = float(pairs.degrees[one, other])
    level = ALPHA / max(1, pairs.num_pairs)
    quantiles = scipy.special.stdtrit(degrees, 1 - level / 2) + scipy.special.stdtrit(degrees, power)
    return float(quantiles * pairs.error[one, other])


def _sample_variance(sums: Floats, sizes: Floats, means: Floats, *, share: bool) -> Floats:
    """Variance of the difference of two means over samples, for every pair.

    Shares: two more samples, of which each row gets one right that the other gets wrong (Agresti & Min 2005), so that
    rows that agree on every sample have no variance of zero.

    Shapes: sums (M, G) over the samples of each cluster, sizes (G,), means (M,) -> (M, M).
    """
    num_clusters, num_samples = sums.shape[1], float(sizes.sum())
    centered = sums - means[:, None] * sizes  # (M, G)
    product = centered @ centered.T
    squared = np.diagonal(product)[:, None] + np.diagonal(product)[None] - 2 * product
    squared = np.maximum(squared, 0.0) + (1.0 if share else 0.0)
    np.fill_diagonal(squared, 0.0)
    found: Floats = squared / num_samples**2 * num_clusters / (num_clusters - 1)
    return found


def _with_seeds(variance: Floats, degrees: Floats, seeds: SeedVariance, num_seeds: int) -> tuple[Floats, Floats]:
    """Add what seeds contribute to the variance of a difference; join the degrees of freedom by Satterthwaite."""
    part = np.maximum(seeds.variance, seeds.residual) / num_seeds  # (M,)
    extra = seeds.of_seeds / num_seeds
    # Seeds that err on opposite samples cancel in the mean over seeds; other samples would not cancel so well.
    least = (seeds.residual[:, None] + seeds.residual[None]) / num_seeds
    total = np.maximum(variance, least) + extra[:, None] + extra[None]
    both = part[:, None] + part[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.square(part) / seeds.degrees
        seed_degrees = np.minimum(np.square(both) / (each[:, None] + each[None]), seeds.pooled_degrees)
        joined = np.square(total) / (np.square(variance) / degrees + np.square(both) / seed_degrees)
    return total, np.where(np.isfinite(joined), joined, degrees)


def _t_test(difference: Floats, variance: Floats, degrees: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(difference) / np.sqrt(variance)
    ratio = np.where(difference == 0, 0.0, ratio)
    p_values: Floats = 2 * scipy.special.stdtr(degrees, -ratio)
    return np.where(difference == 0, 1.0, p_values)


def _adjust(p_values: Floats) -> Floats:
    """Holm's method over the upper triangle."""
    rows, columns = np.triu_indices(len(p_values), k=1)
    adjusted = np.ones_like(p_values)
    adjusted[rows, columns] = adjusted[columns, rows] = holm(p_values[rows, columns])
    return adjusted
