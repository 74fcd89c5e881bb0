"""Two ways to start the process of a cell: forked by a server that has everything imported, or from nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from mmbench.executors import OFFLINE, Job
from mmbench.executors.peer import Peer, python

JOB_FILE = ".job.json"
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(frozen=True, kw_only=True)
class Started:
    """The process of a job runs."""

    job: int
    pid: int


@dataclass(frozen=True, kw_only=True)
class Exited:
    """The process of a job has ended; `code` is minus the signal's number where a signal ended it."""

    job: int
    code: int


@dataclass(frozen=True, kw_only=True)
class Refused:
    """The process of a job could not be started."""

    job: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Lost:
    """Whatever started the processes has died and its cells with it; the next `start` begins anew."""

    reason: str


Message: TypeAlias = Started | Exited | Refused | Lost


class Launcher(Protocol):
    """Starts processes and says what became of them."""

    def start(self, number: int, job: Job) -> None:
        """Start the process of a job; how that went is a message."""

    def poll(self, timeout_s: float) -> Sequence[Message]:
        """Return what happened, waiting for it at most so long."""

    def kill(self) -> None:
        """End what starts the processes, when it no longer answers; `poll` then says `Lost`."""

    def close(self) -> None:
        """End. The caller has ended the jobs."""


def environment(threads: int) -> dict[str, str]:
    """Return the variables for the processes of cells: so many threads, no network, the same order of sets always."""
    variables = dict.fromkeys(_THREAD_VARIABLES, str(threads))
    return {"PYTHONHASHSEED": "0", **os.environ, **variables, **OFFLINE}


class ForkLauncher:
    """Forks each process from `mmbench.executors.server`, which starts with the first job (POSIX).

    Args:
        preload: Modules that the server imports once.
        threads: For the numerical libraries of each cell.
    """

    def __init__(self, preload: Sequence[str], threads: int) -> None:
        self._preload = tuple(preload)
        self._threads = threads
        self._server: Peer | None = None

    @property
    def server_pid(self) -> int | None:
        """Return the process number of the server, or None while there is none."""
        return self._server.pid if self._server else None

    def start(self, number: int, job: Job) -> None:
        if self._server is None:
            self._server = Peer(
                "mmbench.executors.server",
                os.getpid(),
                self._preload,
                output=tempfile.TemporaryFile(),  # noqa: SIM115  (lives as long as the server)
                env=environment(self._threads),
            )
        self._server.send(op="start", job=number, **_request(job, self._threads))

    def poll(self, timeout_s: float) -> list[Message]:
        if self._server is None:
            return []
        said = self._server.poll(timeout_s)
        if said is None:
            server, self._server = self._server, None
            return [Lost(reason=f"the fork server ended with {server.end()}")]
        return [message for data in said if (message := _message(data)) is not None]

    def kill(self) -> None:
        if self._server is not None:
            self._server.kill()

    def close(self) -> None:
        if self._server is not None:
            self._server.end(grace_s=5)
            self._server = None


class SpawnLauncher:
    """Starts a fresh interpreter for each process: slower by the time of the imports, and works everywhere.

    Args:
        threads: For the numerical libraries of each cell.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._messages: list[Message] = []

    def start(self, number: int, job: Job) -> None:
        job_file = job.folder / JOB_FILE
        try:
            job_file.write_text(json.dumps(_request(job, self._threads)))
            self._processes[number] = subprocess.Popen(
                python("mmbench.executors.child", f"main({str(job_file)!r}, {os.getpid()})"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(self._threads),
                start_new_session=True,
            )
        except OSError as error:
            self._messages.append(Refused(job=number, reason=f"no process can be started: {error.strerror}"))
            return
        self._messages.append(Started(job=number, pid=self._processes[number].pid))

    def poll(self, timeout_s: float) -> list[Message]:
        until = time.monotonic() + timeout_s
        while True:
            messages, self._messages = self._messages, []
            for number, process in list(self._processes.items()):
                if _has_ended(process):
                    del self._processes[number]
                    messages.append(Exited(job=number, code=process.returncode))
            if messages or time.monotonic() >= until:
                return messages
            time.sleep(0.01)

    def kill(self) -> None:
        """Do nothing: nothing stands between this process and its cells."""

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._processes.clear()


StartMethod: TypeAlias = Literal["fork", "spawn"]
#: Forking is unsafe on macOS once system libraries are loaded, and does not exist on Windows.
DEFAULT_START_METHOD: StartMethod = "fork" if sys.platform == "linux" else "spawn"


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process has ended, and end what is left of its group before its number can be given away."""
    if hasattr(os, "waitid"):
        with suppress(ChildProcessError):
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.poll() is not None


def _request(job: Job, threads: int) -> dict[str, Any]:
    return {
        "function": job.function,
        "payload": dict(job.payload),
        "folder": str(job.folder.absolute()),
        "threads": threads,
        "nonce": job.nonce,
    }


def _message(data: Mapping[str, Any]) -> Message | None:
    match data["event"]:
        case "started":
            return Started(job=data["job"], pid=data["pid"])
        case "exited":
            return Exited(job=data["job"], code=data["code"])
        case "refused":
            return Refused(job=data["job"], reason=data["reason"])
    return None
