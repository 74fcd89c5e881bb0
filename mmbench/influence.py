"""How much each test sample weighs in a metric: its influence, from which standard errors of any metric follow.

A metric under weights w of the samples is close to its value plus the weighted mean of the influences (the
infinitesimal jackknife; Efron & Stein 1981, DeLong et al. 1988 for the area under the ROC curve). For a mean over
samples the influence is the sample's score less the mean, and nothing is approximate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from mmbench import retrieval

Floats: TypeAlias = NDArray[np.float64]
#: How a metric spreads: a share of right answers, a mean of any size, a number from 0 to 1, from -1 to 1, or up to 1.
Shape: TypeAlias = Literal["share", "mean", "unit", "correlation", "r2"]

_EPSILON = float(np.finfo(np.float32).eps)
#: A class with fewer samples than this leaves metrics over classes unsure, whatever their interval says.
FEW_POSITIVES = 10
_COUNTED = ("balanced_accuracy", "recall_macro", "precision_macro", "f1_macro", "f1_micro")


@dataclass(frozen=True)
class Influence:
    """A metric and the influence of each sample on it.

    Attributes:
        value: The metric.
        each: (N,) of mean 0.
        shape: How it spreads.
        bias: By how much the value exceeds on average what it would be with endless samples.
        least_variance: Variance to add where classes are so rare that they show none of their own.
        fewest: Samples of the rarest class; None for metrics that are not over classes.
    """

    value: float
    each: Floats
    shape: Shape
    bias: float = 0.0
    least_variance: float = 0.0
    fewest: int | None = None


def influence_of(
    kind: str, metric: str, prediction: Any, target: NDArray[Any], num_outputs: int = 0
) -> Influence | None:
    """Return the influence of each sample on a metric; None for a metric that has none, or is not defined.

    Calibration error and median rank have none: they do not change smoothly with the weights.

    Shapes: prediction (N, K), or (N, M * num_outputs) for retrieval; target (N,) or (N, K).
    """
    if kind == "regression":
        return _regression(metric, np.asarray(prediction, dtype=np.float64), np.asarray(target, dtype=np.float64))
    if kind == "retrieval":
        return _retrieval(metric, np.asarray(prediction), np.asarray(target).astype(np.int64), num_outputs)
    if kind == "multiclass":
        truth = np.asarray(target).astype(np.int64)
        if metric in ("accuracy", "f1_micro"):
            return _mean(np.asarray(prediction.argmax(axis=1) == truth, dtype=np.float64), "share")
        if metric == "log_loss":
            of_truth = np.asarray(prediction[np.arange(len(truth)), truth], dtype=np.float64)
            return _mean(-np.log(np.clip(of_truth, _EPSILON, 1 - _EPSILON)), "mean")
        actual = truth[:, None] == np.arange(prediction.shape[1])
        if metric in _COUNTED:
            return _counted(metric, prediction.argmax(axis=1)[:, None] == np.arange(prediction.shape[1]), actual)
        return _ranked(metric, np.asarray(prediction, dtype=np.float64), actual)
    if kind != "multilabel":
        return None
    values, actual = np.asarray(prediction, dtype=np.float64), np.asarray(target) > 0.5
    if metric == "exact_match":
        return _mean(np.asarray(((values > 0.5) == actual).all(axis=1), dtype=np.float64), "share")
    if metric == "log_loss":
        inside = values.clip(_EPSILON, 1 - _EPSILON)
        return _mean(np.where(actual, -np.log(inside), -np.log1p(-inside)).mean(axis=1), "mean")
    if metric in _COUNTED and metric != "balanced_accuracy":
        return _counted(metric, values > 0.5, actual)
    return _ranked(metric, values, actual)


def _mean(each: Floats, shape: Shape) -> Influence:
    value = float(each.mean())
    return Influence(value, each - value, shape)


def _counted(metric: str, chosen: NDArray[np.bool_], actual: NDArray[np.bool_]) -> Influence | None:
    """Recall, precision and F1 from decisions (N, K): each a ratio of two sums over samples, mean over classes."""
    right = (chosen & actual).astype(np.float64)
    if metric in ("balanced_accuracy", "recall_macro"):
        parts = actual.astype(np.float64)
    elif metric == "precision_macro":
        parts = chosen.astype(np.float64)
    else:
        right, parts = 2 * right, chosen.astype(np.float64) + actual
    if metric == "f1_micro":
        right, parts = right.sum(axis=1, keepdims=True), parts.sum(axis=1, keepdims=True)
        present = np.array([parts.sum() > 0])
    else:
        present = np.count_nonzero(actual, axis=0) > 0
    if not present.any():
        return None
    right, parts = right[:, present], parts[:, present]
    totals = parts.sum(axis=0)
    ratio = right.sum(axis=0) / np.maximum(totals, 1)
    each = ((right - ratio * parts) / np.maximum(totals, 1)).mean(axis=1) * len(right)
    # What the ratio's variance would be with one more right and one more wrong sample of each class (Agresti & Coull).
    counts = totals if metric in ("balanced_accuracy", "recall_macro", "precision_macro") else totals / 2
    smooth = (ratio * counts + 1) / (counts + 2)
    lacking = np.maximum(smooth * (1 - smooth) - ratio * (1 - ratio), 0.0) / np.maximum(counts, 1)
    # The precision of a class that is never predicted counts as 0, and could be anything.
    bias = -0.5 * float((totals == 0).mean()) if metric == "precision_macro" else 0.0
    fewest = int(actual.sum(axis=0).min()) if metric != "f1_micro" else None
    return Influence(
        float(ratio.mean()),
        each,
        "unit",
        bias=bias,
        least_variance=float(lacking.mean()) / len(ratio),
        fewest=fewest,
    )


def _ranked(metric: str, values: Floats, actual: NDArray[np.bool_]) -> Influence | None:
    if metric not in ("auroc", "map"):
        return None
    counts = np.count_nonzero(actual, axis=0)
    present = (counts > 0) & (counts < len(actual)) if metric == "auroc" else counts > 0
    if not present.any():
        return None
    found = [
        (_area if metric == "auroc" else _average_precision)(values[:, at], actual[:, at])
        for at in np.flatnonzero(present)
    ]
    positives = actual[:, present].sum(axis=0)
    rarest = np.minimum(positives, len(actual) - positives) if metric == "auroc" else positives
    return Influence(
        float(np.mean([value for value, _, _ in found])),
        np.mean([each for _, each, _ in found], axis=0),
        "unit",
        bias=float(np.mean([bias for _, _, bias in found])),
        least_variance=float(np.mean((0.2 if metric == "auroc" else 0.5) / (rarest + 1.0) ** 2)) / len(found),
        fewest=int(rarest.min()) if present.all() else 0,
    )


def _area(scores: Floats, positive: NDArray[np.bool_]) -> tuple[float, Floats, float]:
    """Area under the ROC curve by placements (DeLong et al. 1988)."""
    num, num_positive = len(scores), int(positive.sum())
    ranks = scipy.stats.rankdata(scores)
    own = np.empty(num)
    own[positive] = scipy.stats.rankdata(scores[positive])
    own[~positive] = scipy.stats.rankdata(scores[~positive])
    num_negative = num - num_positive
    placed = np.where(positive, (ranks - own) / num_negative, 1 - (ranks - own) / num_positive)
    value = float(placed[positive].mean())
    each = (placed - value) * np.where(positive, num / num_positive, num / num_negative)
    return value, each, 0.0


def _average_precision(scores: Floats, positive: NDArray[np.bool_]) -> tuple[float, Floats, float]:
    """Average precision, equal scores entering together; its bias is that each positive counts in its own precision."""
    num, num_positive = len(scores), int(positive.sum())
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], positive[order].astype(np.float64)
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    group = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=-1))
    taken = (ends + 1.0)[group]
    precision = np.cumsum(hits)[ends][group] / taken
    value = float((hits * precision).sum() / num_positive)
    # A sample's weight moves the precision of every positive at or below it.
    by_group = np.bincount(group, hits / taken, len(ends)), np.bincount(group, hits * precision / taken, len(ends))
    below, below_precise = (np.cumsum(part[::-1])[::-1][group] for part in by_group)
    moved = (hits * precision + hits * below - below_precise - hits * value) / num_positive * num
    each = np.empty(num)
    each[order] = moved
    bias = float((hits * (1 - precision) / taken).sum() / num_positive)
    return value, each, bias


def _regression(metric: str, values: Floats, truth: Floats) -> Influence | None:
    errors = values - truth
    if metric == "mae":
        return _mean(np.abs(errors).mean(axis=1), "mean")
    squared = np.square(errors)
    if metric == "rmse":
        roots = np.sqrt(squared.mean(axis=0))
        if not (roots > 0).all():
            return Influence(float(roots.mean()), np.zeros(len(errors)), "mean")
        return Influence(float(roots.mean()), ((squared - roots**2) / (2 * roots)).mean(axis=1), "mean")
    varying = (np.ptp(truth, axis=0) > 0) & ((np.ptp(values, axis=0) > 0) | (metric == "r2"))
    if metric not in ("pearson", "spearman", "r2") or not varying.any() or len(values) < 3:
        return None
    values, truth, squared = values[:, varying], truth[:, varying], squared[:, varying]
    if metric == "r2":
        total = np.square(truth - truth.mean(axis=0))
        lost = squared.mean(axis=0) / total.mean(axis=0)
        each = -(squared - lost * total) / total.mean(axis=0)
        return Influence(float((1 - lost).mean()), each.mean(axis=1), "r2")
    if metric == "spearman":
        found = [_rank_correlation(values[:, at], truth[:, at]) for at in range(values.shape[1])]
    else:
        found = [_correlation(values[:, at], truth[:, at]) for at in range(values.shape[1])]
    return Influence(
        float(np.mean([value for value, _ in found])), np.mean([each for _, each in found], axis=0), "correlation"
    )


def _correlation(one: Floats, other: Floats) -> tuple[float, Floats]:
    x, y = (one - one.mean()) / one.std(), (other - other.mean()) / other.std()
    value = float((x * y).mean())
    return value, x * y - value * (x * x + y * y) / 2


def _rank_correlation(one: Floats, other: Floats) -> tuple[float, Floats]:
    """Spearman's: the product of a sample's ranks, and what the sample does to the ranks of the others."""
    x, y = scipy.stats.rankdata(one), scipy.stats.rankdata(other)
    x, y, scale = x - x.mean(), y - y.mean(), float(x.std() * y.std())

    def lifted(ranks: Floats, others: Floats) -> Floats:
        """Sum of the others' ranks over the samples above each one."""
        order = np.argsort(ranks, kind="stable")
        found = np.empty(len(ranks))
        found[order] = others.sum() - np.cumsum(others[order]) + others[order] / 2
        return found

    each = (x * y + lifted(x, y) + lifted(y, x)) / scale
    return float((x * y).mean() / scale), each - each.mean()


def _retrieval(metric: str, vectors: NDArray[Any], groups: NDArray[np.int64], dim: int) -> Influence | None:
    if metric.startswith("recall_at_"):
        each = retrieval.recall(vectors, groups, dim, int(metric.rpartition("_")[2]))
        return _mean(each, "share" if bool(((each == 0) | (each == 1)).all()) else "unit")
    if metric == "mean_reciprocal_rank":
        return _mean(np.asarray((1 / retrieval.ranks(vectors, groups, dim)).mean(axis=0)), "unit")
    return None
