"""Taking secrets out of what is written down: passwords in addresses, tokens, and webhooks, which are secrets whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "…"
#: Options, and keys of a configuration, whose values may hold the address of a service with its secret in the path.
_SERVICES = ("tracker", "executor")
_USER = re.compile(r"(\w[\w+.-]*://)[^/?#\s]*@")
_SECRET_NAME = r"(?:[a-z0-9]+[-_])*(?:token|secret|password|passwd|api[-_]?key|access[-_]?key|credentials?|signature)"
_SECRET = re.compile(rf"(?i)(?<![\w-])((?:--)?{_SECRET_NAME}[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,\]&;#]+)")
_SECRET_OPTION = re.compile(rf"(?i)--{_SECRET_NAME}")
_SERVICE_SECRET = re.compile(r"(?i)(?<![\w-])((?:key|auth|user|login)\s*=\s*)(\"[^\"]*\"|'[^']*'|[^\s,\]]+)")
_SERVICE_PATH = re.compile(r"(\w[\w+.-]*://[^/?#\s,\]\"']+)[/?#][^\s,\]\"']*")
#: Tokens that services give out, and addresses of webhooks, by their form alone.
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|sk-[\w-]{16,}"
    r"|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*)"
)
_WEBHOOK = re.compile(
    r"(https?://(?:hooks\.[\w.-]+|discord(?:app)?\.com|[\w.-]*webhook[\w.-]*|api\.telegram\.org)(?::\d+)?)/[^\s,\]\"']+"
)


#: An absolute path: not the path of an address, and not the rest of a relative one.
_PATH = re.compile(
    r"(?:(?<=file://)|(?<=\w/)(?=/)|(?<![\w.…/\\~-]))(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\'\"<>|:;,\[\]+=()]+){2,}"
)
_HOMES = ("home", "users")
_KEPT_PARTS = 2


def short_paths(text: str) -> str:
    """Return a text with absolute paths in it cut to their last two parts, and none of the name of a user's home.

    Paths are of no use on another machine, and may tell a reader who ran mmbench.

    >>> short_paths("manifest:/srv/me/study/data.csv[label=y]"), short_paths("cannot open /home/me/x.bin")
    ('manifest:…/study/data.csv[label=y]', 'cannot open …/x.bin')
    >>> short_paths("https://example.org/a/b/c results/a/b/c /tmp/x")
    'https://example.org/a/b/c results/a/b/c /tmp/x'
    """
    return _PATH.sub(_short_path, text)


def _short_path(found: re.Match[str]) -> str:
    parts = re.split(r"[/\\]", found.group())[1:]
    in_home = parts[0].lower() in _HOMES
    kept = parts[2 if in_home else 0 :][-_KEPT_PARTS:]
    if len(kept) == len(parts) and not found.group().startswith("~"):
        return found.group()
    return "/".join(("…", *kept))


def redacted(value: Any, *, service: bool = False) -> Any:
    """Return JSON data with the secrets in its texts left out.

    Args:
        value: Texts, lists and mappings.
        service: Whether it is the value of an option that names a service: then of an address only the host is kept.
    """
    if isinstance(value, str):
        return redacted_text(value, service=service)
    if isinstance(value, Mapping):
        return {
            key: REDACTED
            if isinstance(item, str) and item and re.fullmatch(rf"(?i){_SECRET_NAME}", str(key))
            else redacted(item, service=service or key in _SERVICES)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return _redacted_words(value, service)
    return value


def redacted_text(text: str, *, service: bool = False) -> str:
    """Return a text with the secrets in it left out.

    >>> redacted_text("webhook[url=https://me:pw@example.org/services/T0KEN]", service=True)
    'webhook[url=https://…@example.org/…]'
    """
    text = _USER.sub(rf"\1{REDACTED}@", text)
    text = _SECRET.sub(rf"\1{REDACTED}", text)
    text = _WEBHOOK.sub(rf"\1/{REDACTED}", _TOKEN.sub(REDACTED, text))
    if service:
        text = _SERVICE_PATH.sub(rf"\1/{REDACTED}", _SERVICE_SECRET.sub(rf"\1{REDACTED}", text))
    return text


def _redacted_words(words: list[Any] | tuple[Any, ...], service: bool) -> list[Any]:
    """Return a list, which may be a command: a word may belong to the option before it."""
    found: list[Any] = []
    before = ""
    for word in words:
        option = word.partition("=")[0] if isinstance(word, str) else ""
        is_service = any(name in (before, option) for name in (f"--{item}" for item in _SERVICES))
        if isinstance(word, str) and _SECRET_OPTION.fullmatch(before):
            found.append(REDACTED)
        else:
            found.append(redacted(word, service=service or is_service))
        before = word if isinstance(word, str) else ""
    return found
