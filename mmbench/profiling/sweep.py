"""Batch sizes 1, 2, 4, …: where throughput is best, and the largest batch that fits."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, TypeAlias

import torch

from mmbench.model import Batch
from mmbench.profiling.memory import allocated_peak
from mmbench.profiling.meter import Meter, Timing

Ended: TypeAlias = Literal["limit", "oom", "failed", "cap", "time", "asked"]

#: Nobody's batch; where a sweep ends that nothing else ends.
MAX_BATCH_SIZE = 65_536
#: Throughput must grow by this share in one of the next `PATIENCE` doublings, or the best is found.
MIN_GAIN = 0.02
PATIENCE = 3
#: A sweep takes the time of one of the protocol's measurements, and no less than this.
MIN_SWEEP_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Point:
    """One batch size that worked.

    Attributes:
        batch_size: B.
        timing: None where it was only tried.
        peak_bytes: The most that one forward pass allocated on the device at once, parameters and inputs left out.
    """

    batch_size: int
    timing: Timing | None
    peak_bytes: int

    @property
    def throughput(self) -> float:
        """Samples per second, by the median time of a batch; 0 where it was not timed."""
        return 0.0 if self.timing is None else self.batch_size / statistics.median(self.timing.samples_s)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All batch sizes that were tried.

    Attributes:
        points: Those that worked, from small to large.
        ended: Why there is no larger one: the memory limit, out of memory, an error, the largest that
            anybody tries, no time left, or nobody asked.
        reason: The same in words.
    """

    points: tuple[Point, ...]
    ended: Ended
    reason: str

    @property
    def best(self) -> Point | None:
        """Return the size of the highest throughput, or None where nothing worked."""
        timed = [point for point in self.points if point.timing is not None]
        return max(timed, key=lambda point: point.throughput, default=None)


def sweep(
    infer: Callable[[Batch], Any],
    batch_of: Callable[[int], Batch],
    meter: Meter,
    *,
    limit_bytes: float,
    sizes: Sequence[int] | None = None,
) -> Sweep:
    """Measure inference at one batch size after the other.

    Each size takes a quarter of the protocol's time. Once throughput grows no more, larger sizes are only tried.

    Args:
        infer: One forward pass.
        batch_of: Makes a batch of so many samples on the device.
        meter: Where and how long.
        limit_bytes: Stop before a forward pass would allocate more than this, as far as that can be foreseen.
        sizes: These sizes and no others; None doubles from 1.
    """
    protocol = dataclasses.replace(
        meter.protocol,
        min_seconds=meter.protocol.min_seconds / 4,
        min_iterations=max(3, meter.protocol.min_iterations // 5),
    )
    short = Meter(meter.device, protocol)
    allowed_s = max(MIN_SWEEP_SECONDS, protocol.max_seconds)
    began = 0.0
    points: list[Point] = []
    for size in sizes or [2**power for power in range(MAX_BATCH_SIZE.bit_length())]:
        if points and points[-1].peak_bytes * size / points[-1].batch_size > limit_bytes:
            words = f"batch size {size} would pass the limit of {limit_bytes / 2**30:.3g} GiB"
            return Sweep(points=tuple(points), ended="limit", reason=words)
        try:
            batch = batch_of(size)
            peak = allocated_peak(lambda batch=batch: infer(batch), meter)  # type: ignore[misc]
            timing = None
            if sizes or not _is_past_best(points):
                timing = short.time(lambda batch=batch: infer(batch), min_iterations=protocol.min_iterations)  # type: ignore[misc]
        except Exception as error:  # out of memory has many types, and where a size ends is the answer
            _release(meter)
            oom = is_oom(error)
            first_line = str(error).strip().partition("\n")[0]
            words = f"batch size {size}: {'out of memory' if oom else type(error).__name__}: {first_line}"
            return Sweep(points=tuple(points), ended="oom" if oom else "failed", reason=words)
        points.append(Point(batch_size=size, timing=timing, peak_bytes=peak))
        # What counts allocations starts up in the first round, which takes seconds.
        began = began or perf_counter()
        if sizes is None and perf_counter() - began > allowed_s:
            words = f"protocol {protocol.name!r} gives a sweep {allowed_s:g} s; larger sizes were not tried"
            return Sweep(points=tuple(points), ended="time", reason=words)
    if sizes:
        return Sweep(points=tuple(points), ended="asked", reason="no larger size was asked for")
    return Sweep(points=tuple(points), ended="cap", reason=f"no size above {MAX_BATCH_SIZE} is tried")


def is_oom(error: BaseException) -> bool:
    """Whether an error says that the device, or the host, has no memory left."""
    text = str(error)
    return (
        isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
        or "out of memory" in text
        or "DefaultCPUAllocator" in text
    )


def _is_past_best(points: Sequence[Point]) -> bool:
    """Whether the last sizes brought nothing, so that larger ones need no timing."""
    timed = [point.throughput for point in points if point.timing is not None]
    if len(timed) <= PATIENCE:
        return False
    return max(timed[-PATIENCE:]) < max(timed[:-PATIENCE]) * (1 + MIN_GAIN)


def _release(meter: Meter) -> None:
    if meter.on_cuda:
        torch.cuda.empty_cache()
