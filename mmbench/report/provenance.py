"""What a run says of how it came about, in words: command, time, machine, versions, and the runs merged into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmbench.report.reproduce import reproduce
from mmbench.report.text import clean


def provenance(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what ``run.json`` says, as named lines: command, time, hardware, versions, git."""
    lines: list[tuple[str, str]] = []
    command = reproduce(about)
    if command:
        lines.append(("Command", command))
    if about.get("started_at"):
        lines.append(("Started", str(about["started_at"])))
    environment = about.get("environment")
    environment = environment if isinstance(environment, Mapping) else {}
    machine = hardware_words(environment)
    if machine:
        lines.append(("Hardware", machine))
    system = [str(environment[key]) for key in ("system", "python") if environment.get(key)]
    if system:
        lines.append(("System", ", Python ".join(system)))
    packages = environment.get("packages")
    if isinstance(packages, Mapping) and packages:
        lines.append(("Versions", ", ".join(f"{name} {version}" for name, version in packages.items())))
    git = environment.get("git")
    if isinstance(git, Mapping) and git.get("commit"):
        lines.append(("Git", f"{git['commit']}{', with local changes' if git.get('dirty') else ''}"))
    lines += _merged_from(about)
    return [(clean(name, 200), clean(value, 2000)) for name, value in lines]


def hardware_words(environment: Mapping[str, Any]) -> str:
    """Return a machine in words, "" where nothing is known of it."""
    hardware = environment.get("hardware")
    if not isinstance(hardware, Mapping) or not hardware.get("cpu"):
        return ""
    known = [gpu for gpu in hardware.get("gpus") or [] if isinstance(gpu, Mapping)]
    gpus = [f"{gpu.get('name')} ({gpu.get('memory')})" for gpu in known]
    cpu = f"{hardware.get('cpu')}, {hardware.get('num_cpus')} CPUs usable"
    memory = hardware.get("memory_bytes")
    cpu += f", {memory / 2**30:.1f} GiB" if isinstance(memory, int | float) else ""
    return "; ".join([cpu, *gpus])


def _merged_from(about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a line for every run that was merged into this one, and for those merged into it before."""
    merged = about.get("merged")
    for source in merged if isinstance(merged, list) else ():
        if not isinstance(source, Mapping):
            continue
        environment = source.get("environment")
        started = f"started {source['started_at']}" if source.get("started_at") else ""
        machine = hardware_words(environment) if isinstance(environment, Mapping) else ""
        words = [part for part in (reproduce(source), started, machine) if part]
        yield f"Merged from {source.get('run', '?')}", "; ".join(words)
        yield from _merged_from(source)
