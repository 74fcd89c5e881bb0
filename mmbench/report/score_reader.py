"""Per-sample test scores of a run's cells: from predictions, or from the packed file where these were left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mmbench.kept_predictions import Predictions, load_predictions
from mmbench.report.packed_scores import PACKED_FILE, PackedScores, SampleScores, ScoreKey, in_canonical_order, pack
from mmbench.report.predictions import checked_influence, checked_scores, clusters_of
from mmbench.report.tables import Report

#: Scores that a packed file holds at most; rows further down are left out.
MAX_PACKED = 50_000_000
#: Predictions held at once: of the seeds of a combo.
_REMEMBERED = 5
NOT_KEPT = "the predictions of cell {cell} are not there or cannot be read"


@dataclass(frozen=True)
class ScoredTask:
    """Which scores of a cell are wanted.

    Attributes:
        name, kind, num_outputs: Of the task.
        metric: One that is a mean over samples, or another, of which samples have an influence.
        split: "test" or "val"; packed files hold test alone.
    """

    name: str
    kind: str
    num_outputs: int
    metric: str
    split: str = "test"


class ScoreReader:
    """Reads the scores of a run's cells.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._packed: PackedScores | None = None
        self._recent: dict[tuple[str, str, str], Predictions | None] = {}

    def read(self, cell_id: str, task: ScoredTask) -> SampleScores | str:
        """Return a cell's scores, or in words why there are none; "{cell}" stands for the cell in them."""
        kept = self._predictions(cell_id, task)
        if kept is None:
            packed = self._packed_scores().get(ScoreKey(cell_id, task.name, task.metric))
            return packed if packed is not None and task.split == "test" else NOT_KEPT
        scores = checked_scores(kept, task.kind, task.metric, task.num_outputs)
        influence = None if scores is not None else checked_influence(kept, task.kind, task.metric, task.num_outputs)
        if influence is not None:
            scores = influence.value + influence.each
        if scores is None:
            return f"{task.metric} is no mean over samples, so single samples say nothing about it"
        try:
            found = in_canonical_order(scores, kept.ids, clusters_of(kept, task.kind))
            if influence is None:
                return found
            return replace(
                found,
                shape=influence.shape,
                bias=influence.bias,
                least_variance=influence.least_variance,
                fewest=influence.fewest,
            )
        except ValueError as error:
            return f"the predictions of cell {{cell}} cannot be used: {error}"

    def _predictions(self, cell_id: str, task: ScoredTask) -> Predictions | None:
        """A cell's predictions; the last few are remembered, for several metrics of the same cells."""
        key = (cell_id, task.name, task.split)
        if key not in self._recent:
            while len(self._recent) >= _REMEMBERED:
                del self._recent[next(iter(self._recent))]
            self._recent[key] = load_predictions(self._folder / "cells" / cell_id, task.name, task.split)
        return self._recent[key]

    def _packed_scores(self) -> PackedScores:
        if self._packed is None:
            self._packed = PackedScores(self._folder / "report" / PACKED_FILE)
        return self._packed


def packed_file(report: Report, folder: Path) -> bytes:
    """Return the contents of the report's file of per-sample scores; b"" where there are none."""
    found = dict(_scores_of(report, folder))
    return pack(found) if found else b""


def _scores_of(report: Report, folder: Path) -> Iterable[tuple[ScoreKey, SampleScores]]:
    reader = ScoreReader(folder)
    room = MAX_PACKED
    for board in report.boards:
        task = ScoredTask(board.task, board.kind, board.num_outputs, board.metric)
        for row in board.rows:
            for cell_id in row_cells(row.cell_ids, row.done):
                scored = reader.read(cell_id, task)
                # Influences would not stand the rounding, and hold for this model alone.
                if isinstance(scored, SampleScores) and scored.shape is None and len(scored.scores) <= room:
                    room -= len(scored.scores)
                    yield ScoreKey(cell_id, board.task, board.metric), scored


def row_cells(cell_ids: Mapping[int, str], done: Iterable[int]) -> list[str]:
    """Return the cells of a row that have a result."""
    return [cell_ids[seed] for seed in done]
