"""Losses and decisions of each sample, and the metrics that follow from counts of them: arithmetic on arrays alone."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmbench import retrieval
from mmbench.spec import TaskSpec

Floats: TypeAlias = NDArray[np.float64]

#: Probabilities are kept this far from 0 and 1 in a log loss, as scikit-learn does for float32.
EPSILON = float(np.finfo(np.float32).eps)
#: Classes whose scores are sorted at once.
_COLUMNS = 256


def losses(task: TaskSpec, predictions: NDArray[Any], target: NDArray[Any]) -> Floats:
    """The loss of each sample, for paired tests and for finding the samples that only one model gets right.

    Multiclass: negative log probability of the true class. Multilabel: binary log loss, mean over labels.
    Regression: squared error in the target's unit, mean over outputs. Retrieval: 1 without a partner in first place.

    Shapes: predictions (N, K), target (N,) or (N, K) -> float64 (N,).
    """
    if task.kind == "retrieval":
        return 1 - retrieval.recall(predictions, target, task.num_outputs, k=1)
    if task.kind == "multiclass":
        return class_losses(predictions, target)
    if task.kind == "multilabel":
        return label_losses(predictions, target)
    squared: Floats = np.square(np.asarray(predictions, dtype=np.float64) - target).mean(axis=1)
    return squared


def class_losses(probabilities: NDArray[Any], target: NDArray[Any]) -> Floats:
    """As `losses` of a multiclass task."""
    of_truth: Floats = _inside(np.asarray(probabilities)[np.arange(len(target)), target])
    return -np.log(of_truth)


def label_losses(probabilities: NDArray[Any], target: NDArray[Any]) -> Floats:
    """As `losses` of a multilabel task."""
    inside = _inside(probabilities)
    each: Floats = np.where(np.asarray(target) > 0.5, -np.log(inside), -np.log1p(-inside)).mean(axis=1)
    return each


def _inside(probabilities: NDArray[Any]) -> Floats:
    return np.asarray(probabilities, dtype=np.float64).clip(EPSILON, 1 - EPSILON)


def one_hot(classes: NDArray[np.int64], num_classes: int) -> NDArray[np.bool_]:
    """Shapes: (N,) -> (N, K)."""
    return np.equal(classes[:, None], np.arange(num_classes))


def decisions(task: TaskSpec, values: Floats, truth: NDArray[Any]) -> tuple[NDArray[np.bool_], ...]:
    """Right positives, positives in the target and positives predicted: three times (N, K)."""
    if task.kind == "multiclass":
        actual, chosen = one_hot(truth, task.num_outputs), one_hot(values.argmax(axis=1), task.num_outputs)
    else:
        actual, chosen = truth.astype(bool), values > 0.5
    return actual & chosen, actual, chosen


def class_counts(
    chosen: NDArray[np.int64], truth: NDArray[np.int64], num_classes: int, times: Floats | None = None
) -> tuple[Floats, Floats, Floats]:
    """Right positives, positives in the target and positives predicted of each class of a multiclass task.

    Shapes: chosen (N,), truth (N,), times (R, N): how often each sample counts -> three times (R, K), R 1 without
    times. Sums of whole numbers are exact, so these are the column sums of `decisions` without its arrays (N, K).
    """
    weights = np.ones((1, len(truth))) if times is None else times
    first = num_classes * np.arange(len(weights))[:, None]

    def count(classes: NDArray[np.int64], counted: Floats) -> Floats:
        place = (first + classes).ravel()
        found = np.bincount(place, counted.ravel(), minlength=num_classes * len(weights))
        return found.reshape(len(weights), num_classes).astype(np.float64)

    return count(truth, weights * (chosen == truth)), count(truth, weights), count(chosen, weights)


def one_against_rest(values: Floats, truth: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Area under the ROC curve and average precision of each class against the others, one column at a time.

    A class without a sample is NaN, and so is the area of a class that has all samples. Equal scores are ties.

    Shapes: values (N, K), truth (N,) -> (K,), (K,).
    """
    num_samples, num_classes = values.shape
    order = np.argsort(truth, kind="stable")
    ends = np.searchsorted(truth[order], np.arange(num_classes + 1))
    first, area = 0, np.full(num_classes, np.nan)
    precision = np.full(num_classes, np.nan)
    sorted_columns: Floats = np.zeros((0, num_samples))
    for number in np.flatnonzero(np.diff(ends)):
        own = order[ends[number] : ends[number + 1]]
        if number >= first + len(sorted_columns):
            first = int(number)
            block = np.ascontiguousarray(values[:, first : first + _COLUMNS].T)  # columns one by one miss the cache
            block.sort(axis=1)
            sorted_columns = block
        scores = sorted_columns[number - first]
        of_own = np.sort(values[own, number])
        not_less = num_samples - np.searchsorted(scores, of_own, side="left")
        greater = num_samples - np.searchsorted(scores, of_own, side="right")
        own_not_less = len(own) - np.searchsorted(of_own, of_own, side="left")
        own_greater = len(own) - np.searchsorted(of_own, of_own, side="right")
        precision[number] = (own_not_less / not_less).mean()
        num_others = num_samples - len(own)
        if num_others:
            above, level = greater - own_greater, (not_less - greater) - (own_not_less - own_greater)
            area[number] = 1 - ((above + 0.5 * level) / num_others).mean()
    return area, precision


def varies(values: Floats, truth: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether predictions vary by more than a model's float32 rounding, and targets by more than their own float64's.

    Models compute standardized values, so their rounding is in proportion to how targets spread, not to their size.

    Shapes: values and truth (N, K) -> (K,) and (K,).
    """
    spread = np.ptp(truth, axis=0)
    scale = np.maximum(np.abs(values - truth.mean(axis=0)).max(axis=0), spread)
    preds_vary: NDArray[np.bool_] = np.ptp(values, axis=0) > 4 * EPSILON * scale
    target_varies: NDArray[np.bool_] = spread > 8 * np.finfo(np.float64).eps * np.abs(truth).max(axis=0)
    return preds_vary, target_varies


# Metrics from counts per class, (R, K) -> (R,): once for the value, R times for its bootstrap. NaN = undefined.


def _mean_present(per_class: Floats, support: Floats) -> Floats:
    present = support > 0
    num_present = present.sum(axis=1)
    total: Floats = np.where(present, per_class, 0.0).sum(axis=1)
    return total / np.where(num_present > 0, num_present, np.nan)


def _precision(tp: Floats, support: Floats, predicted: Floats) -> Floats:
    return _mean_present(tp / np.maximum(predicted, 1), support)


def _recall(tp: Floats, support: Floats, predicted: Floats) -> Floats:
    return _mean_present(tp / np.maximum(support, 1), support)


def _f1(tp: Floats, support: Floats, predicted: Floats) -> Floats:
    return _mean_present(2 * tp / np.maximum(support + predicted, 1), support)


def _f1_micro(tp: Floats, support: Floats, predicted: Floats) -> Floats:
    right: Floats = tp.sum(axis=1)
    total: Floats = (support + predicted).sum(axis=1)
    return 2 * right / np.where(total > 0, total, np.nan)


COUNTED = {
    "balanced_accuracy": _recall,
    "precision_macro": _precision,
    "recall_macro": _recall,
    "f1_macro": _f1,
    "f1_micro": _f1_micro,
}
