"""What must not grow with the number of cells, and what must not get lost: plans, runs, and their reports.

The whole numbers (a million planned cells, a hundred thousand that run) are measured by tests/bench/plan_walk.py and
tests/bench/many_cells.py, by the same functions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent / "bench"))  # cells run in processes of their own and are found by name
import many_cells
from browser import find_chromium

WIDTHS = 1_000


def plan_json(num_cells: int, folder: Path) -> tuple[int, int]:
    """Run `mmbench plan --json` on so many cells; return the lines it wrote and its peak memory in bytes."""
    command = [sys.executable, "-m", "mmbench.cli", "plan", "-d", "digits", "--no-baselines", "-f", "concat", "--json"]
    command += ["-e", "audio=logmel-cnn", "-e", "text=embedding-lstm", "--seeds", str(num_cells // WIDTHS)]
    for width in range(1, WIDTHS + 1):
        command += ["-e", f"image=cnn[width={width}]"]
    place = folder / "plan.json"
    with place.open("w") as out:
        process = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    with place.open() as written:
        num_lines = sum(line.startswith('    {"cell_id"') for line in written)
    return num_lines, usage.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory as Linux counts it")
def test_a_plan_of_ten_times_as_many_cells_takes_no_more_memory(tmp_path: Path) -> None:
    few, few_bytes = plan_json(10_000, tmp_path)
    many, many_bytes = plan_json(100_000, tmp_path)

    assert (few, many) == (10_000, 100_000)
    assert many_bytes - few_bytes < 4 * 2**20, f"{few_bytes / 2**20:.0f} MiB, then {many_bytes / 2**20:.0f} MiB"


def walked(num_cells: int, folder: Path, what: str) -> dict[str, Any]:
    """The figures of `tests/bench/plan_walk.py`."""
    script = Path(__file__).parent / "bench" / "plan_walk.py"
    command = [sys.executable, str(script), "--one", str(folder / f"cells-{num_cells}"), str(num_cells), what]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, text=True))
    return found


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory as Linux counts it")
def test_a_run_walks_through_ten_times_as_many_cells_in_the_same_memory(tmp_path: Path) -> None:
    few = walked(10_000, tmp_path, "walk")
    many = walked(100_000, tmp_path, "walk")
    again = walked(100_000, tmp_path, "again")

    assert many["counts"] == {"pending": 100_000}
    assert again["counts"] == {"ok": 100_000}
    assert many["peak_mib"] - few["peak_mib"] < 8, (few, many)
    assert again["peak_mib"] - many["peak_mib"] < 60  # what the journal says of each cell that is settled
    assert again["cpu_s"] < 40  # eight on the machine where it was measured


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs the fork server")
def test_of_many_empty_cells_none_is_lost_and_their_report_opens(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    first = many_cells.run_all(folder, 400, 2)
    again = many_cells.run_all(folder, 500, 2)
    last = many_cells.run_all(folder, 500, 2)

    assert (first.num_launched, again.num_launched, last.num_launched) == (400, 100, 0)
    assert last.counts == {"ok": 500}
    many_cells.check(folder, 500)
    many_cells.write_report(folder, many_cells.build_report(folder))
    if find_chromium() is None:
        pytest.skip("no Chromium is installed: the report was written and not opened")
    opened_s, num_elements = many_cells.open_report(folder)
    assert opened_s < 30
    assert 100 < num_elements < 20_000
