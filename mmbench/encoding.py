"""Text for streams of any encoding: what a stream cannot show becomes ASCII, and JSON stays exact."""

from __future__ import annotations

import codecs
import io
import json
import re
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
#: ECMA-48: control sequences, then strings that an operating system command (a link, a title) carries, then the rest.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])?")
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
_JSON_UNPRINTABLE = re.compile("[\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def ascii_text(text: str) -> str:
    """Return ASCII that stands for a text: signs by their stand-ins, letters without accents, the rest as escapes.

    >>> ascii_text("café 1 ± 2 …"), ascii_text("日")
    ('cafe 1 +- 2 ...', '\\\\u65e5')
    """
    return "".join(character if character.isascii() else _stand_in(character) for character in text)


def printable(text: str) -> str:
    r"""Return a text without escape sequences, control characters and marks that change the direction of writing.

    Line ends and tabs stay. Everything that mmbench writes passes through here: names and messages may come from a
    stranger's file, plugin or server, and a terminal obeys what is in them.

    >>> printable("a\x1b[31mb\x1b]8;;https://example.org\x07c\x1b]8;;\x07\u202ed\x9b31me\r\n")
    'abcd31me\n'
    """
    if text.isascii() and text.isprintable():
        return text
    return _UNPRINTABLE.sub("", _ESCAPE.sub("", text))


def use_safe_streams() -> None:
    """Make stdout and stderr write ASCII for the characters that their encodings lack, instead of raising."""
    codecs.register_error(_HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def json_text(data: Any, *, indent: int | None = 2, default: Any = None) -> str:
    """Return JSON for stdout: characters as they are in a Unicode encoding, else as escapes that parse to them."""
    name = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = json.dumps(data, indent=indent, ensure_ascii=not name.lower().startswith("utf"), default=default)
    # A terminal obeys these; as escapes they parse to the same.
    return _JSON_UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def parse_json(text: str | bytes) -> Any:
    """Return the JSON data of an untrusted file.

    Raises:
        ValueError: it is no JSON, or is nested more deeply than Python reads.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return ascii_text(error.object[error.start : error.end]), error.end


def _stand_in(character: str) -> str:
    plain = STAND_INS.get(character) or "".join(filter(str.isascii, unicodedata.normalize("NFKD", character)))
    return plain or character.encode("ascii", "backslashreplace").decode()
