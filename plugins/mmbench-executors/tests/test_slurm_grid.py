"""A grid on a real SLURM, with everything going wrong that does on a cluster, beside the same grid on this machine."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.serial

PLUGIN = """
from mmbench import FusionSpec, hookimpl

@hookimpl
def mmbench_fusions():
    facts = {"accepts": "vector", "version": "1", "defaults": {"fused_dim": 16}}
    return [FusionSpec(name="held", factory="held_network:Held", **facts)]
"""

NETWORK = """
import os, time
from pathlib import Path

from mmbench_fusion.concat import Concat

class Held(Concat):
    # As long as there is a file "hold", a cell stands here and says which process and which job it is.
    def __init__(self, dims, tasks, *, fused_dim):
        super().__init__(dims, tasks, fused_dim=fused_dim)
        place = Path(os.environ["HELD_AT"])
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
        with (place / "began.txt").open("a") as stream:
            stream.write(f"{os.getpid()} {array}_{task}\\n")
        while (place / "hold").exists():
            time.sleep(0.05)
"""

QUALITY = (
    "rank",
    "group",
    "encoders",
    "fusion",
    "seeds_done",
    "mean",
    "std",
    "ci_low",
    "ci_high",
    "val",
    "gain",
    "statuses",
)


class Grid:
    """One grid in one folder, to be run here or there."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        (folder / "held.py").write_text(PLUGIN)
        (folder / "held_network.py").write_text(NETWORK)
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        self.env = {**os.environ, **variables, "HELD_AT": str(folder), "PYTHONPATH": path}

    def command(self, run: str, executor: str) -> list[str]:
        return [
            sys.executable, "-m", "mmbench.cli", "run", "-d", "xor", "-e", "mlp", "-f", "concat", "-f", "held",
            "--plugin", "held.py", "--seeds", "3", "--epochs", "3", "--limit", "300", "--protocol", "none",
            "--diagnostics", "none", "--cache", "cache", "--run", run, "--executor", executor,
        ]  # fmt: skip

    def run(self, run: str, executor: str) -> subprocess.CompletedProcess[str]:
        command = self.command(run, executor)
        return subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=400, check=False
        )

    def journal(self, run: str) -> list[dict[str, Any]]:
        path = self.folder / "results" / run / "journal.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def table(self, run: str) -> list[tuple[str, ...]]:
        with (self.folder / "results" / run / "report" / "leaderboard.csv").open(newline="") as stream:
            return [tuple(row[name] for name in QUALITY) for row in csv.DictReader(stream)]

    def predictions(self, run: str) -> dict[str, bytes]:
        files = (self.folder / "results" / run / "cells").glob("*/predictions.safetensors")
        return {file.parent.name: file.read_bytes() for file in files}

    def began(self) -> list[list[str]]:
        """Return process and job of every cell of `held` that began, in order."""
        path = self.folder / "began.txt"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def until(condition: Callable[[], Any], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_grid_on_slurm_survives_what_happens_to_it_and_equals_the_local_one(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    grid = Grid(tmp_path, slurm)
    local = grid.run("local", "local")
    assert local.returncode == 0, local.stderr
    (tmp_path / "began.txt").unlink()
    executor = "slurm[poll=1,time=1h,cells_per_job=2]"

    # Two cells stand, one on each processor of the cluster; the third waits behind them.
    (tmp_path / "hold").touch()
    login = subprocess.Popen(grid.command("cluster", executor), cwd=tmp_path, env=grid.env)
    try:
        until(lambda: len(grid.began()) == 2)
        (first, _), (_, job) = grid.began()
        os.kill(int(first), signal.SIGKILL)
        subprocess.run(["scancel", job], env=grid.env, check=True)
        # The one whose process was killed, the one whose job was cancelled, and the one behind it in that job.
        until(lambda: Counter(line["status"] for line in grid.journal("cluster"))["killed"] == 3)
        until(lambda: len(grid.began()) == 3)
    finally:
        login.kill()
        login.wait()
    dead = grid.journal("cluster")
    (tmp_path / "hold").unlink()
    again = grid.run("cluster", executor)
    once_more = grid.run("cluster", executor)

    assert again.returncode == 0, again.stdout + again.stderr
    assert "nothing left to do" in once_more.stdout
    killed = [line["reason"] for line in dead if line["status"] == "killed"]
    assert "SIGKILL (Killed) ended the process" in killed
    assert any(
        f"SLURM job {job} on " in reason and "ended as CANCELLED while the cell ran" in reason for reason in killed
    )
    # The cells that were killed began twice, the one that stood while nobody was logged in began once.
    assert len(grid.began()) == 5
    num_ok = Counter(line["cell_id"] for line in grid.journal("cluster") if line["status"] == "ok")
    assert num_ok == Counter(line["cell_id"] for line in grid.journal("local"))
    assert len(num_ok) == 13
    assert grid.table("cluster") == grid.table("local")
    assert grid.predictions("cluster") == grid.predictions("local")
