"""What a plan of many cells costs the process that runs it: peak memory and time of every walk through it.

    python tests/bench/plan_walk.py FOLDER [NUM_CELLS …]      10,000, 100,000 and 1,000,000 by default

Each number of cells has processes of its own: one whose budget is spent at once, so that nothing is launched and all is
walked through, and one that finds every cell in the journal.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from mmbench.config import load_config
from mmbench.executors.inline import InlineExecutor
from mmbench.journal import JOURNAL_FILE
from mmbench.plan import Plan, local_runtime, make_plan
from mmbench.planners import planner_of
from mmbench.record import Metric, Record
from mmbench.registry import load_registry
from mmbench.runner import Summary, run
from mmbench.staged import run_stages
from mmbench.standing import Standing
from mmbench.store import RunStore

WIDTHS = 1_000
SEEDS = 10


def plan_of(num_cells: int) -> Plan:
    """A plan of widths, ten seeds and as many values of an option as it takes."""
    num_options = max(1, num_cells // (WIDTHS * SEEDS))
    config = load_config(
        {
            "dataset": ["digits"],
            "encoder": [
                *(f"image=cnn[width={width}]" for width in range(1, WIDTHS + 1)),
                *(f"audio=logmel-cnn[width={width}]" for width in range(1, num_options + 1)),
                "text=embedding-lstm",
            ],
            "fusion": ["concat"],
            "seeds": SEEDS,
            "baselines": False,
        }
    )
    return make_plan(config, load_registry(), runtime=local_runtime(config, cache=Path(), data=Path(), jobs=1))


def walk(plan: Plan, folder: Path) -> Summary:
    """Do what `mmbench run` does with a plan, but for launching and the report."""
    planner = planner_of(plan)
    standing = Standing()
    with RunStore.create(folder) as store, InlineExecutor() as executor:

        def launch(stage, num_missing, *, spent_s, max_failures) -> Summary:  # type: ignore[no-untyped-def]
            standing.take_plan(planner.rows(), store.states())
            return run(stage.cells(), store, executor, budget_s=0.0)

        return run_stages(planner, store, launch)


def write_journal(plan: Plan, folder: Path) -> None:
    """Settle every cell."""
    metric = Metric(phase="evaluate", split="test", task="digit", name="accuracy", value=0.5, direction="max", n=400)
    with (folder / JOURNAL_FILE).open("w") as journal:
        for cell in plan.cells():
            record = Record(cell_id=cell.cell_id, status="ok", duration_s=1.0, metrics=(metric,))
            journal.write(json.dumps(record.to_json()) + "\n")


def main(folder: str, *counts: str) -> None:
    for count in counts or ("10000", "100000", "1000000"):
        for what in ("walk", "again"):
            place = Path(folder) / f"cells-{count}"
            subprocess.run([sys.executable, __file__, "--one", str(place), count, what], check=True)


def one(folder: str, count: str, what: str) -> None:
    place = Path(folder)
    place.parent.mkdir(parents=True, exist_ok=True)
    plan = plan_of(int(count))
    assert plan.count()["cells"] == int(count)
    if what == "again":
        write_journal(plan, place)
    began, cpu_began = time.monotonic(), time.process_time()
    summary = walk(plan, place)
    wall_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"cells": int(count), "what": what, "counts": dict(summary.counts), "peak_mib": round(peak, 1)}
    sys.stdout.write(json.dumps({**figures, "wall_s": round(wall_s, 1), "cpu_s": round(cpu_s, 1)}) + "\n")


if __name__ == "__main__":
    one(*sys.argv[2:]) if sys.argv[1] == "--one" else main(*sys.argv[1:])
