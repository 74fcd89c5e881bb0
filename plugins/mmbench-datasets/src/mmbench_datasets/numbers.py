"""How a column writes its numbers: decimal commas, thousands, currencies and percent, and which cells are none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mmbench_datasets.cells import MINUS, is_unknown, number

_CURRENCIES = "$€£¥₹"
_CODES = "USD|EUR|GBP|CHF|JPY"
#: Units that may stand behind every number of a column. A column of other letters, such as "3b", is words.
_MEASURES = (
    "kg|g|mg|µg|t|lbs?|oz|km|m|cm|mm|µm|nm|ft|in|mi|m²|km²|m2|km2|l|ml|s|sec|ms|min|h|hrs?|days?|years?|yrs?|"
    "°C|°F|°|Hz|kHz|MHz|km/h|m/s|mph|mV|mA|kW|kWh|Pa|hPa|kPa|mmHg|bar|px|kB|MB|GB"
)
_UNITS = re.compile(
    rf"(?P<prefix>[{_CURRENCIES}]|(?:{_CODES})\b)?\s*(?P<body>[+-]?\s*[\d.,'\s]*\d(?:[eE][+-]?\d+)?)\s*"
    rf"(?P<suffix>[%{_CURRENCIES}]|{_CODES}|{_MEASURES})?"
)
_BLANKS = re.compile(r"[\s\u00a0\u202f]")


@dataclass(frozen=True)
class NumberFormat:
    """A way to write numbers.

    Attributes:
        decimal: What stands before the fraction.
        thousands: What stands between groups of three digits; "" for nothing.
        prefix, suffix: A currency, a percent sign or a unit that every number of the column has.
        lakhs: Whether groups beyond the first hold two digits, as in India: 12,34,567.
    """

    decimal: str = "."
    thousands: str = ""
    prefix: str = ""
    suffix: str = ""
    lakhs: bool = False

    def parse(self, cell: str) -> float | None:
        """Return the number that a cell holds, or None.

        >>> NumberFormat(decimal=",", thousands=".", suffix="€").parse("1.234,50 €")
        1234.5
        """
        if self == PLAIN:
            return number(cell)
        units = _units(cell)
        if not units or _signs(units) != (self.prefix, self.suffix):
            # An integer or a number with an exponent is written alike everywhere.
            return None if self.prefix or self.suffix or "," in cell else number(cell) if "." not in cell else None
        body = _BLANKS.sub(" ", units["body"])
        digits = r"\d+"
        if self.lakhs:
            digits = r"\d{1,2}(?:,\d\d)+,\d{3}|\d{1,2},\d{3}|\d+"
        elif self.thousands:
            digits = rf"\d{{1,3}}(?:{re.escape(self.thousands)}\d{{3}})+|\d+"
        exponent = r"(?:[eE][+-]?\d+)?"
        if not re.fullmatch(rf"[+-]?(?:{digits})(?:{re.escape(self.decimal)}\d+)?{exponent}", body, re.ASCII):
            return None
        return number((body.replace(self.thousands, "") if self.thousands else body).replace(self.decimal, "."))

    def describe(self) -> str:
        """Say how numbers are written, or "" for the usual way."""
        words = ["decimal commas"] if self.decimal == "," else []
        if self.thousands:
            words.append(f"{self.thousands!r} between thousands")
        words += [
            f"the {'unit' if sign[-1].isalnum() else 'sign'} {sign}" for sign in (self.prefix, self.suffix) if sign
        ]
        return " and ".join(words)


def _units(cell: str) -> re.Match[str] | None:
    return _UNITS.fullmatch(cell.strip().replace(MINUS, "-"))


def _signs(units: re.Match[str]) -> tuple[str, str]:
    return units["prefix"] or "", units["suffix"] or ""


PLAIN = NumberFormat()
_SEPARATORS = ((".", ""), (",", ""), (".", ","), (",", "."), (",", " "), (".", " "), (".", "'"))


@dataclass(frozen=True)
class NumberColumn:
    """A column most of whose known cells are numbers.

    Attributes:
        format: How they are written.
        num_unknown: Cells with a mark such as "NA"; empty ones are not counted.
        faults: What is wrong with the cells that are neither, by row.
    """

    format: NumberFormat
    num_unknown: int
    faults: dict[int, str]


def read_number_column(cells: Sequence[str]) -> NumberColumn | None:
    """Return how a column writes numbers; None where at most half of its known cells are numbers.

    A cell that is no number in a column of numbers is a fault, and so is one that can be read in two ways: "1,000"
    among cells that tell neither decimal commas nor thousands.
    """
    known = [(row, cell) for row, cell in enumerate(cells) if not is_unknown(cell)]
    num_unknown = sum(1 for cell in cells if cell.strip() and is_unknown(cell))
    if not known:
        return None
    plain = sum(1 for _, cell in known if number(cell) is not None)
    if plain == len(known):
        return NumberColumn(PLAIN, num_unknown, {})
    counts = Counter(cell.strip() for _, cell in known)
    candidates = _candidates(counts)
    scores = Counter(dict.fromkeys(candidates, 0))
    num_numbers = 0
    for cell, count in counts.items():
        if number(cell) is None and not _units(cell):
            continue  # words, in any format: most cells of a column of text
        fitting = [style for style in candidates if style.parse(cell) is not None]
        scores.update(dict.fromkeys(fitting, count))
        num_numbers += count if fitting else 0
    # Cells of two formats are a column of numbers, too: those of the rarer one are faults.
    if num_numbers * 2 <= len(known):
        return None
    most = max(scores.values())
    best = [style for style in candidates if scores[style] == most]
    faults: dict[int, str] = {}
    for row, cell in known:
        read = {value for style in best if (value := style.parse(cell)) is not None}
        if best[0].parse(cell) is None:
            faults[row] = f"{cell!r} is no number, as most of the column is"
        elif len(read) > 1:
            faults[row] = f"{cell!r} may be read as {' or '.join(f'{value:g}' for value in sorted(read))}"
    return NumberColumn(best[0], num_unknown, faults)


def _candidates(counts: Counter[str]) -> list[NumberFormat]:
    """Return the formats that a column may have, the plain one first."""
    signs = Counter()
    for cell, count in counts.items():
        units = _units(cell)
        if units:
            signs[_signs(units)] += count
    prefix, suffix = signs.most_common(1)[0][0] if signs else ("", "")
    formats = [PLAIN, *(NumberFormat(decimal, thousands, prefix, suffix) for decimal, thousands in _SEPARATORS)]
    formats.append(NumberFormat(".", ",", prefix, suffix, lakhs=True))
    return list(dict.fromkeys(formats))
