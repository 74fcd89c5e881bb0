"""A table of two tabular modalities with classes of 50 : 1, whose best classifiers are known."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from scipy.stats import norm

#: Frequent samples for each rare one.
RATIO = 50
#: Distance between the class means along all numbers together, in standard deviations.
DISTANCE = 3.0
_NUM = {"train": 5100, "val": 5100, "test": 10200}
_WIDTH = 2


def write_table(path: Path, seed: int = 0) -> None:
    """Write the CSV: columns a0, a1, b0, b1 (normal, means apart), `label` and `split`, with exact class counts."""
    rng = np.random.default_rng(seed)
    shift = DISTANCE / np.sqrt(2 * _WIDTH)
    with path.open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow([*(f"a{k}" for k in range(_WIDTH)), *(f"b{k}" for k in range(_WIDTH)), "label", "split"])
        for split, num in _NUM.items():
            rare = np.arange(num) % (RATIO + 1) == 0
            numbers = rng.normal(size=(num, 2 * _WIDTH)) + shift * rare[:, None]
            for row, is_rare in zip(numbers, rare):
                out.writerow([*(f"{value:.4f}" for value in row), "rare" if is_rare else "frequent", split])


def recalls(threshold: float) -> tuple[float, float]:
    """Return the recall of the frequent and of the rare class for a threshold on the projection between the means."""
    return float(norm.cdf(threshold)), float(norm.sf(threshold - DISTANCE))


def bayes(prior_ratio: float) -> tuple[float, float]:
    """Return accuracy and balanced accuracy of the classifier that is best for so many frequent samples per rare one.

    Equal variances put its threshold at d / 2 + log(ratio) / d.
    """
    frequent, rare = recalls(DISTANCE / 2 + np.log(prior_ratio) / DISTANCE)
    return (RATIO * frequent + rare) / (RATIO + 1), (frequent + rare) / 2
