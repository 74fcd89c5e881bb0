"""The values that descriptors hold: checked one by one, options merged into their defaults, all of it as plain JSON.

A check raises `SpecError`, a sentence that begins with ``where`` and says what is wrong with the value.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mmbench.errors import SpecError, did_you_mean

MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_PART_NAME = re.compile(r"\w[\w.-]{0,63}")
_REFERENCE = re.compile(rf"{MODULE_NAME.pattern}:{MODULE_NAME.pattern}")


def to_json(value: Any) -> Any:
    """Return descriptors, mappings and tuples as plain JSON data."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def check_options(
    where: str, given: Mapping[str, Any], defaults: Mapping[str, Any], *, open_options: bool = False
) -> dict[str, Any]:
    """Merge options into their defaults.

    Raises:
        SpecError: an option is unknown, or its type is not its default's.
    """
    merged = dict(defaults)
    for key, value in given.items():
        if key not in defaults:
            if not open_options:
                known = f"it has {', '.join(sorted(defaults))}" if defaults else "it has no options"
                raise SpecError(f"{where} has no option {key!r}; {known}.{did_you_mean(key, defaults)}")
        elif defaults[key] is not None:
            value = _coerce(f"{where}: option {key!r}", value, defaults[key])
        merged[key] = value
    return merged


def check_part_name(what: str, name: Any) -> None:
    if not (isinstance(name, str) and _PART_NAME.fullmatch(name)):
        raise SpecError(f"{name!r} cannot name {what}: use 1 to 64 letters, digits, '_', '-' or '.'")


def check_word(where: str, word: Any, known: tuple[str, ...]) -> None:
    if word not in known:
        raise SpecError(f"{where} must be one of {', '.join(known)}; got {word!r}.{did_you_mean(str(word), known)}")


def check_count(where: str, value: Any, *, minimum: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise SpecError(f"{where} must be a whole number of at least {minimum}, got {value!r}")


def check_text(where: str, value: Any) -> None:
    if not isinstance(value, str):
        raise SpecError(f"{where} must be a string, got {value!r}")


def check_flag(where: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise SpecError(f"{where} must be True or False, got {value!r}")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_reference(where: str, reference: Any) -> None:
    if not (isinstance(reference, str) and _REFERENCE.fullmatch(reference)):
        raise SpecError(f"{where} must read 'package.module:attribute', got {reference!r}")


def checked_words(
    where: str, words: Any, known: tuple[str, ...] = (), *, at_least_one: bool = False
) -> tuple[Any, ...]:
    if isinstance(words, str):
        words = (words,)
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise SpecError(f"{where} must be a tuple of strings, got {words!r}")
    if at_least_one and not words:
        raise SpecError(f"{where} must name at least one of {', '.join(known)}")
    if known:
        for word in words:
            check_word(where, word, known)
    twice = sorted({word for word in words if words.count(word) > 1})
    if twice:
        raise SpecError(f"{where} names {', '.join(twice)} twice")
    return tuple(words)


def checked_members(where: str, members: Any, member_type: type[Any], *, at_least_one: bool = True) -> tuple[Any, ...]:
    if not isinstance(members, list | tuple) or not all(isinstance(member, member_type) for member in members):
        raise SpecError(f"{where} must be a tuple of {member_type.__name__}, got {members!r}")
    if at_least_one and not members:
        raise SpecError(f"{where} must hold at least one {member_type.__name__}")
    names = [member.name for member in members]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SpecError(f"{where} names {', '.join(twice)} twice")
    return tuple(members)


def frozen_json(where: str, value: Any) -> Mapping[str, Any]:
    """Copy a mapping through JSON, so that nobody else holds it and it can be written to any file."""
    if not isinstance(value, Mapping):
        raise SpecError(f"{where} must be a mapping, got {value!r}")
    try:
        copied: dict[str, Any] = json.loads(json.dumps(to_json(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise SpecError(f"{where} must hold JSON values only: {error}") from None
    return MappingProxyType(copied)


def _coerce(where: str, value: Any, default: Any) -> Any:
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, str) and isinstance(value, bool | int | float):
        return json.dumps(value)
    same = type(value) is type(default) or (isinstance(value, list | tuple) and isinstance(default, list | tuple))
    if not same:
        raise SpecError(f"{where} takes {_a_type(default)} such as {json.dumps(to_json(default))}, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"{where} must be finite, got {value!r}")
    return value


def _a_type(value: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list"}
    return names.get(type(value), "a table")
