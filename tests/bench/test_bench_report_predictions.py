"""A report of ten thousand combos under three seeds, each cell with its kept predictions: within a minute and 2 GB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mmbench.journal import JOURNAL_FILE
from mmbench.record import Metric, Record
from mmbench.store import RunStore

NUM_COMBOS, NUM_SEEDS, NUM_SAMPLES = 10_000, 3, 400
MAX_CPU_S, MAX_MEMORY_BYTES = 60, 2 * 10**9
TASK = {"name": "digit", "kind": "multiclass", "num_outputs": 10, "class_names": [], "primary": "", "weight": 1.0}
REPORT = """
import json, resource, sys, time
from pathlib import Path
from mmbench.report import build_report, write_report
made = build_report(Path(sys.argv[1]))
write_report(Path(sys.argv[1]), made)
board = made.boards[0]
print(json.dumps({
    "cpu_s": time.process_time(),
    "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "rows": len(board.rows),
    "tested": board.num_tested,
    "weighed": sum(row.score.ci_over == "seeds and samples" for row in board.rows),
}))
"""


def write_run(folder: Path) -> None:
    """A hundred single rows and 99 fusions of each, all with predictions whose accuracy is the recorded one."""
    rng = np.random.default_rng(0)
    ids = np.frombuffer(json.dumps([f"s{number}" for number in range(NUM_SAMPLES)]).encode(), dtype=np.uint8)
    target = rng.integers(0, 10, NUM_SAMPLES)
    everyone = np.arange(NUM_SAMPLES)
    rows = []
    with RunStore.create(folder) as store, (folder / JOURNAL_FILE).open("w") as journal:
        for combo in range(NUM_COMBOS):
            share = rng.uniform(0.5, 0.95)
            alone = combo < 100
            for seed in range(NUM_SEEDS):
                cell_id = f"{combo * NUM_SEEDS + seed:016x}"
                rows.append(
                    {
                        "cell_id": cell_id,
                        "dataset": "digits",
                        "encoders": f"image:cnn[width={combo % 100}]" + ("" if alone else "+audio:logmel-cnn"),
                        "fusion": "single" if alone else f"fusion-{combo // 100}",
                        "objective": "supervised",
                        "seed": seed,
                        "role": "cell",
                        "status": "run",
                        "reason": "",
                    }
                )
                right = rng.random(NUM_SAMPLES) < share
                prediction = np.full((NUM_SAMPLES, 10), 0.05, np.float32)
                prediction[everyone, np.where(right, target, (target + 1) % 10)] = 0.55
                metrics = tuple(
                    Metric(
                        phase="evaluate", split=split, task="digit", name="accuracy", value=float(right.mean()),
                        direction="max", n=NUM_SAMPLES,
                    )
                    for split in ("val", "test")
                )  # fmt: skip
                record = Record(cell_id=cell_id, status="ok", metrics=metrics, info={"split_hash": "h"})
                journal.write(json.dumps(record.to_json()) + "\n")
                place = store.cell_folder(cell_id)
                place.mkdir()
                save_file(
                    {"test.digit.prediction": prediction, "test.digit.target": target, "test.sample_ids": ids},
                    place / "predictions.safetensors",
                )
        store.write_plan(rows, {"digits": {"ref": "a/digits", "tasks": [TASK], "modalities": [], "train": {}}})
        store.write_run({"argv": []})


@pytest.mark.full
def test_a_report_of_ten_thousand_combos_with_predictions_takes_a_minute_and_two_gigabytes_at_most(
    tmp_path: Path,
) -> None:
    write_run(tmp_path / "run")

    done = subprocess.run(
        [sys.executable, "-c", REPORT, str(tmp_path / "run")], capture_output=True, text=True, check=True
    )

    found: dict[str, Any] = json.loads(done.stdout)
    print(f"\n{found}")  # noqa: T201
    assert found["rows"] == NUM_COMBOS
    assert (found["tested"], found["weighed"]) == (150, 1000)  # the first ones; the rest says intervals over seeds
    assert found["cpu_s"] <= MAX_CPU_S
    assert found["memory_bytes"] <= MAX_MEMORY_BYTES
