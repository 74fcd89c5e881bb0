"""CSV and TSV files: encoding, separator and quoting, and rows that have too few or too many cells."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from mmbench.errors import DataError, UsageError

_LARGEST_CELL = 64 * 1024 * 1024
_SEPARATORS = (",", ";", "\t", "|")
_LONGEST_HEADER = 1 << 20
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORDS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The cells of a file.

    Attributes:
        header: Names of the columns.
        rows: Cells of each row, as many as the header has.
        numbers: Line of each row.
        faults: By row, what is wrong with it; its cells are empty.
        notes: What was guessed.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int]
    faults: dict[int, str]
    notes: tuple[str, ...]


def read_cells(name: str, content: bytes, separator: str, encoding: str = "") -> Cells:
    """Read a CSV or TSV file.

    Args:
        name: Of the file, for messages.
        content: Its bytes.
        separator: Between cells, as the file's ending says; another one is taken where only that one fits.
        encoding: "" for UTF-8, or UTF-16 and UTF-32 with a byte order mark.

    Raises:
        UsageError: Python knows no such encoding.
        DataError: the bytes are of another encoding, or a quote is never closed.
    """
    text, notes = _decoded(name, content, encoding)
    if separator == "\t":
        lines = _unquoted_lines(text)
        if lines:
            quoted, _, reason = _parse(text, separator)
            if not reason and _is_even(quoted) and len(quoted) != len(lines[0]):
                raise DataError(
                    f"{name} can be read in two ways: quotes around cells with line breaks give {len(quoted) - 1} "
                    f"rows, and quotes that are letters {len(lines[0]) - 1}; save it as CSV"
                )
            return _checked(name, *lines, separator, notes)
    rows, numbers, reason = _parse(text, separator)
    if reason or not _is_even(rows) or (rows and len(rows[0]) < 2):
        first_line = text[:_LONGEST_HEADER].lstrip("\r\n").split("\n", 1)[0]
        for other in _SEPARATORS:
            if other == separator or other not in first_line:
                continue
            others, lines_of_others, unreadable = _parse(text, other)
            if not unreadable and len(others) > 1 and len(others[0]) > 1 and _is_even(others):
                notes.append(f"cells are separated by {_WORDS[other]}")
                return _checked(name, others, lines_of_others, other, notes)
    if reason:
        raise DataError(f"{name} {reason}")
    return _checked(name, rows, numbers, separator, notes)


def _decoded(name: str, content: bytes, encoding: str) -> tuple[str, list[str]]:
    marked = next((known for mark, known in _BYTE_ORDER_MARKS if content.startswith(mark)), "")
    chosen = encoding or marked or "utf-8"
    try:
        text = content.decode(chosen)
    except LookupError:
        raise UsageError(f"encoding={encoding}: Python knows no such encoding; try cp1252 or utf-16") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name} is not {chosen.removesuffix('-sig').upper()}: byte 0x{content[error.start]:02x} at offset "
            f"{error.start}, line {line}; save it again as UTF-8 (in a spreadsheet: 'CSV UTF-8'), or name its encoding "
            "as in [encoding=cp1252]"
        ) from None
    except UnicodeError as error:
        raise DataError(f"{name} is not {chosen.upper()} ({error}); save it again as UTF-8") from None
    if not isinstance(text, str):
        raise UsageError(f"encoding={encoding} is no encoding of text; try cp1252 or utf-16")
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"{name} line {line} holds a NUL character: it may be UTF-16 without a byte order mark; save it again as "
            "UTF-8, or name its encoding as in [encoding=utf-16-le]"
        )
    return text.removeprefix("\ufeff"), [f"read as {marked.upper()}"] if marked.startswith("utf-16") else []


def _parse(text: str, separator: str) -> tuple[list[list[str]], list[int], str]:
    """Return rows and their lines, blank lines left out, and why the rest cannot be read."""
    rows: list[list[str]] = []
    numbers: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    limit = csv.field_size_limit(_LARGEST_CELL)
    try:
        for row in reader:
            if row:
                rows.append(row)
                numbers.append(reader.line_num)
    except csv.Error as error:
        return rows, numbers, f"line {reader.line_num} is not well-formed CSV: {error}; close the quotes"
    finally:
        csv.field_size_limit(limit)
    return rows, numbers, ""


def _unquoted_lines(text: str) -> tuple[list[list[str]], list[int]] | None:
    """Return the rows of a TSV file whose quotes are letters, or stand around whole cells; None for any other.

    >>> _unquoted_lines('size\\ttext\\n5"\\t"quoted ""so"" twice"\\n')
    ([['size', 'text'], ['5"', 'quoted "so" twice']], [1, 2])
    """
    lines = [(number, line) for number, line in enumerate(io.StringIO(text), start=1) if line.strip("\r\n")]
    rows = [line.rstrip("\r\n").split("\t") for _, line in lines]
    if not rows or not _is_even(rows):
        return None
    return [[_unquote(cell) for cell in row] for row in rows], [number for number, _ in lines]


def _unquote(cell: str) -> str:
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', ""):
        return cell[1:-1].replace('""', '"')
    return cell


def _is_even(rows: Sequence[Sequence[str]]) -> bool:
    return all(len(row) == len(rows[0]) for row in rows)


def _checked(
    name: str, rows: Sequence[Sequence[str]], numbers: Sequence[int], separator: str, notes: Sequence[str]
) -> Cells:
    header = list(rows[0]) if rows else []
    faults: dict[int, str] = {}
    kept: list[Sequence[str]] = []
    for row, (cells, number) in enumerate(zip(rows[1:], numbers[1:])):
        if len(cells) == len(header):
            kept.append(cells)
            continue
        faults[row] = (
            f"{name} line {number} has {len(cells)} cells, but the header has {len(header)}; "
            f"put quotes around cells that hold {separator!r} or a line break, and add what is missing"
        )
        kept.append([""] * len(header))
    return Cells(header=header, rows=kept, numbers=numbers[1:], faults=faults, notes=tuple(notes))
