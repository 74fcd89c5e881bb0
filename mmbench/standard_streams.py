"""Standard streams that may be closed, full or a broken pipe: work continues, and lost standard output is an error."""

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
    """A descriptor that discards what is written after the first failure.

    Args:
        descriptor: Of the stream.
        continue_on_error: Whether a failure raises nothing.
    """

    def __init__(self, descriptor: int, *, continue_on_error: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._continue_on_error = continue_on_error
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        if self.error is None:
            try:
                return super().write(data)
            except BlockingIOError:
                raise
            except OSError as error:
                self.error = error
                if not self._continue_on_error:
                    raise _output_error(error) from None
        return memoryview(data).nbytes


@contextmanager
def robust_streams(*, continue_on_error: bool) -> Iterator[None]:
    """Let a command write to standard output and standard error in any state of them.

    A descriptor that was closed before the program began is opened on the null device: otherwise the next file that is
    opened would take its number, and what a library prints would be written into that file.

    Args:
        continue_on_error: Whether the command continues if standard output cannot be written, since it does more than
            print. A failure of standard error ends no command.

    Raises:
        OutputError: standard output could not be written.
        BrokenPipeError: the reader of standard output is gone, and the command only prints.
    """
    _reopen_closed()
    if os.name != "posix":
        yield
        return
    output = _replace_stream("stdout", continue_on_error=continue_on_error)
    _replace_stream("stderr", continue_on_error=True)
    try:
        yield
    finally:
        if output is not None:
            sys.stdout.flush()  # not at the end of the interpreter, which would only say that it was ignored
            if continue_on_error and output.error is not None and output.error.errno != errno.EPIPE:
                raise _output_error(output.error)


def _output_error(error: OSError) -> Exception:
    if error.errno == errno.EPIPE:
        return error
    return OutputError(f"standard output cannot be written: {error.strerror or error}; make room, or send it elsewhere")


def _replace_stream(name: str, *, continue_on_error: bool) -> _Output | None:
    """Replace a stream of the interpreter by one that survives failures; None if it was replaced already."""
    stream = getattr(sys, name)
    if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
        return None
    stream.flush()
    raw = _Output(stream.fileno(), continue_on_error=continue_on_error)
    text = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    setattr(sys, name, text)
    return raw


def _reopen_closed() -> None:
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
