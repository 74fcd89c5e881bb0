"""Rows of one run tested against those of a published run, on the same test samples, without training anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from mmbench.errors import UsageError
from mmbench.record import DONE
from mmbench.report.assembly import build_report, mean_std_half, ranked_rows
from mmbench.report.evidence import MAX_ROWS, Scored, read_scores, shape_of_mean, with_scores
from mmbench.report.pairwise import compare_pairs, interval_of_pair, limit_of
from mmbench.report.score_reader import ScoreReader
from mmbench.report.statistics import holm
from mmbench.report.tables import Board, Row, Score
from mmbench.report.variance import seed_variance
from mmbench.store import RunStore


@dataclass(frozen=True, kw_only=True)
class RunRow(Row):
    """A row with the run that it comes from.

    Attributes:
        run: Its name.
    """

    run: str


@dataclass(frozen=True, kw_only=True)
class AgainstPublished:
    """A row compared with the published row that is best on val.

    Attributes:
        difference: Of the scores; positive is better than the published row.
        low, high: 95 % interval of it.
        p_value: Two-sided, of no difference, adjusted for all rows of the run by Holm's method.
    """

    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, kw_only=True)
class JointBoard:
    """The leaderboard of one task with the rows of both runs.

    Attributes:
        board: Ranks, intervals and groups over all rows, which are `RunRow`.
        reference: The published row that is best on val, or None.
        against: By position of the run's own rows in the board.
        test: The paired test, in words, or why there is none.
    """

    board: Board
    reference: RunRow | None
    against: Mapping[int, AgainstPublished]
    test: str


@dataclass(frozen=True, kw_only=True)
class PublishedComparison:
    """A run beside a published one.

    Attributes:
        run, published: Their names.
        boards: One for each task that both have results for.
        problems: Why a task of the run is not compared, in words.
    """

    run: str
    published: str
    boards: tuple[JointBoard, ...]
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {
            "run": self.run,
            "published": self.published,
            "problems": list(self.problems),
            "boards": [_board_json(joint) for joint in self.boards],
        }


def compare_with_published(run: RunStore, published: RunStore) -> PublishedComparison:
    """Test the rows of a run against all rows of a published run.

    The scores of single samples come from predictions or, where these were left out, from the report's packed file.

    Raises:
        UsageError: the runs have no task with results in common, or stand on different data.
    """
    names = (run.name, published.name)
    if names[0] == names[1]:
        names = (str(run.folder), str(published.folder))
    reports = build_report(run.folder), build_report(published.folder)
    readers = {name: ScoreReader(store.folder) for name, store in zip(names, (run, published))}
    data = _data_of(run), _data_of(published)
    theirs = {(board.dataset, board.task): board for board in reports[1].boards}
    boards: list[JointBoard] = []
    problems: list[str] = []
    for board in reports[0].boards:
        other = theirs.get((board.dataset, board.task))
        joined = _joined(board, other, names, data)
        if isinstance(joined, str):
            problems.append(f"{board.dataset}, {board.task}: {joined}")
        else:
            boards.append(_tested(joined, names, readers))
    if not boards:
        said = "; ".join(problems) or "it has no results"
        raise UsageError(f"nothing of {names[0]} can be compared with {names[1]}: {said}")
    return PublishedComparison(run=names[0], published=names[1], boards=tuple(boards), problems=tuple(problems))


def _data_of(store: RunStore) -> dict[str, dict[str, Any]]:
    """By dataset: its version and splits, as the first cell with a result recorded them."""
    records = store.records()
    found: dict[str, dict[str, Any]] = {}
    for row in store.planned():
        record = records.get(row["cell_id"])
        if row["dataset"] not in found and record is not None and record.status in DONE:
            identity = record.info.get("identity") or {}
            found[row["dataset"]] = {
                "version": identity.get("dataset"),
                "split": record.info.get("split_hash"),
            }
    return found


def _joined(
    board: Board, other: Board | None, names: tuple[str, str], data: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> Board | str:
    """A board with the rows of both runs on their common seeds, ranked anew; or why there is none."""
    if other is None:
        return f"{names[1]} has no such task"
    if (board.metric, board.kind, board.num_outputs) != (other.metric, other.kind, other.num_outputs):
        return f"{names[1]} ranks it by {other.metric} over {other.num_outputs} outputs, {names[0]} by {board.metric}"
    one, another = data[0].get(board.dataset), data[1].get(board.dataset)
    if one is None or another is None:
        return "one of the runs has no result"
    if one != another:
        differing = " and ".join(name for name in one if one[name] != another[name])
        return f"the runs stand on different data (its {differing} differs)"
    seeds = tuple(sorted(set(board.seeds) & set(other.seeds)))
    if not seeds:
        return f"the runs have no seed in common (seeds {board.seeds} and {other.seeds})"
    rows = [
        _on_seeds(row, seeds, name)
        for name, side in zip(names, (board, other))
        for row in side.rows
        if row.score is not None and set(seeds) <= set(row.score.by_seed)
    ]
    if {row.run for row in rows} != set(names):
        return "one of the runs has no row with all common seeds"
    ranked = tuple(ranked_rows(rows, board.direction))
    return replace(board, seeds=seeds, rows=ranked, num_done=len(ranked), warnings={}, mixed={}, modalities=None)


def _on_seeds(row: Row, seeds: tuple[int, ...], run: str) -> RunRow:
    """The row with its scores under some of its seeds alone."""
    assert row.score is not None
    given = {item.name: getattr(row, item.name) for item in fields(row)}
    if set(row.score.by_seed) != set(seeds):
        by_seed = {seed: row.score.by_seed[seed] for seed in seeds}
        mean, std, _ = mean_std_half(list(by_seed.values()))
        given["score"] = Score(by_seed=by_seed, mean=mean, std=std, ci_low=None, ci_high=None, ci_over="")
    val = {seed: row.val_by_seed[seed] for seed in seeds if seed in row.val_by_seed}
    given |= {"seeds": seeds, "val_by_seed": val, "val": math.fsum(val.values()) / len(val) if val else None}
    return RunRow(**{**given, "gain": None, "group": None, "run": run})


def _tested(board: Board, names: tuple[str, str], readers: Mapping[str, ScoreReader]) -> JointBoard:
    theirs = [row for row in board.rows if isinstance(row, RunRow) and row.run == names[1]]
    reference = board.best_on_val(theirs)
    assert reference is None or isinstance(reference, RunRow)

    def reader_of(row: Row) -> ScoreReader:
        assert isinstance(row, RunRow)
        return readers[row.run]

    scored, reason = read_scores(board, reader_of)
    if scored is None or reference is None:
        return JointBoard(board=board, reference=reference, against={}, test=reason or "nothing can be tested")
    against, test = _against(board, scored, reference, names[0])
    place = next(at for at, row in enumerate(board.rows) if row is reference)
    weighed = replace(with_scores(board, scored), untested=reason)
    found = weighed.rows[place]
    assert isinstance(found, RunRow)
    return JointBoard(board=weighed, reference=found, against=against, test=test)


def _against(board: Board, scored: Scored, reference: RunRow, run: str) -> tuple[dict[int, AgainstPublished], str]:
    """The run's rows against the reference, by position in the board; and the test in words."""
    position = next((at for at, place in enumerate(scored.places) if board.rows[place] is reference), None)
    own = [at for at, place in enumerate(scored.places) if getattr(board.rows[place], "run", "") == run]
    if position is None:
        return {}, f"there are no per-sample scores of {reference.label}"
    if not own:
        return {}, f"there are no per-sample scores of {run} among the first {MAX_ROWS} rows"
    seeds = seed_variance(scored.scores, scored.clusters) if len(board.seeds) > 1 else None
    pairs = compare_pairs(scored.scores, scored.clusters, seeds=seeds)
    limit = limit_of(scored.shape or shape_of_mean(board.metric, scored.scores))
    adjusted = holm([float(pairs.p_values[at, position]) for at in own])
    found = {}
    for at, p_value in zip(own, adjusted):
        difference = float(pairs.difference[at, position])
        low, high = interval_of_pair(pairs, at, position, limit)
        if board.direction == "min":
            difference, low, high = -difference, -high, -low
        found[scored.places[at]] = AgainstPublished(difference=difference, low=low, high=high, p_value=float(p_value))
    return found, pairs.test


def _board_json(joint: JointBoard) -> dict[str, Any]:
    board = joint.board
    rows = []
    for at, row in enumerate(board.rows):
        assert isinstance(row, RunRow) and row.score is not None
        compared = joint.against.get(at)
        rows.append(
            {
                "run": row.run,
                "rank": row.rank,
                "group": row.group,
                "encoders": row.encoders,
                "fusion": row.fusion,
                "objective": row.objective,
                "score": row.score.mean,
                "ci_low": row.score.ci_low,
                "ci_high": row.score.ci_high,
                "val": row.val,
                "against_published": None if compared is None else asdict(compared),
            }
        )
    reference = joint.reference
    return {
        "dataset": board.dataset,
        "task": board.task,
        "metric": board.metric,
        "direction": board.direction,
        "seeds": list(board.seeds),
        "test": joint.test,
        "reference": None if reference is None else {"encoders": reference.encoders, "fusion": reference.fusion},
        "rows": rows,
    }
