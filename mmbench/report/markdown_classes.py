"""The report's table of classes as GitHub Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from mmbench.report.answer import combo
from mmbench.report.by_class import ClassTable, Estimate, class_rows
from mmbench.report.tables import Board
from mmbench.report.text import MAX_NAME, counted, markdown, named, number, table_lines


def class_lines(board: Board, table: ClassTable) -> Iterator[str]:
    """Yield the section: precision, recall and F1 of each class under the row that val chooses."""
    what = "label" if board.kind == "multilabel" else "class"
    yield ""
    yield f"### {what.capitalize()}{'s' if what == 'label' else 'es'}"
    yield ""
    yield (
        f"Of each {what} on test under the row that is best on val, {markdown(combo(board.rows[table.place]), 240)}: "
        f"mean over seeds, with the 95 % interval over {table.over}. Support is the number of test samples."
    )
    yield ""
    yield from table_lines(
        [what, "support", "precision", "recall", "F1"],
        [
            [markdown(named(name, MAX_NAME), MAX_NAME + 20), str(support), *map(estimate_words, estimates)]
            for name, support, estimates in class_rows(table)
        ],
    )
    left_out = table.num_classes - len(table.classes)
    if left_out:
        yield ""
        yield f"{counted(left_out, 'other')} with a higher F1, or without test samples, not shown."


def estimate_words(item: Estimate) -> str:
    """A value with its interval: "0.810 [0.702, 0.894]"."""
    if item.value is None:
        return "–"
    if item.low is None or item.high is None:
        return number(item.value)
    return f"{number(item.value)} [{number(item.low)}, {number(item.high)}]"
