"""What a device can do at most: a large matrix product in each number format and a large copy, measured once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from mmbench.cache import ArrayCache
from mmbench.parts import digest
from mmbench.profiling.device import hardware_name
from mmbench.variant import Precision, Variant

#: Bumped when the figures would come out otherwise.
PEAK_VERSION = 1
#: Rows of the square matrices, and bytes of the copy.
MATMUL_ROWS = {"cpu": 1024, "cuda": 8192}
COPY_BYTES = {"cpu": 2**27, "cuda": 2**30}
#: The best of so many, within so many seconds: a busy machine can only be slower than it is.
MAX_REPEATS, MAX_SECONDS = 20, 2.0
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class DevicePeak:
    """What was measured.

    Attributes:
        flop_per_s: Of a square matrix product, a multiply-add counted as two; None where the format has none.
        copy_bytes_per_s: Bytes read plus bytes written by a copy within the device's memory.
    """

    flop_per_s: float | None
    copy_bytes_per_s: float


def device_peak(device: torch.device, precision: Precision, threads: int, cache: Path) -> DevicePeak:
    """Return the peak of a device in a number format; measured where the cache does not know it.

    The caller sets TF32 as the precision wants it. The answer holds for this hardware, torch and number of threads.
    """
    key = digest([PEAK_VERSION, hardware_name(device), torch.__version__, threads, precision])

    def make() -> dict[str, Any]:
        found = asdict(_measure(device, precision))
        return {"peak": np.frombuffer(json.dumps(found).encode(), dtype=np.uint8)}

    entry = ArrayCache(cache).get_or_make(f"device-peak/{key[:16]}", make)
    return DevicePeak(**json.loads(entry["peak"].tobytes()))


def _measure(device: torch.device, precision: Precision) -> DevicePeak:
    kind = "cuda" if device.type == "cuda" else "cpu"
    flop_per_s = None
    if precision in _DTYPES:
        rows = MATMUL_ROWS[kind]
        one = torch.randn(rows, rows, device=device).to(_DTYPES[precision])
        other = torch.randn(rows, rows, device=device).to(_DTYPES[precision])
        out = torch.empty_like(one)
        flop_per_s = 2 * rows**3 / _best_s(lambda: torch.mm(one, other, out=out), device)
    source = torch.ones(COPY_BYTES[kind], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return DevicePeak(flop_per_s, 2 * source.nbytes / _best_s(lambda: target.copy_(source), device))


def _best_s(run: Callable[[], Any], device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    wait()
    best, until = float("inf"), perf_counter() + MAX_SECONDS
    for _ in range(MAX_REPEATS):
        began = perf_counter()
        run()
        wait()
        best = min(best, perf_counter() - began)
        if perf_counter() > until:
            break
    return best


def share_of_peak(flop_per_s: float, peak: DevicePeak, variant: Variant) -> tuple[float | None, str]:
    """Return achieved over peak, and what that means or why it is not known."""
    if peak.flop_per_s is None:
        return None, f"no peak of {variant.precision} matrix products was measured"
    if flop_per_s > peak.flop_per_s:
        return None, f"faster than torch's own large {variant.precision} matrix product here, which is no peak then"
    measured = f"of {peak.flop_per_s / 1e9:.4g} GFLOP/s, which a large {variant.precision} matrix product reaches"
    return flop_per_s / peak.flop_per_s, measured
