"""Ensembles from kept predictions, without training again: seeds of a combo together, and cells chosen on val."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmbench.kept_predictions import TOP_CLASSES, Predictions, TopProbabilities, load_predictions
from mmbench.report.assembly import build_report
from mmbench.report.evidence import paired
from mmbench.report.predictions import clusters_of, order_of, sample_scores
from mmbench.report.statistics import holm
from mmbench.report.tables import Board, Row

Floats: TypeAlias = NDArray[np.float64]

#: Rounds of greedy selection: more cells than this, counted with repetition, no longer change a mean.
MAX_ROUNDS = 25
_TOP_ONLY = (
    f"of many classes the {TOP_CLASSES} most probable are kept, so ensembles take the others as equally probable"
)
#: Numbers of predictions held at once; cells of the last rows are left out beyond it.
MAX_NUMBERS = 40_000_000


@dataclass(frozen=True, kw_only=True)
class Tested:
    """An ensemble's score on test and what a paired test says of it against the best single row.

    Attributes:
        score: The board's metric on test.
        change: Score minus the mean score of the best row over its seeds.
        low, high: 95 % interval of `change` over samples, and over the row's seeds where there are several; None where
            there is none.
        p_value: Two-sided, adjusted over all ensembles of the board by Holm's method; None where nothing tests it.
        test: What tests it, or why nothing does.
    """

    score: float
    change: float
    low: float | None
    high: float | None
    p_value: float | None
    test: str


@dataclass(frozen=True, kw_only=True)
class SeedEnsemble:
    """The mean of the predictions that one combo gives under each of its seeds.

    Attributes:
        encoders, fusion, objective: The combo.
        seeds: Whose predictions are averaged.
        single: Mean score of those seeds alone.
        tested: The ensemble on test.
    """

    encoders: str
    fusion: str
    objective: str
    seeds: tuple[int, ...]
    single: float
    tested: Tested


@dataclass(frozen=True, kw_only=True)
class Member:
    """One cell of a greedy ensemble.

    Attributes:
        encoders, fusion, objective, seed, cell_id: The cell.
        weight: Its share of the mean.
    """

    encoders: str
    fusion: str
    objective: str
    seed: int
    cell_id: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class GreedyEnsemble:
    """Cells chosen on val, one after another.

    Attributes:
        members: By weight.
        num_candidates: Cells to choose from.
        val: Score on val, which the choice makes look better than it is.
        tested: On test, scored once.
    """

    members: tuple[Member, ...]
    num_candidates: int
    val: float
    tested: Tested


@dataclass(frozen=True, kw_only=True)
class Ensembles:
    """What ensembles reach on one task of one dataset.

    Attributes:
        dataset, task, metric, direction: As on the board.
        best: Encoders, fusion and objective of the row that is best on val, or "".
        best_score: Its mean score over seeds, or None.
        seeds: Ensembles over seeds, in the order of the board.
        greedy: The ensemble over cells, or None.
        left_out: Why cells, or all of them, are not considered: each reason once.
    """

    dataset: str
    task: str
    metric: str
    direction: str
    best: str = ""
    best_score: float | None = None
    seeds: tuple[SeedEnsemble, ...] = ()
    greedy: GreedyEnsemble | None = None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Cell:
    """One cell's predictions on both splits: (N, K) each, samples in one order for all cells."""

    row: Row
    seed: int
    val: Floats
    test: Floats


def ensembles_of(folder: Path) -> tuple[Ensembles, ...]:
    """Return what ensembles of a run's cells reach, by board.

    The best single row is the one that is best on val, as ensembles are chosen on val.

    Raises:
        UsageError: there is no run, or its plan is damaged.
    """
    return tuple(_of_board(board, folder) for board in build_report(folder).boards)


def choose_greedily(
    candidates: Sequence[Floats], target: Floats, board: Board, *, max_rounds: int = MAX_ROUNDS
) -> tuple[list[int], float]:
    """Choose cells whose mean prediction scores best, adding one after another, with repetition.

    Starts with the best candidate; each round adds the one that makes the mean score best, the first of equals; the
    result is the shortest of the ensembles met that score best. Source: Caruana et al. 2004, "Ensemble selection from
    libraries of models" (ICML), without its bagging.

    Args:
        candidates: Predictions on val, (N, K) each.
        target: (N,) or (N, K).
        board: Says the metric.
        max_rounds: Most cells, counted with repetition.

    Returns:
        Positions of the chosen, with repetition, and their score on val.
    """
    sign = -1.0 if board.direction == "min" else 1.0
    total = np.zeros_like(candidates[0])
    chosen: list[int] = []
    best: tuple[float, int] = (-np.inf, 0)
    for size in range(1, max_rounds + 1):
        scores = [sign * _mean_score((total + given) / size, target, board) for given in candidates]
        added = int(np.argmax(scores))
        chosen.append(added)
        total = total + candidates[added]
        if scores[added] > best[0] + 1e-12:
            best = (scores[added], size)
    return chosen[: best[1]], sign * best[0]


def _of_board(board: Board, folder: Path) -> Ensembles:
    bare = Ensembles(dataset=board.dataset, task=board.task, metric=board.metric, direction=board.direction)
    if board.kind == "retrieval":
        return replace(bare, left_out=("vectors of different models lie in different spaces and have no mean",))
    ranked = [row for row in board.rows if row.rank is not None]
    if not ranked:
        return replace(bare, left_out=("no row has a result under all seeds",))
    cells, splits, left_out = _cells(board, ranked, folder)
    if not cells:
        return replace(bare, left_out=left_out)
    best = [cell for cell in cells if cell.row is board.chosen]
    if not best:
        return replace(bare, left_out=(*left_out, "the best row's predictions cannot be read"))
    clusters = clusters_of(splits["test"], board.kind)
    opponent = np.stack([_scores(cell.test, splits["test"].target, board) for cell in best])  # (S, N)
    seeds = []
    for row in ranked:
        ours = [cell for cell in cells if cell.row is row]
        if len(ours) < 2:
            continue
        scores = _scores(np.mean([cell.test for cell in ours], axis=0), splits["test"].target, board)
        single = float(np.mean([_scores(cell.test, splits["test"].target, board).mean() for cell in ours]))
        seeds.append(
            SeedEnsemble(
                encoders=row.encoders,
                fusion=row.fusion,
                objective=row.objective,
                seeds=tuple(cell.seed for cell in ours),
                single=single,
                tested=_tested(scores, opponent, clusters),
            )
        )
    chosen, val = choose_greedily([cell.val for cell in cells], splits["val"].target, board)
    joined = np.mean([cells[place].test for place in chosen], axis=0)
    greedy = GreedyEnsemble(
        members=_members(cells, chosen),
        num_candidates=len(cells),
        val=val,
        tested=_tested(_scores(joined, splits["test"].target, board), opponent, clusters),
    )
    adjusted = holm([_p_value(tested) for tested in (*(item.tested for item in seeds), greedy.tested)])
    return replace(
        bare,
        best=_label(best[0].row),
        best_score=float(opponent.mean()),
        seeds=tuple(replace(item, tested=_adjusted(item.tested, p)) for item, p in zip(seeds, adjusted)),
        greedy=replace(greedy, tested=_adjusted(greedy.tested, adjusted[-1])),
        left_out=left_out,
    )


def _cells(
    board: Board, rows: Sequence[Row], folder: Path
) -> tuple[list[_Cell], dict[str, Predictions], tuple[str, ...]]:
    """Predictions of every cell that can be joined with the first one, and why others cannot."""
    cells: list[_Cell] = []
    splits: dict[str, Predictions] = {}
    reasons: dict[str, None] = {}
    room = MAX_NUMBERS
    for row in rows:
        for seed in board.seeds:
            if seed not in row.cell_ids:
                continue
            cell_id = row.cell_ids[seed]
            if room <= 0:
                reasons["only the first rows are considered: there are too many predictions to hold at once"] = None
                break
            found: dict[str, Floats] = {}
            read: dict[str, Predictions] = {}
            for split in ("val", "test"):
                given = _load(folder / "cells" / cell_id, split, board)
                if isinstance(given, str):
                    reasons[given.format(cell=cell_id)] = None
                    break
                same = splits.get(split, given)
                order = order_of(given.ids, same.ids)
                if order is None or not np.array_equal(given.target[order], same.target):
                    reasons[f"cell {cell_id} was evaluated on other samples or targets"] = None
                    break
                if isinstance(given.prediction, TopProbabilities):
                    reasons[_TOP_ONLY] = None
                found[split], read[split] = np.asarray(given.prediction)[order], given
            if len(found) == 2:
                splits = splits or read  # only a cell that is taken says which samples the others must have
                cells.append(_Cell(row, seed, found["val"], found["test"]))
                room -= found["val"].size + found["test"].size
    return cells, splits, tuple(reasons)


def _load(cell_folder: Path, split: str, board: Board) -> Predictions | str:
    kept = load_predictions(cell_folder, board.task, split)
    if kept is None:
        return "the predictions of cell {cell} are not there or cannot be read"
    impossible = "the predictions of cell {cell} have an impossible shape"
    if not kept.is_whole:
        return impossible
    try:
        scores = sample_scores(kept.prediction, kept.target, board.kind, board.metric, board.num_outputs)
    except (IndexError, ValueError, TypeError):
        return impossible
    if scores is None:
        return f"{board.metric} is no mean over samples, so ensembles are not scored by it"
    if not np.isfinite(kept.prediction).all():
        return "the predictions of cell {cell} are not finite"
    return kept


def _scores(prediction: Floats, target: Floats, board: Board) -> Floats:
    scores = sample_scores(prediction, target, board.kind, board.metric, board.num_outputs)
    assert scores is not None, "cells whose metric is no mean over samples are left out"
    return scores


def _mean_score(prediction: Floats, target: Floats, board: Board) -> float:
    return float(_scores(prediction, target, board).mean())


def _tested(scores: Floats, opponent: Floats, clusters: NDArray[np.int64] | None) -> Tested:
    """One ensemble's scores (N,) against those of the best row under each of its seeds (S, N)."""
    score, change = float(scores.mean()), float(scores.mean() - opponent.mean())
    found = paired(opponent, scores[None], clusters)
    return Tested(score=score, change=change, low=found.low, high=found.high, p_value=found.p_value, test=found.test)


def _members(cells: Sequence[_Cell], chosen: Sequence[int]) -> tuple[Member, ...]:
    members = [
        Member(
            encoders=cells[place].row.encoders,
            fusion=cells[place].row.fusion,
            objective=cells[place].row.objective,
            seed=cells[place].seed,
            cell_id=cells[place].row.cell_ids[cells[place].seed],
            weight=chosen.count(place) / len(chosen),
        )
        for place in dict.fromkeys(chosen)
    ]
    return tuple(sorted(members, key=lambda member: -member.weight))


def _label(row: Row) -> str:
    return " ".join(part for part in (row.encoders, row.fusion, row.objective) if part)


def _p_value(tested: Tested) -> float:
    return np.nan if tested.p_value is None else tested.p_value


def _adjusted(tested: Tested, p_value: float) -> Tested:
    return replace(tested, p_value=None if np.isnan(p_value) else float(p_value))
