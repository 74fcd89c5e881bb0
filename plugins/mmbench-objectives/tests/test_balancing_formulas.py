"""Gradient blending, AGM and PMR against their formulas in plain loops, with missing modalities."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from mmbench_objectives.agm import shares
from mmbench_objectives.gradient_blending import blend
from mmbench_objectives.modality_dropout import keep
from mmbench_objectives.pmr import lagging
from objective_cases import DIMS, SIZE, cross_entropy, make, make_step

from mmbench.errors import UsageError
from mmbench.tasks import task_loss
from mmbench.train import EpochStart

NAMES = sorted(DIMS)
ABSENT = {"text": {0, 1}, "audio": {2}, "image": set()}


def start_of(step, epoch: int) -> EpochStart:
    def loss_of(logits, targets):
        return torch.stack([task_loss(t, logits[t.name], targets[t.name]) for t in step.model.tasks]).sum()

    held_out, seen = [step.batch], [make_step(make("supervised"), missing=False).batch]
    return EpochStart(
        model=step.model, epoch=epoch, progress=0.0, seen=lambda: seen, held_out=lambda: held_out, task_loss=loss_of
    )


def test_gradient_blending_starts_with_equal_weights_of_the_fused_and_every_modalitys_loss():
    step = make_step(objective := make("gradient-blending"))

    losses = objective(step)

    assert float(losses["task"].detach()) == pytest.approx(
        0.25 * cross_entropy(step.output.logits["label"], step.batch.targets["label"]), rel=1e-5
    )
    for name in NAMES:
        alone = cross_entropy(step.output.unimodal_logits[name]["label"], step.batch.targets["label"])
        assert float(losses[f"unimodal.{name}"].detach()) == pytest.approx(0.25 * alone, rel=1e-5)


def test_the_blend_is_generalisation_over_squared_overfitting_normalised():
    before = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.9, 1.0]])  # held out, seen
    now = torch.tensor([[0.6, 0.8, 1.2], [0.4, 0.2, 0.1]])

    found = blend(before, now, torch.full((3,), 1 / 3))

    raw = [0.4 / 0.2**2, 0.2 / 0.5**2, 0.0]  # the third overfits only
    assert found.tolist() == pytest.approx([value / sum(raw) for value in raw], rel=1e-5)


def test_weights_stay_where_nothing_generalises_and_noise_cannot_blow_one_up():
    weights = torch.tensor([0.7, 0.2, 0.1])
    before = torch.ones(2, 3)

    assert torch.equal(blend(before, before + 0.1, weights), weights)
    assert blend(before, before - torch.tensor([0.1, 0.1, 0.3]), weights).tolist() == pytest.approx([0.2, 0.2, 0.6])


def test_gradient_blending_measures_on_held_out_and_seen_samples_every_few_epochs():
    step = make_step(objective := make("gradient-blending", every=2))
    with torch.no_grad():
        objective.before_epoch(start_of(step, 0))
        measured = objective.before.clone()
        for parameter in step.model.parameters():
            parameter.mul_(0.9)
        objective.before_epoch(start_of(step, 1))
        assert torch.equal(objective.before, measured)
        assert objective.weights.tolist() == [0.25] * 4
        objective.before_epoch(start_of(step, 2))

    expected = []
    for batch in (step.batch, start_of(step, 0).seen()[0]):
        output = step.model(batch)
        told = [output.logits["label"], *(output.unimodal_logits[name]["label"] for name in NAMES)]
        expected.append([cross_entropy(logits, batch.targets["label"]) for logits in told])
    assert torch.equal(objective.before, measured)  # always since the start
    torch.testing.assert_close(objective.weights, blend(measured, torch.tensor(expected), torch.full((4,), 0.25)))


def test_a_share_that_leaves_nothing_to_train_on_is_refused():
    with pytest.raises(UsageError, match=r"option 'held_out_share' must be from 0.01 to 0.5, got 0.9"):
        make("gradient-blending", held_out_share=0.9)


def logits_of(step, subset: tuple[str, ...]) -> np.ndarray:
    nobody = torch.zeros(SIZE, dtype=torch.bool)
    features = step.output.features
    left = {name: given if name in subset else keep(given, nobody) for name, given in features.items()}
    with torch.no_grad():
        return step.model.fuse(left).logits["label"].double().numpy()


def shapley_logits(step) -> dict[str, np.ndarray]:
    """The mean of marginal gains over all orders in which modalities can come."""
    found = dict.fromkeys(NAMES, 0.0)
    for order in itertools.permutations(NAMES):
        so_far, before = (), np.zeros((SIZE, 3))
        for name in order:
            so_far = (*so_far, name)
            after = logits_of(step, so_far)
            found[name] = found[name] + (after - before) / math.factorial(len(NAMES))
            before = after
    return found


def agm_scores(step) -> dict[str, float]:
    scores = {}
    for name, logits in shapley_logits(step).items():
        terms = [
            row[label] - math.log(np.exp(row).sum()) for row, label in zip(logits, step.batch.targets["label"].tolist())
        ]
        scores[name] = float(np.mean(terms))
    return scores


def test_agm_multiplies_each_encoders_gradients_by_how_far_it_is_ahead_of_its_usual_place():
    step = make_step(objective := make("agm", alpha=0.8))
    usual = {"audio": -1.5, "image": -0.9, "text": -1.0}
    objective.average.copy_(torch.tensor([usual[name] for name in NAMES]))
    objective.count.fill_(4)
    objective(step)["task"].backward()
    before = {name: parameter.grad.clone() for name, parameter in step.model.named_parameters()}

    objective.after_backward(step)

    scores = agm_scores(step)

    def lead(values, name):
        return math.exp(np.mean([values[name] - values[other] for other in NAMES if other != name]))

    factors = {name: math.exp(-0.8 * (lead(scores, name) - lead(usual, name))) for name in NAMES}
    assert max(factors.values()) > 1 > min(factors.values())
    for name, parameter in step.model.named_parameters():
        factor = factors[step.model.modalities[int(name.split(".")[1])]] if name.startswith("encoders.") else 1.0
        torch.testing.assert_close(parameter.grad, before[name] * factor, rtol=1e-4, atol=1e-7)
    expected = [(4 * usual[name] + scores[name]) / 5 for name in NAMES]
    assert objective.average.tolist() == pytest.approx(expected, rel=1e-4)
    assert step.model.training


def test_agm_leaves_the_first_step_alone_and_shares_add_up_to_the_logits():
    step = make_step(objective := make("agm"))
    objective(step)["task"].backward()
    before = [parameter.grad.clone() for parameter in step.model.parameters()]
    objective.after_backward(step)

    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(step.model.parameters(), before))
    parts = shares(objective._values(step), 3)
    torch.testing.assert_close(sum(part["label"] for part in parts), step.output.logits["label"])


def distances_of(step, objective, name: str, sample: int) -> np.ndarray:
    prototypes = objective.prototypes(name, "label").double().numpy()
    feature = step.output.features[name].tensor[sample].detach().double().numpy()
    return np.array([np.linalg.norm(feature - prototype) for prototype in prototypes])


def test_prototypes_are_the_classes_means_over_present_samples_and_move_by_momentum():
    step = make_step(objective := make("pmr", momentum=0.75))
    start = start_of(step, 0)
    with torch.no_grad():
        objective.before_epoch(EpochStart(**{**vars(start), "seen": start.held_out}))  # the batch with gaps

    labels = step.batch.targets["label"].tolist()
    expected = {}
    for name in NAMES:
        for k in range(3):
            rows = [i for i in range(SIZE) if labels[i] == k and i not in ABSENT[name]]
            features = step.output.features[name].tensor.detach().numpy()
            expected[name, k] = np.mean([features[i] for i in rows], axis=0) if rows else np.zeros(DIMS[name])
            np.testing.assert_allclose(objective.prototypes(name, "label")[k], expected[name, k], rtol=1e-4, atol=1e-6)

    with torch.no_grad():
        for encoder in step.model.encoders:
            encoder.layer.weight.zero_()
            encoder.layer.bias.fill_(1.0)
        objective.before_epoch(EpochStart(**{**vars(start), "epoch": 1, "seen": start.held_out}))
    known = [k for k in range(3) if k in labels]
    for k in known:
        moved = 0.75 * expected["image", k] + 0.25
        np.testing.assert_allclose(objective.prototypes("image", "label")[k], moved, rtol=1e-4, atol=1e-6)


def test_pmr_pulls_who_lags_and_holds_who_is_ahead_open():
    step = make_step(objective := make("pmr", alpha=0.6, mu=0.2, until=0.5), progress=0.5)
    torch.manual_seed(3)
    for name in NAMES:
        objective.prototypes(name, "label").copy_(torch.randn(3, DIMS[name]))

    losses = objective(step)

    labels = step.batch.targets["label"].tolist()
    score, pull, entropy = {}, {}, {}
    for name in NAMES:
        told = []
        for i in range(SIZE):
            if i not in ABSENT[name]:
                e = np.exp(-distances_of(step, objective, name, i))
                told.append((e / e.sum(), labels[i]))
        score[name] = np.mean([p[label] for p, label in told])
        pull[name] = np.mean([-math.log(p[label]) for p, label in told])
        entropy[name] = np.mean([-np.sum(p * np.log(p)) for p, _ in told])
    rest = {name: np.mean([score[other] for other in NAMES if other != name]) for name in NAMES}
    lag = {name: min(max(rest[name] / score[name] - 1.0, 0.0), 1.0) for name in NAMES}
    assert 0.0 in lag.values() and max(lag.values()) > 0.0
    for name in NAMES:
        assert float(losses[f"prototypes.{name}"].detach()) == pytest.approx(0.6 * lag[name] * pull[name], rel=1e-4)
        others = np.mean([lag[other] for other in NAMES if other != name])
        held = 0.0 if lag[name] > 0 else others
        assert float(losses[f"entropy.{name}"].detach()) == pytest.approx(-0.2 * held * entropy[name], rel=1e-4)
    assert not any(name.startswith("entropy") for name in objective(make_step(objective, progress=0.6)))


def test_with_two_modalities_the_lag_is_the_papers_clipped_ratio():
    assert lagging(torch.tensor([2.0, 1.6])).tolist() == pytest.approx([0.0, 0.25])
    assert lagging(torch.tensor([1.0, 5.0])).tolist() == pytest.approx([1.0, 0.0])
