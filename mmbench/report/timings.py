"""What raw timings say: medians of blocks of neighbouring iterations, their spread, and whether two differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

from mmbench.encoding import parse_json
from mmbench.record import TIMINGS_FILE
from mmbench.samples import block_statistics

Floats: TypeAlias = NDArray[np.float64]

RESAMPLES = 4000
#: Fewer processes say too little of how much they differ.
MIN_PROCESSES = 3
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
        first, second: The two times in seconds: the geometric mean of the processes' medians, or the median of the
            blocks' medians.
        low, high: 95 % interval of `value`: Welch's over processes, or by a bootstrap over one process's blocks. It
            holds `value`.
        p_value: Two-sided, of no difference: Welch's test on the logarithms of the processes' medians, or Mann and
            Whitney's on the medians of blocks.
        test: Which of the two.
    """

    first: float
    second: float
    low: float
    high: float
    p_value: float
    test: str

    @property
    def value(self) -> float:
        """The second over the first."""
        return self.second / self.first


def load_timings(cell_folder: Path) -> dict[str, Any]:
    """Return a cell's raw timings; {} where there are none that can be read."""
    try:
        data = parse_json((cell_folder / TIMINGS_FILE).read_text())
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

    With `MIN_PROCESSES` processes on either side these are the repetitions: blocks of one process share its luck, and
    two processes that run the same code differ by more than either's blocks say. With fewer, only blocks can tell.

    Args:
        first, second: By process, each (N,) in seconds.

    Returns:
        The ratio; None where one has fewer than three blocks.
    """
    if min(len(first), len(second)) >= MIN_PROCESSES:
        return _over_processes(_medians(first), _medians(second))
    one = np.concatenate([block_statistics(samples) for samples in first]) if first else np.zeros(0)
    other = np.concatenate([block_statistics(samples) for samples in second]) if second else np.zeros(0)
    if min(len(one), len(other)) < 3:
        return None
    rng = np.random.default_rng(20_240_229)
    drawn_one = np.median(rng.choice(one, (RESAMPLES, len(one))), axis=1)
    drawn_other = np.median(rng.choice(other, (RESAMPLES, len(other))), axis=1)
    before, after = float(np.median(one)), float(np.median(other))
    low, high = np.percentile(drawn_other / drawn_one, (2.5, 97.5))
    # The exact distribution is for samples without ties; scipy knows when it may be used.
    p_value = scipy.stats.mannwhitneyu(one, other, alternative="two-sided").pvalue
    return Ratio(
        first=before,
        second=after,
        # Where all blocks are equal, rounding may leave the ratio a hair outside.
        low=min(float(low), after / before),
        high=max(float(high), after / before),
        p_value=float(p_value),
        test="Mann-Whitney on blocks of raw samples",
    )


def _over_processes(one: Floats, other: Floats) -> Ratio:
    """Shapes: (P,) and (Q,), the time of each process."""
    logarithms = np.log(other), np.log(one)
    found = scipy.stats.ttest_ind(*logarithms, equal_var=False)
    interval = found.confidence_interval(0.95)
    after, before = (float(np.exp(values.mean())) for values in logarithms)
    # Of processes that all took the same time there is no variance, and Welch's interval is not a number.
    low, high = (
        float(np.exp(bound)) if np.isfinite(bound) else after / before for bound in (interval.low, interval.high)
    )
    return Ratio(
        first=before,
        second=after,
        low=min(low, after / before),
        high=max(high, after / before),
        p_value=float(found.pvalue),
        test="Welch over processes",
    )


def _medians(processes: Sequence[ArrayLike]) -> Floats:
    return np.array([np.median(np.asarray(samples)) for samples in processes], dtype=np.float64)
