"""What a process submitted to SLURM, found by a later one, wherever the first one died."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmbench_executors import slurm as slurm_module
from mmbench_executors.slurm import SlurmExecutor
from mmbench_executors.worker import Worker, run_to_file
from slurm_bench import Bench, drive, queue, run

from mmbench.durable import LineFile
from mmbench.executors import Outcome

pytestmark = pytest.mark.serial


def die_at(executor: SlurmExecutor, owner: object, method: str) -> None:
    """Let an executor go on until it calls a method, as if its process had died there."""

    def die(*words: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, die)
        with pytest.raises(KeyboardInterrupt):
            drive(executor, {})


def test_a_later_process_takes_up_what_an_earlier_one_submitted(bench: Bench) -> None:
    code = f"""
import sys, time
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(bench.folder / "code")!r}]
from pathlib import Path
from slurm_bench import Bench
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
        end = time.monotonic() + 120
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
def test_a_submission_of_which_nobody_heard_is_found_again(bench: Bench) -> None:
    died = bench.executor()
    died.submit(bench.job("a"))
    die_at(died, died._ledger, "submitted")

    with bench.executor() as executor:
        outcomes = run(executor, bench.job("a"))

    assert outcomes["a"].status == "ok"
    assert len(bench.noted()) == 1


@pytest.mark.slow
def test_a_submission_that_never_arrived_is_made_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    died = bench.executor()
    died.submit(bench.job("a"))
    began = time.monotonic()
    die_at(died, died._queue, "submit")
    monkeypatch.setattr(slurm_module, "ARRIVE_S", 6.0)
    outcomes: dict[str, Outcome] = {}

    with bench.executor() as executor:
        executor.submit(bench.job("a"))
        drive(executor, outcomes, until=lambda: queue() or outcomes)
        waited_s = time.monotonic() - began
        drive(executor, outcomes)

    assert outcomes["a"].status == "ok"
    assert waited_s > 6.0
    assert len(bench.noted()) == 1


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


def test_a_full_disk_ends_cells_and_not_the_command(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: dict[str, Outcome] = {}
    with bench.executor(jobs=1) as executor:
        executor.submit(bench.job("a", "slow"))
        executor.submit(bench.job("b"))
        drive(executor, outcomes, until=bench.noted)
        # What is noted of "a" from now on has no room, and "b" cannot be sent.
        monkeypatch.setattr(executor._ledger, "_file", LineFile(Path("/dev/full")))
        (bench.folder / "go").touch()
        drive(executor, outcomes)
        executor.submit(bench.job("c"))
        drive(executor, outcomes)
    with bench.executor() as executor:
        later = run(executor, *[bench.job(name, attempt=2) for name in "bc"])

    assert {name: outcome.status for name, outcome in outcomes.items()} == {"a": "ok", "b": "killed", "c": "killed"}
    assert outcomes["b"].reason == f"{bench.folder / 'slurm'} cannot be written: No space left on device"
    assert {name: outcome.status for name, outcome in later.items()} == {"b": "ok", "c": "ok"}
    assert sorted(name for name, *_ in bench.noted()) == ["a", "b", "c"]
