"""A file of lines that another process appends to: each whole line read once, from any machine, without a lock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


class Tail:
    """What was appended to a file since one looked last.

    It is opened anew each time, which shows what another machine has written, on a network file system too.

    Args:
        path: The file; need not exist yet, and may be gone again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._inode = 0

    def new_lines(self) -> Iterator[bytes]:
        """Yield the lines that were not yielded before, each as soon as it ends with a newline."""
        with suppress(OSError), self.path.open("rb") as stream:  # not begun, moved, or out of sight for a moment
            self._inode = os.fstat(stream.fileno()).st_ino
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield line

    def was_replaced(self) -> bool:
        """Return whether there is another file in the place of the one that was read: begin anew."""
        try:
            about = self.path.stat()
        except OSError:
            return self._inode != 0
        return self._inode not in (0, about.st_ino) or about.st_size < self._offset
