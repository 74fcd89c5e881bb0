"""JSON Lines and JSON arrays of objects as cells."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mmbench.errors import DataError
from mmbench_datasets.table import Shown

_MOST_CELLS = 50_000_000


def read_objects(name: str, content: bytes, *, lines: bool) -> tuple[list[Any], list[int], dict[int, str]]:
    """Return the objects of a JSON file, their places, and what is wrong with those that cannot be used, by row.

    Args:
        name: Of the file, for messages.
        content: Its bytes.
        lines: Whether every line holds one object; else the file holds an array of objects.

    Raises:
        DataError: it is not UTF-8, or no array.
    """
    try:
        text = content.decode(json.detect_encoding(content) if content else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}; save it again as UTF-8"
        ) from None
    # An array in a file of lines, and lines in a file for an array, are read as what they are.
    begins = text.lstrip()[:1]
    lines = begins != "[" if lines else begins == "{" and _holds_lines(text)
    objects: list[Any] = []
    numbers: list[int] = []
    faults: dict[int, str] = {}
    if lines:
        # Not `splitlines`: JSON may hold other separators of lines, such as U+2028, within its texts.
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                found = _loads(line)
            except (ValueError, RecursionError) as error:
                faults[len(objects)] = f"{name} line {number} is no readable JSON ({str(error)[:120]}); correct it"
                found = {}
            objects.append(found)
            numbers.append(number)
    else:
        try:
            found = _loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name} is no readable JSON ({str(error)[:120]}); correct it") from None
        if not isinstance(found, list):
            raise DataError(
                f"{name} must hold an array of objects, [{{…}}, …], but holds {type(found).__name__}; write one object "
                "for each row, as pandas does by orient='records'"
            )
        objects, numbers = found, list(range(1, len(found) + 1))
    for row, item in enumerate(objects):
        if not isinstance(item, dict):
            word = "line" if lines else "row"
            faults[row] = f"{name} {word} {numbers[row]} holds {type(item).__name__}, not an object {{…}}; correct it"
            objects[row] = {}
    return objects, numbers, faults


def _holds_lines(text: str) -> bool:
    """Whether the first line of a text is a JSON object, and another line follows."""
    first, _, rest = text.lstrip().partition("\n")
    try:
        return isinstance(json.loads(first), dict) and bool(rest.strip())
    except (ValueError, RecursionError):
        return False


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands there more than once")
    return found


def object_columns(
    name: str, objects: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[Any]]]:
    """Return the columns of objects: cells as text, and the values of the columns that hold lists.

    Raises:
        DataError: there are too many cells.
    """
    keys = list(dict.fromkeys(str(key) for item in objects for key in item))
    if len(keys) * len(objects) > _MOST_CELLS:
        raise DataError(
            f"{name} holds {len(objects):,} rows of {len(keys):,} columns, more than {_MOST_CELLS:,} cells; divide it"
        )
    columns: dict[str, Sequence[str]] = {}
    values: dict[str, Sequence[Any]] = {}
    for key in keys:
        cells = [item.get(key) for item in objects]
        if any(isinstance(cell, list | dict) for cell in cells):
            values[key] = cells
            columns[key] = Shown(cells, _nested_text)
        else:
            columns[key] = [_text(cell) for cell in cells]
    return columns, values


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, bool) else str(value)


def _nested_text(value: Any) -> str:
    if value is None or value in ([], {}):
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else _text(value)
