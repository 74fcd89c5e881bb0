"""What must not grow with the number of cells: the memory of a plan, and the time of a command with nothing to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
