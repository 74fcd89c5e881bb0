"""Mixup, adversarial training and mutual distillation against their formulas, sample by sample."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmbench_objectives.adversarial import push, rms
from mmbench_objectives.mutual_distillation import peer_loss
from objective_cases import AMOUNT, DIMS, LABEL, SIZE, cross_entropy, make, make_step

from mmbench import Features

NAMES = sorted(DIMS)
ABSENT = {"text": {0, 1}, "audio": {2}, "image": set()}


def test_mixup_asks_mixed_features_for_mixed_labels():
    step = make_step(objective := make("mixup", alpha=2.0), (LABEL, AMOUNT))
    share, other = objective.draw(step)
    step.generator.manual_seed(2)  # as make_step seeded it

    losses = objective(step)

    fused = step.output.fused.detach()
    expected = 0.0
    labels, amounts = step.batch.targets["label"], step.batch.targets["amount"]
    for i in range(SIZE):
        j = int(other[i])
        mixed = share * fused[i] + (1 - share) * fused[j]
        label, amount = (head(mixed).detach() for head in step.model.heads)
        for weight, row in ((share, i), (1 - share, j)):
            expected += weight * cross_entropy(label[None], labels[[row]]) / SIZE
            expected += weight * float((amount - amounts[row]) ** 2) / SIZE
    assert 0.0 < share < 1.0
    assert sorted(other.tolist()) == list(range(SIZE))
    assert list(losses) == ["task"]
    assert float(losses["task"].detach()) == pytest.approx(expected, rel=1e-5)


def test_shares_of_mixup_follow_the_beta_distribution():
    step = make_step(objective := make("mixup", alpha=0.5))

    drawn = [objective.draw(step)[0] for _ in range(2000)]

    assert np.mean(drawn) == pytest.approx(0.5, abs=0.03)
    assert np.var(drawn) == pytest.approx(1 / 8, abs=0.01)  # of Beta(a, a): 1 / (4 (2 a + 1))


def loss_at(step, values: dict[str, torch.Tensor]) -> torch.Tensor:
    features = {name: replace(step.output.features[name], values=values[name]) for name in DIMS}
    return step.task_loss(step.model.fuse(features).logits)


def bounds_of(step, epsilon: float) -> dict[str, float]:
    found = {}
    for name in NAMES:
        rows = [
            row for i, row in enumerate(step.output.features[name].tensor.detach().numpy()) if i not in ABSENT[name]
        ]
        found[name] = epsilon * math.sqrt(np.mean(np.square(rows)))
    return found


def test_fgsm_pushes_every_number_by_its_bound_along_the_sign_of_the_gradient():
    step = make_step(objective := make("adversarial", adversarial_weight=0.4, epsilon=0.3))

    losses = objective(step)

    values = {name: step.output.features[name].tensor.detach().clone().requires_grad_() for name in DIMS}
    loss_at(step, values).backward()
    pushed = {}
    for name, bound in bounds_of(step, 0.3).items():
        pushed[name] = values[name].detach().clone()
        for i in range(SIZE):
            if i not in ABSENT[name]:
                pushed[name][i] += bound * values[name].grad[i].sign()
    assert float(losses["adversarial"].detach()) == pytest.approx(0.4 * float(loss_at(step, pushed).detach()), rel=1e-5)
    assert float(losses["adversarial"].detach()) > 0.4 * float(losses["task"].detach())


def test_pgd_stays_within_its_bound_and_hurts_at_least_as_much_as_one_step():
    step = make_step(one := make("adversarial", adversarial_weight=1.0, epsilon=0.3, num_steps=1))
    many = make("adversarial", adversarial_weight=1.0, epsilon=0.3, num_steps=20)

    pushes = many.attack(step)

    for name, bound in bounds_of(step, 0.3).items():
        assert float(pushes[name][0].abs().max()) <= bound * (1 + 1e-5)
    assert float(many(step)["adversarial"].detach()) >= 0.999 * float(one(step)["adversarial"].detach())


def test_a_push_leaves_gaps_padding_and_layers_in_their_places():
    mask = torch.tensor([[True, False], [False, False]])
    sequence = Features(torch.zeros(2, 2, 3), mask)
    pyramid = Features((torch.zeros(1, 2, 3), torch.zeros(1, 1, 4)))

    pushed = push(
        {"s": sequence, "p": pyramid}, {"s": (torch.ones(2, 2, 3),), "p": (torch.ones(1, 2, 3), torch.ones(1, 1, 4))}
    )

    assert pushed["s"].tensor.sum(dim=2).tolist() == [[3.0, 0.0], [0.0, 0.0]]
    assert [float(layer.sum()) for layer in pushed["p"].values] == [6.0, 4.0]


def test_the_size_of_a_push_does_not_ask_what_stands_in_padding():
    values = torch.tensor([[[3.0, 4.0], [float("nan"), float("inf")]]])

    assert float(rms(values, torch.tensor([[True, False]]))) == pytest.approx(math.sqrt((9.0 + 16.0) / 2))


def test_training_by_pushes_gives_the_attack_no_gradient_of_the_model():
    step = make_step(objective := make("adversarial", num_steps=3))
    objective.attack(step)

    assert all(parameter.grad is None for parameter in step.model.parameters())


def softmax(row: np.ndarray) -> np.ndarray:
    return np.exp(row) / np.exp(row).sum()


def test_peers_learn_from_the_mean_of_the_other_peers_that_are_there():
    step = make_step(objective := make("mutual-distillation", distillation_weight=0.5, temperature=2.0))

    losses = objective(step)

    logits = {"fused": step.output.logits["label"], **{n: step.output.unimodal_logits[n]["label"] for n in NAMES}}
    logits = {name: value.detach().double().numpy() for name, value in logits.items()}
    means = []
    for peer in logits:
        terms = []
        for i in range(SIZE):
            here = [name for name in logits if i not in ABSENT.get(name, ())]
            if peer in here:
                teacher = np.mean([softmax(logits[name][i] / 2.0) for name in here if name != peer], axis=0)
                ours = softmax(logits[peer][i] / 2.0)
                terms.append(4.0 * np.sum(teacher * np.log(teacher / ours)))
        means.append(np.mean(terms))
    assert float(losses["distillation"].detach()) == pytest.approx(0.5 * np.mean(means), rel=1e-4)
    assert sorted(losses) == ["distillation", "task", "unimodal.audio", "unimodal.image", "unimodal.text"]


def test_the_teacher_gets_no_gradient():
    logits = torch.randn(2, 5, 3, requires_grad=True)
    there = torch.ones(2, 5, dtype=torch.bool)

    peer_loss(logits, there, "multiclass", 1.0).backward()

    said = logits.detach().softmax(dim=2)
    # d KL(teacher, peer) / d logits of the peer = peer - teacher; each peer counts one half, each sample one fifth.
    torch.testing.assert_close(logits.grad, (said - said.flip(0)) / 10)


def test_labels_are_distilled_one_by_one_and_amounts_by_their_distance():
    logits = torch.tensor([[[0.5, -1.0]], [[2.0, 0.3]]])
    there = torch.ones(2, 1, dtype=torch.bool)

    def binary(teacher, ours):
        p, q = (1 / (1 + math.exp(-x)) for x in (teacher, ours))
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    expected = (binary(2.0, 0.5) + binary(0.3, -1.0) + binary(0.5, 2.0) + binary(-1.0, 0.3)) / 2
    assert float(peer_loss(logits, there, "multilabel", 1.0)) == pytest.approx(expected, rel=1e-5)
    assert float(peer_loss(logits, there, "regression", 1.0)) == pytest.approx((1.5**2 + 1.3**2) / 2)
