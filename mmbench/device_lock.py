"""One command at a time measures on one device of this machine, whoever started it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime

from mmbench.device_turn import lock_stem, open_among_others
from mmbench.encoding import parse_json
from mmbench.errors import UsageError


@contextmanager
def alone_on(
    devices: tuple[str, ...], *, wait_s: float = -1.0, on_wait: Callable[[str], None] = lambda holder: None
) -> Iterator[None]:
    """Hold devices until the end of the block; others who ask for one of them wait meanwhile.

    The lock is the operating system's: it goes when its process does, however that ends.

    Args:
        devices: Such as "cpu", "cuda:0".
        wait_s: How long to wait for others; negative for as long as it takes.
        on_wait: Told who holds a device, before waiting for it.

    Raises:
        UsageError: another process holds a device after `wait_s`, or its lock cannot be acquired.
    """
    from filelock import FileLock, Timeout  # takes longer to import than most commands run

    with ExitStack() as stack:
        # Always in the same order: two that want the same two devices must not wait for each other.
        for device in sorted(set(devices)):
            lock = FileLock(lock_stem(device).with_suffix(".lock"), mode=0o666)
            try:
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    on_wait(f"{device} is being measured by {_holder(device)}")
                    lock.acquire(timeout=wait_s)
            except Timeout:
                raise UsageError(
                    f"{device} is still being measured by {_holder(device)} after {wait_s:g} s; try again later"
                ) from None
            except OSError as error:
                # A link, which is not followed, or a folder that others may not write into.
                raise UsageError(
                    f"the lock {lock.lock_file} cannot be taken ({error.strerror or error}); remove it, or set "
                    "MMBENCH_LOCKS to a folder of your own"
                ) from None
            stack.callback(lock.release)
            _sign(device)
        yield


def _sign(device: str) -> None:
    about = {"pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
    with suppress(OSError):  # who waits reads "another process"
        descriptor = open_among_others(lock_stem(device).with_suffix(".json"), os.O_WRONLY | os.O_TRUNC)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(json.dumps(about))


def _holder(device: str) -> str:
    try:
        about = parse_json(lock_stem(device).with_suffix(".json").read_text())
        return f"process {int(about['pid'])} since {about['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
