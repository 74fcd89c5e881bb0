"""The profiler against modules whose cost is known, and what it must leave as it found it."""

import dataclasses
import gc
import json
import random
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from profile_cases import Takes, batches, build, training_step
from torch import nn
from torch.nn import functional as F

from mmbench.features import Features
from mmbench.model import Batch, Input
from mmbench.profiling import PROTOCOLS, profile
from mmbench.profiling.flops import _cudnn_recurrent
from mmbench.profiling.meter import Meter

CPU = torch.device("cpu")
QUICK = PROTOCOLS["quick"]
#: As little as can be, for tests that do not look at times.
BRIEF = dataclasses.replace(QUICK, min_iterations=3, min_latency_iterations=3, min_seconds=0.0, stage_iterations=1)


pytestmark = pytest.mark.usefixtures("one_thread")


def measure(model, step="usual", *, given=None, protocol=BRIEF, contended=False):
    step = training_step(model) if step == "usual" else step
    found, raw = profile(model, given or batches(model), step, CPU, protocol, contended=contended)
    return {metric.name: metric for metric in found}, raw


def pretend_gpu(monkeypatch):
    """Let the profiler meet the CPU as it meets a GPU, for want of one."""

    class OnGpu(Meter):
        def __init__(self, device, protocol):
            super().__init__(device, protocol)
            self.on_cuda = True

        def synchronise(self):
            return None

        def mark(self):
            return time.perf_counter()

        def between(self, earlier, later):
            return later - earlier

    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 4096)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 8192)
    monkeypatch.setattr("mmbench.profiling.Meter", OnGpu)


def stages(found):
    return {name.partition(":")[2]: item.value for name, item in found.items() if name.startswith("stage_time_s:")}


# Times


def test_a_module_that_takes_5_ms_is_reported_as_5_ms(clock):
    model = build(image=Takes(clock.advance, 0.005))

    found, _ = measure(model, protocol=QUICK)

    assert found["latency_p50_s"].value == pytest.approx(0.005, rel=0.001)
    assert found["latency_p95_s"].value is None
    assert found["throughput_samples_per_s"].value == pytest.approx(16 / 0.005, rel=0.001)
    assert found["step_time_s"].value == pytest.approx(0.005, rel=0.001)


def test_a_module_that_takes_50_ms_of_real_time_is_reported_within_2_percent():
    taken = []

    def spin(seconds):
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            pass
        taken.append(time.perf_counter() - began)

    model = build(image=Takes(spin, 0.050))
    ten = dataclasses.replace(QUICK, min_iterations=10, min_latency_iterations=10, stage_iterations=10)

    _, raw = measure(model, None, protocol=dataclasses.replace(ten, max_seconds=60.0))

    # A busy machine makes some calls longer than they were told to be, which the module sees as well, and may take the
    # processor away between the module's clock and the profiler's, but hardly ten times in turn.
    for samples in (raw["latency"]["samples_s"], raw["inference"]["samples_s"], raw["stages"]["encode.image"]):
        assert len(samples) == 10
        assert min(samples) >= 0.050
        assert any(own <= sample < 1.02 * own for sample in samples for own in taken)


def test_time_goes_to_the_stage_that_took_it(clock):
    model = build(image=Takes(clock.advance, 0.004), text=Takes(clock.advance, 0.001))
    model.fusion.register_forward_hook(lambda *_: clock.advance(0.002))
    model.heads[0].register_forward_hook(lambda *_: clock.advance(0.005))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    optimiser.register_step_pre_hook(lambda *_: clock.advance(0.003))

    def step(batch):
        clock.advance(0.006)
        logits = model(batch).logits["digit"]
        clock.advance(0.007)
        logits.register_hook(lambda _: clock.advance(0.008))
        logits.sum().backward()
        optimiser.step()
        clock.advance(0.001)

    found, _ = measure(model, step, protocol=QUICK)

    assert stages(found) == pytest.approx(
        {
            "encode.image": 0.004,
            "encode.text": 0.001,
            "fusion": 0.002,
            "head": 0.005,
            "objective": 0.007,
            "backward": 0.008,
            "optimiser": 0.003,
            "other": 0.006 + 0.001,
        },
        abs=2e-5,
    )
    assert sum(stages(found).values()) == pytest.approx(found["step_time_s"].value, rel=0.01)


def test_stages_add_up_to_the_whole_step():
    model = build(image=nn.Sequential(nn.Linear(8, 512), nn.Linear(512, 8)), text=nn.Linear(8, 8))
    step, taken = training_step(model), []

    def watched(batch):
        began = time.perf_counter()
        step(batch)
        taken.append(time.perf_counter() - began)

    _, raw = measure(model, watched, protocol=dataclasses.replace(QUICK, stage_iterations=10, max_seconds=10.0))

    together = np.sum(list(raw["stages"].values()), axis=0)
    assert np.median(together / np.array(taken[1:11])) == pytest.approx(1.0, abs=0.05)


def test_an_encoder_that_the_objective_calls_again_is_still_an_encoder(clock):
    model = build(image=Takes(clock.advance, 0.003))

    def step(batch):
        output = model(batch)
        again = model.encode(batch)["image"].tensor
        (output.logits["digit"].sum() + again.sum()).backward()

    found, _ = measure(model, step)

    assert stages(found)["encode.image"] == pytest.approx(0.006, rel=0.01)
    assert stages(found)["objective"] < 0.0001
    assert "optimiser" not in stages(found)


def test_slow_first_iterations_end_up_in_the_warm_up(clock):
    model = build(image=Takes(clock.advance, 0.04, 0.02, 0.01, 0.002))
    patient = dataclasses.replace(QUICK, warmup_max_iterations=50, warmup_max_seconds=5.0)

    _, raw = measure(model, None, protocol=patient)

    assert raw["inference"]["warmup_iterations"] == 6  # three slow ones, and three that agree
    assert raw["inference"]["warmup_ended"] == "steady"
    assert max(raw["inference"]["samples_s"]) < 0.003


def test_warm_up_that_never_settles_ends_at_its_limit_and_says_so(clock):
    model = build(image=Takes(clock.advance, *[0.001, 0.003] * 200))
    impatient = dataclasses.replace(BRIEF, warmup_max_iterations=6, warmup_max_seconds=5.0)

    _, raw = measure(model, None, protocol=impatient)

    assert raw["inference"]["warmup_iterations"] == 6
    assert raw["inference"]["warmup_ended"] == "limit"


def test_a_measurement_takes_at_least_the_protocols_iterations_and_seconds(clock):
    model = build(image=Takes(clock.advance, 0.001))
    protocol = dataclasses.replace(QUICK, min_iterations=7, min_latency_iterations=90, min_seconds=0.05)

    found, raw = measure(model, protocol=protocol)

    assert len(raw["inference"]["samples_s"]) == len(raw["step"]["samples_s"]) == 50
    assert len(raw["latency"]["samples_s"]) == 90
    assert found["step_time_s"].n == 50


def test_a_slow_model_is_measured_three_times_and_no_more(clock):
    model = build(image=Takes(clock.advance, 60.0))

    _, raw = measure(model, None, protocol=QUICK)

    assert len(raw["inference"]["samples_s"]) == len(raw["latency"]["samples_s"]) == 3


def test_steps_on_a_gpu_warm_up_again_once_its_cache_was_emptied(monkeypatch):
    model = build(image=nn.Linear(8, 8))

    _, on_cpu = measure(model, protocol=QUICK)
    pretend_gpu(monkeypatch)
    _, on_gpu = measure(model, protocol=QUICK)

    assert (on_cpu["step"]["warmup_ended"], on_cpu["step"]["warmup_iterations"]) == ("earlier", 0)
    assert on_gpu["step"]["warmup_iterations"] >= 1
    assert on_gpu["step"]["warmup_ended"] in ("steady", "limit")


def test_memory_of_a_gpu_says_what_else_it_counts(monkeypatch):
    pretend_gpu(monkeypatch)

    found, _ = measure(build(image=nn.Linear(8, 8)))

    for phase in ("inference", "training"):
        assert found[f"{phase}_peak_memory_allocated_bytes"].value == 4096
        assert found[f"{phase}_peak_memory_reserved_bytes"].value == 8192
        assert found[f"{phase}_peak_memory_reserved_bytes"].note == (
            "of the whole process: data and an optimiser's state that it holds on the device included"
        )


def test_a_step_too_slow_for_the_protocol_is_taken_apart_once(clock):
    model = build(image=Takes(clock.advance, 0.3))

    found, raw = measure(model, protocol=QUICK)

    assert raw["stages"]["encode.image"] == [pytest.approx(0.3, rel=0.001)]
    assert found["stage_time_s:encode.image"].n == 1
    # One to take apart, which warms up as well, three to measure; nothing more is asked of a slow cell.
    assert model.encoders[0].network.calls == 1 + 3 + 2 * (1 + 3) + 1


@pytest.mark.parametrize(("percent", "least"), [(95, 200), (99, 1000)])
def test_a_percentile_needs_ten_samples_beyond_it(percent, least):
    model, name = build(image=nn.Linear(8, 8)), f"latency_p{percent}_s"

    few, _ = measure(model, protocol=dataclasses.replace(QUICK, min_latency_iterations=least - 1, min_seconds=0.0))
    many, raw = measure(model, protocol=dataclasses.replace(BRIEF, min_latency_iterations=least))

    assert few[name].value is None
    assert few[name].note == f"needs {least} samples; protocol 'quick' took {least - 1}"
    expected = np.percentile(raw["latency"]["samples_s"], percent)
    assert many[name].value == pytest.approx(expected, rel=1e-4)


def test_the_rehearsal_before_the_fork_begins_no_thread_and_leaves_the_gpu_alone():
    code = """
import os, torch, mmbench.cell
before = len(os.listdir("/proc/self/task"))
import mmbench.profiling.rehearsal
print(len(os.listdir("/proc/self/task")) - before, torch.cuda.is_initialized(), torch.get_default_device())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["0", "False", "cpu"]


# Notes


def test_a_contended_device_marks_every_time_and_nothing_else():
    found, _ = measure(build(image=nn.Linear(8, 8)), contended=True)

    marked = {name.partition(":")[0] for name, item in found.items() if "contended" in item.note}
    assert marked == {"throughput_samples_per_s", "latency_p50_s", "step_time_s", "stage_time_s"}


def test_a_latency_sample_without_a_modality_is_named():
    model = build(image=nn.Linear(8, 8), text=nn.Linear(8, 8))
    given = batches(model)
    absent = Input(torch.zeros(0, 8), rows=torch.zeros(0, dtype=torch.int64))
    given["single"] = dataclasses.replace(given["single"], inputs={**given["single"].inputs, "text": absent})

    found, _ = measure(model, given=given)

    assert found["latency_p50_s"].note == "inference at batch size 1, of a sample without text"


def test_without_a_training_step_training_is_null_with_the_reason():
    found, _ = measure(build(image=nn.Linear(8, 8)), None)

    for name in ("step_time_s", "num_parameters_with_gradient", "training_peak_memory_allocated_bytes"):
        assert found[name].value is None
        assert found[name].note == "no training step was given"
    assert found["stage_time_s:encode.image"].note == "inference at batch size 16"


def test_what_a_cpu_cannot_count_is_null_with_the_reason():
    found, _ = measure(build(image=nn.Linear(8, 8)))

    assert found["inference_peak_memory_allocated_bytes"].value is None
    assert "CUDA devices only" in found["inference_peak_memory_allocated_bytes"].note
    assert found["training_energy_per_sample_j"].value is None
    assert "NVML" in found["training_energy_per_sample_j"].note


def test_every_metric_is_of_phase_profile_and_null_only_with_a_reason():
    found, _ = measure(build(image=nn.Linear(8, 8)))

    for item in found.values():
        assert item.phase == "profile"
        assert item.value is not None or item.note


def test_memory_is_that_of_the_model_and_not_of_the_process():
    model = build(image=nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))
    found, _ = measure(model)

    state = model.state_dict()
    assert found["model_memory_bytes"].value == sum(item.nbytes for item in state.values())
    assert found["model_memory_bytes"].value < psutil.Process().memory_info().rss / 100
    assert "peak_rss_bytes" not in found
    assert "`mmbench profile` measures host memory" in found["inference_peak_memory_allocated_bytes"].note


def test_raw_samples_are_plain_json():
    _, raw = measure(build(image=nn.Linear(8, 8)))

    assert json.loads(json.dumps(raw)) == raw
    assert raw["protocol"] == "quick"


# Parameters


def test_shared_parameters_count_once_and_frozen_ones_are_not_trainable():
    shared = nn.Linear(8, 8)  # 72
    model = build(image=shared, text=nn.Sequential(shared, nn.Linear(8, 8)))  # 72 more
    model.encoders[1].network[1].requires_grad_(False)

    found, _ = measure(model)

    head = 16 * 10 + 10
    assert found["num_parameters_registered"].value == 72 + 72 + head
    assert found["num_parameters_trainable"].value == 72 + head
    assert found["num_parameters_with_gradient"].value == 72 + head


def test_parameters_that_no_gradient_reaches_are_not_counted_as_reached():
    model = build(image=nn.Linear(8, 8))
    model.unused = nn.Linear(100, 1)

    found, _ = measure(model)

    assert found["num_parameters_trainable"].value - found["num_parameters_with_gradient"].value == 101


def test_factors_in_a_plain_list_show_as_unregistered():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.factors = [nn.Parameter(torch.randn(8, 8))]

        def forward(self, values):
            return values @ self.factors[0]

    found, _ = measure(build(image=Hidden()))

    assert found["num_parameters_registered"].value == 8 * 10 + 10


# FLOPs


def flops(network, shape=(8,)):
    model = build(image=network)
    found, _ = measure(model, None, given=batches(model, shape))
    return found["flops_per_sample"].value - 2 * 8 * 10, found["flops_per_sample"].note  # less the head


class Reductions(nn.Module):
    def forward(self, values):
        spread, mean = torch.var_mean(values, -1, keepdim=True)
        cheap = spread + mean + values.amax(-1, True) + values.logsumexp(-1, True) + values.sum(-1, True)
        return values + cheap + torch.linalg.vector_norm(values)


def test_no_version_of_torch_lists_reductions_as_uncounted():
    """Torch before 2.10 or so has no tag for them."""
    assert flops(Reductions(), (8,))[0] == 0


def test_a_linear_layer_has_two_flops_per_weight():
    assert flops(nn.Linear(100, 8), (100,))[0] == 2 * 100 * 8


def test_a_convolution_has_two_flops_per_weight_and_position():
    network = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    assert flops(network, (3, 12, 12))[0] == 2 * 8 * 8 * (3 * 5 * 5 * 8)


class Pooled(nn.Module):
    """A sequence network, mean over time."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, values):
        output = self.network(values)
        return (output[0] if isinstance(output, tuple) else output).mean(dim=1)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_a_recurrent_layer_is_counted_although_its_kernel_is_fused(kind, gates):
    counted, note = flops(Pooled(kind(6, 8, batch_first=True)), (5, 6))

    assert counted == 5 * 2 * gates * (6 * 8 + 8 * 8)
    assert "lower bound" not in note


def test_attention_is_counted_although_its_kernel_is_fused():
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    counted, note = flops(Pooled(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)), (5, 8))

    projections = 5 * 2 * (4 * 8 * 8 + 2 * 8 * 16)
    attention = 2 * 2 * 5 * 5 * 8
    assert counted == projections + attention
    assert "lower bound" not in note


def test_an_operation_that_is_not_counted_makes_a_lower_bound_and_is_named():
    class Spectrum(nn.Module):
        def forward(self, values):
            return torch.fft.rfft(values).abs()[:, :8]

    counted, note = flops(Spectrum(), (16,))

    assert counted == 0
    assert note.startswith("lower bound: aten._fft_r2c not counted")


def test_a_layer_that_reads_a_view_of_a_parameter_is_counted():
    class Queries(nn.Module):
        def __init__(self):
            super().__init__()
            self.queries = nn.Parameter(torch.randn(3, 4))
            self.layer = nn.Linear(4, 8)

        def forward(self, values):
            return self.layer(self.queries.expand(len(values), -1, -1)).mean(dim=1)

    assert flops(Queries(), (5,))[0] == 3 * 2 * 4 * 8


def test_counting_flops_leaves_the_fast_path_on():
    before = torch.backends.mha.get_fastpath_enabled()

    flops(nn.Linear(8, 8))

    assert torch.backends.mha.get_fastpath_enabled() is before is True


def test_two_bidirectional_layers_are_counted():
    counted, _ = flops(Pooled(nn.LSTM(6, 4, num_layers=2, bidirectional=True, batch_first=True)), (5, 6))

    first, second = 2 * 4 * (6 * 4 + 4 * 4), 2 * 4 * (8 * 4 + 4 * 4)
    assert counted == 5 * 2 * (first + second)


def test_cudnns_recurrent_kernel_is_counted_by_the_same_formula():
    layer = nn.LSTM(6, 4, num_layers=2, bidirectional=True)
    shapes = [tuple(weight.shape) for weight in layer.parameters()]

    counted = _cudnn_recurrent((5, 3, 6), shapes, 4)

    first, second = 2 * 4 * (6 * 4 + 4 * 4), 2 * 4 * (8 * 4 + 4 * 4)
    assert counted == 3 * 5 * 2 * (first + second)


def test_attention_over_several_heads_is_counted_once_per_pair_of_tokens():
    class Attention(nn.Module):
        def forward(self, values):
            tokens = values.view(-1, 4, 5, 2)  # (B, heads, T, D)
            return F.scaled_dot_product_attention(tokens, tokens, tokens).reshape(len(values), -1)[:, :8]

    counted, note = flops(Attention(), (40,))

    assert counted == 2 * 2 * 4 * 5 * 5 * 2
    assert "lower bound" not in note


# Leaving no trace


def state_of(model, optimiser):
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        **{name: tensor.detach().clone() for name, tensor in tensors.items()},
        **{
            f"{index}.{name}": value.clone()
            for index, (_, held) in enumerate(sorted(optimiser.state_dict()["state"].items()))
            for name, value in held.items()
        },
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.random.get_state()[1].astype(np.int64)),
        "python": torch.tensor(random.getstate()[1]),
    }


class Disorderly(nn.Module):
    """Touches everything that a forward pass can touch."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.dropout = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, values):
        self.calls += 1
        random.random()
        np.random.rand()
        return self.dropout(self.norm(self.layer(values)))


@pytest.mark.parametrize("trained_before", [True, False])
def test_profiling_leaves_model_optimiser_and_random_state_as_they_were(trained_before):
    model = build(image=Disorderly(), text=nn.Linear(8, 8))
    model.encoders[1].eval()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    given, step = batches(model), training_step(model, optimiser)
    if trained_before:
        step(given["train"])
    gradients = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone()
    modes = [module.training for module in model.modules()]
    before = state_of(model, optimiser)

    measure(model, step, given=given)

    after = state_of(model, optimiser)
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]), name
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, gradients[name])
    assert [module.training for module in model.modules()] == modes
    assert optimiser.param_groups[0]["lr"] == 0.1


def test_training_goes_on_after_profiling_as_if_nothing_had_been_measured():
    def train(*, with_profiling):
        torch.manual_seed(0)
        model = build(image=Disorderly())
        given, step = batches(model), training_step(model)
        for _ in range(3):
            step(given["train"])
            if with_profiling:
                measure(model, step, given=given)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(train(with_profiling=True), train(with_profiling=False))


def test_parameters_beside_the_model_that_the_optimiser_holds_are_put_back():
    model = build(image=nn.Linear(8, 8))
    temperature = nn.Parameter(torch.tensor(1.0))
    optimiser = torch.optim.SGD([*model.parameters(), temperature], lr=0.1)

    def step(batch):
        loss = F.cross_entropy(model(batch).logits["digit"] * temperature, batch.targets["digit"])
        loss.backward()
        optimiser.step()

    measure(model, step)

    assert temperature.item() == 1.0


def test_an_exception_leaves_no_hook_and_no_change_behind():
    model = build(image=nn.Linear(8, 8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    backward, usual, calls = torch.autograd.backward, training_step(model), []

    def step(batch):
        calls.append(1)
        usual(batch)
        if len(calls) == 9:
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        measure(model, step, protocol=dataclasses.replace(BRIEF, stage_iterations=100, max_seconds=60.0))

    assert torch.autograd.backward is backward
    assert gc.isenabled()
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_inference_is_measured_in_evaluation_mode_without_gradients():
    seen = []

    class Watch(nn.Module):
        def forward(self, values):
            seen.append((self.training, torch.is_grad_enabled()))
            return values

    measure(build(image=Watch()), None)

    assert set(seen) == {(False, False)}


def test_autocast_applies_to_inference():
    seen = set()

    class Watch(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, values):
            features = self.layer(values)
            seen.add(features.dtype)
            return Features(features.float())

    model = build(image=Watch())
    profile(model, batches(model), None, CPU, BRIEF, contended=False, autocast=torch.bfloat16)

    assert torch.bfloat16 in seen


# On a GPU


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")


@pytest.mark.gpu
@needs_gpu
def test_peak_memory_on_a_gpu_is_what_the_model_allocates_whatever_ran_before():
    class Allocate(nn.Module):
        def forward(self, values):
            return values + torch.zeros(64 * 2**20, dtype=torch.uint8, device=values.device)[:8].float()

    device = torch.device("cuda")
    model = build(image=Allocate()).to(device)
    given = batches(model)
    given = {
        name: Batch(
            batch.size,
            {key: Input(value.values.to(device)) for key, value in batch.inputs.items()},
            {key: value.to(device) for key, value in batch.targets.items()},
        )
        for name, batch in given.items()
    }
    torch.empty(512 * 2**20, dtype=torch.uint8, device=device)

    found, _ = profile(model, given, None, device, BRIEF, contended=False)

    peak = {metric.name: metric.value for metric in found}["inference_peak_memory_allocated_bytes"]
    assert peak == pytest.approx(64 * 2**20, rel=0.02)


@pytest.mark.gpu
@needs_gpu
def test_throughput_on_a_gpu_waits_for_the_device():
    device = torch.device("cuda")
    model = build(
        image=nn.Sequential(nn.Linear(8, 8192), *[nn.Linear(8192, 8192) for _ in range(8)], nn.Linear(8192, 8))
    )
    model.to(device)
    inputs = {"image": Input(torch.randn(4096, 8, device=device))}
    batch = Batch(4096, inputs, {"digit": torch.zeros(4096, dtype=torch.int64, device=device)})

    found, raw = profile(model, {"train": batch, "single": batch}, None, device, QUICK, contended=False)

    torch.cuda.synchronize()
    began = time.perf_counter()
    with torch.inference_mode():
        for _ in range(10):
            model(batch)
    torch.cuda.synchronize()
    by_hand = (time.perf_counter() - began) / 10
    throughput = {metric.name: metric.value for metric in found}["throughput_samples_per_s"]
    assert 4096 / throughput == pytest.approx(by_hand, rel=0.1)
    assert np.median(raw["inference"]["samples_s"]) == pytest.approx(by_hand, rel=0.1)
