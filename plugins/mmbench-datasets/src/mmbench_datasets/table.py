"""A CSV, TSV or Parquet file as columns of text, exactly as written: nothing is guessed, "null" is a word."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.errors import DataError, Unavailable, UsageError, did_you_mean

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LARGEST_CELL = 64 * 1024 * 1024
_MOST_CELLS = 50_000_000
_MOST_UNPACKED_BYTES = 4 << 30
_BATCH_ROWS = 1024


@dataclass(frozen=True)
class Table:
    """A manifest's cells.

    Attributes:
        path: The file.
        content: Its bytes.
        columns: Cells by column name, in the file's order; all of one length, at least 1.
        lines: For each row, its line in a text file, or its number from 1 in Parquet.
    """

    path: Path
    content: bytes
    columns: Mapping[str, list[str]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, row: int) -> str:
        """Say where a row stands, for messages: "train.csv line 12"."""
        word = "row" if self.path.suffix.lower() == ".parquet" else "line"
        return f"{self.path.name} {word} {self.lines[row]}"

    def column(self, name: str, purpose: str) -> list[str]:
        """Return the cells of a column.

        Raises:
            UsageError: there is none of that name.
        """
        if name not in self.columns:
            raise UsageError(
                f"{self.path.name} has no column {name!r} for {purpose}; it has {', '.join(self.columns)}."
                f"{did_you_mean(name, self.columns)}"
            )
        return self.columns[name]

    def names(self, value: str) -> list[str]:
        """Read "a+b" as two columns, unless a column is called just that."""
        return [value] if value in self.columns else value.split("+")

    def with_kind(self, value: str, kinds: Sequence[str], purpose: str) -> tuple[str, str]:
        """Read "column:kind" as a column and a kind, unless a column is called just that; "" is no kind.

        Raises:
            UsageError: the kind is not one of `kinds`.
        """
        if value in self.columns or ":" not in value:
            return value, ""
        column, _, kind = value.rpartition(":")
        if kind not in kinds:
            raise UsageError(
                f"{purpose} {value!r}: {kind!r} is not one of {', '.join(kinds)}.{did_you_mean(kind, kinds)}"
            )
        return column, kind


def read_table(target: str) -> Table:
    """Read a manifest.

    Raises:
        UsageError: the file's ending is not .csv, .tsv or .parquet.
        DataError: there is no such file, or it is no well-formed table of that kind.
        Unavailable: it is Parquet and pyarrow is not installed.
    """
    path = Path(target).expanduser()
    ending = path.suffix.lower()
    if ending not in (*_DELIMITERS, ".parquet"):
        raise UsageError(f"the manifest {target!r} must end in .csv, .tsv or .parquet")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"there is no manifest {target!r} (looked in {path.resolve().parent}); check the path"
        ) from None
    except OSError as error:
        raise DataError(f"the manifest {target!r} cannot be read: {error.strerror or error}") from None
    if ending == ".parquet":
        header, rows, lines = _read_parquet(path, content)
    else:
        header, rows, lines = _read_text(path, content, _DELIMITERS[ending])
    _check_header(path, header)
    if not rows:
        raise DataError(f"{path.name} has a header and no rows; add one row per sample")
    return Table(path=path, content=content, columns=dict(zip(header, map(list, zip(*rows)))), lines=lines)


def number(cell: str) -> float | None:
    """Return a cell as a finite number, or None; Python's own extras such as "1_000" are not numbers here."""
    if "_" in cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_nan(cell: str) -> bool:
    """Whether a cell says that a number is not known."""
    return cell.strip().lower() in ("nan", "+nan", "-nan")


def part_name(column: str) -> str:
    """Return a column's name in the letters that a task's or a modality's name may have."""
    cleaned = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in column)[:64]
    return cleaned if cleaned[:1].isalnum() or cleaned[:1] == "_" else f"_{cleaned}"[:64]


def _read_text(path: Path, content: bytes, delimiter: str) -> tuple[list[str], list[list[str]], list[int]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}, line {line}; "
            "save it again as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
        ) from None
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(_LARGEST_CELL)
    try:
        for row in reader:
            if not header:
                header = row
                continue
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{path.name} line {reader.line_num} has {len(row)} cells, but the header has {len(header)}; "
                    f"put quotes around cells that hold {delimiter!r} or a line break, and add what is missing"
                )
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path.name} line {reader.line_num} is not well-formed CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)
    if len(header) == 1:
        for other in ";", "\t", ",":
            if other in header[0]:
                raise DataError(
                    f"{path.name} seems to separate cells by {other!r}; "
                    "a .csv file uses commas, a .tsv file tabs: save it again"
                )
    return header, rows, lines


def _read_parquet(path: Path, content: bytes) -> tuple[list[str], list[list[str]], list[int]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise Unavailable(
            f"{path.name} is Parquet, which needs pyarrow: pip install 'mmbench-datasets[parquet]'"
        ) from None
    try:
        opened = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(content))
        # A hundred million equal rows pack into some kilobytes.
        num_rows, num_columns = opened.metadata.num_rows, opened.metadata.num_columns
        if num_rows * num_columns > _MOST_CELLS:
            raise DataError(
                f"{path.name} holds {num_rows:,} rows of {num_columns} columns, more than {_MOST_CELLS:,} cells; "
                "divide it, or leave columns out"
            )
        names = opened.schema_arrow.names
        columns: list[list[str]] = [[] for _ in names]
        unpacked = 0
        for batch in opened.iter_batches(batch_size=_BATCH_ROWS):
            unpacked += batch.nbytes
            if unpacked > _MOST_UNPACKED_BYTES:
                raise DataError(f"{path.name} unpacks to more than 4 GiB; keep paths, texts and numbers in a manifest")
            for cells, column in zip(columns, batch.columns):
                cells.extend(_cell(value) for value in column.to_pylist())
    except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path.name} cannot be read as Parquet: {reason}") from None
    rows = [list(row) for row in zip(*columns)]
    return list(names), rows, list(range(1, len(rows) + 1))


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, list):
        return ";".join(map(_cell, value))
    if isinstance(value, bytes | dict):
        raise TypeError(f"a cell holds {type(value).__name__}; keep paths, texts and numbers in a manifest")
    return str(value)


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise DataError(f"{path.name} is empty; its first line must name the columns")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path.name} names the column {twice[0]!r} more than once; names are unique")
