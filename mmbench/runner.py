"""From a plan to results: launch what is missing, write down what comes back, stop when told to."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol, TypeAlias

from mmbench.admission import Admission, kind_of
from mmbench.executors import Executor, Job, Outcome
from mmbench.executors.child import MACHINE_FAULT, fills_disk, is_machine_fault
from mmbench.groups import GROUP_FUNCTION, joined, neighbours, part_folder, parted
from mmbench.journal import CellState
from mmbench.record import DONE, FAILURES, TRANSIENT, Record
from mmbench.store import RunStore

CELL_FUNCTION = "mmbench.cell:run_cell"

#: A cell that keeps being killed is not tried for ever.
MAX_KILLED = 3
#: So many cells in a row that the machine could not run stop the run.
MAX_FAULTS = 2
#: A share of failures is judged from so many finished cells on.
MIN_CELLS_FOR_SHARE = 10
_WAIT_S = 0.2

StopCause: TypeAlias = Literal["", "max_failures", "budget", "signal", "disk", "machine"]


class PlannedCell(Protocol):
    """What the runner and those it tells need to know of a cell: `mmbench.combo.Cell` has it."""

    @property
    def cell_id(self) -> str:
        """Return 16 hex digits."""

    @property
    def status(self) -> str:
        """Return "run", or why it does not: "incompatible", "unavailable"."""

    @property
    def reason(self) -> str:
        """Return why it does not run."""

    def row(self) -> Mapping[str, Any]:
        """Return it as a line of plan.json; the runner asks for it where cells share a GPU."""

    def payload(self) -> Mapping[str, Any]:
        """Return what its function is called with."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something to show.

    Attributes:
        kind: "started" and "finished" are about one cell, and so is "again": what started settled nothing and
            will start anew. "stopped" comes once, when no more cells are launched.
        cell: The cell, or None.
        record: How it went, for "finished".
        reason: Why, for "stopped".
        folder: Where the attempt that started writes, or None.
        counts: Cells by status so far, of those that were looked at.
    """

    kind: Literal["started", "again", "finished", "stopped"]
    cell: PlannedCell | None = None
    record: Record | None = None
    reason: str = ""
    folder: Path | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run stands when the runner returns.

    Attributes:
        counts: Every planned cell by status; "pending" are those not launched.
        num_launched: Attempts made by this call.
        cause: What stopped it early, or "".
        reason: The same in words.
        signum: The signal that stopped it, or None.
        duration_s: Wall time of this call.
    """

    counts: Mapping[str, int]
    num_launched: int = 0
    cause: StopCause = ""
    reason: str = ""
    signum: int | None = None
    duration_s: float = 0.0

    @property
    def num_failed(self) -> int:
        """Return how many cells ran and have no result."""
        return sum(self.counts.get(status, 0) for status in FAILURES)

    @property
    def exit_code(self) -> int:
        """Return 130 or 143 after a signal, 1 when a cell failed, could not be run or could not be kept, else 0."""
        if self.signum is not None:
            return 128 + self.signum
        return 1 if self.num_failed or self.cause in ("disk", "machine") else 0


def run(
    cells: Iterable[PlannedCell],
    store: RunStore,
    executor: Executor,
    *,
    retry: frozenset[str] = frozenset(),
    function: str = CELL_FUNCTION,
    timeout_s: float | None = None,
    memory_bytes: int | None = None,
    max_failures: int | float | None = None,
    budget_s: float | None = None,
    spent_s: float = 0.0,
    admission: Admission | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Summary:
    """Run every cell whose result is missing.

    A cell is left alone when the journal has a result or a final failure of it. It is tried again when its latest
    attempt ended by what the machine did (`TRANSIENT`; "killed" three times is final), or by a status in `retry`.
    The first SIGINT, SIGTERM or SIGHUP ends the running cells as "interrupted"; the journal stays whole. What stops
    a run otherwise lets the running cells finish.

    Neighbours with the same `group` run as one job, under the limits of time of all and of memory of one. Where that
    job as a whole comes to nothing, each of its cells runs alone, and its payload says why as ``not_together``.

    Args:
        cells: In the order of launch; walked through once, nothing is kept but ids.
        store: Open for writing.
        executor: Where cells run; the caller closes it.
        retry: Statuses of failures to try again.
        function: What a cell is, for the executor.
        timeout_s: Wall time for each cell.
        memory_bytes: Host memory for each cell.
        max_failures: Launch no more after so many failures, as a number or as a share (a float below 1) of the cells
            that ended, judged from the tenth on.
        budget_s: Launch no more after so many seconds.
        spent_s: What earlier stages took of that.
        admission: Which cells may run beside one another; by default as many as the executor takes. A cell that runs
            out of GPU memory beside others is tried again alone, before it counts.
        on_event: Told what happens, in this thread.

    Returns:
        Counts over all cells, and what stopped the run early if anything did.
    """
    return _Run(
        store=store,
        executor=executor,
        retry=retry,
        function=function,
        timeout_s=timeout_s,
        memory_bytes=memory_bytes,
        max_failures=max_failures,
        budget_s=budget_s,
        spent_s=spent_s,
        admission=admission,
        on_event=on_event,
    ).through(cells)


def is_final(state: CellState, retry: Collection[str] = ()) -> bool:
    """Return whether a cell needs to run no more: it has a result, or a failure that the machine did not do."""
    if state.status in DONE:
        return True
    if state.status in retry:
        return False
    if state.status == "killed":
        return state.num_killed >= MAX_KILLED
    return state.status not in TRANSIENT


@dataclass(kw_only=True)
class _Run:
    """The state of one call of `run`."""

    store: RunStore
    executor: Executor
    retry: frozenset[str]
    function: str
    timeout_s: float | None
    memory_bytes: int | None
    max_failures: int | float | None
    budget_s: float | None
    spent_s: float
    admission: Admission | None
    on_event: Callable[[Event], None]
    counts: Counter[str] = field(default_factory=Counter)
    #: By the id of a job, its cells and the number of the attempt at each.
    launched: dict[str, list[tuple[PlannedCell, int]]] = field(default_factory=dict)
    #: The ids of all those cells.
    under_way: set[str] = field(default_factory=set)
    #: Cells to launch alone, and why where their group came to nothing.
    again: deque[tuple[PlannedCell, str]] = field(default_factory=deque)
    num_launched: int = 0
    num_ended: int = 0
    num_failed: int = 0
    cause: StopCause = ""
    reason: str = ""
    signum: int | None = None
    num_faults: int = 0
    num_signals: int = 0
    num_cancels: int = 0

    def through(self, cells: Iterable[PlannedCell]) -> Summary:
        self.began = time.monotonic()
        self.states = self.store.states()
        with self._signals():
            for group in neighbours(cells):
                self._consider(group)
                self._repeat()
            while self.launched:
                self._collect()
                self._repeat()
            try:
                self.store.journal.set_foreign_aside()
            except OSError as error:
                self._stop_for_disk(error)
        return Summary(
            counts=dict(self.counts),
            num_launched=self.num_launched,
            cause=self.cause,
            reason=self.reason,
            signum=self.signum,
            duration_s=time.monotonic() - self.began,
        )

    def _repeat(self) -> None:
        """Launch again what needs to be alone."""
        while self.again:
            cell, not_together = self.again.popleft()
            self._consider([cell], not_together)

    def _put_back(self, cell: PlannedCell, not_together: str = "") -> None:
        """Let a cell start anew, alone."""
        self.again.append((cell, not_together))
        self._tell("again", cell=cell)

    def _consider(self, cells: Sequence[PlannedCell], not_together: str = "") -> None:
        """Launch cells as one job, those of them that are due."""
        due = [cell for cell in cells if self._is_due(cell)]
        if not due:
            return
        while not self._should_stop() and not self._has_place(due[0]):
            self._collect()
        states = [self.states.get(cell.cell_id) for cell in due]
        if self._should_stop():
            self._put_off(states)
            return
        members = [(cell, (state.num_attempts if state else 0) + 1) for cell, state in zip(due, states)]
        first, attempt = members[0]
        together = len(members) > 1
        try:
            folder = self.store.begin(first.cell_id, attempt)
        except OSError as error:
            self._stop_for_disk(error)
            self._put_off(states)
            return
        self.launched[first.cell_id] = members
        self.under_way.update(cell.cell_id for cell in due)
        self.num_launched += len(members)
        payload = joined([cell.payload() for cell in due]) if together else first.payload()
        self.executor.submit(
            Job(
                cell_id=first.cell_id,
                attempt=attempt,
                function=GROUP_FUNCTION if together else self.function,
                payload={**payload, "not_together": not_together} if not_together else payload,
                folder=folder,
                timeout_s=self.timeout_s and self.timeout_s * len(members),
                memory_bytes=self.memory_bytes,
            )
        )
        if self.admission is not None:
            self.admission.started(first.cell_id, kind_of(first.row()))
        for cell in due:
            self._tell("started", cell=cell, folder=folder / cell.cell_id if together else folder)

    def _is_due(self, cell: PlannedCell) -> bool:
        """Return whether a cell is to be launched; count it as what it is if not."""
        if cell.status != "run":
            self.counts[cell.status] += 1
            return False
        if cell.cell_id in self.under_way:
            return False
        state = self.states.get(cell.cell_id)
        if state is not None and is_final(state, self.retry):
            self.counts[state.status] += 1
            return False
        return True

    def _put_off(self, states: Iterable[CellState | None]) -> None:
        self.counts.update(state.status if state else "pending" for state in states)

    def _has_place(self, cell: PlannedCell) -> bool:
        if len(self.launched) >= self.executor.capacity:
            return False
        return self.admission is None or self.admission.admits(cell.cell_id, kind_of(cell.row()))

    def _was_crowded(self, job: Job, outcome: Outcome) -> bool:
        """Tell the admission how a cell went; return whether it would have had memory enough alone."""
        if self.admission is None:
            return False
        beside = self.admission.ended(job.cell_id, outcome.info.get("device_memory", {}))
        if not beside or outcome.status != "oom_gpu":
            return False
        self.admission.demand_solitude(job.cell_id)
        return True

    def _collect(self) -> None:
        """Write down what ended; wait a moment for it."""
        if self.num_signals > self.num_cancels:
            self.num_cancels = self.num_signals
            self._should_stop()
            self.executor.cancel()  # a second time: without grace
        for job, outcome in self.executor.wait(_WAIT_S):
            self._settle(job, outcome)

    def _settle(self, job: Job, outcome: Outcome) -> None:
        self._count_faults(outcome)
        members = self.launched.pop(job.cell_id)
        self.under_way.difference_update(cell.cell_id for cell, _ in members)
        if len(members) > 1:
            self._settle_group(job, members, outcome)
            return
        cell, attempt = members[0]
        crowded = self._was_crowded(job, outcome)
        if crowded:
            # Which a later command tries again too, should this one not come to it.
            outcome = replace(outcome, status="interrupted", reason=f"beside other cells: {outcome.reason}")
            self.states[job.cell_id] = CellState("interrupted", num_attempts=attempt)
            self._put_back(cell)
        self._write(cell, attempt, outcome, job.folder, counts=not crowded)

    def _settle_group(self, job: Job, members: Sequence[tuple[PlannedCell, int]], outcome: Outcome) -> None:
        """Give each cell of a group its part of the outcome; where there is none, let each run alone."""
        outcomes = parted(outcome, [cell.cell_id for cell, _ in members])
        if self.admission is not None:
            self.admission.ended(job.cell_id, outcomes[0].info.get("device_memory", {}) if outcomes else {})
        if outcomes is None and outcome.status == "interrupted":
            outcomes = [outcome] * len(members)
        if outcomes is None:
            self.num_launched -= len(members)
            for cell, _ in members:
                self._put_back(cell, f"{outcome.status}: {outcome.reason}")
        else:
            for (cell, attempt), own in zip(members, outcomes):
                self._write(cell, attempt, own, part_folder(job.folder, cell.cell_id))
        shutil.rmtree(job.folder, ignore_errors=True)

    def _write(self, cell: PlannedCell, attempt: int, outcome: Outcome, folder: Path, *, counts: bool = True) -> None:
        """Write down how an attempt went, and count it where it is the last at its cell for now."""
        record = Record(
            cell_id=cell.cell_id,
            status=outcome.status,
            reason=outcome.reason,
            attempt=attempt,
            started_at=outcome.started_at,
            duration_s=outcome.duration_s,
            metrics=outcome.metrics,
            info=outcome.info,
        )
        kept = self._keep(record, folder)
        if not counts:
            return
        if kept is None:
            self.counts["pending"] += 1
            return
        record = kept
        self.counts[record.status] += 1
        self.num_ended += 1
        self.num_failed += record.status in FAILURES and record.status != "interrupted"
        self._tell("finished", cell=cell, record=record)

    def _keep(self, record: Record, folder: Path) -> Record | None:
        """Write a record down and return it; where its files have no room, a failure without them, which makes room.

        None when that cannot be written either: then the run stops, and the cell runs again another time.
        """
        try:
            self.store.finish(record, folder)
            return record
        except OSError as error:
            if record.status not in FAILURES:
                reason = f"its result could not be kept: {error.strerror or error}"
                is_fault = is_machine_fault(error) and not fills_disk(folder)
                record = replace(record, status="interrupted" if is_fault else "failed", reason=reason)
                if is_fault:
                    self._count_faults(Outcome(status="interrupted", reason=reason))
            record = replace(record, metrics=(), info={})
        try:
            self.store.drop_files(folder)
            self.store.finish(record, folder)
        except OSError as error:
            self._stop_for_disk(error)
            return None
        return record

    def _count_faults(self, outcome: Outcome) -> None:
        """Stop the run if the machine could run none of the latest cells: the same would come of all others."""
        if outcome.status != "interrupted":
            self.num_faults = 0
        elif not self.cause and (not outcome.started_at or outcome.info.get(MACHINE_FAULT)):
            self.num_faults += 1
            if self.num_faults >= MAX_FAULTS:
                self.cause = "machine"
                self.reason = (
                    f"the machine could not run {self.num_faults} cells in a row ({outcome.reason}): what ended before "
                    "is kept; mend that, then type the command again"
                )
                self._tell("stopped", reason=self.reason)

    def _stop_for_disk(self, error: OSError) -> None:
        """Launch no more and end what runs, since no result of it could be kept."""
        if self.cause == "disk":
            return
        why = error.strerror or str(error)
        self.cause = "disk"
        self.reason = (
            f"{self.store.folder} can no longer be written ({why}): what ended before is kept; "
            "make room or bring the folder back, then type the command again"
        )
        self._tell("stopped", reason=self.reason)
        self.executor.cancel()

    def _should_stop(self) -> bool:
        if self.cause:
            return True
        cause, reason = self._stop()
        if cause:
            self.cause, self.reason = cause, reason
            self._tell("stopped", reason=reason)
        return bool(cause)

    def _stop(self) -> tuple[StopCause, str]:
        if self.signum is not None:
            return "signal", f"{signal.Signals(self.signum).name} was received"
        if self.budget_s is not None and self.spent_s + time.monotonic() - self.began >= self.budget_s:
            return "budget", f"the budget of {self.budget_s:g} s is spent"
        limit = self.max_failures
        if limit is None or not self.num_failed:
            return "", ""
        if isinstance(limit, int):
            if self.num_failed >= limit:
                return "max_failures", f"{self.num_failed} cells failed"
        elif self.num_ended >= MIN_CELLS_FOR_SHARE and self.num_failed > limit * self.num_ended:
            return "max_failures", f"{self.num_failed} of {self.num_ended} cells failed, more than {limit:.0%}"
        return "", ""

    def _tell(self, kind: Literal["started", "again", "finished", "stopped"], **about: Any) -> None:
        self.on_event(Event(kind=kind, counts=dict(self.counts), **about))

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Note signals that ask the process to end; the loop acts on them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(signum: int, frame: FrameType | None) -> None:
            self.num_signals += 1
            self.signum = self.signum or signum

        signums = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
        # A signal that is ignored (nohup) stays so.
        before = {signum: signal.getsignal(signum) for signum in signums}
        before = {signum: handler for signum, handler in before.items() if handler is not signal.SIG_IGN}
        for signum in before:
            signal.signal(signum, note)
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
