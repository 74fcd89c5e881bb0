"""Cells on this machine, each in a process of its own that is watched, limited and cleaned up after."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from mmbench.durable import empty
from mmbench.executors import Job, Outcome, Running
from mmbench.executors.child import (
    LOG_FILE,
    MACHINE_FAULT,
    MAX_OUTCOME_BYTES,
    OUTCOME_FILE,
    UNWRITTEN_EXIT,
    fills_disk,
    one_line,
)
from mmbench.executors.launch import (
    DEFAULT_START_METHOD,
    JOB_FILE,
    Exited,
    ForkLauncher,
    Launcher,
    Lost,
    Message,
    Refused,
    SpawnLauncher,
    Started,
    StartMethod,
)
from mmbench.executors.peer import describe_exit
from mmbench.executors.watch import (
    CappedLog,
    gib,
    kill_tree,
    num_oom_kills,
    pss_bytes,
    rss_bytes,
    signal_tree,
)
from mmbench.record import STATUSES, Metric, Status, check_info

#: Imported once in the server. `torch._dynamo` is what the first optimiser of a process imports, which takes a second.
PRELOAD = (
    "torch",
    "torch._dynamo",
    "torchmetrics.functional",
    "mmbench.blocks",
    "mmbench.cell",
    "mmbench.profiling.rehearsal",
)
#: How often memory, time and logs are looked at.
WATCH_S = 0.1
#: How long the server may take to say that a dead process is dead before it counts as stuck.
STUCK_S = 5.0
#: A disk with less than that is full: an outcome is smaller.
_FULL = "the disk is full"
_FULL_BYTES = MAX_OUTCOME_BYTES


@dataclass
class _Task:
    """A job under way."""

    job: Job
    number: int
    submitted_at: float
    log: CappedLog
    num_oom_kills: int
    pid: int | None = None
    started_at: str = ""
    started: float | None = None
    rss: int | None = None
    verdict: tuple[Status, str] | None = None
    sentenced_at: float = 0.0
    killed: bool = False
    gone_since: float | None = None
    retried: bool = False
    began: bool = False  # whether its process was ever started, this time or before
    process: psutil.Process | None = field(default=None, repr=False)


class LocalExecutor:
    """Runs each cell in its own process, session and log, within limits of time and memory.

    Whatever a cell does, it costs itself only: it may raise, exit, crash, hang, print, allocate or leave processes
    behind. All processes of a cell end with it, and all cells end with this process, even by SIGKILL.

    Args:
        capacity: How many cells run at once.
        threads: For the numerical libraries of each cell.
        preload: Modules imported once, before cells are forked; used by start method "fork" only. Code of plugins does
            not belong here, the libraries that it imports do.
        start_method: "fork" from a server (a cell starts in milliseconds) or "spawn" (a fresh interpreter each);
            None takes "fork" where it is safe.
        grace_s: How long a cell that must end has between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        capacity: int = 1,
        *,
        threads: int = 1,
        preload: Sequence[str] = PRELOAD,
        start_method: StartMethod | None = None,
        grace_s: float = 2.0,
    ) -> None:
        if capacity < 1 or threads < 1:
            raise ValueError(f"capacity and threads must be at least 1, got {capacity} and {threads}")
        self.capacity = capacity
        self._grace_s = grace_s
        self._launcher: Launcher = (
            ForkLauncher(preload, threads)
            if (start_method or DEFAULT_START_METHOD) == "fork"
            else SpawnLauncher(threads)
        )
        self._tasks: dict[int, _Task] = {}
        self._finished: list[tuple[Job, Outcome]] = []
        self._num_submitted = 0
        self._watched_at = 0.0

    def submit(self, job: Job) -> None:
        """Start a job as soon as the server is ready."""
        self._num_submitted += 1
        task = _Task(
            job=job,
            number=self._num_submitted,
            submitted_at=time.monotonic(),
            log=CappedLog(job.folder / LOG_FILE),
            num_oom_kills=num_oom_kills(),
        )
        self._tasks[task.number] = task
        self._launcher.start(task.number, job)

    def wait(self, timeout_s: float) -> list[tuple[Job, Outcome]]:
        """Return jobs that ended; at most `timeout_s` later."""
        until = time.monotonic() + timeout_s
        while True:
            left = until - time.monotonic()
            if self._tasks:
                for message in self._launcher.poll(0 if self._finished else min(WATCH_S, left)):
                    self._take(message)
                self._watch()
            if self._finished or not self._tasks or left <= 0:
                finished, self._finished = self._finished, []
                return finished

    def running(self) -> list[Running]:
        """Return the jobs under way."""
        now = time.monotonic()
        return [
            Running(job=task.job, elapsed_s=now - (task.started or task.submitted_at), memory_bytes=task.rss)
            for task in self._tasks.values()
        ]

    def cancel(self) -> None:
        """End all jobs as "interrupted": SIGTERM, and SIGKILL after the grace. A second call kills at once."""
        for task in self._tasks.values():
            if task.verdict is None:
                self._sentence(task, "interrupted", "interrupted while it ran")
            elif task.pid is not None and self._is_ours(task):
                kill_tree(task.pid)

    def close(self) -> None:
        """Kill what still runs and end the server."""
        for task in self._tasks.values():
            if task.pid is not None and self._is_ours(task):
                kill_tree(task.pid)
        self._tasks.clear()
        self._launcher.close()

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, message: Message) -> None:
        if isinstance(message, Lost):
            self._recover(message.reason)
            return
        task = self._tasks.get(message.job)
        if task is None:
            return
        if isinstance(message, Started):
            task.pid, task.began = message.pid, True
            task.started = time.monotonic()
            task.started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
            with suppress(psutil.Error):
                task.process = psutil.Process(message.pid)
            if task.verdict is not None:
                signal_tree(message.pid, signal.SIGTERM)
        elif isinstance(message, Exited):
            self._finish(task, *self._verdict(task, message.code))
        elif isinstance(message, Refused):
            self._finish(task, "interrupted", message.reason)

    def _watch(self) -> None:
        now = time.monotonic()
        if now - self._watched_at < WATCH_S:
            return
        self._watched_at = now
        for task in self._tasks.values():
            if task.pid is None or task.started is None:
                continue
            task.log.check()
            if not self._is_alive(task):
                task.gone_since = task.gone_since or now
                if now - task.gone_since > STUCK_S:
                    self._launcher.kill()
                continue
            if task.verdict is not None:
                if not task.killed and now - task.sentenced_at > self._grace_s:
                    task.killed = True
                    kill_tree(task.pid)
                continue
            timeout_s, memory_bytes = task.job.timeout_s, task.job.memory_bytes
            if timeout_s is not None and now - task.started > timeout_s:
                reason = f"ran longer than the {timeout_s:g} s it may take; the end of {LOG_FILE} shows where it stood"
                self._sentence(task, "timeout", reason)
                continue
            task.rss = rss_bytes(task.pid)
            # Resident memory counts shared pages once for each process, so it only raises the suspicion.
            if memory_bytes is not None and task.rss > memory_bytes:
                used = pss_bytes(task.pid)
                if used > memory_bytes:
                    kill_tree(task.pid)
                    task.killed = True
                    reason = f"used {gib(used)} of host memory where {gib(memory_bytes)} are allowed for one cell"
                    self._sentence(task, "oom_host", reason)

    def _sentence(self, task: _Task, status: Status, reason: str) -> None:
        """Tell a task to end, for a reason that its outcome will give."""
        task.verdict = (status, reason)
        task.sentenced_at = time.monotonic()
        if task.pid is not None and not task.killed and self._is_ours(task):
            signal_tree(task.pid, signal.SIGTERM)

    def _verdict(self, task: _Task, code: int) -> tuple[Status, str, Mapping[str, Any]]:
        """Return status, reason and outcome of a process that has ended."""
        outcome = _read_outcome(task.job.folder / OUTCOME_FILE, task.job.nonce)
        if outcome is not None:
            return outcome["status"], outcome["reason"], outcome
        if task.verdict is not None:
            return *task.verdict, {}
        if code < 0:
            if code == -signal.SIGKILL and num_oom_kills() > task.num_oom_kills:
                used = f"; it was last seen using {gib(task.rss)}" if task.rss else ""
                return "oom_host", f"the kernel ended it because the machine ran out of memory{used}", {}
            return "killed", f"{describe_exit(code)} ended the process", {}
        if code == UNWRITTEN_EXIT:
            reason = why_unwritten(task.job.folder)
            if reason.endswith(_FULL) and not fills_disk(task.job.folder):
                return "interrupted", reason, {"info": {MACHINE_FAULT: True}}
            return "failed", reason, {}
        last_line = task.log.last_line()
        said = f"; its last line of output: {last_line}" if last_line else ""
        return "failed", one_line(f"the process ended with exit code {code} before the cell was finished{said}"), {}

    def _recover(self, reason: str) -> None:
        """Deal with every job that was under way when the server died."""
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            if task.pid is not None and self._is_ours(task):
                kill_tree(task.pid)
        until = time.monotonic() + STUCK_S
        while any(self._is_alive(task) for task in tasks) and time.monotonic() < until:
            time.sleep(0.002)
        for task in tasks:
            outcome = _read_outcome(task.job.folder / OUTCOME_FILE, task.job.nonce)
            if outcome is not None or task.verdict is not None or task.retried:
                # A cell that never began has done nothing that could have ended the server.
                lost: Status = "killed" if task.began else "interrupted"
                verdict: tuple[Status, str] = task.verdict or (lost, f"{reason}, twice")
                if outcome is not None:
                    verdict = (outcome["status"], outcome["reason"])
                self._finish(task, *verdict, outcome or {})
                continue
            with suppress(OSError):
                empty(task.job.folder)
            self.submit(task.job)
            self._tasks[self._num_submitted].retried = True
            self._tasks[self._num_submitted].began = task.began

    def _finish(self, task: _Task, status: Status, reason: str, outcome: Mapping[str, Any] | None = None) -> None:
        self._tasks.pop(task.number, None)
        task.log.finish()
        for name in (OUTCOME_FILE, f".{OUTCOME_FILE}", JOB_FILE):
            with suppress(OSError):
                (task.job.folder / name).unlink()
        duration_s = time.monotonic() - task.started if task.started else 0.0
        told = {**(outcome or {}), "status": status, "reason": reason}
        self._finished.append((task.job, Outcome.from_json(told, duration_s=duration_s, started_at=task.started_at)))

    def _is_ours(self, task: _Task) -> bool:
        # Compares the time of creation, since the number of a dead process is given to another one day.
        return task.process is not None and task.process.is_running()

    def _is_alive(self, task: _Task) -> bool:
        try:
            return self._is_ours(task) and task.process is not None and task.process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def why_unwritten(folder: Path) -> str:
    """Say why a cell could not write its outcome."""
    if not folder.is_dir():
        return "its result could not be written: its folder is gone"
    free = shutil.disk_usage(folder).free
    why = _FULL if free < _FULL_BYTES else "its folder takes no more files"
    return f"its result could not be written: {why}"


def _read_outcome(path: Path, nonce: str) -> dict[str, Any] | None:
    """Return an outcome that is whole, well formed and of the job with this nonce, or None."""
    try:
        if path.stat().st_size > 2 * MAX_OUTCOME_BYTES:
            return None
        data = json.loads(path.read_bytes())
        if data.pop("nonce") != nonce:
            return None
        for metric in data["metrics"]:
            Metric.from_json(metric)
        check_info(data["info"])
        if data["status"] in STATUSES and isinstance(data["reason"], str) and isinstance(data["info"], dict):
            return {**data, "reason": one_line(data["reason"])}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    return None
