"""Dates and times of a table as numbers: when it was, and where on the circles of day, week and year."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time
from typing import Literal, TypeAlias

Moment: TypeAlias = Literal["date", "time", "datetime"]

#: How many numbers each gives.
WIDTHS: Mapping[Moment, int] = {"date": 5, "time": 2, "datetime": 7}

_DATE = r"\d{4}-\d\d-\d\d"
# `datetime` keeps microseconds: the digits beyond, which pandas writes, are cut.
_TIME = r"\d?\d:\d\d(:\d\d([.,]\d{1,9})?)?"
_BEYOND_MICROSECONDS = re.compile(r"([.,]\d{6})\d+", re.ASCII)
_ZONE = r"(Z|[+-]\d\d:?\d\d)?"
_ONE_DIGIT_HOUR = re.compile(r"(^|[T ])(?=\d:)", re.ASCII)
#: "05/01/2024", "1.5.24", "2024/05/01", "May 1, 2024", "9:05 PM": order and language differ from place to place.
_WRITTEN_OTHERWISE = re.compile(
    r"(\d{1,2}[/.-]\d{1,2}[/.-](\d{4}|\d\d)|\d{4}[/.]\d{1,2}[/.]\d{1,2}|\d{1,2}[ -]?[a-z]{3,9}\.?,?[ -]?\d{4}|"
    r"[a-z]{3,9}\.? \d{1,2}(st|nd|rd|th)?,? \d{4})([T ,]+\d{1,2}:\d\d(:\d\d)?( ?[ap]\.?m\.?)?)?|"
    r"\d{1,2}:\d\d(:\d\d)? ?[ap]\.?m\.?",
    re.ASCII | re.IGNORECASE,
)
_FORMS: Mapping[Moment, tuple[re.Pattern[str], Callable[[str], date | time]]] = {
    "date": (re.compile(_DATE, re.ASCII), date.fromisoformat),
    "time": (re.compile(_TIME + _ZONE, re.ASCII), time.fromisoformat),
    "datetime": (re.compile(f"{_DATE}[T ]{_TIME}{_ZONE}", re.ASCII), datetime.fromisoformat),
}


def moment_of(cells: Iterable[str]) -> Moment | None:
    """Return what all of these cells are, as ISO 8601 writes it; None where they are not of one sort.

    >>> moment_of(["2024-05-01", "1999-12-31"])
    'date'
    """
    found: Moment | None = None
    for cell in cells:
        if found is None:
            found = next((moment for moment in _FORMS if _read(moment, cell) is not None), None)
        if found is None or _read(found, cell) is None:
            return None
    return found


def is_moment_written_otherwise(cell: str) -> bool:
    """Whether a cell looks like a date or a time that is not written as in ISO 8601.

    >>> is_moment_written_otherwise("05/01/2024"), is_moment_written_otherwise("2024-05-01")
    (True, False)
    """
    return bool(_WRITTEN_OTHERWISE.fullmatch(cell.strip()))


def encode_moment(moment: Moment, cell: str) -> list[float]:
    """Return a cell's numbers, `WIDTHS` of them; all NaN where it is not such a moment.

    A date gives the years since 2000 with their fraction, then sine and cosine of its place in the year and in the
    week; a time gives sine and cosine of its place in the day; a datetime gives both. The clock is read as it is
    written, whatever its zone: night is night wherever it was.

    >>> [round(number, 3) for number in encode_moment("time", "06:00")]
    [1.0, 0.0]
    """
    given = _read(moment, cell)
    if given is None:
        return [math.nan] * WIDTHS[moment]
    numbers: list[float] = []
    if isinstance(given, date):
        begin = date(given.year, 1, 1).toordinal()
        length = date(given.year, 12, 31).toordinal() + 1 - begin
        through = (given.toordinal() - begin) / length
        numbers += [given.year - 2000 + through, *_on_circle(through), *_on_circle(given.weekday() / 7)]
    if isinstance(given, time | datetime):
        seconds = given.hour * 3600 + given.minute * 60 + given.second + given.microsecond / 1e6
        numbers += _on_circle(seconds / 86_400)
    return numbers


def _on_circle(turn: float) -> list[float]:
    return [math.sin(2 * math.pi * turn), math.cos(2 * math.pi * turn)]


def _read(moment: Moment, cell: str) -> date | time | None:
    form, parse = _FORMS[moment]
    cell = cell.strip()
    if not form.fullmatch(cell):
        return None
    try:
        padded = _ONE_DIGIT_HOUR.sub(r"\g<1>0", cell)
        return parse(_BEYOND_MICROSECONDS.sub(r"\1", padded).replace(",", "."))
    except ValueError:
        return None
