"""What the harness adds to a cell: an empty one against a bare forked process, the journal against plain lines."""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmbench.executors.local import LocalExecutor
from mmbench.journal import Journal
from mmbench.record import Metric, Record
from mmbench.runner import run
from mmbench.store import RunStore

sys.path.append(str(Path(__file__).parents[1]))  # cells run in processes of their own and must be importable by name
from toy_run import ToyCell

NUM_RECORDS = 100_000


def median_s(function: Callable[[], Any], *, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def nothing() -> None:
    pass


def bare_process(context: Any) -> None:
    process = context.Process(target=nothing)
    process.start()
    process.join()


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="needs the fork server")
def test_an_empty_cell_takes_no_longer_than_a_bare_process_of_a_fork_server(benchmark: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    bare_process(context)  # the server starts
    numbers = iter(range(10**6))

    with RunStore.create(tmp_path / "run") as store, LocalExecutor(preload=("torch",)) as executor:

        def empty_cell() -> None:
            summary = run([ToyCell(next(numbers))], store, executor, function="hostile_cells:square")
            assert summary.counts == {"ok": 1}

        empty_cell()
        bare_s = median_s(lambda: bare_process(context), rounds=20)
        benchmark.pedantic(empty_cell, rounds=20)
        ours_s = median_s(empty_cell, rounds=20)

    benchmark.extra_info.update(bare_process_s=bare_s, empty_cell_s=ours_s, ratio=ours_s / bare_s)
    assert not benchmark.enabled or ours_s <= bare_s, (
        f"an empty cell took {ours_s:.3f} s, a bare process {bare_s:.3f} s"
    )


@pytest.mark.full
def test_a_journal_of_a_hundred_thousand_records_loads_about_as_fast_as_plain_lines(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = tuple(
        Metric(phase="evaluate", split="test", task="digit", name=name, value=0.9, direction="max", n=400)
        for name in ("accuracy", "f1_macro", "log_loss")
    )
    records = [
        Record(cell_id=f"{number:016x}", status="ok", started_at="2026-11-21T03:00:00.000+00:00", metrics=metrics)
        for number in range(NUM_RECORDS)
    ]
    plain = tmp_path / "plain.jsonl"

    def write_plain() -> None:
        with plain.open("w") as stream:
            stream.writelines(json.dumps(record.to_json()) + "\n" for record in records)

    def load_plain() -> None:
        with plain.open() as stream:
            assert sum(bool(json.loads(line)) for line in stream) == NUM_RECORDS

    def append_all() -> None:
        journal = Journal(tmp_path / "journal.jsonl")
        for record in records:
            journal.append(record)
        journal.close()

    write_plain_s = median_s(write_plain, rounds=1)
    # The disk's own time, which plain lines do not wait for, says nothing about the code.
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    append_s = median_s(append_all, rounds=1)
    load_plain_s = median_s(load_plain, rounds=3)
    journal = Journal(tmp_path / "journal.jsonl")
    load_s = median_s(lambda: sum(1 for _ in journal), rounds=3)
    states_s = median_s(journal.states, rounds=3)
    benchmark.pedantic(journal.states, rounds=3)

    assert len(journal.states()) == NUM_RECORDS
    benchmark.extra_info.update(
        write_plain_s=write_plain_s,
        append_s=append_s,
        load_plain_s=load_plain_s,
        load_records_s=load_s,
        load_states_s=states_s,
    )
    if benchmark.enabled:
        assert append_s <= 3 * write_plain_s
        assert states_s <= 2 * load_plain_s
        assert load_s <= 8 * load_plain_s


@pytest.mark.full
def test_a_plan_of_a_hundred_thousand_cells_is_written_and_read_in_seconds(benchmark: Any, tmp_path: Path) -> None:
    row = {
        "dataset": "digits",
        "encoders": "audio:logmel-cnn+image:cnn+text:embedding-lstm",
        "fusion": "cross-attention",
        "objective": "supervised",
        "seed": 0,
        "role": "cell",
        "status": "run",
        "reason": "",
    }

    with RunStore.create(tmp_path / "run") as store:

        def write_plan() -> None:
            store.write_plan({"cell_id": f"{number:016x}", **row} for number in range(NUM_RECORDS))

        write_s = median_s(write_plan, rounds=1)
        read_s = median_s(lambda: sum(1 for _ in store.planned()), rounds=1)
        benchmark.pedantic(write_plan, rounds=1)

    benchmark.extra_info.update(write_s=write_s, read_s=read_s)
    assert not benchmark.enabled or write_s + read_s < 5
