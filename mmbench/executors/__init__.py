"""Where cells run: one small interface, several places.

An executor takes jobs, runs each somewhere that cannot hurt the process that keeps the journal, and hands back how
each one went. It knows nothing of plans, stores or retries: those are the runner's. `mmbench.executors.local` runs
every cell in a process of its own, `mmbench.executors.inline` in this one; plugins bring others (`ExecutorSpec`).

An executor whose cells outlive the process that submitted them keeps in its folder what it is to take up again: when a
job of the same cell, attempt and payload is submitted by a later process, it hands back how that one went.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from mmbench.record import Metric, Status

#: `mmbench prepare` alone may use the network: a cell whose weights are not here is told so at once.
OFFLINE: Mapping[str, str] = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One attempt at one cell, as an executor needs to know it.

    Attributes:
        cell_id: 16 hex digits.
        attempt: How often it has been tried, with this time; the journal holds those before.
        function: ``"package.module:function"``, called as ``function(payload, folder)`` where the cell runs; it
            returns ``{"metrics": [Metric.to_json(), …], "info": {…}}`` and may write files into `folder`.
        payload: Plain JSON.
        folder: An existing, empty folder for this attempt alone. The names ``log.txt``, ``traceback.txt`` and
            ``outcome.json`` in it belong to the executor.
        timeout_s: Wall time the cell may take, or None.
        memory_bytes: Host memory that the cell and all processes it starts may hold together, or None.
        nonce: Random; only an outcome that repeats it is this job's, so that no other cell can write one for it.
    """

    cell_id: str
    attempt: int = 1
    function: str
    payload: Mapping[str, Any]
    folder: Path
    timeout_s: float | None = None
    memory_bytes: int | None = None
    nonce: str = field(default_factory=partial(secrets.token_hex, 16), repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt went.

    Attributes:
        status: "ok", or what went wrong.
        reason: "" for "ok", else one line for people.
        metrics: Every number.
        info: Facts beside the numbers, plain JSON.
        duration_s: Wall time from the start of the cell's process to its end.
        started_at: UTC, ISO 8601; "" when it never started.
    """

    status: Status
    reason: str = ""
    metrics: tuple[Metric, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    duration_s: float = 0.0
    started_at: str = ""

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, duration_s: float, started_at: str) -> Outcome:
        """Make it of what `mmbench.executors.child.execute` returned; status and reason alone will do."""
        return cls(
            status=data["status"],
            reason=data["reason"],
            metrics=tuple(Metric.from_json(metric) for metric in data.get("metrics", ())),
            info=data.get("info", {}),
            duration_s=duration_s,
            started_at=started_at,
        )


@dataclass(frozen=True, kw_only=True)
class Running:
    """A cell under way, for the live table; `memory_bytes` is None where nobody measures it."""

    job: Job
    elapsed_s: float
    memory_bytes: int | None = None


class Executor(Protocol):
    """A place where cells run. Used by one thread; `submit` and `wait` are called in turn until nothing runs.

    Attributes:
        capacity: How many jobs it runs at once; the runner submits no more than that.
    """

    capacity: int

    def submit(self, job: Job) -> None:
        """Take a job. Returns at once and does not raise for anything the cell does."""

    def wait(self, timeout_s: float) -> Sequence[tuple[Job, Outcome]]:
        """Return jobs that ended, each exactly once; wait for the first at most `timeout_s`, less if none is left.

        Limits of time and memory are kept in here, so it must be called several times a second while jobs run.
        """

    def running(self) -> Sequence[Running]:
        """Return the jobs that were submitted and have not yet been handed back by `wait`."""

    def cancel(self) -> None:
        """End every job; `wait` then hands each back as "interrupted", unless it was finished already."""

    def close(self) -> None:
        """End every job and leave no process behind. May be called twice."""

    def __enter__(self) -> Executor: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
