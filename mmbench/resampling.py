"""95 % intervals of metrics over the samples, from the influence of each; of very many classes by bootstrap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmbench.influence import influence_of
from mmbench.kept_predictions import MOST_NUMBERS
from mmbench.metric_catalog import metric_specs
from mmbench.sample_intervals import interval_over_samples
from mmbench.spec import TaskSpec
from mmbench.tallies import COUNTED, Floats, class_counts, losses

Interval: TypeAlias = tuple[float, float]

NUM_RESAMPLES = 1000
#: Counts of classes in resamples held at once.
_MOST_COUNTS = 4_000_000
_Z95 = 1.959963984540054


def intervals_of(
    task: TaskSpec, values: Floats, truth: NDArray[Any], clusters: NDArray[np.int64] | None = None
) -> Mapping[str, Interval]:
    """95 % intervals over the samples of every metric that changes smoothly with their weights.

    From the influence of each sample (`mmbench.influence`), and by a bootstrap where samples times classes are too many
    to hold. Calibration error and median rank have none.

    Args:
        task: Says which metrics there are.
        values, truth: Predictions and target.
        clusters: (N,) the number of the group of each sample; None where samples are independent.
    """
    if task.kind == "multiclass" and values.size > MOST_NUMBERS:
        return _class_intervals(task, values, truth)
    found: dict[str, Interval] = {}
    for name in metric_specs(task):
        influence = influence_of(task.kind, name, values, truth, task.num_outputs)
        bounds = None if influence is None else interval_over_samples(influence, clusters)
        if bounds is not None and np.isfinite(bounds).all():
            found[name] = bounds
    return found


def _class_intervals(task: TaskSpec, values: Floats, truth: NDArray[Any]) -> dict[str, Interval]:
    """Intervals of a multiclass task: classes are counted anew in every resample, so that no (N, K) array is needed."""
    each, chosen = losses(task, values, truth), values.argmax(axis=1)
    resampled: dict[str, list[Floats]] = {name: [] for name in ("log_loss", *COUNTED)}
    most = max(1, _MOST_COUNTS // values.shape[1])
    for drawn in _draws(len(truth), NUM_RESAMPLES):
        resampled["log_loss"].append(drawn @ each / len(truth))
        for times in np.array_split(drawn, -(-len(drawn) // most)):
            counts = class_counts(chosen, truth, values.shape[1], times)
            for name, metric in COUNTED.items():
                resampled[name].append(metric(*counts))
    intervals = {name: _percentiles(np.concatenate(parts)) for name, parts in resampled.items()}
    right = int((chosen == truth).sum())
    return {**intervals, **dict.fromkeys(("accuracy", "f1_micro"), wilson_interval(right, len(truth)))}


def wilson_interval(successes: int, n: int) -> Interval:
    """95 % score interval of a share (Wilson 1927), which stays in [0, 1] and is right for small n.

    >>> [round(bound, 4) for bound in wilson_interval(9, 10)]
    [0.5958, 0.9821]
    """
    share, z2 = successes / n, _Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Rounding would leave 4e-19 where the formula gives 0, and 1 - 1e-16 where it gives 1.
    return 0.0 if successes == 0 else centre - half, 1.0 if successes == n else centre + half


def _draws(n: int, resamples: int) -> Iterator[Floats]:
    """How often each sample is drawn in each bootstrap resample, in chunks of resamples: (some, N).

    The same for every cell, so that intervals differ by their data only.
    """
    rng = np.random.default_rng(0)
    chunk = max(1, 1_000_000 // n)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _percentiles(resampled: Floats) -> Interval:
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    return float(low), float(high)
