"""Raw timings in the JSON of pytest-benchmark, so that `pytest-benchmark compare` and its histograms read them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mmbench.profile_plan import setup_of
from mmbench.record import DONE
from mmbench.report.comparison import words_of
from mmbench.report.timings import load_timings, samples_of

if TYPE_CHECKING:
    from mmbench.store import RunStore

#: The parts of `timings.json` that are exported, and what they time.
_PARTS: Mapping[str, str] = {
    "inference": "inference of a batch",
    "latency": "inference of one sample",
    "step": "training step",
    "load": "gathering a batch",
    "transfer": "moving a batch to the device",
}
#: The version of pytest-benchmark whose format this is.
_FORMAT_VERSION = "5.0.0"


def pytest_benchmark_json(store: RunStore) -> dict[str, Any]:
    """Return a run's raw timings as pytest-benchmark writes its own: a benchmark per cell and measurement."""
    about = store.read_run()
    environment = about.get("environment", {})
    hardware = environment.get("hardware", {})
    git = environment.get("git") or {}
    return {
        "machine_info": {
            "node": "",
            "processor": hardware.get("cpu", ""),
            "machine": environment.get("system", ""),
            "python_version": environment.get("python", ""),
            "cpu": {"brand_raw": hardware.get("cpu", ""), "count": hardware.get("num_cpus")},
            "gpus": hardware.get("gpus", []),
            "packages": environment.get("packages", {}),
        },
        "commit_info": {
            "id": git.get("commit", "unknown"),
            "time": None,
            "author_time": None,
            "dirty": bool(git.get("dirty", False)),
            "project": "mmbench",
            "branch": "(unknown)",
        },
        "benchmarks": list(_benchmarks(store)),
        "datetime": about.get("started_at") or datetime.now(UTC).isoformat(timespec="seconds"),
        "version": _FORMAT_VERSION,
    }


def stats_of(samples: list[float]) -> dict[str, Any]:
    """Return pytest-benchmark's statistics of times in seconds, by its definitions.

    >>> stats_of([1.0, 2.0, 3.0, 4.0])["q1"], stats_of([1.0, 2.0, 3.0, 10.0])["median"]
    (1.5, 2.5)
    """
    ordered = sorted(samples)
    count, mean, median = len(ordered), statistics.fmean(ordered), statistics.median(ordered)
    stddev = statistics.stdev(ordered) if count > 1 else 0.0
    # Hinges: medians of the lower and the upper half, the mean of what they are with and without the middle.
    short, long = max(count // 2, 1), (count + 1) // 2
    q1 = statistics.fmean(statistics.median(ordered[:half]) for half in (short, long))
    q3 = statistics.fmean(statistics.median(ordered[-half:]) for half in (short, long))
    iqr = q3 - q1
    fence_low, fence_high = q1 - 1.5 * iqr, q3 + 1.5 * iqr
    iqr_outliers = sum(value < fence_low or value > fence_high for value in ordered)
    stddev_outliers = sum(abs(value - mean) > stddev for value in ordered)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "stddev": stddev,
        "rounds": count,
        "median": median,
        "iqr": iqr,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": iqr_outliers,
        "stddev_outliers": stddev_outliers,
        "outliers": f"{stddev_outliers};{iqr_outliers}",
        "ld15iqr": next((value for value in ordered if value >= fence_low), ordered[0]),
        "hd15iqr": next((value for value in reversed(ordered) if value <= fence_high), ordered[-1]),
        "ops": 1 / mean,
        "total": math.fsum(ordered),
        "data": samples,
        "iterations": 1,
    }


def _benchmarks(store: RunStore) -> Iterator[dict[str, Any]]:
    records = store.records()
    for row in store.planned():
        record = records.get(row["cell_id"])
        if record is None or record.status not in DONE:
            continue
        timings = load_timings(store.cell_folder(row["cell_id"]))
        combo = words_of(setup_of(row))
        for part, words in _PARTS.items():
            samples, batch_size = samples_of(timings, part)
            if not len(samples):
                continue
            name = f"{part}[{combo}, seed {row['seed']}]"
            yield {
                "group": words,
                "name": name,
                "fullname": f"mmbench::{name}",
                "params": {"combo": combo, "seed": row["seed"]},
                "param": f"{combo}, seed {row['seed']}",
                "extra_info": {
                    "batch_size": batch_size,
                    "protocol": timings.get("protocol", ""),
                    "perf_key": record.info.get("perf_key", ""),
                    "contended": record.info.get("contended", ""),
                },
                "options": {
                    "disable_gc": True,
                    "timer": "perf_counter",
                    "min_rounds": len(samples),
                    "max_time": 0.0,
                    "min_time": 0.0,
                    "warmup": True,
                },
                "stats": stats_of(samples.tolist()),
            }
