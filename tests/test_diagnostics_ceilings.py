"""Diagnostics of trained cells on sets whose answer is known: synergy, redundancy, uniqueness, and disturbed inputs."""

from __future__ import annotations

import json

import pytest

from mmbench.cell import run_cell
from mmbench.config import load_config
from mmbench.plan import local_runtime, make_plan
from mmbench.registry import load_registry


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory):
    """Run the one multimodal cell of a selection; give its accuracies by condition and its derived numbers by name."""
    folder = tmp_path_factory.mktemp("diagnosed")
    registry = load_registry()
    done = {}

    def go(dataset, fusion="concat", depth="quick", encoders=(), **selection):
        key = json.dumps([dataset, fusion, depth, selection])
        if key in done:
            return done[key]
        flags = {"dataset": [dataset], "fusion": [fusion], "encoder": encoders, "baselines": False, **selection}
        config = load_config({"diagnostics": depth, "protocol": "none", "device": "cpu", **flags})
        runtime = local_runtime(config, cache=folder / "cache", data=folder / "data", jobs=1)
        (cell,) = (cell for cell in make_plan(config, registry, runtime=runtime).cells() if len(cell.encoders) > 1)
        place = folder / f"cell-{len(done)}"
        place.mkdir()
        result = run_cell(json.loads(json.dumps(cell.payload())), place)
        assert result["info"]["warnings"] == []
        test = [item for item in result["metrics"] if item.get("split") == "test"]
        scores = {item.get("condition", "clean"): item["value"] for item in test if item["name"] == "accuracy"}
        done[key] = scores, {item["name"]: item["value"] for item in test if item["phase"] == "diagnose"}, result
        return done[key]

    return go


def test_exclusive_or_is_all_synergy_and_its_additive_part_falls_to_chance(diagnosed):
    scores, derived, _ = diagnosed("xor", depth="full")

    assert scores["clean"] >= 0.99
    assert scores["drop:a"] == pytest.approx(0.5, abs=0.05)
    assert scores["drop:b"] == pytest.approx(0.5, abs=0.05)
    assert derived["shapley:a"] == pytest.approx(0.25, abs=0.05)
    assert derived["shapley:a"] == pytest.approx(derived["shapley:b"], abs=0.05)
    # A sum of two terms can be right in three of four corners by luck, and is at chance in the mean.
    assert scores["emap"] <= 0.65
    assert derived["emap_gap"] == pytest.approx(scores["clean"] - scores["emap"])


def test_of_redundant_modalities_either_suffices(diagnosed):
    encoders = ["tabular=mlp", "text=embedding-lstm"]
    scores, derived, _ = diagnosed(
        "redundant", "decision-average", encoders=encoders, objective=["modality-dropout"], train={"epochs": 15}
    )

    assert scores["clean"] == pytest.approx(0.9, abs=0.01)
    assert scores["drop:text"] == pytest.approx(scores["clean"], abs=0.03)
    assert scores["drop:tabular"] == pytest.approx(scores["clean"], abs=0.03)
    assert derived["shapley:text"] == pytest.approx(derived["shapley:tabular"], abs=0.04)
    assert derived["emap_gap"] == pytest.approx(0.0, abs=0.02)


def test_unique_modalities_share_what_they_tell_and_interact_in_nothing(diagnosed):
    scores, derived, _ = diagnosed("unique", encoders=["image=mlp", "sequence=gru"])

    # One bit of two known: 1/2 where nothing gives 1/4 and both give 1.
    assert scores["drop:image"] == pytest.approx(0.5, abs=0.02)
    assert scores["drop:sequence"] == pytest.approx(0.5, abs=0.02)
    assert derived["shapley:image"] == pytest.approx(0.375, abs=0.02)
    assert derived["shapley:sequence"] == pytest.approx(0.375, abs=0.02)
    assert derived["emap_gap"] == pytest.approx(0.0, abs=0.02)


def test_noise_in_a_table_costs_more_the_stronger_it_is(diagnosed):
    scores, derived, result = diagnosed("xor", depth="full")

    curve = [scores[f"noise:a.gaussian@{severity}"] for severity in ("0.1", "0.25", "0.5", "0.75", "1")]
    assert curve[0] > curve[2] > curve[4] > 0.45
    assert 0.5 < derived["robustness:a.gaussian"] < 1
    # Of every value its mean tells nothing.
    assert scores["noise:a.drop@1"] == pytest.approx(0.5, abs=0.05)
    assert result["info"]["diagnostics"]["noise"]["a.drop"] == "share of values replaced by the mean over train, s"


def test_diagnostics_change_no_other_number_and_need_not_be_made(diagnosed):
    with_them, _, full = diagnosed("xor", depth="full")
    without, derived, bare = diagnosed("xor", depth="none")

    assert without == {"clean": with_them["clean"]}
    assert derived == {}
    assert "diagnostics" not in bare["info"]
    clean = [
        [item for item in run["metrics"] if item["phase"] == "evaluate" and "condition" not in item]
        for run in (full, bare)
    ]
    assert clean[0] == clean[1]
