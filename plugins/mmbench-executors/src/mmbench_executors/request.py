"""What travels between the process that keeps the journal and the host where a cell runs: plain JSON, both ways."""

from __future__ import annotations

import hashlib
import json
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mmbench.discovery import installed_points
from mmbench.executors import Job, Outcome
from mmbench.record import STATUSES

#: Outside its own folder, what a cell reads and writes, by the names in its payload.
_FOLDERS = ("data_dir", "cache_dir")


def make_request(
    job: Job, *, threads: int, folder: Path | None = None, payload: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a job as JSON, with what the host must have: versions, folders, local plugin files.

    Args:
        job: The job.
        threads: For the numerical libraries of the cell.
        folder: Where the cell runs and leaves its files; the job's own folder by default.
        payload: What the cell's function is called with, where that is not the job's own payload.
    """
    payload = _absolute(job.payload if payload is None else payload)
    return {
        "cell_id": job.cell_id,
        "attempt": job.attempt,
        "function": job.function,
        "payload": payload,
        "folder": str((folder or job.folder).absolute()),
        "threads": threads,
        "timeout_s": job.timeout_s,
        "memory_bytes": job.memory_bytes,
        "path": search_path(),
        "packages": expected_packages(payload),
        "plugin_files": {file: file_digest(Path(file)) for file in payload.get("plugin_files", ())},
        "folders": [payload[name] for name in _FOLDERS if payload.get(name) and Path(payload[name]).is_dir()],
    }


def job_of(request: Mapping[str, Any]) -> Job:
    """Return the job that a request describes."""
    return Job(
        cell_id=request["cell_id"],
        attempt=request["attempt"],
        function=request["function"],
        payload=request["payload"],
        folder=Path(request["folder"]),
        timeout_s=request["timeout_s"],
        memory_bytes=request["memory_bytes"],
    )


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as plain JSON; `outcome_from_json` reads it back."""
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "metrics": [metric.to_json() for metric in outcome.metrics],
        "info": dict(outcome.info),
        "duration_s": outcome.duration_s,
        "started_at": outcome.started_at,
    }


def outcome_from_json(data: Mapping[str, Any]) -> Outcome:
    """Rebuild an outcome.

    Raises:
        ValueError: the data are no outcome.
    """
    try:
        if data["status"] not in STATUSES:
            raise ValueError(f"{data['status']!r} is no status")
        return Outcome.from_json(data, duration_s=float(data["duration_s"]), started_at=str(data["started_at"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no outcome: {error!r}") from None


def read_result(path: Path) -> dict[str, Any] | None:
    """Return what a worker wrote into a result file, or None while there is none that is whole."""
    try:
        data = json.loads(path.read_bytes())
        outcome_from_json(data)
    except (OSError, ValueError):
        return None
    return dict(data)


def search_path() -> list[str]:
    """Return where this process finds modules besides its own installation: what a worker must look through too."""
    own = {Path(entry).resolve() for entry in (*site.getsitepackages(), *sysconfig.get_paths().values())}
    entries = dict.fromkeys(str(Path(entry or ".").absolute()) for entry in sys.path)
    return [entry for entry in entries if Path(entry).is_dir() and not _is_of_installation(Path(entry).resolve(), own)]


def expected_packages(payload: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of mmbench, of this package and of the plugins whose parts a payload names."""
    versions = installed_versions()
    named = {reference.partition("/")[0] for reference in _references(payload)}
    return {dist: versions[dist] for dist in ("mmbench", "mmbench-executors", *sorted(named)) if dist in versions}


@cache
def installed_versions() -> dict[str, str]:
    """Return the versions of mmbench and of every installed plugin."""
    versions = {dist: version for dist, version, _ in installed_points()}
    with suppress(metadata.PackageNotFoundError):
        versions["mmbench"] = metadata.version("mmbench")
    return versions


def file_digest(path: Path) -> str:
    """Return what identifies a plugin file's content, or "" where there is none to read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError:
        return ""


def _is_of_installation(entry: Path, own: set[Path]) -> bool:
    return entry in own or entry.parent in own or entry.is_relative_to(Path(sys.prefix).resolve())


def _references(value: Any) -> Iterator[str]:
    """Yield every "dist/name" of the parts in a payload, however deep they are."""
    if isinstance(value, Mapping):
        if isinstance(value.get("ref"), str):
            yield value["ref"]
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _references(item)


def _absolute(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a payload whose paths mean the same wherever the cell runs."""
    paths: dict[str, Any] = {name: str(Path(payload[name]).absolute()) for name in _FOLDERS if payload.get(name)}
    if payload.get("plugin_files"):
        paths["plugin_files"] = [str(Path(file).absolute()) for file in payload["plugin_files"]]
    return {**payload, **paths}
