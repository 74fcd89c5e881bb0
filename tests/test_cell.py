"""One cell end to end: seeds, caches, missing modalities, several tasks, and what the record says."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import sklearn.metrics
import torch
from safetensors.numpy import load_file

from mmbench.build import derive_seed
from mmbench.cell import run_cell
from mmbench.config import load_config
from mmbench.kept_predictions import load_predictions
from mmbench.parts import quality_key
from mmbench.plan import make_plan
from mmbench.registry import load_registry
from mmbench.report.predictions import clusters_of

TOY = '''
"""A dataset of two modalities, one of them often missing, with three tasks."""
import numpy as np
from mmbench import DatasetSpec, Modality, TaskSpec, hookimpl
from mmbench.data import Sample

OPENED = []


class Lazy(dict):
    pass


def make(root, fault):
    OPENED.append(str(root))
    rng = np.random.default_rng(0)

    def split(name, count):
        samples = []
        for number in range(count):
            a, b = rng.normal(size=3).astype("f4"), rng.normal(size=2).astype("f4")
            label = int(a[0] > 0)
            value = 1.7e9 + 10.5 * float(b[0]) if fault == "large" else float(b[0])
            targets = {"label": label, "value": value, "tags": [int(a[1] > 0), int(b[1] > 0)]}
            inputs = {"a": a, "b": None if number % 3 == 0 else b}
            group = f"{name}-speaker-{number // 5}" if fault == "groups" else ""
            samples.append(Sample(f"{name}-{number}", inputs, targets, group))
        return samples

    splits = {"train": split("train", 120), "val": split("val", 40), "test": split("test", 50)}
    first = splits["train"][0]
    if fault == "duplicate":
        splits["val"][0] = Sample("train-0", first.inputs, first.targets)
    elif fault == "empty":
        splits["test"] = []
    elif fault == "splits":
        del splits["val"]
    elif fault == "nan":
        splits["train"][0] = Sample("train-0", first.inputs, {**first.targets, "value": float("nan")})
    elif fault == "label":
        splits["train"][0] = Sample("train-0", first.inputs, {**first.targets, "label": 7})
    elif fault == "one-class":
        splits["train"] = [Sample(s.sample_id, s.inputs, {**s.targets, "label": 1}) for s in splits["train"]]
    elif fault == "dtype":
        splits["train"][0] = Sample("train-0", {**first.inputs, "a": [1.0, 2.0, 3.0]}, first.targets)
    elif fault == "inf":
        splits["train"][0] = Sample("train-0", {**first.inputs, "a": np.full(3, np.inf, "f4")}, first.targets)
    elif fault == "not-sample":
        splits["train"][0] = ("train-0", 1)
    elif fault == "targets":
        splits["train"][0] = Sample("train-0", first.inputs, {"label": 1})
    return splits


@hookimpl
def mmbench_datasets():
    return [
        DatasetSpec(
            name="toy",
            factory="toy_plugin:make",
            version="1",
            defaults={"fault": ""},
            modalities=(Modality(name="a", kind="tabular"), Modality(name="b", kind="tabular")),
            tasks=(
                TaskSpec(name="label", kind="multiclass", num_outputs=2),
                TaskSpec(name="value", kind="regression", num_outputs=1),
                TaskSpec(name="tags", kind="multilabel", num_outputs=2),
            ),
            missing=("b",),
            in_all=False,
        )
    ]
'''


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "toy_plugin.py"
    path.write_text(TOY)
    registry = load_registry([path])
    yield registry
    sys.modules.pop("toy_plugin", None)


@pytest.fixture
def cells(plugin, tmp_path):
    def make(dataset="toy", **flags):
        runtime = {
            "device": "cpu", "threads": 1, "protocol": "none", "contended": False,
            "cache_dir": str(tmp_path / "cache"), "data_dir": str(tmp_path / "data"),
        }  # fmt: skip
        config = load_config({"dataset": [dataset], "train": {"epochs": 2}, **flags})
        plan = make_plan(config, plugin, runtime=runtime)
        return {
            cell.row()["fusion"] + ("" if len(cell.encoders) != 1 else ":" + next(iter(cell.encoders))): cell
            for cell in plan.cells()
        }

    return make


@pytest.fixture
def run(tmp_path):
    def go(cell, name="cell"):
        folder = tmp_path / name
        folder.mkdir()
        return run_cell(json.loads(json.dumps(cell.payload())), folder), folder

    return go


def values(result, split="test"):
    return {
        (metric["task"], metric["name"]): metric["value"]
        for metric in result["metrics"]
        if metric.get("split") == split and metric["phase"] == "evaluate"
    }


def test_a_cell_repeats_bit_for_bit(cells, run):
    cell = cells(fusion=["concat"])["concat"]
    first, folder = run(cell, "one")
    second, other = run(cell, "two")

    assert values(first) == values(second)
    assert first["info"]["history"][0]["train_loss"] == second["info"]["history"][0]["train_loss"]
    mine, theirs = load_file(folder / "predictions.safetensors"), load_file(other / "predictions.safetensors")
    assert all(np.array_equal(mine[name], theirs[name]) for name in mine)


def test_the_global_state_before_a_cell_does_not_matter(cells, run):
    cell = cells(fusion=["gated"])["gated"]
    first, _ = run(cell, "one")
    torch.manual_seed(99)
    np.random.seed(99)
    torch.rand(7)
    second, _ = run(cell, "two")

    assert values(first) == values(second)


def test_every_task_has_its_metrics_and_its_predictions(cells, run):
    result, folder = run(cells(fusion=["concat"])["concat"])
    found = values(result)

    assert found["label", "accuracy"] > 0.6
    assert {("value", "mae"), ("value", "pearson"), ("tags", "map"), ("tags", "f1_macro")} <= set(found)
    kept = load_file(folder / "predictions.safetensors")
    assert kept["test.label.prediction"].shape == (50, 2)
    assert kept["test.value.prediction"].shape == (50, 1)
    assert json.loads(kept["test.sample_ids"].tobytes())[:2] == ["test-0", "test-1"]
    accuracy = (kept["test.label.prediction"].argmax(1) == kept["test.label.target"]).mean()
    assert accuracy == pytest.approx(found["label", "accuracy"])


def test_groups_of_samples_are_kept_with_the_predictions(cells, run):
    _, folder = run(cells("toy[fault=groups]", fusion=["concat"])["concat"], "grouped")

    kept = load_predictions(folder, "label")

    assert kept.groups is not None
    assert kept.groups[:6] == ("test-speaker-0",) * 5 + ("test-speaker-1",)
    assert clusters_of(kept, "multiclass").tolist()[:6] == [0, 0, 0, 0, 0, 1]
    alone = run(cells(fusion=["concat"])["concat"], "alone")[1]
    assert load_predictions(alone, "label").groups is None


def test_differences_of_large_regression_targets_survive(cells, run):
    """Times of today in seconds: float32 keeps steps of 128 s, and these spread by 10.5 s."""
    planned = cells("toy[fault=large]", fusion=["concat"], train={"epochs": 8})
    large, folder = run(planned["concat"], "large")
    floor, _ = run(planned["majority"], "floor")

    kept = load_file(folder / "predictions.safetensors")
    target, prediction = kept["test.value.target"], kept["test.value.prediction"]
    assert len(np.unique(target)) == 50
    assert target.std() == pytest.approx(10.5, rel=0.3)
    assert values(large)["value", "mae"] == np.abs(target - prediction).mean()
    assert values(large)["value", "mae"] < 0.9 * values(floor)["value", "mae"]
    assert values(large)["value", "r2"] == pytest.approx(sklearn.metrics.r2_score(target, prediction), abs=1e-6)
    assert values(large)["value", "pearson"] > 0.3


def test_the_record_carries_what_its_key_is_made_of(cells, run):
    cell = cells(fusion=["sum"])["sum"]
    result, _ = run(cell)

    assert quality_key(result["info"]["identity"])[:16] == cell.cell_id
    assert result["info"]["num_samples"] == {"train": 120, "val": 40, "test": 50}
    assert result["info"]["selected_by"] == "loss"
    assert len(result["info"]["split_hash"]) == 16


def test_the_split_hash_is_the_same_in_every_cell(cells, run):
    made = cells(fusion=["concat", "sum"])
    hashes = {run(made[name], name)[0]["info"]["split_hash"] for name in ("concat", "sum", "majority")}

    assert len(hashes) == 1


def test_data_are_read_once_for_all_cells(cells, run):
    made = cells(fusion=["concat", "sum"])
    module = sys.modules["toy_plugin"]
    module.OPENED.clear()
    for name in ("majority", "single:a", "concat", "sum"):
        run(made[name], name.replace(":", "-"))

    # One for the index, one for each modality's transform: never one per cell.
    assert len(module.OPENED) == 3


def test_a_damaged_cache_entry_is_made_again(cells, run, tmp_path):
    made = cells(fusion=["concat"])
    first, _ = run(made["concat"], "one")
    for file in (tmp_path / "cache").rglob("*.npy"):
        damaged = bytearray(file.read_bytes())
        damaged[-1] ^= 255
        file.write_bytes(bytes(damaged))
    second, _ = run(made["concat"], "two")

    assert values(first) == values(second)


def test_the_majority_floor_knows_only_the_training_labels(cells, run):
    result, folder = run(cells(fusion=["concat"])["majority"])
    kept = load_file(folder / "predictions.safetensors")

    assert len(np.unique(kept["test.label.prediction"], axis=0)) == 1
    assert values(result)["value", "r2"] <= 0


def test_a_limit_trains_on_part_of_the_data(cells, run):
    result, _ = run(cells(fusion=["concat"], train={"epochs": 1, "limit": 30})["concat"])

    assert result["info"]["num_samples"] == {"train": 30, "val": 30, "test": 30}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("duplicate", "sample id 'train-0' stands in 'train' and again in 'val'"),
        ("empty", "split 'test' is empty"),
        ("splits", "must give the splits train, val and test"),
        ("nan", "target 'value' of sample 'train-0' is not finite"),
        ("label", "target 'label' of sample 'train-0' is 7, outside 0 … 1"),
        ("one-class", "task 'label' has only one class in train"),
        ("dtype", "'a' of sample 'train-0'.* must be float32 with 1 axes, got list"),
        ("inf", "'a' of sample 'train-0' holds infinity"),
        ("not-sample", "expected a Sample, got tuple"),
        ("targets", "target 'value' of sample 'train-0' is not there"),
    ],
)
def test_data_that_cannot_be_right_are_refused_by_name(cells, run, fault, message):
    cell = cells(f"toy[fault={fault}]", fusion=["concat"])["concat"]

    with pytest.raises(Exception, match=message):
        run(cell)


def test_a_seed_depends_on_its_parts_only():
    assert derive_seed("order", 0, 0) == derive_seed("order", 0, 0)
    assert derive_seed("order", 0, 0) != derive_seed("order", 0, 1)
    assert 0 <= derive_seed("x") < 2**63


@pytest.mark.parametrize(("contended", "busy"), [(True, False), (False, True), (False, False)])
def test_training_times_are_marked_where_others_computed(cells, tmp_path, monkeypatch, contended, busy):
    import mmbench.cell as cell_module

    note = "contended: others kept 1.0 of 2 CPUs busy"
    monkeypatch.setattr(cell_module.Neighbours, "reason", lambda self: note if busy else "")
    payload = {**cells(fusion=["concat"])["concat"].payload(), "contended": contended}

    result = run_cell(payload, tmp_path)

    notes = {item["name"]: item.get("note", "") for item in result["metrics"] if item["phase"] == "train"}
    expected = "contended: others computed on the device" if contended else note if busy else ""
    assert notes["train_time_s"] == notes["throughput_samples_per_s"] == expected
    assert notes["num_epochs"] == ""


def test_a_cell_that_takes_turns_on_its_device_measures_alone_and_lets_others_in_between_epochs(
    cells, run, monkeypatch, tmp_path
):
    import fcntl

    import mmbench.cell as cell_module
    from mmbench.device_turn import DeviceTurn

    (tmp_path / "locks").mkdir()
    pauses, held = [], []

    class Turn(DeviceTurn):
        def pause(self):
            pauses.append(len(held))
            super().pause()

    def profile(*given, contended, **named):
        with (tmp_path / "locks" / "mmbench-GPU-1.room.lock").open("w") as room:
            try:
                fcntl.flock(room, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(contended)
        return measure(*given, contended=contended, **named)

    measure = cell_module.profile
    monkeypatch.setattr(cell_module, "profile", profile)
    monkeypatch.setattr(cell_module, "turn_on", lambda payload: Turn("GPU-1", tmp_path / "locks"))
    cell = cells(fusion=["concat"])["concat"]
    payload = {**cell.payload(), "protocol": "quick", "contended": True}

    result = run_cell(payload, tmp_path)

    assert held == [False]  # nobody else could enter, and so nothing is marked
    assert pauses == [0, 0]  # after each of two epochs, before the measurement
    step = next(metric for metric in result["metrics"] if metric["name"] == "step_time_s")
    assert "others computed on the device" not in step["note"]
    assert list((tmp_path / "locks" / "mmbench-GPU-1.present").iterdir()) == []


@pytest.mark.gpu
def test_a_cell_runs_on_a_gpu_and_agrees_with_the_cpu(cells, run):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    cell = cells(fusion=["concat"])["concat"]
    on_cpu, _ = run(cell, "cpu")
    payload = {**cell.payload(), "device": "cuda", "cuda_graphs": "auto"}
    import tempfile
    from pathlib import Path

    on_gpu = run_cell(payload, Path(tempfile.mkdtemp()))

    assert values(on_gpu)["label", "accuracy"] == pytest.approx(values(on_cpu)["label", "accuracy"], abs=0.1)
    facts = on_gpu["info"]["cuda_graphs"]
    assert facts["captured"] is False
    assert facts["reason"].endswith("steps do not pay for it, 100 may")
    memory = on_gpu["info"]["device_memory"]
    assert 2**30 < memory["peak_bytes"] < memory["available_bytes"]
