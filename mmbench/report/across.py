"""Methods compared across datasets: normalised scores, ranks, robust means and critical differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import scipy.special
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from mmbench.report.intervals import Interval, Undefined
from mmbench.report.variance import moderated

Floats: TypeAlias = NDArray[np.float64]

RESAMPLES = 2000
#: With fewer datasets the Friedman test has next to no power and its approximation is poor (Demšar 2006).
MIN_DATASETS = 5


@dataclass(frozen=True)
class Friedman:
    """Do the methods differ at all, judged by their ranks on the datasets?

    Attributes:
        statistic: Friedman's chi-squared.
        p_value: Of the chi-squared approximation.
        f_statistic: Iman and Davenport's less conservative form; infinite when all datasets rank alike.
        f_p_value: Its p-value.
    """

    statistic: float
    p_value: float
    f_statistic: float
    f_p_value: float


@dataclass(frozen=True)
class CriticalDifference:
    """What a critical-difference diagram shows.

    Attributes:
        mean_ranks: By method; 1 is best.
        critical_difference: Mean ranks that differ by less are not told apart by Nemenyi's test at 5 %.
        p_values: (M, M) Nemenyi's, adjusted for all pairs.
        groups: Positions of methods that are not told apart, each group as large as it can be: the diagram's bars.
        friedman: The test that must be significant before the pairs mean anything.
        num_datasets: How many datasets the ranks rest on.
    """

    mean_ranks: Floats
    critical_difference: float
    p_values: Floats
    groups: tuple[tuple[int, ...], ...]
    friedman: Friedman
    num_datasets: int


def normalised_scores(scores: ArrayLike, floors: ArrayLike, bests: ArrayLike) -> Floats:
    """Put datasets on one scale: 0 at the majority floor, 1 at the best score.

    Works in both directions, for an error's best lies below its floor. Nothing is clipped: below the floor is negative.
    NaN where a score is missing, and for a dataset whose best does not differ from its floor.

    Shapes: scores (M, D), floors (D,), bests (D,) -> (M, D).

    >>> normalised_scores([[0.8, 2.0]], floors=[0.1, 4.0], bests=[0.9, 2.0]).round(3).tolist()
    [[0.875, 1.0]]
    """
    low, high = np.asarray(floors, dtype=np.float64), np.asarray(bests, dtype=np.float64)
    span = np.where(high != low, high - low, np.nan)
    return (_table(scores) - low) / span


def mean_ranks(scores: ArrayLike, *, higher_is_better: bool = True) -> Floats:
    """Mean over datasets of each complete method's rank among the complete ones: 1 is best, ties share their mean.

    Shapes: (M, D) -> (M,), NaN for a method that lacks a dataset.
    """
    table = _table(scores)
    complete = np.isfinite(table).all(axis=1)
    found = np.full(len(table), np.nan)
    if complete.any() and table.shape[1]:
        found[complete] = _ranks(table[complete], higher_is_better).mean(axis=1)
    return found


def win_rates(scores: ArrayLike, *, higher_is_better: bool = True) -> Floats:
    """Share of (other complete method, dataset) pairs that a method wins; a tie is half a win.

    Shapes: (M, D) -> (M,), NaN for a method that lacks a dataset, or when no two are complete.
    """
    table = _table(scores) if higher_is_better else -_table(scores)
    complete = np.isfinite(table).all(axis=1)
    found = np.full(len(table), np.nan)
    kept = table[complete]
    if len(kept) > 1 and kept.shape[1]:
        against = np.sign(kept[:, None] - kept[None])  # (M', M', D)
        share = (against + 1) / 2
        found[complete] = (share.mean(axis=2).sum(axis=1) - 0.5) / (len(kept) - 1)  # less the tie with itself
    return found


def interquartile_mean(values: ArrayLike) -> float:
    """Mean of the middle half: steadier than the mean, and less blind than the median (Agarwal et al. 2021).

    Drops the lowest and the highest quarter, rounded down, of all values together.

    >>> interquartile_mean([0, 1, 2, 3, 4, 5, 6, 100])
    3.5
    """
    return float(_iqm(np.asarray(values, dtype=np.float64).reshape(1, -1))[0])


def interquartile_mean_interval(
    scores: Sequence[ArrayLike], sample_errors: Sequence[float] = (), *, resamples: int = RESAMPLES
) -> Interval | Undefined:
    """Interquartile mean over all runs of a method, with a 95 % interval over seeds and test samples.

    Within each dataset runs vary with their seed, and all of them together with the test samples. Both parts are drawn
    from normal distributions around the runs. Seeds are too few to resample: three of them would give an interval that
    holds the truth 85 times in 100. The variance of a dataset's seeds is pooled over datasets as far as they are alike
    (`mmbench.report.variance`), and Student's quantile allows for its being estimated. Holds for these datasets: it
    says nothing of others.

    Args:
        scores: D times (S of that dataset,), normalized.
        sample_errors: Standard error of each dataset's mean from its test samples; none are known by default.
        resamples: How many draws.
    """
    strata = [np.asarray(runs, dtype=np.float64) for runs in scores]
    if not strata or any(runs.ndim != 1 or not len(runs) or not np.isfinite(runs).all() for runs in strata):
        return Undefined("a dataset lacks a result; a mean over the others would not be comparable")
    if min(len(runs) for runs in strata) < 2:
        return Undefined("one seed per dataset: an interval needs at least two")
    errors = np.asarray(sample_errors if len(sample_errors) else [0.0] * len(strata), dtype=np.float64)
    own = np.array([runs.var(ddof=1) for runs in strata])
    counts = np.array([len(runs) for runs in strata])
    seeds = moderated(own, np.zeros(len(own)), int(counts.min()) - 1)
    rng = np.random.default_rng(20_240_229)
    drawn = [
        runs + rng.normal(0, math.sqrt(variance), (resamples, len(runs))) + rng.normal(0, error, (resamples, 1))
        for runs, variance, error in zip(strata, seeds.variance, errors)
    ]
    value = interquartile_mean(np.concatenate(strata))
    spread = float(_iqm(np.concatenate(drawn, axis=1)).std())
    parts = seeds.variance / counts
    squared = float((np.square(parts) / seeds.degrees).sum())
    degrees = float((parts + errors**2).sum()) ** 2 / squared if squared else math.inf
    half = float(scipy.special.stdtrit(min(degrees, 1e6), 0.975)) * spread
    return Interval(value, value - half, value + half, "seeds and samples" if errors.any() else "seeds")


def critical_difference(scores: ArrayLike, *, higher_is_better: bool = True) -> CriticalDifference | Undefined:
    """Friedman's test over datasets and Nemenyi's over pairs of methods, or why they cannot be had.

    Source: Demšar 2006, "Statistical comparisons of classifiers over multiple data sets", JMLR 7. Datasets are the
    repetitions; pass each method's mean over seeds.

    Shapes: (M, D), NaN where there is no result. All methods must be complete.
    """
    table = _table(scores)
    num_methods, num_datasets = table.shape
    incomplete = int((~np.isfinite(table)).any(axis=1).sum())
    if incomplete:
        return Undefined(f"{incomplete} of {num_methods} methods lack a result on some dataset")
    if num_datasets < MIN_DATASETS:
        return Undefined(f"{num_datasets} complete datasets; ranks over datasets need at least {MIN_DATASETS}")
    if num_methods < 3:
        return Undefined(f"{num_methods} methods; compare two by a paired test on each dataset")
    ranks = _ranks(table, higher_is_better)  # (M, D)
    if (ranks == ranks[0]).all():
        return Undefined("all methods tie on every dataset")
    means = ranks.mean(axis=1)
    error = math.sqrt(num_methods * (num_methods + 1) / (6 * num_datasets))
    studentised = scipy.stats.studentized_range
    difference = float(studentised.ppf(0.95, num_methods, np.inf)) / math.sqrt(2) * error
    gaps = np.abs(means[:, None] - means[None])
    p_values: Floats = np.clip(studentised.sf(gaps / error * math.sqrt(2), num_methods, np.inf), 0.0, 1.0)
    np.fill_diagonal(p_values, 1.0)
    return CriticalDifference(
        mean_ranks=means,
        critical_difference=difference,
        p_values=p_values,
        groups=_bars(means, difference),
        friedman=_friedman(ranks),
        num_datasets=num_datasets,
    )


def _friedman(ranks: Floats) -> Friedman:
    """From ranks (M, D); the statistic is corrected for ties, as in scipy."""
    num_methods, num_datasets = ranks.shape
    statistic, p_value = (float(value) for value in scipy.stats.friedmanchisquare(*ranks))
    rest = num_datasets * (num_methods - 1) - statistic
    f_statistic = (num_datasets - 1) * statistic / rest if rest > 1e-9 * statistic else math.inf
    degrees = num_methods - 1, (num_methods - 1) * (num_datasets - 1)
    return Friedman(statistic, p_value, f_statistic, float(scipy.stats.f.sf(f_statistic, *degrees)))


def _bars(means: Floats, difference: float) -> tuple[tuple[int, ...], ...]:
    """Runs of methods, in order of rank, whose first and last are not told apart; none inside another."""
    order = np.argsort(means, kind="stable")
    ordered = means[order]
    ends = np.searchsorted(ordered, ordered + difference, side="left")  # a gap equal to the difference tells apart
    bars, reached = [], 0
    for start, end in enumerate(ends):
        if end > reached and end - start > 1:
            bars.append(tuple(int(method) for method in order[start:end]))
        reached = max(reached, int(end))
    return tuple(bars)


def _ranks(table: Floats, higher_is_better: bool) -> Floats:
    """Ranks within each dataset: (M, D) -> (M, D)."""
    ranks: Floats = scipy.stats.rankdata(-table if higher_is_better else table, method="average", axis=0)
    return ranks


def _iqm(rows: Floats) -> Floats:
    """Mean of the middle half of each row: (R, N) -> (R,)."""
    cut = rows.shape[1] // 4
    middle: Floats = np.sort(rows, axis=1)[:, cut : rows.shape[1] - cut].mean(axis=1)
    return middle


def _table(scores: ArrayLike) -> Floats:
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"scores must be (methods, datasets), got shape {table.shape}")
    return table
