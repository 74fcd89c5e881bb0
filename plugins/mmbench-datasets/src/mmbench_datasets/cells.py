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
     "unknown", "missing", "not available")
)  # fmt: skip
_LONGEST_LITERAL = 1_000_000
_LONGEST_NUMBER = 400
_SEPARATORS = re.compile(r"\s*[;|,]\s*|\s+")
_DECIMAL = re.compile(r"[+-]?(?=\.?\d)\d*\.?\d*(?:[eE][+-]?\d+)?", re.ASCII)


def number(cell: str) -> float | None:
    """Return a cell as a finite number, or None; Python's own extras such as "1_000" are not numbers here."""
    if "_" in cell:
        return None
    try:
        value = float(cell)
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
    if not (len(cell) <= _LONGEST_NUMBER and cell.isascii() and _DECIMAL.fullmatch(cell)):
        return None
    try:
        return int(cell)
    except ValueError:
        return number(cell)


def parse_list(cell: str) -> list[Any] | None:
    """Return the list that a cell holds as JSON, Python or NumPy writes it; None where it holds none.

    >>> parse_list("[0.5, null]"), parse_list("['a', 'b']"), parse_list("[0 1 1]"), parse_list("0.5")
    ([0.5, None], ['a', 'b'], [0, 1, 1], None)
    """
    cell = cell.strip()
    if len(cell) < 2 or cell[0] not in "[(" or cell[-1] not in "])":
        return None
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        value = _parse_literal(cell)
    return list(value) if isinstance(value, list | tuple) else None


def _parse_literal(cell: str) -> Any:
    inner = cell[1:-1].split()
    # NumPy leaves commas out, and the middle of long arrays too: "..." makes the list unreadable, as it should be.
    if "," not in cell and inner and all(number(item) is not None for item in inner):
        return [_as_number(item) for item in inner]
    if len(cell) > _LONGEST_LITERAL:
        return None
    try:
        return ast.literal_eval(cell)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def parse_numbers(cell: str) -> list[int | float] | None:
    """Return the numbers of a cell that separates them by ``;``, ``|``, commas or blanks; None for fewer than two.

    >>> parse_numbers("0;1;1"), parse_numbers("0.5 2"), parse_numbers("3")
    ([0, 1, 1], [0.5, 2], None)
    """
    parts = _SEPARATORS.split(cell.strip())
    if len(parts) < 2 or not all(_DECIMAL.fullmatch(part) for part in parts):
        return None
    return [_as_number(part) for part in parts]


def _as_number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
