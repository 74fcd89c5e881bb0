"""What `mmbench profile` is made of: batch sizes, variants, memory apart, the device's state, its lock, keys and plans."""

import dataclasses
import fcntl
import json
import math
import sys
import types

import numpy as np
import pytest
import scipy.stats
import torch
from profile_cases import DIGIT, Encoder
from torch import nn

from mmbench import device_lock
from mmbench import profile_cell as profile_cell_module
from mmbench.cell import perf_facts
from mmbench.config import TrainConfig, load_config
from mmbench.device_turn import DeviceTurn
from mmbench.errors import UsageError
from mmbench.model import Batch, Input, MultimodalModel
from mmbench.parts import perf_key
from mmbench.plan import local_runtime, make_plan
from mmbench.profile_plan import ProfileOptions, profile_cells, read_batch_sizes
from mmbench.profiling import PROTOCOLS, device, memory, profile
from mmbench.profiling.findings import mark_contended
from mmbench.profiling.footprint import measure_footprint
from mmbench.profiling.memory import allocated_peak
from mmbench.profiling.meter import Meter
from mmbench.profiling.peak import DevicePeak, device_peak, share_of_peak
from mmbench.profiling.sweep import sweep
from mmbench.profiling.variants import UnsupportedError, arranged, convolves_in_tf32, prepare, settings
from mmbench.record import Metric
from mmbench.registry import load_registry
from mmbench.samples import block_interval, block_statistics
from mmbench.variant import MEASURING_VERSION, Variant, variants

CPU = torch.device("cpu")
QUICK = PROTOCOLS["quick"]
BRIEF = dataclasses.replace(QUICK, min_iterations=3, min_latency_iterations=3, min_seconds=0.0, stage_iterations=1)
MIB = 2**20


pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.serial]


class Only(nn.Module):
    fused_dim = 8

    def forward(self, features):
        return next(iter(features.values())).tensor


def build(network):
    return MultimodalModel({"image": Encoder(network)}, {"image": "vector"}, Only(), [DIGIT])


def batch_of(size, shape=(8,)):
    return Batch(size, {"image": Input(torch.randn(size, *shape))}, {"digit": torch.zeros(size, dtype=torch.int64)})


# Batch sizes


def swept(clock, seconds_of, *, limit_bytes=math.inf, sizes=None, bytes_of=lambda size: 4 * size):
    """Sweep over a model whose time and memory are functions of the batch size."""

    def infer(batch):
        clock.now += seconds_of(batch)
        torch.empty(max(bytes_of(batch) // 4, 1))

    return sweep(infer, lambda size: size, Meter(CPU, BRIEF), limit_bytes=limit_bytes, sizes=sizes)


def test_the_best_batch_size_is_where_throughput_is_highest(clock):
    done = swept(clock, lambda size: 0.001 + 0.001 * size if size <= 32 else 0.004 * size, limit_bytes=4 * 1024)

    # 1 / (0.001 / size + 0.001) grows up to 32; beyond it every sample takes four times as long.
    assert done.best.batch_size == 32
    assert done.best.throughput == pytest.approx(32 / 0.033, rel=0.001)


def test_sizes_beyond_the_best_are_tried_up_to_the_limit_but_not_timed(clock):
    done = swept(clock, lambda size: 0.001 * size, limit_bytes=4 * 512)

    assert [point.batch_size for point in done.points] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert [point.batch_size for point in done.points if point.timing is not None] == [1, 2, 4, 8]
    assert (done.ended, done.reason) == ("limit", "batch size 1024 would pass the limit of 1.91e-06 GiB")


@pytest.mark.parametrize(
    ("error", "ended", "words"),
    [
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore"),
            "oom",
            "batch size 16: out of memory: CUDA",
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "oom",
            "batch size 16: out of memory",
        ),
        (ValueError("expected one sample"), "failed", "batch size 16: ValueError: expected one sample"),
    ],
)
def test_a_batch_that_cannot_be_run_ends_the_sweep_and_keeps_what_was_measured(clock, error, ended, words):
    def seconds(size):
        if size >= 16:
            raise error
        return 0.001

    done = swept(clock, seconds)

    assert done.points[-1].batch_size == 8
    assert done.best.batch_size == 8
    assert done.ended == ended
    assert done.reason.startswith(words)
    assert "\n" not in done.reason


def test_a_model_that_runs_at_no_batch_size_has_no_best_one(clock):
    def seconds(size):
        raise ValueError("never")

    done = swept(clock, seconds)

    assert done.best is None
    assert done.points == ()


def test_a_sweep_ends_when_its_time_is_over(clock):
    done = swept(clock, lambda size: 0.1 * size)

    # Quick gives it two seconds after the first size; five passes or so of 0.2 s, then of 0.4 s, are more.
    assert (done.points[-1].batch_size, done.ended) == (4, "time")
    assert done.reason == "protocol 'quick' gives a sweep 2 s; larger sizes were not tried"


def test_only_the_sizes_that_were_asked_for_are_measured(clock):
    done = swept(clock, lambda size: 0.001, sizes=(3, 5))

    assert [(point.batch_size, point.timing is not None) for point in done.points] == [(3, True), (5, True)]
    assert done.ended == "asked"


def test_batch_sizes_are_read_from_the_command_line():
    assert read_batch_sizes("sweep") == "sweep"
    assert read_batch_sizes("64,1,8,8") == (1, 8, 64)
    for wrong in ("", "0,1", "many", "1;2"):
        with pytest.raises(UsageError, match="takes sweep, none or sizes such as 1,8,64"):
            read_batch_sizes(wrong)


# Memory


def test_the_tensors_that_a_pass_holds_at_once_are_counted_to_the_byte():
    def run():
        first = torch.ones(3 * MIB // 4)
        second = first + 1  # 3 MiB more
        del first
        return second.sum() + torch.ones(2 * MIB // 4).sum()

    assert allocated_peak(run, Meter(CPU, BRIEF)) == pytest.approx(6 * MIB, abs=1024)


@pytest.mark.skipif(sys.platform != "linux", reason="resident peaks are taken back on Linux only")
def test_peak_memory_is_what_the_model_holds_whatever_ran_before():
    quiet = measure_footprint("footprint_subjects:allocates", {"parameters_mib": 32, "held_mib": 96, "trains": True})
    after = measure_footprint(
        "footprint_subjects:allocates", {"parameters_mib": 32, "held_mib": 96, "trains": True, "before_mib": 512}
    )

    for found in (quiet, after):
        assert found["model"] == pytest.approx(32 * MIB, rel=0.02)
        assert found["inference"] == pytest.approx((32 + 96) * MIB, rel=0.02)
        # In the second step the old gradient is there until the new one is.
        assert found["training"] == pytest.approx(3 * 32 * MIB, rel=0.02)
    assert after["inference"] == pytest.approx(quiet["inference"], rel=0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="resident peaks are taken back on Linux only")
def test_memory_that_cannot_be_measured_says_why():
    assert measure_footprint("footprint_subjects:fails", {}) == (
        "the process that measures memory ended with 1: RuntimeError: no such model"
    )


# Number formats, compilation, layout


def test_the_variants_of_three_axes_are_their_product():
    made = variants(["fp32", "bf16"], ["none"], ["contiguous", "channels_last"])

    assert [item.condition for item in made] == ["clean", "channels_last", "bf16", "bf16+channels_last"]
    with pytest.raises(
        UsageError, match=r"--precision fp3: there is fp32, tf32, bf16, fp16, int8; .* Did you mean 'fp32'"
    ):
        variants(["fp3"], ["none"], ["contiguous"])


def test_int8_quantises_linear_layers_and_leaves_the_given_model_alone():
    model = build(nn.Linear(8, 8)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    made = prepare(model, Variant(precision="int8"), CPU)

    values = batch_of(64)
    difference = (made.model(values).logits["digit"] - model(values).logits["digit"]).abs().max()
    assert 0 < difference < 0.1  # quantised, and nearly right
    assert made.untrainable == "int8 is for inference only"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        (Variant(precision="tf32"), "tf32 is a format of NVIDIA GPUs from compute capability 8.0 on"),
        (Variant(compile="reduce-overhead"), "reduce-overhead is CUDA graphs, and a cpu device has none"),
    ],
)
def test_what_this_device_cannot_do_is_refused_with_the_reason(variant, reason):
    with pytest.raises(UnsupportedError, match=reason), settings(variant, CPU):
        prepare(build(nn.Linear(8, 8)), variant, CPU)


def test_a_run_whose_convolutions_torch_does_in_tf32_is_not_taken_for_one_in_fp32(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")

    def facts(tf32):
        payload = {"threads": 1, "protocol": "quick", "identity": IDENTITY}
        return perf_facts(payload, TrainConfig(), Variant(), 32, gpu, tf32_convolutions=tf32)

    run = convolves_in_tf32("fp32", gpu)
    with settings(Variant(), gpu):
        profiled = convolves_in_tf32("fp32", gpu)

    assert (run, profiled) == (True, False)
    assert not convolves_in_tf32("bf16", gpu)
    assert not convolves_in_tf32("fp32", CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert not convolves_in_tf32("fp32", gpu)
    assert facts(True)["perf_setup"]["tf32_convolutions"] is True
    assert "tf32_convolutions" not in facts(False)["perf_setup"]
    assert facts(True)["perf_key"] != facts(False)["perf_key"]


def test_a_cost_says_which_measuring_code_found_it_and_another_gives_another_key(monkeypatch):
    payload = {"threads": 1, "protocol": "quick", "identity": IDENTITY}

    now = perf_facts(payload, TrainConfig(), Variant(), 32, CPU)
    monkeypatch.setattr("mmbench.cell.MEASURING_VERSION", MEASURING_VERSION + 1)
    later = perf_facts(payload, TrainConfig(), Variant(), 32, CPU)

    assert now["perf_setup"]["measuring_version"] == MEASURING_VERSION
    assert now["perf_key"] != later["perf_key"]


def test_bf16_runs_in_autocast_and_can_be_trained_but_fp16_cannot():
    assert prepare(build(nn.Linear(8, 8)), Variant(precision="bf16"), CPU).autocast is torch.bfloat16
    assert prepare(build(nn.Linear(8, 8)), Variant(precision="bf16"), CPU).untrainable == ""
    assert "loss scaling" in prepare(build(nn.Linear(8, 8)), Variant(precision="fp16"), CPU).untrainable


def test_channels_last_reaches_weights_and_images_but_not_other_inputs():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    variant = Variant(memory_format="channels_last")

    model = prepare(build(network), variant, CPU).model
    images = arranged(batch_of(4, (3, 8, 8)), variant).inputs["image"].values
    vectors = arranged(batch_of(4), variant).inputs["image"].values

    assert model.encoders[0].network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert not images.is_contiguous()
    assert vectors.is_contiguous()


def test_a_compiled_model_keeps_its_stages_and_its_operations(monkeypatch):
    calls = []

    def compiler(module, mode):
        return lambda *arguments: (calls.append(mode), module(*arguments))[1]

    monkeypatch.setattr(torch, "compile", compiler)
    given = {"train": batch_of(16), "single": batch_of(1)}

    plain, _ = profile(build(nn.Linear(8, 8)).eval(), given, None, CPU, BRIEF, contended=False)
    model = prepare(build(nn.Linear(8, 8)).eval(), Variant(compile="default"), CPU).model
    compiled, _ = profile(model, given, None, CPU, BRIEF, contended=False)

    assert set(calls) == {"default"}
    assert {metric.name for metric in plain} == {metric.name for metric in compiled}
    by_name = {metric.name: metric.value for metric in compiled}
    assert by_name["flops_per_sample"] == 2 * 8 * 8 + 2 * 8 * 10
    assert by_name["stage_time_s:encode.image"] > 0


# The device


def test_the_peak_of_the_device_is_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("mmbench.profiling.peak.MATMUL_ROWS", {"cpu": 64})
    monkeypatch.setattr("mmbench.profiling.peak.COPY_BYTES", {"cpu": 4096})

    first = device_peak(CPU, "fp32", 1, tmp_path)
    monkeypatch.setattr("mmbench.profiling.peak._measure", lambda *_: pytest.fail("measured again"))

    assert device_peak(CPU, "fp32", 1, tmp_path) == first
    assert first.flop_per_s > 0
    assert first.copy_bytes_per_s > 0


def test_int8_has_no_peak_to_be_a_share_of(tmp_path, monkeypatch):
    monkeypatch.setattr("mmbench.profiling.peak.COPY_BYTES", {"cpu": 4096})

    assert device_peak(CPU, "int8", 1, tmp_path).flop_per_s is None


def test_a_share_of_the_peak_is_a_share_or_nothing():
    peak = DevicePeak(flop_per_s=2e9, copy_bytes_per_s=1.0)

    assert share_of_peak(5e8, peak, Variant())[0] == 0.25
    assert share_of_peak(3e9, peak, Variant())[0] is None
    assert share_of_peak(1.0, DevicePeak(None, 1.0), Variant(precision="int8")) == (
        None,
        "no peak of int8 matrix products was measured",
    )


def test_what_the_system_does_not_say_is_null_with_a_reason():
    state = device.device_state(CPU)

    for name in ("clock_hz", "temperature_c", "power_w", "throttle_reasons"):
        assert (state[name] is None) == (name in state["notes"])
    assert "NVIDIA" in state["notes"]["power_w"]


@pytest.fixture
def nvml(monkeypatch):
    """A GPU whose state is known, as pynvml tells it; two processes are on it, and its power cannot be read."""

    class NVMLError(Exception):
        pass

    def no_power(handle):
        raise NVMLError("Not Supported")

    fake = types.SimpleNamespace(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetClockInfo=lambda handle, kind: 1980 if kind == 1 else 2619,
        NVML_CLOCK_MEM=2,
        nvmlDeviceGetTemperature=lambda handle, sensor: 61,
        nvmlDeviceGetPowerUsage=no_power,
        nvmlClocksThrottleReasonNone=0,
        nvmlClocksThrottleReasonGpuIdle=1,
        nvmlClocksThrottleReasonSwPowerCap=4,
        nvmlClocksThrottleReasonHwThermalSlowdown=64,
        nvmlClocksThrottleReasonAll=69,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 68,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [1, 2],
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(used=5 * 2**30),
        nvmlSystemGetDriverVersion=lambda: b"570.10",
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(uuid="1234"))
    return torch.device("cuda")


def test_a_gpus_state_is_what_nvml_says_and_null_where_it_does_not(nvml):
    state = device.device_state(nvml)

    assert state == {
        "clock_hz": 1.98e9,
        "memory_clock_hz": 2.619e9,
        "temperature_c": 61,
        "power_w": None,
        "throttle_reasons": ["HwThermalSlowdown", "SwPowerCap"],
        "notes": {"power_w": "NVML: Not Supported"},
    }
    assert device.device_used_bytes(nvml) == (5 * 2**30, "")
    assert device.driver_version(nvml) == "570.10"


def test_a_gpu_whose_memory_nvml_does_not_know_gives_the_reason(nvml, monkeypatch):
    def unknown(handle):
        raise sys.modules["pynvml"].NVMLError("Not Supported")

    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetMemoryInfo", unknown)

    assert device.device_used_bytes(nvml) == (None, "NVML: Not Supported")


def test_another_process_on_the_gpu_is_told(nvml):
    assert device.Neighbours(nvml).reason() == "contended: 1 other process(es) held the GPU"


def test_a_process_that_only_waits_for_its_turn_on_the_gpu_does_not_contend(nvml):
    assert device.Neighbours(nvml, num_waiting=1).reason() == ""


def test_what_a_cell_takes_of_a_gpu_counts_its_context_and_the_peak_before_others_reset_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 2 * 2**30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70 * 2**30, 80 * 2**30))
    gpu = torch.device("cuda")

    assert memory.cell_memory(gpu, 5 * 2**30) == {"peak_bytes": 6 * 2**30, "available_bytes": 73 * 2**30}
    assert memory.cell_memory(gpu, 0)["peak_bytes"] == 4 * 2**30
    assert memory.peak_reserved_bytes(CPU) == 0


def test_without_nvml_a_gpus_state_is_null_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)

    state = device.device_state(torch.device("cuda"))

    assert state["clock_hz"] is None
    assert state["notes"]["clock_hz"] == "the package nvidia-ml-py is not installed"


def test_others_on_the_processor_are_told_from_ourselves(monkeypatch):
    now = {"wall": 0.0, "busy": 0.0, "own": 0.0}
    monkeypatch.setattr(device.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(device, "_busy_seconds", lambda: now["busy"])
    monkeypatch.setattr(device, "_own_seconds", lambda: now["own"])
    monkeypatch.setattr(device, "usable_cpus", lambda: 4)

    alone, shared = device.Neighbours(CPU), device.Neighbours(CPU)
    now.update(wall=10.0, busy=12.0, own=10.0)  # 0.2 of 4 processors: the system's own work
    assert alone.reason() == ""
    now.update(busy=25.0)

    assert shared.reason() == "contended: others kept 1.5 of 4 CPUs busy"


def test_a_contended_measurement_marks_times_and_rates_and_gives_no_energy():
    metrics = [
        Metric(phase="profile", name="latency_p50_s", value=1.0, unit="s"),
        Metric(phase="profile", name="throughput_samples_per_s", value=1.0, unit="samples/s", note="of 8"),
        Metric(phase="profile", name="flops_per_sample", value=1.0, unit="flop"),
        Metric(phase="profile", name="latency_p99_s", value=None, unit="s", note="too few"),
        Metric(phase="profile", name="share_of_measured_peak", value=0.5, unit="1"),
        Metric(phase="profile", name="num_parameters_registered", value=8.0, unit="1"),
        Metric(phase="profile", name="inference_energy_per_sample_j", value=0.1, unit="J", note="idle power included"),
    ]

    marked = mark_contended(metrics, "contended: others")

    assert [(item.value, item.note) for item in marked] == [
        (1.0, "contended: others"),
        (1.0, "contended: others; of 8"),
        (1.0, ""),
        (None, "too few"),
        (0.5, "contended: others"),
        (8.0, ""),
        (None, "others computed on the device, and the counter cannot tell them apart"),
    ]
    assert mark_contended(metrics, "") == metrics


def test_two_measurements_of_one_device_never_overlap(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_LOCKS", str(tmp_path))
    waited = []

    with device_lock.alone_on(("cpu", "cuda:0")):
        second = device_lock.alone_on(("cpu",), wait_s=0.05, on_wait=waited.append)
        with pytest.raises(UsageError, match=r"cpu is still being measured by process \d+ since .*; try again"), second:
            pass
        with device_lock.alone_on(("cuda:1",)):
            pass  # another device is free
    with device_lock.alone_on(("cpu",), wait_s=0.0):
        pass  # and so is this one now

    assert len(waited) == 1
    assert waited[0].startswith("cpu is being measured by process")


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder"])
def test_a_planted_lock_is_said_in_a_sentence_and_not_followed(tmp_path, monkeypatch, kind):
    (tmp_path / "locks").mkdir()
    monkeypatch.setenv("MMBENCH_LOCKS", str(tmp_path / "locks"))
    (tmp_path / "precious").write_text("kept")
    lock = tmp_path / "locks" / "mmbench-cpu.lock"
    if kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(tmp_path / ("precious" if kind == "link" else "nothing"))

    refused = pytest.raises(UsageError, match=r"the lock .*mmbench-cpu\.lock cannot be taken .*set MMBENCH_LOCKS")
    with refused, device_lock.alone_on(("cpu",)):
        pass

    assert (tmp_path / "precious").read_text() == "kept"
    assert not (tmp_path / "nothing").exists()


def test_a_lock_writes_through_no_link(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_LOCKS", str(tmp_path))
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "mmbench-cpu.json").symlink_to(tmp_path / "precious")

    with device_lock.alone_on(("cpu",)):
        pass

    assert (tmp_path / "precious").read_text() == "kept"


# Keys and plans


IDENTITY = {
    "dataset": {"ref": "a/b", "version": "1"},
    "encoders": {"image": {"ref": "a/c"}},
    "fusion": {"ref": "a/d"},
    "objective": {"ref": "a/e"},
    "train": {"epochs": 3},
    "master_seed": 0,
    "seed": 0,
}
SETUP = {"device": "x", "torch": "2", "threads": 1, "precision": "fp32"}


def test_a_perf_key_covers_what_a_cost_depends_on_and_nothing_else():
    key = perf_key(IDENTITY, SETUP)

    assert len(key) == 64
    assert perf_key(dict(reversed(IDENTITY.items())), dict(reversed(SETUP.items()))) == key
    assert perf_key({**IDENTITY, "seed": 5, "master_seed": 9, "train": {"epochs": 9}}, SETUP) == key
    for name in ("dataset", "encoders", "fusion", "objective"):
        assert perf_key({**IDENTITY, name: {"ref": "other"}}, SETUP) != key
    for name in SETUP:
        assert perf_key(IDENTITY, {**SETUP, name: "other"}) != key


def cells_of(tmp_path, *, rounds=1, max_cells=None, **options):
    config = load_config(
        {
            "dataset": ["digits"],
            "modality": ["image"],
            "encoder": ["cnn", "mlp"],
            "fusion": ["single"],
            "seeds": rounds,
            "max_cells": max_cells,
        },
        folder=tmp_path,
    )
    runtime = local_runtime(config, cache=tmp_path, data=tmp_path, jobs=1)
    plan = make_plan(config, load_registry(), runtime=runtime)
    return list(
        profile_cells(plan, ProfileOptions(variants=variants(["fp32", "bf16"], ["none"], ["contiguous"]), **options))
    )


def test_rounds_take_turns_and_the_floor_is_left_out(tmp_path):
    rows = [cell.row() for cell in cells_of(tmp_path, rounds=2)]

    seen = [(row["encoders"], row["variant"], row["seed"]) for row in rows]
    one_round = [("image:cnn", "clean"), ("image:cnn", "bf16"), ("image:mlp", "clean"), ("image:mlp", "bf16")]
    assert seen == [(*each, 0) for each in one_round] + [(*each, 1) for each in one_round]
    assert len({row["cell_id"] for row in rows}) == 8


def test_the_floor_does_not_count_among_the_cells_of_a_profile(tmp_path):
    rows = [cell.row() for cell in cells_of(tmp_path, max_cells=1)]

    assert [(row["encoders"], row["variant"]) for row in rows] == [("image:cnn", "clean"), ("image:cnn", "bf16")]


def test_a_profile_is_another_when_it_measures_otherwise(tmp_path):
    plain = {cell.cell_id for cell in cells_of(tmp_path)}

    assert plain == {cell.cell_id for cell in cells_of(tmp_path)}
    assert not plain & {cell.cell_id for cell in cells_of(tmp_path, batch_sizes=(1, 8))}
    assert not plain & {cell.cell_id for cell in cells_of(tmp_path, memory_limit_bytes=2**20)}


def test_a_profile_never_measures_stored_features(tmp_path):
    payload = cells_of(tmp_path)[0].payload()

    assert payload["feature_cache"] is False
    assert json.loads(json.dumps(payload)) == payload


def test_a_profile_has_a_shared_device_to_itself(tmp_path, monkeypatch):
    (payload, *_) = [cell.payload() for cell in cells_of(tmp_path, batch_sizes="none")]
    (tmp_path / "locks").mkdir()
    room, free = tmp_path / "locks" / "mmbench-GPU-1.room.lock", []

    def entered():
        with room.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def profile(*given, **named):
        free.append(entered())
        return measure(*given, **named)

    measure = profile_cell_module.profile
    monkeypatch.setattr(profile_cell_module, "profile", profile)
    monkeypatch.setattr(profile_cell_module, "turn_on", lambda payload: DeviceTurn("GPU-1", tmp_path / "locks"))

    done = profile_cell_module.profile_cell({**payload, "contended": True, "protocol": "quick"}, tmp_path)

    assert free == [False]  # nobody else could enter while it measured
    assert entered()
    assert "side by side" not in done["info"]["contended"]


def test_a_gpus_memory_is_read_before_larger_batches_and_the_devices_peak_take_theirs(monkeypatch):
    used = {"bytes": 2**30}

    def takes(num_bytes):
        return lambda *_: used.update(bytes=used["bytes"] + num_bytes)

    monkeypatch.setattr(profile_cell_module, "device_used_bytes", lambda _: (used["bytes"], ""))
    factory = types.SimpleNamespace(
        payload={"protocol": "quick"},
        device=torch.device("cuda"),
        variant=Variant(),
        build=lambda: types.SimpleNamespace(model=nn.Identity()),
    )
    measured = profile_cell_module._Measurement(factory)
    measured.batch_size = 16
    for name in ("_first_runs", "_data_dependence", "_stages_of_data"):
        monkeypatch.setattr(measured, name, takes(0))
    monkeypatch.setattr(measured, "_profile", takes(3 * 2**30))
    monkeypatch.setattr(measured, "_sweep", takes(40 * 2**30))
    monkeypatch.setattr(measured, "_share_of_peak", takes(2 * 2**30))

    measured.run()
    measured.add_memory(2**30)

    (metric,) = measured.found.metrics
    assert (metric.name, metric.value) == ("peak_memory_device_bytes", 3 * 2**30)


# Intervals of timings


def test_blocks_are_runs_of_neighbours():
    assert block_statistics(range(20), np.mean).tolist() == [0.5 + 2 * n for n in range(10)]
    assert block_statistics([1.0, 2.0]).tolist() == [1.0, 2.0]


def test_the_interval_of_timings_is_students_over_blocks_and_one_percent_between_processes():
    rng = np.random.default_rng(0)
    samples = np.repeat(rng.normal(1.0, 0.05, 10), 50)  # ten moods of the machine, fifty iterations each
    moods = samples[::50]

    low, high = block_interval(samples, 1.0)

    student = scipy.stats.t.interval(0.95, 9, loc=1.0, scale=scipy.stats.sem(moods))
    assert (high - low) / 2 == pytest.approx(math.hypot((student[1] - student[0]) / 2, 0.02), rel=1e-6)
    assert block_interval([1.0, 1.0], 1.0) is None


@pytest.mark.slow
def test_a_model_compiled_by_torch_gives_what_it_gave_before():
    model = build(nn.Sequential(nn.Linear(8, 8), nn.GELU())).eval()
    given = batch_of(4)
    with torch.inference_mode():
        expected = model(given).logits["digit"]
        try:
            found = prepare(model, Variant(compile="default"), CPU).model(given).logits["digit"]
        except torch._dynamo.exc.BackendCompilerFailed as error:  # no compiler of C++ here
            pytest.skip(str(error)[:200])

    assert torch.allclose(found, expected, atol=1e-5)


# On a GPU


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_that_runs_out_of_memory_ends_the_sweep_and_works_on():
    gpu = torch.device("cuda")
    free, _ = torch.cuda.mem_get_info(gpu)

    def infer(size):
        return torch.empty(size * (free // 40), dtype=torch.uint8, device=gpu)

    done = sweep(infer, lambda size: size, Meter(gpu, BRIEF), limit_bytes=math.inf)

    assert done.ended == "oom"
    assert done.points[-1].batch_size in (16, 32)
    assert done.points[0].peak_bytes == pytest.approx(free // 40, rel=0.02)
    assert torch.ones(3, device=gpu).sum().item() == 3


@pytest.mark.gpu
@needs_gpu
def test_the_peak_of_a_gpu_is_faster_in_bf16_than_in_fp32(tmp_path):
    gpu = torch.device("cuda")
    with settings(Variant(), gpu):
        plain = device_peak(gpu, "fp32", 1, tmp_path)
    with settings(Variant(precision="bf16"), gpu):
        half = device_peak(gpu, "bf16", 1, tmp_path)

    assert half.flop_per_s > 2 * plain.flop_per_s


@pytest.mark.gpu
@needs_gpu
def test_a_gpus_used_memory_follows_what_is_allocated():
    gpu = torch.device("cuda")
    torch.ones(1, device=gpu)
    before, reason = device.device_used_bytes(gpu)
    if before is None:
        pytest.skip(reason)
    held = torch.empty(2**30, dtype=torch.uint8, device=gpu)

    after, _ = device.device_used_bytes(gpu)

    assert after - before == pytest.approx(held.nbytes, rel=0.02)


@pytest.mark.gpu
@needs_gpu
def test_tf32_is_on_while_it_is_measured_and_off_again_afterwards():
    gpu = torch.device("cuda")
    before = torch.backends.cuda.matmul.allow_tf32

    with settings(Variant(precision="tf32"), gpu):
        assert torch.backends.cuda.matmul.allow_tf32

    assert torch.backends.cuda.matmul.allow_tf32 == before
