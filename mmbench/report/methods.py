"""Fusions compared across datasets: each by its row that val would choose, on one scale, with ranks and their doubt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmbench.report.across import (
    CriticalDifference,
    critical_difference,
    interquartile_mean_interval,
    mean_ranks,
    normalised_scores,
    win_rates,
)
from mmbench.report.intervals import Interval, Undefined
from mmbench.report.tables import Board, Report, Row

#: What the rows of one modality are called as a method.
ONE_MODALITY = "best single modality"


@dataclass(frozen=True, kw_only=True)
class Method:
    """A fusion with an objective, over all datasets.

    Attributes:
        name: As tables show it.
        scores: By dataset: 0 at the majority floor, 1 at the dataset's best; None where a cell lacks a result.
        mean_rank, win_rate: Among the complete methods; None for a method that is not complete.
        iqm, iqm_low, iqm_high: Interquartile mean over runs with its 95 % interval, or None.
    """

    name: str
    scores: tuple[float | None, ...]
    mean_rank: float | None
    win_rate: float | None
    iqm: float | None
    iqm_low: float | None
    iqm_high: float | None

    @property
    def num_datasets(self) -> int:
        """How many datasets it has a score on."""
        return sum(score is not None for score in self.scores)


@dataclass(frozen=True, kw_only=True)
class Across:
    """Methods over datasets.

    Attributes:
        datasets: Labels of those with a floor and a ranked row.
        left_out: Labels of the others.
        methods: Complete ones by mean rank, then the others by name.
        critical: Friedman's and Nemenyi's tests over the complete methods, by their place in `methods`, or why not.
    """

    datasets: tuple[str, ...]
    left_out: tuple[str, ...]
    methods: tuple[Method, ...]
    critical: CriticalDifference | Undefined


def across_datasets(report: Report) -> Across | None:
    """Compare methods over the first task of every dataset; None for fewer than two datasets.

    A method's score on a dataset is the test score of its row that is best on val, so nothing is chosen on test. A
    method that lacks a seed of any of its rows there has no score on that dataset, and no rank: a missing cell moves
    nobody's.
    """
    boards = [board for board in report.boards if board.first]
    usable = [board for board in boards if board.floor is not None and board.best is not None]
    if len(usable) < 2:
        return None
    names = list(dict.fromkeys(_name(row) for board in usable for row in board.rows))
    chosen = {name: [_chosen(board, name) for board in usable] for name in names}
    means = np.array([[_mean(row) for row in chosen[name]] for name in names])
    floors = np.array([_floor(board) for board in usable])
    bests = np.array([_mean(board.best) for board in usable])
    table = normalised_scores(means, floors, bests)
    places = [int(place) for place in np.flatnonzero(np.isfinite(table).any(axis=0))]
    table, floors, bests = table[:, places], floors[places], bests[places]
    kept = [usable[place] for place in places]
    if len(kept) < 2:
        return None
    ranks, wins = mean_ranks(table), win_rates(table)
    found = []
    for at, name in enumerate(names):
        interval = _iqm([chosen[name][place] for place in places], floors.tolist(), bests.tolist())
        found.append(
            Method(
                name=name,
                scores=tuple(_known(value) for value in table[at]),
                mean_rank=_known(ranks[at]),
                win_rate=_known(wins[at]),
                iqm=interval.value if isinstance(interval, Interval) else None,
                iqm_low=interval.low if isinstance(interval, Interval) else None,
                iqm_high=interval.high if isinstance(interval, Interval) else None,
            )
        )
    order = sorted(range(len(found)), key=lambda at: (_or_last(found[at].mean_rank), found[at].name))
    complete = [at for at in order if found[at].mean_rank is not None]
    dropped = {board.dataset for board in boards} - {board.dataset for board in kept}
    return Across(
        datasets=tuple(board.dataset for board in kept),
        left_out=tuple(board.dataset for board in boards if board.dataset in dropped),
        methods=tuple(found[at] for at in order),
        critical=critical_difference(table[complete]) if complete else Undefined("no method is complete"),
    )


def _name(row: Row) -> str:
    name = ONE_MODALITY if row.unimodal else row.fusion
    return name if row.objective in ("", "supervised") else f"{name}, {row.objective}"


def _chosen(board: Board, name: str) -> Row | None:
    """The method's row that is best on val; None where it has none or one of its rows lacks a seed."""
    rows = [row for row in board.rows if _name(row) == name]
    if not rows or any(row.rank is None or row.val is None for row in rows):
        return None
    return max(rows, key=lambda row: board.better(row.val or 0.0, 0.0))


def _mean(row: Row | None) -> float:
    return math.nan if row is None or row.score is None else row.score.mean


def _floor(board: Board) -> float:
    return math.nan if board.floor is None else board.floor.mean


def _iqm(rows: Sequence[Row | None], floors: Sequence[float], bests: Sequence[float]) -> Interval | Undefined:
    runs, errors = [], []
    for row, floor, best in zip(rows, floors, bests):
        if row is None or row.score is None:
            return Undefined("a dataset lacks a result")
        values = np.array(list(row.score.by_seed.values()))
        runs.append(normalised_scores(values[:, None], [floor], [best])[:, 0])
        errors.append((row.score.sample_error or 0.0) / abs(best - floor) if best != floor else 0.0)
    return interquartile_mean_interval(runs, errors)


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _or_last(value: float | None) -> float:
    return math.inf if value is None else value
