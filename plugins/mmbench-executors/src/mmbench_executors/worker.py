"""One cell on a host that was lent: in a process of its own, within limits, and after a look at the host itself.

A host that lost the file system, has a full disk or other versions than the run was planned with costs the cells that
it was given, each with that reason; what a cell does otherwise is told as `mmbench.executors.local` tells it.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from mmbench.executors import Outcome
from mmbench.executors.child import MACHINE_FAULT, one_line
from mmbench.executors.local import PRELOAD, LocalExecutor
from mmbench.executors.watch import default_memory_bytes
from mmbench.record import Status
from mmbench_executors.request import (
    file_digest,
    installed_versions,
    job_of,
    outcome_to_json,
)

#: Written before the cell starts, so that its result, or why it has none, has a place when the disk is full.
RESERVED_BYTES = 64 * 1024
#: How often a running cell's folder is looked for.
LOOK_S = 2.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SAYS_FULL = re.compile(
    r"No space left on device|Disk quota exceeded|\[Errno (?:28|122)\]|the disk (?:is|may be) full", re.IGNORECASE
)

#: Beside an outcome: whether this host can run no other cell either.
HOST_LOST = "host_lost"


class Worker:
    """Runs requests one after the other, each in a process of its own.

    Args:
        preload: Modules imported once, before cells are forked.
    """

    def __init__(self, *, preload: Sequence[str] = PRELOAD) -> None:
        self._preload = tuple(preload)
        self._executor: LocalExecutor | None = None
        self._made_for: tuple[int, list[str]] = (0, [])

    def run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run one request to its end and return how it went, as plain JSON; raises for nothing that the cell does.

        Args:
            request: Of `make_request`.

        Returns:
            What `outcome_from_json` reads; with ``"host_lost": true`` where this host can run no other cell either.
        """
        fault = lacking(request) or unwritable(Path(request["folder"]))
        if fault:
            return _failed("killed", fault, host_lost=True)
        for folder in reversed(request["path"]):
            if folder not in sys.path:
                sys.path.insert(0, folder)
        differing = other_versions(request)
        if differing:
            return _failed("failed", differing)
        outcome, lost = self._run(request)
        if lost or outcome.status in ("failed", "killed") or outcome.info.get(MACHINE_FAULT):
            fault = lacking(request) or _fault_behind(request, outcome.reason)
            if fault:
                said = "" if lost else f"; the cell ended as {outcome.status}: {outcome.reason}"
                outcome = replace(outcome, status="killed", reason=one_line(fault + said))
        return {
            **outcome_to_json(outcome),
            "info": {**outcome.info, "worker": _facts()},
            HOST_LOST: bool(fault),
        }

    def close(self) -> None:
        """End the cell under way, if any, and leave no process behind."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, request: Mapping[str, Any]) -> tuple[Outcome, bool]:
        """Return how the cell ended, and whether it was ended because its folder is gone."""
        job = job_of(request)
        if job.memory_bytes is None:
            job = replace(job, memory_bytes=default_memory_bytes(1))
        executor = self._executor_for(request["threads"])
        executor.submit(job)
        looked_at = time.monotonic()
        lost = False
        while True:
            for _, outcome in executor.wait(0.2):
                return outcome, lost
            now = time.monotonic()
            if not lost and now - looked_at > LOOK_S:
                looked_at = now
                lost = not job.folder.is_dir()
                if lost:
                    executor.cancel()

    def _executor_for(self, threads: int) -> LocalExecutor:
        """Return the executor whose server was started with the modules that can be found now."""
        made_for = (threads, list(sys.path))
        if self._executor is None or self._made_for != made_for:
            self.close()
            self._executor = LocalExecutor(1, threads=threads, preload=self._preload)
            self._made_for = made_for
        return self._executor


def run_to_file(
    worker: Worker,
    request: Mapping[str, Any],
    result: Path,
    *,
    before_writing: Callable[[Mapping[str, Any]], None] = lambda outcome: None,
) -> dict[str, Any]:
    """Run a request and write how it went into a file, which is there whole or not at all; return the same.

    Its place on the disk is taken before the cell starts, so that a disk that is full afterwards can still say so.

    Args:
        worker: Runs it.
        request: Of `make_request`.
        result: The file.
        before_writing: Told the outcome; what it raises leaves the file unwritten.

    Raises:
        OSError: the place cannot be taken, or what was written there is gone.
    """
    beside = result.with_name(f".{result.name}.{socket.gethostname()}.{os.getpid()}.writing")
    reserve(beside)
    try:
        outcome = worker.run(request)
        before_writing(outcome)
        fill(beside, {**outcome, "folder": request["folder"]})
        beside.replace(result)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    return outcome


def reserve(path: Path) -> None:
    """Take the place of a result on the disk."""
    with path.open("wb") as stream:
        stream.write(b" " * RESERVED_BYTES)
        stream.flush()
        os.fsync(stream.fileno())


def fill(path: Path, outcome: Mapping[str, Any]) -> None:
    """Write an outcome over the place taken for it; without its numbers where they are longer and the disk is full."""
    try:
        _overwrite(path, outcome)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        reason = one_line(f"{_full(path.parent)}: the result of {len(json.dumps(outcome))} bytes could not be written")
        kept = {key: value for key, value in outcome.items() if key in ("folder", "duration_s", "started_at")}
        _overwrite(path, {**_failed("killed", reason, host_lost=True), **kept})


def lacking(request: Mapping[str, Any]) -> str:
    """Return which folder this host does not see and the submitting one did, in one sentence, or ""."""
    host = socket.gethostname()
    folder = Path(request["folder"])
    if not folder.is_dir():
        return f"host {host} does not see the cell's folder {folder}: it was removed, or its file system is lost"
    for name in request["folders"]:
        if not Path(name).is_dir():
            return f"host {host} does not see {name}, which the submitting host does: is it mounted there?"
    return ""


def unwritable(folder: Path) -> str:
    """Return why nothing can be written into a folder, in one sentence, or ""."""
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".mmbench-") as stream:
            stream.write(b" " * 16384)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        if error.errno in _FULL:
            return _full(folder)
        return f"host {socket.gethostname()} cannot write into {folder}: {error.strerror or error}"
    return ""


def other_versions(request: Mapping[str, Any]) -> str:
    """Return how this host's installation differs from what the run was planned with, in one sentence, or ""."""
    host = socket.gethostname()
    installed_versions.cache_clear()
    here = installed_versions()
    differing = [
        f"{dist} {here[dist]} where the run was planned with {version}"
        if dist in here
        else f"no {dist}, and the run was planned with {dist} {version}"
        for dist, version in request["packages"].items()
        if here.get(dist) != version
    ]
    if differing:
        return f"host {host} has {'; '.join(differing)}: install the same there, then add --retry failed"
    for file, content in request["plugin_files"].items():
        found = file_digest(Path(file))
        if not found:
            where = "put it where all hosts see it, then add --retry failed"
            return f"host {host} cannot read the plugin file {file}: {where}"
        if found != content:
            return f"the plugin file {file} has another content on host {host} than the run was planned with"
    return ""


def _fault_behind(request: Mapping[str, Any], said: str) -> str:
    """Return which folder stopped a cell that ended badly, by looking at them and at what it said, or ""."""
    cache = request["payload"].get("cache_dir")
    folders = [Path(request["folder"]), *([Path(cache)] if cache in request["folders"] else [])]
    for folder in (*folders, Path(tempfile.gettempdir())):
        fault = unwritable(folder)
        if fault:
            return fault
    return f"host {socket.gethostname()} had a full disk while the cell ran" if _SAYS_FULL.search(said) else ""


def _full(folder: Path) -> str:
    size = ""
    with suppress(OSError):
        usage = shutil.disk_usage(folder)
        size = f" ({usage.free / 2**20:.0f} MiB free of {usage.total / 2**20:.0f} MiB)"
    return f"the disk of host {socket.gethostname()} is full at {folder}{size}"


def _overwrite(path: Path, outcome: Mapping[str, Any]) -> None:
    data = json.dumps(outcome, allow_nan=False).encode()
    with path.open("r+b") as stream:
        stream.write(data.ljust(RESERVED_BYTES))
        stream.flush()
        stream.truncate()
        os.fsync(stream.fileno())


def _failed(status: Status, reason: str, *, host_lost: bool = False) -> dict[str, Any]:
    outcome = Outcome(status=status, reason=one_line(reason), info={"worker": _facts()})
    return {**outcome_to_json(outcome), HOST_LOST: host_lost}


def _facts() -> dict[str, str]:
    facts = {"host": socket.gethostname(), "python": platform.python_version()}
    with suppress(metadata.PackageNotFoundError):
        facts["torch"] = metadata.version("torch")
    return facts
