"""Cells share a GPU as far as its memory was measured to reach, and every one of them runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_runner import Scripted

from mmbench.admission import CAUTION, MARGINS, MEMORY_SHARE, Admission
from mmbench.config import RunConfig
from mmbench.executors import Job, Outcome
from mmbench.executors.local import LocalExecutor
from mmbench.journal import JOURNAL_FILE, Journal
from mmbench.runner import run
from mmbench.session import make_admission
from mmbench.store import RunStore

GIB = 2**30
KIND = ("digits", "image:cnn", "concat", "supervised")


def told(peak, available=80):
    return {"peak_bytes": peak * GIB, "available_bytes": available * GIB}


def after(*cells):
    """An admission that has seen cells run alone: (kind, memory)."""
    made = Admission()
    for number, (kind, memory) in enumerate(cells):
        made.started(f"earlier-{number}", kind)
        made.ended(f"earlier-{number}", memory)
    return made


def test_a_cell_of_which_nothing_is_known_runs_alone():
    made = Admission()
    assert made.admits("a", KIND)
    made.started("a", KIND)

    assert not made.admits("b", KIND)
    made.ended("a", told(10))
    assert made.admits("b", ("other", "image:cnn", "concat", "supervised"))
    made.started("b", ("other", "image:cnn", "concat", "supervised"))
    assert not made.admits("c", KIND)  # what is known of it does not help while b may take everything


def test_like_cells_run_together_until_their_estimates_fill_the_share_of_the_memory():
    made = after((KIND, told(10)))
    started = 0
    while made.admits(f"cell-{started}", KIND):
        made.started(f"cell-{started}", KIND)
        started += 1

    # 0.9 * 80 GiB hold six of 1.1 * 10 GiB each.
    assert started == 6
    made.ended("cell-0", told(10))
    assert made.admits("cell-6", KIND)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (KIND, 11.0),
        (("digits", "image:cnn", "concat", "joint"), 12.0),
        (("digits", "image:cnn", "gated", "supervised"), 15.0),
        (("digits", "image:vit", "gated", "supervised"), 20.0),
        (("stamps", "image:cnn", "concat", "supervised"), None),
    ],
)
def test_the_less_alike_cells_are_the_more_is_set_aside(kind, expected):
    estimate = after((KIND, told(10))).estimate(kind)

    assert estimate == (None if expected is None else pytest.approx(expected * GIB))


def test_the_most_that_any_like_cell_took_counts():
    made = after((KIND, told(4)), (KIND, told(10)), (KIND, told(2)))

    assert made.estimate(KIND) == pytest.approx(11 * GIB)


def test_how_much_memory_there_is_only_a_cell_that_was_alone_can_tell():
    made = after((KIND, told(1, available=40)))
    made.started("a", KIND)
    made.started("b", KIND)

    assert made.ended("b", told(1, available=12)) is True
    assert made.available_bytes == 40 * GIB
    assert made.ended("a", told(1, available=12)) is True
    made.started("c", KIND)
    assert made.ended("c", told(1, available=30)) is False
    assert made.available_bytes == 30 * GIB


def test_a_cell_that_says_nothing_of_memory_leaves_all_as_it_was():
    made = after((KIND, told(10)), (KIND, {}))

    assert made.estimate(KIND) == pytest.approx(11 * GIB)
    assert made.available_bytes == 80 * GIB


def test_a_cell_that_demands_solitude_neither_joins_others_nor_is_joined():
    made = after((KIND, told(1)))
    made.demand_solitude("greedy")
    made.started("a", KIND)
    assert not made.admits("greedy", KIND)

    made.ended("a", told(1))
    assert made.admits("greedy", KIND)
    made.started("greedy", KIND)
    assert not made.admits("b", KIND)
    assert made.estimate(KIND) == pytest.approx(1.1 * CAUTION * GIB)


@given(
    cells=st.lists(
        st.tuples(st.sampled_from("xyz"), st.sampled_from("pq"), st.sampled_from("fgh"), st.integers(1, 60)),
        max_size=40,
    ),
    ends=st.randoms(use_true_random=False),
)
def test_estimates_of_cells_that_run_together_never_exceed_the_memory_and_every_cell_runs(cells, ends):
    made, running, done, order = Admission(), [], [], []
    waiting = [(f"{number}", (*kind, "o"), peak) for number, (*kind, peak) in enumerate(cells)]
    wanted = [name for name, _, _ in waiting]
    while waiting or running:
        if waiting and made.admits(*waiting[0][:2]):
            name, kind, peak = waiting.pop(0)
            estimate = made.estimate(kind)
            made.started(name, kind)
            running.append((name, peak, estimate))
            order.append(name)
            if len(running) > 1:
                assert made.available_bytes == 80 * GIB
                assert sum(item[2] for item in running) <= MEMORY_SHARE * 80 * GIB
            continue
        assert running, "nothing runs and the next cell is kept waiting"
        name, peak, _ = running.pop(ends.randrange(len(running)))
        made.ended(name, told(peak))
        done.append(name)

    assert order == wanted
    assert sorted(done) == sorted(wanted)


def test_margins_grow_as_likeness_fades():
    assert [MARGINS[depth] for depth in (4, 3, 2, 1)] == sorted(MARGINS.values())


@dataclass(frozen=True)
class Planned:
    n: int
    peak: int = 10
    dataset: str = "digits"
    status: str = "run"
    reason: str = ""

    @property
    def cell_id(self) -> str:
        return f"{self.n:016x}"

    def row(self) -> dict[str, Any]:
        kind = {"dataset": self.dataset, "encoders": "image:cnn", "fusion": "concat", "objective": "supervised"}
        return {"cell_id": self.cell_id, "status": self.status, **kind}

    def payload(self) -> dict[str, Any]:
        return {"peak": self.peak}


class Gpu(Scripted):
    """Runs jobs on a pretended GPU of 80 GiB: one that finds too little left when it ends has run out of memory."""

    def __init__(self, capacity: int = 16) -> None:
        super().__init__(lambda job, attempt: "ok", capacity)
        self.together: list[list[str]] = []

    def submit(self, job: Job) -> None:
        super().submit(job)
        self.together.append([item.cell_id for item in self.waiting])

    def wait(self, timeout_s: float) -> list[tuple[Job, Outcome]]:
        job = self.waiting.pop(0)
        held = job.payload["peak"] + sum(item.payload["peak"] for item in self.waiting)
        if held > 80:
            return [(job, Outcome(status="oom_gpu", reason="CUDA out of memory"))]
        return [(job, Outcome(status="ok", info={"device_memory": told(job.payload["peak"])}))]


def test_a_run_fills_the_gpu_and_no_more(tmp_path: Path):
    gpu = Gpu()
    with RunStore.create(tmp_path / "run") as store:
        summary = run([Planned(n) for n in range(20)], store, gpu, admission=Admission())

    assert summary.counts == {"ok": 20}
    assert gpu.together[0] == [f"{0:016x}"]
    assert gpu.most_at_once == 6


def test_the_number_of_jobs_caps_it(tmp_path: Path):
    gpu = Gpu(capacity=2)
    with RunStore.create(tmp_path / "run") as store:
        run([Planned(n) for n in range(10)], store, gpu, admission=Admission())

    assert gpu.most_at_once == 2


def test_a_cell_that_runs_out_of_memory_beside_others_is_tried_again_alone_before_it_counts(tmp_path: Path):
    cells = [*(Planned(n) for n in range(4)), Planned(4, peak=70), *(Planned(n) for n in range(5, 9))]
    gpu, events = Gpu(), []
    with RunStore.create(tmp_path / "run") as store:
        summary = run(cells, store, gpu, admission=Admission(), on_event=events.append, max_failures=1)
        journal = [
            (record.cell_id, record.attempt, record.status, record.reason)
            for record in Journal(store.folder / JOURNAL_FILE)
        ]

    greedy = f"{4:016x}"
    assert summary.counts == {"ok": 9}
    assert summary.cause == ""
    # Those beside it may have been the ones to run out first; each got its second try alone.
    crowded = [line for line in journal if line[2] == "interrupted"]
    assert crowded
    assert all(line[1] == 1 and line[3] == "beside other cells: CUDA out of memory" for line in crowded)
    for cell_id, *_ in crowded:
        assert [cell_id] in gpu.together
        assert (cell_id, 2, "ok", "") in journal
    assert any(line[0] == greedy for line in journal)
    finished = [event.cell.cell_id for event in events if event.kind == "finished"]
    assert sorted(finished) == sorted(cell.cell_id for cell in cells)


def test_processes_that_share_a_gpu_all_come_through_the_greedy_one_alone(tmp_path: Path):
    (tmp_path / "gpu").mkdir()
    peaks = [10, 10, 10, 10, 75, 10, 10, 10]

    @dataclass(frozen=True)
    class Holding(Planned):
        def payload(self) -> dict[str, Any]:
            return {"gpu": str(tmp_path / "gpu"), "peak": self.peak, "sleep_s": 1.0 if self.peak > 10 else 0.5}

    cells = [Holding(n, peak) for n, peak in enumerate(peaks)]
    with RunStore.create(tmp_path / "run") as store, LocalExecutor(4, preload=()) as executor:
        summary = run(cells, store, executor, function="hostile_cells:shares_a_gpu", admission=Admission())
        journal = [(record.cell_id, record.status) for record in Journal(store.folder / JOURNAL_FILE)]

    assert summary.counts == {"ok": 8}
    assert {status for _, status in journal} == {"ok", "interrupted"}
    assert sorted(cell_id for cell_id, status in journal if status == "ok") == sorted(cell.cell_id for cell in cells)
    assert list((tmp_path / "gpu").iterdir()) == []


def test_a_cell_that_runs_out_of_memory_alone_has_failed(tmp_path: Path):
    with RunStore.create(tmp_path / "run") as store:
        summary = run([Planned(0, peak=100), Planned(1)], store, Gpu(), admission=Admission())

    assert summary.counts == {"oom_gpu": 1, "ok": 1}
    assert summary.num_launched == 2


@pytest.mark.parametrize(
    ("config", "jobs", "gpus", "expected"),
    [
        ({"device": "auto"}, 4, [{"name": "H200"}], True),
        ({"device": "cuda:1"}, 4, [], True),
        ({"device": "auto"}, 1, [{"name": "H200"}], False),
        ({"device": "cpu"}, 4, [{"name": "H200"}], False),
        ({"device": "auto", "executor": "inline"}, 4, [{"name": "H200"}], False),
    ],
)
def test_a_run_asks_for_admission_where_several_cells_share_a_gpu_of_this_machine(
    config, jobs, gpus, expected, monkeypatch
):
    monkeypatch.setattr("mmbench.environment.hardware", lambda: {"gpus": gpus})
    plan = SimpleNamespace(config=RunConfig(**config), jobs=jobs)

    assert isinstance(make_admission(plan), Admission) is expected


def test_without_admission_cells_that_run_out_of_memory_have_failed(tmp_path: Path):
    with RunStore.create(tmp_path / "run") as store:
        summary = run([Planned(n, peak=50) for n in range(2)], store, Gpu())

    assert summary.counts == {"oom_gpu": 1, "ok": 1}
