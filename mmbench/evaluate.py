"""How good predictions are: every metric of a task from its per-sample predictions, with intervals and reasons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmbench import retrieval
from mmbench.data import Split
from mmbench.errors import Diverged
from mmbench.metric_catalog import RECALL_AT, metric_specs, primary_metric
from mmbench.record import Metric
from mmbench.resampling import intervals_of
from mmbench.sample_intervals import clusters_of_names
from mmbench.spec import TaskSpec
from mmbench.tallies import (
    COUNTED,
    EPSILON,
    Floats,
    class_counts,
    class_losses,
    decisions,
    label_losses,
    losses,
    one_against_rest,
    varies,
)

CALIBRATION_BINS = 15


class Score(NamedTuple):
    """A metric's value, or None with the reason; the note may also say what a value rests on."""

    value: float | None
    note: str = ""


def metrics(
    task: TaskSpec,
    predictions: NDArray[Any],
    target: NDArray[Any],
    *,
    split: Split,
    condition: str = "clean",
    confidence: bool = False,
    groups: Sequence[str] = (),
) -> list[Metric]:
    """Compute every metric of the task, in the order of `mmbench.metric_catalog.METRICS`.

    What cannot be computed (a correlation of a constant, an area under the curve of one class) is None with the reason.

    Args:
        task: Decides which metrics there are.
        predictions: (N, K) probabilities or values in the target's unit, (N, M * K) vectors for retrieval: what
            `mmbench.tasks.predictions` gives.
        target: int (N,) for multiclass and retrieval, else (N, K).
        split, condition: Copied into the metrics.
        confidence: Whether to add 95 % intervals over the samples. They say nothing of the spread over seeds.
        groups: Names of the samples' groups, whose samples count as one observation there; for retrieval the partners
            where none are given.

    Raises:
        Diverged: a prediction is not finite.
        ValueError: shapes, classes or probabilities are impossible.
    """
    known = metric_specs(task)
    values, truth = _checked(task, predictions, target)
    scores = _scores(task, values, truth)
    intervals = intervals_of(task, values, truth, _clusters(task, truth, groups)) if confidence else {}
    return [
        Metric(
            phase="evaluate",
            name=name,
            value=scores[name].value,
            split=split,
            condition=condition,
            task=task.name,
            unit=spec.unit,
            direction=spec.direction,
            n=len(truth),
            ci_low=intervals[name][0] if name in intervals and scores[name].value is not None else None,
            ci_high=intervals[name][1] if name in intervals and scores[name].value is not None else None,
            note=scores[name].note,
        )
        for name, spec in known.items()
    ]


def primary_value(task: TaskSpec, predictions: NDArray[Any] | Tensor, target: NDArray[Any] | Tensor) -> float:
    """Compute the task's primary metric alone, as `metrics` would; NaN where that gives None.

    Training asks for it every epoch, so the usual primaries take a few operations and no import of torchmetrics.

    Raises:
        Diverged: a prediction is not finite.
        ValueError: shapes, classes or probabilities are impossible.
    """
    name = primary_metric(task)
    values, truth = _checked(task, _numpy(predictions), _numpy(target))
    if task.kind == "multiclass" and name in ("accuracy", "f1_micro"):
        return float((values.argmax(axis=1) == truth).mean())
    if name == "log_loss":
        return float(losses(task, values, truth).mean())
    if name == "mae":
        return float(np.abs(values - truth).mean())
    if name == "rmse":
        return float(np.sqrt(np.square(values - truth).mean(axis=0)).mean())
    if name in COUNTED:
        if task.kind == "multiclass":
            tp, support, predicted = class_counts(values.argmax(axis=1), truth, task.num_outputs)
        else:
            tp, support, predicted = (column.sum(axis=0)[None] for column in decisions(task, values, truth))
        return float(COUNTED[name](tp, support, predicted)[0])
    score = _scores(task, values, truth)[name]
    return math.nan if score.value is None else score.value


def _clusters(task: TaskSpec, truth: NDArray[Any], groups: Sequence[str]) -> NDArray[np.int64] | None:
    if not groups and task.kind == "retrieval":
        groups = [str(group) for group in truth.tolist()]
    return clusters_of_names(tuple(groups)) if groups else None


def _checked(task: TaskSpec, predictions: NDArray[Any], target: NDArray[Any]) -> tuple[Floats, NDArray[Any]]:
    """Predictions as float64 and the target as int64 or float64, once both are known to be possible."""
    values, truth = np.asarray(predictions, dtype=np.float64), np.asarray(target)
    if task.kind == "retrieval":
        return _checked_vectors(task, values, truth)
    shape = (len(truth),) if task.kind == "multiclass" else (len(truth), task.num_outputs)
    if values.shape != (len(truth), task.num_outputs) or truth.shape != shape or not len(truth):
        raise ValueError(
            f"task {task.name!r} needs predictions (N, {task.num_outputs}) and a target "
            f"{'(N,)' if task.kind == 'multiclass' else f'(N, {task.num_outputs})'} with N > 0; "
            f"got {values.shape} and {truth.shape}"
        )
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):  # which says the same of all values
        num_bad = int((~np.isfinite(values)).any(axis=1).sum())
        raise Diverged(f"{num_bad} of {len(values)} predictions of task {task.name!r} are not finite")
    if task.kind == "regression":
        if not np.isfinite(truth).all():
            raise ValueError(f"the target of task {task.name!r} must be finite")
        return values, truth.astype(np.float64)
    if low < -1e-6 or high > 1 + 1e-6:
        raise ValueError(
            f"predictions of task {task.name!r} must be probabilities; they reach from {low:g} to {high:g}"
        )
    top = task.num_outputs - 1 if task.kind == "multiclass" else 1
    if not np.isin(truth, np.arange(top + 1)).all():
        raise ValueError(f"the target of task {task.name!r} must hold whole numbers from 0 to {top}")
    return values if low >= 0 and high <= 1 else values.clip(0.0, 1.0), truth.astype(np.int64)


def _checked_vectors(task: TaskSpec, values: Floats, truth: NDArray[Any]) -> tuple[Floats, NDArray[Any]]:
    num_modalities, rest = divmod(values.shape[1] if values.ndim == 2 else 0, task.num_outputs)
    if num_modalities < 2 or rest or truth.shape != (len(values),) or not len(truth):
        raise ValueError(
            f"task {task.name!r} needs vectors (N, M * {task.num_outputs}) of M >= 2 modalities and a target (N,) with "
            f"N > 0; got {values.shape} and {truth.shape}"
        )
    num_bad = int((~np.isfinite(values)).any(axis=1).sum())
    if num_bad:
        raise Diverged(f"{num_bad} of {len(values)} vectors of task {task.name!r} are not finite")
    return values, truth.astype(np.int64)


def _numpy(array: NDArray[Any] | Tensor) -> NDArray[Any]:
    return array.detach().cpu().numpy() if isinstance(array, Tensor) else array


# Values, by torchmetrics. Its functions return 0 with a warning where a metric is undefined, so each is only asked
# about classes and outputs for which it is defined.


def _multiclass(values: Floats, truth: NDArray[Any]) -> dict[str, Score]:
    # torchmetrics would hold K x K counts and N x K labels, and go through all N samples for each class.
    chosen = values.argmax(axis=1)
    tp, support, predicted = class_counts(chosen, truth, values.shape[1])
    by_class = _by_class(tp, support, predicted, "class")
    return {
        "accuracy": Score(int(tp.sum()) / len(truth)),
        "balanced_accuracy": by_class["recall_macro"],
        **by_class,
        **_ranking_of_classes(values, truth),
        "log_loss": Score(float(class_losses(values, truth).mean())),
        "calibration_error": _calibration_error(values[np.arange(len(truth)), chosen], chosen == truth),
    }


def _multilabel(values: Floats, truth: NDArray[Any]) -> dict[str, Score]:
    from torchmetrics.functional import classification as tm

    preds, target, num_labels = torch.from_numpy(values), torch.from_numpy(truth), values.shape[1]
    # torchmetrics drops the axis of labels when there is one.
    counts = tm.multilabel_stat_scores(preds, target, num_labels, average="none", validate_args=False).reshape(-1, 5)
    tp, fp, _, fn, _ = counts.numpy().T.astype(np.float64)[:, None]
    return {
        "exact_match": Score(float(((values > 0.5) == truth).all(axis=1).mean())),
        **_by_class(tp, tp + fn, tp + fp, "label"),
        **_ranking(preds, target, "label"),
        "log_loss": Score(float(label_losses(values, truth).mean())),
        "calibration_error": _calibration_error(values.ravel(), truth.ravel()),
    }


def _regression(values: Floats, truth: NDArray[Any]) -> dict[str, Score]:
    from torchmetrics.functional import regression as tm

    preds, target, num_outputs = torch.from_numpy(values), torch.from_numpy(truth), values.shape[1]
    rmse = tm.mean_squared_error(preds, target, squared=False, num_outputs=num_outputs)
    return {
        "mae": Score(float(tm.mean_absolute_error(preds, target))),
        "rmse": Score(float(rmse.mean())),
        "pearson": _per_output(tm.pearson_corrcoef, values, truth, both_vary=True),
        "spearman": _per_output(tm.spearman_corrcoef, values, truth, both_vary=True),
        "r2": _per_output(tm.r2_score, values, truth, both_vary=False),
    }


_SCORES = {"multiclass": _multiclass, "multilabel": _multilabel, "regression": _regression}


def _scores(task: TaskSpec, values: Floats, truth: NDArray[Any]) -> dict[str, Score]:
    if task.kind != "retrieval":
        return _SCORES[task.kind](values, truth)
    found = {f"recall_at_{k}": retrieval.recall(values, truth, task.num_outputs, k).mean() for k in RECALL_AT}
    ranks = retrieval.ranks(values, truth, task.num_outputs)
    found |= {"mean_reciprocal_rank": (1 / ranks).mean(), "median_rank": np.median(ranks)}
    return {name: Score(float(value)) for name, value in found.items()}


def _calibration_error(confidence: Floats, right: NDArray[Any]) -> Score:
    from torchmetrics.functional.classification import binary_calibration_error

    # A confidence of exactly 1 would get a 16th bin of its own.
    below_one = torch.from_numpy(confidence).clamp(max=1 - EPSILON)
    outcome = torch.from_numpy(right).long()
    error = binary_calibration_error(below_one, outcome, n_bins=CALIBRATION_BINS, norm="l1", validate_args=False)
    return Score(float(error))


def _by_class(tp: Floats, support: Floats, predicted: Floats, what: str) -> dict[str, Score]:
    """Precision, recall and F1 from counts (1, K): right positives, positives in the target, positives predicted."""
    note = _coverage(support[0] > 0, what, "are not in the target")
    silent = int(((predicted == 0) & (support > 0)).sum())
    never = f"{silent} {_plural(what, silent)} never predicted, counted as 0" if silent else ""
    found = {}
    for name in ("precision_macro", "recall_macro", "f1_macro", "f1_micro"):
        value = float(COUNTED[name](tp, support, predicted)[0])
        if math.isnan(value):
            found[name] = Score(None, f"no {what} is positive in the target")
            continue
        notes = [note] if name != "f1_micro" else []
        notes += [never] if name == "precision_macro" else []
        found[name] = Score(value, "; ".join(filter(None, notes)))
    return found


def _ranking_of_classes(values: Floats, truth: NDArray[Any]) -> dict[str, Score]:
    """As `_ranking`, of the classes of a multiclass task: each against the others."""
    areas, precisions = one_against_rest(values, truth)
    there, both = ~np.isnan(precisions), ~np.isnan(areas)
    found = {"auroc": Score(None, "no class has both positive and negative samples")}
    if both.any():
        found["auroc"] = Score(float(areas[both].mean()), _coverage(both, "class", "are all positive or all negative"))
    found["map"] = Score(float(precisions[there].mean()), _coverage(there, "class", "are not in the target"))
    return found


def _ranking(preds: Tensor, target: Tensor, what: str) -> dict[str, Score]:
    """Area under the ROC curve and average precision, mean over the columns where they are defined."""
    from torchmetrics.functional import classification as tm

    positive = target.bool().any(dim=0)
    both = positive & ~target.bool().all(dim=0)

    def mean_over(columns: Tensor, metric: Any, reason: str) -> Score:
        if not columns.any():
            return Score(None, reason)
        kept = int(columns.sum())
        options = {"average": "none", "validate_args": False}
        per_class = metric(preds[:, columns], target[:, columns], num_labels=kept, **options)
        return Score(float(per_class.mean()), _coverage(columns.numpy(), what, "are all positive or all negative"))

    auroc = mean_over(both, tm.multilabel_auroc, f"no {what} has both positive and negative samples")
    average_precision = mean_over(positive, tm.multilabel_average_precision, f"no {what} is positive in the target")
    return {
        "auroc": auroc,
        "map": Score(average_precision.value, _coverage(positive.numpy(), what, "are not in the target"))
        if average_precision.value is not None
        else average_precision,
    }


def _per_output(metric: Any, values: Floats, truth: Floats, *, both_vary: bool) -> Score:
    """Mean of a metric over the outputs whose target, and predictions where needed, vary."""
    if len(truth) < 2:
        return Score(None, "one sample: needs at least two")
    preds_vary, target_varies = varies(values, truth)
    defined = target_varies & preds_vary if both_vary else target_varies
    if not defined.any():
        return Score(None, "the target does not vary" if not target_varies.any() else "the predictions do not vary")
    centre = truth.mean(axis=0)  # none of the metrics depends on it, and squares of large numbers would cancel
    values, truth = values - centre, truth - centre
    found = [
        float(metric(torch.from_numpy(values[:, k].copy()), torch.from_numpy(truth[:, k].copy())))
        for k in np.flatnonzero(defined)
    ]
    return Score(math.fsum(found) / len(found), _coverage(defined, "output", "do not vary"))


def _coverage(used: NDArray[np.bool_], what: str, why: str) -> str:
    if used.all():
        return ""
    return f"mean over {int(used.sum())} of {used.size} {_plural(what, used.size)}: the others {why}"


def _plural(what: str, count: int) -> str:
    return what if count == 1 else f"{what}es" if what.endswith("s") else f"{what}s"
