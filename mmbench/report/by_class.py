"""Precision, recall and F1 of each class or label, for the row that val chooses, from kept predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmbench.influence import influence_of
from mmbench.kept_predictions import Predictions
from mmbench.report.intervals import Interval, Undefined, drawn_anew, mean_interval
from mmbench.report.predictions import clusters_of, row_predictions

if TYPE_CHECKING:
    from mmbench.report.tables import Board, Report, Row

Bools: TypeAlias = NDArray[np.bool_]

#: Classes that a table shows; of more, those with the lowest F1.
MAX_CLASSES = 50
#: Decisions held at once: seeds x samples x classes.
_MOST_DECISIONS = 50_000_000
CLASS_METRICS = ("precision", "recall", "f1")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds with its 95 % interval; None where it is not defined or nothing gives an interval."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """One class or label.

    Attributes:
        name: Of the class, or its number.
        support: Test samples that have it.
        precision, recall, f1: On test; precision is 0 for a class that is never predicted, all are None for one
            without test samples.
    """

    name: str
    support: int
    precision: Estimate
    recall: Estimate
    f1: Estimate


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """The classes of a board under one of its rows.

    Attributes:
        place: Of the row, in its board: the one that is best on val.
        classes: Those shown, in the order of the classes.
        num_classes: How many there are.
        over: What the intervals are over, as in `Score`.
    """

    place: int
    classes: tuple[ClassScores, ...]
    num_classes: int
    over: str


def with_classes(report: Report, folder: Path) -> Report:
    """Return the report with the class tables of its boards; a board without predictions or classes keeps None."""
    return replace(report, boards=tuple(replace(board, classes=class_table(board, folder)) for board in report.boards))


def class_table(board: Board, folder: Path) -> ClassTable | None:
    """Return the scores of each class under the row that val chooses; None where nothing is kept of it."""
    if board.kind not in ("multiclass", "multilabel") or board.chosen is None:
        return None
    place = next(place for place, row in enumerate(board.rows) if row is board.chosen)
    decisions = _decisions(board, board.chosen, folder)
    if decisions is None:
        return None
    chosen, actual, clusters = decisions
    support = actual.sum(axis=0)
    f1 = (2 * (chosen & actual).sum(axis=1) / np.maximum(chosen.sum(axis=1) + support, 1)).mean(axis=0)
    shown = np.arange(len(support))
    if len(shown) > MAX_CLASSES:
        present = np.flatnonzero(support > 0)
        shown = np.sort(present[np.argsort(f1[present], kind="stable")[:MAX_CLASSES]])
    names = board.class_names or tuple(map(str, range(len(support))))
    return ClassTable(
        place=place,
        classes=tuple(
            ClassScores(
                name=names[number],
                support=int(support[number]),
                **{
                    metric: _estimate(metric, chosen[:, :, number], actual[:, number], clusters)
                    for metric in CLASS_METRICS
                },
            )
            for number in shown.tolist()
        ),
        num_classes=len(support),
        over=drawn_anew(len(chosen), clustered=clusters is not None),
    )


def _decisions(board: Board, row: Row, folder: Path) -> tuple[Bools, Bools, NDArray[np.int64] | None] | None:
    """Return decisions (S, N, K), the truth (N, K) and the samples' groups; None where they are not kept."""
    first: Predictions | None = None
    found: list[Bools] = []
    for kept in row_predictions(row, board.task, folder):
        if kept is None or kept.prediction.shape[1] != board.num_outputs:
            return None
        if len(row.done) * len(kept.ids) * board.num_outputs > _MOST_DECISIONS:
            return None
        first = first or kept
        found.append(_decided(kept.prediction, board.kind))
    if first is None:
        return None
    actual = _one_hot(first.target.astype(np.int64), board) if board.kind == "multiclass" else first.target > 0.5
    if actual.shape != found[0].shape:
        return None
    return np.stack(found), actual, clusters_of(first, board.kind)


def _decided(prediction: Any, kind: str) -> Bools:
    """Return which classes or labels are predicted: (N, K)."""
    if kind == "multilabel":
        return np.asarray(prediction) > 0.5
    return np.asarray(prediction.argmax(axis=1)[:, None] == np.arange(prediction.shape[1]))


def _one_hot(target: NDArray[np.int64], board: Board) -> Bools:
    return np.asarray(target[:, None] == np.arange(board.num_outputs))


def _estimate(metric: str, chosen: Bools, actual: Bools, clusters: NDArray[np.int64] | None) -> Estimate:
    """Return a metric of one class: decisions (S, N), truth (N,)."""
    # Of one label alone, the mean over labels is its own value.
    truth = actual.astype(np.float64)[:, None]
    found = [influence_of("multilabel", f"{metric}_macro", one.astype(np.float64)[:, None], truth) for one in chosen]
    known = [item for item in found if item is not None]
    if len(known) < len(found):
        return Estimate(value=None)
    interval = mean_interval(
        np.stack([item.value + item.each for item in known]),
        shape="unit",
        clusters=clusters,
        least_variance=float(np.mean([item.least_variance for item in known])),
    )
    value = float(np.mean([item.value for item in known]))
    if isinstance(interval, Undefined):
        return Estimate(value=value)
    assert isinstance(interval, Interval)
    return Estimate(value=value, low=interval.low, high=interval.high)


def class_rows(table: ClassTable) -> Iterator[tuple[str, int, Sequence[Estimate]]]:
    """Yield name, support and estimates in the order of `CLASS_METRICS`, for those who draw tables."""
    for item in table.classes:
        yield item.name, item.support, (item.precision, item.recall, item.f1)
