"""The warning before training that accuracy ranks imbalanced classes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mmbench.imbalance import is_imbalanced


def plan(folder, *flags, frequent=900, rare=100):
    labels = ["frequent"] * frequent + ["rare"] * rare
    lines = [f"{label},{row % 7},{row % 5}" for row, label in enumerate(labels)]
    (folder / "rare.csv").write_text("label,a0,b0\n" + "\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mmbench", "plan", "-d", "rare.csv[a=a0,b=b0]", "-f", "concat", "-e", "mlp"]
    return subprocess.run([*command, *flags], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_a_plan_names_the_majority_share_and_the_metric_to_take(tmp_path):
    warning = (
        "warning: rare: 'frequent' has 90% of the training samples of 'label', and accuracy ranks the rows; --metric"
    )

    assert warning in " ".join(plan(tmp_path).split())
    assert any(warning in note for note in json.loads(plan(tmp_path, "--json"))["notes"])


def test_nothing_is_said_where_another_metric_ranks_or_classes_are_balanced(tmp_path):
    assert "accuracy ranks" not in plan(tmp_path, "--metric", "balanced_accuracy")
    assert "accuracy ranks" not in plan(tmp_path, frequent=50, rare=50)


@pytest.mark.parametrize(
    ("share", "num_classes", "expected"), [(0.6, 2, False), (0.61, 2, True), (0.2, 10, False), (0.21, 10, True)]
)
def test_a_class_is_too_frequent_from_twice_its_even_share_or_three_fifths_on(share, num_classes, expected):
    assert is_imbalanced(share, num_classes) is expected
