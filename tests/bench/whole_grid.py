"""The grid of `--grid all` against one plain script per cell, on the same random sample of its cells and in one run.

    python tests/bench/whole_grid.py             # 96 cells: about ten minutes on two quiet cores
    python tests/bench/whole_grid.py --cells 12 --no-loop    # a look, where others compute

mmbench runs the sample by its own command line, with planning, fork server, an empty cache, journal and report, once
with its default profile and diagnostics and once without, which is what a script does. The scripts (`naive_cell.py`)
run one after another with torch's own number of threads, as a shell loop would, and two at once with one thread each.
The first of these says nothing where others compute: its threads then spin while they wait for each other.
Turns are taken in halves. Speech and other raw files lie on the disk for both sides beforehand.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.config import data_dir, load_config, part_root
from mmbench.plan import local_runtime, make_plan
from mmbench.registry import load_registry
from mmbench.store import RunStore

NUM_CELLS = 96
NUM_CORES = 2
SCRIPT = Path(__file__).with_name("naive_cell.py")
LIKE_A_SCRIPT = ("--protocol", "none", "--diagnostics", "none")
#: `mmbench ARGUMENTS` over those cells of its plan that are named in the first argument.
_MMBENCH = """
import json, sys
from mmbench import cli, plan
wanted, every = set(json.loads(sys.argv.pop(1))), plan.Plan.cells
plan.Plan.cells = lambda self, *a, **k: (cell for cell in every(self, *a, **k) if cell.cell_id in wanted)
sys.argv[0] = "mmbench"
cli.main()
"""


@dataclass(frozen=True)
class Cost:
    """What some cells took.

    Attributes:
        num_cells: How many.
        wall_s: On the wall's clock.
        cpu_s: Processor time of all processes together.
    """

    num_cells: int
    wall_s: float
    cpu_s: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.num_cells + other.num_cells, self.wall_s + other.wall_s, self.cpu_s + other.cpu_s)

    def ratio_to(self, other: Cost) -> dict[str, float]:
        """How many times as much a cell took here."""
        cells = other.num_cells / self.num_cells
        return {
            "wall": round(self.wall_s / other.wall_s * cells, 2),
            "processor": round(self.cpu_s / other.cpu_s * cells, 2),
        }

    def __str__(self) -> str:
        return f"{self.wall_s / self.num_cells:.2f} s a cell, {self.cpu_s / self.num_cells:.2f} s of processor time"


def sample(num_cells: int, seeds: str, seed: int = 0) -> tuple[list[Mapping[str, Any]], int]:
    """Return the payloads of some cells of the grid that train, all seeds of each combo, and how many cells there are."""
    config = load_config({"grid": "all", "device": "cpu", "seeds": seeds}, folder=Path("/"))
    runtime = local_runtime(config, cache=Path("unused"), data=data_dir(), jobs=NUM_CORES)
    combos: dict[tuple[str, ...], list[Any]] = {}
    for cell in make_plan(config, load_registry(), runtime=runtime).cells():
        if cell.status == "run" and cell.fusion is not None:
            row = cell.row()
            combos.setdefault((row["dataset"], row["encoders"], row["fusion"], row["objective"]), []).append(cell)
    num_combos = min(max(1, num_cells // len(config.seeds)), len(combos))
    chosen = random.Random(seed).sample(list(combos.values()), num_combos)
    return [cell.payload() for combo in chosen for cell in combo], sum(map(len, combos.values()))


def measured(num_cells: int, run: Callable[[], None]) -> Cost:
    """Return what the processes that `run` starts take."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run()
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    return Cost(num_cells, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def by_mmbench(cells: Sequence[Mapping[str, Any]], results: Path, options: Sequence[str]) -> None:
    """Run cells by the command line, from an empty cache."""
    ids = json.dumps([cell["cell_id"] for cell in cells])
    seeds = ",".join(str(seed) for seed in sorted({cell["seed"] for cell in cells})) + ","
    arguments = ["run", "--grid", "all", "--run", "grid", "--device", "cpu", "--seeds", seeds, "-j", str(NUM_CORES)]
    arguments += ["--results", str(results), "--cache", str(results / "cache"), *options]
    done = subprocess.run(
        [sys.executable, "-c", _MMBENCH, ids, *arguments], env=_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def by_scripts(cells: Sequence[Mapping[str, Any]], folder: Path, *, at_once: int) -> None:
    """Run a fresh process for each cell; leave what it prints in `folder`."""
    threads = {} if at_once == 1 else {"OMP_NUM_THREADS": "1"}

    def run(cell: Mapping[str, Any]) -> None:
        given, result = folder / f"{cell['cell_id']}.json", folder / f"{cell['cell_id']}.result"
        root = part_root(data_dir(), cell["dataset"]["ref"])
        root.mkdir(parents=True, exist_ok=True)
        given.write_text(json.dumps({**cell, "root": str(root)}))
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(given)], env=_environment() | threads, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        result.write_text(done.stdout)

    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(run, cells))


def _environment() -> dict[str, str]:
    """What both sides start with: modules of a package that is not installed are compiled once, as installed ones are."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONDONTWRITEBYTECODE", "MMBENCH_CACHE")}


def differences(cells: Sequence[Mapping[str, Any]], results: Path, folder: Path) -> list[float]:
    """Return each cell's accuracy on test by mmbench less that by the script, of the first task."""
    with RunStore.open(results / "grid") as store:
        records = store.records()
    found = []
    for cell in cells:
        task = cell["dataset"]["info"]["tasks"][0]["name"]
        ours = next(
            metric.value
            for metric in records[cell["cell_id"]].metrics
            if (metric.name, metric.split, metric.condition, metric.task) == ("accuracy", "test", "clean", task)
        )
        theirs = json.loads((folder / f"{cell['cell_id']}.result").read_text())["metrics"][task]["accuracy"]
        found.append(float(ours) - theirs)
    return found


def paired(found: Sequence[float]) -> dict[str, float]:
    """Return Wilcoxon's signed-rank test of paired differences, and the shift that goes with it (Hodges & Lehmann 1963).

    Both sides draw their own weights and orders, and a few cells find their task or do not by that alone: a mean over
    cells would be about those.
    """
    from scipy.stats import wilcoxon

    n = len(found)
    averages = sorted((one + other) / 2 for place, one in enumerate(found) for other in found[place:])
    off = max(1, math.floor(n * (n + 1) / 4 - 1.96 * math.sqrt(n * (n + 1) * (2 * n + 1) / 24)))
    return {
        "mean": statistics.mean(found),
        "shift": statistics.median(averages),
        "ci_low": averages[off - 1],
        "ci_high": averages[-off],
        "p": float(wilcoxon(found).pvalue) if any(found) else 1.0,
    }


def compare(
    num_cells: int, seeds: str, folder: Path, *, loop: bool = True, options: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure both sides; return their costs, ratios and difference in quality, as plain data.

    Args:
        num_cells: How many to sample.
        seeds: As for `mmbench run`.
        folder: Empty, for everything that is written.
        loop: Whether to run scripts one by one as well, for a fourth of the cells.
        options: More for `mmbench run`.
    """
    cells, num_all = sample(num_cells, seeds)
    prepare(cells)
    order = random.Random(1).sample(cells, len(cells))
    halves, alone = (order[::2], order[1::2]), order[::4]
    outcome = folder / "scripts"
    costs = {
        "scripts, two at once": measured(len(halves[0]), lambda: by_scripts(halves[0], outcome, at_once=NUM_CORES))
    }
    costs["mmbench"] = measured(len(cells), lambda: by_mmbench(cells, folder / "plain", (*LIKE_A_SCRIPT, *options)))
    if loop:
        costs["scripts, one by one"] = measured(len(alone), lambda: by_scripts(alone, folder / "alone", at_once=1))
    costs["mmbench, profiled and diagnosed"] = measured(
        len(cells), lambda: by_mmbench(cells, folder / "default", options)
    )
    if halves[1]:
        costs["scripts, two at once"] += measured(
            len(halves[1]), lambda: by_scripts(halves[1], outcome, at_once=NUM_CORES)
        )
    found: dict[str, Any] = {"num_cells": len(cells), "num_cells_of_grid": num_all, "seeds": seeds}
    found["costs"] = {name: str(cost) for name, cost in costs.items()}
    found["ratios"] = {
        f"{scripts} / {name}": costs[scripts].ratio_to(costs[name])
        for scripts in costs
        for name in costs
        if scripts.startswith("scripts") and name.startswith("mmbench")
    }
    found["accuracy_difference"] = paired(differences(cells, folder / "plain", outcome))
    return found


def prepare(cells: Sequence[Mapping[str, Any]]) -> None:
    """Let datasets put their raw files on the disk, in a process of its own."""
    parts = {cell["dataset"]["ref"]: cell["dataset"] for cell in cells}
    for ref, part in parts.items():
        root = part_root(data_dir(), ref)
        root.mkdir(parents=True, exist_ok=True)
        code = (
            "import json, pathlib, sys; from mmbench.part_code import load_attribute; part = json.loads(sys.argv[1]);"
            "load_attribute(part['factory'])(pathlib.Path(sys.argv[2]), **part['options'])"
        )
        subprocess.run([sys.executable, "-c", code, json.dumps(part), str(root)], env=_environment(), check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cells", type=int, default=NUM_CELLS, help="how many cells to sample")
    parser.add_argument("--seeds", default="1", help="as for mmbench run; several train together where they can")
    parser.add_argument("--loop", action=argparse.BooleanOptionalAction, default=True, help="scripts one by one too")
    parser.add_argument("--together", default="never", help="as for mmbench run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = compare(given.cells, given.seeds, Path(folder), loop=given.loop, options=["--together", given.together])
    found["load"] = f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    print(json.dumps(found, indent=2))  # noqa: T201  (the figures)


if __name__ == "__main__":
    main()
