"""Blocks of neighbouring timings: iterations next to one another share the machine's mood and are not independent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]

#: So many groups of iterations are taken as independent.
NUM_BLOCKS = 10
#: What another process would measure differently on a quiet machine, whatever the number of iterations: where its
#: memory lies, which pages and caches it got. Measured by tests/bench/agreement.py.
BETWEEN_PROCESSES = 0.01
#: What the same processes would measure differently some minutes later: clocks and neighbours drift, and processes that
#: follow one another share their mood. Measured by tests/bench/agreement.py.
BETWEEN_RUNS = 0.01


def block_statistics(
    samples: ArrayLike, statistic: Callable[..., Any] = np.median, num_blocks: int = NUM_BLOCKS
) -> Floats:
    """Return a statistic of each of `num_blocks` runs of neighbouring samples, or the samples where they are fewer.

    Shapes: (N,) -> (at most num_blocks,).

    >>> block_statistics([1, 1, 1, 5, 5, 5], num_blocks=2).tolist()
    [1.0, 5.0]
    """
    values = np.asarray(samples, dtype=np.float64)
    if len(values) <= num_blocks:
        return values
    return np.array([statistic(block) for block in np.array_split(values, num_blocks)])


def block_interval(
    samples: ArrayLike, value: float, statistic: Callable[..., Any] = np.median
) -> tuple[float, float] | None:
    """Return the 95 % interval of a statistic of timings: within this process by blocks, and between processes.

    The half width is Student's over the blocks' statistics, joined with two times `BETWEEN_PROCESSES` of the value.

    Args:
        samples: (N,) in the order in which they were taken.
        value: The statistic of all of them.
        statistic: What `value` is, such as `numpy.median`.

    Returns:
        The bounds; None for fewer than three blocks.
    """
    from scipy.special import stdtrit

    blocks = block_statistics(samples, statistic)
    if len(blocks) < 3:
        return None
    within = float(stdtrit(len(blocks) - 1, 0.975)) * float(blocks.std(ddof=1)) / math.sqrt(len(blocks))
    half = math.hypot(within, 2 * BETWEEN_PROCESSES * value)
    return max(0.0, value - half), value + half


def process_interval(values: ArrayLike) -> tuple[float, float]:
    """Return the 95 % interval of the mean of what several processes measured, one after the other.

    The half width is Student's over processes, joined with two times `BETWEEN_RUNS` of the mean: processes that happen
    to agree say nothing of what the machine does some minutes later.

    Args:
        values: (P,), two processes or more.
    """
    from scipy.special import stdtrit

    found = np.asarray(values, dtype=np.float64)
    mean = float(found.mean())
    within = float(stdtrit(len(found) - 1, 0.975)) * float(found.std(ddof=1)) / math.sqrt(len(found))
    half = math.hypot(within, 2 * BETWEEN_RUNS * mean)
    return max(0.0, mean - half), mean + half
