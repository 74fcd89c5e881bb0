"""Reports of ten thousand cells, plans and exports of a hundred thousand, as ratios to the plainest code for as much."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from quiet import cpu_seconds

from mmbench.config import load_config
from mmbench.journal import JOURNAL_FILE
from mmbench.plan import local_runtime, make_plan
from mmbench.record import Metric, Record
from mmbench.registry import load_registry
from mmbench.report import build_report, write_report
from mmbench.report.export import export_csv
from mmbench.store import RunStore

NUM_REPORT_CELLS = 10_000
NUM_PLAN_CELLS = 100_000
NUM_EXPORT_CELLS = 2_000
NUM_SEEDS = 10
COSTS = ("throughput_samples_per_s", "latency_p50_s", "step_time_s", "flops_per_sample", "model_memory_bytes")
TASK = {"name": "digit", "kind": "multiclass", "num_outputs": 10, "class_names": [], "primary": "", "weight": 1.0}
DATASETS = {
    "digits": {"ref": "a/digits", "summary": "", "tasks": [TASK], "modalities": [], "ceilings": {}, "train": {}}
}


def write_cells(store: RunStore) -> None:
    rows = [
        {
            "cell_id": f"{number:016x}",
            "dataset": "digits",
            "encoders": f"image:cnn[width={number // NUM_SEEDS % 50}]+audio:logmel-cnn",
            "fusion": f"fusion-{number // NUM_SEEDS // 50}",
            "objective": "supervised",
            "seed": number % NUM_SEEDS,
            "role": "cell",
            "status": "run",
            "reason": "",
        }
        for number in range(NUM_REPORT_CELLS)
    ]
    store.write_plan(rows, DATASETS)
    store.write_run({"argv": []})
    with (store.folder / JOURNAL_FILE).open("w") as stream:
        for number, row in enumerate(rows):
            score = 0.5 + (number * 7919 % 1000) / 2500
            scores = {"accuracy": score, "f1_macro": score - 0.01, "log_loss": 1 - score}
            found = [
                Metric(phase="evaluate", split=split, task="digit", name=name, value=value, direction="max", n=400)
                for name, value in scores.items()
                for split in ("val", "test")
            ]
            found += [
                Metric(phase="profile", name=name, value=float(number % 97 + 1), direction="min") for name in COSTS
            ]
            record = Record(cell_id=row["cell_id"], status="ok", metrics=tuple(found), info={"split_hash": "h"})
            stream.write(json.dumps(record.to_json()) + "\n")


@pytest.mark.full
def test_a_report_of_ten_thousand_cells_takes_a_few_times_as_long_as_reading_their_records(
    benchmark: Any, tmp_path: Path
) -> None:
    with RunStore.create(tmp_path / "run") as store:
        write_cells(store)
    folder = tmp_path / "run"

    def read() -> None:
        with (folder / JOURNAL_FILE).open() as stream:
            assert sum(len(json.loads(line)["metrics"]) for line in stream) == 11 * NUM_REPORT_CELLS

    def report() -> None:
        write_report(folder, build_report(folder))

    read_s = min(cpu_seconds(read) for _ in range(3))
    report_s = min(cpu_seconds(report) for _ in range(2))
    benchmark.pedantic(read, rounds=1)

    ratio = report_s / read_s
    benchmark.extra_info.update(read_s=round(read_s, 3), report_s=round(report_s, 3), ratio=round(ratio, 2))
    print(f"\nreport of {NUM_REPORT_CELLS} cells: {report_s:.2f} s, {ratio:.1f} times plain reading")  # noqa: T201
    assert not benchmark.enabled or ratio < 30


@pytest.mark.full
def test_an_export_of_a_hundred_thousand_rows_takes_a_few_times_as_long_as_writing_their_fields(benchmark: Any) -> None:
    metrics = tuple(
        Metric(phase="evaluate", split="test", task="digit", name=f"m{i}", value=i / 7, direction="max")
        for i in range(50)
    )
    row = {"dataset": "digits", "encoders": "image:cnn+text:embedding-lstm", "fusion": "gated"}
    row |= {"objective": "supervised", "role": "cell", "status": "run", "reason": ""}
    planned = [{"cell_id": f"{number:016x}", "seed": number, **row} for number in range(NUM_EXPORT_CELLS)]
    records = {item["cell_id"]: Record(cell_id=item["cell_id"], status="ok", metrics=metrics) for item in planned}
    exported = io.StringIO()
    export_csv("r1", planned, records, exported)
    fields = list(csv.reader(exported.getvalue().splitlines()))

    export_s = min(cpu_seconds(lambda: export_csv("r1", planned, records, io.StringIO())) for _ in range(3))
    write_s = min(cpu_seconds(lambda: csv.writer(io.StringIO()).writerows(fields)) for _ in range(3))
    benchmark.pedantic(lambda: export_csv("r1", planned, records, io.StringIO()), rounds=1)

    assert len(fields) == 1 + 50 * NUM_EXPORT_CELLS
    ratio = export_s / write_s
    benchmark.extra_info.update(write_s=round(write_s, 3), export_s=round(export_s, 3), ratio=round(ratio, 2))
    print(f"\nexport of {len(fields) - 1} rows: {export_s:.2f} s, {ratio:.1f} times writing their fields")  # noqa: T201
    assert not benchmark.enabled or ratio < 5


@pytest.mark.full
def test_a_plan_of_a_hundred_thousand_cells_takes_a_few_times_as_long_as_naming_them(
    benchmark: Any, tmp_path: Path
) -> None:
    encoders = [f"image=cnn[width={width}]" for width in range(1, 61)]
    encoders += [f"audio=logmel-cnn[width={width}]" for width in range(1, 71)]
    config = load_config(
        {
            "dataset": ["digits"],
            "encoder": [*encoders, "text=embedding-lstm"],
            "fusion": ["concat", "gated", "tensor", "mean"],
            "seeds": 6,
        },
        folder=tmp_path,
    )
    runtime = local_runtime(config, cache=tmp_path, data=tmp_path, jobs=1)
    plan = make_plan(config, load_registry(), runtime=runtime)

    def walk() -> None:
        rows = [cell.row() for cell in plan.cells()]
        assert len(rows) >= NUM_PLAN_CELLS

    def name() -> None:
        rows = []
        for number in range(NUM_PLAN_CELLS):
            key = hashlib.sha256(f"digits|image=cnn,audio=logmel-cnn|concat|supervised|{number}".encode()).hexdigest()
            rows.append({"cell_id": key[:16], "dataset": "digits", "encoders": "image:cnn", "fusion": "concat"})
        assert len({row["cell_id"] for row in rows}) == NUM_PLAN_CELLS

    name_s = min(cpu_seconds(name) for _ in range(3))
    walk_s = min(cpu_seconds(walk) for _ in range(2))
    benchmark.pedantic(name, rounds=1)

    ratio = walk_s / name_s
    benchmark.extra_info.update(name_s=round(name_s, 3), walk_s=round(walk_s, 3), ratio=round(ratio, 2))
    print(f"\nplan of {NUM_PLAN_CELLS} cells: {walk_s:.2f} s, {ratio:.1f} times naming them")  # noqa: T201
    assert not benchmark.enabled or ratio < 20
