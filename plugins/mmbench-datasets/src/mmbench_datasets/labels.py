"""The labels of a table: what kind of task each column is, its classes, and every row's target."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmbench.errors import DataError, did_you_mean
from mmbench.reference import format_reference
from mmbench.spec import TaskKind, TaskSpec
from mmbench_datasets.cells import LARGEST_FLOAT32, exact_number, is_unknown, number
from mmbench_datasets.faults import Faults
from mmbench_datasets.label_lists import is_list, is_list_column, list_target, sets_of_labels
from mmbench_datasets.label_names import join_spellings
from mmbench_datasets.moments import is_moment_written_otherwise, moment_of
from mmbench_datasets.numbers import read_number_column
from mmbench_datasets.table import Table, part_name

_TASK_KINDS = ("multiclass", "multilabel", "regression")
_FEW_CLASSES = 20  # integers up to this many are classes …
_ROWS_PER_CLASS = 10  # … and beyond, if each occurs this often on average
_FEWEST_PER_CLASS = 5
_OTHER_SEPARATORS = ("\n", "\t", "/", "+", "&", " ")
_MOST_LABELS_OF_CANDIDATE = 100


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a task comes from.

    Attributes:
        column: Of the table.
        task: Name, kind, classes.
        values: The target of each row, as `mmbench.data.Sample` wants it.
        notes: What was guessed.
    """

    column: str
    task: TaskSpec
    values: Sequence[Any]
    notes: tuple[str, ...] = ()


def read_targets(table: Table, named: str, faults: Faults) -> list[Target]:
    """Read the columns that `named` joins by "+", each with ":kind" or without; "" is the column "label".

    Args:
        table: The rows.
        named: The option `label`.
        faults: Takes the rows without a usable label.

    Raises:
        UsageError: a column or a kind is not there.
        DataError: there is one class only, or a column can be read in several ways.
    """
    usual = table.same_name("label")
    if not named and not usual:
        raise DataError(
            f"{table.path.name} has no column 'label'; name the labels' column with "
            f"{_candidates(table)}. It has {table.listed()}.{did_you_mean('label', table.columns)}"
        )
    targets = []
    for part in table.names(named or usual):
        column, kind = table.with_kind(part, _TASK_KINDS, "the label")
        table.column(column, "labels")
        targets.append(_read_target(table, column, kind, faults))
    return targets


def _candidates(table: Table) -> str:
    """Return the option for the labels and the columns that may hold them: a few cells, each on several rows."""
    found = []
    for name, cells in list(table.columns.items())[:200]:
        distinct = len({cell.strip() for cell in cells}) if name not in table.values else 0
        if 2 <= distinct <= _MOST_LABELS_OF_CANDIDATE and distinct * 3 <= len(cells):
            several_words = sum(len(cell.split()) > 1 for cell in cells) * 2 > len(cells)
            found.append((several_words, distinct, name))
    if not found:
        return "[label=COLUMN]"
    listed = ", ".join(f"{name!r} ({distinct} different)" for _, distinct, name in sorted(found)[:5])
    return f"{format_reference('', {'label': min(found)[2]})}; it may be {listed}"


def _read_target(table: Table, column: str, forced: str, faults: Faults) -> Target:
    if column in table.class_names:
        return _named_classes(table, column, faults)
    if is_list_column(table, column, forced):
        task, values, notes = list_target(table, column, forced, faults)
        return Target(column=column, task=task, values=values, notes=notes)
    cells = [cell.strip() for cell in table.columns[column]]
    cells, notes = join_spellings(cells) if forced != "regression" else (cells, [])
    for row, cell in enumerate(cells):
        if not cell and forced != "multilabel":  # a sample may have none of several labels
            faults.add(
                row, f"{table.where(row)}: the label (column {column!r}) is empty; give it a label or remove the row"
            )
    distinct = sorted(set(cells) - {""})
    if not distinct:
        raise DataError(f"{table.path.name}: the label column {column!r} is empty; name another with [label=COLUMN]")
    if not forced:
        _check_lists_among_words(table, column, faults)
        _check_commas(table, column, cells)
        _check_other_separators(table, column, cells)
    kind = forced or _target_kind(table, column, cells, distinct, faults)
    notes = [f"labels of {column!r}: {note}" for note in notes]
    if kind == "regression":
        return _regression(table, column, cells, faults, notes)
    if kind == "multilabel":
        return _multilabel(table, column, cells, notes)
    return _multiclass(table, column, cells, distinct, faults, notes)


def _check_lists_among_words(table: Table, column: str, faults: Faults) -> None:
    for row, cell in enumerate(table.columns[column]):
        if cell.strip()[-1:] in ("]", ")", "}") and is_list(cell):
            faults.add(
                row,
                f"{table.where(row)}: the label (column {column!r}) is the list {cell!r}, and most labels are none; "
                f"correct it or remove the row, or force classes with [label={column}:multiclass]",
            )


def _check_commas(table: Table, column: str, cells: Sequence[str]) -> None:
    """Check that commas within labels are part of their names.

    Raises:
        DataError: what they divide are labels of their own, such as "a, b" beside "a" and "b", or zeros and ones.
    """
    first_row = {cell: row for row, cell in reversed(list(enumerate(cells))) if cell}
    parts_of = {cell: [part.strip() for part in cell.split(",")] for cell in first_row}
    several = {cell: parts for cell, parts in parts_of.items() if len(parts) > 1}
    if not several or any(";" in cell or "|" in cell for cell in first_row):
        return
    binary = len(several) == len(parts_of) and all(set(parts) <= {"0", "1"} for parts in several.values())
    found = read_number_column(cells)
    if not binary and found and found.format.describe():
        return
    holders = Counter(part for parts in parts_of.values() for part in set(parts))
    listed = [cell for cell, parts in several.items() if "" not in parts and all(holders[part] > 1 for part in parts)]
    if len(listed) * 2 >= len(several) and len(several) > 1 - binary:
        cell = min(listed, key=first_row.__getitem__)
        raise DataError(
            f"{table.where(first_row[cell])}: the label (column {column!r}) is {cell!r}, and what its commas divide "
            f"are labels of other rows, too: say whether such cells are several labels, by [label={column}:multilabel],"
            f" or one class each, by [label={column}:multiclass]"
        )


def _check_other_separators(table: Table, column: str, cells: Sequence[str]) -> None:
    """Check that labels with blanks, slashes and the like are no lists of the labels of other rows.

    Raises:
        DataError: they are, such as "a/b" beside "a" and "b".
    """
    first_row = {cell: row for row, cell in reversed(list(enumerate(cells))) if cell}
    for separator in _OTHER_SEPARATORS:
        several = {
            cell: parts for cell in first_row if len(parts := [part.strip() for part in cell.split(separator)]) > 1
        }
        listed = [cell for cell, parts in several.items() if all(part in first_row for part in parts)]
        if listed and len(listed) * 2 >= len(several):
            cell = min(listed, key=first_row.__getitem__)
            raise DataError(
                f"{table.where(first_row[cell])}: the label (column {column!r}) is {cell!r}, whose parts are labels of "
                "other rows: write several labels as a;b, or say that each cell is one class by "
                f"[label={column}:multiclass]"
            )


def _multiclass(
    table: Table, column: str, cells: Sequence[str], distinct: Sequence[str], faults: Faults, notes: Sequence[str]
) -> Target:
    numbers = {cell: exact_number(cell) for cell in distinct}
    numeric = all(value is not None for value in numbers.values())
    names = sorted(distinct, key=(lambda cell: (numbers[cell] or 0, cell)) if numeric else None)
    if len(names) < 2:
        if faults:
            raise faults.error(table.path.name)
        raise DataError(
            f"{table.path.name}: the label column {column!r} holds one class only ({names[0]!r}); "
            "there is nothing to learn. Check the column, or name another with [label=COLUMN]"
        )
    number_of = {name: position for position, name in enumerate(names)}
    task = TaskSpec(name=part_name(column), kind="multiclass", num_outputs=len(names), class_names=tuple(names))
    # An empty cell is among the faults: its class is never used.
    values = [number_of.get(cell, 0) for cell in cells]
    notes = [*notes, *_class_notes(column, names, Counter(cells))]
    return Target(column=column, task=task, values=values, notes=tuple(notes))


def _class_notes(column: str, names: Sequence[str], counts: Counter[str]) -> list[str]:
    """Return warnings about classes that may be none: marks of unknown labels, dates, and hardly any row for each."""
    notes = [
        f"warning: labels of {column!r}: {name!r} ({counts[name]} rows) is a class of its own; if it marks an unknown "
        "label, empty these cells"
        for name in names
        if is_unknown(name)
    ]
    if moment_of(names) or all(is_moment_written_otherwise(name) for name in names):
        notes.append(
            f"warning: the labels of {column!r} are dates or times, such as {names[0]!r}, and each is a class of its "
            "own; to predict when, make a number of them"
        )
    num_rows = sum(counts[name] for name in names)
    single = sum(counts[name] == 1 for name in names)
    if len(names) > _FEW_CLASSES and num_rows < _FEWEST_PER_CLASS * len(names):
        notes.append(
            f"warning: {column!r} has {len(names)} classes for {num_rows} rows, {single} of them on one row only: "
            "check that it holds classes"
        )
    return notes


def _target_kind(table: Table, column: str, cells: Sequence[str], distinct: Sequence[str], faults: Faults) -> TaskKind:
    if any(";" in cell or "|" in cell for cell in distinct):
        return "multilabel"
    numbers: Mapping[str, float | None] = {cell: number(cell) for cell in distinct}
    values = [value for value in numbers.values() if value is not None]
    counts = Counter(cells)
    num_numbers = sum(counts[cell] for cell in distinct if numbers[cell] is not None)
    others = [cell for cell in distinct if numbers[cell] is None]
    if num_numbers * 2 <= len(cells) - counts[""] or not values:
        return "regression" if _writes_numbers_otherwise(cells) else "multiclass"
    whole = all(value == int(value) for value in values)
    few = len(values) <= _FEW_CLASSES or num_numbers >= _ROWS_PER_CLASS * len(values)
    kind: TaskKind = "multiclass" if whole and few else "regression"
    if kind == "multiclass" or _writes_numbers_otherwise(cells):
        others = [cell for cell in others if is_unknown(cell)]
    for row, cell in enumerate(cells):
        if cell and cell in others:
            what = "NaN" if "nan" in cell.lower() else repr(cell)
            faults.add(
                row,
                f"{table.where(row)}: the label (column {column!r}) is {what}, and most labels are numbers; give it a "
                f"label or remove the row, or force classes with [label={column}:multiclass]",
            )
    return kind


def _writes_numbers_otherwise(cells: Sequence[str]) -> bool:
    found = read_number_column(cells)
    if not found or not found.format.describe():
        return False
    distinct = {cell for cell in cells if cell}
    measured = any(sign[-1:].isalpha() for sign in (found.format.prefix, found.format.suffix))
    values = [found.format.parse(cell) for cell in distinct]
    if measured and len(distinct) <= _FEW_CLASSES and all(value is None or value == int(value) for value in values):
        return False  # "24 h" and "48 h" are conditions
    return all("may be read as" in fault for fault in found.faults.values())


def _regression(table: Table, column: str, cells: Sequence[str], faults: Faults, notes: list[str]) -> Target:
    found = read_number_column(cells)
    values: list[float] = []
    for row, cell in enumerate(cells):
        value = None if found and row in found.faults else found.format.parse(cell) if found else number(cell)
        why = found.faults.get(row, "") if found else ""
        if value is not None and abs(value) > LARGEST_FLOAT32:
            value, why = None, "may be read as infinity: it is too large for 32-bit floats"
        if value is None and cell and row not in faults.rows:
            faults.add(
                row,
                f"{table.where(row)}: the label (column {column!r}) must be a finite number, got {cell!r}"
                f"{f' ({why})' if 'may be read' in why else ''}; correct it, remove the row, or force classes with "
                f"[label={column}:multiclass]",
            )
        values.append(0.0 if value is None else value)
    if found and found.format.describe():
        notes = [*notes, f"labels of {column!r}: numbers with {found.format.describe()}"]
    if not faults and len(set(values)) < 2:
        raise DataError(f"{table.path.name}: every label in {column!r} is {cells[0]}; there is nothing to learn")
    task = TaskSpec(name=part_name(column), kind="regression", num_outputs=1)
    return Target(column=column, task=task, values=values, notes=tuple(notes))


def _multilabel(table: Table, column: str, cells: Sequence[str], notes: Sequence[str]) -> Target:
    separators = [separator for separator in ";|" if any(separator in cell for cell in cells)] or [","]
    divided = re.compile("[" + "".join(separators) + "]")
    sets, remarks = sets_of_labels([[part.strip() for part in divided.split(cell)] for cell in cells])
    names = sorted(set().union(*sets))
    if not names:
        raise DataError(f"{table.path.name}: the label column {column!r} holds no labels")
    task = TaskSpec(name=part_name(column), kind="multilabel", num_outputs=len(names), class_names=tuple(names))
    values = [tuple(int(name in labels) for name in names) for labels in sets]
    several = next((cell for cell, labels in zip(cells, sets) if len(labels) > 1), "")
    if several:
        count = sum(len(labels) > 1 for labels in sets)
        notes = [
            *notes,
            f"labels of {column!r}: {count} of {len(cells)} rows hold several, such as {several[:60]!r}; "
            f"[label={column}:multiclass] makes one class of each cell",
        ]
    notes = [*notes, *(f"labels of {column!r}: {remark}" for remark in remarks)]
    return Target(column=column, task=task, values=values, notes=tuple(notes))


def _named_classes(table: Table, column: str, faults: Faults) -> Target:
    """Return the task of a column whose classes the file itself names, in its order."""
    names = table.class_names[column]
    several = column in table.values
    values: list[Any] = []
    rows = table.values[column] if several else table.columns[column]
    for row, value in enumerate(rows):
        numbers = [exact_number(str(each)) for each in (value or () if several else [value])]
        wrong = [each for each in numbers if not (isinstance(each, int) and 0 <= each < len(names))]
        if wrong:
            shown = value if several else wrong[0] if wrong[0] is not None else value or None
            advice = (
                "the labels of this split may be hidden. Take another split for it, as in [test=validation], or"
                if table.splits
                else "give it a label, or"
            )
            faults.add(
                row,
                f"{table.where(row)} has the label {shown!r}, and {column!r} knows 0 to {len(names) - 1}: {advice} "
                "remove the row",
            )
            numbers = [0]
        values.append(tuple(int(place in numbers) for place in range(len(names))) if several else numbers[0])
    task = TaskSpec(
        name=part_name(column),
        kind="multilabel" if several else "multiclass",
        num_outputs=len(names),
        class_names=tuple(names),
    )
    return Target(column=column, task=task, values=values)


def check_trained(table: Table, targets: Sequence[Target], rows: Mapping[Any, Sequence[int]]) -> None:
    """Check that train shows at least two values of every regression target.

    Raises:
        DataError: it shows one.
    """
    for item in targets:
        if item.task.kind == "regression" and len({item.values[row] for row in rows["train"]}) < 2:
            raise DataError(
                f"{table.path.name}: every label of {item.task.name!r} in train is "
                f"{item.values[rows['train'][0]]}; there is nothing to learn. Check the split"
            )
