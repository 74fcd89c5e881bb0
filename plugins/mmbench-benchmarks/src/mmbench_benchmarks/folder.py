"""The folder that a published dataset lies in: where it is, what it lacks, and safe reading of its small files."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench_datasets.paths import SafeFolder

from mmbench.config import data_dir, part_root
from mmbench.errors import DataError, Unavailable

_MOST_ANNOTATION_BYTES = 4 << 30
_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a person must know to get a dataset.

    Attributes:
        name: Of the dataset in mmbench.
        title: As its paper writes it.
        origin: Where to get it.
        layout: What to put where, as the end of "put …".
    """

    name: str
    title: str
    origin: str
    layout: str


class Folder:
    """A dataset's folder.

    Args:
        published: Which dataset.
        target: What the user wrote after the name: a folder, or a file in it; "" takes `root`.
        root: The folder that the core gives the dataset; None asks for it.
    """

    def __init__(self, published: Published, target: str = "", root: Path | None = None) -> None:
        self.published = published
        self.asked = Path(target).expanduser() if target else root or default_root(published.name)
        if target and not _exists(self.asked):
            raise self.unavailable("there is nothing at that path")
        #: The file that was named, if a file was named.
        self.file = self.asked.name if self.asked.is_file() else ""
        self.root = (self.asked.parent if self.file else self.asked).resolve()
        self._safe = SafeFolder(self.root, f"the folder of {published.title}")

    def unavailable(self, lacking: str) -> Unavailable:
        """Return the error that says what is lacking, where to get it and what to put where."""
        known = self.published
        return Unavailable(
            f"{known.title} is not at {self.asked}: {lacking}. Get it from {known.origin}; put {known.layout} into "
            f"that folder, or name another with {known.name}:PATH"
        )

    def require(self, *paths: str) -> None:
        """Raise `Unavailable` unless all these files or folders are there."""
        absent = [path for path in paths if not (self.root / path).exists()]
        if absent:
            raise self.unavailable(f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not there")

    def first(self, *paths: str) -> str:
        """Return the first of these files or folders that is there, or "" when none is."""
        return next((path for path in paths if (self.root / path).exists()), "")

    def status(self, path: str, where: str) -> os.stat_result | None:
        """Return a file's status; None where it is not there. See `SafeFolder.status` for what is refused."""
        return self._safe.status(path, where)

    def statuses(self, files: Sequence[tuple[str, str]]) -> dict[str, os.stat_result]:
        """Return the status of every file, given with the place that names it.

        Raises:
            DataError: some are not there, or lie outside the folder.
        """
        found: dict[str, os.stat_result] = {}
        absent: dict[str, str] = {}
        for path, where in files:
            if path in found or path in absent:
                continue
            status = self.status(path, where)
            if status is None:
                absent[path] = where
            else:
                found[path] = status
        if absent:
            first = ", ".join(f"{path!r} ({where})" for path, where in list(absent.items())[:_MOST_NAMED])
            raise DataError(
                f"{self.published.title} at {self.root} lacks {len(absent):,} of {len(found) + len(absent):,} files: "
                f"{first}{', …' if len(absent) > _MOST_NAMED else ''}; unpack its archives whole"
            )
        return found

    def walk(self, start: str = "", *endings: str) -> list[str]:
        """Return all files below a folder that end so, as sorted relative paths; linked folders are not entered."""
        found = []
        for folder, _, names in os.walk(self.root / start):
            below = os.path.relpath(folder, self.root)
            prefix = "" if below == "." else f"{below}/".replace(os.sep, "/")
            found += [f"{prefix}{name}" for name in names if name.lower().endswith(endings)]
        return sorted(found)

    def text(self, path: str) -> str:
        """Read a text file.

        Raises:
            Unavailable: it is not there.
            DataError: it lies outside the folder, is no UTF-8, or has more than 4 GiB.
        """
        self.require(path)
        status = self.status(path, self.published.title)
        if status is None:
            raise DataError(f"{path} is no file; {self.published.title} has one of that name")
        if status.st_size > _MOST_ANNOTATION_BYTES:
            raise DataError(f"{path} has {status.st_size:,} bytes, too many for annotations; get the file again")
        try:
            return (self.root / path).read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 (byte {error.start}); get the file again") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror or error}); see to its permissions") from None

    def lines(self, path: str) -> list[str]:
        """Read the lines of a text file that are not blank."""
        return [line.strip() for line in _lines(self.text(path)) if line.strip()]

    def json(self, path: str) -> Any:
        """Read a JSON file.

        Raises:
            DataError: it is none.
        """
        try:
            return json.loads(self.text(path))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path} is no readable JSON ({str(error)[:200]}); get the file again") from None

    def json_lines(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the place and the object of every line of a JSON Lines file."""
        for number, line in enumerate(_lines(self.text(path)), start=1):
            if not line.strip():
                continue
            where = f"{path} line {number}"
            try:
                item = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where} is no readable JSON ({str(error)[:200]}); get the file again") from None
            if not isinstance(item, dict):
                raise DataError(f"{where} holds {type(item).__name__}, not an object; get the file again")
            yield where, item

    def csv(self, path: str, *, num_columns: int) -> list[tuple[str, list[str]]]:
        """Return the place and the cells of every row of a CSV file, its header included.

        Raises:
            DataError: a row has fewer cells than `num_columns`, or the file is no CSV.
        """
        rows = []
        reader = csv.reader(io.StringIO(self.text(path), newline=""), strict=True)
        try:
            for cells in reader:
                if not cells:
                    continue
                where = f"{path} line {reader.line_num}"
                if len(cells) < num_columns:
                    raise DataError(f"{where} has {len(cells)} cells where {num_columns} are due; get the file again")
                rows.append((where, cells))
        except csv.Error as error:
            raise DataError(f"{path} line {reader.line_num} is no well-formed CSV ({error}); get it again") from None
        return rows


def _lines(text: str) -> list[str]:
    """Return lines as files end them: `splitlines` would divide texts at U+2028 and the like, too."""
    return text.replace("\r\n", "\n").split("\n")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long for the file system, or with a NUL in it
        return False


def default_root(name: str) -> Path:
    """Return the folder that the core gives a dataset of this package."""
    return part_root(data_dir(), f"mmbench-benchmarks/{name}")


def field(item: Any, key: str, kind: type[Any] | tuple[type[Any], ...], where: str) -> Any:
    """Return a value of a JSON object.

    Raises:
        DataError: it is not there, or of another type.
    """
    if not isinstance(item, dict) or not isinstance(item.get(key), kind):
        names = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        got = type(item.get(key)).__name__ if isinstance(item, dict) else type(item).__name__
        raise DataError(f"{where}: {key!r} must be {names}, got {got}; get the file again")
    return item[key]
