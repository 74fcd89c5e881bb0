"""Watching a cell from outside: its processes, their memory, its log, and the memory of its host."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil

#: The share of the free memory that all running cells may hold together.
MEMORY_SHARE = 0.8
_KERNEL_LISTS_CHILDREN = Path(f"/proc/self/task/{os.getpid()}/children").exists()


def child_pids(pid: int) -> list[int]:
    """Return the direct children of a process, zombies included; [] when it is gone."""
    if not _KERNEL_LISTS_CHILDREN:
        with suppress(psutil.Error):
            return [child.pid for child in psutil.Process(pid).children()]
        return []
    pids: list[int] = []
    # Much cheaper than a look at every process of the machine, which is how psutil does it.
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208  (names are what is wanted)
            with suppress(OSError):
                pids.extend(int(word) for word in Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return pids


def tree_pids(pid: int) -> list[int]:
    """Return a process and all its descendants, in whatever group or session they are."""
    pids = [pid]
    for found in pids:
        pids.extend(child for child in child_pids(found) if child not in pids)
    return pids


def signal_tree(pid: int, signum: int) -> None:
    """Send a signal to a process, its group and all its descendants."""
    for found in tree_pids(pid):
        with suppress(ProcessLookupError, PermissionError, psutil.Error):
            if sys.platform == "win32":
                psutil.Process(found).kill()
            else:
                os.kill(found, signum)
    if sys.platform != "win32":
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgrp() != pid:
                os.killpg(pid, signum)


def kill_tree(pid: int) -> None:
    """Kill a process, its group and all its descendants."""
    signal_tree(pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants; pages that they share are counted for each."""
    total = 0
    for found in tree_pids(pid):
        with suppress(psutil.Error):
            total += psutil.Process(found).memory_info().rss
    return total


def pss_bytes(pid: int) -> int:
    """Return the memory of a process and its descendants, every shared page divided by those who share it.

    Exact and slow: milliseconds and more for each process.
    """
    total = 0
    for found in tree_pids(pid):
        with suppress(psutil.Error, OSError):
            full = psutil.Process(found).memory_full_info()
            total += getattr(full, "pss", full.uss)
    return total


def num_oom_kills() -> int:
    """Return how often the kernel has killed a process for want of memory: on the machine, and in our cgroup."""
    total = 0
    for path in (
        Path("/proc/vmstat"),
        Path("/sys/fs/cgroup/memory.events"),
        Path("/sys/fs/cgroup/memory/memory.oom_control"),
    ):
        with suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                if line.startswith("oom_kill "):
                    total += int(line.split()[1])
    return total


def default_memory_bytes(capacity: int) -> int:
    """Return the host memory for one of `capacity` cells that run at once, by what is free now (and in our cgroup)."""
    free = min([int(psutil.virtual_memory().available), *_free_of_cgroups()])
    return max(1, int(free * MEMORY_SHARE) // capacity)


def _free_of_cgroups(own: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Return the memory that each limited cgroup of this process has left, of version 1 or 2; caches count as free.

    Args:
        own: Where the kernel names the cgroups of this process, relative to the root that it may not see.
        mount: Where they lie.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        lines = []
    kinds = (
        ("memory", mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ("", mount, "memory.max", "memory.current", "inactive_file"),
        ("", mount / "unified", "memory.max", "memory.current", "inactive_file"),
    )
    left = []
    for controller, root, limit_file, usage_file, cached in kinds:
        # In a container the own path may not be there; the root of what is seen is limited then.
        paths = ["", *(line[2] for line in lines if len(line) == 3 and controller in line[1].split(","))]
        for path in paths:
            folder = root / path.strip().lstrip("/")
            for level in (folder, *folder.parents):
                limit, usage = _read_int(level / limit_file), _read_int(level / usage_file)
                if limit is not None and usage is not None:
                    left.append(limit - max(0, usage - _stat_of(level / "memory.stat", cached)))
                if level == root:
                    break
    return left


def _stat_of(path: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return 0


def gib(num_bytes: float) -> str:
    """Return a size as people read it.

    >>> gib(3 * 2**29)
    '1.5 GiB'
    """
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 / 10 else f"{num_bytes / 2**20:.0f} MiB"


class CappedLog:
    """A log file that a cell appends to, held to a size while it grows and cut to its two ends when it is done.

    Args:
        path: The file; need not exist.
        keep_bytes: What is kept in the end: half from the beginning, half from the end.
        limit_bytes: What it may take on disk meanwhile.
    """

    def __init__(self, path: Path, *, keep_bytes: int = 2**20, limit_bytes: int = 64 * 2**20) -> None:
        self.path = path
        self._half = keep_bytes // 2
        self._limit = limit_bytes
        self._head = b""
        self._tail = b""
        self._num_dropped = 0

    def check(self) -> None:
        """Empty the file if it has grown over its limit, remembering both ends."""
        with suppress(OSError):
            if self._size() > self._limit:
                self._take_ends()
                os.truncate(self.path, 0)

    def finish(self) -> None:
        """Cut the file to both ends, if it is larger than both together; remove it if it is empty."""
        with suppress(OSError):
            size = self._size()
            if not self._head and size <= 2 * self._half:
                if size == 0:
                    self.path.unlink()
                return
            self._take_ends()
            if not self._num_dropped:
                self.path.write_bytes(self._head + self._tail)
                return
            gap = f"\n\n[… {self._num_dropped:,} bytes left out …]\n\n".encode()
            self.path.write_bytes(self._head + gap + self._tail)

    def last_line(self) -> str:
        """Return the last line that is not empty, or ""."""
        try:
            with self.path.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - 4096))
                lines = stream.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def _size(self) -> int:
        """Return the size of the file. A cell may have put a link in its place: nothing is done to what it leads to."""
        if self.path.is_symlink():
            raise OSError(f"{self.path} is a link")
        return self.path.stat().st_size

    def _take_ends(self) -> None:
        with self.path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            if not self._head:
                self._head = stream.read(self._half)
            start = max(stream.tell(), size - self._half)
            skipped = start - stream.tell()
            stream.seek(start)
            tail = stream.read(self._half)
        joined = self._tail + tail if not skipped else tail
        if skipped:
            self._num_dropped += skipped + len(self._tail)
        self._num_dropped += max(0, len(joined) - self._half)
        self._tail = joined[-self._half :]


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
