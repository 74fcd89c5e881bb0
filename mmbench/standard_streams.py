"""Standard output that may be full, closed or a pipe that nobody reads: work goes on, and what was lost is said."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmbench.errors import OutputError

_NAMES = ("stdin", "stdout", "stderr")


class _Output(io.FileIO):
    """A descriptor that is written to until that fails, and from then on takes what is written to nowhere.

    Args:
        descriptor: Of the stream.
        keeps_going: Whether a failure raises nothing.
    """

    def __init__(self, descriptor: int, *, keeps_going: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._keeps_going = keeps_going
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        if self.error is None:
            try:
                return super().write(data)
            except BlockingIOError:
                raise
            except OSError as error:
                self.error = error
                if not self._keeps_going:
                    raise _in_words(error) from None
        return memoryview(data).nbytes


@contextmanager
def lasting_streams(*, keeps_going: bool) -> Iterator[None]:
    """Let a command write to standard output and standard error whatever these are.

    A descriptor that was closed before the program began leads to the null device: otherwise the next file that is
    opened would take its number, and what a library prints would be written into that file.

    Args:
        keeps_going: Whether the command goes on where its output cannot be written, because it is there for something
            else. What standard error loses ends no command.

    Raises:
        OutputError: standard output could not be written.
        BrokenPipeError: nobody reads standard output any more, and the command is there for its output.
    """
    _open_closed()
    if os.name != "posix":
        yield
        return
    output = _lasting("stdout", keeps_going=keeps_going)
    _lasting("stderr", keeps_going=True)
    try:
        yield
    finally:
        if output is not None:
            sys.stdout.flush()  # not at the end of the interpreter, which would only say that it was ignored
            if keeps_going and output.error is not None and output.error.errno != errno.EPIPE:
                raise _in_words(output.error)


def _in_words(error: OSError) -> Exception:
    if error.errno == errno.EPIPE:
        return error
    return OutputError(f"standard output cannot be written: {error.strerror or error}; make room, or send it elsewhere")


def _lasting(name: str, *, keeps_going: bool) -> _Output | None:
    """Put a stream that outlasts failures in the place of the interpreter's; None where another has been put there."""
    stream = getattr(sys, name)
    if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
        return None
    stream.flush()
    raw = _Output(stream.fileno(), keeps_going=keeps_going)
    text = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    setattr(sys, name, text)
    return raw


def _open_closed() -> None:
    for number, name in enumerate(_NAMES):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
        setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: PTH123, SIM115
