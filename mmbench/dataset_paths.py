"""Paths given in place of a dataset's name: which of the installed datasets reads them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from mmbench.errors import UsageError, did_you_mean
from mmbench.spec import DatasetSpec

_FILE_NAME = re.compile(r"\.(csv|tsv|tab|txt|jsonl?|ndjson|parquet|pq|xlsx?|feather|arrow|zip|gz)$", re.IGNORECASE)
_MOST_NEIGHBORS = 10_000


def reader_of_path(
    specs: Sequence[DatasetSpec], path: str, ask: Callable[[DatasetSpec, str], bool]
) -> DatasetSpec | None:
    """Return the dataset that reads a file or a folder, or None where the text is no path.

    Args:
        specs: Of all datasets.
        path: What was given in place of a name.
        ask: Calls what a descriptor's `accepts` names; one that fails to answer does not read the path.

    Raises:
        UsageError: there is no such file or folder, no dataset reads it, or several do.
    """
    if not is_path(path):
        return None
    readers = [spec for spec in specs if spec.accepts]
    found = [spec for spec in readers if _answer(ask, spec, path)]
    if len(found) == 1:
        return found[0]
    if found:
        choices = " or ".join(f"{spec.name}:{path}" for spec in found)
        raise UsageError(f"several datasets read {path!r}; write {choices}")
    place = Path(path).expanduser()
    if not place.exists():
        raise UsageError(f"there is no file or folder {path!r}, and no dataset of that name.{_near(place)}")
    raise UsageError(
        f"{path!r} is there, but no installed dataset reads it (asked: {', '.join(spec.name for spec in readers)}). "
        "Give a table (.csv, .tsv, .jsonl or .parquet), a folder with one table, a folder of class folders, or what "
        "Hugging Face's library saved to disk"
    )


def is_path(text: str) -> bool:
    """Whether a reference is written as the path of a file or a folder."""
    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        return True
    try:
        return Path(text).expanduser().exists() or bool(_FILE_NAME.search(text))
    except (OSError, ValueError, RuntimeError):
        return False


def _answer(ask: Callable[[DatasetSpec, str], bool], spec: DatasetSpec, path: str) -> bool:
    try:
        return bool(ask(spec, path))
    except Exception:
        return False


def _near(place: Path) -> str:
    parent = place.absolute().parent
    try:
        names = [item.name for item in itertools.islice(parent.iterdir(), _MOST_NEIGHBORS)]
    except OSError:
        return f" There is no folder {str(parent)!r} either."
    return did_you_mean(place.name, names)
