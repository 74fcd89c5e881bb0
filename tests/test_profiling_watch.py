"""Times of a training taken while it goes on: what counts, what does not, and that nothing in it changes."""

from __future__ import annotations

import json

import pytest
import torch
from profile_cases import Takes, batches, build, training_step
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

from mmbench.cell import run_cell
from mmbench.config import cache_dir, data_dir, load_config
from mmbench.plan import local_runtime, make_plan
from mmbench.profiling import PROTOCOLS, profile
from mmbench.profiling.watch import Thinned, TrainingWatch
from mmbench.registry import load_registry

CPU = torch.device("cpu")
QUICK = PROTOCOLS["quick"]


pytestmark = pytest.mark.usefixtures("one_thread")


def watch_of(model):
    return TrainingWatch(model, batch_size=16, pass_size=40, protocol=QUICK)


def trained(model, num_steps, *, watch):
    """Take steps as a trainer does."""
    step, batch = training_step(model), batches(model)["train"]

    def take(batch, epoch, grad_norms):
        step(batch)
        return torch.zeros(())

    for _ in range(num_steps):
        watch.step(take, batch, 0, None)


def test_each_sixteenth_step_is_taken_apart_and_the_others_are_timed_as_a_whole_once_ten_have_warmed_up(clock):
    model = build(image=Takes(clock.advance, *[1.0] * 10, *[0.004] * 100), text=Takes(clock.advance, 0.001))
    watch = watch_of(model)

    trained(model, 10 + 33, watch=watch)

    assert [stages["encode.image"] for stages in watch.stages()] == pytest.approx([0.004] * 3, rel=0.01)
    assert [stages["encode.text"] for stages in watch.stages()] == pytest.approx([0.001] * 3, rel=0.01)
    assert watch.steps().samples_s == pytest.approx([0.005] * 30, rel=0.01)
    assert watch.steps().warmup == (10, "limit")
    for stages in watch.stages():
        assert sum(stages.values()) == pytest.approx(0.005, rel=0.02)


def test_stages_are_shares_of_the_steps_taken_apart_of_what_a_step_takes_whatever_the_machines_mood_then(clock):
    # Each sixteenth step, which is taken apart, meets a machine of half the speed.
    slow_then_fast = [0.008, *[0.004] * 15]
    image = Takes(clock.advance, *[1.0] * 10, *slow_then_fast * 10)
    model = build(image=image, text=Takes(clock.advance, *[1.0] * 10, *[item / 4 for item in slow_then_fast] * 10))
    watch = watch_of(model)
    trained(model, 10 + 64, watch=watch)

    found, raw = profile(model, batches(model), None, CPU, QUICK, contended=False, watch=watch)

    values = {item.name: item.value for item in found}
    assert raw["stages"]["encode.image"] == pytest.approx([0.008] * 4, rel=0.01)
    assert values["step_time_s"] == pytest.approx(0.005, rel=0.01)
    assert values["stage_time_s:encode.image"] == pytest.approx(0.004, rel=0.01)
    assert values["stage_time_s:encode.text"] == pytest.approx(0.001, rel=0.01)


def test_a_smaller_batch_and_a_step_that_measures_gradients_do_not_count(clock):
    model = build(image=Takes(clock.advance, 0.004))
    watch, taken = watch_of(model), []
    sizes = batches(model)

    def take(batch, epoch, grad_norms):
        taken.append((batch.size, epoch, grad_norms))
        return torch.zeros(())

    for _ in range(30):
        watch.step(take, sizes["single"], 0, None)
        watch.step(take, sizes["train"], 1, {})

    assert taken == [(1, 0, None), (16, 1, {})] * 30  # taken all the same
    assert watch.steps() is None
    assert watch.stages() == []


def test_steps_count_from_the_epoch_on_that_trains_the_last_layers_to_be_opened(clock):
    model = build(image=Takes(clock.advance, *[0.001] * 40, 0.004))
    model.encoders[0].requires_grad_(False)
    watch, step = watch_of(model), training_step(model)
    batch = batches(model)["train"]

    def take(batch, epoch, grad_norms):
        step(batch)
        return torch.zeros(())

    for number in range(80):
        if number == 40:
            model.encoders[0].requires_grad_(True)
        watch.step(take, batch, number // 20, None)

    # Of the last 40 steps 10 warm up, and of the 30 after those each sixteenth is taken apart.
    assert watch.steps().samples_s == pytest.approx([0.004] * 28, rel=0.01)
    assert [stages["encode.image"] for stages in watch.stages()] == pytest.approx([0.004] * 2, rel=0.01)
    assert watch.num_reached_parameters == sum(item.numel() for item in model.parameters())


def test_a_training_of_a_few_steps_gives_no_times():
    model = build(image=nn.Linear(8, 8))
    watch = watch_of(model)

    trained(model, 10 + 1 + 2, watch=watch)
    assert watch.steps() is None
    trained(model, 1, watch=watch)
    assert len(watch.steps().samples_s) == 3


def test_full_passes_over_val_count_after_the_first(clock):
    model = build(image=Takes(clock.advance, 1.0, 0.5, 0.020, 0.5, 0.020, 0.5, 0.020, 0.5, 0.030))
    watch = watch_of(model)
    full, rest = batches(model, size=40)["train"], batches(model, size=7)["train"]

    for _ in range(4):
        watch.infer(full)
        watch.infer(rest)
    assert watch.passes().samples_s == pytest.approx([0.020, 0.020, 0.020], rel=0.001)
    assert watch.passes().window_s == pytest.approx(0.060, rel=0.001)
    output = watch.infer(full)

    assert output.logits["digit"].shape == (40, 10)
    assert watch.passes().samples_s[-1] == pytest.approx(0.030, rel=0.001)


def test_a_long_training_keeps_few_times_spread_over_all_of_it():
    kept = Thinned(limit=8, every=2)

    for number in range(100):
        if kept.due():
            kept.add(number)

    assert kept.kept == [0, 16, 32, 48, 64, 80, 96]


def test_the_profile_takes_what_was_watched_and_runs_no_step(clock):
    model = build(image=Takes(clock.advance, 0.004))
    watch = watch_of(model)
    trained(model, 40, watch=watch)
    model.eval()
    for _ in range(6):
        watch.infer(batches(model, size=40)["train"])

    def never(batch):
        raise AssertionError("a step was taken to be measured")

    # An objective that holds samples out may leave less than a batch to step on: what was watched is what is told.
    found, raw = profile(model, batches(model, size=20), never, CPU, QUICK, contended=True, watch=watch)

    by_name = {metric.name: metric for metric in found}
    assert by_name["step_time_s"].value == pytest.approx(0.004, rel=0.01)
    assert by_name["step_time_s"].n == 28
    assert by_name["step_time_s"].note.endswith("training at batch size 16")
    assert by_name["stage_time_s:encode.image"].note.endswith("training at batch size 16")
    assert raw["step"]["batch_size"] == 16
    assert by_name["stage_time_s:encode.image"].value == pytest.approx(0.004, rel=0.01)
    assert by_name["stage_time_s:encode.image"].n == 2
    assert by_name["throughput_samples_per_s"].value == pytest.approx(40 / 0.004, rel=0.01)
    assert by_name["throughput_samples_per_s"].note == (
        "contended: others computed on the device; inference at batch size 40, in the passes over val"
    )
    assert by_name["latency_p50_s"].value == pytest.approx(0.004, rel=0.01)
    assert by_name["num_parameters_with_gradient"].value == by_name["num_parameters_trainable"].value > 0
    assert raw["watched"] == ["inference", "step"]
    # Of 0.184 s of training three thousandths are less than one pass: three are taken at least.
    assert len(raw["latency"]["samples_s"]) == 3
    assert raw["step"]["warmup_iterations"] == 10
    assert raw["inference"]["batch_size"] == 40


def test_parameters_that_no_gradient_reaches_are_not_counted_as_reached(clock):
    model = build(image=Takes(clock.advance, 0.001))
    model.register_parameter("unused", nn.Parameter(torch.zeros(1000)))
    watch = watch_of(model)

    trained(model, 12, watch=watch)

    image, head = 8 * 8 + 8, 8 * 10 + 10
    assert watch.num_reached_parameters == image + head


def test_a_step_that_fails_leaves_no_hook_behind():
    model = build(image=nn.Linear(8, 8))
    watch, backward = watch_of(model), torch.autograd.backward
    before = len(_global_optimizer_pre_hooks)

    def fail(batch, epoch, grad_norms):
        raise RuntimeError("out of luck")

    trained(model, 10, watch=watch)
    with pytest.raises(RuntimeError, match="out of luck"):
        watch.step(fail, batches(model)["train"], 0, None)

    assert torch.autograd.backward is backward
    assert len(_global_optimizer_pre_hooks) == before
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


@pytest.fixture
def ran(tmp_path):
    """Run one cell of `digits` under a protocol; return its result and the bytes of its predictions."""

    def run(protocol, **train):
        folder = tmp_path / f"{protocol}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        config = load_config(
            {
                "dataset": ["digits"],
                "encoder": ["image=cnn", "text=embedding-lstm"],
                "modality": ["image", "text"],
                "fusion": ["concat"],
                "baselines": False,
                "protocol": protocol,
                "diagnostics": "none",
                "device": "cpu",
                "train": {"epochs": 5, **train},
            },
            folder=tmp_path,
        )
        runtime = local_runtime(config, cache=cache_dir(config), data=data_dir(), jobs=1)
        cells = [cell for cell in make_plan(config, load_registry(), runtime=runtime).cells() if len(cell.encoders) > 1]
        result = run_cell(cells[0].payload(), folder)
        return result, (folder / "predictions.safetensors").read_bytes(), folder

    return run


def test_a_watched_training_gives_the_same_predictions_to_the_last_bit(ran):
    alone, predicted, _ = ran("none")
    watched, predicted_too, folder = ran("quick")

    assert predicted == predicted_too
    assert [item["val_loss"] for item in alone["info"]["history"]] == [
        item["val_loss"] for item in watched["info"]["history"]
    ]
    assert watched["info"]["perf_setup"]["watched"] == ["inference", "step"]
    raw = json.loads((folder / "timings.json").read_text())
    # 19 batches an epoch, of which the last is smaller: 90 full steps, 10 to warm up, every sixteenth taken apart.
    assert len(raw["step"]["samples_s"]) == 75
    assert len(raw["stages"]["backward"]) == 5
    assert len(raw["inference"]["samples_s"]) == 4


def test_a_training_too_short_to_be_watched_is_measured_afterwards(ran):
    result, _, folder = ran("quick", epochs=1, limit=64)

    assert "watched" not in result["info"]["perf_setup"]
    raw = json.loads((folder / "timings.json").read_text())
    assert "watched" not in raw
    assert len(raw["step"]["samples_s"]) >= 3
    step = next(metric for metric in result["metrics"] if metric["name"] == "step_time_s")
    assert step["value"] > 0


def test_the_protocols_that_take_their_time_measure_afterwards_alone():
    assert [name for name, protocol in PROTOCOLS.items() if protocol.watches] == ["quick"]
