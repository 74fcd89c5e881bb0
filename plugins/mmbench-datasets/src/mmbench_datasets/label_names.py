"""One class under several spellings: equal numbers, equal Unicode text and words for true and false become one."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence

from mmbench_datasets.cells import exact_number

_BOOLEANS = frozenset(("true", "false"))
_MOST_NAMED = 5


def join_spellings(cells: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return labels with one spelling for each class, and notes on what was joined or looks alike.

    Labels are the same class where they are the same number ("1", "1.0", "01"), the same text in Unicode's form NFC,
    or "true" and "false" in any case where nothing else occurs. The most frequent spelling stays, the shorter one of
    equally frequent ones. Labels that differ in case or blanks only stay apart, with a note.

    >>> join_spellings(["1", "1.0", "0", "1"])
    (['1', '1', '0', '1'], ["'1.0' is read as '1'"])
    """
    counts = Counter(cells)
    booleans = all(cell.casefold() in _BOOLEANS for cell in counts if cell)
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
    if value is not None:
        return ("number", value)
    text = unicodedata.normalize("NFC", cell)
    return text.casefold() if booleans else text


def _joined(spelling: str, kept: str) -> str:
    if unicodedata.normalize("NFC", spelling) == unicodedata.normalize("NFC", kept):
        return f"two Unicode forms of {kept!r} are one class"
    return f"{spelling!r} is read as {kept!r}"


def _look_alikes(names: Sequence[str]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    return [
        f"warning: {' and '.join(map(repr, group[:4]))} are different classes that differ in case, width or blanks only"
        for group in alike[:_MOST_NAMED]
    ]
