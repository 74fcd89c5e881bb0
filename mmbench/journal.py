"""The journal of a run: a line for each finished attempt, on disk before the next step, read back whatever is left."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mmbench.durable import LineFile
from mmbench.errors import UsageError
from mmbench.record import Record, Status, check_record
from mmbench.tail import Tail

if TYPE_CHECKING:
    from gzip import GzipFile

JOURNAL_FILE = "journal.jsonl"
CELL_ID = re.compile(r"[0-9a-f]{16}")
#: An outcome has at most 16 MiB; escaped, a record has some times as much.
MAX_LINE_BYTES = 128 << 20
#: The last key of a line, over what stands before it. Lines of earlier versions have none.
_CHECKSUM = re.compile(rb',"crc32":(\d{1,10})\}\s*$')
#: What a line of the journal can go wrong with, once it is JSON or is not.
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)


@dataclass(slots=True)
class CellState:
    """What the journal says of one cell, in short.

    Attributes:
        status: Of its decisive attempt: "ok" if any is, else the latest's.
        num_attempts: How often it was tried.
        num_killed: How many of those attempts ended as "killed".
        duration_s: Of its decisive attempt.
    """

    status: Status
    num_attempts: int = 0
    num_killed: int = 0
    duration_s: float = 0.0

    def take(self, status: Status, duration_s: float) -> None:
        """Take note of one more attempt."""
        self.num_attempts += 1
        self.num_killed += status == "killed"
        if status == "ok" or self.status != "ok":
            self.status, self.duration_s = status, duration_s


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
        self._file = LineFile(path)

    @property
    def num_foreign_bytes(self) -> int:
        """Number of bytes that other programs appended since `hold`, now in PATH.foreign."""
        return self._file.num_foreign_bytes

    def hold(self) -> None:
        """Claim the journal: lines that other programs append from now on are set aside."""
        self._file.hold()

    def set_foreign_aside(self) -> None:
        """Move the lines of other programs out of a claimed journal.

        Raises:
            OSError: they cannot be moved, or others cut or replaced the journal.
        """
        self._file.set_foreign_aside()

    def append(self, record: Record) -> None:
        """Write a record to the disk; when this returns, it stays."""
        line = json.dumps(record.to_json(), allow_nan=False, separators=(",", ":")).encode()
        self._file.append(b'%s,"crc32":%d}\n' % (line[:-1], zlib.crc32(line)))

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
            try:
                check_record(data)  # what `records` cannot read is not done
            except _UNREADABLE:
                self.num_damaged += 1
                continue
            note(states, data)
        return states

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the JSON of every line that is about a cell."""
        self.num_damaged = 0
        for line in self._raw_lines():
            if not line.strip():
                continue
            data = _read(line)
            if data is not None:
                yield data
            elif line.endswith(b"\n"):
                self.num_damaged += 1

    def packed_lines(self) -> Iterator[bytes]:
        """Yield the lines of the packed journal as they are; none where there is no such file."""
        if not self.packed.exists():
            return
        import gzip

        try:
            with gzip.open(self.packed) as stream:
                yield from self._bounded(stream)
        except (OSError, EOFError, zlib.error):
            self.num_damaged += 1  # what came before the damage counts

    def _raw_lines(self) -> Iterator[bytes]:
        yield from self.packed_lines()
        if not self.path.exists():
            return
        try:
            with self.path.open("rb") as stream:
                yield from self._bounded(stream)
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read: {error.strerror or error}; move it away") from None

    def _bounded(self, stream: IO[bytes] | GzipFile) -> Iterator[bytes]:
        """Yield lines, but for those longer than any that is written: they count as damaged."""
        while line := stream.readline(MAX_LINE_BYTES):
            whole = len(line) < MAX_LINE_BYTES or line.endswith(b"\n")
            if whole:
                yield line
                continue
            self.num_damaged += 1
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE_BYTES)


class Follower(Tail):
    """Reads a journal that grows, each line once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._packed_is_read = False

    def new_records(self) -> Iterator[dict[str, Any]]:
        """Yield the JSON of every line about a cell that was appended since the last call."""
        if not self._packed_is_read:
            self._packed_is_read = True
            yield from filter(None, map(_read, Journal(self.path).packed_lines()))
        yield from filter(None, map(_read, self.new_lines()))


def note(states: dict[str, CellState], data: Mapping[str, Any]) -> CellState:
    """Take note of a line of the journal, whose status must be one of `STATUSES`; return the state of its cell."""
    status, duration_s = data["status"], data.get("duration_s")
    state = states.setdefault(data["cell_id"], CellState(status))
    state.take(status, float(duration_s) if isinstance(duration_s, int | float) else 0.0)
    return state


def _read(line: bytes) -> dict[str, Any] | None:
    """Return the JSON of a line that is about a cell, or None."""
    try:
        told = _CHECKSUM.search(line)
        if told is not None and zlib.crc32(line[: told.start()] + b"}") != int(told.group(1)):
            return None
        data = json.loads(line.decode())
        return data if isinstance(data, dict) and CELL_ID.fullmatch(data["cell_id"]) is not None else None
    except _UNREADABLE:
        return None
