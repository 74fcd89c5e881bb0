"""Files with damage, and the bounds within which they are read or refused."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MOST_SECONDS = 10
_MOST_KIB = 1 << 20


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut, overwrite, repeat or drop some bytes, most often in the header."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        place = rng.randrange(min(len(changed), 200) if rng.random() < 0.7 else len(changed)) if changed else 0
        action = rng.random()
        if action < 0.55 and changed:
            changed[place] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif action < 0.7 and changed:
            width = rng.choice((2, 4, 8))
            changed[place : place + width] = rng.choice((b"\xff" * width, b"\0" * width, rng.randbytes(width)))
        elif action < 0.85:
            del changed[place : place + rng.randrange(1, 50)]
        elif action < 0.95:
            changed = changed[: rng.randrange(len(changed) + 1)]
        else:
            changed[place:place] = changed[: rng.randrange(1, 60)]
    return bytes(changed)


@contextmanager
def bounds() -> Iterator[None]:
    """Check that what is done within takes at most 10 s of this process, and less than 1 GiB beyond what it holds."""
    before = _reset_peak()
    began = time.process_time()
    yield
    assert time.process_time() - began < _MOST_SECONDS
    assert _status("VmHWM") - before < _MOST_KIB


def _reset_peak() -> int:
    """Let the kernel measure the peak of the memory anew; return what is held now, in KiB."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    if sys.platform != "linux":
        return 0
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0])
