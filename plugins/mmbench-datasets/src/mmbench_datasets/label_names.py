"""One class under several spellings: equal numbers, equal Unicode text and words for true and false become one."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence

from mmbench_datasets.cells import exact_number

BOOLEANS = frozenset(("true", "false"))
_ANSWERS = frozenset(("true", "false", "yes", "no", "y", "n", "t", "f", "on", "off", "0", "1", "pos", "neg"))
_MOST_BOOLEANS = 2
_MOST_NAMED = 5
#: "ice-cream" and "ice_cream"; the sign of a number is none.
_JOINTS = re.compile(r"(?<=[^\W\d_])[-_\u2010-\u2015]+(?=[^\W\d_])")


def join_spellings(cells: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return labels with one spelling for each class, and notes on what was joined or looks alike.

    Labels are the same class where they are the same number ("1", "1.0", "01"), the same text in Unicode's form NFC
    without marks that are not seen, or "true", "false", "1" and "0" in any case where nothing else occurs. The most
    frequent spelling stays, the shorter one of equally frequent ones. Labels that differ in case, blanks, hyphens or
    quotes only stay apart, with a note.

    >>> join_spellings(["1", "1.0", "0", "1"])
    (['1', '1', '0', '1'], ["'1.0' is read as '1'"])
    """
    counts = Counter(cells)
    booleans = any(cell.casefold() in BOOLEANS for cell in counts) and all(
        cell.casefold() in BOOLEANS or exact_number(cell) in (0, 1) for cell in counts if cell
    )
    groups: dict[Hashable, list[str]] = {}
    for cell in counts:
        groups.setdefault(_meaning(cell, booleans), []).append(cell)
    chosen: dict[str, str] = {}
    joined: list[str] = []
    for spellings in groups.values():
        kept = min(spellings, key=lambda spelling: (-counts[spelling], len(spelling), spelling))
        chosen.update(dict.fromkeys(spellings, kept))
        joined += [_joined(spelling, kept) for spelling in sorted(spellings) if spelling != kept]
    notes = joined[:_MOST_NAMED] + (
        [f"{len(joined) - _MOST_NAMED} more spellings are joined"] * (len(joined) > _MOST_NAMED)
    )
    return [chosen[cell] for cell in cells], notes + _look_alikes(sorted(set(chosen.values())))


def _meaning(cell: str, booleans: bool) -> Hashable:
    value = exact_number(cell)
    if booleans and value is not None:
        return "true" if value else "false"
    if value is not None:
        return ("number", value)
    text = _seen(cell)
    return text.casefold() if booleans else text


def _seen(cell: str) -> str:
    """Return a label in the form NFC, without what cannot be seen at its ends: byte order marks, zero-width blanks."""
    text = unicodedata.normalize("NFC", cell)
    return text.strip("\ufeff\u200b\u200c\u200d\u200e\u200f\u2060\u00ad").strip()


def _joined(spelling: str, kept: str) -> str:
    if unicodedata.normalize("NFC", spelling) == unicodedata.normalize("NFC", kept):
        return f"two Unicode forms of {kept!r} are one class"
    if _seen(spelling) == _seen(kept):
        return f"{spelling!r} is read as {kept!r}, without marks that are not seen"
    return f"{spelling!r} is read as {kept!r}"


def _look_alikes(names: Sequence[str]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_look(name), []).append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    words = [name for name in names if name]
    if len(words) > _MOST_BOOLEANS and {name.casefold() for name in words} <= _ANSWERS:
        return [f"warning: {', '.join(map(repr, words[:6]))} are different classes; write yes and no alike in all rows"]
    return [
        f"warning: {' and '.join(map(repr, group[:4]))} are different classes that differ in case, width or blanks only"
        for group in alike[:_MOST_NAMED]
    ]


def _look(name: str) -> str:
    """Return what classes that people would take for the same have in common."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Cf")
    return " ".join(_JOINTS.sub(" ", text).strip("'\"`").split())
