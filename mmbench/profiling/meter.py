"""Runs something until it is warm, then as often as the protocol asks, and takes the time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any, Literal

import torch

from mmbench.profiling.energy import EnergyCounter
from mmbench.profiling.protocol import Protocol


@dataclass(frozen=True)
class Timing:
    """One measurement.

    Attributes:
        samples_s: Time of each iteration.
        window_s: Time of all of them, with the device idle before and after.
        energy_j: What the whole device drew meanwhile, its idle power included; None where nothing counts it.
        warmup: How many iterations warmed up, and whether they ended "steady" or at the "limit"; none where the same
            thing had just run for another measurement, "earlier".
    """

    samples_s: tuple[float, ...]
    window_s: float
    energy_j: float | None
    warmup: tuple[int, Literal["steady", "limit", "earlier"]]

    def to_json(self) -> dict[str, Any]:
        """Return the raw samples as plain JSON data."""
        count, ended = self.warmup
        return {
            "samples_s": [float(f"{sample:.6g}") for sample in self.samples_s],
            "window_s": float(f"{self.window_s:.6g}"),
            "energy_j": self.energy_j,
            "warmup_iterations": count,
            "warmup_ended": ended,
        }


class Meter:
    """Runs something as long as the protocol asks, on the host's clock or with events on the device's stream."""

    def __init__(self, device: torch.device, protocol: Protocol) -> None:
        self.device, self.protocol = device, protocol
        self.on_cuda = device.type == "cuda"
        self.energy = EnergyCounter(device)

    def synchronise(self) -> None:
        """Wait until the device has done everything it was asked."""
        if self.on_cuda:
            torch.cuda.synchronize(self.device)

    def mark(self) -> Any:
        """Note the moment at which the device gets here."""
        if not self.on_cuda:
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def between(self, earlier: Any, later: Any) -> float:
        """Seconds between two marks, once the device is idle."""
        return float(earlier.elapsed_time(later)) / 1000 if self.on_cuda else float(later - earlier)

    def time(
        self, run: Callable[[], Any], *, min_iterations: int, each_alone: bool = False, warm_s: float | None = None
    ) -> Timing:
        """Warm up by the protocol's rule, then measure.

        Args:
            run: One iteration.
            min_iterations: At least so many, and at least the protocol's `min_seconds`.
            each_alone: Wait for the device after each iteration, as someone who needs the answer does.
            warm_s: What an iteration takes, where it has just run often enough to need no warm-up.
        """
        warmup: tuple[int, Literal["steady", "limit", "earlier"]]
        warmup, last = self._warm_up(run) if warm_s is None else ((0, "earlier"), warm_s)
        protocol = self.protocol
        affordable = max(3, int(protocol.max_seconds / max(last, 1e-9)))
        min_iterations = min(min_iterations, affordable)
        samples: list[float] = []
        window = 0.0
        energy_before = self.energy.joules()
        while len(samples) < min_iterations or (window < protocol.min_seconds and len(samples) < affordable):
            # The number of rounds is fixed beforehand, so that the device never waits for the host to look at a clock.
            missing = min_iterations - len(samples), math.ceil((protocol.min_seconds - window) / max(last, 1e-9))
            count = min(max(1, *missing), affordable)
            taken = self._alone(run, count) if each_alone else self._in_a_row(run, count)
            samples += taken[0]
            window += taken[1]
            last = window / len(samples)
        energy_after = self.energy.joules()
        energy = None if energy_before is None or energy_after is None else energy_after - energy_before
        return Timing(tuple(samples), window, energy, warmup)

    def _warm_up(self, run: Callable[[], Any]) -> tuple[tuple[int, Literal["steady", "limit"]], float]:
        protocol = self.protocol
        times: list[float] = []
        began = perf_counter()
        while True:
            times += self._alone(run, 1)[0]
            recent = times[-protocol.warmup_window :]
            middle = statistics.median(recent)
            if len(recent) == protocol.warmup_window and max(recent) - min(recent) <= protocol.warmup_spread * middle:
                return (len(times), "steady"), middle
            elapsed = perf_counter() - began
            if len(times) >= protocol.warmup_max_iterations or elapsed >= protocol.warmup_max_seconds:
                return (len(times), "limit"), middle

    def _alone(self, run: Callable[[], Any], count: int) -> tuple[list[float], float]:
        samples = []
        self.synchronise()
        for _ in range(count):
            began = perf_counter()
            run()
            self.synchronise()
            samples.append(perf_counter() - began)
        return samples, math.fsum(samples)

    def _in_a_row(self, run: Callable[[], Any], count: int) -> tuple[list[float], float]:
        self.synchronise()
        began = perf_counter()
        marks = [self.mark()]
        for _ in range(count):
            run()
            marks.append(self.mark())
        self.synchronise()
        window = perf_counter() - began
        return [self.between(*pair) for pair in pairwise(marks)], window
