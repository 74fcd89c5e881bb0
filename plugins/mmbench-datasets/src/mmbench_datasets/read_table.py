"""A file of samples read as a table: CSV, TSV, Parquet, JSON Lines or JSON, by its ending."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmbench.errors import DataError, UsageError
from mmbench_datasets.arrow_table import read_parquet
from mmbench_datasets.json_table import object_columns, read_objects
from mmbench_datasets.sniff import HEAD_BYTES, sniff
from mmbench_datasets.table import Part, Table
from mmbench_datasets.text_table import Cells, read_cells

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
ENDINGS = (*SEPARATORS, ".parquet", ".jsonl", ".ndjson", ".json")


def read_table(target: str, *, encoding: str = "") -> Table:
    """Read a file of samples.

    Raises:
        UsageError: the file's ending is none of `ENDINGS`.
        DataError: there is no such file, or it is no well-formed table of that kind.
        Unavailable: it is Parquet and pyarrow is not installed.
    """
    path = Path(target).expanduser()
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise UsageError(f"the table {target!r} must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"there is no table {target!r} (looked in {path.resolve().parent}); check the path") from None
    except (OSError, ValueError) as error:
        raise DataError(f"the table {target!r} cannot be read: {getattr(error, 'strerror', '') or error}") from None
    if ending != ".parquet":
        _check_is_text(path.name, content)
    table = _read_parquet(path, content) if ending == ".parquet" else _read_text(path, content, ending, encoding)
    if not len(table):
        raise DataError(f"{path.name} has a header and no rows; add one row per sample")
    return table


def _check_is_text(name: str, content: bytes) -> None:
    """Check that a text file is none of the formats that are saved or downloaded under its name by mistake.

    Raises:
        DataError: it is.
    """
    found = sniff(content[:HEAD_BYTES])
    hint = {
        "ZIP": "an .xlsx file, or an archive; export a sheet as CSV UTF-8, or unpack it",
        "gzip": "unpack it",
        "HTML": "the page of an error or a log-in, perhaps; download the file again",
        "a Git LFS pointer": "get the file itself by git lfs pull",
        "Parquet": "give it the ending .parquet",
        "an old Office file": "export a sheet as CSV UTF-8",
        "SQLite": "export a table as CSV",
        "HDF5": "write a table of paths or lists",
        "PDF": "name the table instead",
    }.get(found.name)
    if found.name == "Parquet" and not content.endswith(b"PAR1"):  # "PAR1" is a name for a column, too
        hint = None
    if hint:
        raise DataError(f"{name} is {found.name}, no table of text: {hint}")


def _read_parquet(path: Path, content: bytes) -> Table:
    header, found, num_rows = read_parquet(path.name, content)
    check_header(path.name, header)
    return replace(
        _table_of(path, content, found.columns, word="row", numbers=range(1, num_rows + 1)),
        values=found.values,
        class_names=found.class_names,
        kinds=found.kinds,
    )


def _table_of(
    path: Path, content: bytes, columns: Mapping[str, Sequence[str]], *, word: str, numbers: Sequence[int]
) -> Table:
    """Return the table of one file: its columns, and the numbers of its rows, each called a "line" or a "row"."""
    return Table(
        path=path,
        root=path.resolve().parent,
        digest=hashlib.sha256(content).hexdigest(),
        columns=columns,
        parts=(Part(name=path.name, word=word, numbers=numbers),),
    )


def _read_text(path: Path, content: bytes, ending: str, encoding: str) -> Table:
    values: dict[str, Sequence[object]] = {}
    notes: tuple[str, ...] = ()
    word = "row" if ending == ".json" else "line"
    if ending in SEPARATORS:
        cells = read_cells(path.name, content, SEPARATORS[ending], encoding)
        columns, notes = _named_columns(path.name, cells)
        numbers, faults = cells.numbers, cells.faults
    else:
        objects, numbers, faults = read_objects(path.name, content, lines=ending != ".json")
        columns, values = object_columns(path.name, objects)
        if objects and not columns:
            raise DataError(next(iter(faults.values()), f"{path.name} holds objects without keys; add columns"))
    table = _table_of(path, content, columns, word=word, numbers=numbers)
    return replace(table, values=values, row_faults=faults, notes=notes)


def _named_columns(name: str, cells: Cells) -> tuple[dict[str, Sequence[str]], tuple[str, ...]]:
    """Return columns by name, those without one called after their place, and notes; empty ones are left out."""
    check_header(name, [column for column in cells.header if column.strip()] or cells.header[:1])
    columns: dict[str, Sequence[str]] = {}
    notes = list(cells.notes)
    for place, column in enumerate(cells.header):
        values = [row[place] for row in cells.rows]
        if not column.strip() and not any(value.strip() for value in values):
            continue
        if not column.strip():
            column = f"column_{place + 1}"
            while column in cells.header:
                column += "_"
            notes.append(f"the column without a name, in place {place + 1}, is called {column!r}")
        columns[column] = values
    return (columns if cells.rows else {}), tuple(notes)


def check_header(name: str, header: Sequence[str]) -> None:
    """Check that a header names each column once.

    Raises:
        DataError: it is empty, or names a column twice.
    """
    if not any(column.strip() for column in header):
        raise DataError(f"{name} is empty; its first line must name the columns")
    twice = (
        sorted({column for column in header if list(header).count(column) > 1})
        if len(set(header)) < len(header)
        else []
    )
    if twice:
        raise DataError(f"{name} names the column {twice[0]!r} more than once; names are unique")
