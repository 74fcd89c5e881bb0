"""Where a model is wrong and how sure it was: reliability bins and the confusion matrix, as plain lists."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.evaluate import CALIBRATION_BINS
from mmbench.spec import TaskSpec

#: Larger confusion matrices are not kept: nobody reads them, and a run has thousands of cells.
MAX_CLASSES = 50


def reliability(confidence: NDArray[Any], right: NDArray[Any]) -> list[list[float]]:
    """Count predictions by their confidence, in equal bins over [0, 1].

    Bin b holds b / B <= confidence < (b + 1) / B, and 1 belongs to the last: the expected calibration error of
    `mmbench.evaluate` is the mean of |right - confidence| over bins, weighted by count.

    Source: Guo et al. 2017, arXiv:1706.04599.

    Shapes: confidence (N,), right (N,) zeros and ones -> per bin [count, mean confidence, share right]; the last two
    are 0 in an empty bin.
    """
    values = np.asarray(confidence, dtype=np.float64)
    edges = np.linspace(0.0, 1.0, CALIBRATION_BINS + 1)
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, CALIBRATION_BINS - 1)
    count = np.bincount(place, minlength=CALIBRATION_BINS)
    of = np.maximum(count, 1)
    mean = np.bincount(place, values, minlength=CALIBRATION_BINS) / of
    share = np.bincount(place, np.asarray(right, dtype=np.float64), minlength=CALIBRATION_BINS) / of
    return [[int(n), round(float(m), 5), round(float(s), 5)] for n, m, s in zip(count, mean, share)]


def confusion(chosen: NDArray[Any], target: NDArray[Any], num_classes: int) -> list[list[int]]:
    """Count samples by true class (rows) and predicted class (columns).

    Shapes: chosen (N,), target (N,) -> K lists of K.
    """
    counts = np.bincount(np.asarray(target) * num_classes + np.asarray(chosen), minlength=num_classes**2)
    table: list[list[int]] = counts.reshape(num_classes, num_classes).tolist()
    return table


def errors(task: TaskSpec, prediction: NDArray[Any], target: NDArray[Any]) -> dict[str, Any]:
    """Return what a record keeps of a task's test predictions: `reliability`, and `confusion` for up to 50 classes.

    Nothing for a regression, which has neither.
    """
    if task.kind == "multiclass":
        chosen = prediction.argmax(axis=1)
        found: dict[str, Any] = {"reliability": reliability(prediction.max(axis=1), chosen == target)}
        if task.num_outputs <= MAX_CLASSES:
            found["confusion"] = confusion(chosen, target, task.num_outputs)
        return found
    return {"reliability": reliability(prediction.ravel(), target.ravel())} if task.kind == "multilabel" else {}
