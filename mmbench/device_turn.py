"""Several cells compute on one device, one at a time measures on it: those who train let those who measure be alone.

Cells take turns by themselves, epoch by epoch. That two commands never measure side by side, whatever runs beside
them, is what `mmbench.device_lock` is for.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

#: How long a measurement waits for the others to come to the end of an epoch before it runs beside them.
WAIT_S = 30.0
_POLL_S = 0.01


class DeviceTurn:
    """A cell's place on a device that it shares; used as a context, from its first work there to its last.

    Whoever computes holds the room, shared. Whoever wants to be alone closes the gate first, so that nobody enters any
    more, and has the room to itself when the others have left it, which they do in `pause`. Both are locks of the
    operating system on files: they go when a process does, however it ends.

    Args:
        device: What others call it too, on this machine, as `gpu_name` does. None is a device that is not shared by
            turns: nothing ever waits, and nobody is known to be alone.
        folder: Where the locks lie, as in `lock_stem`.
    """

    def __init__(self, device: str | None, folder: Path | None = None) -> None:
        self._is_shared = device is not None and sys.platform != "win32"
        self._stem = lock_stem(device or "", folder)
        self._gate = self._room = -1
        self._stack = ExitStack()

    def __enter__(self) -> DeviceTurn:
        if not self._is_shared:
            return self
        try:
            self._gate, self._room = (self._open(self._stem.with_suffix(f".{part}.lock")) for part in ("gate", "room"))
            self._enter()
            # Only now: who has not entered yet holds nothing of the device.
            self._sign()
        except OSError:  # the folder cannot be written, or somebody else's files lie there: measure as best we can
            self._leave()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def pause(self) -> None:
        """Let those be alone who wait for it; call it between two epochs, when the device has nothing left to do."""
        if self._room >= 0:
            _unlock(self._room)
            self._enter()

    @contextmanager
    def alone(self, wait_s: float = WAIT_S) -> Iterator[bool | None]:
        """Have the device to oneself until the end of the block, among all who take turns.

        Gives True, False where the others did not leave within `wait_s`, and None where turns are not taken here.
        """
        if self._room < 0:
            yield None
            return
        # Two who want to be alone would wait for each other's share for ever: ours goes first.
        _unlock(self._room)
        until = time.monotonic() + wait_s
        mine = False
        try:
            if _locked_before(self._gate, until):
                mine = _locked_before(self._room, until)
                if not mine:
                    _unlock(self._gate)
            if not mine:
                self._enter()
            yield mine
        finally:
            if mine:
                _unlock(self._room)
                _unlock(self._gate)
                self._enter()

    def num_others(self) -> int:
        """Return how many other processes take turns on the device now."""
        if self._room < 0:
            return 0
        found = 0
        for path in self._present.iterdir():
            with suppress(OSError):  # gone meanwhile, or another user's
                descriptor = os.open(path, os.O_RDWR)
                try:
                    if path.name == str(os.getpid()) or _locked(descriptor):
                        continue
                    found += 1
                finally:
                    os.close(descriptor)
        return found

    @property
    def _present(self) -> Path:
        return self._stem.with_suffix(".present")

    def _open(self, path: Path) -> int:
        descriptor = open_among_others(path, os.O_RDWR)
        self._stack.callback(os.close, descriptor)
        return descriptor

    def _sign(self) -> None:
        with suppress(FileExistsError):
            self._present.mkdir()
            self._present.chmod(0o777)  # every user signs here
        own = self._present / str(os.getpid())
        # Neither waited for nor taken away: a process of another container may have the same number.
        if _locked(self._open(own)):
            self._stack.callback(own.unlink, missing_ok=True)

    def _enter(self) -> None:
        _lock(self._gate)
        _lock(self._room, shared=True)
        _unlock(self._gate)

    def _leave(self) -> None:
        self._stack.close()
        self._gate = self._room = -1


def lock_stem(device: str, folder: Path | None = None) -> Path:
    """Return where the locks of a device lie, but for their suffix.

    Args:
        device: What all who ask call it.
        folder: By default $MMBENCH_LOCKS, or the folder for temporary files.

    >>> lock_stem("cuda:0", Path("locks")).name
    'mmbench-cuda-0'
    """
    folder = folder or Path(os.environ.get("MMBENCH_LOCKS") or tempfile.gettempdir())
    return folder / f"mmbench-{re.sub(r'[^A-Za-z0-9]+', '-', device)}"


def open_among_others(path: Path, flags: int) -> int:
    """Open or make a file that every user may write; follow no link that somebody may have put in its place."""
    flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        # Without O_CREAT, which Linux refuses for another user's file in a folder such as /tmp.
        return os.open(path, flags)
    except FileNotFoundError:
        descriptor = os.open(path, flags | os.O_CREAT, 0o666)
        if sys.platform != "win32":
            os.fchmod(descriptor, 0o666)  # whatever the umask
        return descriptor


def gpu_name(index: int, visible: str | None) -> str:
    """Return what to call a GPU before anything is asked of it: by its place on the machine, or by its UUID.

    Args:
        index: Among those that this process sees.
        visible: $CUDA_VISIBLE_DEVICES, which renumbers them.

    >>> gpu_name(1, None), gpu_name(1, "4,6"), gpu_name(0, "GPU-8932f937")
    ('gpu-1', 'gpu-6', 'gpu-GPU-8932f937')
    """
    places = [place.strip() for place in (visible or "").split(",") if place.strip()]
    return f"gpu-{places[index] if index < len(places) else index}"


def _lock(descriptor: int, *, shared: bool = False) -> None:
    fcntl = _fcntl()
    fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def _locked(descriptor: int) -> bool:
    """Take a lock that nobody else holds; return whether that was so."""
    fcntl = _fcntl()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked_before(descriptor: int, until: float) -> bool:
    while not _locked(descriptor):
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL_S)
    return True


def _unlock(descriptor: int) -> None:
    fcntl = _fcntl()
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def _fcntl() -> Any:
    import fcntl  # not on Windows, where turns are not taken

    return fcntl
