"""What a model costs: throughput, latency, step and stage times, memory, energy, parameters and FLOPs, by protocol."""

from __future__ import annotations

import gc
import math
import random
import resource
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from mmbench.model import Batch, MultimodalModel
from mmbench.record import Direction, Metric

TrainStep: TypeAlias = Callable[[Batch], Any]
Raw: TypeAlias = dict[str, Any]

#: A 99th percentile of fewer samples rests on less than ten of them.
MIN_SAMPLES_P99 = 1000
#: NVML's energy counter moves every 20 to 100 ms.
MIN_ENERGY_SECONDS = 1.0


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
        max_seconds: Of any one measurement.
        stage_iterations: Training steps taken apart into stages.
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


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            Protocol(
                name="quick",
                warmup_window=3,
                warmup_spread=0.1,
                warmup_max_iterations=10,
                warmup_max_seconds=0.01,
                min_iterations=5,
                min_seconds=0.02,
                min_latency_iterations=20,
                max_seconds=1.0,
                stage_iterations=3,
            ),
            Protocol(
                name="standard",
                warmup_window=5,
                warmup_spread=0.05,
                warmup_max_iterations=100,
                warmup_max_seconds=3.0,
                min_iterations=50,
                min_seconds=1.0,
                min_latency_iterations=200,
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
                min_latency_iterations=MIN_SAMPLES_P99,
                max_seconds=120.0,
                stage_iterations=50,
            ),
        )
    }
)


@dataclass(frozen=True)
class Timing:
    """One measurement.

    Attributes:
        samples_s: Time of each iteration.
        window_s: Time of all of them, with the device idle before and after.
        energy_j: What the whole device drew meanwhile, its idle power included; None where nothing counts it.
        warmup: How many iterations warmed up, and whether they ended "steady" or at the "limit".
    """

    samples_s: tuple[float, ...]
    window_s: float
    energy_j: float | None
    warmup: tuple[int, Literal["steady", "limit"]]

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


def profile(
    model: MultimodalModel,
    batches: Mapping[Literal["train", "single"], Batch],
    step: TrainStep | None,
    device: torch.device,
    protocol: Protocol,
    *,
    contended: bool,
    autocast: torch.dtype | None = None,
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

    Returns:
        Metrics of phase "profile", and the raw samples as plain JSON data.
    """
    meter = _Meter(device, protocol)
    found = _Findings(contended)
    raw: Raw = {"protocol": protocol.name}

    def infer(batch: Batch) -> Any:
        with torch.inference_mode(), torch.autocast(device.type, autocast, enabled=autocast is not None):
            return model(batch)

    with _restored(model, device), _gc_paused():
        model.eval()
        _measure_inference(infer, batches, meter, found, raw)
        _count_flops(lambda: infer_plainly(model, batches["train"]), batches["train"].size, found)
        _measure_training(model, batches["train"], step, meter, found, raw)
        _measure_stages(model, batches["train"], step, infer, meter, found, raw)
    found.add("peak_rss_bytes", _peak_rss_bytes(), "bytes", "min", note="of the whole process, its libraries included")
    return found.metrics, raw


def infer_plainly(model: MultimodalModel, batch: Batch) -> Any:
    """A forward pass without gradients and without the fused kernels that hide their work from a FLOP counter."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_without_fused_kernels())
        return model(batch)


class _Findings:
    """Metrics as they are found."""

    def __init__(self, contended: bool) -> None:
        self.metrics: list[Metric] = []
        self.contended = contended

    def add(
        self,
        name: str,
        value: float | None,
        unit: str,
        direction: Direction = "",
        *,
        n: int | None = None,
        note: str = "",
        timed: bool = False,
    ) -> None:
        if timed and self.contended and value is not None:
            note = "; ".join(filter(None, ["contended: others computed on the device", note]))
        self.metrics.append(
            Metric(phase="profile", name=name, value=value, unit=unit, direction=direction, n=n, note=note)
        )


# Time


class _Meter:
    """Runs something as long as the protocol asks, on the host's clock or with events on the device's stream."""

    def __init__(self, device: torch.device, protocol: Protocol) -> None:
        self.device, self.protocol = device, protocol
        self.on_cuda = device.type == "cuda"
        self.energy = _EnergyCounter(device)

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

    def time(self, run: Callable[[], Any], *, min_iterations: int, each_alone: bool = False) -> Timing:
        """Warm up by the protocol's rule, then measure.

        Args:
            run: One iteration.
            min_iterations: At least so many, and at least the protocol's `min_seconds`.
            each_alone: Wait for the device after each iteration, as someone who needs the answer does.
        """
        warmup, last = self._warm_up(run)
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


def _measure_inference(
    infer: Callable[[Batch], Any],
    batches: Mapping[Literal["train", "single"], Batch],
    meter: _Meter,
    found: _Findings,
    raw: Raw,
) -> None:
    batch, single = batches["train"], batches["single"]
    with _peak_memory(meter) as peak:
        timing = meter.time(lambda: infer(batch), min_iterations=meter.protocol.min_iterations)
    raw["inference"] = {"batch_size": batch.size, **timing.to_json()}
    count = len(timing.samples_s)
    found.add(
        "throughput_samples_per_s",
        batch.size * count / timing.window_s,
        "samples/s",
        "max",
        n=count,
        note=f"inference at batch size {batch.size}",
        timed=True,
    )
    _add_memory("inference", peak, found)
    _add_energy("inference", timing, batch.size, meter, found)

    timing = meter.time(lambda: infer(single), min_iterations=meter.protocol.min_latency_iterations, each_alone=True)
    raw["latency"] = {"batch_size": single.size, **timing.to_json()}
    count = len(timing.samples_s)
    absent = [name for name, given in single.inputs.items() if given.values.shape[0] == 0]
    note = f"inference at batch size {single.size}"
    note += f", of a sample without {', '.join(absent)}" if absent else ""
    for percent in (50, 95):
        value = float(np.percentile(timing.samples_s, percent))
        found.add(f"latency_p{percent}_s", value, "s", "min", n=count, note=note, timed=True)
    if count >= MIN_SAMPLES_P99:
        found.add(
            "latency_p99_s", float(np.percentile(timing.samples_s, 99)), "s", "min", n=count, note=note, timed=True
        )
    else:
        reason = f"needs {MIN_SAMPLES_P99} samples; protocol {meter.protocol.name!r} took {count}"
        found.add("latency_p99_s", None, "s", "min", n=count, note=reason)


def _measure_training(
    model: MultimodalModel, batch: Batch, step: TrainStep | None, meter: _Meter, found: _Findings, raw: Raw
) -> None:
    parameters = list(model.parameters())
    found.add("num_parameters_registered", float(sum(item.numel() for item in parameters)), "1", "min")
    trainable = [item for item in parameters if item.requires_grad]
    found.add("num_parameters_trainable", float(sum(item.numel() for item in trainable)), "1", "min")
    if step is None:
        reason = "no training step was given"
        found.add("num_parameters_with_gradient", None, "1", note=reason)
        found.add("step_time_s", None, "s", "min", note=reason)
        _add_memory("training", reason, found)
        _add_energy("training", reason, batch.size, meter, found)
        return
    model.train()
    reached: set[int] = set()

    def note(parameter: Tensor) -> None:
        reached.add(id(parameter))

    with ExitStack() as stack:
        for item in trainable:
            handle = item.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]
            stack.callback(handle.remove)
        step(batch)
    with_gradient = sum(item.numel() for item in trainable if id(item) in reached)
    found.add("num_parameters_with_gradient", float(with_gradient), "1")
    with _peak_memory(meter) as peak:
        timing = meter.time(lambda: step(batch), min_iterations=meter.protocol.min_iterations)
    raw["step"] = {"batch_size": batch.size, **timing.to_json()}
    found.add(
        "step_time_s",
        statistics.median(timing.samples_s),
        "s",
        "min",
        n=len(timing.samples_s),
        note=f"training at batch size {batch.size}",
        timed=True,
    )
    _add_memory("training", peak, found)
    _add_energy("training", timing, batch.size, meter, found)


# Energy


class _EnergyCounter:
    """NVML's count of what a GPU has drawn since its driver was loaded.

    Attributes:
        reason: Why there is none; "" where there is.
    """

    def __init__(self, device: torch.device) -> None:
        self._handle: Any = None
        self.reason = ""
        if device.type != "cuda":
            self.reason = f"only NVML counts energy, for NVIDIA GPUs; this ran on {device.type}"
            return
        try:
            import pynvml
        except ImportError:
            self.reason = "the package nvidia-ml-py is not installed"
            return
        try:
            pynvml.nvmlInit()
            # By its identity: CUDA_VISIBLE_DEVICES renumbers devices for torch, but not for NVML.
            uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except pynvml.NVMLError as error:
            self._handle, self.reason = None, f"NVML: {error}"

    def joules(self) -> float | None:
        """Return the count now, or None."""
        if self._handle is None:
            return None
        import pynvml

        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000


def _add_energy(phase: str, timing: Timing | str, batch_size: int, meter: _Meter, found: _Findings) -> None:
    """Energy per sample, where the counter is there, the device is ours and the window spans many of its updates."""
    name = f"{phase}_energy_per_sample_j"
    if isinstance(timing, str):
        reason = timing
    elif timing.energy_j is None:
        reason = meter.energy.reason
    elif found.contended:
        reason = "others computed on the device, and the counter cannot tell them apart"
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


# Stages


class _StageClock:
    """Splits the time of a step among stages: at every moment the innermost one that was entered and not left."""

    def __init__(self, meter: _Meter) -> None:
        self._meter = meter
        self.reset()

    def reset(self) -> None:
        """Begin a step."""
        self._base = "other"
        self._stack: list[str] = []
        self._marks = [("", self._meter.mark())]

    def enter(self, stage: str) -> None:
        self._switch()
        self._stack.append(stage)

    def leave(self, base: str | None = None) -> None:
        """Leave the innermost stage; `base` is what runs from here on while no stage is entered."""
        self._switch()
        self._stack.pop()
        self._base = base or self._base

    def times(self) -> dict[str, float]:
        """End the step; return seconds by stage."""
        self._switch()
        self._meter.synchronise()
        spent: dict[str, float] = defaultdict(float)
        for (_, earlier), (stage, later) in pairwise(self._marks):
            spent[stage] += self._meter.between(earlier, later)
        return dict(spent)

    def _switch(self) -> None:
        self._marks.append((self._stack[-1] if self._stack else self._base, self._meter.mark()))


@contextmanager
def _staged(model: MultimodalModel, clock: _StageClock) -> Iterator[None]:
    """Tell the clock when encoders, the model, backward and the optimiser begin and end."""
    with ExitStack() as stack:

        def around(module: nn.Module, stage: str, then: str | None) -> None:
            stack.callback(module.register_forward_pre_hook(lambda *_: clock.enter(stage)).remove)
            stack.callback(module.register_forward_hook(lambda *_: clock.leave(then)).remove)

        around(model, "head", "objective")  # whatever the model does beside encoders and fusion: heads, pooling, masks
        around(model.fusion, "fusion", None)
        for name, encoder in zip(model.modalities, model.encoders):
            around(encoder, f"encode.{name}", None)
        stack.callback(register_optimizer_step_pre_hook(lambda *_: clock.enter("optimiser")).remove)
        stack.callback(register_optimizer_step_post_hook(lambda *_: clock.leave("other")).remove)
        backward = torch.autograd.backward

        def timed_backward(*arguments: Any, **options: Any) -> None:
            clock.enter("backward")
            backward(*arguments, **options)
            clock.leave("other")

        # Tensor.backward looks this up at every call; torch has no hook for the beginning and end of a backward pass.
        torch.autograd.backward = timed_backward
        stack.callback(setattr, torch.autograd, "backward", backward)
        yield


def _measure_stages(
    model: MultimodalModel,
    batch: Batch,
    step: TrainStep | None,
    infer: Callable[[Batch], Any],
    meter: _Meter,
    found: _Findings,
    raw: Raw,
) -> None:
    """Median time of each stage of a training step, or of a forward pass where there is no step."""
    run, what = (infer, "inference") if step is None else (step, "training")
    clock = _StageClock(meter)
    by_stage: dict[str, list[float]] = defaultdict(list)
    count = meter.protocol.stage_iterations
    with _staged(model, clock):
        for iteration in range(count + 1):
            clock.reset()
            run(batch)
            times = clock.times()
            if iteration:  # the first one warms the hooks up
                for stage, seconds in times.items():
                    by_stage[stage].append(seconds)
    raw["stages"] = {
        stage: [float(f"{sample:.6g}") for sample in samples] for stage, samples in sorted(by_stage.items())
    }
    note = f"{what} at batch size {batch.size}"
    for stage, samples in sorted(by_stage.items()):
        # A stage that some steps skip took no time in those.
        padded = samples + [0.0] * (count - len(samples))
        found.add(f"stage_time_s:{stage}", statistics.median(padded), "s", "min", n=count, note=note, timed=True)


# Memory


@contextmanager
def _peak_memory(meter: _Meter) -> Iterator[dict[str, float] | str]:
    """Fill in the most that torch had allocated and reserved meanwhile; a reason where that is not counted."""
    if not meter.on_cuda:
        yield f"torch counts memory on CUDA devices only, this ran on {meter.device.type}; see peak_rss_bytes"
        return
    # What ran before must not show: neither in the peaks nor in cached blocks that count as reserved.
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(meter.device)
    peak: dict[str, float] = {}
    yield peak
    meter.synchronise()
    peak["allocated"] = float(torch.cuda.max_memory_allocated(meter.device))
    peak["reserved"] = float(torch.cuda.max_memory_reserved(meter.device))


def _add_memory(phase: str, peak: dict[str, float] | str, found: _Findings) -> None:
    for kind in ("allocated", "reserved"):
        name = f"{phase}_peak_memory_{kind}_bytes"
        if isinstance(peak, str):
            found.add(name, None, "bytes", "min", note=peak)
        else:
            found.add(name, peak[kind], "bytes", "min")


def _peak_rss_bytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


# FLOPs

#: Operations that are neither counted nor tagged as pointwise, reduction or view, and do next to no arithmetic.
_CHEAP_NAMES = """
_adaptive_avg_pool2d _adaptive_avg_pool3d _embedding_bag _local_scalar_dense _log_softmax _native_batch_norm_legit
_native_batch_norm_legit_no_training _pack_padded_sequence _safe_softmax _softmax _to_copy _unsafe_view
adaptive_max_pool2d adaptive_max_pool3d arange avg_pool2d avg_pool3d bernoulli bernoulli_ bincount cat clone
constant_pad_nd copy_ cumprod cumsum embedding empty empty_like empty_strided eye fill_ flip full full_like gather
hann_window index index_add index_copy index_put index_put_ index_select linspace masked_fill masked_fill_
masked_scatter masked_select max_pool2d_with_indices max_pool3d_with_indices native_batch_norm native_dropout
native_group_norm native_layer_norm new_empty new_empty_strided new_full new_ones new_zeros nonzero normal_ ones
ones_like rand rand_like randint randn randn_like randperm reflection_pad1d reflection_pad2d repeat replication_pad1d
replication_pad2d resize_ roll scalar_tensor scatter scatter_ scatter_add scatter_add_ set_ slice_scatter sort
split_with_sizes_copy stack topk transpose_ tril triu unbind uniform_ unsafe_split unsqueeze_ upsample_bilinear2d
upsample_nearest1d upsample_nearest2d zero_ zeros zeros_like
"""
_CHEAP = frozenset(_CHEAP_NAMES.split())


class _Uncounted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the operations whose work the FLOP counter does not know."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        known = packet in flop_registry or func.is_view
        known = known or torch.Tag.pointwise in func.tags or torch.Tag.reduction in func.tags
        if not known and not (func.namespace in ("aten", "prim") and packet.__name__ in _CHEAP):
            self.names.add(str(packet))
        return func(*args, **(kwargs or {}))


def _count_flops(run: Callable[[], Any], batch_size: int, found: _Findings) -> None:
    uncounted, counter = _Uncounted(), FlopCounterMode(display=False)
    with uncounted, counter:
        run()
    note = "matrix products and convolutions of one forward pass, a multiply-add counted as two"
    if uncounted.names:
        note = f"lower bound: {', '.join(sorted(uncounted.names))} not counted; {note}"
    found.add("flops_per_sample", counter.get_total_flops() / batch_size, "flop", "min", note=note)


@contextmanager
def _without_fused_kernels() -> Iterator[None]:
    """Make attention and recurrent layers run as plain matrix products, which a FLOP counter knows."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    fast_path = torch.backends.mha.get_fastpath_enabled()
    onednn, cudnn = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.cudnn.enabled = False
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch.backends.cudnn.enabled = cudnn
        torch.backends.mkldnn.enabled = onednn


# Leaving no trace


@contextmanager
def _gc_paused() -> Iterator[None]:
    """Keep the garbage collector's pauses out of the percentiles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _restored(model: MultimodalModel, device: torch.device) -> Iterator[None]:
    """Put back tensors, gradients and modes of the model, every optimiser that takes a step, and the random state."""
    modes = [(module, module.training) for module in model.modules()]
    tensors = _saved([*model.parameters(), *model.buffers()])
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    optimisers: dict[int, tuple[Optimizer, dict[str, Any], list[tuple[Tensor, Tensor]]]] = {}

    def remember(optimiser: Optimizer, *_: Any) -> None:
        if id(optimiser) not in optimisers:
            held = [parameter for group in optimiser.param_groups for parameter in group["params"]]
            optimisers[id(optimiser)] = optimiser, _on_host(optimiser.state_dict()), _saved(held)

    handle = register_optimizer_step_pre_hook(remember)
    cuda = [device] if device.type == "cuda" else []
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        handle.remove()
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for optimiser, state, held in optimisers.values():
            optimiser.load_state_dict(state)
            _put_back(held)
        _put_back(tensors)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, training in modes:
            module.training = training


def _saved(tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Copies in host memory: on the device they would count as the model's."""
    return [(tensor, tensor.detach().to("cpu", copy=True)) for tensor in tensors]


def _put_back(saved: Sequence[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for tensor, copy in saved:
            tensor.copy_(copy)


def _on_host(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_host(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_host(item) for item in value)
    return value
