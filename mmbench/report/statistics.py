"""Whether scores differ: paired tests on the same samples and seeds, ranks with ties, groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from mmbench.report.intervals import Floats, Interval, draws, finite, interval_of_draws

SIGN_FLIPS = 9999
#: A p-value is multiplied by up to the number of pairs, so it must be able to be small.
PAIR_RESAMPLES = 10_000
#: Up to this many differences that are not zero, every pattern of signs is tried.
MAX_EXACT_FLIPS = 13


@dataclass(frozen=True)
class McNemar:
    """Exact McNemar test of two classifiers on the same samples.

    Attributes:
        only_a, only_b: Samples that only the one gets right; the others say nothing about a difference.
        p_value: Two-sided.
    """

    only_a: int
    only_b: int
    p_value: float


# Paired tests


def mcnemar(right_a: ArrayLike, right_b: ArrayLike) -> McNemar:
    """Exact McNemar test: are two classifiers right equally often, given the same samples?

    Under that hypothesis each sample that only one of them gets right is a fair coin (McNemar 1947; the exact binomial
    form). The test for two single models; it knows nothing of other seeds.

    Shapes: (N,) and (N,), boolean.

    >>> mcnemar([True] * 8 + [False], [False] * 8 + [True])
    McNemar(only_a=8, only_b=1, p_value=0.0390625)
    """
    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    _check_pairs(a, b)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return McNemar(0, 0, 1.0)
    return McNemar(only_a, only_b, float(scipy.stats.binomtest(only_a, only_a + only_b).pvalue))


def permutation_test(a: ArrayLike, b: ArrayLike, *, sign_flips: int = SIGN_FLIPS) -> float:
    """Two-sided p-value of the mean difference of two models' scores on the same samples, by flipping signs.

    Exact for up to 13 differences that are not zero; above, the observed pattern and `sign_flips` random ones, which
    never gives zero (Phipson & Smyth 2010). For right and wrong answers it is the exact McNemar test.

    Shapes: (N,) and (N,).
    """
    first, second = finite(a, num_axes=1), finite(b, num_axes=1)
    _check_pairs(first, second)
    differences = first - second
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    # Sums that are equal on paper must be equal here, whatever order they were added in.
    threshold = abs(differences.sum()) * (1 - 1e-12) - 1e-12 * float(np.abs(differences).max())
    if len(differences) <= MAX_EXACT_FLIPS:
        patterns = np.arange(2 ** len(differences))[:, None] >> np.arange(len(differences)) & 1
        return float((np.abs((2.0 * patterns - 1) @ differences) >= threshold).mean())
    rng = np.random.default_rng(20_240_229)
    chunk = max(1, 4_000_000 // len(differences))
    as_extreme = 1
    for start in range(0, sign_flips, chunk):
        rows = min(chunk, sign_flips - start)
        signs = 2.0 * rng.integers(0, 2, size=(rows, len(differences)), dtype=np.int8) - 1
        as_extreme += int((np.abs(signs @ differences) >= threshold).sum())
    return as_extreme / (sign_flips + 1)


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


def paired_p_values(models: Sequence[ArrayLike]) -> Floats:
    """P-value of every pair of models on the same samples and seeds, adjusted for the number of pairs by Holm's method.

    With several seeds by `mean_interval` of the difference, so that a seed's luck is no discovery; with one seed by
    the exact McNemar test for right and wrong answers, else by `permutation_test`.

    Shapes: M times (S, N) -> (M, M), symmetric, 1 on the diagonal.
    """
    scores = [np.atleast_2d(finite(model)) for model in models]
    if len({model.shape for model in scores}) > 1:
        raise ValueError(f"models must be scored on the same seeds and samples, got {[m.shape for m in scores]}")
    rows, columns = np.triu_indices(len(scores), k=1)
    if len(scores[0]) > 1:
        found = _seeded_p_values(np.stack(scores), rows, columns)
    else:
        found = [_single_p_value(scores[i][0], scores[j][0]) for i, j in zip(rows, columns)]
    adjusted = np.ones((len(scores), len(scores)))
    adjusted[rows, columns] = adjusted[columns, rows] = holm(found)
    return adjusted


def _seeded_p_values(scores: Floats, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> list[float]:
    """As `mean_interval` of each difference, with one pass over the draws for all: scores (M, S, N)."""
    num_models, num_seeds, num_samples = scores.shape
    if num_samples < 2:
        return [math.nan] * len(rows)
    flat = scores.reshape(-1, num_samples)
    means = np.concatenate([times @ flat.T for times in draws(num_samples, PAIR_RESAMPLES)]) / num_samples
    drawn = means.reshape(-1, num_models, num_seeds)
    by_seed = scores.mean(axis=2)
    found = (interval_of_draws(by_seed[i] - by_seed[j], drawn[:, i] - drawn[:, j]) for i, j in zip(rows, columns))
    return [one.p_value if isinstance(one, Interval) else math.nan for one in found]


def _single_p_value(a: Floats, b: Floats) -> float:
    if set(np.unique(a)) | set(np.unique(b)) <= {0.0, 1.0}:
        return mcnemar(a > 0, b > 0).p_value
    return permutation_test(a, b)


# Ranks and groups


def significant_ranks(
    means: ArrayLike, p_values: ArrayLike, *, higher_is_better: bool, alpha: float = 0.05
) -> list[int]:
    """Rank of each model: one more than the number of models that are significantly better.

    Models that nothing tells apart share a rank, and no rank rests on a difference that may be chance.

    Shapes: means (M,), p_values (M, M), adjusted -> M ranks.

    >>> p_values = [[1, 0.7, 0.001], [0.7, 1, 0.002], [0.001, 0.002, 1]]
    >>> significant_ranks([0.9, 0.89, 0.5], p_values, higher_is_better=True)
    [1, 1, 3]
    """
    values, significant = _means_and_significance(means, p_values, alpha)
    gain = values[None, :] - values[:, None]  # (M, M): how much larger the column's model is
    better = gain > 0 if higher_is_better else gain < 0
    return [int(count) + 1 for count in (better & significant).sum(axis=1)]


def significance_letters(
    means: ArrayLike, p_values: ArrayLike, *, higher_is_better: bool, alpha: float = 0.05
) -> list[str]:
    """Letters for a table: two models share one exactly when they do not differ significantly; "a" goes to the best.

    A compact letter display by insertion and absorption (Piepho 2004). Not being told apart is not transitive, so a
    model may carry several letters.

    Shapes: means (M,), p_values (M, M), adjusted -> M strings.

    >>> significance_letters([3, 2, 1], [[1, 0.5, 0.01], [0.5, 1, 0.5], [0.01, 0.5, 1]], higher_is_better=True)
    ['a', 'ab', 'b']
    """
    values, significant = _means_and_significance(means, p_values, alpha)
    order = np.argsort(-values if higher_is_better else values, kind="stable")
    position = np.argsort(order)
    groups: list[set[int]] = [set(range(len(values)))]
    for i, j in zip(*np.nonzero(np.triu(significant[np.ix_(order, order)], k=1))):
        split = [group for group in groups if i in group and j in group]
        groups = [group for group in groups if not (i in group and j in group)]
        for smaller in (part for group in split for part in (group - {int(i)}, group - {int(j)})):
            if not any(smaller <= kept for kept in groups):
                groups = [kept for kept in groups if not kept < smaller] + [smaller]
    groups.sort(key=sorted)
    return ["".join(_letter(index) for index, group in enumerate(groups) if place in group) for place in position]


def _letter(index: int) -> str:
    """a to z, A to Z, then numbers in brackets."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return letters[index] if index < len(letters) else f"({index + 1})"


# Planning


def minimum_detectable_difference(
    std_of_difference: float, num_samples: int, *, power: float = 0.8, alpha: float = 0.05
) -> float:
    """Smallest true mean difference that a paired two-sided test finds with this power.

    For right and wrong answers the standard deviation is at most the square root of the share of samples on which the
    two models disagree: `disagreement_std`.

    >>> round(minimum_detectable_difference(disagreement_std(0.10), 187), 3)
    0.065
    """
    if num_samples < 2:
        raise ValueError(f"a difference needs at least two samples, got {num_samples}")
    quantiles = scipy.special.ndtri(1 - alpha / 2) + scipy.special.ndtri(power)
    return float(quantiles) * std_of_difference / math.sqrt(num_samples)


def disagreement_std(share: float) -> float:
    """Standard deviation of the difference of two right-or-wrong scores that differ on this share of the samples."""
    if not 0 <= share <= 1:
        raise ValueError(f"the share of samples on which two models differ lies between 0 and 1, got {share}")
    return math.sqrt(share)


# Parts


def _check_pairs(a: NDArray[Any], b: NDArray[Any]) -> None:
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"a paired test needs two scores of each sample, got shapes {a.shape} and {b.shape}")


def _means_and_significance(means: ArrayLike, p_values: ArrayLike, alpha: float) -> tuple[Floats, NDArray[np.bool_]]:
    values, adjusted = np.asarray(means, dtype=np.float64), np.asarray(p_values, dtype=np.float64)
    if adjusted.shape != (len(values), len(values)):
        raise ValueError(f"{len(values)} models need {len(values)} x {len(values)} p-values, got {adjusted.shape}")
    return values, np.less(adjusted, alpha)
