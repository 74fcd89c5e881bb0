"""Parquet and Arrow columns as cells: scalars as text; lists, media and class names as the file holds them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from mmbench.errors import DataError, Unavailable
from mmbench_datasets.lazy_sequence import LazySequence
from mmbench_datasets.table import Shown, list_text

_MOST_CELLS = 50_000_000
_MOST_UNPACKED_BYTES = 4 << 30
_BATCH_ROWS = 1024
_LARGEST_COLUMN_OF_TEXT = 64 << 20  # of what is mapped into memory: above it no copy is made


@dataclass(frozen=True, kw_only=True)
class ArrowColumns:
    """Columns of a table as `mmbench_datasets.table.Table` wants them."""

    columns: Mapping[str, Sequence[str]]
    values: Mapping[str, Sequence[Any]]
    class_names: Mapping[str, Sequence[str]]
    kinds: Mapping[str, str]


class ArrowValues(LazySequence[Any]):
    """The items of an Arrow column as Python objects, each made when it is asked for."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def item(self, position: int) -> Any:
        """Return an item as Python has it."""
        return self._column[position].as_py()


class ArrowText(LazySequence[str]):
    """The scalars of an Arrow column as text, each made when it is asked for."""

    def __init__(self, column: Any) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __iter__(self) -> Iterator[str]:
        return (
            scalar_text(value)
            for chunk in self._column.chunks
            for begin in range(0, len(chunk), _BATCH_ROWS)
            for value in chunk[begin : begin + _BATCH_ROWS].to_pylist()
        )

    def item(self, position: int) -> str:
        """Return a scalar as text."""
        return scalar_text(self._column[position].as_py())


def read_parquet(name: str, content: bytes) -> tuple[list[str], ArrowColumns, int]:
    """Return the header, the columns and the number of rows of a Parquet file.

    Raises:
        DataError: it is no Parquet file, or unpacks to too much.
        Unavailable: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise Unavailable(f"{name} is Parquet, which needs pyarrow: pip install 'mmbench-datasets[parquet]'") from None
    try:
        opened = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
        # A hundred million equal rows pack into some kilobytes.
        num_rows, num_columns = opened.metadata.num_rows, opened.metadata.num_columns
        if num_rows * num_columns > _MOST_CELLS:
            raise DataError(
                f"{name} holds {num_rows:,} rows of {num_columns} columns, more than {_MOST_CELLS:,} cells; "
                "divide it, or leave columns out"
            )
        schema = opened.schema_arrow
        _read_first_rows(opened)
        shared = _shared_texts(opened)
        if shared:  # read as a dictionary and places in it, so that their size is known before they are unpacked
            opened = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content), read_dictionary=shared)
        flat = [path for path in shared if path in schema.names]
        if len(flat) < len(shared):  # dictionaries within lists cannot be unpacked again: read once only to measure
            for _ in _bounded(name, opened.iter_batches(batch_size=_BATCH_ROWS)):
                pass
            opened = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content), read_dictionary=flat)
        batches = []
        for batch in _bounded(name, opened.iter_batches(batch_size=_BATCH_ROWS)):
            columns = [_plain(column, field.type) for column, field in zip(batch.columns, schema)]
            batches.append(pyarrow.RecordBatch.from_arrays(columns, schema=schema))
        table = pyarrow.Table.from_batches(batches, schema)
        table.validate(full=True)
        return list(table.column_names), arrow_columns(table, _features(table)), len(table)
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name} cannot be read as Parquet: {reason}") from None


def _read_first_rows(opened: Any) -> None:
    """Read a row of every row group, which raises where the metadata of a column are damaged.

    Asking pyarrow for such metadata alone ends the process: its C++ exception has no Python counterpart there.
    """
    for group in range(opened.metadata.num_row_groups):
        next(opened.iter_batches(batch_size=1, row_groups=[group], use_threads=False), None)


def _bounded(name: str, batches: Iterable[Any]) -> Iterator[Any]:
    """Yield batches as long as all of them together can be unpacked.

    Raises:
        DataError: they unpack to too much.
    """
    unpacked = 0
    for batch in batches:
        unpacked += sum(map(_unpacked_bytes, batch.columns))
        if unpacked > _MOST_UNPACKED_BYTES:
            raise DataError(
                f"{name} unpacks to more than 4 GiB; keep media in files of their own and their paths in the table"
            )
        yield batch


def _shared_texts(opened: Any) -> list[str]:
    """Return the paths of texts, also within lists, whose rows may share a few long ones: they unpack to any size."""
    metadata = opened.metadata
    found: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            if chunk.physical_type == "BYTE_ARRAY":
                most = chunk.num_values * max(chunk.total_uncompressed_size, chunk.total_compressed_size)
                found[chunk.path_in_schema] = found.get(chunk.path_in_schema, 0) + most
    return [name for name, most in found.items() if most > _MOST_UNPACKED_BYTES // 8]


def _unpacked_bytes(column: Any) -> int:
    """Return what a column of a batch takes once it is plain."""
    from pyarrow import compute, types

    kind = column.type
    if types.is_dictionary(kind):
        lengths = compute.cast(compute.binary_length(column.dictionary), "int64")
        return int(compute.sum(lengths.take(column.indices)).as_py() or 0)
    if types.is_map(kind):
        return _unpacked_bytes(column.keys) + _unpacked_bytes(column.items)
    if types.is_struct(kind):
        return sum(map(_unpacked_bytes, column.flatten()))
    if types.is_nested(kind) and hasattr(column, "flatten"):
        return 4 * len(column) + _unpacked_bytes(column.flatten())
    return int(column.nbytes)


def _plain(column: Any, kind: Any) -> Any:
    return column if column.type == kind else column.cast(kind)


def arrow_columns(table: Any, features: Mapping[str, Any]) -> ArrowColumns:
    """Return the columns of an Arrow table.

    Args:
        table: A `pyarrow.Table`.
        features: By column, the type as the `datasets` library describes it.
    """
    from pyarrow import types

    columns: dict[str, Sequence[str]] = {}
    values: dict[str, Sequence[Any]] = {}
    class_names: dict[str, Sequence[str]] = {}
    kinds: dict[str, str] = {}
    for name, column in zip(table.column_names, table.columns):
        feature = features.get(name)
        names = _class_names(feature)
        if names:
            class_names[name] = names
        kind = feature.get("_type") if isinstance(feature, dict) else None
        if kind in ("Image", "Audio", "Video"):
            kinds[name] = str(kind).lower()
        if types.is_nested(column.type) or _is_binary(types, column.type):
            values[name] = ArrowValues(column)
            columns[name] = Shown(values[name], cell_text)
        else:
            large = column.nbytes > _LARGEST_COLUMN_OF_TEXT
            columns[name] = ArrowText(column) if large else list(ArrowText(column))
    return ArrowColumns(columns=columns, values=values, class_names=class_names, kinds=kinds)


def scalar_text(value: Any) -> str:
    """Return a scalar as text; "" for null and NaN, seconds for a duration."""
    if isinstance(value, timedelta):
        return str(value.total_seconds())
    return "" if value is None or value != value else str(value)


def cell_text(value: Any) -> str:
    """Return a list or a medium as text, for messages: a medium by its path."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes" if value else ""
    if isinstance(value, dict):
        path, content = value.get("path"), value.get("bytes")
        if not {"path", "bytes"} & value.keys():
            return list_text(value) if value else ""
        if isinstance(content, bytes):
            return Path(str(path)).name if path else cell_text(content)
        return str(path or "")
    return list_text(value)


def _is_binary(types: Any, kind: Any) -> bool:
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _features(table: Any) -> Mapping[str, Any]:
    """Return what the `datasets` library wrote into a file's metadata about the types of its columns."""
    try:
        described = json.loads((table.schema.metadata or {})[b"huggingface"])
        features = described["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: Any) -> list[str]:
    if not isinstance(feature, dict):
        return []
    inner = feature.get("feature") if feature.get("_type") in ("List", "LargeList", "Sequence") else feature
    names = inner.get("names") if isinstance(inner, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []
