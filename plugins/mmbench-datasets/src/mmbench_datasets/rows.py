"""Rows that a program holds, a DataFrame or a list of dicts, as a dataset that every process of a run can read."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from mmbench.config import data_dir, part_root
from mmbench.errors import DataError, UsageError
from mmbench.reference import format_reference


def reference_of_rows(rows: Any, *, name: str, root: str | Path = ".", **options: Any) -> str:
    """Write rows into mmbench's folder of data and return the reference that selects them: what `-d` takes.

    Args:
        rows: A pandas or polars DataFrame, a pyarrow Table, a `datasets.Dataset` without media, or dicts of one row
            each. Cells are texts, numbers, dates, durations, lists or sets of numbers or words, arrays, or None.
        name: What tables and runs are to call the data.
        root: The folder that paths in cells start from.
        options: As after the name of a manifest: ``image="photo"``, ``label="species"``.

    Raises:
        UsageError: `rows` are no rows.
        DataError: there is none, or a cell holds something else.
    """
    lines = [json.dumps(_plain(row, number), ensure_ascii=False) for number, row in enumerate(_dicts(rows))]
    if not lines:
        raise DataError("there are no rows; give one for each sample")
    content = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    stem = "".join(letter if letter.isalnum() else "_" for letter in name)[:32] or "rows"
    file_name = f"{stem}-{hashlib.sha256(content).hexdigest()[:24]}.jsonl"
    path = part_root(data_dir(), "mmbench-datasets/rows") / file_name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)
    return format_reference(f"manifest:{path}", {**options, "name": name, "root": str(Path(root).resolve())})


def _dicts(rows: Any) -> Iterable[Mapping[str, Any]]:
    """Return rows as dicts, without importing what made them."""
    if hasattr(rows, "to_dicts"):  # polars
        return list(rows.to_dicts())
    if hasattr(rows, "to_dict") and hasattr(rows, "columns"):  # pandas
        _check_columns([str(column) for column in rows.columns])
        return list(rows.to_dict(orient="records"))
    if hasattr(rows, "to_pylist") and hasattr(rows, "column_names"):  # pyarrow
        _check_columns(rows.column_names)
        return list(rows.to_pylist())
    if hasattr(rows, "to_list") and hasattr(rows, "column_names"):  # datasets
        return list(rows.to_list())
    if isinstance(rows, Iterator):
        rows = list(rows)
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        return rows
    raise UsageError(f"rows must be a DataFrame or a list of dicts, got {type(rows).__name__}")


def _check_columns(names: Sequence[str]) -> None:
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise DataError(f"the table names the column {twice!r} more than once; names are unique")


def _plain(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    return {str(key): _cell(value, f"row {number}, column {str(key)!r}") for key, value in row.items()}


def _cell(value: Any, where: str) -> Any:
    """Return a cell as JSON holds it; values of NumPy and pandas by what they are in Python."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, date | time):
        # Not a time: pandas' NaT is a date that does not equal itself.
        return value.isoformat() if value == value else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds() if value == value else None
    if isinstance(value, Decimal):
        return _cell(float(value), where)
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple):
        return [_cell(item, where) for item in value]
    raise DataError(f"{where} holds {type(value).__name__}; give texts, numbers, dates, lists, or paths of media")
