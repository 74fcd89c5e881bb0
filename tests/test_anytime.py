"""A run cut short is already a table: wherever it stops, datasets, fusions, encoders and objectives are balanced."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_cases import SINGLE, SUPERVISED, dataset, encoder, fusion, plan
from typed import mmbench

from mmbench.grid import diagonal
from mmbench.spec import ObjectiveSpec

PARTS = (
    SINGLE,
    SUPERVISED,
    ObjectiveSpec(name="other", factory="a:b", version="1"),
    *(encoder(f"i{n}", "image", layouts=("vector",) if n == 1 else ("vector", "sequence")) for n in range(3)),
    *(encoder(f"a{n}", "audio") for n in range(2)),
    *(fusion(f"f{n}") for n in range(3)),
    fusion("tokens", accepts="sequence"),
    dataset("wide"),
    dataset("narrow", ("image",)),
    dataset("other", ("audio", "image")),
)


def cells(**flags):
    return list(plan(PARTS, dataset=["wide", "other"], objective=["*"], **flags).cells())


def test_after_any_prefix_no_fusion_on_no_dataset_is_more_than_a_cell_ahead_of_one_that_has_cells_left():
    combos = [cell for cell in cells() if cell.status == "run" and cell.role == "cell"]
    lanes = [(cell.dataset.label, cell.fusion.label) for cell in combos]
    total = Counter(lanes)

    assert total == {
        **{(name, f"f{n}"): 12 for name in ("wide", "other") for n in range(3)},
        **{(name, "tokens"): 8 for name in ("wide", "other")},  # i1 gives it no tokens
    }
    done = Counter(dict.fromkeys(total, 0))
    for lane in lanes:
        done[lane] += 1
        unfinished = [count for name, count in done.items() if count < total[name]]
        assert max(done.values()) - min(unfinished, default=max(done.values())) <= 1


def test_after_any_prefix_encoders_and_objectives_of_a_fusion_are_balanced_too():
    combos = [cell for cell in cells(baselines=False) if cell.dataset.label == "wide" and cell.fusion.label == "f0"]

    for axis in (
        lambda cell: cell.encoders["image"].label,
        lambda cell: cell.encoders["audio"].label,
        lambda cell: cell.objective.label,
    ):
        done = Counter(dict.fromkeys(map(axis, combos), 0))
        for cell in combos:
            done[axis(cell)] += 1
            assert max(done.values()) - min(done.values()) <= 1


def test_baselines_of_all_datasets_come_first_and_every_combo_before_second_seeds():
    ordered = [cell for cell in cells(seeds="2") if cell.status == "run"]
    places = [(cell.seed, cell.role != "baseline") for cell in ordered]

    assert places == sorted(places)
    first = [cell.dataset.label for cell in ordered if cell.role == "baseline" and cell.seed == 0]
    assert first[:4] == ["wide", "other", "wide", "other"]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_the_diagonal_meets_every_combination_once_and_keeps_every_axis_balanced(sizes):
    walked = list(diagonal([range(size) for size in sizes]))

    assert len(walked) == len(set(walked)) == math.prod(sizes)
    for axis, size in enumerate(sizes):
        counts = Counter(dict.fromkeys(range(size), 0))
        for places in walked:
            counts[places[axis]] += 1
            assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.slow
def test_a_spent_budget_leaves_a_balanced_table_and_the_same_command_continues(tmp_path):
    selection = ["-d", "xor", "-d", "synergy-3", "-f", "concat", "-f", "sum", "-f", "gated"]
    training = ["--epochs", "1", "--limit", "64", "--protocol", "none", "--diagnostics", "none", "-j", "1"]

    def go(budget):
        done = mmbench(tmp_path, "run", *selection, *training, "--seeds", "4", "--run", "some", "--budget", budget)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = (tmp_path / "results/some/journal.jsonl").read_text().splitlines()
        return done.stdout, [json.loads(line)["cell_id"] for line in lines]

    said, first = go("1s")
    planned = json.loads((tmp_path / "results/some/plan.json").read_text())["cells"]
    order = [row["cell_id"] for row in planned]
    rows = {row["cell_id"]: row for row in planned}

    assert "the budget of 1 s is spent" in said
    assert 0 < len(first) < len(order)
    assert first == order[: len(first)]
    combos = Counter({(row["dataset"], row["fusion"]): 0 for row in planned if row["role"] == "cell"})
    combos.update((rows[item]["dataset"], rows[item]["fusion"]) for item in first if rows[item]["role"] == "cell")
    assert max(combos.values()) - min(combos.values()) <= 1
    _, whole = go("10m")
    assert whole == order
