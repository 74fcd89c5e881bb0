"""A process of our own that is spoken to in lines of JSON, so that what it does can hurt nobody else."""

from __future__ import annotations

import json
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from mmbench.executors.child import one_line
from mmbench.executors.watch import kill_tree


class Peer:
    """Another interpreter, until it ends or `end` is called.

    It is to end when its socket closes. Ctrl-C on the terminal does not reach it: that is for the runner to handle.

    Args:
        module: Its function `main` is called with the number of its end of the socket and with `arguments`.
        arguments: Of those, each what its `repr` is.
        output: Where it prints; can be read, is closed in the end.
        env: Its variables; ours by default.
        cwd: Its folder; ours by default.
    """

    def __init__(
        self,
        module: str,
        *arguments: Any,
        output: IO[bytes],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self._output = output
        self._buffer = b""
        self._connection, theirs = socket.socketpair()
        with theirs:
            words = ", ".join(map(repr, (theirs.fileno(), *arguments)))
            self._process = subprocess.Popen(
                python(module, f"main({words})"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                cwd=cwd,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Return its process number."""
        return self._process.pid

    def send(self, **message: Any) -> None:
        """Say something. That nobody hears it any more is noticed by the next `poll`."""
        with suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def poll(self, timeout_s: float) -> list[dict[str, Any]] | None:
        """Return what it says, waiting for it at most so long; None once it says no more."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            if not selector.select(max(0.0, timeout_s)):
                return []
        try:
            data = self._connection.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def kill(self) -> None:
        """End it when it no longer answers; `poll` then says None."""
        self._process.kill()

    def end(self, *, grace_s: float = 0.0) -> str:
        """Tell it to end, and kill it with all that it started when it takes longer; return how it went, in words."""
        self._connection.close()
        try:
            code = self._process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            kill_tree(self._process.pid)
            code = self._process.wait()
        said = ""
        with self._output, suppress(OSError):
            self._output.seek(0)
            said = one_line(self._output.read()[-4096:].decode("utf-8", "replace").strip().split("\n")[-1])
        return describe_exit(code) + (f"; its last words: {said}" if said else "")


def python(module: str, call: str) -> list[str]:
    """Return the command of an interpreter that imports a module and calls something of it."""
    # The path is given, not inherited: a module that this process can import, a cell can import too, and nothing is
    # imported from the current folder by accident.
    code = f"import sys; sys.path[:] = {[str(Path(entry or '.').absolute()) for entry in sys.path]!r}; "
    return [sys.executable, "-c", code + f"from {module} import main; {call}"]


def describe_exit(code: int) -> str:
    """Return how a process ended in words.

    >>> describe_exit(-11)
    'SIGSEGV (Segmentation fault)'
    >>> describe_exit(3)
    'exit code 3'
    """
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
    return f"{name} ({signal.strsignal(-code)})"
