"""95 % intervals of metrics over the samples: Wilson's for shares of samples, else percentile bootstrap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmbench import retrieval
from mmbench.spec import TaskSpec
from mmbench.tallies import COUNTED, Floats, class_counts, decisions, losses, varies
from mmbench.tasks import RECALL_AT, primary_metric

Interval: TypeAlias = tuple[float, float]

NUM_RESAMPLES = 1000
#: Average precision sorts and sums every class in every resample: this many numbers at most, and no fewer resamples.
MAX_RANKED = 2_000_000
MIN_RESAMPLES = 200
#: Counts of classes in resamples held at once.
_MOST_COUNTS = 4_000_000
_Z95 = 1.959963984540054


def intervals_of(task: TaskSpec, values: Floats, truth: NDArray[Any]) -> Mapping[str, Interval]:
    """95 % intervals of the metrics that are shares of samples or functions of means over samples.

    Area under the ROC curve, rank correlation and calibration error have none here; average precision, which has to be
    computed anew for every resample, has one where it is the primary metric.
    """
    if task.kind == "regression":
        return _regression_intervals(values, truth)
    if task.kind == "retrieval":
        each = [retrieval.recall(values, truth, task.num_outputs, k)[:, None] for k in RECALL_AT]
        return {f"recall_at_{k}": _percentiles(mean[:, 0]) for k, mean in zip(RECALL_AT, _resampled_means(*each))}
    intervals = (
        _class_intervals(task, values, truth) if task.kind == "multiclass" else _label_intervals(task, values, truth)
    )
    if primary_metric(task) == "map":
        resamples = min(NUM_RESAMPLES, MAX_RANKED // values.size)
        if resamples >= MIN_RESAMPLES:
            actual = decisions(task, values, truth)[1]
            intervals["map"] = _percentiles(_resampled_average_precision(values, actual, resamples))
    return intervals


def _class_intervals(task: TaskSpec, values: Floats, truth: NDArray[Any]) -> dict[str, Interval]:
    """Intervals of a multiclass task: classes are counted anew in every resample, so that no (N, K) array is needed."""
    each, chosen = losses(task, values, truth), values.argmax(axis=1)
    resampled: dict[str, list[Floats]] = {name: [] for name in ("log_loss", *COUNTED)}
    most = max(1, _MOST_COUNTS // values.shape[1])
    for drawn in _draws(len(truth), NUM_RESAMPLES):
        resampled["log_loss"].append(drawn @ each / len(truth))
        for times in np.array_split(drawn, -(-len(drawn) // most)):
            counts = class_counts(chosen, truth, values.shape[1], times)
            for name, metric in COUNTED.items():
                resampled[name].append(metric(*counts))
    intervals = {name: _percentiles(np.concatenate(parts)) for name, parts in resampled.items()}
    right = int((chosen == truth).sum())
    return {**intervals, **dict.fromkeys(("accuracy", "f1_micro"), wilson_interval(right, len(truth)))}


def _label_intervals(task: TaskSpec, values: Floats, truth: NDArray[Any]) -> dict[str, Interval]:
    tp, support, predicted = decisions(task, values, truth)
    means = _resampled_means(losses(task, values, truth)[:, None], tp, support, predicted)
    intervals = {"log_loss": _percentiles(means[0][:, 0])}
    counts = [mean * len(truth) for mean in means[1:]]
    for name, metric in COUNTED.items():
        if name != "balanced_accuracy":
            intervals[name] = _percentiles(metric(*counts))
    intervals["exact_match"] = wilson_interval(int((support == predicted).all(axis=1).sum()), len(truth))
    return intervals


def wilson_interval(successes: int, n: int) -> Interval:
    """95 % score interval of a share (Wilson 1927), which stays in [0, 1] and is right for small n.

    >>> [round(bound, 4) for bound in wilson_interval(9, 10)]
    [0.5958, 0.9821]
    """
    share, z2 = successes / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Rounding would leave 4e-19 where the formula gives 0, and 1 - 1e-16 where it gives 1.
    return 0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half


def _regression_intervals(values: Floats, truth: Floats) -> Mapping[str, Interval]:
    errors = values - truth
    x, y = values - values.mean(axis=0), truth - truth.mean(axis=0)  # centred, or the moments would cancel
    absolute, squared, mx, my, mxx, myy, mxy = _resampled_means(
        np.abs(errors), np.square(errors), x, y, x * x, y * y, x * y
    )
    intervals = {"mae": _percentiles(absolute.mean(axis=1)), "rmse": _percentiles(np.sqrt(squared).mean(axis=1))}
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may draw one sample only
        variance_x, variance_y = mxx - mx * mx, myy - my * my
        pearson = (mxy - mx * my) / np.sqrt(variance_x * variance_y)
        r2 = 1 - squared / variance_y
    preds_vary, target_varies = varies(values, truth)
    if (target_varies & preds_vary).all():
        intervals["pearson"] = _percentiles(pearson.mean(axis=1))
    if target_varies.all():
        intervals["r2"] = _percentiles(r2.mean(axis=1))
    return intervals


def _draws(n: int, resamples: int) -> Iterator[Floats]:
    """How often each sample is drawn in each bootstrap resample, in chunks of resamples: (some, N).

    The same for every cell, so that intervals differ by their data only.
    """
    rng = np.random.default_rng(0)
    chunk = max(1, 1_000_000 // n)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _resampled_means(*columns: NDArray[Any]) -> list[Floats]:
    """Means of columns (N, C) over bootstrap resamples of the samples, each (R, C)."""
    joined = np.concatenate([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
    means = np.concatenate([times @ joined for times in _draws(len(joined), NUM_RESAMPLES)]) / len(joined)
    return np.split(means, np.cumsum([column.shape[1] for column in columns])[:-1], axis=1)


def _resampled_average_precision(values: Floats, positive: NDArray[np.bool_], resamples: int) -> Floats:
    """Mean average precision of bootstrap resamples: (R,)."""
    orders = np.argsort(-values, axis=0, kind="stable")
    found = []
    for times in _draws(len(values), resamples):
        per_class = []
        for order, scores, truth in zip(orders.T, values.T, positive.T):
            ranked = scores[order]
            ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal scores enter together
            drawn = times[:, order]
            taken = np.cumsum(drawn, axis=1)[:, ends]
            right = np.cumsum(drawn * truth[order], axis=1)[:, ends]
            gained = np.diff(right, axis=1, prepend=0.0)
            total = right[:, -1]
            with np.errstate(invalid="ignore"):  # a resample without positives has no average precision
                per_class.append((gained * right / np.maximum(taken, 1)).sum(axis=1) / total)
        found.append(np.nanmean(per_class, axis=0))
    return np.concatenate(found)


def _percentiles(resampled: Floats) -> Interval:
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    return float(low), float(high)
