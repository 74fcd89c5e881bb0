"""Cells as jobs of a SLURM that runs for these tests: what becomes of them, whatever happens to the jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import slurm_cluster

from mmbench.errors import Unavailable, UsageError
from mmbench.executors import Job, Outcome

pytest.importorskip("submitit", reason="submitit is not installed: pip install 'mmbench-executors[slurm]'")

from mmbench_executors import slurm as slurm_module
from mmbench_executors.slurm import SlurmExecutor
from mmbench_executors.worker import Worker, run_to_file

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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if slurm_cluster.why_not():
        pytest.skip(slurm_cluster.why_not())
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm") / "cluster") as variables:
        yield variables


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


@pytest.fixture
def bench(cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "slurm_cells.py").write_text(CELLS)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setenv("SLURM_CONF", cluster["SLURM_CONF"])
    monkeypatch.setattr(slurm_module, "LAG_S", 2.0)
    return Bench(tmp_path)


def drive(
    executor: SlurmExecutor,
    outcomes: dict[str, Outcome],
    *,
    until: Callable[[], Any] | None = None,
    seconds: float = 90,
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


@pytest.mark.slow
def test_a_host_with_a_full_disk_costs_the_cell_that_met_it(bench: Bench) -> None:
    disk = bench.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        with bench.executor(cells_per_job=2) as executor:
            outcomes = run(executor, bench.job("a", "fill_cache", cache_dir=str(disk)), bench.job("b"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)

    assert outcomes["a"].status == "killed"
    assert f"is full at {disk} (0 MiB free of 1 MiB); the cell ended as failed: OSError: " in outcomes["a"].reason
    assert outcomes["b"].status == "ok"


@pytest.mark.slow
def test_a_host_that_loses_the_file_system_costs_the_cell_that_ran(bench: Bench) -> None:
    with bench.executor(cells_per_job=2) as executor:
        outcomes = run(executor, bench.job("a", "lose"), bench.job("b"))

    assert outcomes["a"].status == "killed"
    assert outcomes["a"].reason.endswith("it was removed, or its file system is lost")
    assert outcomes["b"].status == "ok"


@pytest.mark.slow
def test_a_host_with_another_version_of_a_plugin_costs_the_cells_that_use_it(bench: Bench) -> None:
    made = bench.folder / "elsewhere" / "mmbench_fusion-9.9.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: mmbench-fusion\nVersion: 9.9\n")
    (made / "entry_points.txt").write_text("[mmbench]\nfusion = mmbench_fusion\n")
    setup = [f"export PYTHONPATH={made.parent}:$PYTHONPATH"]

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
        drive(executor, outcomes, until=(job.folder / "history.jsonl").exists)
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
    end = time.monotonic() + 10
    while [pid for *_, pid in bench.noted() if psutil.pid_exists(int(pid))]:
        assert time.monotonic() < end, "a cell outlived its job"
        time.sleep(0.1)


def test_a_later_process_takes_up_what_an_earlier_one_submitted(bench: Bench) -> None:
    code = f"""
import sys, time
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(bench.folder / "code")!r}]
from pathlib import Path
from test_slurm import Bench
bench = Bench(Path({str(bench.folder)!r}))
executor = bench.executor(cells_per_job=2)
(bench.folder / "slurm" / "ledger.jsonl").touch()
for name, function in (("a", "quick"), ("b", "slow"), ("c", "slow")):
    executor.submit(bench.job(name, function))
while "submitted" not in (bench.folder / "slurm" / "ledger.jsonl").read_text():
    executor.wait(0.1)
time.sleep(600)
"""
    first = subprocess.Popen([sys.executable, "-c", code])
    try:
        end = time.monotonic() + 60
        while len(bench.noted()) < 3:
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        first.kill()
        first.wait()
    outcomes: dict[str, Outcome] = {}

    with bench.executor(cells_per_job=2) as executor:
        for job in (bench.job("a"), bench.job("b", "slow"), bench.job("c", "slow"), bench.job("d")):
            executor.submit(job)
        drive(executor, outcomes, until=lambda: "a" in outcomes)
        (bench.folder / "go").touch()
        drive(executor, outcomes)

    assert {name: outcome.status for name, outcome in outcomes.items()} == dict.fromkeys("abcd", "ok")
    assert sorted(name for name, *_ in bench.noted()) == ["a", "b", "c", "d"]


@pytest.mark.slow
def test_a_submission_of_which_nobody_heard_is_found_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    died = bench.executor()
    died.submit(bench.job("a"))
    with monkeypatch.context() as patch:
        # As if the process had died between sbatch and the ledger.
        patch.setattr(died._ledger, "submitted", lambda token, job_ids: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            drive(died, {})

    with bench.executor() as executor:
        outcomes = run(executor, bench.job("a"))

    assert outcomes["a"].status == "ok"
    assert len(bench.noted()) == 1


@pytest.mark.slow
def test_a_submission_that_never_arrived_is_made_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    died = bench.executor()
    died.submit(bench.job("a"))
    with monkeypatch.context() as patch:
        patch.setattr(died._queue, "submit", lambda token, packs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            drive(died, {})
    monkeypatch.setattr(slurm_module, "ARRIVE_S", 3.0)
    outcomes: dict[str, Outcome] = {}

    with bench.executor() as executor:
        executor.submit(bench.job("a"))
        began = time.monotonic()
        drive(executor, outcomes, until=lambda: queue() or outcomes)
        waited_s = time.monotonic() - began
        drive(executor, outcomes)

    assert outcomes["a"].status == "ok"
    assert waited_s > 1.5
    assert len(bench.noted()) == 1


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


def test_a_result_that_comes_before_the_cell_is_submitted_is_taken(bench: Bench) -> None:
    folder = bench.folder / "slurm"
    with bench.executor() as executor:
        executor.submit(bench.job("a"))
        # As a job does that was given up for lost and was not.
        (request,) = (folder / "requests").iterdir()
        (folder / "elsewhere").mkdir()
        data = {**json.loads(request.read_text()), "folder": str(folder / "elsewhere"), "function": "slurm_cells:idle"}
        with Worker(preload=()) as worker:
            run_to_file(worker, data, folder / "results" / request.name)
        outcomes = run(executor, bench.job("b"))

    assert (outcomes["a"].status, outcomes["b"].status) == ("ok", "ok")
    assert [name for name, *_ in bench.noted()] == ["b"]


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


@pytest.mark.slow
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
