"""How far a run is, what runs at this moment, and how long the rest takes by what similar cells took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbench.journal import CellState
from mmbench.record import DONE, HISTORY_FILE
from mmbench.runner import is_final
from mmbench.tail import Tail

#: Combos of encoders and fusion that are told apart; beyond, a cell counts as any other of its dataset.
MAX_KINDS = 20_000
#: From so many trained cells on there is an estimate.
MIN_FINISHED = 3


@dataclass(kw_only=True)
class RunningCell:
    """A cell under way.

    Attributes:
        label: For people.
        kind: As `Standing.kind_of` gives it.
        began: When it started, by `time.monotonic`.
        folder: Where the attempt writes, or None.
        max_epochs: How many epochs it trains for at most, or None.
    """

    label: str
    kind: int
    began: float
    folder: Path | None = None
    max_epochs: int | None = None
    _num_epochs: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        self._curve = None if self.folder is None else Tail(self.folder / HISTORY_FILE)

    def num_epochs(self) -> int:
        """Return how many epochs it has trained, by the lines of its learning curve."""
        if self._curve is not None:
            self._num_epochs += sum(1 for _ in self._curve.new_lines())
        return self._num_epochs


class Standing:
    """How far a run is. Its memory does not grow with the number of cells beyond `MAX_KINDS` combos.

    Args:
        at_once: How many cells run at a time.
        retry: Statuses of failures that are tried again.
        epochs: How many epochs a cell of each dataset trains for at most.

    Attributes:
        counts: Cells by status; those that are still to run are not in it.
        num_planned: Cells that can run.
        num_left: Those of them that have no result and no final failure, running ones among them.
        running: By cell id.
    """

    def __init__(
        self, *, at_once: int = 1, retry: frozenset[str] = frozenset(), epochs: Mapping[str, int] | None = None
    ) -> None:
        self.at_once = at_once
        self.retry = retry
        self.epochs = dict(epochs or {})
        self.counts: Counter[str] = Counter()
        self.num_planned = 0
        self.num_left = 0
        self.running: dict[str, RunningCell] = {}
        self._waiting: Counter[int] = Counter()
        self._kin: dict[int, tuple[int, ...]] = {}
        self._times: dict[int, tuple[float, int]] = {}
        self._estimate: tuple[float, float | None] = (0.0, None)

    @property
    def num_settled(self) -> int:
        """Return how many cells that can run need to run no more."""
        return self.num_planned - self.num_left

    def kind_of(self, row: Mapping[str, Any]) -> int:
        """Return a number that cells of the same dataset, encoders and fusion share; 0 for what trains nothing.

        Cells of other roles, such as the short ones of a race, are never alike.
        """
        dataset, encoders, fusion = row.get("dataset", ""), row.get("encoders", ""), row.get("fusion", "")
        if not encoders:
            return 0
        role = row.get("role", "")
        role = "" if role in ("cell", "baseline") else role
        kind = hash((role, dataset, encoders, fusion))
        if kind not in self._kin:
            alike: tuple[int, ...] = (kind, hash((role, dataset, encoders)), hash((role, dataset)), hash(role))
            if len(self._kin) >= MAX_KINDS:
                alike = alike[2:]
            kind = alike[0]
            self._kin[kind] = alike
        return kind

    def take_plan(self, rows: Iterable[Mapping[str, Any]], states: Mapping[str, CellState]) -> None:
        """Begin anew with a plan, of which the journal says so much."""
        self.counts.clear()
        self._waiting.clear()
        self._times.clear()
        self.running.clear()
        self.num_planned = self.num_left = 0
        self._estimate = (0.0, None)
        for row in rows:
            self.expect(row, states.get(row["cell_id"]))

    def expect(self, row: Mapping[str, Any], state: CellState | None = None) -> int:
        """Take note of a planned cell and of what the journal says of it; return its kind."""
        kind = self.kind_of(row)
        if row["status"] != "run":
            self.counts[row["status"]] += 1
            return kind
        self.num_planned += 1
        if state is not None and is_final(state, self.retry):
            self.counts[state.status] += 1
            self._learn(kind, state.status, state.duration_s)
        else:
            self.num_left += 1
            self._waiting[kind] += 1
        return kind

    def begin(self, row: Mapping[str, Any], folder: Path | None = None) -> None:
        """Take note of a cell that starts."""
        kind = self.kind_of(row)
        max_epochs = self.epochs.get(row.get("dataset", "")) if kind else None
        cell = RunningCell(label=describe(row), kind=kind, began=time.monotonic(), folder=folder, max_epochs=max_epochs)
        self.enter(row["cell_id"], cell)

    def enter(self, cell_id: str, cell: RunningCell) -> None:
        """Count a cell that was waited for as running; one that did already starts anew."""
        self.leave(cell_id)
        self._waiting[cell.kind] -= 1
        self.running[cell_id] = cell

    def leave(self, cell_id: str) -> None:
        """Count a cell as waited for again, if it runs."""
        cell = self.running.pop(cell_id, None)
        if cell is not None:
            self._waiting[cell.kind] += 1

    def end(self, cell_id: str, status: str, duration_s: float, kind: int) -> None:
        """Take note of a cell that has ended, whether or not it was known to run."""
        self.leave(cell_id)
        self._waiting[kind] -= 1
        self.num_left -= 1
        self.counts[status] += 1
        self._learn(kind, status, duration_s)

    def remaining_s(self) -> float | None:
        """Return the estimated time left, or None while too little is known.

        For every cell that is left: the mean time of the cells that are most like it, by dataset, encoders and fusion,
        else by dataset and encoders, else by dataset, else of all; divided by the number of cells at once.
        """
        now = time.monotonic()
        until, estimate = self._estimate
        if now >= until:
            estimate = self._remaining_s(now)
            # Of many combos it takes milliseconds, several times a second.
            self._estimate = (now + max(0.5, 20 * (time.monotonic() - now)), estimate)
        return estimate

    def _remaining_s(self, now: float) -> float | None:
        work = longest = 0.0
        waiting = [(kind, count, 0.0) for kind, count in list(self._waiting.items()) if count > 0]
        for kind, count, had_s in [
            *waiting,
            *((cell.kind, 1, now - cell.began) for cell in list(self.running.values())),
        ]:
            expected_s = self._expected_s(kind)
            if expected_s is None:
                return None
            left_s = max(expected_s - had_s, 0.0)
            work += count * left_s
            longest = max(longest, left_s)
        return max(work / max(1, self.at_once), longest)

    def _expected_s(self, kind: int) -> float | None:
        alike = self._kin.get(kind, ())
        if not alike:
            return 0.0
        if self._times.get(alike[-1], (0.0, 0))[1] < MIN_FINISHED:
            return None
        total_s, count = next(self._times[key] for key in alike if key in self._times)
        return total_s / count

    def _learn(self, kind: int, status: str, duration_s: float) -> None:
        if status not in DONE:  # a cell that failed says nothing of how long it would have taken
            return
        for key in self._kin.get(kind, ()):
            total_s, count = self._times.get(key, (0.0, 0))
            self._times[key] = (total_s + duration_s, count + 1)


def describe(row: Mapping[str, Any]) -> str:
    """Return a cell in one line, as a row of the plan names it."""
    parts = (row["dataset"], row["encoders"].replace("+", " + "), row["fusion"], f"seed {row['seed']}")
    return "  ".join(part for part in parts if part)
