"""A clock that others on the machine do not move, and turns that meet its moods alike."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence


def clock() -> tuple[str, Callable[[], float]]:
    """Wall time on a quiet machine; else the processor time of this process, which is the same for one thread on a CPU."""
    if os.getloadavg()[0] < 0.5 * (os.cpu_count() or 1):
        return "wall time", time.perf_counter
    return f"processor time (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs)", time.process_time


def cpu_seconds(function: Callable[[], object]) -> float:
    """The processor time of a call: what others do on the machine is none of it."""
    began = time.process_time()
    function()
    return time.process_time() - began


def in_turns(measures: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Call all in turn, each time another first; return what each gave, by measure."""
    found: list[list[float]] = [[] for _ in measures]
    for turn in range(rounds):
        for place in range(len(measures)):
            which = (turn + place) % len(measures)
            found[which].append(measures[which]())
    return found


def lower_quartile(times: Sequence[float]) -> float:
    """The time that a quarter of all tries stayed under: others can only add to a time, and seldom add nothing."""
    return statistics.quantiles(times, n=4)[0]
