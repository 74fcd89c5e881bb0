"""The notation of references: ``name[key=value,…]``, with values as in JSON, as in TOML, or plain words."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from mmbench.errors import UsageError

_OPENS_A_QUOTE_AFTER = "[,={:"
_CLOSER = {"[": "]", "{": "}"}
_NUMBER = re.compile(r"[+-]?[\d.][\w.+-]*")
#: Options in brackets that follow no name and stand in no quotes.
_HINT = re.compile(r"(?<![\w'\"`./*\]-])\[[A-Za-z_]\w*=[^\[\]\n]*\]")
_NAME_WITH_BRACKET = re.compile(r"[^/:\[]*\[")


def parse_reference(text: str) -> tuple[str, dict[str, Any]]:
    """Split a reference into its head and its options.

    Options stand in square brackets at the end. A value is a number, ``true``, ``false``, ``null``, a quoted string,
    a list, a JSON object, or else plain text. Where a target itself ends with brackets, append ``[]``.

    Raises:
        UsageError: the text cannot be read; the message repeats it and points at the place.

    >>> parse_reference("cnn[width=32, norm=group, sizes=[3, 5]]")
    ('cnn', {'width': 32, 'norm': 'group', 'sizes': [3, 5]})
    """
    head, start = _split_head(text)
    options: dict[str, Any] = {}
    if start is None:
        return head, options
    for item, at in _split_items(text, start + 1, len(text) - 1):
        key, value = _parse_option(text, item, at)
        if key in options:
            raise _unreadable(text, at, f"option {key!r} is given twice")
        options[key] = value
    return head, options


def format_reference(head: str, options: Mapping[str, Any]) -> str:
    """Write a head and options so that `parse_reference` reads them back.

    >>> format_reference("cnn", {"width": 32, "norm": "group"})
    'cnn[width=32,norm=group]'
    """
    if not options and not head.endswith("]"):
        return head
    return f"{head}[{','.join(f'{_format_key(key)}={_format_value(value)}' for key, value in options.items())}]"


def complete_hints(text: str, head: str, options: Mapping[str, Any]) -> str:
    """Write options that a message recommends as the whole reference to type, in quotes for a shell.

    Args:
        text: The message, in which an option stands as in ``[label=species]``.
        head: The name that the options follow.
        options: Those that were given; the recommended ones replace their namesakes.

    >>> complete_hints("say so by [label=y]", "data.csv", {"encoding": "cp1252"})
    "say so by -d 'data.csv[encoding=cp1252,label=y]'"
    """

    def completed(match: re.Match[str]) -> str:
        try:
            _, recommended = parse_reference(f"hint{match[0]}")
            return f"-d {shlex.quote(format_reference(head, {**options, **recommended}))}"
        except UsageError:
            return match[0]

    return _HINT.sub(completed, text)


def has_options(text: str) -> bool:
    """Whether a reference or a glob pattern ends with options, rather than with a character class such as [0-9]."""
    start = _last_group(text)
    return start is not None and (text[start + 1 : -1].strip() == "" or "=" in text[start:])


def _split_head(text: str) -> tuple[str, int | None]:
    """Return the head and where its options' bracket opens, or None."""
    # A bracket in the name opens the options or a glob's character class; only a target may hold others.
    opening = text.index("[") if _NAME_WITH_BRACKET.match(text) else None
    closing = None if opening is None else _closing(text, opening)
    if opening is not None and closing is None:
        raise _unreadable(text, opening, "this bracket is never closed")
    start = _last_group(text)
    if start is not None:
        head = text[:start].strip()
        if not head:
            raise _unreadable(text, start, "a name must stand before the options")
        return head, start
    if closing is not None:
        raise _unreadable(text, closing + 1, "the options end here, but more text follows")
    if text.endswith("]") and "[" not in text:
        raise _unreadable(text, len(text) - 1, "this bracket was never opened")
    if not text.strip():
        raise UsageError("a reference is empty; write a name such as cnn, or cnn[width=32]")
    return text.strip(), None


def _last_group(text: str) -> int | None:
    """Return where the bracket group opens that closes at the very end of the text."""
    if not text.endswith("]"):
        return None
    at = text.find("[")
    while at != -1:
        closing = _closing(text, at)
        if closing == len(text) - 1:
            return at
        at = text.find("[", at + 1 if closing is None else closing)
    return None


def _closing(text: str, opening: int) -> int | None:
    """Return where the bracket at `opening` closes, quotes and inner brackets respected."""
    expected = [_CLOSER[text[opening]]]
    at = opening + 1
    while at < len(text):
        character = text[at]
        if character in "\"'" and _may_open_quote(text, at):
            end = _end_of_quote(text, at)
            if end is None:
                return None
            at = end
        elif character in _CLOSER:
            expected.append(_CLOSER[character])
        elif character == expected[-1]:
            expected.pop()
            if not expected:
                return at
        at += 1
    return None


def _split_items(text: str, start: int, stop: int) -> list[tuple[str, int]]:
    """Split text[start:stop] at its outermost commas into (item, position); blank items at the end are dropped."""
    items, begin, at = [], start, start
    while at < stop:
        character = text[at]
        if character in "\"'" and _may_open_quote(text, at):
            at = _end_of_quote(text, at) or stop
        elif character in _CLOSER:
            at = _closing(text, at) or stop
        elif character == ",":
            items.append((text[begin:at], begin))
            begin = at + 1
        at += 1
    items.append((text[begin:stop], begin))
    if not items[-1][0].strip():
        items.pop()
    return items


def _may_open_quote(text: str, at: int) -> bool:
    """Quotes open at the start of a key or value only, so that ``label=don't`` is plain text."""
    before = text[:at].rstrip()
    return bool(before) and before[-1] in _OPENS_A_QUOTE_AFTER


def _end_of_quote(text: str, at: int) -> int | None:
    quote, at = text[at], at + 1
    while at < len(text):
        if text[at] == "\\" and quote == '"':
            at += 1
        elif text[at] == quote:
            return at
        at += 1
    return None


def _parse_option(text: str, item: str, at: int) -> tuple[str, Any]:
    at += len(item) - len(item.lstrip())
    item = item.strip()
    if item[:1] in ("'", '"'):
        end = _end_of_quote(item, 0)
        equals = -1 if end is None else item.find("=", end)
        key = item[:equals].strip() if equals != -1 else ""
        key = str(_parse_value(key)) if key else key
    else:
        equals = item.find("=")
        key = item[:equals].strip() if equals != -1 else ""
    if not key:
        raise _unreadable(text, at, "options read key=value, separated by commas")
    value = item[equals + 1 :].strip()
    if not value:
        raise _unreadable(text, at + equals, f'option {key!r} has no value; write {key}="" for an empty one')
    return key, _parse_value(value)


def _parse_value(value: str) -> Any:
    if value.startswith("[") and _closing(value, 0) == len(value) - 1:
        return [_parse_value(item.strip()) for item, _ in _split_items(value, 1, len(value) - 1)]
    try:
        parsed = json.loads(value, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return _parse_toml(value)
    return value if isinstance(parsed, float) and not math.isfinite(parsed) else parsed


def _parse_toml(value: str) -> Any:
    """Read what TOML writes otherwise than JSON ('quoted', 1_000, 0x1f, +1); anything else is plain text."""
    if value[0] != "'" and not _NUMBER.fullmatch(value):
        return value
    import tomllib  # only few references need it

    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value
    finite = isinstance(parsed, int | str) or (isinstance(parsed, float) and math.isfinite(parsed))
    return parsed if finite else value  # a date, say, stays the text it was


def _refuse_constant(constant: str) -> Any:
    raise ValueError(constant)


def _format_key(key: str) -> str:
    plain = key == key.strip() and key and not any(character in "=,[]{}\"'" for character in key)
    return key if plain else json.dumps(key, ensure_ascii=False)


def _format_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(_format_value(item) for item in value)}]"
    if isinstance(value, str):
        special = value != value.strip() or not value or any(character in ",[]{}\"'" for character in value)
        if not special and _parse_value(value) == value:
            return value
    return json.dumps(value, ensure_ascii=False)


def _unreadable(text: str, at: int, problem: str) -> UsageError:
    return UsageError(f"cannot read this reference: {problem}\n  {text}\n  {' ' * at}^")
