"""What people should know of the columns of their table: which are not read, are constant, or look like ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mmbench_datasets.cells import number
from mmbench_datasets.modalities import Source
from mmbench_datasets.table import Table

#: Columns that a note names, and rows from which on equal or different cells mean something.
_MOST_NAMED, _FEWEST_ROWS = 12, 20


def column_notes(table: Table, sources: Sequence[Source], others: Collection[str]) -> list[str]:
    """Return notes on a table's columns.

    Args:
        table: The rows.
        sources: The modalities that are read.
        others: Columns of labels, splits, groups and ids.
    """
    read = {column: source.name for source in sources for column in source.columns}
    notes = []
    ignored = [column for column in table.columns if column not in read and column not in others]
    if ignored:
        named = ", ".join(map(repr, ignored[:_MOST_NAMED])) + (", …" if len(ignored) > _MOST_NAMED else "")
        notes.append(
            f"ignored: {named}; to read some, name them, such as [extra={'+'.join(ignored[:2])}] beside the other "
            "modalities"
        )
    if len(table) < _FEWEST_ROWS:
        return notes
    for column, name in read.items():
        cells = [cell.strip() for cell in table.columns[column] if cell.strip()]
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


def _looks_like_ids(cells: Sequence[str], num_rows: int) -> bool:
    """Whether cells are whole numbers, all different, and close to one another, as ids and row numbers are."""
    if len(cells) < num_rows or len(set(cells)) < num_rows or not all(cell.isdecimal() for cell in cells[:100]):
        return False
    values = [number(cell) for cell in cells]
    if any(value is None or value != int(value) for value in values):
        return False
    whole = [int(value) for value in values if value is not None]
    return max(whole) - min(whole) < 2 * num_rows
