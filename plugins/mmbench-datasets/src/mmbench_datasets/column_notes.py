"""What people should know of the columns of their table: which are not read, are constant, or look like ids."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from mmbench.reference import format_reference
from mmbench_datasets.cells import is_unknown, number, parse_list
from mmbench_datasets.modalities import Inference, Source, join_option, options_of
from mmbench_datasets.table import Table

_LOOKED_AT = 200
_FIGURES = re.compile(r"['\"(<>~≈±+-]{0,2}\d[\w.,:'\"()+/%-]{0,24}")
#: Columns that a note names, and rows from which on equal or different cells mean something.
_MOST_NAMED, _FEWEST_ROWS = 12, 20


def column_notes(
    table: Table,
    sources: Sequence[Source],
    others: Collection[str],
    declared: Mapping[str, str],
    unread: Inference | None,
) -> list[str]:
    """Return notes on a table's columns.

    Args:
        table: The rows.
        sources: The modalities that are read.
        others: Columns of labels, splits, groups and ids.
        declared: The options that name modalities.
        unread: What the columns hold that no option names; None where options name none, or nobody reads the notes.
    """
    read = {column: source.name for source in sources for column in source.columns}
    kinds = {source.name: source.kind for source in sources}
    notes = []
    ignored = [column for column in table.columns if column not in read and column not in others]
    if unread and unread.sources:
        missed = unread.sources[:_MOST_NAMED]
        named = ", ".join(f"{source.columns[0]!r} ({source.kind})" for source in missed)
        notes.append(
            f"warning: only the columns that options name are read, not {named}; to read them, too: "
            f"{format_reference('', {**declared, **options_of(missed)})}"
        )
        ignored = [column for column in ignored if all(column not in source.columns for source in unread.sources)]
    if ignored:
        hint = ""
        if unread and unread.joinable:
            joined = join_option(unread.joinable, (*sources, *unread.sources))
            hint = f"; numbers, dates and categories are read by {format_reference('', {**declared, **joined})}"
        named = ", ".join(map(repr, ignored[:_MOST_NAMED])) + (", …" if len(ignored) > _MOST_NAMED else "")
        notes.append(f"ignored: {named}{hint}")
    if len(table) < _FEWEST_ROWS:
        return notes
    for column, name in read.items():
        if column in table.values and not isinstance(table.values[column][0], int | float | list | None):
            continue
        cells = [cell.strip() for cell in table.columns[column] if cell.strip()]
        if kinds[name] == "text":
            notes += _text_notes(column, name, cells)
        if len(set(cells)) == 1 and len(cells) == len(table):
            notes.append(
                f"warning: column {column!r} of {name!r} is {cells[0][:40]!r} in every row, so it tells nothing"
            )
        elif _looks_like_ids(cells, len(table)):
            notes.append(
                f"warning: column {column!r} of {name!r} is another whole number in every row; if it numbers the rows, "
                "it tells nothing of new data, and may tell the label of these"
            )
    return notes


def _text_notes(column: str, name: str, cells: Sequence[str]) -> list[str]:
    """Return warnings about cells of a text that may be no words: marks of unknown values, numbers, lists."""
    notes = []
    marks = [cell for cell in cells if is_unknown(cell)]
    if marks:
        notes.append(
            f"warning: {len(marks)} cells of {column!r} are {marks[0]!r}, which is read as a word of text {name!r}; "
            "if it marks an unknown text, empty these cells"
        )
    some = cells[:_LOOKED_AT]
    figures = [cell for cell in some if _FIGURES.fullmatch(cell)]
    if len(figures) * 2 > len(some):
        notes.append(
            f"warning: column {column!r} of {name!r} is read as text, and most of its cells look like numbers that "
            f"mmbench does not know, such as {figures[0]!r}; write plain numbers to have a table of them"
        )
    lists = [cell for cell in some if parse_list(cell) is not None]
    if len(lists) * 2 > len(some):
        notes.append(
            f"warning: column {column!r} of {name!r} is read as text, and most of its cells are lists of words, such "
            f"as {lists[0][:60]!r}"
        )
    return notes


def _looks_like_ids(cells: Sequence[str], num_rows: int) -> bool:
    """Whether cells are whole numbers, all different, and close to one another, as ids and row numbers are."""
    if len(cells) < num_rows or len(set(cells)) < num_rows or not all(cell.isdecimal() for cell in cells[:100]):
        return False
    values = [number(cell) for cell in cells]
    if any(value is None or value != int(value) for value in values):
        return False
    whole = [int(value) for value in values if value is not None]
    return max(whole) - min(whole) < 2 * num_rows
