"""Running somebody else's code so that nothing it does to the process outlives it: state, output and time."""

from __future__ import annotations

import io
import logging
import os
import random
import signal
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, NamedTuple

_LIBRARIES = frozenset(
    ("torch", "pandas", "timm", "transformers", "numpy", "scipy", "sklearn", "torchaudio", "torchvision")
)
_WATCHED_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGCHLD") if hasattr(signal, name)
)
#: A body that waits has so many times the time of one that computes.
WAITING_FACTOR = 6.0
_MAX_CAPTURED_BYTES = 4096
_MAX_NOTE_CHARACTERS = 200


class _Watch(NamedTuple):
    """One piece of the process's state: its name, how to read it (None: there is none) and how to put it back.

    Where big libraries change it too when they are first imported, a plugin that imports one is not blamed.
    """

    what: str
    read: Callable[[], Any]
    restore: Callable[[Any], None]
    libraries_change_it: bool = False


def working_directory() -> str | None:
    """Return the folder that the process is in; None where that was removed."""
    try:
        return os.getcwd()  # noqa: PTH109  (called twice per plugin; Path is slower)
    except FileNotFoundError:
        return None


def _restore_environment(before: dict[str, str]) -> None:
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def _restore_sys_path(before: list[str]) -> None:
    sys.path[:] = before


def _numpy_random_state() -> Any:
    """Return numpy's global state where numpy is loaded; reading it must not import numpy."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is None:
        return None
    kind, keys, *rest = numpy_random.get_state()
    return kind, keys.tobytes(), rest


def _restore_numpy_random_state(before: Any) -> None:
    import numpy as np

    kind, keys, rest = before
    np.random.set_state((kind, np.frombuffer(keys, dtype=np.uint32), *rest))


def _signal_handlers() -> dict[signal.Signals, Any]:
    return {number: signal.getsignal(number) for number in _WATCHED_SIGNALS}


def _restore_signal_handlers(before: dict[signal.Signals, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, handler in before.items():
            if handler is not None:  # None: installed by other means than Python's
                signal.signal(number, handler)


def _log_handlers() -> tuple[list[logging.Handler], int]:
    return list(logging.root.handlers), logging.root.level


def _restore_log_handlers(before: tuple[list[logging.Handler], int]) -> None:
    logging.root.handlers[:], logging.root.level = before


_WATCHES = (
    _Watch("the working directory", working_directory, os.chdir),
    _Watch("environment variables", lambda: dict(os.environ), _restore_environment, libraries_change_it=True),
    _Watch("sys.path", lambda: list(sys.path), _restore_sys_path),
    _Watch("the random module's state", random.getstate, random.setstate),
    _Watch("numpy's random state", _numpy_random_state, _restore_numpy_random_state),
    _Watch("signal handlers", _signal_handlers, _restore_signal_handlers),
    _Watch("the root logger", _log_handlers, _restore_log_handlers, libraries_change_it=True),
)


class _Sink(io.RawIOBase):
    """Keeps the beginning of what is written to it."""

    def __init__(self) -> None:
        self.kept = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        room = _MAX_CAPTURED_BYTES - len(self.kept)
        if room > 0:
            self.kept += bytes(data[:room])
        return len(data)


@contextmanager
def isolated(notes: list[str]) -> Iterator[None]:
    """Put the process's state back afterwards and say in `notes` what was changed; keep output off the terminal."""
    before = [watch.read() for watch in _WATCHES]
    libraries = _LIBRARIES & sys.modules.keys()
    sink = _Sink()
    stream = io.TextIOWrapper(io.BufferedWriter(sink), encoding="utf-8", errors="backslashreplace", write_through=True)
    try:
        with warnings.catch_warnings(), redirect_stdout(stream), redirect_stderr(stream):
            filters = list(warnings.filters)
            try:
                yield
            finally:
                if list(warnings.filters) != filters and libraries == _LIBRARIES & sys.modules.keys():
                    notes.append("changed the warnings filters at import; they were put back")
    finally:
        for watch, value in zip(_WATCHES, before, strict=True):
            if value is not None and watch.read() != value:
                watch.restore(value)
                if not watch.libraries_change_it or libraries == _LIBRARIES & sys.modules.keys():
                    notes.append(f"changed {watch.what} at import; that was put back")
        with suppress(ValueError):  # the plugin closed it
            stream.flush()
        printed = " ".join(sink.kept.decode("utf-8", "replace").split())
        if printed:
            notes.append(f"printed at import: {shortened(printed, _MAX_NOTE_CHARACTERS)}")


class TooSlow(BaseException):
    """Raised inside a plugin that takes too long; no `except Exception` of the plugin's catches it."""


@contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Interrupt the body after `limit_s` of processor time, where signals allow that: in the main thread, on POSIX.

    A body that waits is interrupted after `WAITING_FACTOR` times as long: a busy machine alone refuses no plugin.
    It is interrupted again after as long again: an exception that arises while Python finalises an object is dropped.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        what = "of processor time " if number == signal.SIGPROF else ""
        raise TooSlow(f"it took more than {limit_s if what else WAITING_FACTOR * limit_s:g} s {what}to import")

    handlers = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGPROF)}
    started = time.monotonic()
    for number in handlers:
        signal.signal(number, interrupt)
    again_s = max(limit_s, 0.1)
    signal.setitimer(signal.ITIMER_PROF, limit_s, again_s)
    delay_before, interval = signal.setitimer(signal.ITIMER_REAL, WAITING_FACTOR * limit_s, again_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if delay_before:  # somebody else's alarm, as pytest-timeout's, goes on where it stood
            left = max(delay_before - (time.monotonic() - started), 0.001)
            signal.setitimer(signal.ITIMER_REAL, left, interval)


def shortened(text: str, limit: int) -> str:
    """Return the text, cut with an ellipsis where it is longer than `limit` characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
