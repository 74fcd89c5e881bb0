"""What the machine lacks for a while is no result of a cell: the same command completes the run once it is there."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from own_disk import mounted

from mmbench.cache import ArrayCache
from mmbench.executors import Job, Outcome, Running
from mmbench.executors.child import MACHINE_FAULT, execute
from mmbench.executors.launch import Lost, Refused
from mmbench.executors.local import LocalExecutor
from mmbench.runner import run
from mmbench.store import RunStore

sys.path.append(str(Path(__file__).parent))  # cells run in processes of their own and must be importable by name
from toy_run import ToyCell

CELLS = [ToyCell(number) for number in range(6)]
NO_PROCESS = Outcome(status="interrupted", reason="no process can be started: Resource temporarily unavailable")
OK = Outcome(status="ok", started_at="2026-01-01T00:00:00")
FULL = Outcome(status="interrupted", reason="full", started_at="2026-01-01T00:00:00", info={MACHINE_FAULT: True})


class Scripted:
    """An executor that ends the nth job as the nth outcome says, and all others with a result."""

    capacity = 1

    def __init__(self, *outcomes: Outcome) -> None:
        self._outcomes = list(outcomes)
        self._jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def wait(self, timeout_s: float) -> list[tuple[Job, Outcome]]:
        return [(self._jobs.pop(0), self._outcomes.pop(0) if self._outcomes else OK)]

    def running(self) -> list[Running]:
        return []

    def cancel(self) -> None:
        pass


@pytest.mark.parametrize("fault", [NO_PROCESS, FULL], ids=["no start", "no room"])
def test_two_cells_in_a_row_that_the_machine_cannot_run_stop_the_run_and_are_tried_again(
    tmp_path: Path, fault: Outcome
) -> None:
    with RunStore.create(tmp_path / "run") as store:
        first = run(CELLS, store, Scripted(OK, fault, fault))  # type: ignore[arg-type]
        for _ in range(4):  # three times used to be final
            again = run(CELLS, store, Scripted(fault, fault))  # type: ignore[arg-type]
        last = run(CELLS, store, Scripted())  # type: ignore[arg-type]

    assert (first.counts, first.cause, first.exit_code) == ({"ok": 1, "interrupted": 2, "pending": 3}, "machine", 1)
    assert first.reason == (
        f"the machine could not run 2 cells in a row ({fault.reason}): what ended before is kept; mend that, "
        "then type the command again"
    )
    assert (again.num_launched, again.cause) == (2, "machine")
    assert (last.counts, last.cause, last.exit_code) == ({"ok": 6}, "", 0)


def test_a_fault_between_results_stops_nothing(tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "run") as store:
        summary = run(CELLS, store, Scripted(FULL, OK, FULL, OK, NO_PROCESS))  # type: ignore[arg-type]

    assert (summary.counts, summary.cause) == ({"ok": 3, "interrupted": 3}, "")


class Launcher:
    """Starts nothing: says what happened instead."""

    def __init__(self, message: Callable[[int], object]) -> None:
        self._message = message
        self._messages: list[object] = []

    def start(self, number: int, job: Job) -> None:
        self._messages.append(self._message(number))

    def poll(self, timeout_s: float) -> list[object]:
        messages, self._messages = self._messages, []
        return messages

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "message",
    [lambda number: Refused(job=number, reason="no process can be started"), lambda number: Lost(reason="it ended")],
    ids=["refused", "the server is lost"],
)
def test_a_cell_that_never_began_is_interrupted_and_not_killed(
    tmp_path: Path, message: Callable[[int], object]
) -> None:
    with LocalExecutor(1, preload=()) as executor:
        executor._launcher = Launcher(message)  # type: ignore[assignment]
        executor.submit(Job(cell_id="0" * 16, function="hostile_cells:square", payload={}, folder=tmp_path))
        ended: list[tuple[Job, Outcome]] = []
        while not ended:
            ended = executor.wait(0.1)

    assert (ended[0][1].status, ended[0][1].started_at) == ("interrupted", "")


@pytest.mark.parametrize(
    ("function", "payload", "status"),
    [
        ("lacks", {"errno": errno.ENOSPC}, "interrupted"),
        ("lacks", {"errno": errno.EDQUOT}, "interrupted"),
        ("lacks", {"errno": errno.EROFS}, "interrupted"),
        ("lacks", {"errno": errno.EAGAIN}, "interrupted"),
        ("lacks", {"errno": errno.EMFILE}, "failed"),  # a leak of its own: far more files than the limit below are open
        ("lacks", {"errno": errno.ENOENT}, "failed"),
        ("lacks", {"errno": errno.EACCES}, "failed"),
        ("cannot_start_a_thread", {}, "interrupted"),
        ("has_no_cache", {}, "interrupted"),
        ("raises", {}, "failed"),
    ],
)
def test_what_the_machine_lacks_is_told_from_what_the_cell_did(
    tmp_path: Path, function: str, payload: dict[str, int], status: str
) -> None:
    outcome = execute(f"hostile_cells:{function}", payload, tmp_path)

    assert outcome["status"] == status
    assert outcome["info"].get(MACHINE_FAULT, False) == (status == "interrupted")


def test_too_few_open_files_are_the_machines_fault(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        outcome = execute("hostile_cells:lacks", {"errno": errno.EMFILE}, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert outcome["status"] == "interrupted"


def test_a_cache_that_cannot_be_opened_for_want_of_files_says_so(tmp_path: Path) -> None:
    script = f"""
import os, pathlib, resource
import numpy as np
from mmbench.cache import ArrayCache
cache = ArrayCache(pathlib.Path({str(tmp_path)!r}))
cache.put("index/a", {{"x": np.ones(3)}})
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
opened = []
try:
    while True:
        opened.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
try:
    cache.get_or_make("index/a", lambda: 1 / 0)
except OSError as error:
    os.write(1, os.strerror(error.errno).encode())
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.stderr) == ("Too many open files", "")
    assert ArrayCache(tmp_path).get("index/a") is not None


def command(folder: Path, before: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    run = "from mmbench.cli import main; main()"
    selection = "-d xor -f concat --no-baselines --seeds 2 --epochs 1 --protocol none --diagnostics none --run limits"
    environment = {**os.environ, "MMBENCH_CACHE": str(folder / "cache"), **variables}
    return subprocess.run(
        ["bash", "-c", f"{before}{sys.executable} -c '{run}' run {selection}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def is_complete(folder: Path) -> bool:
    states = RunStore.open(folder / "results" / "limits").states()
    return [state.status for state in states.values()] == ["ok", "ok"]


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["-n 24", "-v 3000000"])
def test_a_run_under_tight_limits_is_completed_by_the_same_command_without_them(tmp_path: Path, limit: str) -> None:
    for _ in range(3):
        refused = command(tmp_path, f"ulimit {limit}; ")
        assert refused.returncode != 0
        assert "reinstall" not in refused.stdout + refused.stderr
    done = command(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert is_complete(tmp_path)


@pytest.mark.slow
def test_a_run_whose_cache_has_no_room_is_completed_with_another_cache(tmp_path: Path) -> None:
    with mounted(tmp_path / "full", "64k") as full:
        with (full / "ballast").open("wb", buffering=0) as stream, suppress(OSError):
            while True:
                stream.write(b"x" * 4096)
        for _ in range(3):
            refused = command(tmp_path, MMBENCH_CACHE=str(full))
            assert refused.returncode != 0
            assert "No space left on device" in refused.stdout
    done = command(tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert is_complete(tmp_path)
