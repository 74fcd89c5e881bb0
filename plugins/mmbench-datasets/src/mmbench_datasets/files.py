"""The files that a table names: found under the spelling on disk, below the table's folder, each a regular file."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mmbench.errors import DataError
from mmbench_datasets.paths import SafeFolder
from mmbench_datasets.sniff import Format, read_format

_QUOTES = "'\"`"
_LONGEST_PATH, _MOST_FOLDERS = 1024, 50


class TableFiles:
    """Finds files by what cells write.

    Args:
        root: The folder that paths start from.
        called: What messages call it.
        table_folder: The folder of the table, where it is another one: "../img/1.png" starts from it.
    """

    def __init__(self, root: Path, called: str, table_folder: Path | None = None) -> None:
        self.root = root.resolve()
        self._table_folder = table_folder.resolve() if table_folder and table_folder.resolve() != self.root else None
        self._beginnings = tuple(dict.fromkeys(f"{os.path.abspath(folder)}{os.sep}" for folder in (root, self.root)))  # noqa: PTH100
        self._folder = SafeFolder(self.root, called)
        self._listings: dict[str, dict[str, str]] = {}
        self._stems: dict[str, dict[str, str]] = {}
        #: What `os.stat` said of every file found, by relative path.
        self.statuses: dict[str, os.stat_result] = {}
        #: Cells that name a file in another spelling than the disk has, by cell.
        self.respelt: dict[str, str] = {}

    def find(self, cell: str, where: str) -> str | None:
        """Return the relative path of the file that a cell names, or None where there is none.

        A cell may write it with blanks or quotes around, as an absolute path below the folder, with backslashes, with
        a query ("a.png?v=2"), with percent signs ("a%20b.png") or in another Unicode form, where that names a file and
        the cell as it stands does not.

        Raises:
            DataError: the path leads out of the folder.
        """
        problem: DataError | None = None
        for path in self._spellings(cell):
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
            above = "" if "://" in cell or ":\\" in cell else ", or name a folder above it by [root=FOLDER]"
            raise DataError(f"{problem}{above}")
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
        return read_format(self.root / path)

    def similar(self, cell: str) -> str:
        """Return a path that a cell may mean: another case, another ending, or in one of the folders; "" for none."""
        path = cell.strip().strip(_QUOTES).replace("\\", "/").lstrip("/").removeprefix("./")
        if not path or ".." in path or "://" in path or len(path) > _LONGEST_PATH:
            return ""
        folder, name = os.path.split(path)
        for beside in dict.fromkeys((folder, self._other_case(folder))):
            same = [found for found in self._names(beside).values() if found.casefold() == name.casefold()]
            if same:
                return os.path.join(beside, same[0])  # noqa: PTH118
        return self.with_ending(os.path.splitext(path)[0]) or self._below(path)  # noqa: PTH122

    def with_ending(self, cell: str) -> str:
        """Return the only path that is a cell with an ending, "" where there is none or several are."""
        folder, name = os.path.split(cell.strip())
        if not name or folder.startswith(("/", "~")) or ".." in folder:
            return ""
        if folder not in self._stems:
            stems = self._stems[folder] = {}
            for found in self._names(folder).values():
                stem = unicodedata.normalize("NFC", os.path.splitext(found)[0])  # noqa: PTH122
                stems[stem] = "" if stem in stems else found
        found = self._stems[folder].get(unicodedata.normalize("NFC", name), "")
        path = os.path.join(folder, found) if found and found != name else ""  # noqa: PTH118
        return path if path and (self.root / path).is_file() else ""

    def _other_case(self, folder: str) -> str:
        """Return the folder whose parts differ from those of another in case only, "" for none."""
        found = ""
        for part in folder.split("/") if folder else []:
            same = [name for name in self._names(found).values() if name.casefold() == part.casefold()]
            if not same:
                return ""
            found = f"{found}/{same[0]}" if found else same[0]
        return found

    def _below(self, path: str) -> str:
        """Return a file of that path below one of the first folders of the root, "" for none."""
        for name in list(self._names("").values())[:_MOST_FOLDERS]:
            below = f"{name}/{path}"
            if (self.root / below).is_file():
                return below
        return ""

    def _spellings(self, cell: str) -> Iterator[str]:
        """Yield what a cell may mean as a relative path, as it stands first."""
        yield from _spellings(cell, self._beginnings)
        path = cell.strip().strip(_QUOTES)
        if self._table_folder and not path.startswith(("/", "~")) and "\0" not in path:
            full = os.path.normpath(os.path.join(self._table_folder, path))  # noqa: PTH118
            if full.startswith(f"{self.root}{os.sep}"):
                yield full.removeprefix(f"{self.root}{os.sep}")

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
    if "%" in bare and "://" not in bare:
        yield unquote(bare)
