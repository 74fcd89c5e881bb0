"""The leaderboards as one CSV table, a row per combo and task."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from mmbench.redaction import short_paths
from mmbench.report.decisions import tuned_words
from mmbench.report.export import spreadsheet_text
from mmbench.report.tables import Board, Report, Row

_COSTS = (
    "throughput_samples_per_s",
    "latency_p50_s",
    "latency_p95_s",
    "num_parameters_trainable",
    "num_parameters_registered",
    "flops_per_sample",
    "inference_peak_memory_allocated_bytes",
    "model_memory_bytes",
    "train_time_s",
)
COLUMNS = (
    "run", "dataset", "task", "metric", "direction", "rank", "group", "encoders", "fusion", "objective", "seeds_done",
    "seeds_planned", "mean", "std", "ci_low", "ci_high", "ci_over", "val", "gain", "gain_ci_low", "gain_ci_high",
    "gain_over", "floor", *_COSTS, "contended", "statuses", "reason",
    "tuned", "num_trials", "chosen", "out_of_order", "differs",
)  # fmt: skip


def leaderboard_csv(report: Report) -> str:
    """Return the table; numbers round trip, and text that a spreadsheet would execute has a leading apostrophe."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for board in report.boards:
        for row in board.rows:
            writer.writerow(_cell(value) for value in _values(report.run, board, row))
    return stream.getvalue()


def _values(run: str, board: Board, row: Row) -> Iterator[str | float | int | None]:
    score, gain = row.score, row.gain
    yield from (run, board.dataset, board.task, board.metric, board.direction, row.rank, row.group)
    yield from (row.encoders, row.fusion, row.objective, len(score.by_seed) if score else 0, len(row.seeds))
    yield from (score.mean, score.std, score.ci_low, score.ci_high, score.ci_over) if score else (None,) * 5
    yield row.val
    yield from (gain.value, gain.ci_low, gain.ci_high, gain.over) if gain else (None,) * 4
    yield board.floor.mean if board.floor else None
    yield from (row.numbers.get(name) for name in _COSTS)
    yield "yes" if row.contended else "no"
    yield " ".join(f"{status}:{count}" for status, count in row.statuses.items())
    yield row.reason
    yield tuned_words(row.tuned)
    yield row.tuned.get("num_trials")
    yield "yes" if row is board.chosen else "no"
    yield "yes" if row.out_of_order else "no"
    yield "" if row.differs is None else "yes" if row.differs else "no"


def _cell(value: str | float | int | None) -> str:
    if value is None:
        return ""
    return spreadsheet_text(short_paths(value)) if isinstance(value, str) else repr(value)
