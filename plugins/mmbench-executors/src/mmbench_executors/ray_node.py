"""A cell on a node of a Ray cluster: run it beside the Ray worker, and hand back its files and how it went."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray

from mmbench.executors import Outcome
from mmbench.executors.child import one_line
from mmbench.executors.watch import default_memory_bytes
from mmbench_executors.request import outcome_to_json
from mmbench_executors.worker import HOST_LOST, Worker

#: Larger files travel in pieces, so that neither side holds a whole one.
PIECE_BYTES = 16 * 2**20
_PREFIX = "mmbench-ray-"
#: A folder without an owner is left alone while it may be one that is just being made.
_MIN_AGE_S = 60.0


_worker: Worker | None = None
_devices: str | None = None


def run(request: dict[str, Any], *, cwd: str, gpus: float, slots: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Run one cell, as the body of a Ray task.

    Args:
        request: Of `make_request`; its folder is on the submitting machine.
        cwd: Where the user stood: paths in options may be relative to it.
        gpus: What the cell has of them.
        slots: How many cells run at once on each node.

    Yields:
        ``{"node": …}`` at once, ``{"file": …, "data": bytes}`` for each piece of each file, ``{"outcome": JSON}`` last.
    """
    node = ray.get_runtime_context().get_node_id()
    yield {"node": node}
    if not gpus:
        # What Ray does of itself depends on its version: a cell that asks for no GPU sees none.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with suppress(OSError):
        os.chdir(cwd)
    worker = _worker_now()
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    except OSError as error:
        reason = f"host {socket.gethostname()} cannot make a folder for the cell in {tempfile.gettempdir()}: {error}"
        outcome = outcome_to_json(Outcome(status="killed", reason=one_line(reason)))
        yield {"outcome": json.dumps({**outcome, HOST_LOST: True})}
        return
    # Held while this process lives, however it ends: whose lock can be taken is left over.
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    if request["memory_bytes"] is None:
        request = {**request, "memory_bytes": default_memory_bytes(slots.get(node, 1))}
    try:
        outcome = worker.run({**request, "folder": str(folder)})
        yield from _files(folder)
        yield {"outcome": json.dumps(outcome)}
    except KeyboardInterrupt:  # Ray cancels the task
        worker.close()
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _worker_now() -> Worker:
    """Return what this process keeps between cells: a fork server that has imported torch, and sees the right GPUs."""
    global _worker, _devices
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    if _worker is None:
        _sweep()
    elif devices != _devices:
        _worker.close()
        _worker = None
    _worker, _devices = _worker or Worker(), devices
    return _worker


def _files(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob("*")):
        if not stat.S_ISREG(path.lstat().st_mode):
            continue
        name = path.relative_to(folder).as_posix()
        with path.open("rb") as stream:
            data = stream.read(PIECE_BYTES)
            yield {"file": name, "data": data}
            while data := stream.read(PIECE_BYTES):
                yield {"file": name, "data": data}


def _sweep() -> None:
    """Remove what Ray workers left that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime < _MIN_AGE_S:
                continue
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
