"""What trackers write, read back by the tools' own readers."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest
from mmbench_trackers import numbers

from mmbench.record import Metric, Record
from mmbench.registry import load_registry
from mmbench.runner import Summary
from mmbench.trackers import open_tracker

ROW = {
    "cell_id": "0123456789abcdef", "dataset": "digits", "encoders": "image:cnn", "fusion": "gated",
    "objective": "supervised", "seed": 0, "role": "cell",
}  # fmt: skip
EPOCHS = [
    {"train_loss": 2.0, "val_loss": 1.5, "val_score": 0.5, "lr": 0.002, "time_s": 0.1, "grad_norms": {}},
    {"train_loss": 1.0, "val_loss": 1.25, "val_score": 0.75, "lr": 0.001, "time_s": 0.1, "grad_norms": {}},
]
RECORD = Record(
    cell_id="0123456789abcdef",
    status="ok",
    metrics=(
        Metric(phase="evaluate", name="accuracy", value=0.875, split="test", task="digit"),
        Metric(phase="evaluate", name="accuracy", value=0.5, split="test", task="digit", condition="drop:image"),
        Metric(phase="evaluate", name="auroc", value=None, split="test", task="digit", note="one class"),
        Metric(phase="evaluate", name="accuracy", value=0.75, split="val", task="digit"),
        Metric(phase="train", name="num_epochs", value=2.0),
    ),
    info={"history": EPOCHS},
)


def track(folder: Path, text: str, limit_s: float = 60.0) -> None:
    """Tell a tracker of a run with one cell, as a run does."""
    thread = open_tracker(folder, load_registry().resolve("tracker", text))
    thread.limit_s = limit_s
    thread.on_run_start({"run": "toy", "folder": str(folder), "num_cells": 1})
    thread._events.put(lambda: thread._end_cell(ROW, RECORD))
    thread.on_run_end(Summary(counts={"ok": 1}))
    assert thread.failure == ""


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(numbers).failed == 0


def test_tensorboard_reads_curves_and_scores_back(tmp_path: Path) -> None:
    pytest.importorskip(
        "tensorboard", reason="tensorboard is not installed: pip install 'mmbench-trackers[tensorboard]'"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track(tmp_path, "tensorboard")

    found = EventAccumulator(str(tmp_path / "trackers" / "tensorboard" / "digits gated seed 0 01234567"))
    found.Reload()
    curve: dict[str, list[tuple[int, float]]] = {}
    for tag in found.Tags()["scalars"]:
        curve[tag] = [(point.step, point.value) for point in found.Scalars(tag)]
    assert curve["curve/train_loss"] == [(0, 2.0), (1, 1.0)]
    assert curve["curve/val_score"] == [(0, 0.5), (1, 0.75)]
    assert curve["test/digit/accuracy"] == [(1, 0.875)]
    assert curve["train/num_epochs"] == [(1, 2.0)]
    assert set(curve) == {
        "curve/train_loss", "curve/val_loss", "curve/val_score", "curve/lr", "test/digit/accuracy", "train/num_epochs",
    }  # fmt: skip


def test_mlflow_reads_parts_curves_and_scores_back(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'mmbench-trackers[mlflow]'")
    from mlflow.tracking import MlflowClient

    track(tmp_path, "mlflow")

    client: Any = MlflowClient(tracking_uri=(tmp_path / "trackers" / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("mmbench toy")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["encoders"] == "image:cnn"
    assert run.data.metrics["test/digit/accuracy"] == 0.875
    assert [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "val_loss")] == [
        (0, 1.5), (1, 1.25),
    ]  # fmt: skip
    assert (run.info.status, run.data.tags["mmbench.status"]) == ("FINISHED", "ok")


@pytest.mark.slow
def test_wandb_writes_a_run_that_can_be_sent_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'mmbench-trackers[wandb]'")
    monkeypatch.setenv("WANDB_SILENT", "true")

    track(tmp_path, "wandb")

    (folder,) = (tmp_path / "trackers" / "wandb" / "wandb").glob("offline-run-*")
    (file,) = folder.glob("run-*.wandb")
    content = file.read_bytes()
    assert b"digits gated seed 0 01234567" in content
    assert b"test/digit/accuracy" in content
