"""What single cells say: numbers, marks of an unknown value, and lists written as text."""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any

#: Marks that stand for "not known" in a column of numbers, dates or times.
UNKNOWN = frozenset(
    ("", "na", "n/a", "#n/a", "<na>", "nan", "+nan", "-nan", "nat", "null", "none", "nil", "-", "--", "?", ".",
     "unknown", "missing", "not available", "n.a.", "n.a", "k.a.", "k.a", "(null)", "\\n", "undefined")
)  # fmt: skip
#: The minus sign of typography, as spreadsheets and publishers write it.
MINUS = "\u2212"
#: Above this a 32-bit float is infinity.
LARGEST_FLOAT32 = 3.4028234663852886e38
_LONGEST_LITERAL = 1_000_000
_LONGEST_NUMBER = 400
_DECIMAL = re.compile(r"[+-]?(?=\.?\d)\d*\.?\d*(?:[eE][+-]?\d+)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"([+-]?\d+),(\d+(?:[eE][+-]?\d+)?)", re.ASCII)
#: What NumPy and torch write around a list: "array([1., 2.])", "tensor([1., 2.], dtype=torch.float64)".
_ARRAY_CALL = re.compile(
    r"(?:np\.|numpy\.|torch\.)?(?:array|tensor)\((?P<list>\[.*\])(?:,\s*\w+=[\w.':]+)*\)", re.DOTALL
)
_UNKNOWN_IN_LIST = re.compile(r"\bnan\b", re.IGNORECASE)


def number(cell: str) -> float | None:
    """Return a cell as a finite number, or None; Python's own extras such as "1_000" are not numbers here."""
    if "_" in cell:
        return None
    try:
        value = float(cell.replace(MINUS, "-") if MINUS in cell else cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def is_unknown(cell: str) -> bool:
    """Whether a cell of a column of numbers, dates or times says that the value is not known."""
    return cell.strip().lower() in UNKNOWN


def exact_number(cell: str) -> int | float | None:
    """Return a cell as a number that equals another one only if both are the same number; None where it is none.

    >>> exact_number("9007199254740993") == exact_number("9007199254740992")
    False
    """
    cell = cell.replace(MINUS, "-")
    if not (len(cell) <= _LONGEST_NUMBER and cell.isascii() and _DECIMAL.fullmatch(cell)):
        return None
    try:
        return int(cell)
    except ValueError:
        return number(cell)


def parse_list(cell: str) -> list[Any] | None:
    """Return the list that a cell holds as JSON, Python, NumPy or torch writes it; None where it holds none.

    A set is a list in the order of its words.

    >>> parse_list("[0.5, null]"), parse_list("['a', 'b']"), parse_list("[0 1 1]"), parse_list("0.5")
    ([0.5, None], ['a', 'b'], [0, 1, 1], None)
    >>> parse_list("array([1., nan])"), parse_list("{'b', 'a'}")
    ([1.0, None], ['a', 'b'])
    """
    cell = cell.strip()
    if cell == "set()":
        return []
    called = _ARRAY_CALL.fullmatch(cell) if cell.endswith(")") else None
    if called:
        cell = called["list"]
    if len(cell) < 2 or cell[0] not in "[({" or cell[-1] not in "])}":
        return None
    as_python = cell
    if "nan" in cell.lower() and '"' not in cell and "'" not in cell and "," in cell:
        cell, as_python = (_UNKNOWN_IN_LIST.sub(word, cell) for word in ("null", "None"))
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        value = _parse_literal(as_python)
    if isinstance(value, set):
        return sorted(value, key=str)
    return list(value) if isinstance(value, list | tuple) else None


def _parse_literal(cell: str) -> Any:
    inner = cell[1:-1].split()
    # NumPy leaves commas out, and the middle of long arrays too: "..." makes the list unreadable, as it should be.
    if (
        cell[0] == "["
        and "," not in cell
        and inner
        and all(number(item) is not None or item == "nan" for item in inner)
    ):
        return [None if item == "nan" else _as_number(item) for item in inner]
    if len(cell) > _LONGEST_LITERAL:
        return None
    try:
        return ast.literal_eval(cell)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def parse_numbers(cell: str) -> list[int | float] | None:
    """Return the numbers of a cell that separates them by ``;``, ``|``, commas or blanks; None for fewer than two.

    Commas between other separators are decimal commas.

    >>> parse_numbers("0;1;1"), parse_numbers("0.5 2"), parse_numbers("3"), parse_numbers("1,5;2,25")
    ([0, 1, 1], [0.5, 2], None, [1.5, 2.25])
    """
    parts = _split_numbers(cell.strip())
    if len(parts) < 2:
        return None
    if any("," in part for part in parts):
        parts = [_DECIMAL_COMMA.sub(r"\1.\2", part) if _DECIMAL_COMMA.fullmatch(part) else part for part in parts]
    if not all(_DECIMAL.fullmatch(part) for part in parts):
        return None
    return [_as_number(part) for part in parts]


def _split_numbers(text: str) -> list[str]:
    """Return the parts of a cell at the strongest separator that it holds."""
    if ";" in text or "|" in text:
        return re.split(r"\s*[;|]\s*", text)
    if re.search(r",\s", text):
        return re.split(r"\s*,\s+", text)
    if "," in text and not re.search(r"\s", text):
        return text.split(",")
    return text.split()


def _as_number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
