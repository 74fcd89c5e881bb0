"""Leaderboards as LaTeX tables (booktabs), ready for a paper: best bold, second underlined, intervals."""

from __future__ import annotations

from collections.abc import Iterator

from mmbench.report.answer import metric_words
from mmbench.report.tables import Board, Report, Row
from mmbench.report.text import MAX_NAME, counted, named, number, signed

#: Rows of one table; a paper has no room for more, and the CSV has them all.
MAX_ROWS = 20

_SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"\textquotedbl{}",
        "\u2026": r"\dots{}",
    }
)


def latex(text: str, limit: int = MAX_NAME) -> str:
    r"""Return text that LaTeX sets as it is.

    >>> latex(r"a_b & 50% \input{x}")
    'a\\_b \\& 50\\% \\textbackslash{}input\\{x\\}'
    """
    return named(text, limit).translate(_SPECIAL)


def render_latex(report: Report) -> str:
    r"""Return one table for each dataset and task; needs ``\usepackage{booktabs}``."""
    lines = [f"% Leaderboards of the run {latex(report.run)}, made by mmbench. Needs \\usepackage{{booktabs}}."]
    for board in report.boards:
        lines += ["", *_table(board)]
    return "\n".join(lines) + "\n"


def _table(board: Board) -> Iterator[str]:
    rows = [row for row in board.rows if row.rank is not None]
    shown = rows[:MAX_ROWS]
    shown += [row for row in (board.chosen, board.chosen_unimodal) if row is not None and row not in shown]
    arrow = r"$\downarrow$" if board.direction == "min" else r"$\uparrow$"
    caption = f"{latex(board.dataset)}" + ("" if board.first else f", task {latex(board.task)}")
    caption += f": {latex(metric_words(board.metric))} on "
    caption += f"{board.num_test} test samples" if board.num_test else "test"
    caption += (
        f", mean $\\pm$ standard deviation over {counted(len(board.seeds), 'seed')}, 95\\,\\% interval in brackets"
    )
    caption += f"; {len(rows)} of {counted(len(board.rows), 'row')} ranked, {len(shown)} shown"
    caption += f"; {board.num_done} of {counted(board.num_planned, 'cell')} have a result."
    yield r"\begin{table}"
    yield r"\centering"
    yield r"\begin{tabular}{llrlr}"
    yield r"\toprule"
    metric = latex(metric_words(board.metric)).capitalize()
    yield f"Encoders & Fusion & {metric} {arrow} & 95\\,\\% interval & Gain \\\\"
    yield r"\midrule"
    second = next((row.rank for row in rows if row.rank != 1), None)
    for row in shown:
        yield " & ".join(_cells(row, second)) + r" \\"
    if board.floor is not None:
        yield r"\midrule"
        yield f"majority floor & & {number(board.floor.mean)} & & \\\\"
    yield r"\bottomrule"
    yield r"\end{tabular}"
    yield f"\\caption{{{caption}}}"
    yield r"\end{table}"


def _cells(row: Row, second: int | None) -> list[str]:
    assert row.score is not None
    score = number(row.score.mean)
    if row.rank == 1:
        score = f"\\textbf{{{score}}}"
    elif row.rank == second:
        score = f"\\underline{{{score}}}"
    if row.score.std is not None:
        score += f" $\\pm$ {number(row.score.std)}"
    known = row.score.ci_low is not None and row.score.ci_high is not None
    fusion = "" if row.unimodal and row.fusion == "single" else latex(row.fusion)
    if row.objective not in ("", "supervised"):
        fusion += f", {latex(row.objective)}"
    return [
        latex(row.encoders.replace("+", " + "), 2 * MAX_NAME),
        fusion,
        score,
        f"[{number(row.score.ci_low)}, {number(row.score.ci_high)}]" if known else "",
        f"${signed(row.gain.value)}$" if row.gain else "",
    ]
