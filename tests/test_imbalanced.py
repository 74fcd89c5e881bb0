"""Classes of 50 : 1 whose best classifiers are known: what each remedy gains, by the metric that shows it."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from imbalanced_table import RATIO, bayes, write_table

SELECTION = [
    "-d", "rare.csv[label=label,split=split,a=a0+a1,b=b0+b1]", "-e", "mlp", "-f", "concat", "--no-baselines",
    "--seeds", "2", "--protocol", "none", "--diagnostics", "none", "--epochs", "8", "-j", "1",
]  # fmt: skip


def means(folder: Path, name: str, *flags: str) -> dict[str, dict[str, float]]:
    """Run the selection; return the mean of every metric on test by objective."""
    done = subprocess.run(
        [sys.executable, "-m", "mmbench", "run", *SELECTION, "--run", name, *flags],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = subprocess.run(
        [sys.executable, "-m", "mmbench", "export", name, "--format", "csv"],
        cwd=folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, dict[str, list[float]]] = {}
    for row in csv.DictReader(table.stdout.splitlines()):
        if row["split"] == "test" and row["phase"] == "evaluate":
            found.setdefault(row["objective"], {}).setdefault(row["metric"], []).append(float(row["value"]))
    return {name: {key: sum(all_of) / len(all_of) for key, all_of in by.items()} for name, by in found.items()}


@pytest.mark.slow
def test_balanced_accuracy_tells_the_remedies_for_rare_classes_apart_and_accuracy_prefers_none(tmp_path):
    """With the classes' means 3 standard deviations apart the best classifiers are known in closed form."""
    write_table(tmp_path / "rare.csv")
    best_accuracy, _ = bayes(RATIO)
    _, best_balanced = bayes(1)

    by_accuracy = means(tmp_path, "accuracy", "-o", "supervised", "-o", "logit-adjustment")
    plain = means(
        tmp_path, "plain", "--metric", "balanced_accuracy", "-o", "supervised", "-o", "focal", "-o", "logit-adjustment"
    )
    weighted = means(tmp_path, "weighted", "--metric", "balanced_accuracy", "--set", "class_weights=balanced")
    sampled = means(tmp_path, "sampled", "--metric", "balanced_accuracy", "--set", "sampler=balanced")

    assert by_accuracy["supervised"]["accuracy"] == pytest.approx(best_accuracy, abs=0.006)
    assert by_accuracy["supervised"]["accuracy"] > by_accuracy["logit-adjustment"]["accuracy"]
    none = plain["supervised"]["balanced_accuracy"]
    for remedy in (plain["logit-adjustment"], weighted["supervised"], sampled["supervised"]):
        assert remedy["balanced_accuracy"] > none + 0.03
        assert remedy["balanced_accuracy"] == pytest.approx(best_balanced, abs=0.04)
    # The loss of frequent, easy samples alone moves no threshold: focal loss stays near plain cross entropy.
    assert abs(plain["focal"]["balanced_accuracy"] - none) < 0.05
