"""Arrays kept on disk under a content key: memory-mapped, checked on read, safe with many writers."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

_FORMAT = 1


class ArrayCache:
    """A folder of entries, each a set of named arrays.

    An entry is written beside its place and moved there whole, so a reader sees all of it or nothing. Its manifest
    holds a checksum of every array; an entry that does not match is made again.

    Args:
        root: The folder; made when needed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, key: str) -> dict[str, NDArray[Any]] | None:
        """Return the arrays of an entry, or None when it is not there or is damaged."""
        folder = self._folder(key)
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            if manifest["format"] != _FORMAT:
                return None
            arrays: dict[str, NDArray[Any]] = {}
            for name, entry in manifest["arrays"].items():
                # An empty file cannot be mapped.
                mode: Literal["r"] | None = "r" if 0 not in entry["shape"] else None
                array = np.load(folder / entry["file"], mmap_mode=mode, allow_pickle=False)
                if [list(array.shape), str(array.dtype), _checksum(array)] != [
                    entry["shape"],
                    entry["dtype"],
                    entry["crc32"],
                ]:
                    return None
                arrays[name] = array
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return arrays

    def put(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store the arrays of an entry, replacing what was there."""
        folder = self._folder(key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
        try:
            entries: dict[str, Any] = {}
            for number, (name, array) in enumerate(arrays.items()):
                file = f"{number}.npy"
                with (temporary / file).open("wb") as stream:
                    np.save(stream, array, allow_pickle=False)
                    stream.flush()
                    os.fsync(stream.fileno())
                entries[name] = {
                    "file": file,
                    "shape": list(array.shape),
                    "dtype": str(array.dtype),
                    "crc32": _checksum(array),
                }
            text = json.dumps({"format": _FORMAT, "key": key, "arrays": entries})
            (temporary / "manifest.json").write_text(text)
            if folder.exists():
                shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def get_or_make(self, key: str, make: Callable[[], Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """Return an entry, making it once however many processes ask for it at the same time."""
        found = self.get(key)
        if found is not None:
            return found
        folder = self._folder(key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            found = self.get(key)
            if found is not None:
                return found
            self.put(key, make())
            found = self.get(key)
        if found is None:
            raise OSError(f"the cache entry {folder} cannot be read back; is the disk full or failing?")
        return found

    def _folder(self, key: str) -> Path:
        folder = (self.root / key).resolve()
        if not folder.is_relative_to(self.root.resolve()):
            raise ValueError(f"cache key {key!r} leaves the cache folder")
        return folder


def _checksum(array: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data) if array.size else 0
