"""Columns of lists as inputs: a table of one width, or a sequence of steps."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import DataError
from mmbench_datasets.cells import parse_list, parse_numbers
from mmbench_datasets.lazy_sequence import LazySequence
from mmbench_datasets.table import Table

_LOOKED_AT = 200
_LONGEST_CELL = 10_000_000
_CUT_LIST = re.compile(r"[\w.]*\(?\[[\s\d.,eE+\-\[\]]*\.\.\.[\s\d.,eE+\-\[\]]*\][\w\s=,.]*\)?")


@dataclass(frozen=True, kw_only=True)
class VectorColumn:
    """A column whose cells are lists of numbers.

    Attributes:
        depth: 1 for lists of numbers, 2 for lists of such lists.
        items: The list of each row, None where it is empty.
    """

    depth: int
    items: Sequence[Any]

    def __post_init__(self) -> None:
        assert self.depth in (1, 2)


class ParsedCells(LazySequence[Any]):
    """The lists that cells write as text, parsed when they are asked for."""

    def __init__(self, cells: Sequence[str]) -> None:
        self._cells = cells

    def __len__(self) -> int:
        return len(self._cells)

    def item(self, position: int) -> Any:
        """Return the list of a cell, the cell itself where it is none, None for an empty one."""
        cell = self._cells[position]
        if not cell.strip():
            return None
        found = parse_list(cell)
        if found is None:
            found = parse_numbers(cell)
        return cell if found is None else found


def vector_column(table: Table, column: str) -> VectorColumn | None:
    """Return a column of lists of numbers, or None where most of its first cells hold something else."""
    typed = column in table.values
    items = table.values[column] if typed else ParsedCells(table.columns[column])
    depths: Counter[int] = Counter()
    for row in range(len(items)):
        if depths.total() == _LOOKED_AT:
            break
        item = items[row] if typed or len(table.columns[column][row]) < _LONGEST_CELL else None
        if item is not None and item != []:
            depths[_depth(item)] += 1
    if not depths:
        return None
    depth, count = depths.most_common(1)[0]
    return VectorColumn(depth=depth, items=items) if depth and count * 2 > depths.total() else None


def check_cut_lists(table: Table, column: str) -> None:
    """Check that a column is not one of arrays that NumPy or torch wrote without their middle: "[0.1 0.2 ... 0.9]".

    Raises:
        DataError: most of its first cells are.
    """
    filled = [row for row, cell in enumerate(table.columns[column]) if cell.strip()][:_LOOKED_AT]
    cut = [row for row in filled if _CUT_LIST.fullmatch(table.columns[column][row].strip())]
    if len(cut) * 2 > len(filled):
        raise DataError(
            f"{table.where(cut[0])}: the column {column!r} holds arrays whose middle was left out when they were "
            f"written: {table.columns[column][cut[0]][:60]!r}; write whole lists, as json.dumps(array.tolist()) does, "
            f"or paths of .npy files, or take the cells as text by {column}:text"
        )


def _depth(item: Any) -> int:
    """Return how many lists stand around numbers: 1 or 2; 0 for anything else."""
    if not isinstance(item, list) or not item:
        return 0
    if all(_is_number(each) for each in item):
        return 1
    if all(isinstance(each, list) and each and all(_is_number(inner) for inner in each) for each in item):
        return 2
    return 0


def _is_number(item: Any) -> bool:
    return item is None or isinstance(item, int | float)


def is_ragged(column: VectorColumn) -> bool:
    """Whether lists of numbers differ in length."""
    if column.depth == 2:
        return False
    return len({len(item) for item in column.items if isinstance(item, list) and item}) > 1


def common_width(column: VectorColumn) -> int:
    """Return the most frequent length of a row, or of a step for lists of lists; the larger of equals."""
    widths: Counter[int] = Counter()
    for item in column.items:
        if isinstance(item, list) and item:
            inner = item[0] if column.depth == 2 else item
            if isinstance(inner, list):
                widths[len(inner)] += 1
    return max(widths, key=lambda width: (widths[width], width))


def vector_fault(item: Any, *, depth: int, width: int, kind: str) -> str:
    """Return what is wrong with the list of a row as a table or a sequence, or "".

    Args:
        item: The list.
        depth: Of the column.
        width: Of the column; a sequence of numbers has any length.
        kind: "tabular" or "sequence".
    """
    if _depth(item) != depth:
        return "is no list of numbers of one shape"
    steps = item if depth == 2 else [item]
    lengths = {len(step) for step in steps}
    if (depth == 2 or kind == "tabular") and lengths != {width}:
        got = ", ".join(map(str, sorted(lengths)))
        return f"has {got} numbers, and most rows have {width}: {'a step' if depth == 2 else 'a table'} needs one width"
    if kind == "tabular":
        numbers = as_vector(item)
        return "holds a number that is infinite, or too large for 32-bit floats" if np.isinf(numbers).any() else ""
    return "" if np.isfinite(as_sequence(item)).all() else "holds a number that is not finite"


def as_vector(item: Sequence[Any]) -> NDArray[np.float32]:
    """Return a list of numbers as float32 (F,); null is NaN, which means not known."""
    with np.errstate(over="ignore"):
        return np.array([_as_float(each) for each in item], dtype=np.float64).astype(np.float32)


def _as_float(item: float | None) -> float:
    try:
        return math.nan if item is None else float(item)
    except OverflowError:  # a whole number of more than 308 digits
        return math.inf


def as_sequence(item: Sequence[Any]) -> NDArray[np.float32]:
    """Return a list of steps, each a number or a list of numbers, as float32 (T, F)."""
    steps = [each if isinstance(each, list) else [each] for each in item]
    return np.stack([as_vector(step) for step in steps])
