"""What raw timings say: medians of blocks of neighbouring iterations, their spread, and whether two differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from mmbench.record import TIMINGS_FILE
from mmbench.samples import block_statistics

Floats: TypeAlias = NDArray[np.float64]

RESAMPLES = 4000
#: The parts of `timings.json` that are compared, and the metric that each belongs to.
SOURCES: Mapping[str, str] = {
    "throughput_samples_per_s": "inference",
    "latency_p50_s": "latency",
    "step_time_s": "step",
}


@dataclass(frozen=True)
class Ratio:
    """How two times compare.

    Attributes:
        value: Median of the second over median of the first.
        low, high: 95 % interval, by a bootstrap over blocks.
        p_value: Two-sided, of no difference: Mann and Whitney's test on the medians of blocks.
    """

    value: float
    low: float
    high: float
    p_value: float


def load_timings(cell_folder: Path) -> dict[str, Any]:
    """Return a cell's raw timings; {} where there are none that can be read."""
    try:
        data = json.loads((cell_folder / TIMINGS_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def samples_of(timings: Mapping[str, Any], source: str) -> tuple[Floats, int]:
    """Return the times in seconds of one measurement and its batch size; no times where there is none.

    Shapes: -> (N,).
    """
    part = timings.get(source)
    try:
        samples = np.asarray(part["samples_s"], dtype=np.float64)  # type: ignore[index]
        batch_size = int(part["batch_size"])  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        return np.zeros(0), 0
    usable = samples.ndim == 1 and bool(np.isfinite(samples).all()) and bool((samples > 0).all())
    return (samples, batch_size) if usable else (np.zeros(0), 0)


def compare_times(first: Sequence[ArrayLike], second: Sequence[ArrayLike]) -> Ratio | None:
    """Compare two setups' times.

    Args:
        first, second: By round, each (N,) in seconds.

    Returns:
        The ratio; None where one has fewer than three blocks.
    """
    one = np.concatenate([block_statistics(samples) for samples in first]) if first else np.zeros(0)
    other = np.concatenate([block_statistics(samples) for samples in second]) if second else np.zeros(0)
    if min(len(one), len(other)) < 3:
        return None
    rng = np.random.default_rng(20_240_229)
    drawn_one = np.median(rng.choice(one, (RESAMPLES, len(one))), axis=1)
    drawn_other = np.median(rng.choice(other, (RESAMPLES, len(other))), axis=1)
    low, high = np.percentile(drawn_other / drawn_one, (2.5, 97.5))
    # The exact distribution is for samples without ties; scipy knows when it may be used.
    p_value = scipy.stats.mannwhitneyu(one, other, alternative="two-sided").pvalue
    return Ratio(float(np.median(other) / np.median(one)), float(low), float(high), float(p_value))
