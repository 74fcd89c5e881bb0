"""What a model costs: throughput, latency, step and stage times, memory, energy, parameters and FLOPs, by protocol."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mmbench.model import Batch, MultimodalModel
from mmbench.profiling.findings import SHARED_ENERGY, Findings
from mmbench.profiling.flops import count_flops
from mmbench.profiling.memory import peak_memory
from mmbench.profiling.meter import Meter, Timing
from mmbench.profiling.protocol import MIN_SAMPLES, PROTOCOLS, Protocol
from mmbench.profiling.restore import gc_paused, restored
from mmbench.profiling.stages import StageClock, staged
from mmbench.profiling.watch import TrainingWatch
from mmbench.record import Metric
from mmbench.samples import block_interval
from mmbench.torch_compat import FLOP_COUNTER

__all__ = ["PROTOCOLS", "Protocol", "profile"]

TrainStep: TypeAlias = Callable[[Batch], Any]
Raw: TypeAlias = dict[str, Any]

#: Of the time of a watched training, what the latency after it may take; three samples are taken all the same.
LATENCY_SHARE = 0.003
#: What torch's counters of a GPU's memory are of.
_WHOLE_PROCESS = "of the whole process: data and an optimiser's state that it holds on the device included"
#: NVML's energy counter moves every 20 to 100 ms.
MIN_ENERGY_SECONDS = 1.0


def profile(
    model: MultimodalModel,
    batches: Mapping[Literal["train", "single"], Batch],
    step: TrainStep | None,
    device: torch.device,
    protocol: Protocol,
    *,
    contended: bool,
    autocast: torch.dtype | None = None,
    watch: TrainingWatch | None = None,
) -> tuple[list[Metric], Raw]:
    """Measure one trained model; leave its parameters, buffers, gradients, modes and the random state as they were.

    Of a step that uses a torch optimiser, that optimiser's state and parameters are put back too. What else a step
    keeps (a counter, a generator of its own) is the caller's.

    Args:
        model: On `device`.
        batches: "train", of the training batch size, and "single", one sample; on `device`.
        step: One full training step with this model; None leaves training unmeasured.
        device: Where to measure.
        protocol: How long.
        contended: Whether others compute on the device meanwhile; every time then says so.
        autocast: Precision of inference; None for the model's own. `step` decides for itself.
        watch: What has watched the training; only what that does not know is measured now.

    Returns:
        Metrics of phase "profile", and the raw samples as plain JSON data.
    """
    meter, found = Meter(device, protocol), Findings(contended)
    raw: Raw = {"protocol": protocol.name}

    def forward(batch: Batch) -> Any:
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            return model(batch)

    def infer(batch: Batch) -> Any:
        with torch.inference_mode():
            return forward(batch)

    with restored(model, device), gc_paused():
        model.eval()
        _measure_throughput(infer, batches["train"], meter, found, raw, watch)
        # A training that was watched has cost nothing more so far, and short ones are to stay short.
        affordable_s = protocol.max_seconds if watch is None else watch.elapsed_s() * LATENCY_SHARE
        patience = dataclasses.replace(protocol, max_seconds=min(affordable_s, protocol.max_seconds))
        _measure_latency(infer, batches["single"], Meter(device, patience), found, raw)
        _count_flops(forward, batches["train"], found)
        _count_parameters(model, found)
        if watch is not None and (timing := watch.steps()) is not None:
            found.add("num_parameters_with_gradient", float(watch.num_reached_parameters), "1")
            step_s = _measure_training(watch.batch_size, lambda: timing, meter, found, raw)
            _add_stages(watch.stages(), "training", watch.batch_size, found, raw, whole_s=step_s)
            raw.setdefault("watched", []).append("step")
        elif step is None:
            apart = _take_apart(model, partial(infer, batches["train"]), meter)
            _add_stages(apart, "inference", batches["train"].size, found, raw)
            _leave_out_training("no training step was given", batches["train"], meter, found)
        else:
            model.train()
            run = partial(step, batches["train"])
            # Where gradients arrive is seen in the step that warms up.
            apart = _take_apart(model, run, meter, first=partial(_count_reached_parameters, model, run, found))
            # The stages' steps were the warm-up, where the protocol asks for no longer one. On a GPU they were not: to
            # see its peak, torch's cache is emptied after them, and the next step asks the driver for all of it again.
            warm = not meter.on_cuda and protocol.stage_iterations >= protocol.warmup_window - 1
            warm_s = statistics.median(sum(times.values()) for times in apart) if warm else None
            take = partial(meter.time, run, min_iterations=protocol.min_iterations, warm_s=warm_s)
            step_s = _measure_training(batches["train"].size, take, meter, found, raw)
            _add_stages(apart, "training", batches["train"].size, found, raw, whole_s=step_s)
    return found.metrics, raw


def _measure_throughput(
    infer: Callable[[Batch], Any], batch: Batch, meter: Meter, found: Findings, raw: Raw, watch: TrainingWatch | None
) -> None:
    size, seen = batch.size, None if watch is None else watch.passes()
    note = ""
    if watch is not None and seen is not None:
        size, note = watch.pass_size, ", in the passes over val"
        raw.setdefault("watched", []).append("inference")
    with peak_memory(meter) as peak:
        timing = seen or meter.time(lambda: infer(batch), min_iterations=meter.protocol.min_iterations)
    raw["inference"] = {"batch_size": size, **timing.to_json()}
    count = len(timing.samples_s)
    found.add(
        "throughput_samples_per_s",
        size * count / timing.window_s,
        "samples/s",
        "max",
        n=count,
        note=f"inference at batch size {size}{note}",
        timed=True,
        interval=_reciprocal(block_interval(timing.samples_s, timing.window_s / count, np.mean), size),
    )
    _add_memory("inference", peak, found)
    _add_energy("inference", timing, size, meter, found)


def _measure_latency(infer: Callable[[Batch], Any], single: Batch, meter: Meter, found: Findings, raw: Raw) -> None:
    timing = meter.time(lambda: infer(single), min_iterations=meter.protocol.min_latency_iterations, each_alone=True)
    raw["latency"] = {"batch_size": single.size, **timing.to_json()}
    count = len(timing.samples_s)
    absent = [name for name, given in single.inputs.items() if given.values.shape[0] == 0]
    note = f"inference at batch size {single.size}"
    note += f", of a sample without {', '.join(absent)}" if absent else ""
    middle = statistics.median(timing.samples_s)
    interval = block_interval(timing.samples_s, middle)
    found.add("latency_p50_s", middle, "s", "min", n=count, note=note, timed=True, interval=interval)
    for percent, least in MIN_SAMPLES.items():
        name = f"latency_p{percent}_s"
        if count >= least:
            value = float(np.percentile(timing.samples_s, percent))
            found.add(name, value, "s", "min", n=count, note=note, timed=True)
        else:
            reason = f"needs {least} samples; protocol {meter.protocol.name!r} took {count}"
            found.add(name, None, "s", "min", n=count, note=reason)


def _reciprocal(interval: tuple[float, float] | None, amount: float) -> tuple[float, float] | None:
    """Bounds of a rate from those of the time that `amount` takes."""
    if interval is None or interval[0] <= 0:
        return None
    return amount / interval[1], amount / interval[0]


def _measure_training(size: int, take: Callable[[], Timing], meter: Meter, found: Findings, raw: Raw) -> float:
    """Add what a step takes, and return its median."""
    with peak_memory(meter) as peak:
        timing = take()
    raw["step"] = {"batch_size": size, **timing.to_json()}
    middle = statistics.median(timing.samples_s)
    found.add(
        "step_time_s",
        middle,
        "s",
        "min",
        n=len(timing.samples_s),
        note=f"training at batch size {size}",
        timed=True,
        interval=block_interval(timing.samples_s, middle),
    )
    _add_memory("training", peak, found)
    _add_energy("training", timing, size, meter, found)
    return middle


def _leave_out_training(reason: str, batch: Batch, meter: Meter, found: Findings) -> None:
    found.add("num_parameters_with_gradient", None, "1", note=reason)
    found.add("step_time_s", None, "s", "min", note=reason)
    _add_memory("training", reason, found)
    _add_energy("training", reason, batch.size, meter, found)


def _take_apart(
    model: MultimodalModel, run: Callable[[], Any], meter: Meter, *, first: Callable[[], Any] | None = None
) -> Sequence[Mapping[str, float]]:
    """Return seconds by stage of each of some runs; `first`, if given, takes the run that warms up."""
    clock = StageClock(meter)
    with staged(model, clock):
        clock.reset()
        (first or run)()
        steps = [clock.times()]
        affordable = int(meter.protocol.max_seconds / max(sum(steps[0].values()), 1e-9))
        for _ in range(min(meter.protocol.stage_iterations, affordable)):
            clock.reset()
            run()
            steps.append(clock.times())
    # The first one warms up, unless it is so slow that it has to do.
    return steps[1:] or steps


def _add_stages(
    steps: Sequence[Mapping[str, float]],
    what: Literal["training", "inference"],
    size: int,
    found: Findings,
    raw: Raw,
    *,
    whole_s: float | None = None,
) -> None:
    """Add the time of each stage, from steps that were taken apart.

    Where it is known what a whole step takes, that is the stage's median share of the steps taken apart, times this:
    those steps are few, met the machine in a mood of their own and were held up by being looked at. The raw times stay
    as they were.
    """
    stages = sorted({stage for step in steps for stage in step})
    # A stage that some steps skip took no time in those.
    times = {stage: [step.get(stage, 0.0) for step in steps] for stage in stages}
    raw["stages"] = {stage: [float(f"{value:.6g}") for value in values] for stage, values in times.items()}
    together = [max(sum(step.values()), 1e-12) for step in steps]  # a coarse clock may see no time pass
    for stage, values in times.items():
        if whole_s is None:
            middle = statistics.median(values)
        else:
            middle = whole_s * statistics.median(value / all_s for value, all_s in zip(values, together, strict=True))
        note = f"{what} at batch size {size}"
        found.add(f"stage_time_s:{stage}", middle, "s", "min", n=len(steps), note=note, timed=True)


def _count_parameters(model: MultimodalModel, found: Findings) -> None:
    parameters = list(model.parameters())
    trainable = sum(item.numel() for item in parameters if item.requires_grad)
    found.add("num_parameters_registered", float(sum(item.numel() for item in parameters)), "1", "min")
    found.add("num_parameters_trainable", float(trainable), "1", "min")
    held = sum(item.numel() * item.element_size() for item in (*parameters, *model.buffers()))
    note = "of parameters and buffers; what a pass computes, data and libraries are left out"
    found.add("model_memory_bytes", float(held), "bytes", "min", note=note)


def _count_reached_parameters(model: MultimodalModel, run: Callable[[], Any], found: Findings) -> None:
    """Take one step and see where gradients arrive: steps usually drop them before anyone can look."""
    reached: dict[int, int] = {}

    def note(parameter: Tensor) -> None:
        reached[id(parameter)] = parameter.numel()

    with ExitStack() as stack:
        for item in model.parameters():
            if item.requires_grad:
                handle = item.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]
                stack.callback(handle.remove)
        run()
    found.add("num_parameters_with_gradient", float(sum(reached.values())), "1")


def _count_flops(run: Callable[[Batch], Any], batch: Batch, found: Findings) -> None:
    if reason := FLOP_COUNTER.missing():
        found.add("flops_per_sample", None, "flop", "min", note=reason)
        return
    counted = count_flops(lambda: run(batch))
    note = f"of one forward pass at batch size {batch.size}, a multiply-add counted as two"
    if counted.uncounted:
        note = f"lower bound: {', '.join(counted.uncounted)} not counted; {note}"
    found.add("flops_per_sample", counted.total / batch.size, "flop", "min", note=note)


def _add_memory(phase: str, peak: dict[str, float] | str, found: Findings) -> None:
    for kind in ("allocated", "reserved"):
        name = f"{phase}_peak_memory_{kind}_bytes"
        if isinstance(peak, str):
            found.add(name, None, "bytes", "min", note=peak)
        else:
            found.add(name, peak[kind], "bytes", "min", note=_WHOLE_PROCESS)


def _add_energy(phase: str, timing: Timing | str, batch_size: int, meter: Meter, found: Findings) -> None:
    """Energy per sample, where the counter is there, the device is ours and the window spans many of its updates."""
    name = f"{phase}_energy_per_sample_j"
    if isinstance(timing, str):
        reason = timing
    elif timing.energy_j is None:
        reason = meter.energy.reason
    elif found.contended:
        reason = SHARED_ENERGY
    elif timing.window_s < MIN_ENERGY_SECONDS:
        reason = (
            f"needs a window of {MIN_ENERGY_SECONDS:g} s; protocol {meter.protocol.name!r} took {timing.window_s:.2g} s"
        )
    else:
        count = len(timing.samples_s)
        note = "of the whole device, idle power included"
        found.add(name, timing.energy_j / (batch_size * count), "J", "min", n=count, note=note)
        return
    found.add(name, None, "J", "min", note=reason)
