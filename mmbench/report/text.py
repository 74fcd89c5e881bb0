"""Text and numbers as people read them; what came from a plugin or a dataset is cleaned before it is shown."""

# ruff: noqa: RUF002  (the dash is what is shown)

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from mmbench.redaction import short_paths

#: Longest name, and longest reason, that a table shows.
MAX_NAME = 80
MAX_REASON = 400

#: Columns of Markdown tables that hold words.
_WORDS = ("encoders", "fusion", "objective", "method", "disturbance", "class", "label", "subgroup")
_MARKDOWN = re.compile(r"([\\`*_\[|~$])")


def clean(text: str, limit: int = MAX_REASON) -> str:
    r"""Return text on one line: control and direction marks made visible, spaces joined, cut at `limit` characters.

    >>> clean("two\nlines\x1b[31m \u202egnirts")
    'two lines�[31m �gnirts'
    >>> clean("0123456789", 6)
    '01234…'
    """
    # Cut before the work: a plugin may hand over megabytes.
    text = text[: 4 * limit + 16]
    shown = "".join(_visible(character) for character in text)
    shown = " ".join(shown.split())
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def visible(text: str) -> str:
    r"""Return a piece of a text with its spaces, control and direction marks made visible, lines joined.

    >>> visible(" two\nlines \u202e")
    ' two lines �'
    """
    return "".join(map(_visible, text))


def named(text: str, limit: int = MAX_NAME) -> str:
    """Return the name of a part cleaned, with the folders of a path in it left out but for the last.

    >>> named("image:timm:local-dir:/home/me/weights/lite0[tuning=adapter]+text:gru"), named("manifest:/a/b/c.csv")
    ('image:timm:local-dir:…/weights/lite0[tuning=adapter]+text:gru', 'manifest:…/b/c.csv')
    """
    return clean(short_paths(text[:4096]), limit)


def markdown(text: str, limit: int = MAX_REASON) -> str:
    """Return text that a GitHub table shows as it is: no markup, no HTML, no new column, no new line.

    >>> markdown("a|b <script> [x](y) _z_")
    'a\\\\|b &lt;script&gt; \\\\[x](y) \\\\_z\\\\_'
    """
    return html.escape(_MARKDOWN.sub(r"\\\1", clean(text, limit)), quote=False)


def number(value: float | None, digits: int = 3) -> str:
    """Return a score with `digits` decimals below ten, fewer above; "–" for None.

    >>> number(0.96249), number(-0.1), number(12.3456), number(1234.5), number(None)
    ('0.962', '-0.100', '12.35', '1234', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size and size < 10 ** -(digits + 1):
        return f"{value:.{digits - 1}e}"
    decimals = digits if size < 10 else max(digits - 1, 0) if size < 100 else 1 if size < 1000 else 0
    return f"{value:.{decimals}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """Return a difference with its sign.

    >>> signed(0.0512), signed(-0.2), signed(-2e-17), signed(None)
    ('+0.051', '-0.200', '+0.000', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    value = value if abs(value) > 1e-14 else 0.0  # what rounding left of a difference of nothing
    return number(value, digits) if value < 0 else f"+{number(value, digits)}"


def p_value(value: float | None) -> str:
    """Return a p-value with four decimals.

    >>> p_value(0.0312), p_value(2e-7), p_value(None)
    ('0.0312', '< 0.0001', '–')
    """
    return "–" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def seconds(value: float | None) -> str:
    """Return a time in the unit that suits it.

    >>> seconds(0.00042), seconds(0.0123), seconds(2.5), seconds(75), seconds(None)
    ('420 µs', '12.3 ms', '2.50 s', '75.0 s', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if abs(value) * factor >= 1 or unit == "µs":
            return f"{_three(value * factor)} {unit}"
    raise AssertionError


def duration(value: float) -> str:
    """Return a time span as people say it.

    >>> duration(40), duration(150), duration(7300)
    ('40 s', '2 min 30 s', '2 h 1 min')
    """
    whole = round(value)
    if whole < 90:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def amount(value: float | None) -> str:
    """Return a count with k, M, G or T.

    >>> amount(950), amount(12_345), amount(2.5e6), amount(None)
    ('950', '12.3 k', '2.50 M', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    for factor, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{_three(value / factor)}{unit}"
    return f"{value:.0f}" if value == round(value) else _three(value)


def size_bytes(value: float | None) -> str:
    """Return a size in binary units.

    >>> size_bytes(512), size_bytes(3 * 2**20), size_bytes(None)
    ('512 B', '3.00 MiB', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    for factor, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(value) >= factor:
            return f"{_three(value / factor)} {unit}"
    return f"{value:.0f} B"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> counted(1, "cell"), counted(3, "seed"), counted(2, "entry")
    ('1 cell', '3 seeds', '2 entries')
    """
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("ry") else f"{count} {noun}s"


def table_lines(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a GitHub table of cells that are already escaped; numbers stand on the right."""
    yield f"| {' | '.join(heads)} |"
    yield "|" + "|".join(" --- " if head in _WORDS else " ---: " for head in heads) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _three(value: float) -> str:
    """Three significant digits, never an exponent."""
    size = abs(value)
    return f"{value:.2f}" if size < 9.995 else f"{value:.1f}" if size < 99.95 else f"{value:.0f}"


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    category = unicodedata.category(character)
    if category.startswith("Z") or character in "\t\n\r\v\f\x85":
        return " "
    # Joiners belong to the scripts that need them; direction marks, controls and surrogates do not.
    return character if character in "\u200c\u200d" else "\ufffd"
