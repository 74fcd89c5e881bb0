"""Executors that plugins bring, from the hook to the end of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PLUGIN = """
from mmbench import ExecutorSpec, Unavailable, hookimpl
from mmbench.executors.inline import InlineExecutor


class Told(InlineExecutor):
    def __init__(self, folder, jobs, threads, colour):
        super().__init__()
        self.path = folder / "told.txt"
        self.path.write_text(f"{jobs} {threads} {colour}\\n")

    def submit(self, job):
        with self.path.open("a") as stream:
            print(job.cell_id, job.attempt, file=stream)
        super().submit(job)


def absent(folder, jobs, threads):
    (folder / "ledger").write_text("")
    raise Unavailable("the cluster does not answer")


@hookimpl
def mmbench_executors():
    return [
        ExecutorSpec(name="told", factory="my_executor:Told", version="1", defaults={"colour": "red"}),
        ExecutorSpec(name="absent", factory="my_executor:absent", version="1"),
        ExecutorSpec(name="lacking", factory="my_executor:Told", version="1", requires=("no_such_package",)),
    ]
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "my_executor.py").write_text(PLUGIN)
    command = [
        sys.executable, "-m", "mmbench.cli", "run", "-d", "xor", "-f", "concat", "-e", "mlp", "--epochs", "1", "--limit", "40",
        "--protocol", "none", "--diagnostics", "none", "--no-baselines", "--plugin", "my_executor.py", "--cache", "cache",
        "--run", "r", *words,
    ]  # fmt: skip
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_a_plugin_says_where_cells_run(tmp_path: Path) -> None:
    done = run(tmp_path, "--executor", "told[colour=blue]", "--set", "patience=0")

    assert done.returncode == 0, done.stderr
    (cell,) = (tmp_path / "results" / "r" / "cells").iterdir()
    assert json.loads((cell / "record.json").read_text())["status"] == "ok"
    told = (tmp_path / "results" / "r" / "executors" / "told" / "told.txt").read_text()
    assert told.splitlines() == ["0 1 blue", f"{cell.name} 1"]


def test_an_executor_that_cannot_be_had_costs_nothing(tmp_path: Path) -> None:
    unknown = run(tmp_path, "--executor", "tolt")
    lacking = run(tmp_path, "--executor", "lacking")
    both = run(tmp_path, "--executor", "told", "--isolate", "none")

    assert (unknown.returncode, lacking.returncode, both.returncode) == (2, 1, 2)
    assert "no executor is named 'tolt'" in unknown.stderr
    assert "did you mean 'told'?" in unknown.stderr.lower()
    assert lacking.stderr == "error: file/lacking needs no_such_package: pip install no_such_package\n"
    assert "give one of them" in both.stderr
    assert not list(tmp_path.glob("results/r/cells/*"))


def test_an_executor_that_does_not_answer_leaves_the_name_of_the_run_free(tmp_path: Path) -> None:
    first = run(tmp_path, "--executor", "absent")
    second = run(tmp_path, "--executor", "absent")

    assert (first.returncode, second.returncode) == (1, 1)
    assert first.stderr == second.stderr == "error: the cluster does not answer\n"
