"""Seeds that train together: which combos a plan says it of, and runs that do, beside runs that do not."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from mmbench.cell import run_cell
from mmbench.cell_group import run_cells
from mmbench.compatibility import reasons_apart
from mmbench.config import load_config
from mmbench.groups import joined
from mmbench.plan import local_runtime, make_plan
from mmbench.record import Metric
from mmbench.registry import load_registry
from mmbench.spec import EncoderSpec, FusionSpec, ObjectiveSpec

FALSE_CLAIM = '''
"""An encoder that says it vectorises and draws at random in training."""
import numpy as np
import torch
from torch import nn
from mmbench import EncoderSpec, Features, hookimpl


class Noisy(nn.Module):
    def __init__(self, modality, layout):
        super().__init__()
        self.feature_dim = 8
        self.linear = nn.Linear(modality.facts["num_features"], 8)

    def transform(self, row):
        return row

    def forward(self, values, mask=None):
        noise = torch.randn_like(values) if self.training else 0.0
        return Features(self.linear(values + noise))


@hookimpl
def mmbench_encoders():
    return [EncoderSpec(name="noisy", kinds=("tabular",), factory="false_claim:Noisy", version="1", vectorises=True)]
'''


def plan_of(**flags):
    config = load_config({"dataset": ["xor"], "seeds": 3, "together": "auto", **flags})
    return make_plan(config, load_registry())


def test_seeds_that_can_be_trained_together_stand_side_by_side_in_a_plan():
    cells = list(plan_of(fusion=["concat", "gated"], baselines=False).cells())
    never = list(plan_of(fusion=["concat", "gated"], baselines=False, together="never").cells())

    assert [(cell.row()["fusion"], cell.seed) for cell in cells] == [
        ("concat", 0), ("concat", 1), ("concat", 2), ("gated", 0), ("gated", 1), ("gated", 2),
    ]  # fmt: skip
    assert [cell.row()["path"] for cell in cells] == ["together"] * 6
    assert len({cell.group for cell in cells}) == 2
    assert {cell.cell_id for cell in cells} == {cell.cell_id for cell in never}
    assert {cell.cell_id: cell.payload() for cell in cells} == {cell.cell_id: cell.payload() for cell in never}
    assert all(cell.group == "" and "path" not in cell.row() for cell in never)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"seeds": 1}, "there is one seed"),
        ({"budget": "1h"}, "a run with a budget takes every combo once before any twice"),
        ({"train": {"precision": "bf16"}}, "precision bf16 would round otherwise"),
        ({"fusion": ["concat[missing=zero]"]}, "missing=zero does not vectorise"),
        ({"objective": ["ogm-ge"]}, "ogm-ge does not vectorise"),
        (
            {"dataset": ["redundant-missing"], "encoder": ["image=mlp", "text=bag-of-embeddings"]},
            "some samples lack image, text, so batches of several seeds differ in shape",
        ),
        ({"dataset": ["digits"], "modality": ["image"], "fusion": ["single"], "encoder": ["vit-tiny"]},
         "vit-tiny does not vectorise"),
        ({"encoder": ['a=mlp[augment="noise"]', "b=mlp"]}, "augment changes 'a' at random"),
    ],
    ids=str,
)  # fmt: skip
def test_a_plan_says_why_seeds_are_trained_one_after_the_other(flags, reason):
    plan = plan_of(**{"fusion": ["concat"], "baselines": False, **flags})
    rows = [cell.row() for cell in plan.cells()]

    assert {row["path"] for row in rows} == {"alone"}
    assert {row["apart"] for row in rows} == {reason}
    assert plan.paths() == [{"path": "alone", "apart": reason, "num_cells": len(rows)}]


@pytest.mark.parametrize(
    ("tuning", "reasons"),
    [
        ("scratch", ["vit does not vectorise"]),
        ("stored", []),
        ("frozen", ["vit is frozen, and its features are not stored as fp32 or fp16"]),
        ("finetune", ["vit is trained by tuning=finetune, not from scratch"]),
    ],
)
def test_features_that_are_stored_vectorise_whatever_their_encoder_does(tuning, reasons):
    vit = EncoderSpec(name="vit", kinds=("image",), factory="a:b", version="1")
    join = FusionSpec(name="join", factory="a:b", version="1", vectorises=True)
    learn = ObjectiveSpec(name="learn", factory="a:b", version="1", vectorises=True)

    assert reasons_apart({"x": vit}, {"x": tuning}, [], [], join, learn, "mask", "fp32") == reasons


def test_what_an_executor_changes_for_a_group_reaches_each_of_its_cells():
    """A cluster's executor makes paths absolute and says that nobody shares the node: in the payload it was given."""
    payloads = [cell.payload() for cell in plan_of(fusion=["concat"], baselines=False).cells()]
    group = joined(payloads)

    assert [{**{k: v for k, v in group.items() if k != "cells"}, **own} for own in group["cells"]] == payloads
    assert {"dataset", "encoders", "fusion", "objective", "train", "plugin_files"} <= group.keys()
    assert sorted(group["cells"][0]) == ["cell_id", "identity", "seed"]


def test_the_memory_of_a_gpu_that_holds_all_seeds_is_not_told_of_one(tmp_path, monkeypatch, one_thread):
    plan = plan_of(fusion=["concat"], baselines=False, diagnostics="none", train={"epochs": 1, "limit": 64})
    runtime = local_runtime(plan.config, cache=tmp_path, data=tmp_path, jobs=1)
    payloads = [cell.payload() for cell in make_plan(plan.config, load_registry(), runtime=runtime).cells()]

    def on_gpu(*given, **named):
        name = "inference_peak_memory_allocated_bytes"
        return [Metric(phase="profile", name=name, value=3e9, unit="bytes")], {}

    monkeypatch.setattr("mmbench.cell.profile", on_gpu)

    several = run_cells(joined(payloads[:3]), tmp_path)["info"]["cells"].values()
    one = run_cell(payloads[0], tmp_path)

    told = [[item for item in cell["metrics"] if item["phase"] == "profile"] for cell in (*several, one)]
    assert [item["value"] for (item,) in told] == [None, None, None, 3e9]
    assert told[0][0]["note"] == (
        "the models of 2 other seeds, trained together with this one, were on the device meanwhile"
    )


def mmbench(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "mmbench.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "200"},
    )


def records(folder):
    lines = (folder / "journal.jsonl").read_text().splitlines()
    return {record["cell_id"]: record for record in map(json.loads, lines)}


def primary(record):
    return next(m["value"] for m in record["metrics"] if m["name"] == "accuracy" and m.get("split") == "test")


SMALL = ("-d", "xor", "-f", "concat", "--epochs", "3", "--limit", "200", "--diagnostics", "none", "--results", ".")


@pytest.mark.full
def test_a_run_that_trains_seeds_together_equals_one_that_does_not(tmp_path):
    never = mmbench("run", *SMALL, "--seeds", "3", "--run", "never", cwd=tmp_path)
    first = mmbench("run", *SMALL, "--seeds", "1", "--run", "auto", "--together", "auto", cwd=tmp_path)
    auto = mmbench("run", *SMALL, "--seeds", "3", "--run", "auto", "--together", "auto", cwd=tmp_path)

    assert (never.returncode, first.returncode, auto.returncode) == (0, 0, 0), never.stderr + auto.stderr
    one_by_one, together = records(tmp_path / "never"), records(tmp_path / "auto")
    assert one_by_one.keys() == together.keys()
    told = [record["info"].get("trained_together", {}).get("num_cells") for record in together.values()]
    # The floor and the three combos of the first command alone, then two seeds each of the three combos.
    assert sorted(told, key=str) == [2, 2, 2, 2, 2, 2, None, None, None, None]
    for cell_id, record in together.items():
        assert primary(record) == primary(one_by_one[cell_id])
        own, other = (
            load_file(tmp_path / run / "cells" / cell_id / "predictions.safetensors") for run in ("auto", "never")
        )
        np.testing.assert_allclose(own["test.label.prediction"], other["test.label.prediction"], atol=1e-5)
        np.testing.assert_array_equal(own["test.sample_ids"], other["test.sample_ids"])
        if "trained_together" not in record["info"]:
            continue
        curve = (tmp_path / "auto" / "cells" / cell_id / "history.jsonl").read_text().splitlines()
        assert len(curve) == len(record["info"]["history"]) == len(one_by_one[cell_id]["info"]["history"])
        speeds = {m["name"]: m for m in record["metrics"] if m["phase"] == "train" and m["value"] is None}
        assert sorted(speeds) == ["throughput_samples_per_s", "train_time_s"]
        assert speeds["train_time_s"]["note"].startswith("2 seeds were trained together in ")
        assert any(
            m["name"] == "step_time_s" and m["value"] for m in record["metrics"]
        )  # the profile is each one's own
    assert not [entry for entry in (tmp_path / "auto" / "cells").iterdir() if entry.name.startswith(".")]


@pytest.mark.slow
def test_seeds_whose_common_pass_fails_run_alone_and_say_so(tmp_path):
    (tmp_path / "false_claim.py").write_text(FALSE_CLAIM)
    selection = (*SMALL, "--seeds", "2", "--plugin", "false_claim.py", "-e", "noisy", "--no-baselines")

    done = mmbench("run", *selection, "--run", "auto", "--together", "auto", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    found = records(tmp_path / "auto")
    assert len(found) == 2
    for record in found.values():
        assert (record["status"], record["attempt"]) == ("ok", 1)
        (warning,) = record["info"]["warnings"]
        assert warning.startswith("its seeds could not be trained together: failed: RuntimeError: vmap: called random")
        assert "trained_together" not in record["info"]
        assert any(m["name"] == "train_time_s" and m["value"] for m in record["metrics"])


def test_the_command_shows_which_path_each_combo_takes(tmp_path):
    shown = mmbench(
        "plan", "-d", "digits", "-m", "image", "-f", "single", "--seeds", "2", "--together", "auto", cwd=tmp_path
    )

    assert shown.returncode == 0, shown.stderr
    assert "seeds together (4 cells)" in shown.stdout
    assert "seeds one after the other: vit-tiny does not vectorise (2 cells)" in shown.stdout
