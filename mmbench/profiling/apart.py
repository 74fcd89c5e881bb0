"""What a frozen encoder costs by itself, and what a cell costs that reads its stored features: the sum of both."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from mmbench.model import Batch
from mmbench.profiling.flops import count_flops
from mmbench.profiling.meter import Meter
from mmbench.profiling.protocol import MIN_SAMPLES
from mmbench.record import Metric
from mmbench.torch_compat import FLOP_COUNTER

_LATENCIES: Mapping[str, int] = {f"latency_p{percent}_s": percent for percent in (50, *MIN_SAMPLES)}


@dataclass(frozen=True, kw_only=True)
class EncoderCost:
    """A frozen encoder measured apart.

    Attributes:
        batch_size: Of `batch_s`.
        batch_s: Median time of a forward pass over a training batch.
        window_s: Mean time of one in an uninterrupted row of them; throughput follows from it.
        latency_s: Times of single samples.
        flops_per_sample: A multiply-add counted as two; None where this version of torch cannot count them.
        uncounted: Operations that may do more arithmetic and were counted as none.
        num_parameters: All of them.
    """

    batch_size: int
    batch_s: float
    window_s: float
    latency_s: tuple[float, ...]
    flops_per_sample: float | None
    uncounted: tuple[str, ...]
    num_parameters: int

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EncoderCost:
        """Read what `to_json` wrote."""
        return cls(**{**data, "latency_s": tuple(data["latency_s"]), "uncounted": tuple(data["uncounted"])})


def measure_encoder(
    encode: Callable[[Batch], Any],
    encoder: nn.Module,
    batches: Mapping[Literal["train", "single"], Batch],
    meter: Meter,
) -> EncoderCost:
    """Measure an encoder in evaluation mode.

    Args:
        encode: Runs the encoder over a batch.
        encoder: For its parameters.
        batches: "train", of the training batch size, and "single", one sample.
        meter: Where and how long.
    """
    with torch.inference_mode():
        batch = batches["train"]
        timing = meter.time(lambda: encode(batch), min_iterations=meter.protocol.min_iterations)
        alone = meter.time(
            lambda: encode(batches["single"]), min_iterations=meter.protocol.min_latency_iterations, each_alone=True
        )
    counted = None if FLOP_COUNTER.missing() else count_flops(lambda: encode(batch))
    return EncoderCost(
        batch_size=batch.size,
        batch_s=statistics.median(timing.samples_s),
        window_s=timing.window_s / len(timing.samples_s),
        latency_s=alone.samples_s,
        flops_per_sample=None if counted is None else counted.total / batch.size,
        uncounted=() if counted is None else counted.uncounted,
        num_parameters=sum(parameter.numel() for parameter in encoder.parameters()),
    )


def add_encoders(metrics: list[Metric], costs: Mapping[str, EncoderCost]) -> list[Metric]:
    """Add frozen encoders to the profile of a model that reads their stored features.

    One stage follows the other, so times, operations and parameters add up; percentiles of a sum are at most the sum
    of percentiles. Memory and energy do not add up and become null with that reason.

    Args:
        metrics: Of phase "profile", from `mmbench.profiling.profile`.
        costs: By modality.
    """
    return [_with_encoders(metric, costs) for metric in metrics]


def _with_encoders(metric: Metric, costs: Mapping[str, EncoderCost]) -> Metric:
    name, value = metric.name, metric.value
    names = ", ".join(costs)
    added = f"frozen encoders of {names} measured once, apart, and added"
    if "_peak_memory_" in name or "_energy_" in name or name == "model_memory_bytes":
        reason = f"the frozen encoders of {names} ran apart from this cell; this does not add up"
        return dataclasses.replace(metric, value=None, note=reason)
    for modality, cost in costs.items():
        if name == f"stage_time_s:encode.{modality}":
            return dataclasses.replace(metric, value=cost.batch_s, note=_joined("measured once, apart", metric.note))
    if value is None:
        return metric
    if name == "throughput_samples_per_s":
        # Per sample: the cell's own part may have been timed at another batch size.
        value = 1 / (1 / value + sum(cost.window_s / cost.batch_size for cost in costs.values()))
        size = next(iter(costs.values())).batch_size
        added = f"frozen encoders of {names} measured once, apart, at batch size {size}, and added"
    elif name in _LATENCIES:
        if min(len(cost.latency_s) for cost in costs.values()) < MIN_SAMPLES.get(_LATENCIES[name], 0):
            return dataclasses.replace(metric, value=None, note=f"the frozen encoders of {names} took fewer samples")
        value += sum(float(np.percentile(cost.latency_s, _LATENCIES[name])) for cost in costs.values())
        added += "" if name == "latency_p50_s" else ": an upper bound"
    elif name == "step_time_s":
        value += sum(cost.batch_s for cost in costs.values())
    elif name == "flops_per_sample":
        flops = [cost.flops_per_sample for cost in costs.values() if cost.flops_per_sample is not None]
        if len(flops) < len(costs):
            note = f"the FLOPs of the frozen encoders of {names} were not counted: their version of torch cannot"
            return dataclasses.replace(metric, value=None, note=note)
        value += sum(flops)
        uncounted = sorted({name for cost in costs.values() for name in cost.uncounted})
        added = f"lower bound: {', '.join(uncounted)} not counted; {added}" if uncounted else added
    elif name == "num_parameters_registered":
        value += sum(cost.num_parameters for cost in costs.values())
    else:
        return metric
    note = _joined(added, metric.note)
    return dataclasses.replace(metric, value=value, ci_low=None, ci_high=None, note=note)


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
