"""Labels that are lists: multi-hot vectors, lists of words or of class numbers, and vectors to regress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmbench.errors import DataError
from mmbench.spec import TaskSpec
from mmbench_datasets.cells import parse_list, parse_numbers
from mmbench_datasets.faults import Faults
from mmbench_datasets.label_names import join_spellings
from mmbench_datasets.table import Table, part_name

_LARGEST_NUMBER = 1e38


def is_list_column(table: Table, column: str, forced: str = "") -> bool:
    """Whether the labels of a column are lists: of the file's own, or most cells are lists written as text.

    Raises:
        DataError: most cells look like lists and cannot be read as such.
    """
    if column in table.values:
        return True
    if forced == "multiclass":
        return False
    filled = [cell.strip() for cell in table.columns[column] if cell.strip()]
    if not filled:
        return False
    num_lists = sum(is_list(cell) for cell in filled)
    if num_lists * 2 > len(filled):
        return True
    bracketed = [row for row, cell in enumerate(table.columns[column]) if _looks_like_list(cell.strip())]
    if (num_lists + len(bracketed)) * 2 > len(filled):
        raise DataError(
            f"{table.where(bracketed[0])}: the label (column {column!r}) is {table.columns[column][bracketed[0]]!r}, "
            'which looks like a list and cannot be read as one; write ["a", "b"] or a;b, or force classes with '
            f"[label={column}:multiclass]"
        )
    # "0;1;1;0" is a vector where all cells have as many numbers, and else a set of labels.
    least_commas = 1 if forced == "multilabel" else 2
    if not all(";" in cell or "|" in cell or " " in cell or cell.count(",") >= least_commas for cell in filled):
        return False
    widths = {len(numbers) if (numbers := parse_numbers(cell)) else 0 for cell in filled}
    return len(widths) == 1 and widths != {0} and _is_vector_text(filled)


def is_list(cell: str) -> bool:
    """Whether a cell writes a list as JSON, Python or NumPy does."""
    return parse_list(cell) is not None


def _looks_like_list(cell: str) -> bool:
    """Whether a cell stands in brackets with commas or a gap, as lists do, and is none that can be read."""
    bracketed = len(cell) > 1 and cell[0] in "[({" and cell[-1] in "])}"
    return bracketed and ("," in cell or "..." in cell) and not is_list(cell)


def _is_vector_text(cells: Sequence[str]) -> bool:
    lists = [parse_numbers(cell) or [] for cell in cells]
    return _are_binary(lists) or any(isinstance(item, float) for items in lists for item in items)


def list_target(table: Table, column: str, forced: str, faults: Faults) -> tuple[TaskSpec, list[Any], tuple[str, ...]]:
    """Return the task of a column of lists, every row's target, and notes.

    ======================================= ==========================================================
    lists                                   task
    ======================================= ==========================================================
    of one length, only 0 and 1             multilabel: one label for each place in the list
    of words                                multilabel: the words
    of whole numbers, of different lengths  multilabel: the numbers
    of numbers with fractions, one length   regression of that many outputs
    ======================================= ==========================================================

    Raises:
        DataError: the lists are something else, or can be read in two ways.
    """
    lists = _lists(table, column, faults)
    filled = [items for items in lists if items]
    if not filled:
        if faults:
            raise faults.error(table.path.name)
        raise DataError(f"{table.path.name}: the label column {column!r} holds no labels")
    name = part_name(column)
    flat = [item for items in filled for item in items]
    numeric = all(isinstance(item, int | float) for item in flat)
    widths = Counter(len(items) for items in filled)
    width = widths.most_common(1)[0][0]
    even = len(widths) == 1
    # A set of labels holds none twice.
    twice = any(len(set(items)) < len(items) for items in filled)
    if numeric and forced != "regression" and width > 1 and _are_binary(filled) and (even or twice):
        _check_widths(table, column, lists, width, faults)
        task = TaskSpec(
            name=name,
            kind="multilabel",
            num_outputs=width,
            class_names=tuple(f"{column}[{place}]" for place in range(width)),
        )
        note = f"labels of {column!r}: lists of {width} zeros and ones are {width} labels"
        return task, [tuple(int(item) for item in items) for items in lists], (note,)
    fractions = numeric and any(isinstance(item, float) and item != int(item) for item in flat)
    if forced == "regression" or (fractions and forced != "multilabel"):
        return _vectors(table, column, lists, width, faults)
    if numeric and ((even and width > 1) or twice) and not forced:
        raise DataError(
            f"{table.path.name}: the labels in {column!r} are lists of whole numbers: say whether they are labels, by "
            f"[label={column}:multilabel], or numbers to predict, by [label={column}:regression]"
        )
    if fractions or not all(isinstance(item, str | int | float) for item in flat):
        raise DataError(
            f"{table.path.name}: the lists in the label column {column!r} hold neither words nor whole numbers; "
            "name another column with [label=COLUMN]"
        )
    return _sets(column, lists)


def _lists(table: Table, column: str, faults: Faults) -> list[list[Any]]:
    """Return the list of each row; [] where it is empty, and where it is a fault."""
    lists: list[list[Any]] = []
    typed = column in table.values
    for row, cell in enumerate(table.values[column] if typed else table.columns[column]):
        items = _typed_items(cell) if typed else _text_items(cell)
        if items is None or not all(_is_label(item) for item in items):
            shown = table.columns[column][row][:80]
            faults.add(
                row,
                f"{table.where(row)}: the label (column {column!r}) is {shown!r}, not a list of words or numbers; "
                "correct it or remove the row",
            )
            items = []
        lists.append([int(item) if isinstance(item, bool) else item for item in items])
    return lists


def _typed_items(value: Any) -> list[Any] | None:
    """Return the list that a file holds as such, [] for none, None for anything else."""
    return [] if value is None else value if isinstance(value, list) else None


def _text_items(cell: str) -> list[Any] | None:
    """Return the list that a cell writes as text, [] for an empty cell, None for anything else."""
    if not cell.strip():
        return []
    found = parse_list(cell)
    return parse_numbers(cell) if found is None else found


def _is_label(item: Any) -> bool:
    """Whether an item of a list is a word or a finite number."""
    if isinstance(item, int | float):
        return abs(item) < _LARGEST_NUMBER  # False for NaN, too
    return isinstance(item, str)


def _are_binary(lists: Sequence[Sequence[Any]]) -> bool:
    return all(item in (0, 1) for items in lists for item in items)


def _check_widths(table: Table, column: str, lists: Sequence[Sequence[Any]], width: int, faults: Faults) -> None:
    for row, items in enumerate(lists):
        if len(items) != width:
            faults.add(
                row,
                f"{table.where(row)}: the label (column {column!r}) has {len(items)} zeros and ones where {width} are "
                "due; correct it or remove the row",
            )


def _vectors(
    table: Table, column: str, lists: Sequence[Sequence[Any]], width: int, faults: Faults
) -> tuple[TaskSpec, list[Any], tuple[str, ...]]:
    values: list[tuple[float, ...]] = []
    for row, items in enumerate(lists):
        numbers = np.array(items, dtype=np.float64) if all(isinstance(item, int | float) for item in items) else None
        if numbers is None or len(items) != width or not np.isfinite(numbers.astype(np.float32)).all():
            faults.add(
                row,
                f"{table.where(row)}: the label (column {column!r}) holds {len(items)} numbers where {width} finite "
                "ones are due; correct it or remove the row",
            )
            numbers = np.zeros(width)
        values.append(tuple(float(number) for number in numbers))
    if not faults and len(set(values)) < 2:
        raise DataError(f"{table.path.name}: all labels in {column!r} are equal; there is nothing to learn")
    task = TaskSpec(name=part_name(column), kind="regression", num_outputs=width)
    targets = [value[0] for value in values] if width == 1 else values
    return task, targets, (f"labels of {column!r}: lists of {width} numbers to predict",)


def _sets(column: str, lists: Sequence[Sequence[Any]]) -> tuple[TaskSpec, list[Any], tuple[str, ...]]:
    words = [[_word(item) for item in items] for items in lists]
    sets, notes = sets_of_labels(words)
    found = set().union(*sets)
    numeric = all(name.lstrip("-").isdecimal() for name in found)
    names = sorted(found, key=(lambda name: (int(name), name)) if numeric else None)
    task = TaskSpec(name=part_name(column), kind="multilabel", num_outputs=len(names), class_names=tuple(names))
    values = [tuple(int(name in labels) for name in names) for labels in sets]
    return task, values, tuple(f"labels of {column!r}: {note}" for note in notes)


def sets_of_labels(rows: Sequence[Sequence[str]]) -> tuple[list[set[str]], list[str]]:
    """Return the labels of each row, one spelling for each, and notes on what was joined or looks alike."""
    flat = [label for labels in rows for label in labels if label]
    joined, notes = join_spellings(flat)
    spelling = dict(zip(flat, joined))
    return [{spelling[label] for label in labels if label} for labels in rows], notes


def _word(item: Any) -> str:
    return str(int(item)) if isinstance(item, float) else str(item).strip()
