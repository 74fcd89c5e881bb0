"""Dates and times of a table as numbers: when it was, and where on the circles of day, week and year."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time
from typing import Literal, TypeAlias

Moment: TypeAlias = Literal["date", "time", "datetime"]

#: In which order a column that is not written as ISO 8601 gives the parts of its dates.
DateOrder: TypeAlias = Literal["day-month-year", "month-day-year", "year-month-day"]

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
_TWO_THEN_YEAR = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4})(?=$|[ T])", re.ASCII)
_YEAR_FIRST = re.compile(r"(\d{4})([./])(\d{1,2})\2(\d{1,2})(?=$|[ T])", re.ASCII)
_LAST_MONTH = 12
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


def date_order(cells: Iterable[str]) -> DateOrder | None:
    """Return the order of day, month and year of a column's dates; None where its cells do not decide it.

    Of two numbers before the year, the one that passes 12 in some cell is the day, and the other, which never does, is
    the month. A column with several separators may join two orders, so it decides nothing, and most cells must be such
    dates.

    >>> date_order(["28.04.2024", "03.05.2024"]), date_order(["02/04/2024", "03/05/2024"])
    ('day-month-year', None)
    """
    firsts, seconds, separators = [], [], set()
    num_cells = num_year_first = 0
    for cell in cells:
        num_cells += 1
        if match := _TWO_THEN_YEAR.match(cell.strip()):
            firsts.append(int(match[1]))
            separators.add(match[2])
            seconds.append(int(match[3]))
        elif _YEAR_FIRST.match(cell.strip()):
            num_year_first += 1
    if num_year_first * 2 > num_cells:
        return "year-month-day"
    if (
        len(firsts) * 2 <= num_cells
        or len(separators) > 1
        or (max(firsts) > _LAST_MONTH) == (max(seconds) > _LAST_MONTH)
    ):
        return None
    return "day-month-year" if max(firsts) > _LAST_MONTH else "month-day-year"


def as_iso(cell: str, order: DateOrder | None) -> str:
    """Return a cell with the date that it begins with as ISO 8601 writes it; other cells stay as they are.

    >>> as_iso("28.4.2024 9:30", "day-month-year")
    '2024-04-28 9:30'
    """
    if order is None:
        return cell
    cell = cell.strip()
    match = (_YEAR_FIRST if order == "year-month-day" else _TWO_THEN_YEAR).match(cell)
    if match is None:
        return cell
    parts = (match[1], match[3], match[4])
    places = {"day-month-year": (2, 1, 0), "month-day-year": (2, 0, 1), "year-month-day": (0, 1, 2)}[order]
    year, month, day = (parts[place] for place in places)
    return f"{year}-{month:0>2}-{day:0>2}{cell[match.end() :]}"


def order_notes(cells: Iterable[str], order: DateOrder | None) -> list[str]:
    """Return what order dates are read in, with one of them as an example; nothing for ISO 8601."""
    if order is None:
        return []
    changed = [cell.strip() for cell in cells if as_iso(cell, order) != cell]
    example = max(changed, key=lambda cell: as_iso(cell, order)[8:10])  # the latest day of a month decides the order
    if order == "year-month-day":
        return [f"dates such as {example!r} are read as year, month and day"]
    day, month = ("first", "second") if order == "day-month-year" else ("second", "first")
    return [
        f"dates such as {example!r} are read with the day {day} and the month {month}, as only the {day} number passes "
        "12"
    ]


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
