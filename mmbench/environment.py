"""What a run ran on: hardware, versions and the state of the source, without importing torch."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mmbench.discovery import installed_distributions, installed_points, name_and_version
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
        "sources": sources(),
        "distributions": {name: name_and_version(dist)[1] for name, dist in installed_distributions().items()},
        "git": git_state(Path.cwd()),
    }


def hardware() -> dict[str, Any]:
    """Return processor, cores, memory (bytes) and GPUs."""
    import psutil

    return {
        "cpu": cpu_name(),
        "cpu_flags": cpu_flags(),
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
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Return the instruction sets and other features that the kernel lists for the processor."""
    return sorted((_cpuinfo("flags") or _cpuinfo("Features")).split())


def _cpuinfo(key: str) -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def libraries() -> dict[str, Any]:
    """Return `mmbench.library_facts` of a process of its own, so that torch is not imported here; {} if it fails."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mmbench.library_facts"],
            capture_output=True, text=True, timeout=120, check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        facts = json.loads(done.stdout.strip().rpartition("\n")[2])
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def constraints(found: Mapping[str, Any]) -> list[str]:
    """Return a constraints file for pip that gives the distributions of an environment again, as lines.

    What was installed from a folder or a file has no release to name; such a line is a comment.

    Args:
        found: As `environment` returns it, of now or of a run.
    """
    sources = found.get("sources", {})
    lines = [
        f"# Python {found['python']}, {found['system']}",
        f"# {found['hardware']['cpu']}, {found['hardware']['num_cpus']} CPUs usable",
        *(f"# {gpu['name']}, {gpu['memory']}, driver {gpu['driver']}" for gpu in found["hardware"]["gpus"]),
        *(f"# {name} {value}" for name, value in found.get("libraries", {}).items()),
    ]
    for name, version in (found.get("distributions") or found["packages"]).items():
        source = sources.get(name)
        if version == "unknown" or source == "local":
            lines.append(f"# {name}=={version} was installed from a folder or a file")
        elif source:
            lines.append(f"{name} @ {source}")
        else:
            build = version.partition("+")[2]
            lines.append(f"{name}=={version}" + (f"  # from the index that has builds +{build}" if build else ""))
    return lines


def sources() -> dict[str, str]:
    """Return where distributions came from that are of no index: "local", or the address of a repository or file."""
    found: dict[str, str] = {}
    for name, dist in installed_distributions().items():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            origin = json.loads(dist.read_text("direct_url.json") or "null")
            if origin is not None:
                found[name] = _address(origin)
    return found


def _address(origin: Mapping[str, Any]) -> str:
    """Return the address of PEP 610's record without what may be a password, "local" for this machine's files."""
    parts = urlsplit(origin["url"])
    if parts.scheme == "file" or not parts.hostname:
        return "local"
    host = parts.hostname + (f":{parts.port}" if parts.port else "")
    address: str = urlunsplit((parts.scheme, host, parts.path, "", ""))
    if "vcs_info" in origin:
        return f"{origin['vcs_info']['vcs']}+{address}@{origin['vcs_info']['commit_id']}"
    return address


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
