"""The profiler against careful hand measurements in the same run, and what it costs the cell that it measures.

Both sides take turns, so that a machine whose speed drifts changes both alike; the figure is the ratio of the lower quartiles over all rounds.
"""

from __future__ import annotations

import dataclasses
import statistics
import time

import pytest
import torch
from quiet import clock, in_turns, lower_quartile
from torch import nn
from torch.utils import benchmark as torch_benchmark

from mmbench import cell
from mmbench.config import cache_dir, data_dir, load_config
from mmbench.model import Batch, Input, MultimodalModel
from mmbench.plan import local_runtime, make_plan
from mmbench.profiling import PROTOCOLS, profile
from mmbench.registry import load_registry
from mmbench.spec import TaskSpec
from mmbench.train import Trainer

CPU = torch.device("cpu")
BATCH_SIZE = 4
NUM_WARM_UP, NUM_ITERATIONS = 2, 3
#: The smaller a model, the more of its rounds fit into the same time, and the more of them it wants.
NUM_ROUNDS = {"resnet18": 25, "vit_tiny_patch16_224": 25, "mobilenetv3_small_100": 100}
#: How often three cells are trained, every other epoch of each watched.
NUM_PROFILED = 40
#: As many iterations as the other side takes.
SAME = dataclasses.replace(
    PROTOCOLS["quick"],
    warmup_max_iterations=NUM_WARM_UP,
    warmup_max_seconds=1e9,
    min_iterations=NUM_ITERATIONS,
    min_latency_iterations=NUM_ITERATIONS,
    min_seconds=0.0,
    max_seconds=1e9,
    stage_iterations=1,
)


class Whole(nn.Module):
    """A model of timm as an encoder: everything that it does, and nothing beside."""

    def __init__(self, network):
        super().__init__()
        self.network, self.feature_dim = network, 8

    def forward(self, values, mask):
        return self.network(values)


class Only(nn.Module):
    fused_dim = 8

    def forward(self, features):
        return next(iter(features.values())).tensor


def make(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=8).eval()
    task = TaskSpec(name="label", kind="multiclass", num_outputs=2)
    model = MultimodalModel({"image": Whole(network)}, {"image": "vector"}, Only(), [task]).eval()
    return network, model


def batch_of(size):
    return Batch(
        size, {"image": Input(torch.randn(size, 3, 224, 224))}, {"label": torch.zeros(size, dtype=torch.int64)}
    )


def timms_seconds_per_batch(network, values, now):
    """The inference benchmark that timm documents: warm-up steps, then a number of steps timed as a whole, no gradients."""
    with torch.no_grad():
        for _ in range(NUM_WARM_UP):
            network(values)
        began = now()
        for _ in range(NUM_ITERATIONS):
            network(values)
        return (now() - began) / NUM_ITERATIONS


@pytest.mark.full
@pytest.mark.parametrize("name", NUM_ROUNDS)
def test_throughput_and_latency_agree_with_timms_procedure_and_with_torchs_timer(
    benchmark, one_thread, monkeypatch, name
):
    if not benchmark.enabled:
        pytest.skip("a measurement; pytest tests/bench -m full --benchmark-enable")
    network, model = make(name)
    words, now = clock()
    monkeypatch.setattr("mmbench.profiling.meter.perf_counter", now)
    given = {"train": batch_of(BATCH_SIZE), "single": batch_of(1)}
    values = given["train"].inputs["image"].values
    latencies: list[float] = []

    def by_mmbench():
        found, _ = profile(model, given, None, CPU, SAME, contended=False)
        values_by_name = {item.name: item.value for item in found}
        latencies.append(values_by_name["latency_p50_s"])
        return BATCH_SIZE / values_by_name["throughput_samples_per_s"]

    def by_timm():
        return timms_seconds_per_batch(network, values, now)

    def by_torch():
        with torch.inference_mode():
            timer = torch_benchmark.Timer("model(x)", globals={"model": model, "x": given["single"]}, timer=now)
            return statistics.median(timer.timeit(1).median for _ in range(NUM_ITERATIONS))

    batches, timms, torchs = in_turns([by_mmbench, by_timm, by_torch], NUM_ROUNDS[name])
    throughput = lower_quartile(batches) / lower_quartile(timms)
    latency = lower_quartile(latencies) / lower_quartile(torchs)

    benchmark.extra_info.update(
        clock=words, time_per_batch_to_timm=round(throughput, 4), latency_to_torch_timer=round(latency, 4)
    )
    benchmark.pedantic(by_timm, rounds=1)
    print(f"\n{name}: time per batch, ours / timm's {throughput:.4f}; latency, ours / torch's {latency:.4f}; {words}")  # noqa: T201
    assert throughput == pytest.approx(1.0, abs=0.03)
    assert latency == pytest.approx(1.0, abs=0.03)


def payloads_of(folder, protocol):
    """The cells of `mmbench run -d digits -f concat -f gated -f tensor` as they are by default: two to three seconds each."""
    config = load_config(
        {
            "dataset": ["digits"],
            "encoder": ["image=cnn", "audio=logmel-cnn", "text=embedding-lstm"],
            "fusion": ["concat", "gated", "tensor"],
            "baselines": False,
            "device": "cpu",
            "protocol": protocol,
            "diagnostics": "none",
        },
        folder=folder,
    )
    runtime = local_runtime(config, cache=cache_dir(config), data=data_dir(), jobs=1)
    return [made.payload() for made in make_plan(config, load_registry(), runtime=runtime).cells() if made.fusion]


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_profiling_a_cell_takes_at_most_a_fiftieth_of_its_training(benchmark, one_thread, tmp_path, monkeypatch):
    if not benchmark.enabled:
        pytest.skip("a measurement; pytest tests/bench -m full --benchmark-enable")
    import mmbench.profiling.rehearsal  # noqa: F401 - as in the server that cells are forked from

    words, now = clock()
    monkeypatch.setattr(time, "perf_counter", now)  # the cell's own stopwatch
    monkeypatch.setattr("mmbench.profiling.meter.perf_counter", now)
    payloads = payloads_of(tmp_path, "quick")

    def times_s():
        done = [cell.run_cell(payload, tmp_path)["info"]["times_s"] for payload in payloads]
        return [sum(times[name] for times in done) for name in ("train_and_evaluate", "profile")]

    times_s()  # warms up
    shares = [after / trained for trained, after in (times_s() for _ in range(5))]

    # Every other epoch of one training is not watched, and stands between two that meet the machine in much the same mood.
    epoch_of, validate_of = Trainer.epoch, Trainer.validate
    epochs: list[float] = []
    first_watched = 0
    kept = []

    def epoch(self, number, grad_norms=None):
        kept.append(self.watch)
        self.watch = self.watch if number % 2 == first_watched else None
        epochs.append(-now())
        return epoch_of(self, number, grad_norms)

    def validate(self):
        found = validate_of(self)
        epochs[-1] += now()
        self.watch = kept.pop()
        return found

    monkeypatch.setattr(Trainer, "epoch", epoch)
    monkeypatch.setattr(Trainer, "validate", validate)
    ratios = []
    for turn in range(NUM_PROFILED):
        first_watched = turn % 2
        for payload in payloads:
            epochs.clear()
            cell.run_cell(payload, tmp_path)
            for number in range(2, len(epochs) - 1):  # the first ones warm up
                ratio = 2 * epochs[number] / (epochs[number - 1] + epochs[number + 1])
                ratios.append(ratio if number % 2 == first_watched else 1 / ratio)
    watched, after = statistics.median(ratios), statistics.median(shares)
    benchmark.extra_info.update(
        clock=words, watched_to_unwatched_epoch=round(watched, 4), after_training=round(after, 4)
    )
    benchmark.pedantic(lambda: None, rounds=1)
    found = f"epochs watched / unwatched: {watched:.4f} ({len(ratios)}); after training, of its time: {after:.4f}"
    print(f"\n{found}; {words}")  # noqa: T201
    assert watched + after <= 1.02


def test_without_a_protocol_nothing_of_the_profiler_runs(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("the profiler ran")

    monkeypatch.setattr(cell, "profile", fail)
    monkeypatch.setattr("mmbench.profiling.meter.Meter.__init__", fail)
    config = load_config(
        {
            "dataset": ["unique"],
            "encoder": ["image=cnn"],
            "modality": ["image"],
            "fusion": ["single"],
            "baselines": False,
        }
        | {"protocol": "none", "diagnostics": "none", "train": {"epochs": 1, "limit": 32}},
        folder=tmp_path,
    )
    runtime = local_runtime(config, cache=tmp_path, data=tmp_path, jobs=1)
    plan = make_plan(config, load_registry(), runtime=runtime)
    before = torch.get_num_threads()

    done = cell.run_cell(next(plan.cells()).payload(), tmp_path)
    torch.set_num_threads(before)

    assert not [item for item in done["metrics"] if item["phase"] == "profile"]
    assert len(done["info"]["perf_key"]) == 64
