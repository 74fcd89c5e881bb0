"""Cells as jobs of a SLURM cluster: submitted in arrays, packed by walltime, taken up again when this process died.

A result is a file that a job renames into place; this process only looks. `mmbench_executors.slurm_folder` says which
files there are and who writes them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from mmbench.errors import UsageError
from mmbench.executors import Job, Outcome, Running
from mmbench.executors.child import one_line
from mmbench_executors.ledger import Ledger, Task
from mmbench_executors.packing import pack_size, share_out
from mmbench_executors.request import make_request
from mmbench_executors.slurm_folder import SharedFolder, bring, key_of
from mmbench_executors.slurm_queue import ENDED, JobState, Queue, SubmitError, sbatch_parameters, walltime_s

#: Jobs in the queue or running at once, where -j does not say.
JOBS = 100
#: Cells that finished at the same moment bring their successors at the same moment: these go out together.
GATHER_S = 0.5
#: Between two calls of sbatch, which a cluster's controller does not like often.
SUBMIT_EVERY_S = 2.0
#: How long after the end of a job its results may take to be seen here: NFS shows them late.
LAG_S = 10.0
#: How long a call of sbatch may take of which nobody waits for the answer any more.
ARRIVE_S = 20.0
#: How long cancelled jobs have to end before they are given up.
CANCEL_S = 20.0
#: How many jobs one call of sbatch makes: clusters allow 1000 in an array if they are not told otherwise.
MAX_ARRAY = 500
#: A cell whose job ends before its turn is submitted again, so often at most.
MAX_SUBMITS = 3
_LOOK_S = 0.2


@dataclass
class _Cell:
    """A job that was submitted to us and not handed back.

    Attributes:
        job: The job.
        key: What its files are called.
        num_submits: How often it went to SLURM in vain.
        since: When it was submitted here.
        must_be_first: Of its job, having run out of walltime behind others.
    """

    job: Job
    key: str
    num_submits: int = 0
    since: float = field(default_factory=time.monotonic)
    must_be_first: bool = False


class SlurmExecutor:
    """Runs cells as jobs of SLURM, by submitit.

    Args:
        folder: Seen by this host and by those of the cluster; kept between commands.
        jobs: In the queue or running at once; 0 is `JOBS`.
        threads: For each cell, and what each job asks of SLURM as cpus-per-task.
        partition, account, qos, memory: As for sbatch; "" leaves them to the cluster.
        time: Walltime of a job: "30m", "2h"; "" leaves it to the partition.
        gpus: For each job.
        cells_per_job: Run one after the other in one job; 0 is as many as fit the walltime.
        poll: Seconds between two calls of squeue.
        sbatch: Further parameters of sbatch, as "constraint=a100" or "exclusive".
        setup: Lines of shell before the cells, such as "module load cuda".

    Raises:
        UsageError: an option cannot be used as written.
        Unavailable: the programs of SLURM are not here.
    """

    def __init__(
        self,
        folder: Path,
        jobs: int,
        threads: int,
        *,
        partition: str = "",
        account: str = "",
        qos: str = "",
        time: str = "",
        memory: str = "",
        gpus: int = 0,
        cells_per_job: int = 0,
        poll: float = 10.0,
        sbatch: Sequence[str] = (),
        setup: Sequence[str] = (),
    ) -> None:
        if gpus < 0 or cells_per_job < 0 or poll <= 0:
            raise UsageError("slurm: gpus and cells_per_job must not be negative, and poll must be above 0")
        self._walltime_s = walltime_s(time)
        given = {"partition": partition, "account": account, "qos": qos, "mem": memory, "gpus_per_node": gpus}
        parameters: dict[str, Any] = {
            **{name: value for name, value in given.items() if value},
            "cpus_per_task": threads,
            "setup": [str(line) for line in setup] or None,
            "additional_parameters": sbatch_parameters(sbatch) or None,
            "stderr_to_stdout": True,
            "use_srun": False,
            "wckey": None,
        }
        folder = folder.absolute()
        self._queue = Queue(folder, walltime_s=self._walltime_s, parameters=parameters)
        self._shared = SharedFolder(folder)
        self._jobs = jobs or JOBS
        self._threads = threads
        self._cells_per_job = cells_per_job
        self._poll_s = poll
        self._ledger = Ledger(folder / "ledger.jsonl")
        self._cells: dict[str, _Cell] = {}  # by key
        self._held: dict[str, None] = {}  # keys that wait for sbatch, in order
        self._finished: list[tuple[_Cell, Outcome]] = []
        self._handed: list[tuple[_Cell, Outcome]] = []
        self._states: Mapping[str, JobState] = {}
        self._gone_since: dict[str, float] = {}  # job id -> when it was first seen to have ended
        self._was_pending: set[str] = set()
        self._keep_logs: set[str] = set()
        self._polled_at = self._submitted_at = self._gathered_at = float("-inf")
        self._refused = 0
        self._cancelled_at: float | None = None
        self._resolve()

    @property
    def capacity(self) -> int:
        """Return how many cells may be out at once: those of all jobs."""
        return self._jobs * self._pack_size()

    def submit(self, job: Job) -> None:
        """Take a job up where an earlier process left it, or keep it for the next call of sbatch."""
        cell = _Cell(job=job, key=key_of(job))
        self._cells[cell.key] = cell
        if self._ledger.has(cell.key) or self._shared.has_result(cell.key):
            return
        payload = {**job.payload, "contended": False} if "contended" in job.payload else job.payload
        try:
            # A job's allocation is its own and it runs one cell at a time: whether others compute beside it is
            # for the cell to see.
            request = make_request(job, threads=self._threads, payload=payload)
            self._shared.ask(cell.key, request)
        except OSError as error:
            self._end(cell, self._unwritten(error))
            return
        self._hold(cell)

    def wait(self, timeout_s: float) -> list[tuple[Job, Outcome]]:
        """Return cells that ended; at most about `timeout_s` later.

        Raises:
            UsageError: SLURM refuses what the options ask for.
        """
        self._settle_handed()
        until = time.monotonic() + timeout_s
        while True:
            self._send()
            self._collect()
            self._look_at_queue()
            left = until - time.monotonic()
            if self._finished or not self._cells or left <= 0:
                break
            time.sleep(min(_LOOK_S, left))
        self._handed, self._finished = self._finished, []
        return [(cell.job, outcome) for cell, outcome in self._handed]

    def running(self) -> list[Running]:
        """Return the cells that are out."""
        now = time.monotonic()
        return [Running(job=cell.job, elapsed_s=now - cell.since) for cell in self._cells.values()]

    def cancel(self) -> None:
        """End all jobs by scancel; their cells end as "interrupted". A second call does not wait for SLURM."""
        for key in list(self._held):
            self._end(self._cells[key], Outcome(status="interrupted", reason="interrupted before it began"))
        again = self._cancelled_at is not None
        self._cancelled_at = float("-inf") if again else time.monotonic()
        if not again:
            self._queue.cancel(task.job_id for task in self._active())
            self._polled_at = float("-inf")

    def close(self) -> None:
        """Cancel the jobs of cells that were not handed back; nothing of them is taken up again."""
        self._settle_handed()
        self._abandon()

    def __enter__(self) -> SlurmExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._settle_handed()
        # Else what was handed back may not be in the journal: the next command takes it from its file again.
        self._abandon()

    def _resolve(self) -> None:
        """Ask SLURM for the submissions of which an earlier process did not live to hear."""
        unheard = {task.token: task.intended_at for task in self._ledger.tasks if not task.job_id}
        for token, intended_at in unheard.items():
            with suppress(SubmitError):
                job_ids = self._queue.find(token)
                # The sbatch of a process that was killed may still be about to arrive.
                if job_ids or time.time() - intended_at > ARRIVE_S:
                    self._ledger.submitted(token, job_ids)

    def _hold(self, cell: _Cell) -> None:
        self._held[cell.key] = None
        self._gathered_at = time.monotonic()

    def _active(self) -> list[Task]:
        """Return the jobs that have cells out."""
        return [task for task in self._ledger.tasks if task.job_id and any(map(self._is_out, task.keys))]

    def _is_out(self, key: str) -> bool:
        return key in self._cells and key not in self._held

    def _pack_size(self) -> int:
        return self._cells_per_job or pack_size(self._ledger.seconds, self._walltime_s)

    def _send(self) -> None:
        """Submit the held cells once no more come in, as far as jobs are free."""
        now = time.monotonic()
        if not self._held or self._cancelled_at is not None:
            return
        if now - self._gathered_at < GATHER_S and len(self._cells) < self.capacity:
            return
        if now - self._submitted_at < SUBMIT_EVERY_S * 4**self._refused:
            return
        free = self._jobs - len(self._active())
        if free < 1:
            return
        packs = share_out(
            self._held,
            size=self._pack_size(),
            free=min(free, MAX_ARRAY),
            fixed=self._cells_per_job > 0,
            first={key for key in self._held if self._cells[key].must_be_first},
        )
        sent = {key for pack in packs for key in pack}
        self._submitted_at = now
        token = secrets.token_hex(4)
        try:
            self._ledger.intend(token, packs)
        except OSError as error:
            for key in sent:
                self._end(self._cells[key], self._unwritten(error))
            return
        try:
            job_ids = self._queue.submit(token, packs)
        except SubmitError as error:
            job_ids = self._after_refusal(token, error)
        self._ledger.submitted(token, job_ids)
        if job_ids:
            self._refused = 0
            self._held = {key: None for key in self._held if key not in sent}
            self._polled_at = max(self._polled_at, now - self._poll_s + 1)  # look again in a second

    def _after_refusal(self, token: str, error: SubmitError) -> list[str]:
        """Return the jobs that came of a submission all the same; a refusal that time may mend is tried again.

        Raises:
            UsageError: it will not mend.
        """
        with suppress(SubmitError):
            found = self._queue.find(token)
            if found:
                return found
        self._refused += 1
        never_took_any = not self._ledger.seconds and not self._states
        if error.is_for_good or (never_took_any and self._refused > 3):
            raise UsageError(f"SLURM does not take the jobs: {one_line(str(error))}")
        self._refused = min(self._refused, 4)
        return []

    def _collect(self) -> None:
        """Take in the results that have come."""
        for key in self._shared.with_results(self._cells):
            cell = self._cells[key]
            outcome = self._shared.take(key, cell.job.folder)
            if outcome is not None:
                self._end(cell, outcome)

    def _look_at_queue(self) -> None:
        """Find jobs that ended, and say of their cells without a result what became of them."""
        now = time.monotonic()
        poll_s = 1.0 if self._cancelled_at is not None else self._poll_s
        if now - self._polled_at < poll_s or not self._cells:
            return
        self._polled_at = now
        if self._cancelled_at is not None and now - self._cancelled_at > CANCEL_S:
            for cell in list(self._cells.values()):
                self._end(cell, Outcome(status="interrupted", reason="interrupted while it was with SLURM"))
            return
        states = self._queue.states()
        if states is None:
            return
        self._states = states
        self._resolve()
        for key in [key for key in self._cells if self._is_out(key) and not self._ledger.has(key)]:
            self._again(self._cells[key], "the submission of the cell did not reach it")
        for task in self._active():
            state = states.get(task.job_id)
            if state is not None and state.state not in ENDED:
                self._gone_since.pop(task.job_id, None)
                if state.state == "PENDING":
                    self._was_pending.add(task.job_id)
                else:
                    self._was_pending.discard(task.job_id)
                    key = next(filter(self._is_out, task.keys))
                    self._shared.show(key, task.job_id, self._cells[key].job.folder)
                continue
            since = self._gone_since.setdefault(task.job_id, now)
            if now - since >= (0 if self._cancelled_at is not None else LAG_S):
                self._collect()
                self._judge(task, state)
        if self._gone_since:
            # The lag is waited for from now on, not until the next regular look.
            self._polled_at = min(self._polled_at, now - poll_s + 1)

    def _judge(self, task: Task, state: JobState | None) -> None:
        """Say what became of the cells that a job left without a result."""
        keys = [key for key in task.keys if self._is_out(key)]
        if not keys:
            return
        ended = self._queue.ending(task.job_id) or state
        if ended is None and task.job_id in self._was_pending:
            # SLURM remembers for minutes a job that began; it forgets at once one that is cancelled before.
            ended = JobState(state="CANCELLED")
        told = self._words(task, ended)
        for key in keys:
            cell = self._cells[key]
            begun = self._shared.begun(key, task.job_id)
            if self._cancelled_at is not None:
                outcome = Outcome(status="interrupted", reason="interrupted while it was with SLURM")
            elif begun is None and (ended is None or ended.state != "CANCELLED"):
                self._again(cell, f"{told} before the cell began", counts=ended is None or ended.state != "COMPLETED")
                continue
            elif ended is not None and ended.state == "TIMEOUT" and key != task.first:
                cell.must_be_first = True
                self._again(cell, f"{told} while the cell ran")
                continue
            else:
                when = "while the cell ran" if begun else "before the cell began"
                status = "killed" if ended is None else ended.of_cell
                outcome = Outcome(status=status, reason=one_line(f"{told} {when}"))
            if begun is not None:
                with suppress(OSError):
                    bring(begun, cell.job.folder)
            self._end(cell, outcome)

    def _words(self, task: Task, ended: JobState | None) -> str:
        if ended is None:
            return f"SLURM no longer knows job {task.job_id}, which ended"
        return ended.in_words(task.job_id, self._queue.last_words(task.job_id) if ended.state == "FAILED" else "")

    def _again(self, cell: _Cell, why: str, *, counts: bool = True) -> None:
        """Submit a cell once more whose turn did not come, unless that happened too often."""
        cell.num_submits += counts
        if cell.num_submits >= MAX_SUBMITS:
            self._end(cell, Outcome(status="killed", reason=one_line(f"{why}; so did {MAX_SUBMITS - 1} before it")))
            return
        self._hold(cell)

    def _end(self, cell: _Cell, outcome: Outcome) -> None:
        del self._cells[cell.key]
        self._held.pop(cell.key, None)
        self._shared.unshow(cell.job.folder)
        self._finished.append((cell, outcome))

    def _unwritten(self, error: OSError) -> Outcome:
        return Outcome(status="killed", reason=f"{self._shared.path} cannot be written: {error.strerror}")

    def _settle_handed(self) -> None:
        """Forget the cells that were handed back: the runner has written them down before it asks again."""
        handed, self._handed = self._handed, []
        if not handed:
            return
        for cell, outcome in handed:
            if outcome.status != "ok":
                self._keep_logs.update(task.job_id for task in self._ledger.tasks if cell.key in task.keys)
        done = [outcome.duration_s for _, outcome in handed if outcome.status == "ok"]
        self._ledger.settle([cell.key for cell, _ in handed], done)
        for cell, _ in handed:
            self._shared.remove(cell.key)

    def _abandon(self) -> None:
        """Cancel what is still out."""
        active = self._active()
        if active:
            self._queue.cancel(task.job_id for task in active)
            self._ledger.settle(self._cells)
        self._cells.clear()
        self._held.clear()
        if not self._ledger.tasks:
            self._queue.tidy(self._keep_logs)
        self._ledger.close()
