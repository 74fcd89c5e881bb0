"""The files that the process that submits and the jobs of SLURM leave for each other, each written by one of them.

FOLDER/requests/KEY.json       what to run, by the process that submits
      /cells/KEY/JOB.RESTART/  files of the cell, by the job
      /results/KEY.json        how it went, by the job: whole or not at all
      /logs/                   submitit's: what it submitted, what the jobs said
      /ledger.jsonl            by the process that submits
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmbench.durable import write_atomically
from mmbench.executors import Job, Outcome
from mmbench.executors.child import LOG_FILE, one_line
from mmbench.record import HISTORY_FILE
from mmbench_executors.request import outcome_from_json, read_result

REQUESTS, CELLS, RESULTS, LOGS = "requests", "cells", "results", "logs"
#: What can be watched while a cell runs.
SHOWN = (HISTORY_FILE, LOG_FILE)


def key_of(job: Job) -> str:
    """Return what the files of a job are called: the same for the same attempt at the same work, whoever asks."""
    content = json.dumps([job.function, dict(job.payload)], sort_keys=True)
    return f"{job.cell_id}.{job.attempt}.{hashlib.sha256(content.encode()).hexdigest()[:12]}"


class SharedFolder:
    """The folder as the process that submits sees it.

    Args:
        path: Made with what belongs into it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in (REQUESTS, CELLS, RESULTS, LOGS):
            (path / name).mkdir(parents=True, exist_ok=True)

    def ask(self, key: str, request: Mapping[str, Any]) -> None:
        """Leave a request for a job."""
        write_atomically(self.path / REQUESTS / f"{key}.json", [json.dumps(request, allow_nan=False)])

    def has_result(self, key: str) -> bool:
        """Return whether a job has left a result."""
        return self._result(key).exists()

    def with_results(self, keys: Iterable[str]) -> list[str]:
        """Return those of some cells that have a result; [] where the file system stumbles, the next look will tell."""
        try:
            names = {entry.name for entry in os.scandir(self.path / RESULTS)}
        except OSError:
            return []
        return [key for key in keys if f"{key}.json" in names]

    def take(self, key: str, target: Path) -> Outcome | None:
        """Give a folder the files of a cell that has a result and return how it went; None if that is not whole."""
        told = read_result(self._result(key))
        if told is None:
            return None
        outcome = outcome_from_json(told)
        try:
            bring(Path(str(told["folder"])), target)
        except OSError as error:
            if outcome.status == "ok":
                return Outcome(status="killed", reason=one_line(f"the files of the cell cannot be read: {error}"))
        return outcome

    def begun(self, key: str, job_id: str) -> Path | None:
        """Return where a job runs a cell, or ran it last; None if it has not begun."""
        folders = (self.path / CELLS / key).glob(f"{job_id}.*")
        return max(folders, key=lambda folder: (len(folder.name), folder.name), default=None)

    def show(self, key: str, job_id: str, target: Path) -> None:
        """Let whoever watches a folder see the learning curve and the log of a running cell grow."""
        folder = self.begun(key, job_id)
        for name in SHOWN if folder else ():
            assert folder is not None
            if not (target / name).is_symlink() or (target / name).readlink() != folder / name:
                with suppress(OSError):
                    (target / name).unlink(missing_ok=True)
                    (target / name).symlink_to(folder / name)

    def unshow(self, target: Path) -> None:
        """Undo `show` where no file has taken the place."""
        for name in SHOWN:
            if (target / name).is_symlink():
                with suppress(OSError):
                    (target / name).unlink()

    def remove(self, key: str) -> None:
        """Remove all that belongs to a cell."""
        shutil.rmtree(self.path / CELLS / key, ignore_errors=True)
        for path in (self._result(key), self.path / REQUESTS / f"{key}.json"):
            with suppress(OSError):
                path.unlink()

    def _result(self, key: str) -> Path:
        return self.path / RESULTS / f"{key}.json"


def bring(source: Path, target: Path) -> None:
    """Give a folder the files of another one; both keep them, so that a crash in between loses none."""
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, copy_function=_link)


def _link(source: str, target: str) -> None:
    with suppress(FileNotFoundError):
        Path(target).unlink()
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system that has no links
        shutil.copy2(source, target)
