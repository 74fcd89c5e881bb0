"""One combo measured without training: cold start, inference, training step, stages, batch sizes, memory, peak."""

from __future__ import annotations

import dataclasses
import json
import platform
import statistics
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch

from mmbench.batches import free_bytes
from mmbench.cell import perf_facts
from mmbench.cell_subject import turn_on
from mmbench.model import Batch
from mmbench.profile_subject import Subject, SubjectFactory, host_batches, inference, moved
from mmbench.profiling import PROTOCOLS, profile
from mmbench.profiling.device import Neighbours, device_state, device_used_bytes
from mmbench.profiling.findings import Findings, mark_contended
from mmbench.profiling.flops import count_flops
from mmbench.profiling.footprint import measure_footprint
from mmbench.profiling.memory import HOST_MEMORY
from mmbench.profiling.meter import Meter
from mmbench.profiling.peak import device_peak, share_of_peak
from mmbench.profiling.restore import gc_paused, restored
from mmbench.profiling.sweep import Sweep, is_oom, sweep
from mmbench.profiling.variants import Prepared, UnsupportedError, arranged, prepare, settings
from mmbench.record import TIMINGS_FILE, Metric
from mmbench.torch_compat import FLOP_COUNTER
from mmbench.variant import at_batch_size

#: The share of free memory that the sweep of batch sizes may take where nobody says how much.
MEMORY_SHARE = 0.5
#: The figures that say what was not measured, where a variant cannot be run at all.
HEADLINES = (
    ("throughput_samples_per_s", "samples/s", "max"),
    ("latency_p50_s", "s", "min"),
    ("step_time_s", "s", "min"),
)


def profile_cell(payload: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Measure one combo, run one way.

    Args:
        payload: `ProfileCell.payload()`.
        folder: Where the raw timings go.

    Returns:
        ``{"metrics": [...], "info": {...}}``, plain JSON.
    """
    began = perf_counter()
    warnings: list[str] = []
    with turn_on(payload) as turn:
        factory = SubjectFactory(payload, warnings)
        device = factory.device
        # Whoever trains on the same GPU waits at the end of an epoch.
        with turn.alone() as alone:
            neighbours = Neighbours(device, turn.num_others() if alone else 0)
            used_before, before = device_used_bytes(device)[0], device_state(device)
            measured = _Measurement(factory)
            try:
                with settings(factory.variant, device):
                    measured.run()
            except UnsupportedError as error:
                measured.leave_out(str(error))
            measured.add_memory(used_before)
            reason = neighbours.reason()
    if payload["contended"] if alone is None else not alone:
        reason = "contended: cells ran side by side"
    metrics = mark_contended(measured.found.metrics, reason)
    metrics = [dataclasses.replace(item, condition=_condition(item, factory)) for item in metrics]
    if measured.raw:
        (folder / TIMINGS_FILE).write_text(json.dumps(measured.raw))
    return {
        "metrics": [metric.to_json() for metric in metrics],
        "info": {
            "identity": payload["identity"],
            "variant": factory.variant.to_json(),
            "round": payload["seed"],
            **perf_facts(payload, factory.train, factory.variant, measured.batch_size, device),
            "device_state": {"before": before, "after": device_state(device)},
            "device_peak": measured.peak,
            "contended": reason,
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
            "warnings": list(dict.fromkeys(warnings)),
            "times_s": {"profile": round(perf_counter() - began, 4)},
        },
    }


def _condition(metric: Metric, factory: SubjectFactory) -> str:
    """Rows of the sweep carry their batch size already."""
    base = factory.variant.condition
    size = metric.condition.partition("batch:")[2]
    return at_batch_size(base, int(size)) if size else base


class _Measurement:
    """Everything that is measured of one subject, in order; figures and raw samples pile up in here."""

    def __init__(self, factory: SubjectFactory) -> None:
        self.factory, self.payload = factory, factory.payload
        self.device, self.variant = factory.device, factory.variant
        self.protocol = PROTOCOLS[self.payload["protocol"]]
        self.meter = Meter(self.device, self.protocol)
        self.found = Findings(contended=False)  # who else computed is known at the end only
        self.raw: dict[str, Any] = {}
        self.peak: dict[str, Any] = {}
        self.device_used: tuple[float | None, str] = None, "nothing was measured"
        self.batch_size = 0
        self.only_single = ""  # why there are figures at batch size 1 only
        self.trains = False

    def run(self) -> None:
        """Build, then measure.

        Raises:
            UnsupportedError: the variant cannot be run.
        """
        subject = self.factory.build()
        prepared = prepare(subject.model, self.variant, self.device)
        prepared.model.eval()
        infer = inference(prepared, self.device)
        self._first_runs(subject, infer)
        self._profile(subject, prepared)
        # What comes after it leaves blocks in torch's cache, or empties that.
        self.device_used = device_used_bytes(self.device)
        self._data_dependence(subject, infer)
        self._stages_of_data(subject)
        self._sweep(subject, prepared, infer)
        self._share_of_peak()

    def leave_out(self, reason: str) -> None:
        """Say of the headline figures why there are none."""
        for name, unit, direction in HEADLINES:
            self.found.add(name, None, unit, direction, note=reason)  # type: ignore[arg-type]

    def add_memory(self, used_before: float | None) -> None:
        """Add what host and device held, in ways that torch's counters do not see."""
        if not self.batch_size:
            return
        if self.device.type == "cuda":
            used, reason = self.device_used
            value = used - used_before if used is not None and used_before is not None else None
            note = reason or "of the whole device: torch's cache and CUDA's context included, and whoever else is there"
            self.found.add("peak_memory_device_bytes", value, "bytes", "min", note=note)
            return
        asked = {**self.payload["profile"], "measured_batch_size": self.batch_size, "trains": self.trains}
        payload = {**self.payload, "profile": asked}
        if self.variant.compile != "none":
            measured: dict[str, float] | str = "the compiler's own memory would count as the model's"
        else:
            measured = measure_footprint("mmbench.profile_subject:footprint_build", payload)
        for name, phase in (("model", "model"), ("inference", "inference_peak"), ("training", "training_peak")):
            value, note = None, ""
            if isinstance(measured, str):
                note = measured
            elif name in measured:
                value = measured[name]
                note = f"resident, in a fresh process, libraries and inputs left out; batch size {self.batch_size}"
            else:
                note = "no training step was measured"
            self.found.add(f"{phase}_memory_rss_bytes", value, "bytes", "min", note=note)

    def _first_runs(self, subject: Subject, infer: Any) -> None:
        """Cold start, compile time, and whether a whole batch works."""
        single = arranged(subject.single(), self.variant)
        try:
            first_s = self._seconds(infer, single)
        except Exception as error:  # compilers and kernels raise what they like
            if self.variant.condition == "clean" or is_oom(error):
                raise
            raise UnsupportedError(f"{self.variant.condition}: {type(error).__name__}: {_line(error)}") from error
        self.found.add(
            "cold_start_s",
            subject.build_s + first_s,
            "s",
            "min",
            n=1,
            note=f"building the model {subject.build_s:.3g} s, first forward pass of one sample {first_s:.3g} s",
        )
        self.batch_size = subject.batch_size
        try:
            batch_s = self._seconds(infer, arranged(subject.batch(self.batch_size), self.variant))
        except Exception as error:  # whatever it is, one sample worked
            if self.batch_size == 1:
                raise
            what = "out of memory" if is_oom(error) else f"{type(error).__name__}: {_line(error)}"
            self.only_single = f"fails at batch size {self.batch_size} ({what}); measured at batch size 1"
            self.batch_size, batch_s = 1, first_s
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if self.variant.compile == "none":
            self.found.add("compile_time_s", None, "s", "min", note="not compiled")
        else:
            again = [self._seconds(infer, single) for _ in range(3)]
            value = max(0.0, first_s - statistics.median(again)) + (0.0 if self.batch_size == 1 else batch_s)
            note = (
                f"first forward passes at batch sizes 1 and {self.batch_size}; the compiler keeps what it made before"
            )
            self.found.add("compile_time_s", value, "s", "min", n=1, note=note)

    def _seconds(self, infer: Any, batch: Batch) -> float:
        self.meter.synchronise()
        began = perf_counter()
        infer(batch)
        self.meter.synchronise()
        return perf_counter() - began

    def _profile(self, subject: Subject, prepared: Prepared) -> None:
        batches: dict[Literal["train", "single"], Batch] = {
            "train": arranged(subject.batch(self.batch_size), self.variant),
            "single": arranged(subject.single(), self.variant),
        }
        untrainable = prepared.untrainable
        if not untrainable and self.batch_size == 1 < self.factory.train.batch_size:
            untrainable = self.only_single
        if not untrainable:
            untrainable = self._try_training(subject, batches["train"])
        self.trains = not untrainable
        metrics, raw = profile(
            prepared.model,
            batches,
            subject.trainer.step if self.trains else None,
            self.device,
            self.protocol,
            contended=False,
            autocast=prepared.autocast,
        )
        for item in metrics:
            if untrainable and item.note == "no training step was given":
                item = dataclasses.replace(item, note=untrainable)
            if self.only_single and item.name == "throughput_samples_per_s":
                item = dataclasses.replace(item, note=f"{self.only_single}; {item.note}")
            if self.variant.precision == "int8" and item.name.startswith(("num_parameters", "model_memory")):
                item = dataclasses.replace(item, value=None, note="packed int8 weights are no parameters")
            if not (item.value is None and HOST_MEMORY in item.note):
                self.found.metrics.append(item)
        self.raw = raw

    def _try_training(self, subject: Subject, batch: Batch) -> str:
        """Take a step and put everything back; return why it cannot be done, or ""."""
        with restored(subject.model, self.device):
            subject.model.train()
            try:
                subject.trainer.step(batch)
            except Exception as error:  # inference can still be measured
                return f"no training step works: {'out of memory' if is_oom(error) else _line(error)}"
        return ""

    def _data_dependence(self, subject: Subject, infer: Any) -> None:
        """Mark FLOPs that another batch of the same size takes more or fewer of."""
        if FLOP_COUNTER.missing():  # the record says so already
            return
        other = arranged(subject.batch(self.batch_size, first=len(subject.data) // 2), self.variant)
        counted = count_flops(lambda: infer(other)).total / self.batch_size
        for place, item in enumerate(self.found.metrics):
            if item.name == "flops_per_sample" and item.value is not None and counted != item.value:
                note = f"depends on the data: {counted:.6g} for another batch; {item.note}"
                self.found.metrics[place] = dataclasses.replace(item, note=note)

    def _stages_of_data(self, subject: Subject) -> None:
        """Time to gather a batch in host memory and to move it; they come before the step and are no part of it."""
        gather = host_batches(subject, self.batch_size)
        note = f"before the step, batch size {self.batch_size}"
        with gc_paused():
            timing = self.meter.time(gather, min_iterations=self.protocol.stage_iterations)
            self.raw["load"] = {"batch_size": self.batch_size, **timing.to_json()}
            middle = statistics.median(timing.samples_s)
            self.found.add("stage_time_s:load", middle, "s", "min", n=len(timing.samples_s), note=note, timed=True)
            if self.device.type == "cpu":
                reason = "the batch is in host memory already"
                self.found.add("stage_time_s:transfer", None, "s", "min", note=reason)
                return
            batch = gather()
            timing = self.meter.time(
                lambda: moved(batch, self.device), min_iterations=self.protocol.stage_iterations, each_alone=True
            )
        self.raw["transfer"] = {"batch_size": self.batch_size, **timing.to_json()}
        middle = statistics.median(timing.samples_s)
        self.found.add("stage_time_s:transfer", middle, "s", "min", n=len(timing.samples_s), note=note, timed=True)

    def _sweep(self, subject: Subject, prepared: Prepared, infer: Any) -> None:
        asked = self.payload["profile"]["batch_sizes"]
        if asked == "none":
            return
        limit = self.payload["profile"]["memory_limit_bytes"] or free_bytes(self.device) * MEMORY_SHARE
        prepared.model.eval()
        with gc_paused():
            done = sweep(
                infer,
                lambda size: arranged(subject.batch(size), self.variant),
                self.meter,
                limit_bytes=limit,
                sizes=None if asked == "sweep" else asked,
            )
        self._add_sweep(done)

    def _add_sweep(self, done: Sweep) -> None:
        """One row for each size under its own condition, then the best and the largest."""
        rows = Findings(contended=False)
        self.raw["sweep"] = []
        for point in done.points:
            if point.timing is None:
                continue
            count = len(point.timing.samples_s)
            self.raw["sweep"].append({"batch_size": point.batch_size, **point.timing.to_json()})
            self.found.metrics.append(
                Metric(
                    phase="profile",
                    name="throughput_samples_per_s",
                    value=point.throughput,
                    condition=at_batch_size("clean", point.batch_size),
                    unit="samples/s",
                    direction="max",
                    n=count,
                    note=f"inference; one pass allocates {point.peak_bytes / 2**20:.4g} MiB",
                )
            )
        best = done.best
        largest = done.points[-1].batch_size if done.points else None
        note = f"{done.ended}: {done.reason}"
        rows.add("largest_batch_size", None if largest is None else float(largest), "1", "max", note=note)
        if best is None or best.timing is None:
            rows.add("best_throughput_samples_per_s", None, "samples/s", "max", note=note)
        else:
            size, count = best.batch_size, len(best.timing.samples_s)
            middle = statistics.median(best.timing.samples_s)
            words = f"inference at batch size {size}"
            rows.add("best_batch_size", float(size), "1", note="of the highest throughput")
            rows.add("best_throughput_samples_per_s", best.throughput, "samples/s", "max", n=count, note=words)
            rows.add("best_batch_latency_p50_s", middle, "s", "min", n=count, note=words)
        self.found.metrics += rows.metrics

    def _share_of_peak(self) -> None:
        values = {item.name: item.value for item in self.found.metrics if item.condition == "clean"}
        throughput, flops = values.get("throughput_samples_per_s"), values.get("flops_per_sample")
        cache, threads = Path(self.payload["cache_dir"]), self.payload["threads"]
        peak = device_peak(self.device, self.variant.precision, threads, cache)
        self.peak = {"precision": self.variant.precision, "threads": threads, **dataclasses.asdict(peak)}
        if not throughput or not flops:
            reason = "no operation of this model is counted"
            self.found.add("achieved_flop_per_s", None, "flop/s", "max", note=reason)
            self.found.add("share_of_measured_peak", None, "1", "max", note=reason)
            return
        achieved = throughput * flops
        note = f"inference at batch size {self.batch_size}"
        self.found.add("achieved_flop_per_s", achieved, "flop/s", "max", note=note)
        share, words = share_of_peak(achieved, peak, self.variant)
        self.found.add("share_of_measured_peak", share, "1", "max", note=words)


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
