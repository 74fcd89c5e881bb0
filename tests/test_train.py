"""The training loop equals a bare one, chooses on val, repeats bit for bit and stops when it should."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_cases import CPU, LABEL, VALUE, Encoder, First, Supervised, make_model, make_trainer

from mmbench.batches import SplitData
from mmbench.columns import Column
from mmbench.config import TrainConfig
from mmbench.errors import Diverged
from mmbench.model import MultimodalModel
from mmbench.optimiser import lr_factor, make_optimiser
from mmbench.spec import TaskSpec
from mmbench.train import Trainer, predict

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_training_equals_a_bare_loop_bit_for_bit(optimiser):
    config = TrainConfig(
        epochs=3,
        optimiser=optimiser,
        lr=0.05,
        patience=0,
        clip_norm=0.5,
        schedule="constant",
        warmup=0.0,
        batch_size=32,
    )
    trainer = make_trainer(config)
    bare = copy.deepcopy(trainer.model)
    data = trainer.train_data
    inputs, labels = data._held["x"].values, data.targets["label"]

    states = []
    matrices = [parameter for parameter in bare.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in bare.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimisers = {
        "sgd": lambda: torch.optim.SGD(groups, lr=0.05, momentum=0.9, fused=True),
        "adam": lambda: torch.optim.Adam(groups, lr=0.05, fused=True),
        "adamw": lambda: torch.optim.AdamW(groups, lr=0.05, fused=True),
    }
    stepper = optimisers[optimiser]()
    generator = torch.Generator().manual_seed(7)
    for _ in range(3):
        for index in torch.randperm(203, generator=generator).split(32):
            logits = bare.heads[0](bare.encoders[0].net(inputs[index]))
            F.cross_entropy(logits, labels[index]).backward()
            nn.utils.clip_grad_norm_(bare.parameters(), 0.5)
            stepper.step()
            stepper.zero_grad()
        states.append(copy.deepcopy(bare.state_dict()))

    trained = trainer.run()

    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, states[trained.best_epoch][name]), name


def test_two_trainings_with_the_same_seeds_are_equal_to_the_bit():
    histories = []
    for _ in range(2):
        trained = make_trainer(model=make_model(dropout=0.3)).run()
        histories.append([(epoch.train_loss, epoch.val_loss) for epoch in trained.history])

    assert histories[0] == histories[1]


def test_another_noise_seed_changes_dropout_and_not_the_order():
    losses = [
        make_trainer(model=make_model(dropout=0.3), noise_seed=seed).run().history[0].train_loss for seed in (1, 2)
    ]
    plain = [make_trainer(noise_seed=seed).run().history[0].train_loss for seed in (1, 2)]

    assert losses[0] != losses[1]
    assert plain[0] == plain[1]


def test_the_model_keeps_the_epoch_that_val_liked_best():
    trainer = make_trainer(TrainConfig(epochs=8, lr=0.1, patience=0))
    trained = trainer.run()

    scores = [(epoch.val_score, -epoch.val_loss) for epoch in trained.history]
    assert trained.best_epoch == scores.index(max(scores))
    assert trainer.validate() == (trained.history[trained.best_epoch].val_loss, max(scores)[0])


def test_where_less_is_better_the_epoch_of_the_least_error_is_kept():
    trainer = make_trainer(TrainConfig(epochs=5, lr=0.05, patience=0), tasks=(VALUE,), model=make_model((VALUE,)))
    trained = trainer.run()

    logits = predict(trainer.model, trainer.val_data, trainer.config)["value"]
    target = trainer.val_data.targets["value"]
    error = (trainer.scalers["value"].unscale(logits) - target).abs().mean().item()
    assert trained.selected_by == "mae"
    assert error == pytest.approx(min(-epoch.val_score for epoch in trained.history), rel=1e-5)
    assert trained.best_epoch > 0


def test_where_the_metric_is_never_defined_the_epoch_of_the_least_loss_is_kept():
    task = TaskSpec(name="value", kind="regression", num_outputs=1, primary="pearson")
    trainer = make_trainer(TrainConfig(epochs=6, lr=0.3, patience=0), tasks=(task,))
    trainer.val_data.targets["value"].fill_(10.0)  # nothing correlates with a constant
    trained = trainer.run()

    losses = [epoch.val_loss for epoch in trained.history]
    assert all(math.isnan(epoch.val_score) for epoch in trained.history)
    assert trained.best_epoch == losses.index(min(losses)) != len(losses) - 1
    assert trainer.validate()[0] == min(losses)


def test_training_stops_when_the_score_has_not_risen_for_patience_epochs():
    trainer = make_trainer(TrainConfig(epochs=50, lr=1e-7, patience=2))

    assert len(trainer.run().history) == 3


def test_a_loss_that_is_not_finite_ends_the_cell_as_diverged():
    class Broken(nn.Module):
        def forward(self, step):
            return {"task": step.task_loss(step.output.logits) * float("nan")}

    with pytest.raises(Diverged, match="the loss on train is nan in epoch 1"):
        make_trainer(objective=Broken()).run()


def test_several_tasks_are_summed_by_weight_and_chosen_by_loss():
    tasks = (LABEL, VALUE, TaskSpec(name="tags", kind="multilabel", num_outputs=2, weight=0.5))
    trainer = make_trainer(TrainConfig(epochs=1), tasks=tasks, model=make_model(tasks))
    logits = predict(trainer.model, trainer.val_data, trainer.config)
    targets = trainer.val_data.targets
    scaled = (targets["value"] - trainer.train_data.targets["value"].mean()) / trainer.train_data.targets["value"].std(
        unbiased=False
    )

    expected = (
        F.cross_entropy(logits["label"], targets["label"])
        + F.mse_loss(logits["value"], scaled)
        + 0.5 * F.binary_cross_entropy_with_logits(logits["tags"], targets["tags"])
    )
    torch.testing.assert_close(trainer.loss(logits, targets), expected)
    assert trainer.selected_by == "loss"


def test_l1_is_added_to_the_loss():
    plain, heavy = make_trainer(TrainConfig(epochs=1)), make_trainer(TrainConfig(epochs=1, l1=0.1))
    batch = plain.train_data.batch(torch.arange(8))
    norm = sum(parameter.abs().sum() for parameter in heavy.model.parameters()).item()

    assert float(heavy.step(batch) - plain.step(batch)) == pytest.approx(0.1 * norm, rel=1e-4)


def test_auxiliary_losses_are_added():
    class Costly(First):
        def forward(self, features):
            from mmbench.features import Features

            return Features(features["x"].tensor, losses={"extra": torch.tensor(5.0)})

    plain = make_trainer()
    model = copy.deepcopy(plain.model)
    model.fusion = Costly()
    batch = plain.train_data.batch(torch.arange(8))

    assert float(make_trainer(model=model).step(batch) - plain.step(batch)) == pytest.approx(5.0, abs=1e-5)


def test_weight_decay_leaves_vectors_alone():
    optimiser = make_optimiser([make_model()], TrainConfig(weight_decay=0.3), CPU)

    decays = {
        group["weight_decay"]: [parameter.dim() for parameter in group["params"]] for group in optimiser.param_groups
    }
    assert decays == {0.3: [2, 2], 0.0: [1, 1]}


def test_a_parameter_shared_by_model_and_objective_is_stepped_once():
    model, objective = make_model(), Supervised()
    objective.shared = model.encoders[0]
    optimiser = make_optimiser([model, objective], TrainConfig(), CPU)

    assert sum(len(group["params"]) for group in optimiser.param_groups) == 4


@pytest.mark.parametrize(
    ("progress", "schedule", "expected"),
    [(0.05, "cosine", 0.5), (0.1, "cosine", 1.0), (0.55, "cosine", 0.5), (1.0, "cosine", 0.0), (0.9, "constant", 1.0)],
)
def test_the_learning_rate_warms_up_then_follows_its_schedule(progress, schedule, expected):
    assert lr_factor(progress, TrainConfig(schedule=schedule, warmup=0.1)) == pytest.approx(expected, abs=1e-12)


def test_balanced_class_weights_reach_the_loss():
    balanced = make_trainer(TrainConfig(class_weights="balanced"))
    counts = np.bincount(balanced.train_data.targets["label"].numpy())

    ratio = balanced.weights["label"][0] / balanced.weights["label"][1]
    assert float(ratio) == pytest.approx(counts[1] / counts[0], rel=1e-5)


def test_an_objective_can_change_gradients_after_the_backward_pass():
    class Stopped(Supervised):
        def after_backward(self, step):
            for parameter in step.model.parameters():
                parameter.grad.zero_()

    trainer = make_trainer(TrainConfig(epochs=1, optimiser="sgd", weight_decay=0.0), objective=Stopped())
    before = copy.deepcopy(trainer.model.state_dict())
    trainer.run()

    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_objectives_know_how_far_training_is():
    seen = []

    class Curious(Supervised):
        def forward(self, step):
            seen.append((step.epoch, round(step.progress, 3)))
            return super().forward(step)

    make_trainer(TrainConfig(epochs=2, batch_size=101, patience=0), objective=Curious()).run()

    # 203 samples in batches of 101 are three steps, the last of which holds one sample and is left out.
    assert seen == [(0, 0.0), (0, 0.167), (1, 0.333), (1, 0.5)]


def test_steps_after_training_leave_its_share_at_one():
    trainer = make_trainer(TrainConfig(epochs=1, batch_size=101, patience=0))
    trainer.run()
    for _ in range(3):
        trainer.step(trainer.val_data.batch(torch.arange(4)))

    assert trainer.step_number == 5 > trainer.total_steps
    assert trainer.progress == 1.0


def test_bf16_trains_to_finite_losses():
    trained = make_trainer(TrainConfig(epochs=2, precision="bf16")).run()

    assert all(math.isfinite(epoch.train_loss) for epoch in trained.history)


def test_batches_of_one_train_on_every_sample():
    trained = make_trainer(TrainConfig(epochs=2, batch_size=1, patience=0)).run()

    assert trained.num_steps == 2 * 203
    assert trained.history[1].train_loss < trained.history[0].train_loss


def test_predictions_come_in_the_order_of_the_split():
    trainer = make_trainer(TrainConfig(batch_size=16))
    logits = predict(trainer.model, trainer.val_data, trainer.config)["label"]

    with torch.no_grad():
        alone = trainer.model(trainer.val_data.batch(torch.tensor([42]))).logits["label"]
    torch.testing.assert_close(logits[42:43], alone)


class Added(nn.Module):
    fused_dim = 16

    def forward(self, features):
        return features["x"].tensor + 0.1 * features["y"].tensor


@pytest.mark.parametrize("count", [64, 65, 70])
def test_the_gradient_of_each_encoder_in_an_epoch_s_last_step_is_in_the_history(count):
    torch.manual_seed(0)
    model = MultimodalModel({"x": Encoder(), "y": Encoder()}, {"x": "vector", "y": "vector"}, Added(), [LABEL])
    values = np.random.default_rng(0).normal(size=(count, 4)).astype("f4")
    columns = {name: Column(values, None, np.ones(count, bool)) for name in "xy"}
    data = SplitData(columns, {"label": (values[:, 0] > 0).astype("i8")}, CPU)
    config = TrainConfig(epochs=1, batch_size=32, optimiser="sgd", lr=1e-9, schedule="constant", warmup=0)
    trainer = Trainer(model, Supervised(), data, data, [LABEL], {"label": None}, config, order_seed=3, noise_seed=4)

    (epoch,) = trainer.run().history

    order = torch.randperm(count, generator=torch.Generator().manual_seed(3))
    last = [chunk for chunk in order.split(32) if len(chunk) > 1][-1]
    batch = data.batch(last)
    F.cross_entropy(model(batch).logits["label"], batch.targets["label"]).backward()
    for name, encoder in zip("xy", model.encoders):
        norm = math.sqrt(sum(float((parameter.grad**2).sum()) for parameter in encoder.parameters()))
        assert epoch.grad_norms[name] == pytest.approx(norm, rel=1e-4)


def test_one_modality_has_no_gradients_to_compare():
    (epoch, *_) = make_trainer(TrainConfig(epochs=1)).run().history

    assert epoch.grad_norms == {}


class Watching(Supervised):
    """Holds a fifth out, and remembers what it is shown."""

    held_out_share = 0.2

    def __init__(self):
        super().__init__()
        self.starts, self.stepped = [], []

    def before_epoch(self, start):
        assert not start.model.training
        assert not torch.is_grad_enabled()
        rows = [torch.cat([batch.inputs["x"].values for batch in part()]) for part in (start.seen, start.held_out)]
        loss = [start.task_loss(start.model(batch).logits, batch.targets) for batch in start.held_out()]
        self.starts.append((start.epoch, start.progress, *rows, float(loss[0])))

    def forward(self, step):
        self.stepped.append(step.batch.inputs["x"].values)
        return super().forward(step)


def test_an_objective_sees_training_before_each_epoch_and_never_steps_on_what_it_holds_out():
    objective = Watching()
    trainer = make_trainer(TrainConfig(epochs=3, patience=0, batch_size=32), objective=objective)
    trainer.run()

    def as_set(values):
        return {tuple(row) for row in values.tolist()}

    everything = as_set(trainer.train_data._held["x"].values)
    stepped = as_set(torch.cat(objective.stepped))
    assert [(epoch, progress) for epoch, progress, *_ in objective.starts] == [
        (0, 0.0), (1, pytest.approx(1 / 3)), (2, pytest.approx(2 / 3))
    ]  # fmt: skip
    for _, _, seen, held_out, _ in objective.starts:
        assert len(held_out) == len(seen) == 41  # a fifth of 203
        assert as_set(seen) <= stepped
    assert not as_set(objective.starts[0][3]) & stepped
    assert as_set(objective.starts[0][3]) | stepped == everything
    assert torch.equal(objective.starts[0][3], objective.starts[2][3])
    assert objective.starts[2][4] < objective.starts[0][4]


def test_watching_training_changes_nothing_of_it():
    class Looking(Supervised):
        def before_epoch(self, start):
            assert not list(start.held_out())
            assert sum(batch.size for batch in start.seen()) == 203

    config = TrainConfig(epochs=3, patience=0, batch_size=32)
    models = [make_trainer(config, model=make_model(dropout=0.3), objective=o) for o in (Supervised(), Looking())]
    for trainer in models:
        trainer.run()

    one, other = (trainer.model.state_dict() for trainer in models)
    assert all(torch.equal(one[key], other[key]) for key in one)
