"""Balanced sampling: how often each class is drawn, against counts and scikit-learn's balanced weights."""

import pytest
import torch
from sklearn.utils.class_weight import compute_sample_weight
from training_cases import Supervised, make_trainer

from mmbench.config import TrainConfig
from mmbench.sampler import balanced_sampler
from mmbench.spec import TaskSpec
from mmbench.train import Trainer

CLASSES = TaskSpec(name="label", kind="multiclass", num_outputs=3)
TAGS = TaskSpec(name="tags", kind="multilabel", num_outputs=2)


def probabilities(sampler):
    return torch.diff(sampler.cumulative, prepend=torch.zeros(1, dtype=torch.float64)).tolist()


def test_a_samples_probability_is_scikit_learns_balanced_weight():
    target = torch.tensor([0] * 50 + [1] * 5 + [2])
    weights = compute_sample_weight("balanced", target.numpy())

    sampler = balanced_sampler((CLASSES,), {"label": target}, torch.arange(56))

    assert probabilities(sampler) == pytest.approx((weights / weights.sum()).tolist())


def test_every_class_is_drawn_equally_often():
    target = torch.tensor([0] * 50 + [1] * 5 + [2])
    sampler = balanced_sampler((CLASSES,), {"label": target}, torch.arange(56))

    drawn = target[sampler.draw(30_000, torch.Generator().manual_seed(0))]

    assert torch.bincount(drawn).tolist() == pytest.approx([10_000] * 3, abs=4 * 82)  # 4 standard deviations


def test_only_samples_that_steps_are_taken_on_are_counted():
    target = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    sampler = balanced_sampler((CLASSES,), {"label": target}, torch.tensor([0, 3, 4]))

    assert probabilities(sampler) == pytest.approx([0.5, 0.25, 0.25])


def test_a_label_counts_as_a_class_and_so_does_having_none():
    target = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    shares = [1 / 3, (1 / 3 + 1) / 2, 1 / 3, 1.0]

    sampler = balanced_sampler((TAGS,), {"tags": target}, torch.arange(4))

    assert probabilities(sampler) == pytest.approx([share / sum(shares) for share in shares])


def test_a_task_without_classes_is_sampled_as_usual():
    age = TaskSpec(name="age", kind="regression", num_outputs=1)

    assert balanced_sampler((age,), {"age": torch.zeros(3, 1)}, torch.arange(3)) is None


def test_settings_that_came_later_leave_the_keys_of_cells_that_do_not_use_them():
    assert set(TrainConfig().model_dump()) == {
        "epochs", "batch_size", "optimiser", "lr", "momentum", "weight_decay", "l1", "dropout", "clip_norm", "schedule",
        "warmup", "patience", "class_weights", "select", "precision", "limit",
    }  # fmt: skip
    balanced = TrainConfig(sampler="balanced")
    assert balanced.model_dump()["sampler"] == "balanced"
    assert TrainConfig.model_validate(balanced.model_dump()) == balanced


def test_training_takes_its_steps_on_what_the_sampler_draws_of_samples_that_are_not_held_out():
    objective = Supervised()
    objective.held_out_share = 0.5
    trainer = make_trainer(TrainConfig(sampler="balanced", batch_size=40), objective=objective)
    rare = 20
    target = trainer.train_data.targets["label"]
    target.zero_()
    target[trainer.stepped_on[:rare]] = 1
    trainer = make_trainer_like(trainer)

    chunks = [torch.cat(trainer.next_chunks()) for _ in range(40)]

    visited = torch.cat(chunks)
    assert {len(chunk) for chunk in chunks} == {len(trainer.stepped_on)}
    assert set(visited.tolist()) <= set(trainer.stepped_on.tolist())
    share = float(target[visited].double().mean())
    assert share == pytest.approx(0.5, abs=4 * 0.5 / len(visited) ** 0.5)  # 4 standard deviations


def make_trainer_like(trainer):
    return Trainer(
        trainer.model, trainer.objective, trainer.train_data, trainer.val_data, trainer.tasks, trainer.scalers,
        trainer.config, order_seed=7, noise_seed=9,
    )  # fmt: skip
