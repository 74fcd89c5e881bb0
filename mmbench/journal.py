"""The journal of a run: a line for each finished attempt, on disk before the next step, read back whatever is left."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mmbench.record import STATUSES, Record, Status

JOURNAL_FILE = "journal.jsonl"
CELL_ID = re.compile(r"[0-9a-f]{16}")
#: What a line of the journal can go wrong with, once it is JSON or is not.
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


@dataclass
class CellState:
    """What the journal says of one cell, in short.

    Attributes:
        status: Of its decisive attempt: "ok" if any is, else the latest's.
        num_attempts: How often it was tried.
        num_killed: How many of those attempts ended as "killed".
    """

    status: Status
    num_attempts: int = 0
    num_killed: int = 0


class Journal:
    """Records as lines of JSON, appended one by one, read back whatever a crash left of them.

    A run that is kept may have them packed by gzip, an eighth of the size: `path`.gz is read before `path`, to which
    alone is appended.

    Args:
        path: The file; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.packed = path.with_name(f"{path.name}.gz")
        self.num_damaged = 0  # lines that the latest complete reading could not use; a torn last line is not counted
        self._stream: IO[bytes] | None = None
        self._whole = False  # whether the file is known to end with a newline

    def append(self, record: Record) -> None:
        """Write a record to the disk; when this returns, it stays."""
        line = json.dumps(record.to_json(), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        if self._stream is None:
            self._stream = self.path.open("ab", buffering=0)
            self._whole = self._ends_with_newline()
        if not self._whole:
            # What a crash or a full disk left unfinished stays a line of its own.
            line = b"\n" + line
        self._whole = False
        written = self._stream.write(line)
        if written != len(line):
            raise OSError(f"only {written} of {len(line)} bytes could be written to {self.path}; is the disk full?")
        os.fsync(self._stream.fileno())
        self._whole = True

    def __iter__(self) -> Iterator[Record]:
        """Yield every record in the order of the attempts."""
        for data in self.lines():
            try:
                record = Record.from_json(data)
            except _UNREADABLE:
                self.num_damaged += 1
                continue
            yield record

    def states(self) -> dict[str, CellState]:
        """Return what is decided about each cell; takes little memory however much the records hold."""
        states: dict[str, CellState] = {}
        for data in self.lines():
            status = data.get("status")
            if status not in STATUSES:
                self.num_damaged += 1
                continue
            state = states.setdefault(data["cell_id"], CellState(status))
            state.num_attempts += 1
            state.num_killed += status == "killed"
            if status == "ok" or state.status != "ok":
                state.status = status
        return states

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the JSON of every line that is about a cell."""
        self.num_damaged = 0
        for line in self._raw_lines():
            if not line.strip():
                continue
            try:
                data = json.loads(line.decode())
                usable = isinstance(data, dict) and CELL_ID.fullmatch(data["cell_id"]) is not None
            except _UNREADABLE:
                usable = False
            if usable:
                yield data
            elif line.endswith(b"\n"):
                self.num_damaged += 1

    def _raw_lines(self) -> Iterator[bytes]:
        if self.packed.exists():
            import gzip
            import zlib

            try:
                with gzip.open(self.packed) as stream:
                    yield from stream
            except (EOFError, gzip.BadGzipFile, zlib.error):
                self.num_damaged += 1  # what came before the damage counts
        if self.path.exists():
            with self.path.open("rb") as stream:
                yield from stream

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as stream:
            if stream.seek(0, os.SEEK_END) == 0:
                return True
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) == b"\n"
