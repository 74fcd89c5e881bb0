"""How long to warm up and to measure, under a name that two numbers must share to be comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

#: A percentile of fewer samples rests on less than ten of them.
MIN_SAMPLES: Mapping[int, int] = MappingProxyType({95: 200, 99: 1000})


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How long to warm up and to measure. Part of what makes two performance numbers comparable.

    Warm-up ends when the last `warmup_window` times lie within `warmup_spread` of their median, or at either limit;
    the raw data say which. A measurement takes at least `min_iterations` and at least `min_seconds`, unless that would
    take longer than `max_seconds`; it never takes fewer than three iterations.

    Attributes:
        name: As recorded in the row.
        warmup_window: Iterations that must agree.
        warmup_spread: (largest - smallest) / median.
        warmup_max_iterations, warmup_max_seconds: Where warm-up gives up waiting for agreement.
        min_iterations, min_seconds: Of throughput and of training steps.
        min_latency_iterations: Of latency at batch size 1, which also takes at least `min_seconds`.
        max_seconds: Of any one measurement, and of the steps taken apart into stages.
        stage_iterations: Training steps taken apart into stages; fewer, but one at least, where they are slow.
        watches: Whether the times of a training on the CPU are taken while it goes on, instead of after it.
    """

    name: str
    warmup_window: int
    warmup_spread: float
    warmup_max_iterations: int
    warmup_max_seconds: float
    min_iterations: int
    min_seconds: float
    min_latency_iterations: int
    max_seconds: float
    stage_iterations: int
    watches: bool = False


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            Protocol(
                name="quick",
                warmup_window=3,
                warmup_spread=0.1,
                warmup_max_iterations=10,
                warmup_max_seconds=0.005,
                min_iterations=3,
                min_seconds=0.01,
                min_latency_iterations=10,
                max_seconds=0.1,
                stage_iterations=2,
                watches=True,
            ),
            Protocol(
                name="standard",
                warmup_window=5,
                warmup_spread=0.05,
                warmup_max_iterations=100,
                warmup_max_seconds=3.0,
                min_iterations=50,
                min_seconds=1.0,
                min_latency_iterations=MIN_SAMPLES[95],
                max_seconds=30.0,
                stage_iterations=20,
            ),
            Protocol(
                name="rigorous",
                warmup_window=10,
                warmup_spread=0.03,
                warmup_max_iterations=500,
                warmup_max_seconds=10.0,
                min_iterations=200,
                min_seconds=5.0,
                min_latency_iterations=MIN_SAMPLES[99],
                max_seconds=120.0,
                stage_iterations=50,
            ),
        )
    }
)
