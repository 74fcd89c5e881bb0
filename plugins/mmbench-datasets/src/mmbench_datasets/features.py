"""The columns of a table modality as numbers: numbers, dates and times, categories and lists, each checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import DataError
from mmbench_datasets.cells import is_unknown
from mmbench_datasets.faults import Faults
from mmbench_datasets.moments import WIDTHS, Moment, encode_moment, moment_of
from mmbench_datasets.numbers import PLAIN, NumberFormat, read_number_column
from mmbench_datasets.table import Table
from mmbench_datasets.vectors import as_vector, common_width, vector_column, vector_fault

_MOST_CATEGORIES = 64
_LOOKED_AT = 200
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column of a table modality.

    Attributes:
        column: Its name.
        categories: The words that training knows, one output each; empty for anything else.
        moment: What dates and times are, or None.
        format: How numbers are written.
        offset: What is subtracted from numbers, so that they keep their differences as 32-bit floats.
        vector: How many numbers its lists hold; 0 for single values.
        words: Whether its cells are categories.
    """

    column: str
    categories: tuple[str, ...] = ()
    moment: Moment | None = None
    format: NumberFormat = PLAIN
    offset: float = 0.0
    vector: int = 0
    words: bool = False

    @property
    def width(self) -> int:
        """How many numbers it gives."""
        return self.vector or (WIDTHS[self.moment] if self.moment else len(self.categories) or 1)


def read_moment_column(cells: Sequence[str]) -> tuple[Moment, dict[int, str]] | None:
    """Return what the dates or times of a column are, and what is wrong with other cells; None for other columns."""
    known = [(row, cell.strip()) for row, cell in enumerate(cells) if not is_unknown(cell)]
    if not known:
        return None
    sorts = Counter(moment_of([cell]) for _, cell in known[:_LOOKED_AT])
    moment, count = sorts.most_common(1)[0]
    if moment is None or count * 2 <= min(len(known), _LOOKED_AT):
        return None
    faults = {
        row: f"{cell!r} is no {moment}, as most of the column is" for row, cell in known if moment_of([cell]) != moment
    }
    return (moment, faults) if len(faults) * 2 < len(known) else None


def read_features(
    table: Table, modality: str, columns: Sequence[str], categories: Sequence[str], faults: Faults
) -> tuple[list[Feature], list[str]]:
    """Return how columns become numbers, and notes on what was guessed; categories are filled in by `with_train`.

    Args:
        table: The rows.
        modality: For messages.
        columns: The columns.
        categories: Those that are to be read as categories.
        faults: Takes the rows with a cell that cannot be read.
    """
    features: list[Feature] = []
    notes: list[str] = []
    for column in columns:
        feature = Feature(column=column, words=True) if column in categories else None
        if feature is None:
            feature, wrong, note = _read_feature(table, column)
            notes += [f"column {column!r}: {note}"] if note else []
            for row, reason in wrong.items():
                faults.add(
                    row,
                    f"{table.where(row)}: in column {column!r} of {modality!r}, {reason}; correct it, leave the cell "
                    f"empty, or read the column as words by {column}:category or {column}:text",
                )
        features.append(feature)
    return features, notes


def _read_feature(table: Table, column: str) -> tuple[Feature, dict[int, str], str]:
    """Return a column as a feature, what is wrong with its cells, by row, and a note or ""."""
    cells = table.columns[column]
    numbers = read_number_column(cells) if column not in table.values else None
    if numbers:
        notes = [f"numbers with {numbers.format.describe()}"] if numbers.format.describe() else []
        if numbers.num_unknown:
            notes.append(f"{numbers.num_unknown} cells with marks such as {_first_mark(cells)!r} are unknown values")
        values = [numbers.format.parse(cell) for cell in cells]
        wrong = numbers.faults | {
            row: f"{cells[row]!r} is too large for 32-bit floats"
            for row, value in enumerate(values)
            if value is not None and abs(value) > _LARGEST_FLOAT32
        }
        return Feature(column=column, format=numbers.format), wrong, "; ".join(notes)
    vectors = vector_column(table, column)
    if vectors and vectors.depth == 1:
        width = common_width(vectors)
        wrong = {}
        for row, item in enumerate(vectors.items):
            reason = vector_fault(item, depth=1, width=width, kind="tabular") if item not in (None, []) else ""
            if reason:
                wrong[row] = f"the list {reason}"
        note = "" if column in table.values else f"lists of {width} numbers"
        return Feature(column=column, vector=width), wrong, note
    moments = read_moment_column(cells)
    if moments:
        return Feature(column=column, moment=moments[0]), moments[1], ""
    return Feature(column=column, words=True), {}, ""


def _first_mark(cells: Sequence[str]) -> str:
    return next(cell.strip() for cell in cells if cell.strip() and is_unknown(cell))


def with_train(table: Table, modality: str, features: Sequence[Feature], train: Sequence[int]) -> list[Feature]:
    """Return features with the categories and the offsets of the training rows.

    Raises:
        DataError: a column of words has no category in train, or too many.
    """
    return [_of_train(table, modality, feature, train) for feature in features]


def _of_train(table: Table, modality: str, feature: Feature, train: Sequence[int]) -> Feature:
    column, cells = feature.column, table.columns[feature.column]
    if feature.moment or feature.vector:
        return feature
    if not feature.words:
        return replace(feature, offset=_offset(feature, cells, train))
    categories = sorted({cells[row].strip() for row in train} - {""})
    if not 0 < len(categories) <= _MOST_CATEGORIES:
        raise DataError(
            f"{table.path.name}: the column {column!r} of {modality!r} has {len(categories)} different words in "
            f"train; a table takes numbers, dates and times (2024-05-01, 13:45), or 1 to {_MOST_CATEGORIES} "
            f"categories. For text use {column}:text"
        )
    return replace(feature, categories=tuple(categories))


def _offset(feature: Feature, cells: Sequence[str], train: Sequence[int]) -> float:
    """Return the middle of the training values where 32-bit floats would merge values of the column; else 0."""
    values = np.array([value for cell in cells if (value := feature.format.parse(cell.strip())) is not None])
    if not len(values) or len(np.unique(values)) == len(np.unique(values.astype(np.float32))):
        return 0.0
    trained = [value for row in train if (value := feature.format.parse(cells[row].strip())) is not None]
    return float(np.median(trained)) if trained else 0.0


def encode(feature: Feature, cell: str, item: Any = None) -> NDArray[np.float32]:
    """Return a cell as numbers: (1,) for a number, one-hot for a category, all zero for one that training never saw.

    A cell without a known value gives NaN. Dates and times: see `encode_moment`.

    Args:
        feature: The column.
        cell: Its text, without blanks around.
        item: The list that it holds, for a feature of lists.
    """
    if feature.vector:
        return as_vector(item) if item else np.full(feature.vector, np.nan, dtype=np.float32)
    if feature.moment:
        return np.array(encode_moment(feature.moment, cell), dtype=np.float32)
    if not cell:
        return np.full(feature.width, np.nan, dtype=np.float32)
    if feature.categories:
        return np.array([cell == category for category in feature.categories], dtype=np.float32)
    value = feature.format.parse(cell)
    return np.array([np.nan if value is None else value - feature.offset], dtype=np.float32)
