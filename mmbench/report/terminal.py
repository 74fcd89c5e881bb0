"""The report on a terminal: the answer, the top of each leaderboard, what to be careful about, where the rest is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from mmbench.report.answer import answer, board_answer, cautions, metric_words
from mmbench.report.decisions import choice_words, tuned_words
from mmbench.report.markdown import gain_cell, group_cell, interval, parameters_cell, seeds_cell, spread_cell
from mmbench.report.markdown_modalities import modality_line
from mmbench.report.tables import Board, Report, Row
from mmbench.report.text import amount, clean, counted, named, number, seconds
from mmbench.report.timing_claims import mark
from mmbench.terminal_table import Column, TerminalTable

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
            out.print()
            _table(board, shown).print(out)
        left = len(board.rows) - len(shown)
        if left > 0:
            out.print(Text(f"… {counted(left, 'more row')}{where}", style="dim"))
        if board.modalities is not None and (line := modality_line(board, board.modalities)):
            out.print(Text(line))
        for caution in cautions(board):
            out.print(Text(f"warning: {caution}", style="magenta"))
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


def _table(board: Board, rows: list[Row]) -> TerminalTable:
    title = metric_words(board.metric) + (" ↓" if board.direction == "min" else " ↑")
    grouped = any(row.group is not None for row in rows)
    objectives = {row.objective for row in rows} != {"supervised"}
    swept = any(row.tuned for row in rows)
    made = TerminalTable(
        [
            Column(heading="#", kind="lead"),
            *([Column(heading="group", kind="lead", priority=1)] if grouped else []),
            Column(heading="encoders", kind="name"),
            Column(heading="fusion", kind="name"),
            *([Column(heading="objective", kind="name")] if objectives else []),
            Column(heading=title),
            Column(heading="95 % CI"),
            Column(heading="gain", priority=2),
            Column(heading="seeds", priority=5),
            Column(heading="/s", priority=6),
            Column(heading="latency", priority=3),
            Column(heading="params", priority=4),
            Column(heading="training", priority=7),
            *([Column(heading="tuned on val", kind="text", priority=8)] if swept else []),
        ]
    )
    for row in rows:
        cells = [
            ("" if row.rank is None else str(row.rank)) + (" ►" if row is board.chosen else ""),
            *([group_cell(row)] if grouped else []),
            named(row.encoders, 160).replace("+", " + "),
            "" if row.unimodal and row.fusion == "single" else named(row.fusion, 48),
            *([clean(row.objective, 48)] if objectives else []),
            spread_cell(row),
            interval(row.score),
            gain_cell(row.gain),
            seeds_cell(row),
            amount(row.numbers.get("throughput_samples_per_s")) + mark(row, "throughput_samples_per_s"),
            seconds(row.numbers.get("latency_p50_s")) + mark(row, "latency_p50_s"),
            parameters_cell(row),
            seconds(row.numbers.get("train_time_s")) + mark(row, "train_time_s"),
            *([tuned_words(row.tuned)] if swept else []),
        ]
        unranked = row.rank is None and not board.smoke
        style = "bold" if row is board.chosen else "dim" if unranked else ""
        made.add_row(*cells, style=style)
    if board.floor is not None:
        before = [""] * (2 if grouped else 1)
        between = [""] * (2 if objectives else 1)
        after = [""] * (8 if swept else 7)
        made.add_row(*before, "majority floor", *between, number(board.floor.mean), *after, style="dim")
    return made
