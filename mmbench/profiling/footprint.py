"""Host memory of a model, measured in a process of its own, so that nothing that ran before can show."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

#: Every tensor of some size is mapped by itself and given back when it is freed, as the peak needs it.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}


@dataclass(frozen=True)
class Runs:
    """A freshly built model.

    Attributes:
        infer: One forward pass in evaluation mode.
        step: One training step; None where there is none.
    """

    infer: Callable[[], Any]
    step: Callable[[], Any] | None


Build: TypeAlias = Callable[[], Runs]


def measure_footprint(target: str, payload: Mapping[str, Any], *, timeout_s: float = 600.0) -> dict[str, float] | str:
    """Return peak resident memory of inference and of training, or why it is not known.

    Args:
        target: ``"package.module:function"``; called with the payload in the new process, gives a `Build`.
        payload: Plain JSON.
        timeout_s: After which it is given up.

    Returns:
        Bytes beyond what the process held before the model was built, inputs and libraries left out:
        ``model``, ``inference`` and, where there is a training step, ``training``.
    """
    if not Path("/proc/self/clear_refs").exists():
        return "the peak of resident memory can be taken back to now on Linux only"
    environment = {**os.environ, **_MALLOC}
    job = json.dumps({"target": target, "payload": payload, "path": sys.path})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mmbench.profiling.footprint"],
            input=job, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"the process that measures memory took more than {timeout_s:g} s"
    try:
        found = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"the process that measures memory ended with {done.returncode}: {last[:300]}"
    return {name: float(value) for name, value in found.items()}


def peaks(build: Build) -> dict[str, int]:
    """Measure in this process: build once to load what is loaded once, drop it, build again and watch."""
    runs = build()
    runs.infer()
    if runs.step is not None:
        runs.step()
    del runs
    _give_back()
    before = _status_bytes("VmRSS")
    runs = build()
    _give_back()
    found = {"model": _status_bytes("VmRSS") - before}
    _reset_peak()
    for _ in range(2):
        runs.infer()
    found["inference"] = _status_bytes("VmHWM") - before
    if runs.step is not None:
        _give_back()
        _reset_peak()
        for _ in range(2):
            runs.step()
        found["training"] = _status_bytes("VmHWM") - before
    return found


def main() -> None:
    """Read a job from standard input, write the answer to standard output, and nothing else there."""
    answer = os.dup(1)
    os.dup2(2, 1)  # what plugins print
    job = json.loads(sys.stdin.read())
    sys.path[:] = job["path"]
    module, _, function = job["target"].partition(":")
    build = getattr(importlib.import_module(module), function)(job["payload"])
    with os.fdopen(answer, "w") as stream:
        stream.write(json.dumps(peaks(build)))


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _give_back() -> None:
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    main()
