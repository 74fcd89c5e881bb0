"""Cells as jobs of a SLURM that runs for these tests: what becomes of them, whatever happens to the jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from slurm_bench import Bench, drive, queue, run

from mmbench.executors import Outcome

pytestmark = pytest.mark.serial


def test_cells_of_a_pack_run_one_after_the_other_in_jobs_of_an_array(bench: Bench) -> None:
    jobs = [bench.job(name) for name in "abcd"]

    with bench.executor(cells_per_job=2) as executor:
        capacity = executor.capacity
        outcomes = run(executor, *jobs)

    assert capacity == 8
    assert {name: outcome.status for name, outcome in outcomes.items()} == dict.fromkeys("abcd", "ok")
    assert outcomes["a"].metrics[0].value == 0.5
    assert outcomes["a"].info["worker"]["host"]
    assert [(job.folder / "made.txt").read_text() for job in jobs] == ["a", "b", "c", "d"]
    job_of = {name: job_id for name, job_id, _ in bench.noted()}
    assert job_of["a"] == job_of["b"] != job_of["c"] == job_of["d"]
    left = [path for path in (bench.folder / "slurm").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["ledger.jsonl"]


def test_a_cell_that_is_killed_in_its_job_says_so_and_the_next_one_runs(bench: Bench) -> None:
    outcomes: dict[str, Outcome] = {}
    with bench.executor(cells_per_job=2) as executor:
        executor.submit(bench.job("a", "slow"))
        executor.submit(bench.job("b"))
        drive(executor, outcomes, until=bench.noted)
        os.kill(int(bench.noted()[0][2]), signal.SIGKILL)
        drive(executor, outcomes)

    assert (outcomes["a"].status, outcomes["a"].reason) == ("killed", "SIGKILL (Killed) ended the process")
    assert outcomes["b"].status == "ok"


@pytest.mark.slow
def test_a_cancelled_job_costs_its_cells_and_says_so(bench: Bench) -> None:
    outcomes: dict[str, Outcome] = {}
    with bench.executor(cells_per_job=2) as executor:
        for job in (bench.job("a", "slow"), bench.job("b"), bench.job("c"), bench.job("d")):
            executor.submit(job)
        drive(executor, outcomes, until=lambda: bench.noted() and "c" in outcomes)
        array = queue("-o", "%F")[0]
        subprocess.run(["scancel", f"{array}_0"], check=True)
        drive(executor, outcomes)

    assert (outcomes["c"].status, outcomes["d"].status) == ("ok", "ok")
    assert (outcomes["a"].status, outcomes["b"].status) == ("killed", "killed")
    assert outcomes["a"].reason.startswith(f"SLURM job {array}_0 on ")
    assert outcomes["a"].reason.endswith(" ended as CANCELLED while the cell ran")
    assert outcomes["b"].reason.endswith(" ended as CANCELLED before the cell began")


@pytest.mark.slow
def test_a_job_that_is_cancelled_before_it_begins_is_not_submitted_again(bench: Bench) -> None:
    outcomes: dict[str, Outcome] = {}
    with bench.executor() as executor:
        # Two processors: the third job has to wait.
        for name in "abc":
            executor.submit(bench.job(name, "slow"))
        drive(executor, outcomes, until=lambda: len(bench.noted()) == 2 and queue("-t", "PD"))
        (waiting,) = queue("-t", "PD", "-o", "%i")
        drive(executor, outcomes, until=iter([False] * 10 + [True]).__next__)
        subprocess.run(["scancel", waiting], check=True)
        drive(executor, outcomes, until=lambda: outcomes)
        (bench.folder / "go").touch()
        drive(executor, outcomes)

    assert {name: outcome.status for name, outcome in outcomes.items()} == {"a": "ok", "b": "ok", "c": "killed"}
    assert outcomes["c"].reason == f"SLURM job {waiting} ended as CANCELLED before the cell began"
    assert sorted(name for name, *_ in bench.noted()) == ["a", "b"]


@pytest.mark.slow
def test_cells_behind_a_job_that_dies_are_submitted_again(bench: Bench) -> None:
    outcomes: dict[str, Outcome] = {}
    with bench.executor(cells_per_job=3) as executor:
        for job in (bench.job("a", "slow"), bench.job("b"), bench.job("c")):
            executor.submit(job)
        drive(executor, outcomes, until=bench.noted)
        cell = psutil.Process(int(bench.noted()[0][2]))
        (worker,) = [
            each for each in cell.parents() if "submitit" in " ".join(each.cmdline())[:400] and "python" in each.name()
        ]
        worker.kill()
        drive(executor, outcomes)

    assert outcomes["a"].status == "killed"
    assert " ended as FAILED (exit code 137" in outcomes["a"].reason
    assert (outcomes["b"].status, outcomes["c"].status) == ("ok", "ok")
    job_of = {name: job_id for name, job_id, _ in bench.noted()}
    assert job_of["a"] != job_of["b"] == job_of["c"]
    assert not psutil.pid_exists(cell.pid) or cell.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_node_that_fails_costs_the_cell_that_ran_there(bench: Bench) -> None:
    outcomes: dict[str, Outcome] = {}
    with bench.executor(cells_per_job=2, sbatch=["no-requeue"]) as executor:
        executor.submit(bench.job("a", "slow"))
        executor.submit(bench.job("b"))
        drive(executor, outcomes, until=bench.noted)
        (node,) = queue("-o", "%N")
        subprocess.run(["scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test"], check=True)
        # It answers, so SLURM takes it into service again by itself.
        drive(executor, outcomes)

    assert outcomes["a"].status == "killed"
    assert f" on {node} ended as NODE_FAIL" in outcomes["a"].reason
    assert outcomes["b"].status == "ok"


@pytest.mark.slow
def test_a_job_that_slurm_puts_back_continues_with_its_next_cell(bench: Bench) -> None:
    outcomes: dict[str, Outcome] = {}
    with bench.executor(cells_per_job=3) as executor:
        for job in (bench.job("a"), bench.job("b", "slow"), bench.job("c")):
            executor.submit(job)
        drive(executor, outcomes, until=lambda: len(bench.noted()) == 2)
        (job_id,) = queue("-o", "%i")
        subprocess.run(["scontrol", "requeue", job_id], check=True)
        drive(executor, outcomes, until=lambda: queue("-t", "PD"))
        # SLURM lets two minutes pass before it begins such a job again.
        subprocess.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now+5"], check=True)
        (bench.folder / "go").touch()
        drive(executor, outcomes)

    assert {name: outcome.status for name, outcome in outcomes.items()} == dict.fromkeys("abc", "ok")
    assert [(name, number) for name, number, _ in bench.noted()] == [(name, job_id) for name in "abbc"]


@pytest.mark.full
def test_a_cell_that_outlasts_its_walltime_says_so(bench: Bench) -> None:
    outcomes: dict[str, Outcome] = {}
    with bench.executor(time="1m", cells_per_job=2) as executor:
        for job in (bench.job("a"), bench.job("b", "slow")):
            executor.submit(job)
        for number in (2, 3):
            drive(executor, outcomes, until=lambda number=number: len(bench.noted()) == number)
            (job_id,) = queue("-t", "R", "-o", "%i")
            # The minute that the job was given, which is the least there is, is over now.
            subprocess.run(["scontrol", "update", f"JobId={job_id}", "EndTime=now+1"], check=True)
        drive(executor, outcomes)

    assert outcomes["a"].status == "ok"
    assert outcomes["b"].status == "timeout"
    assert "ended as TIMEOUT, its walltime being over (the option time gives more), while the cell ran" in (
        outcomes["b"].reason
    )
    # Behind another cell it had less than the whole walltime, so it was tried once more.
    assert [name for name, *_ in bench.noted()] == ["a", "b", "b"]


@pytest.mark.slow
def test_a_host_with_a_full_disk_costs_the_cell_that_met_it(bench: Bench, small_disk: Path) -> None:
    with bench.executor(cells_per_job=2) as executor:
        outcomes = run(executor, bench.job("a", "fill_cache", cache_dir=str(small_disk)), bench.job("b"))

    assert outcomes["a"].status == "killed"
    assert (
        f"is full at {small_disk} (0 MiB free of 1 MiB); the cell ended as interrupted: OSError: "
        in outcomes["a"].reason
    )
    assert outcomes["b"].status == "ok"


@pytest.mark.slow
def test_a_host_that_loses_the_file_system_costs_the_cell_that_ran(bench: Bench) -> None:
    with bench.executor(cells_per_job=2) as executor:
        outcomes = run(executor, bench.job("a", "lose"), bench.job("b"))

    assert outcomes["a"].status == "killed"
    assert outcomes["a"].reason.endswith("it was removed, or its file system is lost")
    assert outcomes["b"].status == "ok"


@pytest.mark.slow
def test_a_host_with_another_version_of_a_plugin_costs_the_cells_that_use_it(bench: Bench, fusions_9_9: Path) -> None:
    setup = [f"export PYTHONPATH={fusions_9_9}:$PYTHONPATH"]

    with bench.executor(cells_per_job=2, setup=setup) as executor:
        using = bench.job("a", fusion={"ref": "mmbench-fusion/concat"})
        outcomes = run(executor, using, bench.job("b", fusion={"ref": "mmbench-vision/cnn"}))

    assert outcomes["a"].status == "failed"
    assert " has mmbench-fusion 9.9 where the run was planned with 0.1.0: install the same there" in (
        outcomes["a"].reason
    )
    assert outcomes["b"].status == "ok"


@pytest.mark.slow
def test_a_cell_is_held_to_the_memory_of_its_job(bench: Bench) -> None:
    with bench.executor(memory="500M") as executor:
        outcomes = run(executor, bench.job("a", "allocate"))

    assert outcomes["a"].status == "oom_host"
    assert outcomes["a"].reason.endswith(" of host memory where 0.4 GiB are allowed for one cell")


@pytest.mark.slow
def test_jobs_are_packed_by_what_finished_cells_took(bench: Bench) -> None:
    with bench.executor(jobs=1, time="10m") as executor:
        at_first = executor.capacity
        run(executor, bench.job("a"))
        executor.wait(0)
        later = executor.capacity
        run(executor, *[bench.job(name) for name in "bcd"])

    assert (at_first, later) == (1, 100)
    job_of = {name: job_id for name, job_id, _ in bench.noted()}
    assert job_of["a"] != job_of["b"] == job_of["c"] == job_of["d"]


@pytest.mark.slow
def test_a_running_cell_can_be_watched_from_the_runs_folder(bench: Bench) -> None:
    outcomes: dict[str, Outcome] = {}
    job = bench.job("a", "curve")
    with bench.executor() as executor:
        executor.submit(job)
        # The cell makes the file before it writes into it.
        history = job.folder / "history.jsonl"
        drive(executor, outcomes, until=lambda: history.exists() and history.read_text())
        while_running = (job.folder / "history.jsonl").read_text()
        (bench.folder / "go").touch()
        drive(executor, outcomes)

    assert while_running == "{}"
    assert sorted((path.name, path.is_symlink()) for path in job.folder.iterdir()) == [("history.jsonl", False)]


@pytest.mark.slow
def test_cancel_ends_every_job(bench: Bench) -> None:
    outcomes: dict[str, Outcome] = {}
    with bench.executor() as executor:
        for name in "abc":
            executor.submit(bench.job(name, "slow"))
        drive(executor, outcomes, until=lambda: len(bench.noted()) == 2)
        executor.cancel()
        drive(executor, outcomes)

    assert {name: outcome.status for name, outcome in outcomes.items()} == dict.fromkeys("abc", "interrupted")
    assert queue() == []
    end = time.monotonic() + 60
    while [pid for *_, pid in bench.noted() if psutil.pid_exists(int(pid))]:
        assert time.monotonic() < end, "a cell outlived its job"
        time.sleep(0.1)
