"""Weights of samples in training: the loss against scikit-learn and duplicates, and the way from a table to a step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmbench_objectives.focal import focal_loss
from sklearn.metrics import log_loss
from training_cases import CPU, LABEL, TAGS, VALUE, make_split, make_trainer

from mmbench.batches import SplitData
from mmbench.cache import ArrayCache
from mmbench.columns import Column
from mmbench.data import Sample
from mmbench.dataset_source import DatasetSource
from mmbench.errors import DataError, UsageError
from mmbench.model import Batch
from mmbench.spec import DatasetInfo, Modality, TaskSpec
from mmbench.tasks import task_loss

WEIGHTS = torch.tensor([0.0, 1.0, 3.0, 2.0])
CLASSES = TaskSpec(name="label", kind="multiclass", num_outputs=3)
TARGETS = {
    "label": torch.tensor([0, 2, 1, 0]),
    "tags": torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]),
    "value": torch.tensor([[0.5], [-1.0], [2.0], [0.0]]),
}
REPEATED = torch.tensor([1, 2, 2, 2, 3, 3])


@pytest.mark.parametrize("task", [CLASSES, TAGS, VALUE], ids=lambda task: task.kind)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_whole_weight_is_as_many_copies_of_the_sample(task, weighted):
    logits = torch.randn(4, task.num_outputs, generator=torch.Generator().manual_seed(0))
    target = TARGETS[task.name]
    class_weights = torch.rand(task.num_outputs) + 0.5 if weighted and task.kind != "regression" else None

    loss = task_loss(task, logits, target, class_weights=class_weights, sample_weights=WEIGHTS)

    copies = task_loss(task, logits[REPEATED], target[REPEATED], class_weights=class_weights)
    assert float(loss) == pytest.approx(float(copies), rel=1e-5)


def test_the_weighted_loss_of_classes_is_scikit_learns():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    expected = log_loss(TARGETS["label"], logits.softmax(1), sample_weight=WEIGHTS, labels=[0, 1, 2])

    assert float(task_loss(CLASSES, logits, TARGETS["label"], sample_weights=WEIGHTS)) == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("task", [CLASSES, TAGS], ids=lambda task: task.kind)
def test_the_focal_loss_takes_weights_as_copies_too(task):
    logits = torch.randn(4, task.num_outputs, generator=torch.Generator().manual_seed(2))
    target, class_weights = TARGETS[task.name], torch.rand(task.num_outputs) + 0.5

    loss = focal_loss(task.kind, logits, target, 2.0, class_weights, WEIGHTS)

    copies = focal_loss(task.kind, logits[REPEATED], target[REPEATED], 2.0, class_weights)
    assert float(loss) == pytest.approx(float(copies), rel=1e-5)


def test_a_batch_of_weight_zero_teaches_nothing():
    logits = torch.randn(4, 3, requires_grad=True)

    task_loss(CLASSES, logits, TARGETS["label"], sample_weights=torch.zeros(4)).backward()

    assert not bool(logits.grad.any())


def weighted_split(weights):
    plain = make_split(203, 1)
    values = np.random.default_rng(1).normal(size=(203, 4)).astype("f4")
    columns = {"x": Column(values, None, np.ones(203, bool))}
    return SplitData(columns, {"label": plain.targets["label"].numpy()}, CPU, weights=weights)


def test_steps_use_the_weights_of_their_own_samples():
    weights = np.arange(203, dtype="f4") % 5
    trainer = make_trainer()
    trainer.train_data = weighted_split(weights)
    rows = torch.tensor([7, 100, 3, 201])

    step, loss = trainer.look(trainer.model, trainer.objective, trainer.train_data.batch(rows), epoch=0)

    assert step.sample_weights.tolist() == [2.0, 0.0, 3.0, 1.0]
    each = task_loss(LABEL, step.output.logits["label"], step.batch.targets["label"], reduction="none")
    assert float(loss.detach()) == pytest.approx(float((each * torch.tensor([2.0, 0, 3, 1])).sum().detach() / 6))


def test_training_ignores_samples_of_weight_zero_whatever_their_labels():
    kept = np.arange(203) % 2 == 0
    scores = {}
    for wrong in (False, True):
        data = weighted_split(kept.astype("f4"))
        if wrong:
            data.targets["label"][torch.from_numpy(~kept)] = 1 - data.targets["label"][torch.from_numpy(~kept)]
        trainer = make_trainer()
        trainer.train_data = data
        trainer.run()
        scores[wrong] = [parameter.detach().clone() for parameter in trainer.model.parameters()]

    assert all(torch.equal(one, other) for one, other in zip(scores[False], scores[True]))


def test_seeds_that_are_trained_together_refuse_weights():
    trainer = make_trainer()
    trainer.train_data = weighted_split(np.full(203, 2.0, "f4"))
    batch = trainer.train_data.batch(torch.arange(4))

    with pytest.raises(UsageError, match="trained together"):
        trainer.look(trainer.model, trainer.objective, Batch(4, batch.inputs, batch.targets), epoch=0)


def source(folder, weights):
    info = DatasetInfo(modalities=(Modality(name="x", kind="tabular"),), tasks=(LABEL,))

    def open_splits():
        return {
            split: [
                Sample(f"{split}-{at}", {"x": np.zeros(2, "f4")}, {"label": at % 2}, weight=weight)
                for at, weight in enumerate(weights)
            ]
            for split in ("train", "val", "test")
        }

    return DatasetSource(info, "k", open_splits, ArrayCache(folder))


def test_weights_come_back_from_the_cache_and_only_where_there_are_any(tmp_path):
    for _ in range(2):  # made, then read
        assert source(tmp_path / "weighted", [1.0, 0.5, 0.0]).index.weights.tolist() == [1.0, 0.5, 0.0]
        assert source(tmp_path / "plain", [1.0, 1.0]).index.weights is None


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0, -1.0], "finite and at least 0, got -1"), ([0.0, 0.0], "the weight 0"), ([np.nan], "nan")],
)
def test_weights_that_cannot_be_are_refused(tmp_path, weights, message):
    with pytest.raises(DataError, match=message):
        _ = source(tmp_path, weights).index
