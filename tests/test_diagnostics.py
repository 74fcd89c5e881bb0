"""Diagnostics against their definitions: Shapley by orders, EMAP by the paper's loops, calibration by scikit-learn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mmbench.batches import SplitData, some_of
from mmbench.columns import Column
from mmbench.diagnostics import Subject, diagnose
from mmbench.diagnostics.calibration import confusion, errors, reliability
from mmbench.diagnostics.emap import additive_projection, gap_interval, num_samples
from mmbench.diagnostics.encoded import absent, average, filled_with, join, take
from mmbench.diagnostics.shapley import shapley_shares
from mmbench.diagnostics.subsets import condition, proper_subsets
from mmbench.evaluate import metrics
from mmbench.features import Features
from mmbench.model import MultimodalModel
from mmbench.spec import TaskSpec

LABEL = TaskSpec(name="label", kind="multiclass", num_outputs=3)


class Bias(nn.Module):
    """Gives the input back: a feature of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_dim = 1

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        return values


class Joined(nn.Module):
    """Three numbers from the features: by a formula, so that tests can repeat it."""

    def __init__(self, formula) -> None:
        super().__init__()
        self.fused_dim = 3
        self.formula = formula

    def forward(self, features: dict[str, Features]) -> Tensor:
        return self.formula({name: given.tensor[:, 0] for name, given in features.items()})


def model_of(formula, names=("a", "b")):
    model = MultimodalModel({name: Bias() for name in names}, dict.fromkeys(names, "vector"), Joined(formula), [LABEL])
    with torch.no_grad():
        model.heads[0].weight.copy_(torch.eye(3))
        model.heads[0].bias.zero_()
    return model.eval()


def interacting(x):
    values = list(x.values())
    product = values[0] * values[1]
    return torch.stack([product, torch.sin(sum(values)), values[0] - 2 * values[-1] + product.cos()], dim=1)


def additive(x):
    values = list(x.values())
    return torch.stack([sum(values), sum(value.sin() for value in values), values[0].exp() - values[-1]], dim=1)


def features_of(arrays):
    return {name: Features(torch.tensor(values, dtype=torch.float32)[:, None]) for name, values in arrays.items()}


# Shapley


@given(st.integers(1, 5), st.data())
def test_shapley_shares_are_the_mean_gain_over_all_orders(count, data):
    names = [f"m{at}" for at in range(count)]
    subsets = [frozenset(s) for size in range(count + 1) for s in itertools.combinations(names, size)]
    score = {subset: data.draw(st.floats(-1, 1)) for subset in subsets}

    shares = shapley_shares(score, names)

    for name in names:
        gains = [
            score[frozenset(order[: order.index(name) + 1])] - score[frozenset(order[: order.index(name)])]
            for order in itertools.permutations(names)
        ]
        assert shares[name] == pytest.approx(sum(gains) / len(gains), abs=1e-12)
    assert sum(shares.values()) == pytest.approx(score[frozenset(names)] - score[frozenset()], abs=1e-12)


def test_shapley_shares_of_a_known_game():
    # Two gloves: a and b are left, c is right; a pair is worth 1 (the textbook's example).
    worth = {frozenset(s): float("c" in s and len(s) > 1) for n in range(4) for s in itertools.combinations("abc", n)}

    assert shapley_shares(worth, "abc") == pytest.approx({"a": 1 / 6, "b": 1 / 6, "c": 4 / 6})


# Subsets


def test_subsets_are_named_by_what_was_dropped_or_what_is_left():
    names = ["audio", "image", "text"]

    assert [condition(subset, names) for subset in proper_subsets(names)] == [
        "only:audio", "only:image", "only:text", "drop:text", "drop:image", "drop:audio",
    ]  # fmt: skip
    assert [condition(subset, names[:2]) for subset in proper_subsets(names[:2])] == ["drop:image", "drop:audio"]
    assert len(proper_subsets("abcde")) == 30
    assert {len(subset) for subset in proper_subsets("abcdefg")} == {1, 6}


# EMAP


def test_emap_of_two_modalities_is_the_paper_s_double_loop():
    rng = np.random.default_rng(0)
    arrays = {"a": rng.normal(size=7), "b": rng.normal(size=7)}
    model = model_of(interacting)

    found = additive_projection(model, features_of(arrays))["label"].numpy()

    a, b = (torch.tensor(arrays[name], dtype=torch.float32) for name in "ab")
    for i in range(7):
        first, second, all_pairs = np.zeros(3), np.zeros(3), np.zeros(3)
        for j in range(7):
            first += interacting({"a": a[i : i + 1], "b": b[j : j + 1]})[0].numpy() / 7
            second += interacting({"a": a[j : j + 1], "b": b[i : i + 1]})[0].numpy() / 7
            for k in range(7):
                all_pairs += interacting({"a": a[j : j + 1], "b": b[k : k + 1]})[0].numpy() / 49
        assert found[i] == pytest.approx(first + second - all_pairs, abs=1e-5)


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d")])
def test_emap_leaves_an_additive_model_as_it_is(names):
    rng = np.random.default_rng(1)
    features = features_of({name: rng.normal(size=40) for name in names})
    model = model_of(additive, names)

    found = additive_projection(model, features)["label"]

    assert torch.allclose(found.float(), model.fuse(features).logits["label"], atol=1e-4)


def test_emap_of_three_modalities_takes_the_interaction_away():
    rng = np.random.default_rng(2)
    features = features_of({name: rng.choice([-1.0, 1.0], size=200) for name in "abc"})
    parity = model_of(lambda x: torch.stack([x["a"] * x["b"] * x["c"], x["a"], x["b"]], dim=1), tuple("abc"))

    found = additive_projection(parity, features)["label"]

    # By independence the projection of the product is about 0; three standard errors of a mean of 200 signs are 0.21.
    assert float(found[:, 0].abs().max()) < 0.5
    assert float(found[:, 0].std()) < 0.25
    assert torch.allclose(found[:, 1].float(), features["a"].tensor[:, 0], atol=1e-5)


def test_every_fusion_is_projected_on_the_same_number_of_samples():
    features = features_of({"a": np.zeros(1), "b": np.zeros(1)})
    wide = features_of({"a": np.zeros((1, 5_000_000)), "b": np.zeros(1)})

    assert num_samples(features, 10_000, "quick") == 40
    assert num_samples(features, 30, "quick") == 30
    assert num_samples(features, 3000, "full") == 400
    assert num_samples(wide, 3000, "full") == 19  # what can be kept


def test_the_interval_of_the_gap_is_agresti_and_mins_for_right_and_wrong():
    # 43 samples, one of which only the model gets right: as published, half a pair more in each of four cells.
    low, high = gap_interval(np.array([1.0] + [0.0] * 42))

    n, b, c = 45.0, 1.5, 0.5
    mean, error = (b - c) / n, math.sqrt((b + c) - (b - c) ** 2 / n) / n
    assert (low, high) == pytest.approx((mean - 1.959964 * error, mean + 1.959964 * error))
    assert low < 0 < 1 / 43 < high
    assert gap_interval(np.zeros(43))[1] > 0.02  # models that answer alike may differ on other samples


@pytest.mark.parametrize(("n", "right", "wrong"), [(64, 0.0, 0.0), (64, 0.05, 0.05), (64, 0.3, 0.05), (400, 0.1, 0.02)])
def test_the_interval_of_the_gap_holds_the_true_gap(n, right, wrong):
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        low, high = gap_interval(rng.choice([1.0, -1.0, 0.0], n, p=[right, wrong, 1 - right - wrong]))
        held += low <= right - wrong <= high

    assert held >= 0.93 * 400


def test_the_interval_of_a_gap_in_errors_is_students():
    differences = np.random.default_rng(0).normal(0.2, 1.0, 64)

    found = gap_interval(differences)

    interval = scipy.stats.ttest_1samp(differences, 0).confidence_interval()
    assert found == pytest.approx((interval.low, interval.high))


def test_samples_are_chosen_at_random_and_always_the_same():
    assert some_of(5, 3) == [0, 1, 2]
    chosen = some_of(100, 400)
    assert chosen == sorted(set(chosen)) == some_of(100, 400)
    assert np.bincount(np.array(chosen) % 4).min() > 10


# Features


def test_joined_sequences_keep_their_tokens_and_mask_the_rest():
    one = Features(torch.ones(2, 3, 4), torch.tensor([[True, True, True], [True, False, False]]))
    two = Features(2 * torch.ones(1, 1, 4))

    joined = join([one, two])

    assert joined.tensor.shape == (3, 3, 4)
    assert joined.token_mask.tolist() == [[True] * 3, [True, False, False], [True, False, False]]
    assert take(joined, torch.tensor([2])).to_vector().tensor.tolist() == [[2.0] * 4]


def test_the_mean_of_sequences_is_as_long_as_half_of_them():
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    values = torch.arange(9.0).reshape(3, 3, 1)

    mean = average([{"text": Features(values, mask)}])["text"]

    assert mean.tensor.tolist() == [[[3.0], [2.5]]]
    assert mean.token_mask.tolist() == [[True, True]]


def test_the_mean_is_over_samples_that_have_the_modality():
    batches = [{"a": Features(torch.tensor([[2.0], [9.0]]), torch.tensor([True, False]))}]
    batches += [{"a": Features(torch.tensor([[4.0]]))}]

    fill = filled_with(average(batches))

    filled = fill("a", Features(torch.zeros(5, 1)))
    assert filled.tensor.tolist() == [[3.0]] * 5
    assert filled.present.tolist() == [True] * 5


@pytest.mark.parametrize(
    "features",
    [Features(torch.ones(2, 3)), Features(torch.ones(2, 4, 3)), Features((torch.ones(2, 4, 3), torch.ones(2, 2, 5)))],
)
def test_an_absent_modality_is_zeros_that_nobody_has(features):
    gone = absent("a", features)

    assert gone.layout == features.layout
    assert gone.present.tolist() == [False, False]
    assert join([gone, gone]).present.tolist() == [False] * 4


# Calibration


def test_reliability_bins_give_the_expected_calibration_error():
    rng = np.random.default_rng(3)
    probability = rng.dirichlet(np.ones(3), size=500)
    target = rng.integers(0, 3, 500)

    bins = errors(LABEL, probability, target)["reliability"]

    error = sum(count * abs(mean - share) for count, mean, share in bins) / 500
    recorded = {item.name: item.value for item in metrics(LABEL, probability, target, split="test")}
    assert error == pytest.approx(recorded["calibration_error"], abs=1e-4)
    assert sum(count for count, _, _ in bins) == 500


def test_reliability_is_scikit_learn_s_calibration_curve():
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(4)
    probability = rng.random(400)
    right = (rng.random(400) < probability).astype(int)

    bins = [item for item in reliability(probability, right) if item[0]]

    share, mean = calibration_curve(right, probability, n_bins=15)
    assert [item[1] for item in bins] == pytest.approx(mean, abs=1e-5)
    assert [item[2] for item in bins] == pytest.approx(share, abs=1e-5)
    assert reliability(np.array([1.0]), np.array([1]))[-1] == [1, 1.0, 1.0]


def test_the_confusion_matrix_is_scikit_learn_s():
    from sklearn.metrics import confusion_matrix

    rng = np.random.default_rng(5)
    chosen, target = rng.integers(0, 4, 100), rng.integers(0, 4, 100)

    assert confusion(chosen, target, 4) == confusion_matrix(target, chosen).tolist()


def test_large_confusion_matrices_are_not_kept():
    task = TaskSpec(name="label", kind="multiclass", num_outputs=51)

    assert set(errors(task, np.eye(51), np.arange(51))) == {"reliability"}
    assert errors(TaskSpec(name="x", kind="regression", num_outputs=1), np.zeros((2, 1)), np.zeros((2, 1))) == {}


# The whole


def split_of(arrays, target):
    columns = {
        name: Column(values=values.astype(np.float32)[:, None], offsets=None, present=np.ones(len(values), dtype=bool))
        for name, values in arrays.items()
    }
    return SplitData(columns, {"label": target}, torch.device("cpu"))


def xor_subject(*, takes_missing=True):
    """A model that computes exclusive or exactly: class 0 for equal signs, class 1 for different ones."""
    a, b = np.tile([-1.0, -1.0, 1.0, 1.0], 50), np.tile([-1.0, 1.0, -1.0, 1.0], 50)
    target = (a * b < 0).astype(np.int64)
    model = model_of(lambda x: torch.stack([x["a"] * x["b"], -x["a"] * x["b"], -9 + 0 * x["a"]], dim=1))
    data = dict.fromkeys(("train", "val", "test"), split_of({"a": a, "b": b}, target))
    clean = torch.softmax(model(data["test"].batch(torch.arange(200))).logits["label"], dim=1).detach().numpy()
    return Subject(model, data, [LABEL], {"label": None}, {"label": clean}, takes_missing=takes_missing)


@pytest.mark.parametrize("takes_missing", [True, False])
@pytest.mark.parametrize("depth", ["quick", "full"])
def test_a_model_of_exclusive_or_is_all_synergy(takes_missing, depth):
    findings = diagnose(xor_subject(takes_missing=takes_missing), depth)

    found = {(item.name, item.condition): item for item in findings.metrics}
    # Without one modality both classes are equally probable, and the first of two equal ones is chosen.
    assert found["accuracy", "drop:a"].value == found["accuracy", "drop:b"].value == 0.5
    assert found["shapley:a", "clean"].value == found["shapley:b", "clean"].value == 0.25
    if depth == "full":
        assert found["emap_gap", "clean"].value == found["accuracy", "emap"].value == 0.5
    else:
        # Of an unbalanced choice a sum of two terms gets at most three of the four corners right.
        assert found["emap_gap", "clean"].value == pytest.approx(1 - found["accuracy", "emap"].value)
        assert found["accuracy", "emap"].value < 0.85
    assert found["accuracy", "emap"].n == (40 if depth == "quick" else 200)
    assert ("mean features" in found["accuracy", "drop:a"].note) is not takes_missing
    assert {item.phase for item in findings.metrics if item.condition == "clean"} == {"diagnose"}
    assert findings.info["errors"]["label"]["confusion"] == [[100, 0, 0], [0, 100, 0], [0, 0, 0]]


def test_nothing_is_computed_when_nothing_is_asked():
    findings = diagnose(xor_subject(), "none")

    assert findings.metrics == []
    assert findings.info == {}


def test_a_model_that_is_not_finite_without_a_modality_says_so_and_keeps_its_cell():
    subject = xor_subject()
    subject.model.fusion.formula = lambda x: torch.stack([x["a"] / x["b"]] * 3, dim=1)

    findings = diagnose(subject, "quick")

    found = {(item.name, item.condition): item for item in findings.metrics}
    assert (found["accuracy", "drop:b"].value, found["accuracy", "drop:b"].note) == (
        None,
        "the predictions are not finite",
    )
    assert found["shapley:a", "clean"].value is None
    assert "not finite" in found["shapley:a", "clean"].note
    assert math.isfinite(found["accuracy", "emap"].value)
