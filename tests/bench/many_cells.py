"""A hundred thousand empty cells through the local executor, again with nothing to do, and their report in a browser.

    python tests/bench/many_cells.py FOLDER [NUM_CELLS] [JOBS]

Prints one line of figures for each step; a run that was interrupted goes on where it stood. Nothing may be lost: every
cell must stand in the journal once, with its result.
"""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parent))

from browser import Browser, find_chromium

from mmbench.executors.local import LocalExecutor
from mmbench.record import Metric
from mmbench.report import build_report, write_report
from mmbench.runner import Summary, run
from mmbench.store import RunStore

NUM_SEEDS = 10
TASK = {"name": "digit", "kind": "multiclass", "num_outputs": 10, "class_names": [], "primary": "accuracy", "weight": 1}
DATASETS = {
    "digits": {"ref": "a/digits", "summary": "", "tasks": [TASK], "modalities": [], "ceilings": {}, "train": {}}
}


@dataclass(frozen=True)
class EmptyCell:
    """One cell of a grid of encoders, fusions and seeds, whose work is to return two numbers."""

    number: int
    status: str = "run"
    reason: str = ""

    @property
    def cell_id(self) -> str:
        return hashlib.sha256(str(self.number).encode()).hexdigest()[:16]

    def row(self) -> dict[str, Any]:
        seed, combo = self.number % NUM_SEEDS, self.number // NUM_SEEDS
        return {
            "cell_id": self.cell_id,
            "dataset": "digits",
            "encoders": f"audio:logmel-cnn[width={combo // 20 % 25 + 1}]+image:cnn[width={combo // 500 + 1}]",
            "fusion": f"fusion-{combo % 20}",
            "objective": "supervised",
            "seed": seed,
            "role": "cell",
            "status": self.status,
            "reason": self.reason,
        }

    def payload(self) -> dict[str, Any]:
        return {"number": self.number}


def empty_cell(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return scores as a trained cell would, without any training."""
    score = 0.5 + (payload["number"] * 7919 % 1000) / 2500
    metrics = [
        Metric(phase="evaluate", split=split, task="digit", name="accuracy", value=score, direction="max", n=400)
        for split in ("val", "test")
    ]
    return {"metrics": [metric.to_json() for metric in metrics], "info": {"split_hash": "h"}}


def empty_cells(num_cells: int) -> Iterator[EmptyCell]:
    return map(EmptyCell, range(num_cells))


def run_all(folder: Path, num_cells: int, jobs: int) -> Summary:
    """Run what is missing."""
    with RunStore.create(folder) as store, LocalExecutor(jobs, preload=("many_cells",)) as executor:
        store.write_plan((cell.row() for cell in empty_cells(num_cells)), DATASETS)
        store.write_run({"argv": ["many_cells.py"]})
        return run(empty_cells(num_cells), store, executor, function="many_cells:empty_cell")


def check(folder: Path, num_cells: int) -> None:
    """Raise unless every cell stands in the journal once, with its result and its folder."""
    found = Counter(record.cell_id for record in RunStore.open(folder).journal if record.status == "ok")
    assert found == Counter(cell.cell_id for cell in empty_cells(num_cells))
    assert {entry.name for entry in (folder / "cells").iterdir()} == set(found)


def open_report(folder: Path) -> tuple[float, int]:
    """Open the report in a browser; return how long that took and how many elements the page has."""
    with Browser(find_chromium() or "") as browser:
        began = time.monotonic()
        browser.open(folder / "report" / "report.html")
        num_elements = browser.run("document.querySelectorAll('*').length")
        opened_s = time.monotonic() - began
        assert browser.errors == []
    return opened_s, num_elements


def main(folder: str, num_cells: str = "100000", jobs: str = "2") -> None:
    place, count = Path(folder), int(num_cells)
    for step in ("run", "again"):
        began, cpu_began = time.monotonic(), time.process_time()
        summary = run_all(place, count, int(jobs))
        say(step, began, cpu_began, f"{summary.num_launched} launched, {dict(summary.counts)}")
    check(place, count)
    began, cpu_began = time.monotonic(), time.process_time()
    write_report(place, build_report(place))
    sizes = {file.name: f"{file.stat().st_size / 2**20:.1f} MiB" for file in sorted((place / "report").iterdir())}
    say("report", began, cpu_began, str(sizes))
    if find_chromium():
        began, cpu_began = time.monotonic(), time.process_time()
        opened_s, num_elements = open_report(place)
        say("opened", began, cpu_began, f"{opened_s:.1f} s to open, {num_elements} elements")


def say(step: str, began: float, cpu_began: float, text: str) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wall_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_began
    sys.stdout.write(f"{step}: {wall_s:.1f} s, {cpu_s:.1f} s of processor, peak {peak:.0f} MiB; {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
