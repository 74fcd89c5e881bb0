"""Files that are whole or not there, and on the disk when that is promised."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from mmbench.errors import DiskError

#: What a file system says, some only when a file is synced, where there is no room or the disk fails.
_NOT_KEPT = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def write_atomically(path: Path, chunks: Iterable[str], *, durably: bool = True) -> None:
    """Write a text file, which is replaced only when its successor is complete.

    Args:
        path: The file; a folder in its place is removed.
        chunks: Its text.
        durably: Whether it must be on the disk when this returns.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    beside = path.with_name(f".{path.name}.writing")
    remove(beside)
    try:
        # "x" follows no link that somebody may have put there.
        with beside.open("x", encoding="utf-8") as stream:
            stream.writelines(chunks)
            stream.flush()
            if durably:
                os.fsync(stream.fileno())
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise
    if path.is_dir():
        remove(path)
    beside.replace(path)
    if durably:
        sync(path.parent)


class LineFile:
    """A file that whole lines are appended to, each on the disk before the next step.

    Args:
        path: The file; made with the first line.

    Attributes:
        num_foreign_bytes: What other programs appended while this one had the file to itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_foreign_bytes = 0
        self._stream: IO[bytes] | None = None
        self._whole = False  # whether the file is known to end with a newline
        self._size: int | None = None  # once the file is this one's alone

    def hold(self) -> None:
        """Claim the file: bytes that other programs append from now on are foreign."""
        self._size = self.path.stat().st_size if self.path.exists() else 0

    def set_foreign_aside(self) -> None:
        """Move what others appended to a file that is held into PATH.foreign.

        Raises:
            OSError: it cannot be moved, or others cut or replaced the file.
        """
        if self._size is None or not os.path.lexists(self.path):
            return
        descriptor = os.open(self.path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "r+b") as stream:
            self._check_same(stream)
            stream.seek(self._size)
            foreign = stream.read()
            if foreign:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
                beside = self.path.with_name(f"{self.path.name}.foreign")
                with os.fdopen(os.open(beside, flags, 0o666), "ab") as aside:
                    aside.write(foreign)
                    aside.flush()
                    os.fsync(aside.fileno())
                stream.truncate(self._size)
                os.fsync(stream.fileno())
                self.num_foreign_bytes += len(foreign)

    def _check_same(self, stream: IO[bytes]) -> None:
        about = os.fstat(stream.fileno())
        if self._stream is not None and not os.path.samestat(about, os.fstat(self._stream.fileno())):
            raise FileNotFoundError(errno.ENOENT, "it was replaced while it was written", str(self.path))
        if self._size is not None and about.st_size < self._size:
            missing = self._size - about.st_size
            raise OSError(errno.EIO, f"another program cut {missing} bytes off while it was written", str(self.path))

    def append(self, line: bytes) -> None:
        """Write a line, its newline included; when this returns, it stays.

        Raises:
            OSError: it cannot be written; nothing is left of it where that can be helped.
        """
        if self._stream is None:
            self._stream = self.path.open("ab", buffering=0)
        before = os.fstat(self._stream.fileno())
        if before.st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "it was removed while it was written", str(self.path))
        if self._size is not None and before.st_size != self._size:
            self.set_foreign_aside()
            before = os.fstat(self._stream.fileno())
        if not self._whole and not self._ends_with_newline():
            # What a crash left unfinished stays a line of its own.
            line = b"\n" + line
        try:
            written = self._stream.write(line)
            if written != len(line):
                raise OSError(
                    errno.ENOSPC,
                    f"only {written} of {len(line)} bytes could be written; is the disk full?",
                    str(self.path),
                )
            os.fsync(self._stream.fileno())
        except OSError:
            # A part of a line is taken back, which needs no room.
            self._whole = False
            with suppress(OSError):
                os.ftruncate(self._stream.fileno(), before.st_size)
            if self._size is not None:
                self._size = os.fstat(self._stream.fileno()).st_size
            raise
        self._whole = True
        if self._size is not None:
            self._size = before.st_size + len(line)

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as stream:
            if stream.seek(0, os.SEEK_END) == 0:
                return True
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) == b"\n"


def write_or_say(path: Path, chunks: Iterable[str]) -> None:
    """Write a file that a run cannot do without.

    Raises:
        DiskError: it cannot be written; the one that was there is as it was.
    """
    try:
        write_atomically(path, chunks)
    except OSError as error:
        raise DiskError(
            f"{path} cannot be written: {error.strerror or error}; make room, or choose another place with --results"
        ) from None


def make_ordinary(folder: Path) -> None:
    """Make a folder that a cell may have removed, replaced by a link or locked one that can be written into."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        folder.mkdir()
    with suppress(OSError):
        folder.chmod(folder.stat().st_mode | 0o700)


def remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to) or a folder, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def empty(folder: Path, *, keep: Collection[str] = ()) -> None:
    """Remove what is in a folder, but for some names; nothing where there is no folder, or a link to one."""
    for entry in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
        if entry.name not in keep:
            remove(entry)


def sync_tree(folder: Path) -> None:
    """Put every file below a folder on the disk. Links are left alone: they may lead anywhere."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                sync(path)
        sync(Path(parent))


def identity(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is written, or None where there is none."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns, about.st_size


def sync(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk.

    Not every file system can sync a folder, and a file may not be readable; that is no reason to stop.

    Raises:
        OSError: the disk is full or failing: what was written is not kept.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _NOT_KEPT:
            raise
