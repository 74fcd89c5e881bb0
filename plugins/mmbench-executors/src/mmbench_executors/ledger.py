"""What an executor was told to run elsewhere, on disk before it happens, so that a later process can take it up.

One process writes it at a time: the one that holds the run.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.durable import LineFile


@dataclass
class Task:
    """One job of the scheduler: the cells that it runs, one after the other.

    Attributes:
        job_id: What the scheduler calls it; "" while that is not known.
        keys: Of its cells, in their order; one that is submitted again leaves the task it was in.
        token: Of the submission that it belongs to.
        position: Within that submission.
        first: The cell that it began with.
        intended_at: When it was about to be submitted, by the clock.
    """

    job_id: str
    keys: tuple[str, ...]
    token: str
    position: int
    first: str
    intended_at: float


class Ledger:
    """Lines of JSON: what is about to be submitted, what the scheduler made of it, what was handed back.

    Args:
        path: The file; need not exist.

    Attributes:
        tasks: With cells that were not handed back. Those with no `job_id` were about to be submitted when the
            process died.
        seconds: How long the latest cells took that ended well.
    """

    def __init__(self, path: Path) -> None:
        self.tasks: list[Task] = []
        self.seconds: deque[float] = deque(maxlen=1000)
        self._file = LineFile(path)
        self._keys: set[str] = set()  # of all tasks
        for line in self._lines():
            self._take(line)

    def intend(self, token: str, packs: Sequence[Sequence[str]]) -> None:
        """Note what is about to be submitted; cells that were submitted before belong to the new packs alone.

        Raises:
            OSError: it cannot be kept: what is submitted all the same would be lost with this process.
        """
        packs = [list(pack) for pack in packs]
        line = {"event": "intend", "token": token, "packs": packs, "at": round(time.time(), 3)}
        self._append(line)
        self._take(line)

    def submitted(self, token: str, job_ids: Sequence[str]) -> None:
        """Note what the scheduler calls the jobs of a submission; [] where it took none."""
        self._note({"event": "submitted", "token": token, "jobs": list(job_ids)})

    def settle(self, keys: Iterable[str], seconds: Iterable[float] = ()) -> None:
        """Note cells that nobody takes up again, and how long those took that ended well."""
        self._note({"event": "settled", "keys": list(keys), "seconds": [round(value, 3) for value in seconds]})

    def has(self, key: str) -> bool:
        """Return whether a cell was submitted and not handed back."""
        return key in self._keys

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _note(self, line: Mapping[str, Any]) -> None:
        """Take note of what a later process finds out again, from SLURM or the journal, where it could not be kept."""
        self._take(line)
        with suppress(OSError):
            self._append(line)

    def _append(self, line: Mapping[str, Any]) -> None:
        self._file.append(json.dumps(line).encode() + b"\n")

    def _lines(self) -> Iterator[Mapping[str, Any]]:
        if not self._file.path.exists():
            return
        for line in self._file.path.read_bytes().split(b"\n"):
            try:
                read = json.loads(line)
            except ValueError:
                continue  # torn by a crash
            if isinstance(read, dict):
                yield read

    def _take(self, line: Mapping[str, Any]) -> None:
        if line["event"] == "intend":
            keys = {key for pack in line["packs"] for key in pack}
            self._leave(keys)
            self._keys |= keys
            for position, pack in enumerate(line["packs"]):
                about = {"token": line["token"], "position": position, "intended_at": line["at"]}
                self.tasks.append(Task(job_id="", keys=tuple(pack), first=pack[0], **about))
        elif line["event"] == "submitted":
            for task in self.tasks:
                if task.token == line["token"] and task.position < len(line["jobs"]):
                    task.job_id = line["jobs"][task.position]
            self._leave(
                {key for task in self.tasks if task.token == line["token"] and not task.job_id for key in task.keys}
            )
        elif line["event"] == "settled":
            self._leave(set(line["keys"]))
            self.seconds.extend(line["seconds"])

    def _leave(self, keys: set[str]) -> None:
        """Take cells out of their tasks, and tasks without cells away."""
        self._keys -= keys
        for task in self.tasks:
            if not keys.isdisjoint(task.keys):
                task.keys = tuple(key for key in task.keys if key not in keys)
        self.tasks = [task for task in self.tasks if task.keys]
