"""What a user may ask of SLURM: it reaches sbatch, or the refusal is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmbench_executors.slurm import SlurmExecutor
from slurm_bench import Bench, drive, run

from mmbench.errors import Unavailable, UsageError
from mmbench.executors import Outcome


def test_options_reach_sbatch(bench: Bench) -> None:
    outcomes: dict[str, Outcome] = {}
    options = {"time": "90s", "memory": "300M", "partition": "debug", "sbatch": ["nice=5", "--exclusive"]}
    with bench.executor(threads=2, setup=["export MARK=1"], **options) as executor:
        executor.submit(bench.job("a"))
        drive(executor, outcomes, until=lambda: list((bench.folder / "slurm" / "logs").glob("*_submission.sh")))
        (file,) = (bench.folder / "slurm" / "logs").glob("*_submission.sh")
        script = file.read_text().splitlines()
        drive(executor, outcomes)

    assert outcomes["a"].status == "ok"
    assert {"export MARK=1", "#SBATCH --exclusive", "#SBATCH --nice=5", "#SBATCH --cpus-per-task=2"} < set(script)
    assert {"#SBATCH --time=2", "#SBATCH --mem=300M", "#SBATCH --partition=debug"} < set(script)


def test_gpus_that_no_node_has_are_refused(bench: Bench) -> None:
    with bench.executor(gpus=1) as executor, pytest.raises(UsageError, match=r"SLURM does not take the jobs: .*gres"):
        run(executor, bench.job("a"))


def test_options_that_slurm_refuses_are_one_sentence(bench: Bench) -> None:
    with bench.executor(partition="nowhere") as executor, pytest.raises(UsageError) as refused:
        run(executor, bench.job("a"))

    assert str(refused.value).startswith("SLURM does not take the jobs: ")
    assert "invalid partition specified: nowhere" in str(refused.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"time": "soon"}, "the option time cannot be read: a duration reads 90, 90s, 15m, 2h or 30d; got 'soon'"),
        ({"time": "0"}, "the option time must be above 0"),
        ({"gpus": -1}, "must not be negative"),
        ({"sbatch": ["what is this"]}, "sbatch takes words such as constraint=a100 or exclusive"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        SlurmExecutor(tmp_path, 1, 1, **options)


def test_without_slurm_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(Unavailable, match="needs sbatch, srun, squeue, scancel on the PATH"):
        SlurmExecutor(tmp_path, 1, 1)
