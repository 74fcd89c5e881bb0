"""Captured training steps equal usual ones; what cannot be captured is not, and the record says why."""

from __future__ import annotations

import importlib
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from training_cases import LABEL, Encoder, Supervised, make_model, make_trainer

import mmbench.capture as capture
from mmbench.augment import Augment
from mmbench.batches import SplitData
from mmbench.capture import CapturedSteps, signature
from mmbench.columns import Column
from mmbench.config import TrainConfig
from mmbench.model import MultimodalModel
from mmbench.train import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
#: 7 steps an epoch, the last of 11 samples.
CONFIG = TrainConfig(epochs=6, batch_size=32, patience=0, lr=0.02, clip_norm=0.5)


class Recorded:
    """Stands in for a device that captures: nothing is done until a replay, which does what was recorded."""

    def __init__(self, faults=()):
        self.faults = set(faults)
        self.num_records = 0

    def stream(self):
        return nullcontext()

    def synchronise(self):
        pass

    def record(self, work):
        self.num_records += 1
        if "record" in self.faults:
            raise RuntimeError("operation not permitted when stream is capturing")

        def replay():
            if "replay" in self.faults:
                raise RuntimeError("an illegal memory access was encountered")
            return work().clone() + (1.0 if "loss" in self.faults else 0.0)

        return replay

    def has_room(self):
        return "room" not in self.faults

    def random_state(self):
        return torch.get_rng_state()

    def set_random_state(self, state):
        torch.set_rng_state(state)


@pytest.fixture(autouse=True)
def _few_steps_pay(monkeypatch):
    monkeypatch.setattr(capture, "MIN_STEPS", 10)


def with_capture(trainer, faults=(), **given):
    trainer.captured = CapturedSteps(trainer, "auto", num_steps=trainer.total_steps, recorder=Recorded(faults), **given)
    return trainer


def outcome(trainer):
    trained = trainer.run()
    losses = [(epoch.train_loss, epoch.val_loss) for epoch in trained.history]
    return losses, [value.clone() for value in trainer.model.state_dict().values()]


def assert_as_usual(trainer, usual):
    """Rates on the device are of single precision, so the last bits may differ."""
    losses, weights = outcome(trainer)
    expected_losses, expected_weights = outcome(usual)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    for one, other in zip(weights, expected_weights):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_replayed_steps_train_as_usual_ones_do_with_dropout_clipping_and_a_shorter_last_batch(optimiser):
    config = CONFIG.model_copy(update={"optimiser": optimiser})
    trainer, usual = (make_trainer(config, model=make_model(dropout=0.3)) for _ in range(2))
    with_capture(trainer)

    assert_as_usual(trainer, usual)
    # Of 6 epochs of 6 full and one shorter batch, three of each shape warm up and one of each tries its graph out.
    assert trainer.captured.facts() == {
        "captured": True,
        "num_replayed_steps": 42 - 2 * 4,
        "num_graphs": 2,
    }


def test_replays_repeat_bit_for_bit():
    runs = [outcome(with_capture(make_trainer(CONFIG, model=make_model(dropout=0.3)))) for _ in range(2)]

    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(one, other) for one, other in zip(runs[0][1], runs[1][1]))


def test_augmentations_stay_outside_of_the_graph():
    def augmented():
        trainer = make_trainer(CONFIG)
        trainer.augments = {"x": Augment("tabular", ["noise"], 3, torch.device("cpu"))}
        trainer.augments["x"].fit(*trainer.train_data.fit_inputs("x"))
        return trainer

    trainer = with_capture(augmented())

    assert_as_usual(trainer, augmented())
    assert trainer.captured.num_replayed == 34


@pytest.mark.parametrize("fault", ["room", "record", "replay", "loss"])
def test_whatever_fails_in_capturing_leaves_the_training_as_it_would_have_been(fault):
    trainer, usual = (make_trainer(CONFIG, model=make_model(dropout=0.3)) for _ in range(2))
    with_capture(trainer, [fault])

    assert_as_usual(trainer, usual)
    said = {
        "room": "the device has no room for a second copy of what a step holds",
        "record": "it failed: RuntimeError: operation not permitted when stream is capturing",
        "replay": "a replay failed: RuntimeError: an illegal memory access was encountered",
        "loss": "replays gave the losses",
    }[fault]
    assert trainer.captured.facts()["captured"] is False
    assert trainer.captured.facts()["reason"].startswith(said)


class ReadsProgress(Supervised):
    def forward(self, step):
        return {"task": (1.0 + step.progress) * step.task_loss(step.output.logits)}


class DrawsOnHost(Supervised):
    def forward(self, step):
        random.random()
        return {"task": step.task_loss(step.output.logits)}


class DrawsOfItsOwn(Supervised):
    def __init__(self):
        super().__init__()
        self.drawing = np.random.default_rng(0)

    def forward(self, step):
        return {"task": (1.0 + self.drawing.random()) * step.task_loss(step.output.logits)}


class Counts(Supervised):
    num_calls = 0

    def forward(self, step):
        self.num_calls += 1
        return {"task": step.task_loss(step.output.logits)}


class Asks(Supervised):
    def forward(self, step):
        loss = step.task_loss(step.output.logits)
        return {"task": loss if loss > 0 else -loss}


class Masks(Supervised):
    def forward(self, step):
        logits = step.output.logits["label"]
        return {"task": step.task_loss(step.output.logits) + logits[logits > 0].sum()}


class Modulates(Supervised):
    def after_backward(self, step):
        for parameter in step.model.parameters():
            parameter.grad.mul_(0.5)


class Looks(Supervised):
    def before_epoch(self, start):
        self.scale = 2.0 - start.progress


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (ReadsProgress, "the objective reads progress in each step"),
        (DrawsOnHost, "a step draws random numbers on the host"),
        (DrawsOfItsOwn, "a step changes objective.drawing, which a graph would not"),
        (Counts, "a step changes objective.num_calls, which a graph would not"),
        (Asks, "a step asks the host: aten._local_scalar_dense"),
        (Masks, "a step asks the host: aten.index by a mask, aten.index_put by a mask"),
        (Modulates, "the objective has after_backward and does not say that it is capturable"),
        (Looks, "the objective has before_epoch and does not say that it is capturable"),
    ],
)
def test_what_is_decided_on_the_host_is_not_captured_and_says_why(objective, reason):
    trainer, usual = (make_trainer(CONFIG, objective=objective()) for _ in range(2))
    with_capture(trainer)

    assert_as_usual(trainer, usual)
    assert trainer.captured.facts() == {"captured": False, "reason": reason}


def test_an_objective_that_says_so_is_captured_with_its_changes_to_gradients():
    class Declared(Modulates):
        capturable = True

    config = CONFIG.model_copy(update={"optimiser": "sgd", "clip_norm": 0.0})
    trainer, usual = (make_trainer(config, objective=Declared()) for _ in range(2))

    assert_as_usual(with_capture(trainer), usual)
    assert trainer.captured.num_replayed == 34


class Both(nn.Module):
    fused_dim = 16

    def forward(self, features):
        return features["x"].tensor * features["y"].tensor


@pytest.mark.parametrize(
    ("code", "options"),
    [("agm:Agm", {"alpha": 1.0}), ("gradient_blending:GradientBlending", {"every": 2, "held_out_share": 0.2})],
)
def test_first_party_objectives_that_say_so_train_the_same_captured(code, options):
    module, _, name = code.partition(":")

    def made():
        torch.manual_seed(0)
        columns, targets = {}, (np.arange(203) % 2).astype("i8")
        for seed, modality in enumerate(("x", "y")):
            values = np.random.default_rng(seed).normal(size=(203, 4)).astype("f4")
            values[:, 0] += targets
            columns[modality] = Column(values, None, np.ones(203, bool))
        data = SplitData(columns, {"label": targets}, torch.device("cpu"))
        objective = getattr(importlib.import_module(f"mmbench_objectives.{module}"), name)(
            {"x": 16, "y": 16}, (LABEL,), **options
        )
        heads = getattr(objective, "needs_unimodal_heads", False)
        encoders = {"x": Encoder(), "y": Encoder()}
        model = MultimodalModel(encoders, dict.fromkeys("xy", "vector"), Both(), (LABEL,), unimodal_heads=heads)
        return Trainer(model, objective, data, data, (LABEL,), {"label": None}, CONFIG, order_seed=7, noise_seed=9)

    trainer = with_capture(made())

    assert_as_usual(trainer, made())
    assert trainer.captured.num_replayed > 15


def test_graphs_are_made_anew_when_what_they_rest_on_moves_between_epochs():
    class Moves(Supervised):
        """Has another buffer from the third epoch on, and a number that says so."""

        capturable = True

        def __init__(self):
            super().__init__()
            self.register_buffer("factor", torch.tensor(1.0))

        def before_epoch(self, start):
            if start.epoch == 2:
                self.factor = torch.tensor(3.0)

        def forward(self, step):
            return {"task": self.factor * step.task_loss(step.output.logits)}

    config = CONFIG.model_copy(update={"optimiser": "sgd", "epochs": 4})
    trainer, usual = (make_trainer(config, objective=Moves()) for _ in range(2))
    with_capture(trainer)

    assert_as_usual(trainer, usual)
    assert trainer.captured.recorder is None
    assert trainer.captured.facts()["num_graphs"] == 2  # the shorter batch was met twice before and twice after


def test_what_moves_in_every_epoch_ends_in_usual_steps():
    class Restless(Supervised):
        capturable = True

        def before_epoch(self, start):
            self.epoch_factor = 1.0 + start.epoch

        def forward(self, step):
            return {"task": self.epoch_factor * step.task_loss(step.output.logits)}

    trainer, usual = (make_trainer(CONFIG, objective=Restless()) for _ in range(2))
    with_capture(trainer)

    assert_as_usual(trainer, usual)
    assert trainer.captured.facts()["reason"] == "objective.epoch_factor changes again and again between epochs"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"mode": "never"}, "switched off"),
        ({"mode": "auto"}, "only CUDA has graphs; this ran on cpu"),
        ({"recorder": Recorded(), "resident": False}, "the data do not lie on the device"),
        ({"recorder": Recorded(), "num_steps": 9}, "9 steps do not pay for it, 10 may"),
    ],
)
def test_a_training_that_cannot_gain_is_left_as_it_is(given, reason):
    trainer = make_trainer(CONFIG)
    captured = CapturedSteps(trainer, **{"num_steps": 1000, **given})

    assert captured.facts() == {"captured": False, "reason": reason}
    assert [group["lr"] for group in trainer.optimiser.param_groups] == [0.02, 0.02]


def test_where_the_device_is_what_is_waited_for_nothing_is_captured():
    class Slow(Recorded):
        def synchronise(self):
            import time

            time.sleep(0.1)

    trainer = make_trainer(CONFIG)
    trainer.captured = CapturedSteps(trainer, num_steps=1000, recorder=Slow())
    trainer.run()

    assert trainer.captured.reason.endswith("of a step: the device is what is waited for")


def test_a_graph_that_keeps_its_first_batch_is_found_out(monkeypatch):
    trainer, usual = (make_trainer(CONFIG) for _ in range(2))
    with_capture(trainer)
    monkeypatch.setattr(torch, "_foreach_copy_", lambda targets, sources: None)

    assert_as_usual(trainer, usual)
    assert trainer.captured.reason.startswith("replays gave the losses")


def test_batches_of_many_shapes_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(capture, "MAX_SHAPES", 1)
    trainer = with_capture(make_trainer(CONFIG))
    trainer.run()

    assert trainer.captured.reason == "batches come in more than 1 shapes"


def test_learning_rates_lie_on_the_device_while_steps_are_captured_and_not_afterwards():
    trainer = with_capture(make_trainer(CONFIG))
    with trainer.captured.epoch():
        during = [type(group["lr"]) for group in trainer.optimiser.param_groups]
    trained = trainer.run()

    assert during == [torch.Tensor, torch.Tensor]
    assert [type(group["lr"]) for group in trainer.optimiser.param_groups] == [float, float]
    usual = make_trainer(CONFIG).run()
    assert [epoch.lr for epoch in trained.history] == [epoch.lr for epoch in usual.history]


def test_a_training_whose_shapes_come_too_seldom_says_so():
    trainer = with_capture(make_trainer(CONFIG.model_copy(update={"epochs": 1, "batch_size": 101})))
    unasked = trainer.captured.facts()
    trainer.captured.reason = ""  # three steps would not pay; here they may
    trainer.run()

    assert unasked["captured"] is False
    assert trainer.captured.facts() == {"captured": False, "reason": "no shape of batch came more than 3 times"}


def test_a_trainer_whose_steps_are_taken_by_somebody_else_captures_none():
    trainer = with_capture(make_trainer(CONFIG))

    assert trainer.captured.facts() == {"captured": False, "reason": "its steps were taken otherwise"}


def test_a_batch_is_put_through_a_graph_of_its_shape_only():
    data = make_trainer(CONFIG).train_data
    first, second, shorter = (data.batch(torch.arange(*span)) for span in ((0, 8), (8, 16), (0, 7)))

    assert signature(first) == signature(second)
    assert signature(first) != signature(shorter)


gpu = torch.device("cuda")


def on_gpu(trainer):
    """Move a trainer of `test_train` with its data to the GPU."""

    def moved(data):
        held = data._held["x"].values.numpy()
        columns = {"x": Column(held, None, np.ones(len(held), bool))}
        return SplitData(columns, {name: value.numpy() for name, value in data.targets.items()}, gpu)

    return Trainer(
        trainer.model.to(gpu), trainer.objective.to(gpu), moved(trainer.train_data), moved(trainer.val_data),
        trainer.tasks, trainer.scalers, trainer.config, order_seed=7, noise_seed=9, cuda_graphs="auto",
    )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_on_a_gpu_captured_steps_train_as_usual_ones_do(optimiser, precision, monkeypatch):
    monkeypatch.setattr(capture, "MIN_LAUNCH_SHARE", 0.0)
    config = CONFIG.model_copy(update={"optimiser": optimiser, "precision": precision})
    captured, usual = (on_gpu(make_trainer(config, model=make_model(dropout=0.3))) for _ in range(2))
    usual.captured.reason = "left out here"

    losses, weights = outcome(captured)
    expected_losses, expected_weights = outcome(usual)
    assert captured.captured.num_replayed == 34, captured.captured.facts()
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-3 if precision == "fp32" else 2e-2)
    for one, other in zip(weights, expected_weights):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3 if precision == "fp32" else 1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
def test_on_a_gpu_a_broken_capture_leaves_dropout_and_training_whole(monkeypatch):
    class AsksWhileCapturing(Supervised):
        def forward(self, step):
            loss = step.task_loss(step.output.logits)
            if torch.cuda.is_current_stream_capturing():
                loss.item()
            return {"task": loss}

    monkeypatch.setattr(capture, "MIN_LAUNCH_SHARE", 0.0)
    broken, usual = (
        on_gpu(make_trainer(CONFIG, model=make_model(dropout=0.3), objective=objective))
        for objective in (AsksWhileCapturing(), Supervised())
    )
    usual.captured.reason = "left out here"

    losses, _ = outcome(broken)
    np.testing.assert_allclose(losses, outcome(usual)[0], rtol=1e-3)
    assert broken.captured.reason.startswith("it failed: ")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
def test_on_a_gpu_no_step_of_an_epoch_waits_for_the_device():
    trainer = on_gpu(make_trainer(CONFIG))
    trainer.captured.close()
    batches = list(trainer.train_data.batches(torch.arange(203), 32))
    trainer.step(batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in trainer.train_data.batches(torch.arange(203), 32):
            trainer.step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
