"""Unpacking zip and tar archives from strangers: nothing leaves the folder, no links are made, no bomb goes off."""

from __future__ import annotations

import json
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from mmbench.download import check_room
from mmbench.encoding import parse_json
from mmbench.errors import DataError, DiskError

#: An archive may unpack to so many times its size, and in any case to `FREE_BYTES`.
MAX_RATIO = 200
FREE_BYTES = 256 << 20
MAX_FILES = 5_000_000
_CHUNK_BYTES = 1 << 20
_FORMAT = 1
#: What the libraries raise at bad data, at an encrypted or unknown kind of member (RuntimeError) and at bad names.
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)


#: Types of tar headers whose content is read whole, and the most that any of them needs.
_LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_LARGEST_HEADER = 1 << 20


@dataclass(frozen=True, kw_only=True)
class _Member:
    """One thing in an archive; `link` is where a link points to, relative to the archive's root."""

    path: PurePosixPath
    kind: Literal["file", "folder", "link"]
    content: Any = None
    link: PurePosixPath | None = None


def unpack(archive: Path, sha256: str) -> None:
    """Unpack a zip or tar archive beside itself, and leave a marker that says what was unpacked.

    Only one process may do so at a time, for one archive. Files are unpacked into a folder of their own first and then
    moved, when all is well. A link to a file inside becomes a copy of that file.

    Args:
        archive: The file.
        sha256: Its hash, kept in the marker.

    Raises:
        DataError: it is no archive, is damaged, wants to leave the folder, or is a bomb.
        DiskError: the folder cannot hold it.
    """
    folder = archive.parent
    prefix = f".unpacking-{archive.name}-"
    try:
        marker_of(archive).unlink(missing_ok=True)
        for leftover in [path for path in folder.iterdir() if path.name.startswith(prefix)]:
            shutil.rmtree(leftover)  # of a process that was killed: the caller holds the lock of this archive
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
        try:
            files = _Unpacking(archive, temporary).run()
            _move(temporary, folder, files, archive)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        marker = {"format": _FORMAT, "sha256": sha256, "files": files}
        beside = folder / f"{marker_of(archive).name}.part"
        beside.write_text(json.dumps(marker))
        beside.replace(marker_of(archive))
    except _DAMAGE as error:
        raise DataError(f"{archive} cannot be unpacked: {str(error) or type(error).__name__}") from None
    except OSError as error:
        # The libraries for gzip, bzip2 and xz say so when data are damaged, too.
        kind = DiskError if error.errno else DataError
        raise kind(f"{archive} cannot be unpacked: {error.strerror or error}") from error


def marker_of(archive: Path) -> Path:
    """Return the file that says what was unpacked of an archive."""
    return archive.with_name(f".{archive.name}.unpacked.json")


def unpacked(archive: Path, sha256: str) -> str:
    """Return why an archive must be unpacked (again), or "" when all of its files are there and whole.

    Args:
        archive: The file; it may be gone by now.
        sha256: Of the archive, or "" when any will do.
    """
    try:
        marker = parse_json(marker_of(archive).read_text())
        files: Mapping[str, list[int]] = marker["files"]
        if marker["format"] != _FORMAT or (sha256 and marker["sha256"] != sha256):
            return "an older archive was unpacked"
        bad = [name for name, (size, crc32) in files.items() if not _is_whole(archive.parent / name, size, crc32)]
    except FileNotFoundError:
        return "it is not unpacked"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "what was unpacked is not known"
    if not bad:
        return ""
    return f"{len(bad)} of its {len(files)} files {'is' if len(bad) == 1 else 'are'} gone or damaged, as {bad[0]}"


class _Unpacking:
    """One archive on its way into an empty folder."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.archive = archive
        self.folder = folder
        size = archive.stat().st_size
        self.limit_bytes = max(FREE_BYTES, MAX_RATIO * size)
        self.total_bytes = 0
        self.files: dict[str, list[int]] = {}

    def run(self) -> dict[str, list[int]]:
        """Unpack; return (size, crc32) by name."""
        links: list[_Member] = []
        for number, member in enumerate(self._members()):
            if number >= MAX_FILES:
                raise DataError(f"{self.archive} holds more than {MAX_FILES} files; that is taken for a bomb")
            if member.kind == "link":
                links.append(member)
            elif member.kind == "folder":
                (self.folder / member.path).mkdir(parents=True, exist_ok=True)
            else:
                with member.content() as stream:
                    self._write(member.path, stream)
        # A link may point to what comes later, or to another link.
        while links:
            waiting = [member for member in links if str(member.link) not in self.files]
            if len(waiting) == len(links):
                raise DataError(f"{self.archive}: {links[0].path} is a link to {links[0].link}, which is no file in it")
            for member in links:
                if member not in waiting:
                    with (self.folder / str(member.link)).open("rb") as stream:
                        self._write(member.path, stream)
            links = waiting
        return self.files

    def _write(self, path: PurePosixPath, stream: IO[bytes]) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        size = crc32 = 0
        with target.open("wb") as out:
            while chunk := stream.read(_CHUNK_BYTES):
                size += len(chunk)
                self._check_size(self.total_bytes + size)
                crc32 = zlib.crc32(chunk, crc32)
                out.write(chunk)
        self.total_bytes += size
        self.files[str(path)] = [size, crc32]

    def _check_size(self, size: int) -> None:
        if size > self.limit_bytes:
            raise DataError(
                f"{self.archive} ({self.archive.stat().st_size} bytes) unpacks to more than {self.limit_bytes} bytes; "
                "that is taken for a bomb. Unpack it by hand if you trust it"
            )

    def _members(self) -> Iterator[_Member]:
        with self.archive.open("rb") as stream:
            is_zip = stream.read(2) == b"PK"
        if is_zip:
            with zipfile.ZipFile(self.archive) as opened:
                yield from self._of_zip(opened)
            return
        try:
            tar = tarfile.open(self.archive, tarinfo=_Header)  # noqa: SIM115  (closed below)
        except tarfile.ReadError:
            raise DataError(f"{self.archive} is neither a zip nor a tar archive") from None
        with tar as opened_tar:
            yield from self._of_tar(opened_tar)
            self._read_rest(opened_tar)

    def _of_zip(self, opened: zipfile.ZipFile) -> Iterator[_Member]:
        declared = sum(info.file_size for info in opened.infolist())
        self._check_size(declared)
        check_room(self.folder, declared)
        for info in opened.infolist():
            path = self._inside(info.filename)
            mode = info.external_attr >> 16
            if info.is_dir():
                yield _Member(path=path, kind="folder")
            elif stat.S_ISLNK(mode):
                with opened.open(info) as stream:
                    target = stream.read(4096).decode()
                yield _Member(path=path, kind="link", link=self._inside(target, path.parent))
            elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
                yield _Member(path=path, kind="file", content=lambda info=info: opened.open(info))
            else:
                raise DataError(f"{self.archive}: {info.filename!r} is neither a file nor a folder")

    def _of_tar(self, opened: tarfile.TarFile) -> Iterator[_Member]:
        for info in opened:
            path = self._inside(info.name)
            if info.isdir():
                yield _Member(path=path, kind="folder")
            elif info.issym():
                yield _Member(path=path, kind="link", link=self._inside(info.linkname, path.parent))
            elif info.islnk():
                yield _Member(path=path, kind="link", link=self._inside(info.linkname))
            elif info.isreg():
                self._check_size(self.total_bytes + info.size)
                yield _Member(path=path, kind="file", content=lambda info=info: opened.extractfile(info))
            else:
                raise DataError(f"{self.archive}: {info.name!r} is a device or a pipe; such an archive is not unpacked")

    def _read_rest(self, opened: tarfile.TarFile) -> None:
        """Read on behind the last member: the checksums of gzip and xz stand at the end of what they pack."""
        assert opened.fileobj is not None
        size = self.total_bytes
        while chunk := opened.fileobj.read(_CHUNK_BYTES):
            size += len(chunk)
            self._check_size(size)

    def _inside(self, name: str, folder: PurePosixPath | None = None) -> PurePosixPath:
        """Return a name as a path below the root, with ".." resolved where it stays inside (in links only)."""
        parts: list[str] = list(folder.parts) if folder is not None else []
        outside = name.startswith("/") or "\0" in name
        for part in name.split("/"):
            if part == "..":
                outside = outside or folder is None or not parts
                parts = parts[:-1]
            elif part not in ("", "."):
                parts.append(part)
        if outside:
            raise DataError(f"{self.archive}: {name!r} leads out of its folder; such an archive is not unpacked")
        return PurePosixPath(*parts)


class _Header(tarfile.TarInfo):
    """A header that may not be large: the content of some headers is read whole, whatever size it claims."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _LONG_HEADERS and self.size > _LARGEST_HEADER:
            raise DataError(f"{archive.name!s}: a header claims {self.size:,} bytes; such an archive is not unpacked")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]


def _move(source: Path, folder: Path, files: Mapping[str, list[int]], archive: Path) -> None:
    for name in files:
        if name == archive.name or (name.startswith((f"{archive.name}.", f".{archive.name}.")) and "/" not in name):
            raise DataError(f"{archive}: it holds {name!r}, which would stand in its own way")
    for name in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (source / name).replace(target)


def _is_whole(file: Path, size: int, crc32: int) -> bool:
    with suppress(OSError), file.open("rb") as stream:
        found = length = 0
        while chunk := stream.read(_CHUNK_BYTES):
            found = zlib.crc32(chunk, found)
            length += len(chunk)
        return (length, found) == (size, crc32)
    return False
