"""What the harness adds to a cell, to a journal and to a plan, each against the plainest way to do the same."""

from __future__ import annotations

import json
import os
import statistics
import time

import pytest

from mmbench.executors import Job
from mmbench.executors.local import LocalExecutor
from mmbench.record import Metric, Record
from mmbench.store import Journal

#: As good as nothing; `tests` is on the path.
EMPTY_CELL = "hostile_cells:square"
NUM_CELLS = 20
NUM_RECORDS = 100_000
METRICS = tuple(Metric(phase="evaluate", name=f"metric_{n}", value=n / 7, split="test", n=300) for n in range(5))


def forked():
    """A bare child process that ends at once."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def test_an_empty_cell_through_the_local_executor(benchmark, tmp_path):
    def cells(executor, count, prefix):
        for number in range(count):
            folder = tmp_path / f"{prefix}{number}"
            folder.mkdir()
            executor.submit(Job(cell_id=f"{number:016x}", function=EMPTY_CELL, payload={"n": 1}, folder=folder))
            while not (ended := executor.wait(1.0)):
                pass
            assert ended[0][1].status == "ok", ended[0][1].reason

    with LocalExecutor(1) as executor:
        cells(executor, 2, "warm")
        began = time.perf_counter()
        cells(executor, NUM_CELLS, "cell")
        per_cell_s = (time.perf_counter() - began) / NUM_CELLS
    bare = []
    for _ in range(NUM_CELLS):
        began = time.perf_counter()
        forked()
        bare.append(time.perf_counter() - began)
    benchmark.extra_info["empty_cell_s"] = round(per_cell_s, 4)
    benchmark.extra_info["bare_fork_s"] = round(statistics.median(bare), 5)
    benchmark.pedantic(forked, rounds=3)
    if benchmark.enabled:
        print(f"\nempty cell: {per_cell_s * 1e3:.1f} ms; bare fork: {statistics.median(bare) * 1e3:.1f} ms")  # noqa: T201
        assert per_cell_s <= 0.1


@pytest.mark.slow
def test_a_hundred_thousand_records_load_like_plain_json_lines(benchmark, tmp_path):
    path = tmp_path / "journal.jsonl"
    with path.open("w") as stream:
        for number in range(NUM_RECORDS):
            record = Record(cell_id=f"{number:016x}", status="ok", metrics=METRICS)
            stream.write(json.dumps(record.to_json()) + "\n")

    def plain():
        with path.open() as stream:
            return sum(json.loads(line)["status"] == "ok" for line in stream)

    times = []
    for function in (plain, lambda: sum(record.status == "ok" for record in Journal(path))):
        began = time.process_time()
        assert function() == NUM_RECORDS
        times.append(time.process_time() - began)
    benchmark.extra_info["ratio_journal_to_plain_json"] = round(times[1] / times[0], 2)
    benchmark.pedantic(plain, rounds=1)
    if benchmark.enabled:
        print(f"\njournal: {times[1]:.2f} s; plain JSON lines: {times[0]:.2f} s")  # noqa: T201
    assert times[1] < 8 * times[0]
