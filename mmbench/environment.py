"""What a run ran on: hardware, versions and the state of the source, without importing torch."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from mmbench.discovery import installed_points
from mmbench.git_state import git_state

_PACKAGES = (
    "mmbench", "torch", "torchvision", "torchaudio", "torchmetrics", "timm", "transformers",
    "numpy", "pandas", "scipy", "scikit-learn", "pluggy", "rich",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Return hardware, operating system, versions and git state as plain JSON."""
    return {
        "hardware": hardware(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": versions(),
        "git": git_state(Path.cwd()),
    }


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory (bytes) and GPUs."""
    import psutil

    return {
        "cpu": cpu_name(),
        "num_cpus": usable_cpus(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "gpus": _gpus(),
    }


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Return the installed versions of what decides results, and of every plugin distribution."""
    found = {}
    plugins = {dist for dist, _, _ in installed_points()}
    for name in (*_PACKAGES, *sorted(plugins)):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def cpu_name() -> str:
    """Return the processor as its maker calls it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[dict[str, str]]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = "name,memory.total,driver_version"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=10, check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.count(",") == 2]
    return [dict(zip(("name", "memory", "driver"), row)) for row in rows]
