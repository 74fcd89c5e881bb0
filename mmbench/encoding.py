"""Text for streams of any encoding: what a stream cannot show becomes ASCII, and JSON stays exact."""

from __future__ import annotations

import codecs
import io
import json
import sys
import unicodedata
from collections.abc import Mapping
from typing import Any

#: ASCII for the characters that tables and messages of mmbench contain.
STAND_INS: Mapping[str, str] = {
    "…": "...", "±": "+-", "×": "x", "÷": "/", "·": ".", "•": "*", "°": " deg", "µ": "u", "μ": "u", "−": "-",
    "–": "-", "—": "-", "‐": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "↑": "^", "↓": "v", "→": "->", "←": "<-",
    "↔": "<->", "≤": "<=", "≥": ">=", "≈": "~", "≠": "!=", "∞": "inf", "Δ": "d", "✓": "+", "✗": "x", "ß": "ss",
    "─": "-", "━": "-", "╸": "-", "╺": "-", "│": "|", "█": "#", "▏": "|", "▎": "|", "▍": "|", "▌": "#", "▋": "#",
    "▊": "#", "▉": "#", "░": ".", "▒": ":", "▓": "#",
}  # fmt: skip
_HANDLER = "mmbench_ascii"


def ascii_text(text: str) -> str:
    """Return ASCII that stands for a text: signs by their stand-ins, letters without accents, the rest as escapes.

    >>> ascii_text("café 1 ± 2 …"), ascii_text("日")
    ('cafe 1 +- 2 ...', '\\\\u65e5')
    """
    return "".join(character if character.isascii() else _stand_in(character) for character in text)


def use_safe_streams() -> None:
    """Make stdout and stderr write ASCII for the characters that their encodings lack, instead of raising."""
    codecs.register_error(_HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def json_text(data: Any, *, indent: int | None = 2, default: Any = None) -> str:
    """Return JSON for stdout: characters as they are in a Unicode encoding, else as escapes that parse to them."""
    name = getattr(sys.stdout, "encoding", None) or "utf-8"
    return json.dumps(data, indent=indent, ensure_ascii=not name.lower().startswith("utf"), default=default)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return ascii_text(error.object[error.start : error.end]), error.end


def _stand_in(character: str) -> str:
    plain = STAND_INS.get(character) or "".join(filter(str.isascii, unicodedata.normalize("NFKD", character)))
    return plain or character.encode("ascii", "backslashreplace").decode()
