"""The columns of a table modality as numbers: numbers, dates and times, categories and lists, each checked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import DataError
from mmbench_datasets.cells import LARGEST_FLOAT32, exact_number, is_unknown
from mmbench_datasets.faults import Faults
from mmbench_datasets.label_names import BOOLEANS, join_spellings
from mmbench_datasets.moments import (
    WIDTHS,
    DateOrder,
    Moment,
    as_iso,
    date_order,
    encode_moment,
    is_moment_written_otherwise,
    moment_of,
    order_notes,
)
from mmbench_datasets.numbers import PLAIN, NumberFormat, read_number_column
from mmbench_datasets.table import Table
from mmbench_datasets.vectors import as_vector, common_width, vector_column, vector_fault

#: Words that a column of categories has at most in train.
MOST_CATEGORIES = 64
_CODE = re.compile(r"0\d+", re.ASCII)
_LOOKED_AT = 200
_LARGEST_EXACT = 2**53  # whole numbers up to this are 64-bit floats


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column of a table modality.

    Attributes:
        column: Its name.
        categories: The words that training knows, one output each; empty for anything else.
        moment: What dates and times are, or None.
        date_order: The order of the parts of its dates where they are not written as ISO 8601, or None.
        format: How numbers are written.
        offset: What is subtracted from numbers, so that they keep their differences as 32-bit floats; a whole number
            where the column holds some that 64-bit floats would merge.
        vector: How many numbers its lists hold; 0 for single values.
        words: Whether its cells are categories.
        spellings: By category as cells write it, the category.
    """

    column: str
    categories: tuple[str, ...] = ()
    moment: Moment | None = None
    date_order: DateOrder | None = None
    format: NumberFormat = PLAIN
    offset: float = 0.0
    vector: int = 0
    words: bool = False
    spellings: Mapping[str, str] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """How many numbers it gives."""
        return self.vector or (WIDTHS[self.moment] if self.moment else len(self.categories) or 1)


@dataclass(frozen=True, kw_only=True)
class MomentColumn:
    """A column of dates and times.

    Attributes:
        moment: What its cells are.
        order: Of the parts of dates that are not written as ISO 8601, or None.
        faults: What is wrong with other cells, by row.
    """

    moment: Moment
    order: DateOrder | None
    faults: Mapping[int, str]


def read_moment_column(cells: Sequence[str]) -> MomentColumn | None:
    """Return how the dates and times of a column are read; None for columns of anything else."""
    written = {row: cell.strip() for row, cell in enumerate(cells) if not is_unknown(cell)}
    order = date_order(written.values())
    known = [(row, as_iso(cell, order)) for row, cell in written.items()]
    if not known:
        return None
    sorts = Counter(moment_of([cell]) for _, cell in known[:_LOOKED_AT])
    moment, count = sorts.most_common(1)[0]
    if moment is None or count * 2 <= min(len(known), _LOOKED_AT):
        return None
    faults = {
        row: f"{written[row]!r} is no {moment}, as most of the column is"
        for row, cell in known
        if moment_of([cell]) != moment
    }
    return MomentColumn(moment=moment, order=order, faults=faults) if len(faults) * 2 < len(known) else None


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
        if column in categories:
            feature, found = _categories(column, table.columns[column])
        else:
            feature, wrong, found = _read_feature(table, column)
            for row, reason in wrong.items():
                faults.add(
                    row,
                    f"{table.where(row)}: in column {column!r} of {modality!r}, {reason}; correct it, leave the cell "
                    f"empty, or read the column as words by {column}:category or {column}:text",
                )
        notes += [f"column {column!r}: {note}" for note in found]
        features.append(feature)
    return features, notes


def is_boolean_column(cells: Sequence[str]) -> bool:
    """Whether the known cells of a column are the words true and false, in any case."""
    known = {cell.strip().casefold() for cell in cells if not is_unknown(cell)}
    return bool(known) and known <= BOOLEANS


def _categories(column: str, cells: Sequence[str]) -> tuple[Feature, list[str]]:
    """Return a column of words, one spelling for each category, and notes."""
    stripped = [cell.strip() for cell in cells]
    if is_boolean_column(cells):
        stripped = ["" if is_unknown(cell) else cell for cell in stripped]
    joined, notes = join_spellings(stripped)
    spellings = {cell.strip(): category for cell, category in zip(cells, joined) if cell.strip()}
    return Feature(column=column, words=True, spellings=spellings), [note for note in notes if note]


def _read_feature(table: Table, column: str) -> tuple[Feature, dict[int, str], list[str]]:
    """Return a column as a feature, what is wrong with its cells, by row, and notes."""
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
            if value is not None and abs(value) > LARGEST_FLOAT32
        }
        codes = [cell.strip() for cell in cells if _CODE.fullmatch(cell.strip())]
        if codes:
            notes.append(f"{codes[0]!r} is read as a number; if it is a code, say {column}:category or {column}:text")
        return Feature(column=column, format=numbers.format), wrong, ["; ".join(notes)] if notes else []
    if column not in table.values and all(is_unknown(cell) for cell in cells):
        return Feature(column=column), {}, []
    vectors = vector_column(table, column)
    if vectors and vectors.depth == 1:
        width = common_width(vectors)
        wrong = {}
        for row, item in enumerate(vectors.items):
            reason = vector_fault(item, depth=1, width=width, kind="tabular") if item not in (None, []) else ""
            if reason:
                wrong[row] = f"the list {reason}"
        return Feature(column=column, vector=width), wrong, [f"lists of {width} numbers"]
    moments = read_moment_column(cells)
    if moments:
        feature = Feature(column=column, moment=moments.moment, date_order=moments.order)
        return feature, dict(moments.faults), order_notes(cells, moments.order)
    check_moments(table, column)
    feature, spelled = _categories(column, cells)
    return feature, {}, spelled


def check_moments(table: Table, column: str) -> None:
    """Check that a column is not one of dates or times in a form whose order nobody can tell.

    Raises:
        DataError: most of its known cells are.
    """
    known = [row for row, cell in enumerate(table.columns[column]) if not is_unknown(cell)][:_LOOKED_AT]
    otherwise = [row for row in known if is_moment_written_otherwise(table.columns[column][row])]
    if len(otherwise) * 2 > len(known):
        row = otherwise[0]
        raise DataError(
            f"{table.where(row)}: the column {column!r} holds dates or times such as {table.columns[column][row]!r}, "
            "which can be read in several ways, and no cell decides which; write them as 2024-05-01, 21:30 or "
            f"2024-05-01T21:30, or read the column as words by {column}:category or {column}:text"
        )


def _first_mark(cells: Sequence[str]) -> str:
    return next(cell.strip() for cell in cells if cell.strip() and is_unknown(cell))


def with_train(table: Table, modality: str, features: Sequence[Feature], train: Sequence[int]) -> list[Feature]:
    """Return features with the categories and the offsets of the training rows.

    Raises:
        DataError: a column of words has no category in train, or too many.
    """
    return [_of_train(table, modality, feature, train, alone=len(features) == 1) for feature in features]


def _of_train(table: Table, modality: str, feature: Feature, train: Sequence[int], *, alone: bool) -> Feature:
    column, cells = feature.column, table.columns[feature.column]
    known = [row for row in train if cells[row].strip() and (feature.words or not is_unknown(cells[row]))]
    if not known:
        lacking = repr(modality) if alone else f"a value in the column {column!r} of {modality!r}"
        raise DataError(
            f"{table.path.name}: no row of train has {lacking} ({len(train)} rows), so nothing can be learned of it; "
            "leave it out, or move rows with it to train"
        )
    if feature.moment or feature.vector:
        return feature
    if not feature.words:
        offset = _offset(feature, cells, train)
        _check_kept_apart(table, feature, offset)
        return replace(feature, offset=offset)
    categories = sorted({feature.spellings.get(cells[row].strip(), "") for row in train} - {""})
    if not 0 < len(categories) <= MOST_CATEGORIES:
        raise DataError(
            f"{table.path.name}: the column {column!r} of {modality!r} has {len(categories)} different words in "
            f"train; a table takes numbers, dates and times (2024-05-01, 13:45), or 1 to {MOST_CATEGORIES} "
            f"categories. For text use {column}:text"
        )
    return replace(feature, categories=tuple(categories))


def _offset(feature: Feature, cells: Sequence[str], train: Sequence[int]) -> float:
    """Return the middle of the training values where 32-bit floats would merge values of the column; else 0."""
    values = np.array([value for cell in cells if (value := feature.format.parse(cell.strip())) is not None])
    if feature.format == PLAIN and len(values) and np.abs(values).max() >= _LARGEST_EXACT:
        whole = _merged_whole_numbers(cells)
        if whole:
            trained = [whole[row] for row in train if row in whole]
            return sorted(trained)[len(trained) // 2] if trained else 0
    if not len(values) or len(np.unique(values)) == len(np.unique(values.astype(np.float32))):
        return 0.0
    trained = [value for row in train if (value := feature.format.parse(cells[row].strip())) is not None]
    return float(np.median(trained)) if trained else 0.0


def _merged_whole_numbers(cells: Sequence[str]) -> dict[int, int]:
    """Return the numbers of a column by row where all are whole and 64-bit floats would merge some; else {}."""
    numbers = {row: exact_number(cell.strip()) for row, cell in enumerate(cells) if not is_unknown(cell)}
    whole = {row: value for row, value in numbers.items() if isinstance(value, int)}
    if len(whole) < len(numbers):
        return {}
    distinct = set(whole.values())
    return whole if len({float(value) for value in distinct}) < len(distinct) else {}


def _check_kept_apart(table: Table, feature: Feature, offset: float) -> None:
    """Check that 32-bit floats keep some values of a column apart where there are several.

    Raises:
        DataError: all of them become one number, such as those around 1e-50.
    """
    feature = replace(feature, offset=offset)
    numbers: set[float | None] = set()
    kept: set[float] = set()
    for cell in table.columns[feature.column]:
        if is_unknown(cell):
            continue
        kept.add(float(encode(feature, cell.strip())[0]))
        if len(kept) > 1:
            return
        numbers.add(feature.format.parse(cell.strip()))
    if len(numbers) > 1:
        raise DataError(
            f"{table.path.name}: the numbers of the column {feature.column!r}, such as {max(map(str, numbers))}, "
            "become one and the same as 32-bit floats; write them in another unit"
        )


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
        return np.array(encode_moment(feature.moment, as_iso(cell, feature.date_order)), dtype=np.float32)
    if feature.categories:
        word = feature.spellings.get(cell, cell)
        if not word:
            return np.full(feature.width, np.nan, dtype=np.float32)
        return np.array([word == category for category in feature.categories], dtype=np.float32)
    if not cell:
        return np.full(feature.width, np.nan, dtype=np.float32)
    value = exact_number(cell) if isinstance(feature.offset, int) else feature.format.parse(cell)
    return np.array([np.nan if value is None else value - feature.offset], dtype=np.float32)
