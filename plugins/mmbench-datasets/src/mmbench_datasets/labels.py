"""The labels of a manifest: what kind of task each column is, its classes, and every row's target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmbench.errors import DataError, did_you_mean
from mmbench.spec import TaskKind, TaskSpec
from mmbench_datasets.table import Table, is_nan, number, part_name

_TASK_KINDS = ("multiclass", "multilabel", "regression")
_FEW_CLASSES = 20  # integers up to this many are classes …
_ROWS_PER_CLASS = 10  # … and beyond, if each occurs this often on average


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a task comes from.

    Attributes:
        column: Of the manifest.
        task: Name, kind, classes.
        values: The target of each row, as `mmbench.data.Sample` wants it.
    """

    column: str
    task: TaskSpec
    values: Sequence[Any]


def read_targets(table: Table, named: str) -> list[Target]:
    """Read the columns that `named` joins by "+", each with ":kind" or without; "" is the column "label".

    Raises:
        UsageError: a column or a kind is not there.
        DataError: a label is empty, NaN or no number where one is due, or there is one class only.
    """
    if not named and "label" not in table.columns:
        raise DataError(
            f"{table.path.name} has no column 'label'; name the labels' column with [label=COLUMN]. "
            f"It has {', '.join(table.columns)}.{did_you_mean('label', table.columns)}"
        )
    targets = []
    for part in table.names(named or "label"):
        column, kind = table.with_kind(part, _TASK_KINDS, "the label")
        cells = [cell.strip() for cell in table.column(column, "labels")]
        targets.append(_read_target(table, column, cells, kind))
    return targets


def _read_target(table: Table, column: str, cells: Sequence[str], forced: str) -> Target:
    for row, cell in enumerate(cells):
        if not cell and forced != "multilabel":  # a sample may have none of several labels
            raise DataError(
                f"{table.where(row)}: the label (column {column!r}) is empty; give it a label or remove the row"
            )
    distinct = sorted(set(cells))
    words = [cell for cell in distinct if not is_nan(cell)]
    numbers = {cell: number(cell) for cell in words}
    numeric = bool(words) and all(value is not None for value in numbers.values())
    kind = forced or _target_kind(cells, distinct, numbers, numeric)
    if numeric and len(words) < len(distinct):
        row = next(row for row, cell in enumerate(cells) if is_nan(cell))
        raise DataError(f"{table.where(row)}: the label (column {column!r}) is NaN; give it a label or remove the row")
    if kind == "regression":
        return _regression(table, column, cells)
    if kind == "multilabel":
        return _multilabel(table, column, cells)
    names = sorted(distinct, key=(lambda cell: (numbers[cell] or 0.0, cell)) if numeric else None)
    if len(names) < 2:
        raise DataError(
            f"{table.path.name}: the label column {column!r} holds one class only ({names[0]!r}); "
            "there is nothing to learn. Check the column, or name another with [label=COLUMN]"
        )
    number_of = {name: number for number, name in enumerate(names)}
    task = TaskSpec(name=part_name(column), kind="multiclass", num_outputs=len(names), class_names=tuple(names))
    return Target(column=column, task=task, values=[number_of[cell] for cell in cells])


def _target_kind(
    cells: Sequence[str], distinct: Sequence[str], numbers: Mapping[str, float | None], numeric: bool
) -> TaskKind:
    if any(";" in cell or "|" in cell for cell in distinct):
        return "multilabel"
    if not numeric:
        return "multiclass"
    if any(value is not None and value != int(value) for value in numbers.values()):
        return "regression"
    few = len(distinct) <= _FEW_CLASSES or len(cells) >= _ROWS_PER_CLASS * len(distinct)
    return "multiclass" if few else "regression"


def _regression(table: Table, column: str, cells: Sequence[str]) -> Target:
    values = []
    for row, cell in enumerate(cells):
        value = number(cell)
        if value is None:
            raise DataError(
                f"{table.where(row)}: the label (column {column!r}) must be a finite number, got {cell!r}; "
                "mend it, remove the row, or force classes with [label=COLUMN:multiclass]"
            )
        values.append(value)
    if len(set(values)) < 2:
        raise DataError(f"{table.path.name}: every label in {column!r} is {cells[0]}; there is nothing to learn")
    return Target(column=column, task=TaskSpec(name=part_name(column), kind="regression", num_outputs=1), values=values)


def _multilabel(table: Table, column: str, cells: Sequence[str]) -> Target:
    sets = [{part.strip() for part in cell.replace("|", ";").split(";")} - {""} for cell in cells]
    names = sorted(set().union(*sets))
    if not names:
        raise DataError(f"{table.path.name}: the label column {column!r} holds no labels")
    task = TaskSpec(name=part_name(column), kind="multilabel", num_outputs=len(names), class_names=tuple(names))
    return Target(column=column, task=task, values=[tuple(int(name in labels) for name in names) for labels in sets])
