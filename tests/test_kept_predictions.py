"""Predictions of many classes: kept small, and every score over samples is as from the whole array."""

import numpy as np
import pytest
import sklearn.metrics as sk

from mmbench import kept_predictions
from mmbench.evaluate import metrics
from mmbench.kept_predictions import TopProbabilities, kept_arrays, load_predictions, save_predictions
from mmbench.report.predictions import sample_scores
from mmbench.spec import TaskSpec
from mmbench.tallies import class_counts, decisions, one_against_rest


def probabilities(seed, n=60, num_classes=200, levels=0):
    """Rows that sum to 1; with `levels`, many equal values."""
    rng = np.random.default_rng(seed)
    values = rng.random((n, num_classes)) ** 6 + 1e-6
    values = np.ceil(values * levels) if levels else values
    return (values / values.sum(axis=1, keepdims=True)).astype(np.float32), rng.integers(0, num_classes, n)


def kept(folder, monkeypatch, values, target, split="test", kind="multiclass"):
    monkeypatch.setattr(kept_predictions, "MOST_NUMBERS", 100)
    task = TaskSpec(name="label", kind=kind, num_outputs=values.shape[1])
    ids = [f"s{row}" for row in range(len(values))]
    save_predictions(kept_arrays(split, {"label": values}, {"label": target}, ids), folder, [task])
    return load_predictions(folder, "label", split)


@pytest.mark.parametrize("levels", [0, 3, 1])
@pytest.mark.parametrize("metric", ["accuracy", "f1_micro", "log_loss"])
def test_scores_of_samples_are_those_of_the_whole_array(tmp_path, monkeypatch, levels, metric):
    values, target = probabilities(0, levels=levels)

    found = kept(tmp_path, monkeypatch, values, target)
    assert isinstance(found.prediction, TopProbabilities)
    np.testing.assert_array_equal(
        sample_scores(found.prediction, found.target, "multiclass", metric),
        sample_scores(np.asarray(values, dtype=np.float64), target.astype(np.float64), "multiclass", metric),
    )


def test_as_an_array_the_rest_is_shared_and_rows_sum_to_one(tmp_path, monkeypatch):
    values, target = probabilities(1)

    found = kept(tmp_path, monkeypatch, values, target).prediction
    dense = np.asarray(found)
    assert dense.shape == found.shape == (60, 200)
    np.testing.assert_allclose(dense.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(dense.argmax(axis=1), values.argmax(axis=1))
    np.testing.assert_array_equal(dense[np.arange(60), target], values[np.arange(60), target])
    largest = np.sort(values, axis=1)[:, -64:]
    np.testing.assert_array_equal(np.sort(dense, axis=1)[:, -64:], largest)


def test_the_file_holds_the_top_classes_only(tmp_path, monkeypatch):
    values, target = probabilities(2, n=100, num_classes=5_000)

    kept(tmp_path, monkeypatch, values, target)
    assert (tmp_path / "predictions.safetensors").stat().st_size < 100 * 64 * 8 + 5_000 < values.nbytes / 20


@pytest.mark.parametrize(("split", "kind"), [("train", "multiclass"), ("test", "multilabel")])
def test_what_others_learn_from_and_labels_are_kept_whole(tmp_path, monkeypatch, split, kind):
    values, target = probabilities(3)
    if kind == "multilabel":
        target = (values > 0.01).astype(np.float32)

    found = kept(tmp_path, monkeypatch, values, target, split, kind)
    np.testing.assert_array_equal(found.prediction, values)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("num_classes", "levels"), [(7, 0), (7, 2), (600, 0), (600, 3)])
def test_ranking_of_each_class_equals_scikit_learns(seed, num_classes, levels):
    values, target = probabilities(seed, num_classes=num_classes, levels=levels)

    areas, precisions = one_against_rest(values.astype(np.float64), target)
    for number in range(num_classes):
        if number not in target:
            assert np.isnan(areas[number])
            assert np.isnan(precisions[number])
        elif (target != number).any():
            assert areas[number] == pytest.approx(sk.roc_auc_score(target == number, values[:, number]), abs=1e-12)
            expected = sk.average_precision_score(target == number, values[:, number])
            assert precisions[number] == pytest.approx(expected, abs=1e-12)


def test_counts_of_classes_are_the_sums_of_decisions_also_over_resamples():
    values, target = probabilities(5, num_classes=9)
    task = TaskSpec(name="label", kind="multiclass", num_outputs=9)
    times = np.random.default_rng(0).integers(0, 4, (6, len(target))).astype(np.float64)

    found = class_counts(values.argmax(axis=1), target, 9, times)
    for counts, columns in zip(found, decisions(task, values, target)):
        np.testing.assert_array_equal(counts, times @ columns.astype(np.float64))


def test_metrics_of_hundreds_of_classes_equal_scikit_learns():
    values, target = probabilities(6, n=500, num_classes=300)
    chosen, present = values.argmax(axis=1), np.unique(target)
    macro = {"labels": present, "average": "macro", "zero_division": 0}
    task = TaskSpec(name="label", kind="multiclass", num_outputs=300)

    found = {item.name: item for item in metrics(task, values, target, split="test", confidence=True)}
    assert found["f1_macro"].value == pytest.approx(sk.f1_score(target, chosen, **macro), abs=1e-12)
    assert found["precision_macro"].value == pytest.approx(sk.precision_score(target, chosen, **macro), abs=1e-12)
    one_hot = np.eye(300)[target][:, present]
    assert found["auroc"].value == pytest.approx(sk.roc_auc_score(one_hot, values[:, present]), abs=1e-12)
    assert found["map"].value == pytest.approx(sk.average_precision_score(one_hot, values[:, present]), abs=1e-12)
    assert found["f1_macro"].ci_low <= found["f1_macro"].value
