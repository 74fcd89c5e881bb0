"""Cells in this very process, one after the other: for debuggers and for machines that allow nothing else."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from mmbench.executors import OFFLINE, Job, Outcome, Running
from mmbench.executors.child import execute


class InlineExecutor:
    """Runs a cell inside `wait`. Nothing is isolated: limits of time and memory are not kept, a crash is a crash.

    The current folder and the environment are put back after each cell; a cell is told to stay off the network.

    Args:
        on_error: Told every exception of a cell while its frames are alive, for `pdb.post_mortem`.
    """

    capacity = 1

    def __init__(self, *, on_error: Callable[[BaseException], None] | None = None) -> None:
        self._on_error = on_error
        self._jobs: list[Job] = []
        self._cancelled: list[Job] = []
        self._started = 0.0

    def submit(self, job: Job) -> None:
        """Keep a job for the next `wait`."""
        self._jobs.append(job)

    def wait(self, timeout_s: float) -> list[tuple[Job, Outcome]]:
        """Run the next job to its end, however long that takes."""
        if self._cancelled:
            jobs, self._cancelled = self._cancelled, []
            return [(job, Outcome(status="interrupted", reason="interrupted before it began")) for job in jobs]
        if not self._jobs:
            return []
        job = self._jobs[0]
        started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._started = time.monotonic()
        try:
            with _put_back(), _interruptible():
                outcome = execute(job.function, job.payload, job.folder, on_error=self._on_error)
        except KeyboardInterrupt:  # between the cell and us
            outcome = {"status": "interrupted", "reason": "interrupted while it ran"}
        self._jobs.remove(job)
        duration_s = time.monotonic() - self._started
        return [(job, Outcome.from_json(outcome, duration_s=duration_s, started_at=started_at))]

    def running(self) -> list[Running]:
        """Return the jobs not yet handed back."""
        return [Running(job=job, elapsed_s=time.monotonic() - self._started) for job in self._jobs]

    def cancel(self) -> None:
        """Give up jobs that have not begun; one that runs is ended by the signal that led here."""
        self._cancelled, self._jobs = self._cancelled + self._jobs, []

    def close(self) -> None:
        """Forget all jobs."""
        self._jobs.clear()
        self._cancelled.clear()

    def __enter__(self) -> InlineExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _put_back() -> Iterator[None]:
    folder, variables = Path.cwd(), dict(os.environ)
    os.environ.update(OFFLINE)
    try:
        yield
    finally:
        if dict(os.environ) != variables:
            os.environ.clear()
            os.environ.update(variables)
        with suppress(OSError):
            os.chdir(folder)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn signals into KeyboardInterrupt in the cell, and pass them on to whoever handled them before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def interrupt(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        raise KeyboardInterrupt

    before: dict[int, Any] = {signum: signal.signal(signum, interrupt) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        for signum in received[:1]:
            if callable(before[signum]):
                before[signum](signum, None)
