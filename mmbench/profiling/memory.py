"""The most memory that something held, as torch counts it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch

from mmbench.profiling.meter import Meter

#: What a process holds of a GPU before its first tensor: the context, the kernels and the workspaces of libraries.
CONTEXT_BYTES = 2**30
#: Where the memory of a model on a CPU is to be had: the process that trains it holds libraries and data as well.
HOST_MEMORY = "`mmbench profile` measures host memory in a fresh process"


@contextmanager
def peak_memory(meter: Meter) -> Iterator[dict[str, float] | str]:
    """Fill in the most that torch had allocated and reserved meanwhile; a reason where that is not counted."""
    if not meter.on_cuda:
        yield f"torch counts memory on CUDA devices only, this ran on {meter.device.type}; {HOST_MEMORY}"
        return
    # What ran before must not show: neither in the peaks nor in cached blocks that count as reserved.
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(meter.device)
    peak: dict[str, float] = {}
    yield peak
    meter.synchronise()
    peak["allocated"] = float(torch.cuda.max_memory_allocated(meter.device))
    peak["reserved"] = float(torch.cuda.max_memory_reserved(meter.device))


def peak_reserved_bytes(device: torch.device) -> int:
    """Return the most that torch has reserved on a GPU since its peaks were reset; 0 on a CPU."""
    return int(torch.cuda.max_memory_reserved(device)) if device.type == "cuda" else 0


def cell_memory(device: torch.device, earlier_peak: int) -> dict[str, int]:
    """Return what a cell took of a GPU's memory at most, and what there would be for it if it began now.

    Args:
        device: The GPU.
        earlier_peak: What torch had reserved at most before something reset the peaks.
    """
    peak = max(earlier_peak, peak_reserved_bytes(device))
    free, _ = torch.cuda.mem_get_info(device)
    held = int(torch.cuda.memory_reserved(device))
    return {"peak_bytes": peak + CONTEXT_BYTES, "available_bytes": int(free) + held + CONTEXT_BYTES}


def allocated_peak(run: Callable[[], Any], meter: Meter) -> int:
    """Run something once; return the most bytes of tensors that it held at once, on top of what was there before."""
    if meter.on_cuda:
        meter.synchronise()
        torch.cuda.reset_peak_memory_stats(meter.device)
        before = torch.cuda.memory_allocated(meter.device)
        run()
        meter.synchronise()
        return int(torch.cuda.max_memory_allocated(meter.device) - before)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about cycles of events that are not asked for
        with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
            run()
    assert watched.profiler is not None
    events = watched.profiler.kineto_results.events()  # type: ignore[union-attr]
    return max(accumulate((event.nbytes() for event in events if event.name() == "[memory]"), initial=0))
