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
    of_truth: Floats = _inside(probabilities)[np.arange(len(target)), target]
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
