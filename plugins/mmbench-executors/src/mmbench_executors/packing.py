"""How many cells go into one job, and which."""

from __future__ import annotations

from collections.abc import Collection, Iterable

#: What a job does before its first cell: an interpreter and torch start.
STARTUP_S = 30.0
#: The share of the walltime that packed cells should take by what finished ones took; the rest is for slower ones.
FILLED = 0.8
MAX_CELLS = 100


def pack_size(seconds: Iterable[float], walltime_s: float | None) -> int:
    """Return how many cells fit into a job, by the slow ones (of ten, the second slowest) of those that finished.

    One, as long as nothing is known of either.

    >>> pack_size([60.0, 62.0, 58.0], 3600.0)
    47
    """
    known = sorted(seconds)
    if walltime_s is None or not known:
        return 1
    slow = known[int(0.9 * (len(known) - 1))]
    return max(1, min(MAX_CELLS, int(FILLED * (walltime_s - STARTUP_S) / max(slow, 0.1))))


def share_out(
    keys: Collection[str], *, size: int, free: int, fixed: bool, first: Collection[str] = ()
) -> list[list[str]]:
    """Return packs of cells for at most `free` jobs, in order; the rest waits.

    Args:
        keys: The cells.
        size: How many fit into a job.
        free: How many jobs may be submitted.
        fixed: Whether a pack holds `size` cells if there are as many; else no cell waits in a pack while a job is free.
        first: Cells that must begin their pack.

    >>> share_out("abcde", size=4, free=2, fixed=False)
    [['a', 'b', 'c'], ['d', 'e']]
    """
    if not fixed:
        size = max(1, min(size, -(-len(keys) // free)))
    packs: list[list[str]] = []
    for key in keys:
        if not packs or len(packs[-1]) >= size or key in first:
            packs.append([])
        packs[-1].append(key)
    return packs[:free]
