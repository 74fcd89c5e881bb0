"""The report on a terminal: the answer, the top of each leaderboard, what to be careful about, where the rest is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from mmbench.report.answer import answer, board_answer, cautions, metric_words
from mmbench.report.decisions import choice_words, tuned_words
from mmbench.report.markdown import gain_cell, group_cell, interval, parameters_cell, seeds_cell, spread_cell
from mmbench.report.markdown_modalities import modality_line
from mmbench.report.tables import Board, Report, Row
from mmbench.report.text import amount, clean, counted, named, number, seconds
from mmbench.report.timing_claims import mark

if TYPE_CHECKING:
    from rich.console import Console

TOP_ROWS = 10
#: With more boards than this, each shows fewer rows.
MANY_BOARDS = 3
TOP_ROWS_OF_MANY = 5
MAX_REASONS = 8


def print_tables(report: Report, out: Console, file: Path | None = None) -> None:
    """Print a report.

    Args:
        report: What to show.
        out: Where; names are printed as text, never as markup.
        file: Where the complete tables are, for the lines that say how much is left out.
    """
    where = f", see {file}" if file else ""
    if len(report.boards) > MANY_BOARDS:
        out.print()
        out.print(Text(answer(report)))
    for board in report.boards:
        out.print()
        title = named(board.dataset) + ("" if board.first else f": {named(board.task)}")
        out.print(Text(title, style="bold"))
        out.print(Text(board_answer(board)))
        shown = _shown(board, TOP_ROWS if len(report.boards) <= MANY_BOARDS else TOP_ROWS_OF_MANY)
        if shown:
            out.print(_table(board, shown))
        left = len(board.rows) - len(shown)
        if left > 0:
            out.print(Text(f"… {counted(left, 'more row')}{where}", style="dim"))
        if board.modalities is not None and (line := modality_line(board, board.modalities)):
            out.print(Text(line))
        for caution in cautions(board):
            out.print(Text(f"careful: {caution}", style="yellow"))
    if len(report.boards) <= MANY_BOARDS and (words := choice_words(report.decisions)):
        out.print()
        out.print(Text(words))
    if report.failures:
        out.print()
        out.print(Text("without a result", style="bold"))
        for item in report.failures[:MAX_REASONS]:
            out.print(
                Text(
                    f"{item.count} {item.status}: {clean(item.reason, 200)} (such as {clean(item.examples[0], 160)})",
                    "red",
                )
            )
        if len(report.failures) > MAX_REASONS:
            out.print(Text(f"… {counted(len(report.failures) - MAX_REASONS, 'more reason')}{where}", style="dim"))
    out.print()
    statuses = ", ".join(f"{count} {status}" for status, count in report.statuses.items())
    out.print(Text(f"{report.num_done} of {counted(report.num_planned, 'cell')} done: {statuses}"))


def _shown(board: Board, top: int) -> list[Row]:
    """The first rows, the ones that val chooses, and the best row of each single modality."""
    shown = list(board.rows[:top])
    named_rows = (board.chosen, board.chosen_fusion, board.chosen_unimodal)
    shown += [row for row in board.rows[top:] if any(row is one for one in named_rows)]
    seen = {row.modalities for row in shown if row.unimodal}
    for row in board.rows[top:]:
        if row.unimodal and row.rank is not None and row.modalities not in seen:
            seen.add(row.modalities)
            shown.append(row)
    return shown


def _table(board: Board, rows: list[Row]) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    title = metric_words(board.metric) + (" ↓" if board.direction == "min" else " ↑")
    made.add_column("#", justify="right")
    grouped = any(row.group is not None for row in rows)
    if grouped:
        made.add_column("group", justify="right")
    made.add_column("encoders", overflow="fold")
    made.add_column("fusion", overflow="fold")
    objectives = {row.objective for row in rows} != {"supervised"}
    if objectives:
        made.add_column("objective", overflow="fold")
    for name in (title, "95 % CI", "gain", "seeds", "/s", "latency", "params", "training"):
        made.add_column(name, justify="right", no_wrap=True)
    swept = any(row.tuned for row in rows)
    if swept:
        made.add_column("tuned on val", overflow="fold")
    for row in rows:
        encoders = named(row.encoders, 160).replace("+", " + ")
        cells = [
            Text(("" if row.rank is None else str(row.rank)) + (" ►" if row is board.chosen else "")),
            *([Text(group_cell(row))] if grouped else []),
            Text(encoders),
            Text("" if row.unimodal and row.fusion == "single" else named(row.fusion, 48)),
            *([Text(clean(row.objective, 48))] if objectives else []),
            Text(spread_cell(row)),
            Text(interval(row.score)),
            Text(gain_cell(row.gain)),
            Text(seeds_cell(row)),
            Text(amount(row.numbers.get("throughput_samples_per_s")) + mark(row, "throughput_samples_per_s")),
            Text(seconds(row.numbers.get("latency_p50_s")) + mark(row, "latency_p50_s")),
            Text(parameters_cell(row)),
            Text(seconds(row.numbers.get("train_time_s")) + mark(row, "train_time_s")),
            *([Text(tuned_words(row.tuned))] if swept else []),
        ]
        style = "bold" if row is board.chosen else "dim" if row.rank is None else "cyan" if row.unimodal else ""
        made.add_row(*cells, style=style)
    if board.floor is not None:
        blanks = [Text("")] * (2 if objectives else 1)
        first = [Text("")] * (2 if grouped else 1)
        made.add_row(*first, Text("majority floor"), *blanks, Text(number(board.floor.mean)), style="dim")
    return made
