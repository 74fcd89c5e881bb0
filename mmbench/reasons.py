"""Why cells of a run have no result: each reason once, with its count, an example and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmbench.executors.child import RAISED_AT, TRACEBACK_FILE
from mmbench.record import DONE, Record
from mmbench.report.text import counted

#: Reasons that the end of a run names.
MAX_NAMED = 3
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_ADVICE: Mapping[str, str] = {
    "oom_gpu": "take a smaller --batch-size or fewer cells at a time (-j), and add --retry oom_gpu",
    "oom_host": "allow more --memory or run fewer cells at a time (-j), and add --retry oom_host",
    "timeout": "allow a longer --timeout, and add --retry timeout",
    "killed": "the same command tries again",
    "diverged": "take a lower --lr, and add --retry diverged",
    "interrupted": "the same command goes on",
}


@dataclass
class _Reason:
    """One reason: the cell that gave it first, and how many did."""

    status: str
    text: str
    cell_id: str
    label: str
    place: str = ""
    count: int = 0

    def __str__(self) -> str:
        return f"{self.text} ({self.place})" if self.place else self.text


class Reasons:
    """Collects why cells have no result; reasons that differ in numbers only are one.

    Attributes:
        num_cells: How many cells have none.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], _Reason] = {}
        self.num_cells = 0

    def add(self, record: Record, label: str) -> str:
        """Take note of a cell that ended; return the line to show for it, "" where its reason was shown before.

        A reason that keeps coming is shown again with its count: at the 10th cell, the 100th, the 1000th.
        """
        if record.status in DONE:
            return ""
        key = (record.status, _NUMBER.sub("#", record.reason))
        place = str(record.info.get(RAISED_AT, ""))
        new = _Reason(record.status, record.reason, record.cell_id, label, place=place)
        reason = self._found.setdefault(key, new)
        self.num_cells += 1
        reason.count += 1
        if reason.count == 1:
            return f"{record.status}: {label}: {new}"
        if str(reason.count).strip("0") == "1":
            return f"{record.status} ({counted(reason.count, 'cell')} so far): {reason}"
        return ""

    def summary(self, folder: Path) -> Iterator[tuple[str, str]]:
        """Yield the commonest reasons with what to do, commonest first.

        Args:
            folder: Of the run.
        """
        found = sorted(self._found.values(), key=lambda reason: -reason.count)
        for reason in found[:MAX_NAMED]:
            yield f"{reason.status} ({counted(reason.count, 'cell')}): {reason}", _advice(reason, folder)
        hidden = found[MAX_NAMED:]
        if hidden:
            cells = counted(sum(reason.count for reason in hidden), "cell")
            yield f"{counted(len(hidden), 'other reason')} ({cells})", f"mmbench status {folder.name} lists all"


def _advice(reason: _Reason, folder: Path) -> str:
    if reason.status in _ADVICE:
        return _ADVICE[reason.status]
    if reason.status == "unavailable":
        says_it = "pip install" in reason.text or "mmbench prepare" in reason.text
        return "" if says_it else "the same command tries again"
    trace = folder / "cells" / reason.cell_id / TRACEBACK_FILE
    where = f"see {trace}, " if trace.is_file() else ""
    return f"{where}mend it, and add --retry {reason.status} to the same command"
