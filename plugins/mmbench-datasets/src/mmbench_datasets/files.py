"""The files that a table names: found under the spelling on disk, below the table's folder, each a regular file."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmbench.errors import DataError
from mmbench_datasets.paths import SafeFolder
from mmbench_datasets.sniff import HEAD_BYTES, Format, sniff

_QUOTES = "'\"`"


class TableFiles:
    """Finds files by what cells write.

    Args:
        root: The folder that paths start from.
        called: What messages call it.
    """

    def __init__(self, root: Path, called: str) -> None:
        self.root = root.resolve()
        self._beginnings = tuple(dict.fromkeys(f"{os.path.abspath(folder)}{os.sep}" for folder in (root, self.root)))  # noqa: PTH100
        self._folder = SafeFolder(self.root, called)
        self._listings: dict[str, dict[str, str]] = {}
        #: What `os.stat` said of every file found, by relative path.
        self.statuses: dict[str, os.stat_result] = {}
        #: Cells that name a file in another spelling than the disk has, by cell.
        self.respelt: dict[str, str] = {}

    def find(self, cell: str, where: str) -> str | None:
        """Return the relative path of the file that a cell names, or None where there is none.

        A cell may write it with blanks or quotes around, as an absolute path below the folder, with backslashes, with
        a query ("a.png?v=2") or in another Unicode form, where that names a file and the cell as it stands does not.

        Raises:
            DataError: the path leads out of the folder.
        """
        problem: DataError | None = None
        for path in _spellings(cell, self._beginnings):
            if path in self.statuses:
                return self._found(cell, path)
            try:
                status = self._folder.status(path, where)
            except DataError as error:
                problem = problem or error
                continue
            if status is not None:
                self.statuses[path] = status
                return self._found(cell, path)
        if problem is not None:
            raise problem
        path = self._other_form(cell.strip())
        status = self._folder.status(path, where) if path else None
        if status is None:
            return None
        self.statuses[path] = status
        return self._found(cell, path)

    def named_by(self, sources: Sequence[Any]) -> dict[str, os.stat_result]:
        """Return what `os.stat` said of the files that some sources name, by relative path."""
        return {path: self.statuses[path] for source in sources for path in source.paths if path}

    def kind(self, path: str) -> str:
        """Return the kind of a file by its content: of media, "array" for NumPy's, or "" for anything else."""
        found = self._format(path)
        return found.kind or ("array" if found.name == "NumPy" else "")

    def format_name(self, path: str) -> str:
        """Return the format of a file by its content, "" for an unknown one."""
        return self._format(path).name

    def _format(self, path: str) -> Format:
        try:
            with (self.root / path).open("rb") as stream:
                return sniff(stream.read(HEAD_BYTES))
        except OSError:
            return Format("")

    def similar(self, cell: str) -> str:
        """Return a file name beside the one that a cell names which differs in case only, or ""."""
        folder, name = os.path.split(cell.strip())
        return next((found for found in self._names(folder).values() if found.casefold() == name.casefold()), "")

    def _found(self, cell: str, path: str) -> str:
        if path != cell.strip():
            self.respelt[cell] = path
        return path

    def _other_form(self, path: str) -> str:
        """Return the path whose parts are the same text as those of another in Unicode's form NFC, or ""."""
        if path.isascii() or path.startswith(("/", "~")) or ".." in path:
            return ""
        found = ""
        for part in path.split("/"):
            name = self._names(found).get(unicodedata.normalize("NFC", part))
            if name is None:
                return ""
            found = f"{found}/{name}" if found else name
        return found

    def _names(self, folder: str) -> dict[str, str]:
        """Return the names in a folder below the root, by their form NFC."""
        if folder not in self._listings:
            try:
                self._folder.check(folder, "")
                names = [entry.name for entry in (self.root / folder).iterdir()]
            except (OSError, ValueError, DataError):
                names = []
            self._listings[folder] = {unicodedata.normalize("NFC", name): name for name in names}
        return self._listings[folder]


def _spellings(cell: str, beginnings: Sequence[str]) -> Iterator[str]:
    """Yield what a cell may mean as a relative path, as it stands first."""
    stripped = cell.strip()
    yield stripped
    if cell != stripped:
        yield cell
    if stripped.startswith(beginnings):
        yield next(stripped.removeprefix(begin) for begin in beginnings if stripped.startswith(begin))
    bare = stripped.strip(_QUOTES).strip()
    if bare != stripped:
        yield bare
    if "\\" in bare and ":" not in bare and not bare.startswith("\\"):
        yield bare.replace("\\", "/")
    if "?" in bare and "://" not in bare:
        yield bare.split("?", 1)[0]
