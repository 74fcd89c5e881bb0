"""Kept predictions brought into one order of samples, and scored one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmbench import retrieval
from mmbench.influence import Influence, influence_of
from mmbench.kept_predictions import MOST_NUMBERS, Floats, Predictions, TopProbabilities, load_predictions
from mmbench.sample_intervals import clusters_of_names

if TYPE_CHECKING:
    from mmbench.report.tables import Row

#: Probabilities are kept this far from 0 and 1 in a log loss, as `mmbench.tallies` does.
_EPSILON = float(np.finfo(np.float32).eps)


def order_of(ids: Sequence[str], wanted: Sequence[str]) -> NDArray[np.int64] | None:
    """Return where the wanted samples stand among `ids`; None where these are not the same samples.

    >>> order_of(("a", "b", "c"), ("c", "a", "b")).tolist(), order_of(("a", "b"), ("a", "c"))
    ([2, 0, 1], None)
    """
    if ids == wanted:
        return np.arange(len(ids))
    position = {name: place for place, name in enumerate(ids)}
    if len(position) != len(ids) or len(ids) != len(wanted) or set(position) != set(wanted):
        return None
    return np.array([position[name] for name in wanted])


def row_predictions(row: Row, task: str, folder: Path) -> Iterator[Predictions | None]:
    """Yield the predictions of each seed of a row on test, in the first seed's order of samples.

    Seeds that do not have whole predictions of the same samples give None.
    """
    ids: tuple[str, ...] | None = None
    for seed in row.done:
        kept = load_predictions(folder / "cells" / row.cell_ids[seed], task)
        if kept is None or not kept.is_whole:
            yield None
            continue
        ids = ids or kept.ids
        yield kept if kept.ids == ids else _in_order(kept, ids)


def _in_order(kept: Predictions, ids: tuple[str, ...]) -> Predictions | None:
    """Return predictions in another order of the same samples; None if they are of others."""
    order = order_of(kept.ids, ids)
    if order is None:
        return None
    groups = kept.groups and tuple(kept.groups[at] for at in order.tolist())
    prediction, target = kept.of_samples(order)
    return Predictions(prediction, target, ids, groups)


def clusters_of(kept: Predictions, kind: str) -> NDArray[np.int64] | None:
    """Return the number of each sample's group; None where every sample stands alone.

    Groups are what the dataset says (speakers, patients), or for retrieval the partners: five captions of an image are
    one observation.

    Shapes: -> (N,).
    """
    names = kept.groups
    if names is None and kind == "retrieval":
        names = tuple(map(str, np.asarray(kept.target).tolist()))
    return None if names is None else clusters_of_names(names)


def sample_scores(
    prediction: Floats | TopProbabilities, target: Floats, kind: str, metric: str, num_outputs: int = 0
) -> Floats | None:
    """Return what each sample adds to the mean that the metric is, or None for a metric that is no such mean.

    Shapes: prediction (N, K), or (N, M * num_outputs) for retrieval, target (N,) or (N, K) -> (N,).
    """
    if kind == "multiclass":
        if metric in ("accuracy", "f1_micro"):
            return np.asarray(prediction.argmax(axis=1) == target, dtype=np.float64)
        if metric == "log_loss":
            of_target = prediction[np.arange(len(target)), target.astype(np.int64)]
            return np.asarray(-np.log(np.clip(of_target, _EPSILON, 1 - _EPSILON)))
        return None
    prediction = np.asarray(prediction)
    if kind == "multilabel" and metric == "exact_match":
        return np.asarray(((prediction > 0.5) == (target > 0.5)).all(axis=1), dtype=np.float64)
    if kind == "retrieval" and metric.startswith("recall_at_"):
        return retrieval.recall(prediction, target.astype(np.int64), num_outputs, int(metric.rpartition("_")[2]))
    if kind == "regression" and metric == "mae":
        return np.asarray(np.abs(prediction - target).mean(axis=1))
    return None


def checked_scores(kept: Predictions, kind: str, metric: str, num_outputs: int) -> Floats | None:
    """Return `sample_scores` of what a file held; None, too, where it does not fit the task or gives no finite numbers.

    Shapes: -> (N,).
    """
    if not kept.is_whole:
        return None
    try:
        scores = sample_scores(kept.prediction, kept.target, kind, metric, num_outputs)
    except (IndexError, ValueError, TypeError, ZeroDivisionError):  # another number of classes or dimensions
        return None
    return scores if scores is not None and scores.ndim == 1 and np.isfinite(scores).all() else None


def checked_influence(kept: Predictions, kind: str, metric: str, num_outputs: int) -> Influence | None:
    """Return the influence of each sample on a metric of what a file held; None where there is none, or too much.

    Of thousands of classes a file holds the most probable ones only, so metrics over classes are left out there.
    """
    many = isinstance(kept.prediction, TopProbabilities) or kept.prediction.size > MOST_NUMBERS
    if not kept.is_whole or (many and kind == "multiclass" and metric not in ("accuracy", "f1_micro", "log_loss")):
        return None
    try:
        found = influence_of(kind, metric, kept.prediction, kept.target, num_outputs)
    except (IndexError, ValueError, TypeError, ZeroDivisionError):  # another number of classes or dimensions
        return None
    return found if found is not None and found.each.ndim == 1 and np.isfinite(found.each).all() else None
