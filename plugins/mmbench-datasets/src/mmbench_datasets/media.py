"""Media files: their bytes, their format, and why they cannot be read."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from mmbench.spec import Kind
from mmbench_datasets.sniff import HEAD_BYTES, Format, read_format, sniff

_OPENING = re.compile(r"^Error opening .*?: ")
_OBJECT = re.compile(r"<[\w.]+ object at 0x[0-9a-fA-F]+>")
#: How advice about a file that cannot be read ends.
LEAVE_OUT = "or leave it out (in a manifest, leave the cell empty)"


@dataclass(frozen=True)
class Embedded:
    """A media file within another file.

    Attributes:
        name: For messages; "" where the place says it all.
        content: Its bytes.
    """

    name: str
    content: bytes


MediaFile: TypeAlias = Path | Embedded


class SeekableBytes(io.BytesIO):
    """Content whose beginning is as far back as one can seek: libsndfile asks for more in damaged files."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a position, to the beginning where it lies before it."""
        try:
            return super().seek(offset, whence)
        except ValueError:
            return super().seek(0)


def path_or_stream(file: MediaFile) -> Any:
    """Return what decoders open: the path of a file, a stream of embedded content."""
    return SeekableBytes(file.content) if isinstance(file, Embedded) else file


def open_stream(file: MediaFile) -> BinaryIO:
    """Open a file for reading bytes."""
    return io.BytesIO(file.content) if isinstance(file, Embedded) else file.open("rb")


def read_tail(file: MediaFile, num_bytes: int) -> bytes:
    """Return the last bytes of a file, all of a shorter one."""
    with open_stream(file) as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, size - num_bytes))
        return stream.read()


def format_of(file: MediaFile) -> Format:
    """Return the format that a file's first bytes show."""
    return sniff(file.content[:HEAD_BYTES]) if isinstance(file, Embedded) else read_format(file)


def located(where: str, path: MediaFile) -> str:
    """Return where a file is named and its name, for messages."""
    return where if where.endswith(path.name) else f"{where}: {path.name}"


def reason_of(path: MediaFile, kind: Kind, error: Exception) -> str:
    """Return why a file cannot be read: its format, where that is another kind's, else the first line of the error."""
    found = format_of(path)
    if found.name and found.kind != kind:
        return f"it is {found.name}"
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if line.startswith("cannot identify image file"):
        return "its format is unknown"
    line = _OPENING.sub("", line)
    # Addresses differ from process to process, and a reason that differs is listed once per cell.
    return _OBJECT.sub("the content", line)
