"""Cells on Ray: a local one, or a cluster that is already there, with fractions of GPUs.

What talks to Ray is a process of its own (`mmbench_executors.ray_driver`): Ray's client prints, handles signals, waits
for minutes for an address where nobody listens and ends its process when the cluster's head is gone. None of that may
happen to the process that keeps the journal, which therefore never imports Ray.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from mmbench.environment import usable_cpus
from mmbench.errors import Unavailable, UsageError
from mmbench.executors import Job, Outcome, Running
from mmbench.executors.child import one_line
from mmbench.executors.peer import Peer
from mmbench_executors.request import make_request, outcome_from_json

#: Starting a local Ray takes 5 to 12 s on a busy machine of two cores; a head that answers is joined within a second.
START_S = 90.0
#: How long the machine that listens at an address may take to accept a connection.
CONNECT_S = 5.0
#: How long a cluster may be without any node that a cell fits on, as when nodes are being replaced.
NO_NODE_S = 30.0
#: How long the driver may take to leave the cluster, or to end a local one.
CLOSE_S = 15.0
LOG_FILE = "driver.log"


@dataclass
class _Task:
    """A job under way."""

    job: Job
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None


class RayExecutor:
    """Runs each cell as a Ray task that asks for CPUs and GPUs, in a process of its own on the node that Ray picks.

    Nodes need mmbench, the plugins, the data and the cache; nothing else is shared: a cell writes on its node, and its
    files come back through Ray. A cell whose node or Ray worker is lost is run again on another, three times at most.
    Ray is started, or joined, when the first cell is asked for.

    Args:
        folder: For the log of the process that talks to Ray.
        jobs: How many cells may run at once; 0 as many as fit.
        threads: For the numerical libraries of each cell.
        address: "local" starts Ray here; "auto" finds one that runs on this machine; else HOST:PORT of its head.
        cpus: For each cell; by default one for each of its threads.
        gpus: For each cell: a fraction of one, or a whole number.

    Raises:
        UsageError: an option makes no sense.
    """

    def __init__(
        self,
        folder: Path,
        *,
        jobs: int = 0,
        threads: int = 1,
        address: str = "local",
        cpus: float | None = None,
        gpus: float = 0.0,
    ) -> None:
        self._folder, self._jobs, self._threads = folder, jobs, threads
        self._address = _checked_address(address)
        self._cpus = _checked_amount("cpus", threads if cpus is None else cpus)
        self._gpus = _checked_amount("gpus", gpus)
        if self._gpus > 1 and self._gpus != int(self._gpus):
            raise UsageError(f"ray: gpus must be a fraction of one GPU or a whole number, got {gpus:g}")
        if not (self._cpus or self._gpus):
            raise UsageError("ray: cpus and gpus are both 0, so that nothing bounds how many cells run at once")
        self._driver: Peer | None = None
        self._tasks: dict[int, _Task] = {}
        self._finished: list[tuple[Job, Outcome]] = []
        self._num_submitted = 0
        self._slots: Mapping[str, int] = {}
        self._without_node_since: float | None = None
        self._why_without = ""

    @property
    def capacity(self) -> int:
        """Return how many cells fit on the nodes that are there now, `jobs` at most.

        Raises:
            Unavailable: Ray cannot be started, or reached, or no node is large enough.
        """
        self._poll(0)
        self._start()
        # While no node is there, one job waits for one.
        slots = max(1, sum(self._slots.values()))
        return min(slots, self._jobs) if self._jobs else slots

    def submit(self, job: Job) -> None:
        """Hand a job to Ray.

        Raises:
            Unavailable: Ray cannot be started, or reached, or no node is large enough.
        """
        driver = self._start()
        shared = any(slots > 1 for slots in self._slots.values())
        payload = {**job.payload, "contended": True} if shared and "contended" in job.payload else job.payload
        self._num_submitted += 1
        self._tasks[self._num_submitted] = _Task(job)
        driver.send(
            op="submit",
            job=self._num_submitted,
            request=make_request(job, threads=self._threads, payload=payload),
            cwd=str(Path.cwd()),
        )

    def wait(self, timeout_s: float) -> list[tuple[Job, Outcome]]:
        """Return jobs that ended; at most `timeout_s` later.

        Raises:
            Unavailable: for half a minute no node has been there that a cell fits on.
        """
        until = time.monotonic() + timeout_s
        while True:
            left = until - time.monotonic()
            if self._tasks:
                self._poll(0 if self._finished else max(0.0, left))
                self._check_nodes()
            if self._finished or not self._tasks or left <= 0:
                finished, self._finished = self._finished, []
                return finished

    def running(self) -> list[Running]:
        """Return the jobs under way, those that wait for a node too."""
        now = time.monotonic()
        tasks = self._tasks.values()
        return [Running(job=task.job, elapsed_s=now - (task.started or task.submitted)) for task in tasks]

    def cancel(self) -> None:
        """End all jobs as "interrupted": SIGINT for each on its node; a second call kills at once."""
        if self._driver is not None:
            self._driver.send(op="cancel")

    def close(self) -> None:
        """End what still runs, leave the cluster, and end Ray where it was started here."""
        self._tasks.clear()
        self._bury(grace_s=CLOSE_S)

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> Peer:
        """Start the driver, if none runs, and wait until it has joined Ray; return it."""
        if self._driver is not None:
            return self._driver
        host, _, port = self._address.rpartition(":")
        if host:
            _check_that_somebody_listens(host, int(port))
        options = {"address": self._address, "cpus": self._cpus, "gpus": self._gpus}
        if self._address == "local":
            cells = self._jobs or max(1, usable_cpus() // self._threads)
            options["num_cpus"] = max(1, math.ceil(cells * self._cpus))
        # Ray puts the current folder on the path of its workers: modules must not come from there by accident.
        log = (self._folder / LOG_FILE).open("w+b")
        driver = self._driver = Peer("mmbench_executors.ray_driver", options, output=log, cwd=self._folder)
        self._slots = {}
        self._without_node_since = None
        until = time.monotonic() + START_S
        while not self._slots:
            said = driver.poll(0.2)
            if said is None:
                raise self._unusable(self._bury())
            for message in said:
                self._take(message)
            if time.monotonic() > until:
                self._bury()
                raise self._unusable(f"it took longer than {START_S:g} s; see {self._folder / LOG_FILE}")
        return driver

    def _unusable(self, why: str) -> Unavailable:
        return Unavailable(f"Ray cannot be used at address {self._address!r}: {why}")

    def _poll(self, timeout_s: float) -> None:
        """Take what the driver says, waiting for it at most so long."""
        if self._driver is None:
            return
        said = self._driver.poll(timeout_s)
        if said is None:
            self._lose(self._bury())
            return
        for message in said:
            self._take(message)

    def _take(self, message: Mapping[str, Any]) -> None:
        match message["event"]:
            case "failed":
                self._bury()
                raise self._unusable(message["reason"])
            case "cluster":
                self._slots = message["slots"]
                self._why_without = message["why"]
                if not self._slots and not self._tasks:
                    self._bury()
                    raise Unavailable(self._why_without)
            case "started" if message["job"] in self._tasks:
                self._tasks[message["job"]].started = time.monotonic()
            case "ended" if message["job"] in self._tasks:
                task = self._tasks.pop(message["job"])
                self._finished.append((task.job, outcome_from_json(message["outcome"])))

    def _check_nodes(self) -> None:
        """Give up when no node has been there for long: a task that fits nowhere waits for ever."""
        now = time.monotonic()
        if self._slots or not self._tasks:
            self._without_node_since = None
            return
        self._without_node_since = self._without_node_since or now
        if now - self._without_node_since > NO_NODE_S:
            raise Unavailable(f"{self._why_without}; the same command goes on where this one stopped")

    def _lose(self, reason: str) -> None:
        """End every job, because the driver is gone and its tasks with it."""
        said = one_line(f"the connection to Ray at address {self._address!r} was lost: {reason}")
        for task in self._tasks.values():
            duration_s = time.monotonic() - (task.started or task.submitted)
            self._finished.append((task.job, Outcome(status="killed", reason=said, duration_s=duration_s)))
        self._tasks.clear()

    def _bury(self, *, grace_s: float = 0.0) -> str:
        """End the driver and return how it went, in words."""
        driver, self._driver = self._driver, None
        return driver.end(grace_s=grace_s) if driver is not None else ""


def _checked_address(address: str) -> str:
    if address.startswith("ray://"):
        raise UsageError(
            f"ray: {address!r} is the address of a Ray client server, which cannot hand back results as they come. Run "
            "on a node of the cluster with address=auto, or give HOST:PORT of its head (`ray status` there shows it)"
        )
    host, _, port = address.rpartition(":")
    if address not in ("local", "auto") and not (host and port.isdecimal() and int(port) < 2**16):
        raise UsageError(f"ray: address must be local, auto or HOST:PORT of the cluster's head, got {address!r}")
    return address


def _checked_amount(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise UsageError(f"ray: {name} must be a number of at least 0, got {value!r}")
    return float(value)


def _check_that_somebody_listens(host: str, port: int) -> None:
    """Ask before Ray does, which would try for two minutes.

    Raises:
        Unavailable: nobody does.
    """
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or error
        raise Unavailable(
            f"no Ray cluster answers at {host}:{port} ({why}). `ray start --head` begins one; "
            "`ray status` on its head shows the address"
        ) from None
