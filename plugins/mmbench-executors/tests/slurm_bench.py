"""Cells that tests run on a SLURM, and what they note."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmbench_executors.slurm import SlurmExecutor

from mmbench.executors import Job, Outcome

CELLS = """
import os, shutil, time
from pathlib import Path

def note(payload, folder):
    with open(payload["notes"], "a") as stream:
        print(payload["name"], os.environ["SLURM_JOB_ID"], os.getpid(), file=stream)

def idle(payload, folder):
    return {}

def quick(payload, folder):
    note(payload, folder)
    (folder / "made.txt").write_text(payload["name"])
    return {"metrics": [{"phase": "evaluate", "name": "accuracy", "value": 0.5}]}

def slow(payload, folder):
    note(payload, folder)
    go = Path(payload["go"])
    while not go.exists():
        time.sleep(0.05)
    return {}

def lose(payload, folder):
    note(payload, folder)
    shutil.rmtree(folder)
    time.sleep(60)

def allocate(payload, folder):
    note(payload, folder)
    held = b"x" * 2**30
    time.sleep(60)

def curve(payload, folder):
    (folder / "history.jsonl").write_text("{}")
    slow(payload, folder)
    return {}

def fill_cache(payload, folder):
    note(payload, folder)
    with open(payload["cache_dir"] + "/large.bin", "wb") as stream:
        while True:
            stream.write(b"x" * 65536)
"""


class Bench:
    """A folder with cells to run, and what they noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "notes.txt"

    def executor(self, **options: Any) -> SlurmExecutor:
        (self.folder / "slurm").mkdir(exist_ok=True)
        return SlurmExecutor(self.folder / "slurm", **{"jobs": 4, "threads": 1, "poll": 0.5, **options})

    def job(self, name: str, function: str = "quick", attempt: int = 1, **payload: Any) -> Job:
        folder = self.folder / f"{name}.{attempt}.{time.monotonic_ns()}"
        folder.mkdir()
        facts = {"name": name, "notes": str(self.notes), "go": str(self.folder / "go"), **payload}
        cell_id = f"{sum(name.encode()):016x}"
        return Job(cell_id=cell_id, attempt=attempt, function=f"slurm_cells:{function}", payload=facts, folder=folder)

    def noted(self) -> list[list[str]]:
        """Return name, job and process of every cell that began, in order."""
        return [line.split() for line in self.notes.read_text().splitlines()] if self.notes.exists() else []


def drive(
    executor: SlurmExecutor,
    outcomes: dict[str, Outcome],
    *,
    until: Callable[[], Any] | None = None,
    seconds: float = 180,
) -> dict[str, Outcome]:
    """Take in how cells went, by name, until something holds; by default until none is out."""
    end = time.monotonic() + seconds
    while not until() if until else executor.running():
        assert time.monotonic() < end, f"{outcomes} after {seconds} s; out: {executor.running()}"
        for job, outcome in executor.wait(0.1):
            assert job.payload["name"] not in outcomes, "handed back twice"
            outcomes[job.payload["name"]] = outcome
    return outcomes


def run(executor: SlurmExecutor, *jobs: Job) -> dict[str, Outcome]:
    for job in jobs:
        executor.submit(job)
    return drive(executor, {})


def queue(*words: str) -> list[str]:
    done = subprocess.run(["squeue", "--me", "-h", "-r", *words], capture_output=True, text=True, check=True)
    return done.stdout.split()
