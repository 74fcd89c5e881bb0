"""The report's table of classes: against scikit-learn and a bootstrap, in Markdown, JSON and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from sklearn.metrics import precision_recall_fscore_support

from mmbench.record import Metric, Record
from mmbench.report import build_report, report_json
from mmbench.report.by_class import MAX_CLASSES, ClassTable
from mmbench.report.html import render_html
from mmbench.report.markdown import render_markdown
from mmbench.store import RunStore

METRICS = {"multiclass": "accuracy", "multilabel": "map"}


def write_run(
    folder: Path,
    predictions: list[np.ndarray],
    target: np.ndarray,
    kind: str = "multiclass",
    names: tuple[str, ...] = (),
) -> Path:
    """One row whose seeds said this of the test samples."""
    num_outputs = predictions[0].shape[1]
    rows, records = [], []
    with RunStore.create(folder) as store:
        for seed, prediction in enumerate(predictions):
            cell_id = f"{seed:016x}"
            rows.append(
                {"cell_id": cell_id, "dataset": "rare", "encoders": "a:mlp+b:mlp", "fusion": "concat", "seed": seed}
                | {"objective": "supervised", "role": "cell", "status": "run", "reason": ""}
            )
            place = store.cell_folder(cell_id)
            place.mkdir()
            ids = json.dumps([f"s{at}" for at in range(len(target))]).encode()
            arrays = {
                "test.label.prediction": prediction,
                "test.label.target": target,
                "test.sample_ids": np.frombuffer(ids, dtype=np.uint8),
            }
            save_file(arrays, place / "predictions.safetensors")
            about: dict[str, Any] = {"task": "label", "direction": "max", "n": len(target), "phase": "evaluate"}
            value = float((prediction.argmax(axis=1) == target).mean()) if kind == "multiclass" else 0.5
            metrics = tuple(Metric(name=METRICS[kind], value=value, split=split, **about) for split in ("val", "test"))
            records.append(Record(cell_id=cell_id, status="ok", metrics=metrics))
        task = {"name": "label", "kind": kind, "num_outputs": num_outputs, "class_names": names, "primary": ""}
        store.write_plan(rows, {"rare": {"tasks": [task], "summary": "", "ceilings": {}}})
        for record in records:
            store.journal.append(record)
    return folder


def table(folder: Path) -> ClassTable:
    found = build_report(folder).boards[0].classes
    assert found is not None
    return found


def drawn(num: int, num_classes: int, seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Three seeds' probabilities of imbalanced classes, and the truth."""
    rng = np.random.default_rng(seed)
    target = rng.choice(num_classes, size=num, p=np.array([0.8, *[0.2 / (num_classes - 1)] * (num_classes - 1)]))
    logits = [1.5 * np.eye(num_classes)[target] + rng.normal(size=(num, num_classes)) for _ in range(3)]
    return [np.exp(one) / np.exp(one).sum(axis=1, keepdims=True) for one in logits], target


def test_every_class_has_scikit_learns_precision_recall_and_f1_mean_over_seeds(tmp_path: Path) -> None:
    predictions, target = drawn(500, 4, 0)
    expected = np.mean(
        [precision_recall_fscore_support(target, one.argmax(axis=1), labels=range(4))[:3] for one in predictions],
        axis=0,
    )

    found = table(write_run(tmp_path / "r", predictions, target, names=("a", "b", "c", "d")))

    assert [item.name for item in found.classes] == ["a", "b", "c", "d"]
    assert [item.support for item in found.classes] == np.bincount(target).tolist()
    values = [[item.precision.value for item in found.classes], [item.recall.value for item in found.classes]]
    values.append([item.f1.value for item in found.classes])
    assert np.array(values, dtype=float) == pytest.approx(expected)
    for item in found.classes:
        for estimate in (item.precision, item.recall, item.f1):
            assert estimate.low is not None and estimate.value is not None and estimate.high is not None
            assert 0 <= estimate.low < estimate.value < estimate.high <= 1
    assert found.over == "seeds and samples"


def test_labels_have_the_scores_of_scikit_learn(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    target = (rng.random((300, 3)) < (0.5, 0.2, 0.05)).astype("f4")
    predictions = [np.clip(0.6 * target + 0.5 * rng.random((300, 3)), 0, 1) for _ in range(2)]
    expected = np.mean(
        [precision_recall_fscore_support(target > 0.5, one > 0.5, zero_division=0)[:3] for one in predictions], axis=0
    )

    found = table(write_run(tmp_path / "r", predictions, target, "multilabel"))

    values = [[getattr(item, name).value for item in found.classes] for name in ("precision", "recall", "f1")]
    assert np.array(values, dtype=float) == pytest.approx(expected)


def test_the_interval_of_a_class_is_as_wide_as_a_bootstrap_over_samples(tmp_path: Path) -> None:
    predictions, target = drawn(800, 3, 2)
    said = predictions[0].argmax(axis=1)
    rng = np.random.default_rng(0)
    resampled = []
    for _ in range(400):
        drawn_at = rng.integers(0, len(target), len(target))
        resampled.append(
            precision_recall_fscore_support(target[drawn_at], said[drawn_at], labels=range(3), zero_division=0)[:3]
        )
    low, high = np.percentile(np.array(resampled), (2.5, 97.5), axis=0)

    found = table(write_run(tmp_path / "r", predictions[:1], target))

    assert found.over == "samples"
    for at, item in enumerate(found.classes):
        for name, row in (("precision", 0), ("recall", 1), ("f1", 2)):
            estimate = getattr(item, name)
            assert estimate.high - estimate.low == pytest.approx(high[row, at] - low[row, at], rel=0.3)


def test_a_class_that_is_never_predicted_or_never_there_says_so(tmp_path: Path) -> None:
    target = np.array([0] * 20 + [1] * 5)
    never = np.tile([0.9, 0.1, 0.0], (25, 1))

    found = table(write_run(tmp_path / "r", [never], target))

    rare, absent = found.classes[1], found.classes[2]
    assert (rare.precision.value, rare.recall.value, rare.f1.value) == (0.0, 0.0, 0.0)
    assert rare.recall.high is not None and 0.3 < rare.recall.high < 0.7  # five samples do not show that it is 0
    assert (absent.support, absent.precision.value, absent.recall.value, absent.f1.value) == (0, None, None, None)


def test_of_many_classes_those_with_the_lowest_f1_are_shown(tmp_path: Path) -> None:
    num = MAX_CLASSES + 10
    target = np.repeat(np.arange(num), 4)
    said = target.copy()
    said[: 4 * 5] = num - 1  # the first five classes are all taken for the last

    found = table(write_run(tmp_path / "r", [np.eye(num)[said]], target))

    assert (len(found.classes), found.num_classes) == (MAX_CLASSES, num)
    assert [item.name for item in found.classes[:5]] == ["0", "1", "2", "3", "4"]
    assert found.classes[-1].name == str(num - 1)


def test_the_table_is_in_markdown_json_and_the_page(tmp_path: Path) -> None:
    predictions, target = drawn(200, 3, 3)
    folder = write_run(tmp_path / "r", predictions, target, names=("cat", "dog", "eel"))
    report = build_report(folder)
    assert report.boards[0].classes is not None
    dog = report.boards[0].classes.classes[1]

    text = render_markdown(report)

    assert "### Classes" in text
    recall = dog.recall
    assert f"| dog | {dog.support} |" in text
    assert f"{recall.value:.3f} [{recall.low:.3f}, {recall.high:.3f}]" in text
    assert report_json(report)["boards"][0]["classes"]["classes"][1]["name"] == "dog"
    page = render_html(report, folder)
    assert '"classes":{"row":0,"what":"class","numClasses":3' in page.replace(" ", "").replace("\\u0022", '"')


def test_seeds_that_kept_their_samples_in_another_order_are_aligned(tmp_path: Path) -> None:
    predictions, target = drawn(60, 3, 5)
    expected = table(write_run(tmp_path / "same", predictions, target))
    folder = write_run(tmp_path / "other", predictions, target)
    order = np.random.default_rng(0).permutation(60)
    ids = np.frombuffer(json.dumps([f"s{at}" for at in order.tolist()]).encode(), dtype=np.uint8)
    arrays = {"test.label.prediction": predictions[1][order], "test.label.target": target[order]}
    save_file({**arrays, "test.sample_ids": ids}, folder / "cells" / f"{1:016x}" / "predictions.safetensors")

    assert table(folder) == expected


def test_without_predictions_there_is_no_table(tmp_path: Path) -> None:
    predictions, target = drawn(50, 3, 4)
    folder = write_run(tmp_path / "r", predictions, target)
    for file in (folder / "cells").glob("*/predictions.safetensors"):
        file.unlink()

    assert build_report(folder).boards[0].classes is None
