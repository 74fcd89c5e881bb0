"""CSV and TSV files: encoding, separator and quoting, and rows that have too few or too many cells."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

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
    text, stated = _without_separator_line(text)
    separator = stated or separator
    if separator == "\t":
        lines = _unquoted_lines(text)
        if lines and len(lines[0][0]) > 1:
            quoted, _, reason = _parse(text, separator)
            if not reason and _is_even(quoted) and len(quoted) != len(lines[0]):
                raise DataError(
                    f"{name} can be read in two ways: quotes around cells with line breaks give {len(quoted) - 1} "
                    f"rows, and quotes that are letters {len(lines[0]) - 1}; save it as CSV"
                )
            return _checked(name, *lines, separator, notes)
    rows, numbers, reason = _parse(text, separator)
    first_line = text[:_LONGEST_HEADER].lstrip("\r\n").split("\n", 1)[0]
    quoted_late = any(cell.startswith(' "') for row in rows[:_MOST_WORDS] for cell in row)
    if f'{separator} "' in text and (reason or quoted_late or not _is_even(rows)):
        spaced, numbers_of_spaced, unreadable = _parse(text, separator, skip_blanks=True)
        if not unreadable and len(spaced) > 1 and len(spaced[0]) > 1 and _is_even(spaced):
            notes.append(f"blanks before cells in quotes, after {_WORDS[separator]}, are not read")
            return _checked(name, spaced, numbers_of_spaced, separator, notes)
    if reason or not _is_even(rows) or (rows and len(rows[0]) < 2):
        for other in _SEPARATORS:
            if other == separator or other not in first_line:
                continue
            others, lines_of_others, unreadable = _parse(text, other)
            if not unreadable and len(others) > 1 and len(others[0]) > 1 and _is_even(others):
                notes.append(f"cells are separated by {_WORDS[other]}")
                return _checked(name, others, lines_of_others, other, notes)
    if reason:
        raise DataError(f"{name} {reason}")
    if not _fits_most(rows):  # decimal commas divide a file of semicolons, of which one row is cut short
        for other in _SEPARATORS:
            if other == separator or other not in first_line:
                continue
            others, lines_of_others, unreadable = _parse(text, other)
            if not unreadable and len(others[0]) > 1 and _fits_most(others):
                notes.append(f"cells are separated by {_WORDS[other]}")
                return _checked(name, others, lines_of_others, other, notes)
    _check_other_separators(name, text, first_line, separator, rows)
    return _checked(name, rows, numbers, separator, notes)


def _without_separator_line(text: str) -> tuple[str, str]:
    """Return a text whose first line "sep=;", as spreadsheets write it, is empty, and the separator that it states."""
    stated = re.match(r'"?sep=([,;\t|])"?(?=\r|\n)', text)
    return (text[stated.end() :], stated[1]) if stated else (text, "")


def _check_other_separators(
    name: str, text: str, first_line: str, separator: str, rows: Sequence[Sequence[str]]
) -> None:
    """Check that no other separator divides all rows evenly, too, as in "height, cm;weight, kg".

    Raises:
        DataError: one does.
    """
    for other in _SEPARATORS:
        if other == separator or other not in first_line or not rows or not _is_even(rows):
            continue
        others, _, unreadable = _parse(text, other)
        if not unreadable and len(others) > 1 and len(others[0]) > 1 and _is_even(others):
            raise DataError(
                f"{name} can be read in two ways: {_WORDS[separator]} give the columns "
                f"{', '.join(map(repr, rows[0]))}, and {_WORDS[other]} {', '.join(map(repr, others[0]))}; put quotes "
                "around the names of columns that "
                f"hold one of them, or say which by a first line sep={separator} or sep={other}"
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


def _parse(
    text: str, separator: str, *, skip_blanks: bool = False
) -> tuple[list[list[str]], list[int], str]:  # fmt: skip
    """Return rows and their lines, blank lines left out, and why the rest cannot be read."""
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
        return rows, numbers, _quote_fault(text, numbers, reader.line_num, str(error))
    finally:
        csv.field_size_limit(limit)
    return rows, numbers, ""


def _quote_fault(text: str, numbers: Sequence[int], line: int, error: str) -> str:
    """Return what is wrong with the quotes of a file, and where the cell begins that they do not end."""
    begin = numbers[-1] + 1 if numbers else 1
    if error == "unexpected end of data":
        return f"line {begin} opens a quote that is never closed (the file is not well-formed CSV); close the quotes"
    if '\\"' in text:
        return f'line {begin} is not well-formed CSV: {error}; write quotes within cells twice, "", and not as \\"'
    return f"line {line} is not well-formed CSV: {error}; close the quotes"


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


def _fits_most(rows: Sequence[Sequence[str]]) -> bool:
    """Return whether more than half of the rows have as many cells as the header, which is the first."""
    return sum(len(row) == len(rows[0]) for row in rows[1:]) * 2 > len(rows) - 1


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


def _checked(
    name: str, rows: Sequence[Sequence[str]], numbers: Sequence[int], separator: str, notes: Sequence[str]
) -> Cells:
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
            f"put quotes around cells that hold {separator!r} or a line break, and add what is missing"
        )
        kept.append([""] * len(header))
    return Cells(header=header, rows=kept, numbers=numbers[1:], faults=faults, notes=tuple(notes))
