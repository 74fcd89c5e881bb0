"""Frozen encoders run once for all cells, and nobody can tell from the results."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmbench.cache import ArrayCache
from mmbench.cell import run_cell
from mmbench.cell_subject import dataset_info, open_dataset
from mmbench.config import load_config
from mmbench.errors import DataError, UsageError
from mmbench.frozen import FrozenEncoder, moments
from mmbench.plan import local_runtime, make_plan
from mmbench.registry import load_registry

PLUGIN = Path(__file__).parent / "toy_frozen.py"


@pytest.fixture
def weights(tmp_path):
    import toy_frozen

    from mmbench import Modality

    torch.manual_seed(3)
    modality = Modality(name="row", kind="tabular")
    encoder = toy_frozen.Pretrained(modality, "vector", target="", tuning="scratch", width=8)
    encoder.norm.running_mean.normal_()
    encoder.norm.running_var.uniform_(0.5, 2.0)
    path = tmp_path / "weights.pt"
    torch.save(encoder.state_dict(), path)
    return path


@pytest.fixture
def make(tmp_path, weights, monkeypatch):
    """Plan cells over the toy dataset; count what the encoders read while they run."""
    trace = tmp_path / "trace.txt"
    monkeypatch.setenv("MMBENCH_TEST_TRACE", str(trace))
    registry = load_registry([PLUGIN])

    def plan(tuning: str = "frozen", fusion: Any = "concat", seeds: Any = 1, options: str = "", **flags: Any) -> Any:
        config = load_config(
            {
                "dataset": ["rows-and-steps"],
                "encoder": [f"stored:{weights}[tuning={tuning}{options}]"],
                "fusion": fusion,
                "seeds": seeds,
                "device": "cpu",
                "protocol": "none",
                **flags,
            }
        )
        runtime = local_runtime(config, cache=tmp_path / "cache", data=tmp_path / "data", jobs=1)
        return make_plan(config, registry, runtime=runtime)

    def run(**given: Any) -> list[dict[str, Any]]:
        trace.write_text("")
        results = []
        for number, cell in enumerate(cell for cell in plan(**given).cells() if cell.role == "cell"):
            assert cell.status == "run", cell.reason
            folder = tmp_path / f"cell-{number}"
            folder.mkdir(exist_ok=True)
            results.append(run_cell(json.loads(json.dumps(cell.payload())), folder))
        return results

    def passes() -> list[str]:
        return trace.read_text().splitlines()

    yield type("Made", (), {"plan": staticmethod(plan), "run": staticmethod(run), "passes": staticmethod(passes)})
    sys.modules.pop("toy_frozen", None)


def scores(result: dict[str, Any]) -> dict[str, float]:
    return {
        f"{item['split']}.{item['name']}": item["value"]
        for item in result["metrics"]
        if item["phase"] == "evaluate" and item.get("condition", "clean") == "clean"
    }


def test_each_frozen_encoder_reads_every_sample_once_whatever_the_number_of_fusions_and_seeds(make):
    make.run(fusion=["concat", "gated", "sum"], seeds=2)

    rows = sum(int(line.split()[0]) for line in make.passes())
    num_rows, num_steps = 96 + 40 + 60, (96 + 40 + 60) * 3 // 4
    assert rows == num_rows + num_steps
    assert {line.split()[1] for line in make.passes()} == {"eval"}

    make.run(fusion=["concat", "attention"], seeds=3)
    assert make.passes() == []


@pytest.mark.parametrize("fusion", ["concat", "cross-attention"])
def test_stored_features_give_the_numbers_of_encoders_that_run_in_every_cell(make, fusion):
    (stored,) = make.run(fusion=fusion)
    (anew,) = make.run(fusion=fusion, feature_cache=False)

    assert stored["info"]["stored_features"] == ["row", "steps"]
    assert anew["info"]["stored_features"] == []
    assert {line.split()[1] for line in make.passes()} == {"eval"}
    assert scores(stored) == pytest.approx(scores(anew), abs=1e-5)
    for one, other in zip(stored["info"]["history"], anew["info"]["history"], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-5)


def test_stored_features_know_which_inputs_repeat(make):
    (cell,) = [cell for cell in make.plan().cells() if cell.role == "cell"]
    payload = cell.payload()
    source = open_dataset(payload, dataset_info(payload["dataset"]["info"]))
    frozen = FrozenEncoder(source, "row", payload, torch.device("cpu"), [])

    stored = frozen.features()[1]

    for split, column in source.columns("row", lambda row: row, "as it is").items():
        assert stored[split].digests.tolist() == column.digests.tolist()


def test_half_precision_features_are_close_and_half_the_size(make):
    def features(options: str = "") -> torch.Tensor:
        planned = make.plan(options=f",standardise=false{options}")
        (cell,) = [cell for cell in planned.cells() if cell.role == "cell"]
        payload = cell.payload()
        source = open_dataset(payload, dataset_info(payload["dataset"]["info"]))
        module, columns = FrozenEncoder(source, "row", payload, torch.device("cpu"), []).features()
        sizes[options] = columns["test"].values.nbytes
        return module(torch.from_numpy(np.array(columns["test"].values)), None).tensor

    sizes: dict[str, int] = {}
    full, half, brain = features(), features(",feature_dtype=fp16"), features(",feature_dtype=bf16")
    torch.testing.assert_close(half, full, rtol=2**-10, atol=1e-4)
    torch.testing.assert_close(brain, full, rtol=2**-7, atol=1e-4)
    assert sizes[",feature_dtype=fp16"] == sizes[",feature_dtype=bf16"] == sizes[""] / 2


def test_features_are_standardised_by_the_training_set_alone(make):
    def features(modality: str, split: str, options: str = "") -> np.ndarray:
        (cell,) = [cell for cell in make.plan(fusion="cross-attention", options=options).cells() if cell.role == "cell"]
        payload = cell.payload()
        source = open_dataset(payload, dataset_info(payload["dataset"]["info"]))
        module, columns = FrozenEncoder(source, modality, payload, torch.device("cpu"), []).features()
        column = columns[split]
        rows = column.values if column.offsets is not None else column.values[column.present]
        return module(torch.from_numpy(np.array(rows)), None).values.numpy().reshape(-1, 8)

    for modality in ("row", "steps"):
        train, test = features(modality, "train"), features(modality, "test")
        np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-4)
        plain = {split: features(modality, split, ",standardise=false") for split in ("train", "test")}
        mean, std = plain["train"].mean(axis=0), plain["train"].std(axis=0)
        np.testing.assert_allclose(test, (plain["test"] - mean) / std, atol=1e-4)


def test_every_token_counts_for_the_mean_though_there_are_as_many_tokens_as_samples():
    tokens = np.array([[1.0], [5.0], [6.0]], dtype=np.float32)  # two of the second sample, one of the third
    found = {"values": tokens, "offsets": np.array([0, 0, 2, 3]), "present": np.array([False, True, True])}

    mean, std = moments(found, "fp32")

    assert mean.tolist() == [4.0]
    assert std.tolist() == pytest.approx([(14 / 3) ** 0.5])


def test_other_weights_in_the_same_file_are_other_features_and_a_moved_file_is_the_same_cell(make, weights):
    first = {cell.cell_id for cell in make.plan().cells() if cell.role == "cell"}
    state = torch.load(weights, weights_only=True)
    moved = weights.with_name("moved.pt")
    moved.write_bytes(weights.read_bytes())
    config = load_config(
        {"dataset": ["rows-and-steps"], "encoder": [f"stored:{moved}[tuning=frozen]"], "fusion": ["concat"]}
    )
    elsewhere = make_plan(config, load_registry([PLUGIN]))
    assert {cell.cell_id for cell in elsewhere.cells() if cell.role == "cell"} == first

    state["stem.bias"] += 1
    torch.save(state, weights)
    assert {cell.cell_id for cell in make.plan().cells() if cell.role == "cell"}.isdisjoint(first)


def test_missing_weights_are_known_while_planning_with_what_to_do(make, weights):
    weights.unlink()

    (cell,) = [cell for cell in make.plan().cells() if cell.role == "cell"]
    assert cell.status == "unavailable"
    assert "there are no weights at" in cell.reason
    assert "write them with torch.save" in cell.reason
    (scratch,) = [cell for cell in make.plan(tuning="scratch").cells() if cell.role == "cell"]
    assert scratch.status == "run"


def test_a_damaged_entry_is_computed_again(make, tmp_path):
    (clean,) = make.run()
    files = [file for file in (tmp_path / "cache" / "features").rglob("*.npy") if file.stat().st_size > 500]
    for file in files:
        data = bytearray(file.read_bytes())
        data[-40] ^= 0x10
        file.write_bytes(data)

    (again,) = make.run()
    assert len(make.passes()) > 0
    assert scores(again) == scores(clean)


def test_features_that_are_not_finite_are_refused_with_the_encoder_named(make, weights):
    state = torch.load(weights, weights_only=True)
    state["stem.bias"] += 1e30
    state["norm.running_var"] *= 0
    torch.save(state, weights)

    with pytest.raises(DataError, match=r"do not fit fp16; use feature_dtype=bf16 or fp32"):
        make.run(options=",feature_dtype=fp16")


def test_the_profile_of_stored_features_holds_the_encoders_own_cost(make):
    def profile_of(**flags: Any) -> dict[str, dict[str, Any]]:
        (result,) = make.run(protocol="quick", **flags)
        return {item["name"]: item for item in result["metrics"] if item["phase"] == "profile"}

    stored, anew = profile_of(), profile_of(feature_cache=False)
    assert stored["num_parameters_registered"]["value"] == anew["num_parameters_registered"]["value"]
    assert stored["flops_per_sample"]["value"] == pytest.approx(anew["flops_per_sample"]["value"], rel=0.02)
    assert stored["num_parameters_trainable"]["value"] == anew["num_parameters_trainable"]["value"]
    assert stored["stage_time_s:encode.row"]["value"] > 0
    assert "measured once, apart" in stored["throughput_samples_per_s"]["note"]
    assert stored["model_memory_bytes"]["value"] is None
    assert stored["latency_p50_s"]["value"] > 0


def test_the_training_time_holds_what_the_stored_features_took(make, monkeypatch):
    import mmbench.frozen as frozen_module

    encode = frozen_module._encode

    def slowly(*given):
        time.sleep(0.3)
        return encode(*given)

    monkeypatch.setattr(frozen_module, "_encode", slowly)
    (first,) = make.run(fusion="concat")
    (again,) = make.run(fusion="gated")  # finds the features in the cache

    for result in (first, again):
        (item,) = [item for item in result["metrics"] if item["name"] == "train_time_s"]
        steps_s = sum(epoch["time_s"] for epoch in result["info"]["history"])
        assert 4 * 0.3 < item["value"] - steps_s < 4 * 0.3 + 2  # two encoders, train and val
        assert "s for the features of row, steps, computed once for all cells" in item["note"]


def test_another_processor_has_a_cost_of_its_own(make, monkeypatch, tmp_path):
    def costs() -> int:
        entries = ArrayCache(tmp_path / "cache").entries()
        return sum(entry.sort == "encoder-cost" for entry in entries)

    make.run(protocol="quick")
    make.run(protocol="quick")
    assert costs() == 2  # two modalities

    monkeypatch.setattr("mmbench.frozen.hardware_name", lambda device: "Another CPU")
    make.run(protocol="quick")
    assert costs() == 4


def test_tuning_options_belong_to_their_tuning(make):
    with pytest.raises(
        UsageError, match="lr_factor belongs to tuning=finetune or adapter, but the tuning here is frozen"
    ):
        make.plan(options=",lr_factor=0.5")


def test_finetuning_moves_all_weights_and_frozen_none(make, tmp_path):
    from mmbench.build import build_encoder

    (cell,) = [cell for cell in make.plan(tuning="frozen").cells() if cell.role == "cell"]
    part = cell.payload()["encoders"]["row"]
    from mmbench import Modality

    encoder = build_encoder(Modality(name="row", kind="tabular"), part, 0, [])
    assert [name for name, item in encoder.named_parameters() if item.requires_grad] == []

    (result,) = make.run(tuning="finetune")
    assert result["info"]["stored_features"] == []
    assert {line.split()[1] for line in make.passes()} == {"train", "eval"}


def test_the_plan_says_what_is_computed_once(make, weights):
    plan = make.plan(fusion=["concat", "sum", "cross-attention"], seeds=2)
    shared = {(item["modality"], item["layout"]): item["num_cells"] for item in plan.shared()}

    # Two fusions and the unimodal row take vectors, one fusion sequences, two seeds each.
    assert shared == {
        ("row", "vector"): 6, ("steps", "vector"): 6, ("row", "sequence"): 2, ("steps", "sequence"): 2,
    }  # fmt: skip
    assert make.plan(tuning="finetune").shared() == []
    assert make.plan(feature_cache=False).shared() == []


def test_disturbed_inputs_reach_a_frozen_encoder_whose_features_are_stored(make):
    def disturbed(result: dict[str, Any]) -> dict[str, float]:
        return {
            item["condition"]: item["value"]
            for item in result["metrics"]
            if item.get("condition", "").startswith("noise:row.")
        }

    (stored,) = make.run(diagnostics="full")
    (anew,) = make.run(diagnostics="full", feature_cache=False)

    assert stored["info"]["warnings"] == anew["info"]["warnings"] == []
    assert len(disturbed(stored)) == 10
    assert len(set(disturbed(stored).values())) > 1
    assert disturbed(stored) == pytest.approx(disturbed(anew), abs=1e-5)
