"""Focal loss and logit adjustment against their formulas in plain loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from mmbench_objectives.focal import focal_loss
from objective_cases import LABEL, make, make_step
from torch.nn import functional as F

from mmbench.errors import UsageError

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0], [-2.0, 1.0, 1.0], [5.0, 0.0, -5.0]])
TARGET = torch.tensor([0, 2, 0, 0])
WEIGHTS = torch.tensor([0.5, 1.0, 2.0])


def probabilities(row):
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_focal_loss_of_classes_equals_its_formula(gamma, weights):
    total, divisor = 0.0, 0.0
    for row, label in zip(LOGITS.tolist(), TARGET.tolist()):
        p = probabilities(row)[label]
        weight = 1.0 if weights is None else float(weights[label])
        total -= weight * (1 - p) ** gamma * math.log(p)
        divisor += weight

    assert float(focal_loss("multiclass", LOGITS, TARGET, gamma, weights)) == pytest.approx(total / divisor, rel=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_focal_loss_of_labels_equals_its_formula(weights):
    target = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    terms = []
    for row, labels in zip(LOGITS.tolist(), target.tolist()):
        for number, (value, label) in enumerate(zip(row, labels)):
            present = 1 / (1 + math.exp(-value))
            p = present if label else 1 - present
            weight = float(weights[number]) if weights is not None and label else 1.0
            terms.append(-weight * (1 - p) ** 2 * math.log(p))

    assert float(focal_loss("multilabel", LOGITS, target, 2.0, weights)) == pytest.approx(
        sum(terms) / len(terms), rel=1e-5
    )


def test_the_focal_loss_without_focus_is_the_cross_entropy():
    assert float(focal_loss("multiclass", LOGITS, TARGET, 0.0)) == pytest.approx(float(F.cross_entropy(LOGITS, TARGET)))
    assert float(focal_loss("multiclass", LOGITS, TARGET, 0.0, WEIGHTS)) == pytest.approx(
        float(F.cross_entropy(LOGITS, TARGET, weight=WEIGHTS))
    )


def test_the_gradient_of_a_focal_loss_is_finite_where_a_probability_rounds_to_one():
    logits = torch.tensor([[200.0, 0.0], [0.0, 1.0]], requires_grad=True)

    focal_loss("multiclass", logits, torch.tensor([0, 0]), 0.5).backward()

    assert bool(logits.grad.isfinite().all())


def test_the_objective_weighs_classes_and_tasks_as_the_core_does():
    tasks = (LABEL, replace(LABEL, name="amount", weight=0.25))
    objective = make("focal", tasks=tasks)
    step = make_step(objective, tasks)
    step.batch.targets["amount"] = torch.randint(3, (8,))
    step = replace(step, class_weights={"label": WEIGHTS, "amount": None})

    expected = focal_loss("multiclass", step.output.logits["label"], step.batch.targets["label"], 2.0, WEIGHTS)
    expected += 0.25 * focal_loss("multiclass", step.output.logits["amount"], step.batch.targets["amount"], 2.0)
    assert float(objective(step)["task"].detach()) == pytest.approx(float(expected.detach()))


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_logit_adjustment_equals_its_formula_with_the_frequencies_of_train(tau):
    objective = make("logit-adjustment", tau=tau)
    objective.observe_targets({"label": torch.tensor([0] * 90 + [1] * 9 + [2])})
    step = make_step(objective)
    step.output.logits["label"] = LOGITS
    step.batch.targets["label"] = TARGET
    prior = (0.90, 0.09, 0.01)
    total = 0.0
    for row, label in zip(LOGITS.tolist(), TARGET.tolist()):
        others = sum((prior[k] / prior[label]) ** tau * math.exp(row[k] - row[label]) for k in range(3) if k != label)
        total += math.log(1 + others)

    assert float(objective(step)["task"]) == pytest.approx(total / 4, rel=1e-5)


def test_a_class_that_train_lacks_keeps_a_finite_prior():
    objective = make("logit-adjustment")
    objective.observe_targets({"label": torch.tensor([0, 0, 1, 1])})

    assert objective.get_buffer("adjustment_0").tolist() == pytest.approx(
        [math.log(0.5), math.log(0.5), math.log(0.125)]
    )


@pytest.mark.parametrize(("name", "options"), [("focal", {"gamma": -1.0}), ("logit-adjustment", {"tau": 11.0})])
def test_an_option_out_of_range_is_refused(name, options):
    with pytest.raises(UsageError, match=r"must be from 0\.0 to 10\.0"):
        make(name, **options)
