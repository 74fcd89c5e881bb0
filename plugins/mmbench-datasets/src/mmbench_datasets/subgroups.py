"""Subgroups of a table's test rows by the values of columns: categories, quarters of numbers, and combinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmbench.errors import UsageError
from mmbench_datasets.cells import is_unknown, number
from mmbench_datasets.manifest import Manifest, read_manifest

#: Different numbers of a column above which its quarters are the subgroups.
MAX_NUMBERS = 10
#: Different values of a column, or of a combination, that may be subgroups.
MAX_VALUES = 100


def read_subgroups(target: str, columns: Sequence[str], /, **options: Any) -> dict[str, dict[str, str]]:
    """Return the subgroup of each test row by column and id; rows whose value is not known are left out.

    ``sex*site`` combines columns. A column of more than ten different numbers is divided at its quartiles.

    Raises:
        UsageError: a column is not there, or has too many different values.
    """
    return subgroups_of(read_manifest(target, options), columns)


def subgroups_of(manifest: Manifest, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return `read_subgroups` of a manifest that is understood."""
    rows = manifest.rows["test"]
    found: dict[str, dict[str, str]] = {}
    for asked in columns:
        names = [asked] if asked in manifest.table.columns else [name.strip() for name in asked.split("*")]
        parts = [_values(manifest, name, rows) for name in names]
        values = {row: ", ".join(part[row] for part in parts) for row in rows if all(part[row] for part in parts)}
        num_values = len(set(values.values()))
        if num_values < 2 or num_values > MAX_VALUES:
            some = f"{num_values} different values" if num_values else "no known value"
            raise UsageError(
                f"{manifest.table.path.name}: subgroups={asked} has {some} in test; choose a column with 2 to "
                f"{MAX_VALUES} values, or of numbers"
            )
        found[asked] = {str(manifest.ids[row]): value for row, value in values.items()}
    return found


def _values(manifest: Manifest, column: str, rows: Sequence[int]) -> Mapping[int, str]:
    """Return the value of each row, "" where it is not known."""
    cells = manifest.table.column(column, "subgroups")
    known = {row: "" if is_unknown(cells[row]) else cells[row].strip() for row in rows}
    numbers = {row: number(cell) for row, cell in known.items() if cell}
    if len(set(numbers.values())) <= MAX_NUMBERS or any(value is None for value in numbers.values()):
        return known
    values = np.array([float(value) for value in numbers.values() if value is not None])
    quarter = np.searchsorted(np.quantile(values, (0.25, 0.5, 0.75)), values, side="left")
    bounds = {at: f"{values[quarter == at].min():g} to {values[quarter == at].max():g}" for at in set(quarter.tolist())}
    return {**known, **{row: bounds[at] for row, at in zip(numbers, quarter.tolist())}}
