"""Every metric against scikit-learn, scipy or plain loops, and the cases in which a metric does not exist."""

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmbench.errors import Diverged
from mmbench.evaluate import metrics, primary_value
from mmbench.metric_catalog import METRICS
from mmbench.resampling import wilson_interval
from mmbench.spec import TaskSpec
from mmbench.tallies import losses
from mmbench.tasks import majority_predictions

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("one_thread")]


def task(kind, num_outputs, primary=""):
    return TaskSpec(name="task", kind=kind, num_outputs=num_outputs, primary=primary)


def values(task, preds, target, **options):
    return {item.name: item.value for item in metrics(task, preds, target, split="test", **options)}


def notes(task, preds, target):
    return {item.name: item.note for item in metrics(task, preds, target, split="test")}


def classes_and_probabilities(seed, n=200, num_classes=5, num_present=None, sharpness=2.0):
    """Predictions somewhat better than chance; only the first `num_present` classes occur in the target."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, num_present or num_classes, n)
    logits = rng.normal(size=(n, num_classes)) * sharpness + 1.5 * np.eye(num_classes)[target]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), target


def labels_and_probabilities(seed, n=200, num_labels=4, share=0.3):
    rng = np.random.default_rng(seed)
    target = (rng.random((n, num_labels)) < share).astype(np.float32)
    return (1 / (1 + np.exp(-rng.normal(size=target.shape) - target))).astype(np.float32), target


def expected_calibration_error(confidence, right, num_bins=15):
    """As Guo et al. 2017 write it: sum over bins of share x |accuracy - confidence|, in plain loops."""
    error = 0.0
    for low in range(num_bins):
        inside = [i for i, value in enumerate(confidence) if low / num_bins < value <= (low + 1) / num_bins]
        if inside:
            gap = sum(right[i] for i in inside) / len(inside) - sum(confidence[i] for i in inside) / len(inside)
            error += len(inside) / len(confidence) * abs(gap)
    return error


# Multiclass


@pytest.mark.parametrize("num_present", [5, 3])
@pytest.mark.parametrize("seed", range(4))
def test_multiclass_metrics_equal_scikit_learns_over_the_classes_in_the_target(seed, num_present):
    preds, target = classes_and_probabilities(seed, num_present=num_present)
    chosen, present = preds.argmax(axis=1), np.unique(target)
    one_hot = np.eye(5)[target]
    macro = {"labels": present, "average": "macro", "zero_division": 0}

    found = values(task("multiclass", 5), preds, target)

    assert found == pytest.approx(
        {
            "accuracy": sk.accuracy_score(target, chosen),
            "balanced_accuracy": sk.recall_score(target, chosen, **macro),
            "precision_macro": sk.precision_score(target, chosen, **macro),
            "recall_macro": sk.recall_score(target, chosen, **macro),
            "f1_macro": sk.f1_score(target, chosen, **macro),
            "f1_micro": sk.f1_score(target, chosen, average="micro"),
            "auroc": np.mean([sk.roc_auc_score(one_hot[:, k], preds[:, k]) for k in present]),
            "map": np.mean([sk.average_precision_score(one_hot[:, k], preds[:, k]) for k in present]),
            "log_loss": -np.log(preds[np.arange(len(target)), target]).mean(),
            "calibration_error": expected_calibration_error(preds.max(axis=1), chosen == target),
        },
        rel=2e-6,
    )


def test_with_every_class_present_the_means_are_scikit_learns_own():
    preds, target = classes_and_probabilities(7)
    preds = preds.astype(np.float64)
    preds /= preds.sum(axis=1, keepdims=True)

    found = values(task("multiclass", 5), preds, target)

    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(target, preds.argmax(axis=1)))
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(target, preds, multi_class="ovr"), rel=1e-6)
    assert found["log_loss"] == pytest.approx(sk.log_loss(target, preds), rel=1e-6)


def test_metrics_come_in_declared_order_with_unit_and_direction():
    preds, target = classes_and_probabilities(0)

    found = metrics(task("multiclass", 5), preds, target, split="val", condition="drop:audio")

    assert [item.name for item in found] == [spec.name for spec in METRICS["multiclass"]]
    loss = next(item for item in found if item.name == "log_loss")
    assert (loss.phase, loss.split, loss.condition, loss.task) == ("evaluate", "val", "drop:audio", "task")
    assert (loss.unit, loss.direction, loss.n, loss.ci_low) == ("nat", "min", 200, None)


def test_a_mean_over_fewer_classes_says_so():
    preds, target = classes_and_probabilities(0, num_present=3)

    said = notes(task("multiclass", 5), preds, target)

    assert said["f1_macro"] == "mean over 3 of 5 classes: the others are not in the target"
    assert said["auroc"] == "mean over 3 of 5 classes: the others are all positive or all negative"
    assert said["accuracy"] == ""


def test_one_class_only_leaves_auroc_null_with_the_reason():
    preds, target = classes_and_probabilities(0, num_present=1)

    found = values(task("multiclass", 5), preds, target)

    assert found["auroc"] is None
    assert notes(task("multiclass", 5), preds, target)["auroc"] == "no class has both positive and negative samples"
    assert found["map"] == pytest.approx(1.0)


def test_a_constant_prediction_has_chance_auroc_and_says_which_classes_are_never_predicted():
    target = np.array([0, 0, 0, 1, 2, 2])
    floor = majority_predictions(task("multiclass", 3), target, 6)

    found = values(task("multiclass", 3), floor, target)

    assert found["accuracy"] == 0.5
    assert found["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["precision_macro"] == pytest.approx(0.5 / 3)
    assert found["auroc"] == 0.5
    assert found["map"] == pytest.approx((3 / 6 + 1 / 6 + 2 / 6) / 3)
    assert found["calibration_error"] == pytest.approx(0.0, abs=1e-7)
    assert "2 classes never predicted, counted as 0" in notes(task("multiclass", 3), floor, target)["precision_macro"]


def test_one_sample_is_enough_for_what_needs_no_second():
    found = values(task("multiclass", 3), np.array([[0.2, 0.7, 0.1]]), np.array([1]), confidence=True)

    assert found["accuracy"] == 1.0
    assert found["log_loss"] == pytest.approx(-math.log(0.7))
    assert found["calibration_error"] == pytest.approx(0.3)
    assert found["auroc"] is None


def test_certain_predictions_share_the_last_bin_with_nearly_certain_ones():
    preds = np.array([[1.0, 0.0], [1.0, 0.0], [0.95, 0.05], [0.95, 0.05]])

    found = values(task("multiclass", 2), preds, np.array([0, 1, 0, 0]))

    assert found["calibration_error"] == pytest.approx(abs(0.75 - 0.975))


def test_a_certain_mistake_costs_a_finite_log_loss():
    found = values(task("multiclass", 2), np.array([[1.0, 0.0]], dtype=np.float32), np.array([1]))

    assert found["log_loss"] == pytest.approx(-math.log(np.finfo(np.float32).eps))


def test_many_equal_scores_count_as_ties_in_auroc_and_average_precision():
    rng = np.random.default_rng(3)
    preds = rng.integers(1, 4, (300, 3)).astype(np.float64)
    preds /= preds.sum(axis=1, keepdims=True)
    target = rng.integers(0, 3, 300)

    found = values(task("multiclass", 3), preds, target)

    assert found["auroc"] == pytest.approx(sk.roc_auc_score(target, preds, multi_class="ovr"), rel=1e-6)
    assert found["map"] == pytest.approx(sk.average_precision_score(np.eye(3)[target], preds), rel=1e-6)


# Multilabel


@pytest.mark.parametrize("seed", range(4))
def test_multilabel_metrics_equal_scikit_learns(seed):
    preds, target = labels_and_probabilities(seed)
    chosen = preds > 0.5

    found = values(task("multilabel", 4), preds, target)

    assert found == pytest.approx(
        {
            "map": sk.average_precision_score(target, preds, average="macro"),
            "exact_match": sk.accuracy_score(target, chosen),
            "precision_macro": sk.precision_score(target, chosen, average="macro"),
            "recall_macro": sk.recall_score(target, chosen, average="macro"),
            "f1_macro": sk.f1_score(target, chosen, average="macro"),
            "f1_micro": sk.f1_score(target, chosen, average="micro"),
            "auroc": sk.roc_auc_score(target, preds, average="macro"),
            "log_loss": np.mean([sk.log_loss(target[:, k], preds[:, k].astype(np.float64)) for k in range(4)]),
            "calibration_error": expected_calibration_error(preds.ravel(), target.ravel()),
        },
        rel=2e-6,
    )


def test_a_label_without_positives_is_left_out_of_every_mean_and_named():
    preds, target = labels_and_probabilities(1)
    target[:, 2] = 0
    kept = [0, 1, 3]

    found = values(task("multilabel", 4), preds, target)

    assert found["map"] == pytest.approx(sk.average_precision_score(target[:, kept], preds[:, kept]), rel=1e-6)
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(target[:, kept], preds[:, kept]), rel=1e-6)
    assert found["f1_macro"] == pytest.approx(sk.f1_score(target[:, kept], preds[:, kept] > 0.5, average="macro"))
    assert (
        notes(task("multilabel", 4), preds, target)["map"]
        == "mean over 3 of 4 labels: the others are not in the target"
    )


def test_no_positive_label_at_all_leaves_the_means_null():
    found = metrics(task("multilabel", 2), np.full((3, 2), 0.2), np.zeros((3, 2)), split="test")

    undefined = {item.name: item.note for item in found if item.value is None}
    assert undefined == {
        "map": "no label is positive in the target",
        "precision_macro": "no label is positive in the target",
        "recall_macro": "no label is positive in the target",
        "f1_macro": "no label is positive in the target",
        "f1_micro": "no label is positive in the target",
        "auroc": "no label has both positive and negative samples",
    }


def test_a_single_label_works():
    preds, target = labels_and_probabilities(0, num_labels=1)

    found = values(task("multilabel", 1), preds, target, confidence=True)

    assert found["map"] == pytest.approx(sk.average_precision_score(target, preds), rel=1e-6)
    assert found["f1_macro"] == pytest.approx(sk.f1_score(target, preds > 0.5))


# Regression


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_regression_metrics_equal_scikit_learns_and_scipys(num_outputs, offset):
    rng = np.random.default_rng(5)
    target = rng.normal(offset, 2, (100, num_outputs)).astype(np.float32).round(1)
    preds = (target + rng.normal(0, 1.5, target.shape)).astype(np.float32)

    found = values(task("regression", num_outputs), preds, target)

    pairs = [(preds[:, k].astype(float), target[:, k].astype(float)) for k in range(num_outputs)]
    assert found == pytest.approx(
        {
            "mae": sk.mean_absolute_error(target, preds),
            "rmse": sk.root_mean_squared_error(target.astype(float), preds.astype(float)),
            "pearson": np.mean([scipy.stats.pearsonr(*pair).statistic for pair in pairs]),
            "spearman": np.mean([scipy.stats.spearmanr(*pair).statistic for pair in pairs]),
            "r2": sk.r2_score(target.astype(float), preds.astype(float)),
        },
        rel=1e-6,
    )


def test_correlations_and_r2_of_large_numbers_lose_nothing():
    rng = np.random.default_rng(6)
    small = rng.normal(0, 10.5, (200, 1))
    preds = small + rng.normal(0, 5.0, small.shape)

    found = values(task("regression", 1), 1.7e9 + preds, 1.7e9 + small)

    assert found["r2"] == pytest.approx(sk.r2_score(small, preds), abs=1e-6)
    assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(small[:, 0], preds[:, 0]).statistic, abs=1e-6)
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(small[:, 0], preds[:, 0]).statistic, abs=1e-6)


def test_predictions_that_vary_by_rounding_alone_have_no_correlation():
    target = 1.7e9 + 10.0 * np.arange(50.0)[:, None]
    rounding = np.random.default_rng(0).choice([0.0, np.finfo(np.float32).eps], (50, 1))

    found = notes(task("regression", 1), target.mean() + target.std() * rounding, target)

    assert found["pearson"] == "the predictions do not vary"


def test_a_constant_prediction_has_no_correlation_and_says_why():
    target = np.arange(5.0)[:, None]
    found = metrics(task("regression", 1), np.full((5, 1), 2.0), target, split="test", confidence=True)

    by_name = {item.name: item for item in found}
    assert by_name["pearson"].value is None
    assert by_name["pearson"].note == by_name["spearman"].note == "the predictions do not vary"
    assert by_name["pearson"].ci_low is None
    assert by_name["mae"].value == pytest.approx(1.2)
    assert by_name["r2"].value == pytest.approx(0.0)


def test_a_constant_target_has_neither_correlation_nor_r2():
    found = notes(task("regression", 1), np.arange(4.0)[:, None], np.full((4, 1), 3.0))

    assert found["pearson"] == found["spearman"] == found["r2"] == "the target does not vary"


def test_one_constant_output_of_two_is_left_out_and_named():
    target = np.stack([np.arange(6.0), np.ones(6)], axis=1)
    preds = np.random.default_rng(0).normal(size=(6, 2))

    found = values(task("regression", 2), preds, target)

    assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(preds[:, 0], target[:, 0]).statistic)
    assert notes(task("regression", 2), preds, target)["r2"] == "mean over 1 of 2 outputs: the others do not vary"


def test_one_sample_has_an_error_but_no_correlation():
    found = values(task("regression", 1), np.array([[2.0]]), np.array([[5.0]]))

    assert found == {"mae": 3.0, "rmse": 3.0, "pearson": None, "spearman": None, "r2": None}


# The primary metric alone


@pytest.mark.parametrize("kind", [kind for kind in METRICS if kind != "retrieval"])  # test_retrieval.py
@given(data=st.data())
def test_the_primary_value_equals_the_full_computation(kind, data):
    n = data.draw(st.integers(1, 30))
    num_outputs = data.draw(st.integers(2, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    if kind == "regression":
        preds, target = rng.normal(size=(2, n, num_outputs)).round(1)
    else:
        preds = rng.integers(1, 5, (n, num_outputs)).astype(np.float64)
        preds /= preds.sum(axis=1, keepdims=True)
        target = rng.integers(0, num_outputs, n) if kind == "multiclass" else rng.integers(0, 2, (n, num_outputs))

    for spec in METRICS[kind]:
        chosen = task(kind, num_outputs, primary=spec.name)
        expected = values(chosen, preds, target)[spec.name]
        found = primary_value(chosen, torch.from_numpy(preds), torch.from_numpy(target))
        assert found == pytest.approx(math.nan if expected is None else expected, rel=1e-6, abs=1e-9, nan_ok=True)


# Losses per sample


def test_losses_per_sample_have_the_log_loss_as_their_mean():
    preds, target = classes_and_probabilities(0)
    kind = task("multiclass", 5)

    assert losses(kind, preds, target).shape == (200,)
    assert losses(kind, preds, target).mean() == pytest.approx(values(kind, preds, target)["log_loss"])
    assert losses(kind, preds, target)[3] == pytest.approx(-math.log(preds[3, target[3]]))


def test_multilabel_losses_are_means_over_labels():
    found = losses(task("multilabel", 2), np.array([[0.9, 0.2]]), np.array([[1, 0]]))

    assert found == pytest.approx([-(math.log(0.9) + math.log(0.8)) / 2])


def test_regression_losses_are_squared_errors():
    assert losses(task("regression", 2), np.array([[1.0, 2.0]]), np.array([[0.0, 4.0]])).tolist() == [2.5]


# Intervals


@pytest.mark.parametrize("n", [1, 10, 500])
def test_the_interval_of_accuracy_is_scipys_wilson_interval(n):
    for right in {0, 1, n // 3, n - 1, n}:
        expected = scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
        assert wilson_interval(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_interval_of_a_mean_is_near_scipys_bca_bootstrap():
    """Both allow for the skewness of absolute errors."""
    preds, target = np.random.default_rng(0).normal(size=(2, 80, 1))
    errors = np.abs(preds - target)[:, 0]

    mae = metrics(task("regression", 1), preds, target, split="test", confidence=True)[0]

    expected = scipy.stats.bootstrap((errors,), np.mean, method="BCa", n_resamples=20_000, rng=1)
    spread = errors.std() / math.sqrt(80)
    assert mae.ci_low == pytest.approx(expected.confidence_interval.low, abs=0.15 * spread)
    assert mae.ci_high == pytest.approx(expected.confidence_interval.high, abs=0.2 * spread)


@pytest.mark.parametrize(
    ("kind", "name", "oracle"),
    [
        ("multiclass", "f1_macro", lambda t, p: sk.f1_score(t, p.argmax(axis=1), average="macro")),
        ("multiclass", "map", lambda t, p: sk.average_precision_score(np.eye(5)[t], p)),
        ("multilabel", "map", sk.average_precision_score),
        ("multilabel", "f1_micro", lambda t, p: sk.f1_score(t, p > 0.5, average="micro")),
        ("regression", "pearson", lambda t, p: scipy.stats.pearsonr(t[:, 0], p[:, 0]).statistic),
        ("regression", "r2", sk.r2_score),
        ("regression", "rmse", sk.root_mean_squared_error),
    ],
)
def test_intervals_of_other_metrics_are_near_those_of_a_bootstrap_in_a_plain_loop(kind, name, oracle):
    rng = np.random.default_rng(0)
    if kind == "multiclass":
        preds, target = classes_and_probabilities(0, n=120)
    elif kind == "multilabel":
        preds, target = labels_and_probabilities(0, n=120)
    else:
        target = rng.normal(100, 1, (120, 1))
        preds = target + rng.normal(size=(120, 1))
    chosen = task(kind, preds.shape[1], primary=name)

    found = next(m for m in metrics(chosen, preds, target, split="test", confidence=True) if m.name == name)

    resampled = []
    for _ in range(600):
        drawn = rng.integers(0, 120, 120)
        resampled.append(oracle(target[drawn], preds[drawn]))
    low, high = np.percentile(resampled, (2.5, 97.5))
    if name == "map":  # a small sample's average precision is too high, and a resample's once more
        excess = np.mean(resampled) - found.value
        low, high = low - 2 * excess, high - 2 * excess
    assert found.ci_low == pytest.approx(low, abs=0.2 * (high - low))
    assert found.ci_high == pytest.approx(high, abs=0.2 * (high - low))
    assert found.ci_low < found.value < found.ci_high


def test_intervals_repeat_exactly():
    preds, target = classes_and_probabilities(0)
    kind = task("multiclass", 5)

    first = metrics(kind, preds, target, split="test", confidence=True)

    assert first == metrics(kind, preds, target, split="test", confidence=True)


# What is refused


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [kind for kind in METRICS if kind != "retrieval"])  # test_retrieval.py
def test_a_prediction_that_is_not_finite_has_diverged(kind, bad):
    preds = np.full((4, 2), 0.5)
    preds[2, 1] = bad
    target = np.zeros(4, dtype=np.int64) if kind == "multiclass" else np.zeros((4, 2))

    with pytest.raises(Diverged, match="1 of 4 predictions of task 'task' are not finite"):
        metrics(task(kind, 2), preds, target, split="val")
    with pytest.raises(Diverged):
        primary_value(task(kind, 2), preds, target)


@pytest.mark.parametrize(
    ("preds", "target", "message"),
    [
        (np.zeros((3, 2)), np.zeros(4, dtype=int), "needs predictions"),
        (np.zeros((0, 2)), np.zeros(0, dtype=int), "N > 0"),
        (np.zeros((3, 3)), np.zeros(3, dtype=int), r"\(N, 2\)"),
        (np.full((3, 2), 1.5), np.zeros(3, dtype=int), "must be probabilities"),
        (np.full((3, 2), 0.5), np.array([0, 1, 2]), "whole numbers from 0 to 1"),
        (np.full((3, 2), 0.5), np.array([0, 1, -1]), "whole numbers from 0 to 1"),
    ],
)
def test_impossible_input_is_refused(preds, target, message):
    with pytest.raises(ValueError, match=message):
        metrics(task("multiclass", 2), preds, target, split="test")


def test_rounding_just_above_one_is_still_a_probability():
    preds = np.array([[1.0000001, 0.0], [0.3, 0.7]], dtype=np.float32)

    assert values(task("multiclass", 2), preds, np.array([0, 1]))["accuracy"] == 1.0
