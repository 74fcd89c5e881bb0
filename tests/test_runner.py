"""A run loses nothing and repeats nothing, however it is ended and however often its command is typed again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from mmbench.executors import Executor, Job, Outcome, Running
from mmbench.executors.inline import InlineExecutor
from mmbench.executors.local import LocalExecutor
from mmbench.executors.watch import _free_of_cgroups, default_memory_bytes
from mmbench.record import Record
from mmbench.runner import Event, Summary, run
from mmbench.store import RunStore

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # the toy cells run in processes of their own and must be importable by name
from toy_run import ToyCell, toy_cells  # noqa: E402


class Scripted:
    """An executor whose outcomes are written down beforehand; it answers in the order of submission."""

    def __init__(self, outcome: Callable[[Job, int], str], capacity: int = 2) -> None:
        self.capacity = capacity
        self.jobs: list[Job] = []
        self.waiting: list[Job] = []
        self.most_at_once = 0
        self._outcome = outcome

    def submit(self, job: Job) -> None:
        assert job.folder.is_dir()
        assert not any(job.folder.iterdir())
        self.jobs.append(job)
        self.waiting.append(job)
        self.most_at_once = max(self.most_at_once, len(self.waiting))

    def wait(self, timeout_s: float) -> list[tuple[Job, Outcome]]:
        job = self.waiting.pop(0)
        status = self._outcome(job, sum(item.cell_id == job.cell_id for item in self.jobs))
        return [(job, Outcome(status=status, reason="" if status == "ok" else "as scripted"))]  # type: ignore[arg-type]

    def running(self) -> list[Running]:
        return [Running(job=job, elapsed_s=0) for job in self.waiting]

    def cancel(self) -> None:
        self._outcome = lambda job, attempt: "interrupted"

    def close(self) -> None:
        pass

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    with RunStore.create(tmp_path / "run") as made:
        yield made


def always(status: str) -> Callable[[Job, int], str]:
    return lambda job, attempt: status


def ids(cells: list[ToyCell]) -> list[str]:
    return [cell.cell_id for cell in cells]


CELLS = [ToyCell(n) for n in range(5)]


def test_every_cell_is_launched_once_in_order_and_no_more_than_fit(store: RunStore) -> None:
    executor = Scripted(always("ok"))

    summary = run(iter(CELLS), store, executor)

    assert [job.cell_id for job in executor.jobs] == ids(CELLS)
    assert executor.most_at_once == 2
    assert executor.jobs[3].payload == {"n": 3, "do": "square"}
    assert (summary.counts, summary.num_launched, summary.cause, summary.num_failed) == ({"ok": 5}, 5, "", 0)
    assert list(store.records()) == ids(CELLS)


def test_the_same_command_again_launches_nothing(store: RunStore) -> None:
    run(CELLS, store, Scripted(always("ok")))
    executor = Scripted(always("ok"))

    summary = run(CELLS, store, executor)

    assert executor.jobs == []
    assert (summary.counts, summary.num_launched) == ({"ok": 5}, 0)


@pytest.mark.parametrize(
    ("status", "attempts_after_five_commands"),
    [
        ("ok", 1),
        ("failed", 1),
        ("timeout", 1),
        ("oom_gpu", 1),
        ("oom_host", 1),
        ("diverged", 1),
        ("killed", 3),
        ("interrupted", 5),
        ("unavailable", 5),
    ],
)
def test_only_what_the_moment_did_is_tried_again(
    store: RunStore, status: str, attempts_after_five_commands: int
) -> None:
    executor = Scripted(always(status))

    for _ in range(5):
        summary = run(CELLS[:1], store, executor)

    assert len(executor.jobs) == attempts_after_five_commands
    assert summary.counts == {status: 1}
    assert [record.attempt for record in store.journal] == list(range(1, attempts_after_five_commands + 1))


def test_a_failure_is_tried_again_when_its_status_is_named(store: RunStore) -> None:
    executor = Scripted(lambda job, attempt: "failed" if attempt == 1 else "ok")
    run(CELLS[:2], store, executor)

    again = run(CELLS[:2], store, executor, retry=frozenset({"failed"}))

    assert (again.num_launched, again.counts) == (2, {"ok": 2})
    assert run(CELLS[:2], store, executor, retry=frozenset({"failed"})).num_launched == 0


def test_a_cell_killed_three_times_can_be_named_too(store: RunStore) -> None:
    executor = Scripted(always("killed"))
    for _ in range(4):
        run(CELLS[:1], store, executor)

    run(CELLS[:1], store, executor, retry=frozenset({"killed"}))

    assert len(executor.jobs) == 4


def test_cells_that_cannot_run_are_counted_but_not_written_down(store: RunStore) -> None:
    cells = [
        ToyCell(0),
        ToyCell(1, status="incompatible", reason="mlp gives one vector"),
        ToyCell(2, status="unavailable", reason="timm is not installed"),
    ]

    summary = run(cells, store, Scripted(always("ok")))

    assert summary.counts == {"ok": 1, "incompatible": 1, "unavailable": 1}
    assert list(store.records()) == [cells[0].cell_id]


def test_a_cell_that_was_tried_under_another_plan_keeps_its_attempts(store: RunStore) -> None:
    store.journal.append(Record(cell_id=CELLS[0].cell_id, status="interrupted", attempt=1))

    run(CELLS[:1], store, Scripted(always("ok")))

    assert store.records()[CELLS[0].cell_id].attempt == 2


def test_so_many_failures_stop_the_launching_and_what_runs_is_finished(store: RunStore) -> None:
    executor = Scripted(always("failed"))
    events: list[Event] = []

    summary = run(CELLS, store, executor, max_failures=2, on_event=events.append)

    assert summary.cause == "max_failures"
    assert summary.reason == "2 cells failed"
    assert summary.counts == {"failed": 3, "pending": 2}
    assert [event.reason for event in events if event.kind == "stopped"] == ["2 cells failed"]


def test_a_share_of_failures_is_judged_from_the_tenth_cell_on(store: RunStore) -> None:
    cells = [ToyCell(n) for n in range(30)]
    executor = Scripted(lambda job, attempt: "failed" if job.payload["n"] < 3 else "ok", capacity=1)

    summary = run(cells, store, executor, max_failures=0.2)

    assert summary.reason == "3 of 10 cells failed, more than 20%"
    assert summary.counts == {"failed": 3, "ok": 7, "pending": 20}


def test_a_share_that_is_not_passed_stops_nothing(store: RunStore) -> None:
    cells = [ToyCell(n) for n in range(20)]
    executor = Scripted(lambda job, attempt: "failed" if job.payload["n"] % 10 == 9 else "ok")

    assert run(cells, store, executor, max_failures=0.1).counts == {"ok": 18, "failed": 2}


def test_a_spent_budget_leaves_the_rest_pending_and_the_next_call_completes(store: RunStore) -> None:
    def slowly(job: Job, attempt: int) -> str:
        time.sleep(0.1)
        return "ok"

    summary = run(CELLS, store, Scripted(slowly, capacity=1), budget_s=0.15)

    assert (summary.cause, summary.reason) == ("budget", "the budget of 0.15 s is spent")
    assert summary.counts["pending"] == 5 - summary.num_launched > 0
    assert run(CELLS, store, Scripted(always("ok"))).counts == {"ok": 5}
    assert Counter(record.cell_id for record in store.journal) == dict.fromkeys(ids(CELLS), 1)


def test_events_tell_what_happens_in_order(store: RunStore) -> None:
    events: list[Event] = []

    run(CELLS[:2], store, Scripted(always("ok"), capacity=1), on_event=events.append)

    told = [(event.kind, event.cell.cell_id, dict(event.counts)) for event in events if event.cell]
    first, second = ids(CELLS[:2])
    assert told == [
        ("started", first, {}),
        ("finished", first, {"ok": 1}),
        ("started", second, {"ok": 1}),
        ("finished", second, {"ok": 2}),
    ]
    assert events[1].record == store.records()[first]


def test_limits_reach_the_executor(store: RunStore) -> None:
    executor = Scripted(always("ok"))

    run(CELLS[:1], store, executor, timeout_s=12.0, memory_bytes=345, function="a.b:c")

    job = executor.jobs[0]
    assert (job.timeout_s, job.memory_bytes, job.function) == (12.0, 345, "a.b:c")


def test_cells_are_walked_through_and_not_kept(store: RunStore) -> None:
    launched_when_drawn: list[int] = []
    executor = Scripted(always("ok"), capacity=2)

    def drawn() -> Iterator[ToyCell]:
        for cell in CELLS:
            launched_when_drawn.append(len(executor.jobs))
            yield cell

    run(drawn(), store, executor)

    assert launched_when_drawn == [0, 1, 2, 3, 4]


def test_memory_for_a_cell_is_a_share_of_what_is_free() -> None:
    free = psutil.virtual_memory().available

    assert 0 < default_memory_bytes(4) <= 0.85 * free / 4
    assert default_memory_bytes(1) > default_memory_bytes(8)


@pytest.mark.parametrize("make_executor", [lambda: LocalExecutor(1, preload=(), grace_s=0.3), InlineExecutor])
def test_a_signal_ends_the_cells_as_interrupted_and_keeps_the_journal_whole(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_executor: Callable[[], Executor]
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    marker = tmp_path / "began"
    cells = [ToyCell(0), ToyCell(1, "hangs", more={"marker": str(marker)}), ToyCell(2)]

    def interrupt() -> None:
        until = time.monotonic() + 120
        while not marker.exists() and time.monotonic() < until:
            time.sleep(0.01)
        if marker.exists():
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=interrupt)
    with make_executor() as executor:
        thread.start()
        summary = run(cells, store, executor, function="hostile_cells:by_number")
    thread.join()

    assert (summary.cause, summary.signum, summary.reason) == ("signal", signal.SIGTERM, "SIGTERM was received")
    assert summary.counts == {"ok": 1, "interrupted": 1, "pending": 1}
    assert [record.status for record in store.journal] == ["ok", "interrupted"]
    assert signal.getsignal(signal.SIGTERM) is before
    assert run([replace(cell, do="square") for cell in cells], store, Scripted(always("ok"))).counts == {"ok": 3}


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_run_from_another_thread_leaves_signals_alone(store: RunStore) -> None:
    found: list[Summary] = []
    thread = threading.Thread(target=lambda: found.append(run(CELLS, store, Scripted(always("ok")))))

    thread.start()
    thread.join(120)

    assert found[0].counts == {"ok": 5}


def test_hostile_cells_cost_only_themselves(store: RunStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    precious = tmp_path / "precious"
    precious.mkdir()
    hostile = {
        "removes_its_folder": "failed",
        "replaces_its_folder_by_a_link": "ok",
        "links_out_of_its_folder": "ok",
        "changes_the_process": "ok",
        "calls_os_exit": "failed",
        "segfaults": "killed",
    }
    cells = [
        cell
        for n, do in enumerate(hostile)
        for cell in (ToyCell(2 * n, do, more={"target": str(precious)}), ToyCell(2 * n + 1))
    ]

    with LocalExecutor(2, preload=()) as executor:
        run(cells, store, executor, function="hostile_cells:by_number")

    records = store.records()
    assert {cell.do: records[cell.cell_id].status for cell in cells[::2]} == hostile
    assert {records[cell.cell_id].status for cell in cells[1::2]} == {"ok"}
    assert list(precious.iterdir()) == []
    for cell in cells:
        assert (store.cell_folder(cell.cell_id) / "record.json").is_file()
        assert not store.cell_folder(cell.cell_id).is_symlink()


def command(folder: Path, num_cells: int, sleep_s: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(HERE / "toy_run.py"), str(folder), str(num_cells), "2", str(sleep_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def uninterrupted(num_cells: int) -> dict[str, tuple[str, tuple[float, ...]]]:
    return {
        cell.cell_id: ("failed", ()) if cell.n % 5 == 4 else ("ok", (float(cell.n**2),))
        for cell in toy_cells(num_cells)
    }


def found_in(store: RunStore) -> dict[str, tuple[str, tuple[Any, ...]]]:
    return {
        cell_id: (record.status, tuple(metric.value for metric in record.metrics))
        for cell_id, record in store.records().items()
    }


@pytest.mark.skipif(sys.platform != "linux", reason="needs the fork server")
@pytest.mark.parametrize(
    "seed", [0, 1, pytest.param(2, marks=pytest.mark.full), pytest.param(3, marks=pytest.mark.full)]
)
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    num_cells = 30
    folder = tmp_path / "run"
    kills = Counter[str]()
    for _ in range(4):
        process = command(folder, num_cells, sleep_s=0.02)
        # A random moment, but one at which there is something to lose.
        grown = num_lines(folder / "journal.jsonl") + chance.randrange(7)
        until = time.monotonic() + 120
        while process.poll() is None and (num_lines(folder / "journal.jsonl") < grown or len(family(process.pid)) < 2):
            assert time.monotonic() < until
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        members = family(process.pid)
        victim = chance.choice(["parent", "server", "cell"])
        if victim != "parent" and len(members) > 1:
            with suppress(psutil.NoSuchProcess):
                (members[0] if victim == "server" else chance.choice(members[1:])).kill()
                kills[victim] += 1
            time.sleep(chance.uniform(0, 0.3))
            members = family(process.pid)
        if process.poll() is None:
            process.kill()
            kills["parent"] += 1
        process.communicate()
        until = time.monotonic() + 60
        while any(is_alive(member) for member in members):
            assert time.monotonic() < until, "an orphan survived"
            time.sleep(0.01)
    for _ in range(5):
        output = command(folder, num_cells, sleep_s=0.0).communicate(timeout=120)[0]
        if output.startswith("0 launched"):
            break

    assert output == "0 launched, {'failed': 6, 'ok': 24}\n"
    store = RunStore.open(folder)
    assert sum(kills.values()) > 0
    assert found_in(store) == uninterrupted(num_cells)
    per_cell = Counter(record.cell_id for record in store.journal if record.status not in ("killed", "interrupted"))
    assert per_cell == dict.fromkeys(uninterrupted(num_cells), 1)
    assert store.journal.num_damaged == 0
    assert sorted(path.name for path in (folder / "cells").iterdir()) == sorted(per_cell)


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_command_that_is_told_to_end_says_so_and_leaves_nothing_running(
    tmp_path: Path, signum: int, code: int
) -> None:
    if signal.getsignal(signum) is signal.SIG_IGN:
        pytest.skip("these tests were started with this signal ignored (nohup, &), and so is the command")
    process = command(tmp_path / "run", 8, sleep_s=30)
    until = time.monotonic() + 120
    while len(family(process.pid)) < 3:  # the server and two cells
        assert time.monotonic() < until
        time.sleep(0.02)
    members = family(process.pid)

    process.send_signal(signum)
    output, errors = process.communicate(timeout=120)

    assert (process.returncode, errors) == (code, "")
    assert output == "2 launched, {'interrupted': 2, 'pending': 6}\n"
    assert not any(is_alive(member) for member in members)
    assert [record.status for record in RunStore.open(tmp_path / "run").journal] == ["interrupted"] * 2


@pytest.mark.slow
def test_a_hundred_thousand_settled_cells_are_passed_by(store: RunStore) -> None:
    stream = (store.folder / "journal.jsonl").open("w")
    with stream:
        for cell in toy_cells(100_000):
            stream.write(f'{{"schema":1,"cell_id":"{cell.cell_id}","status":"ok","metrics":[],"info":{{}}}}\n')

    summary = run(toy_cells(100_000), store, Scripted(always("ok")))

    assert summary.counts == {"ok": 100_000}


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"memory.max": 1000, "memory.current": 300, "memory.stat": "inactive_file 100"}, [800]),
        ("0::/a/b\n", {"a/memory.max": 500, "a/memory.current": 100, "a/b/memory.max": "max"}, [400]),
        (
            "4:memory:/a\n0::/\n",
            {
                "memory/memory.limit_in_bytes": 9000, "memory/memory.usage_in_bytes": 0,
                "memory/a/memory.limit_in_bytes": 700, "memory/a/memory.usage_in_bytes": 500,
                "memory/a/memory.stat": "cache 1\ntotal_inactive_file 100",
            },
            [9000, 300, 9000],
        ),
        ("4:memory:/not/seen/here\n", {"memory/memory.limit_in_bytes": 50, "memory/memory.usage_in_bytes": 20}, [30, 30]),
        ("", {}, []),
    ],
    ids=["version 2", "version 2, of a parent", "version 1", "version 1, of a container", "none"],
)  # fmt: skip
def test_limits_of_cgroups_of_both_versions_count(tmp_path, cgroup, files, expected):
    (tmp_path / "own").write_text(cgroup)
    for name, content in files.items():
        (tmp_path / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mount" / name).write_text(f"{content}\n")

    assert sorted(set(_free_of_cgroups(tmp_path / "own", tmp_path / "mount"))) == sorted(set(expected))
