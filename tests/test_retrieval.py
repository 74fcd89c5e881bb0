"""Retrieval against plain loops: recall with groups, duplicates and ties, the loss, and a cell that learns to search."""

from __future__ import annotations

import json
import math
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import top_k_accuracy_score
from torch.nn import functional as F

from mmbench import TaskSpec
from mmbench.cell import run_cell
from mmbench.config import load_config
from mmbench.errors import ContractError, DataError, Diverged
from mmbench.evaluate import metrics, primary_value
from mmbench.model import MultimodalModel
from mmbench.plan import local_runtime, make_plan
from mmbench.registry import load_registry
from mmbench.report.predictions import sample_scores
from mmbench.retrieval import ranks, recall
from mmbench.tallies import losses
from mmbench.tasks import majority_predictions, predictions, task_loss

TASK = TaskSpec(name="match", kind="retrieval", num_outputs=2)

PLUGIN = '''
"""Pairs of noisy views of the same point, each photographed by its own linear camera."""
import numpy as np
from mmbench import DatasetSpec, Modality, TaskSpec, hookimpl
from mmbench.data import Sample


def make(root):
    rng = np.random.default_rng(0)
    cameras = {name: rng.normal(size=(4, 12)) for name in ("left", "right")}

    def split(name, count):
        samples = []
        for number in range(count):
            point = rng.normal(size=4)
            inputs = {
                side: (point @ camera + 0.05 * rng.normal(size=12)).astype("f4") for side, camera in cameras.items()
            }
            samples.append(Sample(f"{name}-{number}", inputs, {"match": number}))
        return samples

    return {"train": split("train", 400), "val": split("val", 100), "test": split("test", 100)}


@hookimpl
def mmbench_datasets():
    return [
        DatasetSpec(
            name="views",
            factory="views_plugin:make",
            version="1",
            modalities=(Modality(name="left", kind="tabular"), Modality(name="right", kind="tabular")),
            tasks=(TaskSpec(name="match", kind="retrieval", num_outputs=16),),
            train={"epochs": 15, "batch_size": 64},
            in_all=False,
        )
    ]
'''


def chance_of_a_partner(similarity, partner, k):
    """By looking at every order in which ties may fall."""
    places = range(len(similarity))
    hits = []
    for order in permutations(places):
        ranked = sorted(places, key=lambda place: (-similarity[place], order[place]))
        hits.append(any(partner[place] for place in ranked[:k]))
    return np.mean(hits)


@given(st.data(), st.integers(2, 5), st.integers(1, 3))
def test_recall_is_the_chance_of_a_partner_among_the_best(data, n, k):
    small = st.integers(-1, 1)  # so that candidates tie
    left = np.array(data.draw(st.lists(st.tuples(small, small), min_size=n, max_size=n)), dtype=float)
    right = np.array(data.draw(st.lists(st.tuples(small, small), min_size=n, max_size=n)), dtype=float)
    groups = np.arange(n)

    expected = []
    for row in range(n):
        forward = chance_of_a_partner(right @ left[row], groups == row, k)
        backward = chance_of_a_partner(left @ right[row], groups == row, k)
        expected.append((forward + backward) / 2)

    np.testing.assert_allclose(recall(np.concatenate([left, right], axis=1), groups, 2, k), expected, atol=1e-12)


def test_recall_of_single_pairs_is_top_k_accuracy():
    rng = np.random.default_rng(0)
    left = rng.normal(size=(60, 8))
    right = left + rng.normal(size=(60, 8))
    vectors = np.concatenate([left, right], axis=1)
    for k in (1, 5, 10):
        forward = top_k_accuracy_score(np.arange(60), left @ right.T, k=k)
        backward = top_k_accuracy_score(np.arange(60), right @ left.T, k=k)
        assert recall(vectors, np.arange(60), 8, k).mean() == pytest.approx((forward + backward) / 2)


def test_an_image_with_five_captions_is_one_image_to_be_found():
    """Two images with two captions each; the second image's captions find both copies of the first one above."""
    images = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    captions = np.array([[1.0, 0.1], [0.9, 0.0], [0.95, 0.0], [0.0, 1.0]])
    groups = np.array([7, 7, 3, 3])
    vectors = np.concatenate([captions, images], axis=1)

    # Caption 2 ranks image 7 first, so its own is second, not third behind both copies.
    caption_ranks, image_ranks = ranks(vectors, groups, 2)
    assert caption_ranks.tolist() == [1, 1, 2, 1]
    assert image_ranks.tolist() == [1, 1, 1, 1]
    assert recall(vectors, groups, 2, 1).tolist() == [1, 1, 0.5, 1]


def test_the_floor_finds_by_chance():
    floor = majority_predictions(TASK, np.arange(40), 40)
    scores = {metric.name: metric.value for metric in metrics(TASK, floor, np.arange(40), split="test")}

    assert scores["recall_at_1"] == pytest.approx(1 / 40)
    assert scores["recall_at_10"] == pytest.approx(10 / 40)
    assert scores["median_rank"] == pytest.approx(20.5)


def test_metrics_have_intervals_and_agree_with_primary_value_losses_and_the_report():
    rng = np.random.default_rng(1)
    left = rng.normal(size=(50, 2))
    vectors, groups = np.concatenate([left, left + 0.3 * rng.normal(size=(50, 2))], axis=1), np.arange(50)
    found = {metric.name: metric for metric in metrics(TASK, vectors, groups, split="test", confidence=True)}

    first = found["recall_at_1"]
    assert first.ci_low < first.value < first.ci_high
    assert first.value == pytest.approx(primary_value(TASK, vectors, groups))
    assert first.value == pytest.approx(1 - losses(TASK, vectors, groups).mean())
    for k in (1, 5, 10):
        by_sample = sample_scores(vectors, groups.astype(float), "retrieval", f"recall_at_{k}", 2)
        assert found[f"recall_at_{k}"].value == pytest.approx(by_sample.mean())
    reciprocal = np.mean([[1 / rank for rank in row] for row in ranks(vectors, groups, 2)])
    assert found["mean_reciprocal_rank"].value == pytest.approx(reciprocal)


def test_impossible_vectors_are_refused():
    with pytest.raises(ValueError, match=r"needs vectors \(N, M \* 2\) of M >= 2 modalities"):
        metrics(TASK, np.zeros((3, 2)), np.arange(3), split="test")
    with pytest.raises(Diverged, match="1 of 3 vectors"):
        metrics(TASK, np.array([[0, 0, 0, np.nan], [0] * 4, [0] * 4]), np.arange(3), split="test")


def test_the_loss_is_clips_for_single_pairs_and_shares_the_target_among_partners():
    torch.manual_seed(0)
    vectors = torch.randn(6, 4)
    left, right = vectors[:, :2], vectors[:, 2:]
    clip = (F.cross_entropy(left @ right.T, torch.arange(6)) + F.cross_entropy(right @ left.T, torch.arange(6))) / 2
    torch.testing.assert_close(task_loss(TASK, vectors, torch.arange(6)), clip)

    groups = torch.tensor([0, 0, 1, 2, 2, 2])
    expected = 0.0
    for one, other in ((left, right), (right, left)):
        for row in range(6):
            logits = (other @ one[row]).double().tolist()
            total = math.log(sum(math.exp(value) for value in logits))
            partners = [place for place in range(6) if groups[place] == groups[row]]
            expected -= sum(logits[place] - total for place in partners) / len(partners) / 12
    assert float(task_loss(TASK, vectors, groups)) == pytest.approx(expected, abs=1e-5)
    each = task_loss(TASK, vectors, groups, reduction="none")
    assert each.shape == (6,)
    assert float(each.mean()) == pytest.approx(expected, abs=1e-5)


def test_predictions_are_the_vectors():
    logits = torch.randn(3, 4)
    assert torch.equal(predictions(TASK, logits), logits)


def test_a_fusion_that_joins_instead_of_comparing_is_refused_with_the_width_it_needs():
    class Joined(torch.nn.Module):
        fused_dim = 5

    encoder = torch.nn.Linear(3, 3)
    encoder.feature_dim = 3
    with pytest.raises(ContractError, match="for each of 2 modalities, joined: fused_dim 4, not 5"):
        MultimodalModel({"a": encoder, "b": encoder}, {"a": "vector", "b": "vector"}, Joined(), (TASK,))


@pytest.fixture
def plan(tmp_path):
    file = tmp_path / "views_plugin.py"
    file.write_text(PLUGIN)
    config = load_config({"dataset": ["views"], "fusion": ["dual-encoder", "concat"], "device": "cpu"})
    runtime = local_runtime(config, cache=tmp_path / "cache", data=tmp_path / "data", jobs=1)
    yield make_plan(config, load_registry([file]), runtime=runtime)
    sys.modules.pop("views_plugin", None)


def test_a_cell_learns_to_search_and_other_fusions_say_that_they_cannot(plan, tmp_path):
    cells = {cell.row()["fusion"]: cell for cell in plan.cells()}
    assert cells["concat"].status == "incompatible"
    assert "concat does not serve retrieval tasks such as 'match'" in cells["concat"].reason
    assert cells["single"].status == "incompatible"

    folder = tmp_path / "cell"
    folder.mkdir()
    result = run_cell(json.loads(json.dumps(cells["dual-encoder"].payload())), folder)
    found = {
        item["name"]: item["value"]
        for item in result["metrics"]
        if item["phase"] == "evaluate" and item["split"] == "test" and item.get("condition", "clean") == "clean"
    }
    assert found["recall_at_1"] > 0.5  # chance is 0.01
    assert found["recall_at_10"] > 0.95


def test_a_group_must_be_a_number(plan, tmp_path):
    file = tmp_path / "views_plugin.py"
    file.write_text(PLUGIN.replace('{"match": number}', '{"match": float("nan")}'))
    sys.modules.pop("views_plugin", None)
    config = load_config({"dataset": ["views"], "fusion": ["dual-encoder"], "device": "cpu"})
    runtime = local_runtime(config, cache=tmp_path / "other", data=tmp_path / "data", jobs=1)
    (cell,) = [
        cell for cell in make_plan(config, load_registry([file]), runtime=runtime).cells() if cell.role == "cell"
    ]
    with pytest.raises(DataError, match="target 'match' of sample 'train-0' is NaN"):
        run_cell(cell.payload(), Path(tmp_path))


def test_ranks_are_the_same_in_however_many_chunks_they_are_counted(monkeypatch):
    rng = np.random.default_rng(3)
    vectors, groups = rng.normal(size=(40, 6)), np.arange(40) // 2
    whole = ranks(vectors, groups, 3)

    monkeypatch.setattr("mmbench.retrieval._CHUNK", 7)

    assert np.array_equal(ranks(vectors, groups, 3), whole)
    assert (whole > 1).mean() > 0.5
