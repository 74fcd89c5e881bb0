"""How far a run is and how long the rest takes: by cells that are alike, after a resume too, in bounded memory."""

from __future__ import annotations

import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from test_runner import Scripted

import mmbench.standing
from mmbench import progress
from mmbench.journal import CellState
from mmbench.progress import devices, line, live_table
from mmbench.runner import Event, run
from mmbench.standing import Standing, describe
from mmbench.store import RunStore
from mmbench.utilisation import Gpu, Meter, Utilisation

GIB = 2**30


def row(number: int, encoders: str = "image:cnn", fusion: str = "concat", **changes: Any) -> dict[str, Any]:
    about = {"dataset": "digits", "seed": 0, "status": "run", "reason": "", "role": "cell"}
    return {"cell_id": f"{number:016x}", "encoders": encoders, "fusion": fusion, **about, **changes}


def ok(duration_s: float) -> CellState:
    return CellState("ok", 1, 0, duration_s)


def expected(*rows: tuple[dict[str, Any], CellState | None], at_once: int = 1) -> Standing:
    standing = Standing(at_once=at_once)
    for about, state in rows:
        standing.expect(about, state)
    return standing


def shown(renderable: Any) -> str:
    out = Console(file=io.StringIO(), width=120, force_terminal=False)
    out.print(renderable)
    return out.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_the_rest_is_estimated_by_cells_of_the_same_encoders_and_fusion_not_by_the_mean_pace() -> None:
    slow, fast = {"fusion": "tensor"}, {"fusion": "sum"}

    standing = expected(
        (row(1, **slow), ok(100.0)),
        (row(2, **fast), ok(1.0)),
        (row(3, **fast), ok(3.0)),
        (row(4, **fast), None),
        (row(5, **fast), None),
    )

    assert standing.remaining_s() == 4.0  # two of two seconds; by the mean pace it would be 69


def test_a_combo_not_met_yet_takes_as_long_as_its_encoders_then_its_dataset_then_all() -> None:
    known = [
        (row(1, "image:vit", "concat"), ok(40.0)),
        (row(2, "image:cnn", "concat"), ok(4.0)),
        (row(3, "image:cnn", "concat", dataset="xor"), ok(1.0)),
    ]

    assert expected(*known, (row(9, "image:vit", "gated"), None)).remaining_s() == 40.0
    assert expected(*known, (row(9, "image:mlp", "gated"), None)).remaining_s() == 22.0
    assert expected(*known, (row(9, "image:mlp", "gated", dataset="food"), None)).remaining_s() == 15.0


def test_cells_at_once_divide_the_rest_but_no_cell_is_shorter_than_itself() -> None:
    known = [(row(number), ok(10.0)) for number in range(3)]

    assert expected(*known, *[(row(10 + number), None) for number in range(8)], at_once=4).remaining_s() == 20.0
    assert expected(*known, (row(10), None), at_once=4).remaining_s() == 10.0


def test_the_time_that_a_running_cell_has_had_is_taken_off() -> None:
    standing = expected(*[(row(number), ok(1000.0)) for number in range(3)], (row(9), None))
    standing.begin(row(9))
    standing.running[row(9)["cell_id"]].began -= 400.0

    assert standing.remaining_s() == pytest.approx(600.0, abs=5.0)


def test_failures_the_floor_and_fewer_than_three_cells_say_nothing_of_the_rest() -> None:
    known = [(row(1), ok(10.0)), (row(2), ok(10.0)), (row(3), CellState("failed", 1, 0, 0.1))]
    floor = (row(4, "", "majority"), ok(0.01))

    assert expected(*known, floor, (row(9), None)).remaining_s() is None
    assert expected(*known, floor, (row(5), ok(10.0)), (row(9), None)).remaining_s() == 10.0


def test_a_resumed_run_counts_what_is_settled_and_what_is_tried_again() -> None:
    standing = Standing(retry=frozenset({"timeout"}))
    for number, status in enumerate(["ok", "failed", "killed", "timeout", "oom_gpu"]):
        standing.expect(row(number), CellState(status, 1, int(status == "killed"), 1.0))  # type: ignore[arg-type]
    standing.expect(row(7, status="incompatible"))
    standing.expect(row(8))

    assert (standing.num_planned, standing.num_settled, standing.num_left) == (6, 3, 3)
    assert standing.counts == {"ok": 1, "failed": 1, "oom_gpu": 1, "incompatible": 1}
    assert line(standing) == "3/6 cells, 1 failed, 1 oom_gpu"


def test_cells_that_run_end_once_and_may_be_waited_for_again() -> None:
    standing = expected((row(1), None), (row(2), None))
    standing.begin(row(1))
    standing.begin(row(2))
    standing.leave(row(2)["cell_id"])
    standing.end(row(1)["cell_id"], "ok", 5.0, standing.kind_of(row(1)))

    assert standing.running == {}
    assert (standing.num_settled, standing.num_left) == (1, 1)
    assert sum(standing._waiting.values()) == 1


@dataclass(frozen=True)
class Seed:
    """A cell of one group, as a plan gives it."""

    number: int
    group: str = "combo"
    status: str = "run"
    reason: str = ""

    @property
    def cell_id(self) -> str:
        return f"{self.number:016x}"

    def row(self) -> dict[str, Any]:
        return row(self.number, seed=self.number)

    def payload(self) -> dict[str, Any]:
        return {"number": self.number}


def test_seeds_whose_common_job_failed_run_one_by_one_and_only_the_one_that_does_is_shown(tmp_path: Path) -> None:
    seeds = [Seed(number) for number in range(3)]
    standing = expected(*((seed.row(), None) for seed in seeds))
    executor = Scripted(lambda job, attempt: "failed" if "cells" in job.payload else "ok", capacity=1)
    shown: list[list[str]] = []

    def look(event: Event) -> None:
        watched.on_event(event)
        shown.append([cell.label[-6:] for cell in standing.running.values()])

    with (
        RunStore.create(tmp_path / "run") as store,
        progress.Progress(Console(file=io.StringIO()), standing) as watched,
    ):
        run(seeds, store, executor, on_event=look)

    together, one_by_one = shown[:3], shown[6:]
    assert together[-1] == ["seed 0", "seed 1", "seed 2"]
    assert one_by_one == [["seed 0"], [], ["seed 1"], [], ["seed 2"], []]
    assert (standing.num_settled, standing.counts) == (3, {"ok": 3})


def test_the_memory_of_many_combos_is_bounded_and_they_count_as_any_of_their_dataset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mmbench.standing, "MAX_KINDS", 10)

    standing = expected(*[(row(number, fusion=f"fusion-{number}"), ok(float(number))) for number in range(1000)])
    standing.expect(row(2000, fusion="new"))

    assert len(standing._kin) == 11
    assert standing.remaining_s() == 499.5


def test_the_live_table_shows_counts_epochs_devices_and_what_runs(tmp_path: Path) -> None:
    standing = Standing(at_once=2, epochs={"digits": 30})
    for number in range(3):
        standing.expect(row(number), ok(60.0))
    standing.expect(row(4, "audio:gru+image:cnn", "gated"))
    standing.begin(row(4, "audio:gru+image:cnn", "gated"), tmp_path)
    (tmp_path / "history.jsonl").write_text('{"train_loss": 2.0}\n{"train_loss": 1.0}\n{"train_')
    gpu = Gpu(name="H200 0", percent=83.0, used_bytes=12 * GIB, total_bytes=140 * GIB)
    busy = Utilisation(cpu_percent=97.0, num_cpus=2, used_bytes=5 * GIB, total_bytes=24 * GIB, gpus=(gpu,))

    text = shown(live_table(standing, busy))

    assert "3/4 cells, about 60 s left" in text
    assert "3 ok" in text
    assert "CPU 97 % of 2 cores, memory 5.00 GiB of 24.0 GiB" in text
    assert "H200 0 83 %, memory 12.0 GiB of 140 GiB" in text
    assert "epoch 2/30" in text
    assert "digits  audio:gru + image:cnn  gated  seed 0" in text


def test_of_many_running_cells_the_oldest_are_shown_and_the_rest_counted() -> None:
    standing = expected(*[(row(number, fusion=f"f{number}"), None) for number in range(40)])
    for number in range(40):
        standing.begin(row(number, fusion=f"f{number}"))

    text = shown(live_table(standing, num_running=1000))

    assert "f15" in text
    assert "f16" not in text
    assert "… 984 more running" in text


def test_epochs_are_read_once_each_while_the_curve_grows(tmp_path: Path) -> None:
    standing = expected((row(1), None))
    standing.begin(row(1), tmp_path)
    cell = standing.running[row(1)["cell_id"]]
    assert cell.num_epochs() == 0

    with (tmp_path / "history.jsonl").open("a") as curve:
        for number in range(1, 4):
            curve.write("{}\n")
            curve.flush()
            assert cell.num_epochs() == number
    (tmp_path / "history.jsonl").unlink()
    assert cell.num_epochs() == 3


def test_a_machine_without_gpus_shows_none_and_its_processors_are_measured() -> None:
    meter = Meter()
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        pass
    busy = meter.read()

    assert busy.cpu_percent > 0
    assert 0 < busy.used_bytes < busy.total_bytes
    assert Utilisation.from_json(busy.to_json()) == busy
    if not meter._handles:
        assert [text for text in devices(busy) if not text.startswith("CPU")] == []


def test_gpus_are_read_by_nvml_and_what_one_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def percent(handle: int) -> Any:
        if handle == 1:
            raise NVMLError  # a slice of a GPU has none
        return SimpleNamespace(gpu=83, memory=10)

    driver = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetName=lambda handle: b"NVIDIA H200",
        nvmlDeviceGetUtilizationRates=percent,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=12 * GIB, total=140 * GIB),
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)

    first, second = Meter().read().gpus

    assert first == Gpu(name="NVIDIA H200 0", percent=83.0, used_bytes=12 * GIB, total_bytes=140 * GIB)
    assert (second.name, second.percent) == ("NVIDIA H200 1", None)


def test_a_driver_that_does_not_answer_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def fail() -> None:
        raise NVMLError

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NVMLError, nvmlInit=fail))

    assert Meter().read().gpus == ()


def test_a_gpu_that_does_not_tell_how_busy_it_is_shows_its_memory_alone() -> None:
    gpu = Gpu(name="H200 MIG 1g.18gb 0", percent=None, used_bytes=GIB, total_bytes=18 * GIB)
    busy = Utilisation(cpu_percent=1.0, num_cpus=1, used_bytes=GIB, total_bytes=2 * GIB, gpus=(gpu,))

    assert list(devices(busy))[1] == "H200 MIG 1g.18gb 0 memory 1.00 GiB of 18.0 GiB"


def test_a_cell_is_described_without_gaps() -> None:
    assert describe(row(1, "", "majority")) == "digits  majority  seed 0"
