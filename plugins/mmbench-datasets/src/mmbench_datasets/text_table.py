"""CSV and TSV files: encoding, separator and quoting, and rows that have too few or too many cells."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from mmbench.errors import DataError, UsageError

_CONTROLS = re.compile(r"[\x80-\x84\x86-\x9f]")
_LATIN_1 = ("latin-1", "latin1", "iso-8859-1", "iso8859-1", "l1")
_FOREIGN = re.compile(r"\S*[^\x00-\x7f]\S*")
_MOST_WORDS = 1000
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
_FEWEST_ROWS = 3
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


class _Fit(IntEnum):
    """How many rows have as many cells as the header."""

    FEW = 0
    MOST = 1
    ALL = 2


@dataclass(frozen=True, kw_only=True)
class _Parsed:
    """The rows of a file under one separator.

    Attributes:
        separator: Between cells.
        rows: The header and the rows, blank lines left out.
        numbers: Line of each of them.
        fit: `ALL` only for two columns or more, and rows below the header; `FEW` where the file cannot be parsed.
        problem: Why the file cannot be parsed to its end, "" where it can.
    """

    separator: str
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int]
    fit: _Fit
    problem: str = ""


def read_cells(name: str, content: bytes, separator: str, encoding: str = "") -> Cells:
    """Read a CSV or TSV file.

    Args:
        name: Of the file, for messages.
        content: Its bytes.
        separator: Between cells, as the file's ending says; another one is taken where only that one fits.
        encoding: "" for UTF-8, or UTF-16 and UTF-32 with a byte order mark.

    Raises:
        UsageError: Python knows no such encoding.
        DataError: the bytes are of another encoding, a quote is never closed, or two separators fit all rows.
    """
    text, notes = _decoded(name, content, encoding)
    text, stated = _without_separator_line(text)
    separator = stated or separator
    if separator == "\t":
        unquoted = _unquoted(name, text)
        if unquoted:
            return _checked(name, unquoted, notes)
    parsed = _parse(text, separator)
    if _may_have_blanks_before_quotes(text, parsed):
        spaced = _parse(text, separator, skip_blanks=True)
        if spaced.fit == _Fit.ALL:
            notes.append(f"blanks before cells in quotes, after {_WORDS[separator]}, are not read")
            return _checked(name, spaced, notes)
    best = parsed
    first_line = text[:_LONGEST_HEADER].lstrip("\r\n").split("\n", 1)[0]
    for other in _SEPARATORS:
        if other == separator or other not in first_line:
            continue
        found = _parse(text, other)
        if parsed.fit == found.fit == _Fit.ALL:
            raise _two_ways(name, parsed, found)
        if found.fit > best.fit and len(found.rows[0]) > 1:
            best = found
    if parsed.problem and best.fit < _Fit.ALL:
        raise DataError(f"{name} {parsed.problem}")
    if best is not parsed:
        notes.append(f"cells are separated by {_WORDS[best.separator]}")
    return _checked(name, best, notes)


def _without_separator_line(text: str) -> tuple[str, str]:
    """Return a text whose first line "sep=;", as spreadsheets write it, is empty, and the separator that it states."""
    stated = re.match(r'"?sep=([,;\t|])"?(?=\r|\n)', text)
    return (text[stated.end() :], stated[1]) if stated else (text, "")


def _may_have_blanks_before_quotes(text: str, parsed: _Parsed) -> bool:
    """Whether cells may be written as in 'a, "b"', where a blank before the quotes makes letters of them."""
    if f'{parsed.separator} "' not in text:
        return False
    return parsed.fit < _Fit.ALL or any(cell.startswith(' "') for row in parsed.rows[:_MOST_WORDS] for cell in row)


def _two_ways(name: str, parsed: _Parsed, other: _Parsed) -> DataError:
    """Return the error for a file that two separators divide evenly, as in "height, cm;weight, kg"."""
    one, two = (
        f"{_WORDS[each.separator]} give the columns {', '.join(map(repr, each.rows[0]))}" for each in (parsed, other)
    )
    return DataError(
        f"{name} can be read in two ways: {one}, and {two}; put quotes around the names of columns that hold one of "
        f"them, or say which by a first line sep={parsed.separator} or sep={other.separator}"
    )


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
        order = "be" if content[:1] == b"\0" else "le"
        raise DataError(
            f"{name} line {line} holds a NUL character: it may be UTF-16 without a byte order mark; save it again as "
            f"UTF-8, or name its encoding as in [encoding=utf-16-{order}]"
        )
    notes = [f"read as {marked.upper()}"] if marked.startswith("utf-16") else []
    return text.lstrip("\ufeff"), notes + _encoding_notes(text, chosen)


def _encoding_notes(text: str, encoding: str) -> list[str]:
    """Return warnings about text that was decoded by another encoding than it was written in, now or once before."""
    if text.isascii():
        return []
    if _CONTROLS.search(text) and encoding.lower().replace("_", "-") in _LATIN_1:
        return [f"warning: read by {encoding} the file holds control characters; it may be cp1252: [encoding=cp1252]"]
    foreign = _FOREIGN.findall(text[:_LONGEST_HEADER])[:_MOST_WORDS]
    twice = [word for word in foreign if _decoded_twice(word)]
    if twice and len(twice) * 2 > len(foreign):
        return [
            f"warning: words such as {twice[0]!r} seem to be UTF-8 that was read by another encoding before the file "
            f"was saved; they may mean {_decoded_twice(twice[0])!r}"
        ]
    return []


def _decoded_twice(word: str) -> str:
    """Return the word that became this one when its UTF-8 was read as cp1252; "" where it is none such."""
    try:
        meant = word.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return ""
    return meant if len(meant) < len(word) else ""


def _parse(text: str, separator: str, *, skip_blanks: bool = False) -> _Parsed:
    """Return the rows of a text under a separator, up to the first one that cannot be parsed."""
    rows: list[list[str]] = []
    numbers: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=skip_blanks)
    limit = csv.field_size_limit(_LARGEST_CELL)
    try:
        for row in reader:
            if row and (len(row) > 1 or row[0].strip() or (rows and len(rows[0]) == 1 and row[0])):
                rows.append(row)
                numbers.append(reader.line_num)
    except csv.Error as error:
        problem = _quote_fault(text, numbers, reader.line_num, str(error))
        return _Parsed(separator=separator, rows=rows, numbers=numbers, fit=_Fit.FEW, problem=problem)
    finally:
        csv.field_size_limit(limit)
    return _Parsed(separator=separator, rows=rows, numbers=numbers, fit=_fit(rows))


def _fit(rows: Sequence[Sequence[str]]) -> _Fit:
    num_rows = len(rows) - 1
    if num_rows < 1:
        return _Fit.FEW
    num_fitting = sum(len(row) == len(rows[0]) for row in rows[1:])
    if num_fitting == num_rows and len(rows[0]) > 1:
        return _Fit.ALL
    return _Fit.MOST if num_fitting * 2 > num_rows else _Fit.FEW


def _quote_fault(text: str, numbers: Sequence[int], line: int, error: str) -> str:
    """Return what is wrong with the quotes of a file, and where the cell begins that they do not end."""
    begin = numbers[-1] + 1 if numbers else 1
    if error == "unexpected end of data":
        return f"line {begin} opens a quote that is never closed (the file is not well-formed CSV); close the quotes"
    if '\\"' in text:
        return f'line {begin} is not well-formed CSV: {error}; write quotes within cells twice, "", and not as \\"'
    return f"line {line} is not well-formed CSV: {error}; close the quotes"


def _unquoted(name: str, text: str) -> _Parsed | None:
    """Return the rows of a TSV file whose quotes are letters, or stand around whole cells; None for any other.

    >>> _unquoted("a.tsv", 'size\\ttext\\n5"\\t"quoted ""so"" twice"\\n').rows
    [['size', 'text'], ['5"', 'quoted "so" twice']]

    Raises:
        DataError: it can be read as one whose quotes enclose line breaks, too.
    """
    lines = [(number, line) for number, line in enumerate(io.StringIO(text), start=1) if line.strip("\r\n")]
    rows = [[_unquote(cell) for cell in line.rstrip("\r\n").split("\t")] for _, line in lines]
    if not rows or len(rows[0]) < 2 or not _is_even(rows):
        return None
    quoted = _parse(text, "\t")
    if not quoted.problem and _is_even(quoted.rows) and len(quoted.rows) != len(rows):
        raise DataError(
            f"{name} can be read in two ways: quotes around cells with line breaks give {len(quoted.rows) - 1} "
            f"rows, and quotes that are letters {len(rows) - 1}; save it as CSV"
        )
    return _Parsed(separator="\t", rows=rows, numbers=[number for number, _ in lines], fit=_fit(rows))


def _unquote(cell: str) -> str:
    if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in cell[1:-1].replace('""', ""):
        return cell[1:-1].replace('""', '"')
    return cell


def _is_even(rows: Sequence[Sequence[str]]) -> bool:
    return all(len(row) == len(rows[0]) for row in rows)


def _check_header_width(
    name: str, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int]
) -> None:
    """Check that not most rows have one other number of cells than the header.

    Raises:
        DataError: they have.
    """
    widths = Counter(map(len, rows))
    width, count = widths.most_common(1)[0] if widths else (len(header), 0)
    if width == len(header) or count * 2 <= len(rows) or len(rows) < _FEWEST_ROWS:
        return
    first = next((number for row, number in zip(rows, numbers[1:]) if len(row) == width), numbers[0])
    shown = ", ".join(header)[:80]
    if len(header) < width and not header[0].strip().startswith('"'):
        raise DataError(
            f"{name} line {numbers[0]} must name the columns; it has {len(header)} cells ({shown}), and {count} of "
            f"{len(rows)} rows have {width}, such as line {first}: remove lines above the names of the columns, name "
            "every column, or put quotes around cells that hold the separator"
        )
    raise DataError(
        f"{name} line {numbers[0]} names {len(header)} columns ({shown}), and {count} of {len(rows)} rows have {width} "
        f"cells, such as line {first}: correct the first line"
    )


def _checked(name: str, parsed: _Parsed, notes: Sequence[str]) -> Cells:
    """Return the cells of a file; those of a row that does not fit the header are empty, and a fault."""
    rows, numbers = parsed.rows, parsed.numbers
    header = list(rows[0]) if rows else []
    faults: dict[int, str] = {}
    kept: list[Sequence[str]] = []
    _check_header_width(name, header, rows[1:], numbers)
    for row, (cells, number) in enumerate(zip(rows[1:], numbers[1:])):
        if len(cells) == len(header):
            kept.append(cells)
            if list(cells) == header:
                faults[row] = f"{name} line {number} repeats the names of the columns; remove it"
            continue
        faults[row] = (
            f"{name} line {number} has {len(cells)} cells, but the header has {len(header)}; "
            f"put quotes around cells that hold {parsed.separator!r} or a line break, and add what is missing"
        )
        kept.append([""] * len(header))
    return Cells(header=header, rows=kept, numbers=numbers[1:], faults=faults, notes=tuple(notes))
