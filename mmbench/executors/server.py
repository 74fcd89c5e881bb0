"""The fork server: a process that has imported what cells need, and forks one child per cell in a few milliseconds.

The standard library's forkserver is not used: it imports the caller's main module again in every child, takes one
set of environment variables per program, dies of a preload that raises, stays alive as long as any child does, and
sends pickles. This one reads JSON lines from a socket and answers with JSON lines:

    {"op": "start", "job": 1, "function": …, "payload": …, "folder": …, "threads": 1}
    {"event": "ready"}   {"event": "started", "job": 1, "pid": 4711}   {"event": "exited", "job": 1, "code": -9}

When the other end of the socket closes, however that came about, it kills every cell and ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mmbench.executors import child
from mmbench.executors.watch import child_pids, kill_tree

#: How long strays of an ended cell may take to die before its end is reported all the same.
_SWEEP_S = 2.0


def main(fd: int, parent_pid: int, preload: Sequence[str]) -> None:
    """Serve on an inherited socket until it closes.

    Args:
        fd: The socket.
        parent_pid: The process at its other end.
        preload: Modules to import before the first fork; one that cannot be imported is left to the cells to report.
    """
    # A preload that hangs would not notice a closed socket.
    child.die_with_parent(parent_pid)
    child.keep_freed_memory()  # forked children inherit it
    for module in preload:
        try:
            importlib.import_module(module)
        except BaseException:  # the cells that need it will raise it again, and say so
            traceback.print_exc()
    # Objects that the collector never visits stay in pages that all children share.
    gc.collect()
    gc.freeze()
    child.outlive_parent()
    child.adopt_orphans()
    Server(socket.socket(fileno=fd)).serve()


class Server:
    """The loop of the fork server.

    Args:
        connection: The socket to the executor.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._jobs: dict[int, int] = {}  # pid -> number of the job
        self._buffer = b""
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def serve(self) -> None:
        """Start and reap cells until the other end closes, then leave no process behind."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        selector = selectors.DefaultSelector()
        selector.register(self._connection, selectors.EVENT_READ)
        selector.register(self._wake_read, selectors.EVENT_READ)
        self._selector = selector
        try:
            self._send(event="ready")
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._wake_read in ready:
                    with suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                    self._reap()
                if self._connection in ready and not self._receive():
                    break
        except OSError:
            pass  # the executor is gone
        finally:
            for pid in list(self._jobs):
                kill_tree(pid)
            self._jobs.clear()
            self._sweep()

    def _receive(self) -> bool:
        data = self._connection.recv(1 << 16)
        self._buffer += data
        while b"\n" in self._buffer:
            line, self._buffer = self._buffer.split(b"\n", 1)
            self._start(json.loads(line))
        return bool(data)

    def _start(self, job: dict[str, Any]) -> None:
        server_pid = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._send(event="refused", job=job["job"], reason=f"no process can be started: {error.strerror}")
            return
        if pid == 0:
            self._become_cell(job, server_pid)
        self._jobs[pid] = job["job"]
        self._send(event="started", job=job["job"], pid=pid)

    def _become_cell(self, job: dict[str, Any], server_pid: int) -> None:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            self._connection.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            child.run_and_leave(job, parent_pid=server_pid)
        finally:
            os._exit(1)

    def _reap(self) -> None:
        exited: list[tuple[int, int]] = []
        while True:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if info is None:
                break
            pid = info.si_pid
            if pid in self._jobs:
                # Until it is reaped, its number cannot belong to another process.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
                exited.append((self._jobs.pop(pid), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
            else:
                os.waitpid(pid, 0)
        if exited:
            self._sweep()
        for number, code in exited:
            self._send(event="exited", job=number, code=code)

    def _sweep(self) -> None:
        """Kill every child that is not a cell: descendants that an ended cell left, handed up to this process."""
        until = time.monotonic() + _SWEEP_S
        while time.monotonic() < until:
            strays = [pid for pid in child_pids(os.getpid()) if pid not in self._jobs]
            if not strays:
                return
            for pid in strays:
                kill_tree(pid)
                with suppress(ChildProcessError):
                    if os.waitpid(pid, os.WNOHANG)[0] == 0:
                        time.sleep(0.001)

    def _send(self, **message: Any) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\n")
