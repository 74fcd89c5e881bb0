"""Arrays kept on disk under a content key: memory-mapped, checked on read, safe with many writers, bounded."""

from __future__ import annotations

import errno
import io
import json
import math
import mmap
import os
import re
import shutil
import stat
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock, Timeout

from mmbench.encoding import parse_json
from mmbench.errors import DiskError

if TYPE_CHECKING:  # imported where arrays are: a command that reads text alone does without
    import numpy as np
    from numpy.typing import NDArray

Content = TypeVar("Content")
_FORMAT = 2
_MANIFEST = "manifest.json"
_WRITING = ".writing-"
_REMOVING = ".removing-"
_ENCODING = ".encoding-"
_ARRAY_FILE = re.compile(r"\d+\.npy")
#: A hidden folder of ours, as `tempfile` names it, and what it was made for.
_OURS = re.compile(rf"(?:{re.escape(_WRITING)}|{re.escape(_REMOVING)})(.+)-[a-z0-9_]{{8}}")
_OUR_SCRATCH = re.compile(rf"{re.escape(_ENCODING)}[a-z0-9_]{{8}}")
_SCRATCH_FILES = ("train", "val", "test")
#: The lock of an entry: keys end with a digest.
_LOCK = re.compile(r"\.(.*[0-9a-f]{16})\.lock")
#: What may be mapped: booleans, numbers and text. Bytes of a file taken for Python objects would be pointers.
_DTYPE = re.compile(r"[<>|=]?[biufcSU]\d{1,9}")
_LARGEST_MANIFEST = 64 << 20
_LARGEST_TEXT = 64 << 20
#: How exactly the cache knows when an entry was last read.
_TOUCH_EVERY_S = 60.0
#: After this long, what a killed process left half written belongs to nobody.
_LEFTOVER_AFTER_S = 3600.0
#: A place may be taken, or a folder without entries removed, by another process between two of our steps.
_TRIES = 100


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """What lies in a cache under one key.

    Attributes:
        key: As it was stored, "column/3f…/9c…".
        size_bytes: Of its files.
        used_at: When it was last written or read, to the minute, in seconds since 1970.
    """

    key: str
    size_bytes: int
    used_at: float

    @property
    def sort(self) -> str:
        """What it is: the beginning of its key, such as "index", "column" or "features"."""
        return self.key.partition("/")[0]


@dataclass(frozen=True, kw_only=True)
class Trimmed:
    """What `ArrayCache.trim` removed, what it left, and what it wanted to remove but found in use."""

    removed: tuple[CacheEntry, ...]
    kept: tuple[CacheEntry, ...]
    busy: tuple[CacheEntry, ...] = ()


class ArrayCache:
    """A folder of entries, each a set of named arrays.

    An entry is written beside its place and moved there whole, so a reader sees all of it or nothing. Its manifest
    holds a checksum of every file and one of itself; an entry that does not match is made again. An entry that is
    replaced or removed stays readable for whoever has mapped it.

    Args:
        root: The folder; made when needed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, key: str) -> dict[str, NDArray[Any]] | None:
        """Return the arrays of an entry, or None when it is not there, is damaged or of another format."""
        return self._read(key, _read)

    def get_text(self, key: str) -> str | None:
        """Return the text of an entry that `put_text` stored, or None as `get` does; imports no NumPy."""
        return self._read(key, _read_text)

    def put_text(self, key: str, text: str) -> None:
        """Store a text as an entry, replacing what was there.

        Raises:
            DiskError: the folder cannot be written; nothing of the entry is left.
        """
        import numpy as np

        self.put(key, {"text": np.frombuffer(text.encode(), np.uint8)})

    def _read(self, key: str, read: Callable[[int, str], Content]) -> Content | None:
        folder = self._folder(key)
        try:
            opened = os.open(folder, os.O_RDONLY)
        except OSError:
            return None
        # Everything is opened from this one folder, though another process may put a new entry in its place meanwhile.
        try:
            content = read(opened, key)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None
        finally:
            os.close(opened)
        _touch(folder / _MANIFEST)
        return content

    def put(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store the arrays of an entry, replacing what was there.

        Raises:
            DiskError: the folder cannot be written; nothing of the entry is left.
            TypeError: an array holds Python objects.
        """
        folder = self._folder(key)
        try:
            temporary = _beside(folder, _WRITING)
            try:
                _write(temporary, key, arrays)
                _move_into_place(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        except OSError as error:
            size = sum(array.nbytes for array in arrays.values())
            raise DiskError(
                f"the cache cannot keep {key} ({size / 2**20:.1f} MiB) under {self.root}: {error.strerror or error}. "
                "Make room, with `mmbench clean --cache` for example, or choose another folder with --cache or "
                "$MMBENCH_CACHE"
            ) from error

    def get_or_make(self, key: str, make: Callable[[], Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """Return an entry, making it once however many processes ask for it at the same time.

        Raises:
            DiskError: the folder cannot be written, or what was written cannot be read back.
        """
        found = self.get(key)
        if found is not None:
            return found
        self._check_can_open()
        folder = self._folder(key)
        lock = self._locked(folder)
        try:
            found = self.get(key)
            if found is not None:
                return found
            self.put(key, make())
            found = self.get(key)
        finally:
            lock.release()
        if found is None:
            raise DiskError(f"the cache entry {folder} cannot be read back; is the disk failing?")
        return found

    def _check_can_open(self) -> None:
        """Tell an entry that is not there from a process that may open no more files.

        Raises:
            OSError: no more files can be opened.
        """
        if self.root.is_dir():
            for descriptor in [os.open(self.root, os.O_RDONLY) for _ in range(2)]:
                os.close(descriptor)

    def entries(self) -> list[CacheEntry]:
        """Return the entries of the cache, the least recently used first.

        A folder is an entry if its manifest has our format, its own checksum and a key equal to the folder's path, and
        if nothing else is in it. Whatever other programs keep there is not looked at, and no link is followed.
        """
        found = []
        for folder, names, files in os.walk(self.root):
            names[:] = [name for name in names if not name.startswith(".")]
            if names or _MANIFEST not in files:
                continue
            key = Path(folder).relative_to(self.root).as_posix()
            with suppress(OSError):  # somebody removes it at this moment
                about = [Path(folder, file).lstat() for file in files if _is_ours(Path(folder, file))]
                if len(about) != len(files) or not _is_entry(Path(folder), key):
                    continue
                used_at = about[files.index(_MANIFEST)].st_mtime
                found.append(CacheEntry(key=key, size_bytes=sum(item.st_size for item in about), used_at=used_at))
        return sorted(found, key=lambda entry: (entry.used_at, entry.key))

    def trim(
        self, *, max_bytes: int | None = None, older_than_s: float | None = None, dry_run: bool = False
    ) -> Trimmed:
        """Remove entries, the least recently used first; never one that is being made.

        Args:
            max_bytes: Remove until no more than this is left; 0 removes everything.
            older_than_s: Remove what was not used for this long.
            dry_run: Only say what would be removed.
        """
        entries = self.entries()
        if not dry_run:
            self._sweep()
        now = time.time()
        left_bytes = sum(entry.size_bytes for entry in entries)
        removed, kept, busy = [], [], []
        for entry in entries:
            too_much = max_bytes is not None and left_bytes > max_bytes
            too_old = older_than_s is not None and now - entry.used_at > older_than_s
            if not (too_much or too_old):
                kept.append(entry)
            elif self._remove(entry, dry_run=dry_run):
                removed.append(entry)
                left_bytes -= entry.size_bytes
            else:
                busy.append(entry)
        return Trimmed(removed=tuple(removed), kept=tuple(kept), busy=tuple(busy))

    def _remove(self, entry: CacheEntry, *, dry_run: bool) -> bool:
        """Remove an entry unless it is being made, or was used since it was listed."""
        folder = self._folder(entry.key)
        if dry_run:
            return not _is_held(_lock_file(folder))
        lock = FileLock(_lock_file(folder))
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            return False
        try:
            if (folder / _MANIFEST).stat().st_mtime > entry.used_at:
                return False
            if folder.resolve() != self.root.resolve() / entry.key or not _is_entry(folder, entry.key):
                return False  # replaced since it was listed, by a link or by something that is not ours
            # Moved away first: a reader must not find half an entry, nor a half-removed one be taken for a whole.
            aside = _beside(folder, _REMOVING)
            try:
                folder.rename(aside / "entry")
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            _lock_file(folder).unlink(missing_ok=True)
        except OSError:
            return not folder.exists()
        finally:
            lock.release()
        self._remove_empty(folder.parent)
        return True

    def _sweep(self) -> None:
        """Remove what killed processes left behind."""
        for folder, names, files in os.walk(self.root):
            parent = Path(folder)
            for name in [name for name in names if name.startswith(".")]:
                names.remove(name)
                leftover, made_for = parent / name, _made_for(parent / name, at_root=parent == self.root)
                if made_for is not None and _is_old(leftover) and not _is_held(_lock_file(parent / made_for)):
                    shutil.rmtree(leftover, ignore_errors=True)
                    self._remove_empty(parent)
            for name in files:
                file, matched = parent / name, _LOCK.fullmatch(name)
                if matched is None or parent == self.root or (parent / matched.group(1)).exists():
                    continue
                if _is_empty_file(file) and _is_old(file) and not _is_held(file):
                    file.unlink(missing_ok=True)
                    self._remove_empty(parent)

    def _remove_empty(self, folder: Path) -> None:
        while folder != self.root and folder.is_relative_to(self.root):
            try:
                folder.rmdir()
            except OSError:  # not empty, or gone
                return
            folder = folder.parent

    def _locked(self, folder: Path) -> FileLock:
        """Return the lock of an entry, held."""
        for attempt in range(_TRIES):
            lock = FileLock(_lock_file(folder))
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                lock.acquire()
                return lock
            except OSError as error:
                # The folder may have been removed as empty at this moment.
                if not isinstance(error, FileNotFoundError) or attempt == _TRIES - 1:
                    raise DiskError(
                        f"the cache folder {self.root} cannot be written: {error.strerror or error}. "
                        "Choose another with --cache or $MMBENCH_CACHE"
                    ) from error
        raise AssertionError("unreachable")

    def _folder(self, key: str) -> Path:
        parts = key.split("/")
        if not all(parts) or any(part.startswith(".") or "\\" in part or "\0" in part for part in parts):
            raise ValueError(f"cache key {key!r} leaves the cache folder")
        return self.root.joinpath(*parts)


def _read(folder: int, key: str) -> dict[str, NDArray[Any]]:
    """Map the arrays of an entry whose folder is open.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError: something of it is
            missing, damaged or forged.
    """
    import numpy as np

    manifest = _current_manifest(folder, key)
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in manifest["arrays"].items():
        with _open(entry["file"], folder) as stream:
            if not _DTYPE.fullmatch(entry["dtype"]) or not all(
                type(side) is int and side >= 0 for side in entry["shape"]
            ):
                raise ValueError("no array of numbers")
            shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
            header = _header(shape, dtype)
            size = os.fstat(stream.fileno()).st_size
            if size != entry["size_bytes"] or size != len(header) + math.prod(shape) * dtype.itemsize:
                raise ValueError("a truncated file")
            if stream.read(len(header)) != header:
                raise ValueError("another header than its manifest has")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                if zlib.crc32(mapped) != entry["crc32"]:
                    raise ValueError("a damaged file")
            if 0 in shape:  # nothing can be mapped
                arrays[name] = np.empty(shape, dtype)
                continue
            arrays[name] = np.memmap(stream, dtype=dtype, mode="r", offset=len(header), shape=shape)
    return arrays


def _read_text(folder: int, key: str) -> str:
    """Return the text of an entry whose folder is open.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError: as `_read`, or it is no text.
    """
    entry = _current_manifest(folder, key)["arrays"]["text"]
    (size,) = entry["shape"]
    with _open(entry["file"], folder) as stream:
        if not 0 <= size <= os.fstat(stream.fileno()).st_size <= _LARGEST_TEXT:
            raise ValueError("a truncated file")
        content = stream.read()
    if entry["dtype"] != "|u1" or zlib.crc32(content) != entry["crc32"]:
        raise ValueError("no text, or a damaged file")
    return content[len(content) - size :].decode()


def _current_manifest(folder: int, key: str) -> dict[str, Any]:
    manifest = _read_manifest(_open(_MANIFEST, folder), key)
    if manifest["format"] != _FORMAT:
        raise ValueError("another format")
    return manifest


def _read_manifest(opened: io.BufferedReader, key: str) -> dict[str, Any]:
    """Return a manifest that has its checksum and is of the entry `key`, without the checksum.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError: it is none.
    """
    with opened as stream:
        text = stream.read(_LARGEST_MANIFEST)
    manifest: dict[str, Any] = parse_json(text)
    if manifest.pop("crc32") != _checksum_of(manifest) or manifest["key"] != key:
        raise ValueError("a damaged manifest, or that of another entry")
    if type(manifest["format"]) is not int:
        raise ValueError("no manifest of ours")
    return manifest


def _is_entry(folder: Path, key: str) -> bool:
    """Whether a folder is an entry of ours under this key, of this format or another."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        _read_manifest(_open(_MANIFEST, opened), key)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    finally:
        os.close(opened)
    return True


def _is_ours(file: Path) -> bool:
    """Whether a file may be part of an entry."""
    named = file.name == _MANIFEST or _ARRAY_FILE.fullmatch(file.name) is not None
    return named and file.is_file() and not file.is_symlink()


def _may_be_replaced(folder: Path) -> bool:
    """Whether nothing but files of an entry, whole or damaged, and hidden files lie in a folder.

    Another process may remove the entry meanwhile: what is gone is in nobody's way.
    """
    try:
        files = list(folder.iterdir())
    except FileNotFoundError:
        return True
    return all(
        _is_ours(file) or (file.name.startswith(".") and not file.is_dir()) or not os.path.lexists(file)
        for file in files
    )


def _made_for(folder: Path, *, at_root: bool) -> str | None:
    """Return the name of what a hidden folder of ours was made for, or None if it is not ours."""
    if folder.is_symlink():
        return None
    try:
        if at_root and _OUR_SCRATCH.fullmatch(folder.name):
            return folder.name if all(file.name in _SCRATCH_FILES for file in folder.iterdir()) else None
        matched = _OURS.fullmatch(folder.name)
        content = list(folder.iterdir())
        if len(content) == 1 and content[0].name == "entry" and not content[0].is_symlink():
            content = list(content[0].iterdir())  # an entry that was being removed
    except OSError:
        return None
    return matched.group(1) if matched and all(map(_is_ours, content)) else None


def _is_empty_file(path: Path) -> bool:
    try:
        return path.lstat().st_size == 0 and path.is_file() and not path.is_symlink()
    except OSError:
        return False


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Return the header of an npy file in C order."""
    import numpy as np

    header = io.BytesIO()
    description = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()


def _write(folder: Path, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    import numpy as np

    entries: dict[str, Any] = {}
    for number, (name, given) in enumerate(arrays.items()):
        array = np.asarray(given, order="C")
        if array.dtype.hasobject:
            raise TypeError(f"array {name!r} of cache entry {key} holds Python objects; give it a dtype of numbers")
        if not _DTYPE.fullmatch(array.dtype.str):
            raise TypeError(
                f"array {name!r} of cache entry {key} has dtype {array.dtype}; give it one of numbers or text"
            )
        header = _header(array.shape, array.dtype)
        data = array.reshape(-1).view(np.uint8).data if array.size else b""
        file = f"{number}.npy"
        # Written by hand, not by np.save: that one hides from a caller that the disk is full.
        _write_through(folder / file, header, data)
        entries[name] = {
            "file": file,
            "shape": list(array.shape),
            "dtype": array.dtype.str,
            "size_bytes": len(header) + array.nbytes,
            "crc32": zlib.crc32(data, zlib.crc32(header)),
        }
    manifest = {"format": _FORMAT, "key": key, "arrays": entries}
    text = json.dumps({**manifest, "crc32": _checksum_of(manifest)})
    _write_through(folder / _MANIFEST, text.encode())


def _write_through(file: Path, *parts: bytes | memoryview) -> None:
    with file.open("wb") as stream:
        for part in parts:
            stream.write(part)
        stream.flush()
        os.fsync(stream.fileno())


def _move_into_place(temporary: Path, folder: Path) -> None:
    """Rename a finished entry to its place; one that stands there is moved away whole and then removed."""
    replaced: list[Path] = []
    try:
        for _ in range(_TRIES):
            try:
                temporary.rename(folder)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            if folder.is_dir() and not folder.is_symlink() and not _may_be_replaced(folder):
                raise OSError(errno.ENOTEMPTY, f"{folder} holds files of another program")
            replaced.append(_beside(folder, _REMOVING))
            with suppress(FileNotFoundError):  # another writer was as quick
                folder.rename(replaced[-1] / "entry")
        temporary.rename(folder)
    finally:
        for aside in replaced:
            shutil.rmtree(aside, ignore_errors=True)


def _beside(folder: Path, prefix: str) -> Path:
    """Make a hidden folder of our own beside an entry's place."""
    for attempt in range(_TRIES):
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            return Path(tempfile.mkdtemp(prefix=f"{prefix}{folder.name}-", dir=folder.parent))
        except FileNotFoundError:  # the parent was removed as empty at this moment
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _open(name: str, folder: int) -> io.BufferedReader:
    if name != _MANIFEST and not _ARRAY_FILE.fullmatch(name):
        raise ValueError(f"{name!r} is no file of a cache entry")
    # Without waiting: a fifo would otherwise block the process until another one writes to it.
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{name!r} is no ordinary file")
    return os.fdopen(descriptor, "rb")


def _touch(manifest: Path) -> None:
    """Note that an entry was read, at most once a minute: removal goes by it."""
    with suppress(OSError):  # a cache that may only be read
        if time.time() - manifest.stat().st_mtime > _TOUCH_EVERY_S:
            os.utime(manifest)


def _lock_file(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


def _is_held(lock_file: Path) -> bool:
    """Whether another process holds a lock; a lock that has no file is not made for asking."""
    if not lock_file.exists():
        return False
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


def _is_old(path: Path) -> bool:
    """Whether nothing in a leftover was written for an hour."""
    try:
        latest = max(item.lstat().st_mtime for item in (path, *_below(path)))
    except OSError:
        return False
    return time.time() - latest > _LEFTOVER_AFTER_S


def _below(path: Path) -> Iterator[Path]:
    return path.rglob("*") if path.is_dir() else iter(())


def _checksum_of(manifest: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def sizes_by_sort(entries: Sequence[CacheEntry]) -> dict[str, tuple[int, int]]:
    """Return (number of entries, bytes) of each sort, the largest first."""
    sorts = {entry.sort for entry in entries}
    sizes = {
        sort: (
            sum(entry.sort == sort for entry in entries),
            sum(entry.size_bytes for entry in entries if entry.sort == sort),
        )
        for sort in sorts
    }
    return dict(sorted(sizes.items(), key=lambda item: (-item[1][1], item[0])))
