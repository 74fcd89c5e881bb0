"""Every objective's losses and gradients against its formula in plain loops, with missing modalities."""

from __future__ import annotations

import inspect
import math
from importlib import import_module

import numpy as np
import pytest
import torch
from mmbench_objectives import OBJECTIVES
from mmbench_objectives.infonce import pair_loss
from mmbench_objectives.modality_dropout import keep
from objective_cases import AMOUNT, DIMS, LABEL, cross_entropy, make, make_step
from torch import nn

from mmbench import Features
from mmbench.errors import UsageError
from mmbench.train import Step


@pytest.mark.parametrize("spec", OBJECTIVES, ids=lambda spec: spec.name)
def test_defaults_are_the_factorys_options_and_stand_in_the_descriptor_only(spec):
    module, _, attribute = spec.factory.partition(":")
    parameters = inspect.signature(getattr(import_module(module), attribute)).parameters

    options = {name: value for name, value in parameters.items() if value.kind is value.KEYWORD_ONLY}
    assert set(options) == set(spec.defaults)
    assert all(value.default is value.empty for value in options.values())


def test_supervised_is_the_task_loss_and_nothing_else():
    step = make_step(objective := make("supervised"))

    losses = objective(step)

    assert list(losses) == ["task"]
    assert float(losses["task"].detach()) == pytest.approx(
        cross_entropy(step.output.logits["label"], step.batch.targets["label"])
    )


def test_joint_adds_the_weighted_loss_of_every_modality_alone():
    step = make_step(objective := make("joint", unimodal_weight=0.5))

    losses = objective(step)

    assert sorted(losses) == ["task", "unimodal.audio", "unimodal.image", "unimodal.text"]
    for name in DIMS:
        alone = cross_entropy(step.output.unimodal_logits[name]["label"], step.batch.targets["label"])
        assert float(losses[f"unimodal.{name}"].detach()) == pytest.approx(0.5 * alone, rel=1e-5)


def test_joint_does_not_train_a_modalitys_head_on_samples_that_lack_it():
    step = make_step(objective := make("joint"))
    logits = {name: step.output.unimodal_logits[name]["label"] for name in DIMS}
    for given in logits.values():
        given.retain_grad()

    torch.stack(list(objective(step).values())).sum().backward()

    assert [bool(row.any()) for row in logits["text"].grad] == [False, False, *[True] * 6]
    assert [bool(row.any()) for row in logits["audio"].grad] == [True, True, False, *[True] * 5]
    assert bool(logits["image"].grad.any(dim=1).all())


def test_infonce_equals_its_formula_over_the_samples_that_have_both():
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(3))
    rows = [0, 2, 3]

    loss = pair_loss(scores, torch.tensor([True, False, True, True, False]))

    s = scores.double().numpy()
    terms = []
    for i in rows:
        terms.append(-s[i, i] + math.log(sum(math.exp(s[i, j]) for j in rows)))
        terms.append(-s[i, i] + math.log(sum(math.exp(s[j, i]) for j in rows)))
    assert float(loss) == pytest.approx(sum(terms) / 6, rel=1e-5)


def test_infonce_of_perfectly_aligned_pairs_has_the_value_worked_out_by_hand():
    scores = 2.0 * torch.eye(3)

    loss = pair_loss(scores, torch.ones(3, dtype=torch.bool))

    assert float(loss) == pytest.approx(math.log(math.exp(2) + 2) - 2)  # 0.2395


def test_infonce_without_any_complete_pair_is_zero():
    assert float(pair_loss(torch.randn(4, 4), torch.zeros(4, dtype=torch.bool))) == 0.0


def test_infonce_is_the_mean_over_all_pairs_of_unit_vectors_at_the_learned_scale():
    step = make_step(objective := make("infonce", alignment_weight=0.3, temperature=0.1))

    losses = objective(step)

    names = sorted(DIMS)
    embedded = {}
    for name, projection in zip(names, objective.projections):
        raw = step.output.features[name].tensor.detach().numpy() @ projection.weight.detach().numpy().T
        embedded[name] = raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)
    complete = {"text": {2, 3, 4, 5, 6, 7}, "audio": {0, 1, 3, 4, 5, 6, 7}, "image": set(range(8))}
    terms = []
    for one, other in (("audio", "image"), ("audio", "text"), ("image", "text")):
        rows = sorted(complete[one] & complete[other])
        s = 10.0 * embedded[one] @ embedded[other].T
        find = [math.log(sum(math.exp(s[i, j]) for j in rows)) - s[i, i] for i in rows]
        find += [math.log(sum(math.exp(s[j, i]) for j in rows)) - s[i, i] for i in rows]
        terms.append(sum(find) / len(find))
    assert float(losses["alignment"].detach()) == pytest.approx(0.3 * sum(terms) / 3, rel=1e-4)


def ogm_factors(step: Step, objective: nn.Module, alpha: float) -> dict[str, float]:
    """The paper's coefficients, by loops over samples."""
    scores = {}
    for name, probes in zip(sorted(DIMS), objective.probes):
        weight, bias = probes[0].weight.detach().double().numpy(), probes[0].bias.detach().double().numpy()
        total = 0.0
        for feature, label in zip(
            step.output.features[name].tensor.detach().double().numpy(), step.batch.targets["label"]
        ):
            e = np.exp(weight @ feature + bias)
            total += e[int(label)] / e.sum()
        scores[name] = total
    factors = {}
    for name, score in scores.items():
        ratio = score / np.mean([other for key, other in scores.items() if key != name])
        factors[name] = 1.0 - math.tanh(alpha * ratio) if ratio > 1.0 else 1.0
    return factors


def test_ogm_ge_scales_the_gradients_of_encoders_that_are_ahead_and_no_others():
    step = make_step(objective := make("ogm-ge", alpha=0.5, enhance=False))
    torch.stack(list(objective(step).values())).sum().backward()
    before = {name: parameter.grad.clone() for name, parameter in step.model.named_parameters()}

    objective.after_backward(step)

    factors = ogm_factors(step, objective, 0.5)
    assert sum(factor == 1.0 for factor in factors.values()) in (1, 2)  # somebody is ahead, somebody is not
    for name, parameter in step.model.named_parameters():
        factor = factors[step.model.modalities[int(name.split(".")[1])]] if name.startswith("encoders.") else 1.0
        torch.testing.assert_close(parameter.grad, before[name] * factor, rtol=1e-5, atol=1e-8)


def test_the_probes_of_ogm_ge_learn_without_touching_the_model():
    step = make_step(objective := make("ogm-ge"))

    losses = objective(step)
    torch.stack([losses[f"probe.{name}"] for name in DIMS]).sum().backward()

    assert all(parameter.grad is None for parameter in step.model.parameters())
    assert all(parameter.grad.any() for parameter in objective.parameters())


def test_the_noise_of_ogm_ge_has_the_gradients_own_deviation_and_comes_from_the_steps_generator():
    noises = []
    for enhance in (False, True, True):
        step = make_step(objective := make("ogm-ge", alpha=0.5, enhance=enhance))
        torch.stack(list(objective(step).values())).sum().backward()
        objective.after_backward(step)
        noises.append(torch.cat([encoder.layer.weight.grad.flatten() for encoder in step.model.encoders]))

    assert torch.equal(noises[1], noises[2])
    added = noises[1] - noises[0]
    assert float(added.std()) == pytest.approx(float(noises[0].std()), rel=0.3)


def test_ogm_ge_leaves_gradients_alone_after_its_share_of_training():
    step = make_step(objective := make("ogm-ge", until=0.4), progress=0.5)
    torch.stack(list(objective(step).values())).sum().backward()
    before = [parameter.grad.clone() for parameter in step.model.parameters()]

    objective.after_backward(step)

    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(step.model.parameters(), before))


def test_modality_dropout_drops_about_its_share_and_leaves_every_sample_something():
    objective = make("modality-dropout", probability=0.4)
    dropped = total = 0
    for draw in range(40):
        step = make_step(objective)
        step.generator.manual_seed(draw)
        objective(step)
        present = torch.stack([step.output.features[name].present for name in DIMS], dim=1)
        kept = torch.stack([step.model.fusion.given[name].present for name in DIMS], dim=1)
        assert kept.any(dim=1).all()
        assert not (kept & ~present).any()
        for name in DIMS:
            given = step.model.fusion.given[name]
            assert not given.tensor[~given.present].any()
        dropped, total = dropped + int((present & ~kept).sum()), total + int(present.sum())

    # 0.4, less the draws that would have left nothing: 0.4 ** 3 of the triples, 0.4 ** 2 of the pairs.
    assert dropped / total == pytest.approx(0.4 - (15 * 0.4**3 + 6 * 0.4**2) / 21, abs=0.04)


def test_modality_dropout_of_zero_is_supervised_training():
    step = make_step(objective := make("modality-dropout", probability=0.0))

    assert float(objective(step)["task"]) == pytest.approx(float(step.task_loss(step.output.logits)))


def test_modality_dropout_of_everything_says_what_is_possible():
    with pytest.raises(UsageError, match=r"option 'probability' must be from 0.0 to 0.95, got 1.0"):
        make("modality-dropout", probability=1.0)


def test_hiding_samples_works_for_sequences_and_pyramids():
    kept = torch.tensor([True, False])
    sequence = keep(Features(torch.ones(2, 3, 4)), kept)
    pyramid = keep(Features((torch.ones(2, 3, 4), torch.ones(2, 2, 5))), kept)

    assert sequence.token_mask.tolist() == [[True] * 3, [False] * 3]
    assert sequence.tensor.sum(dim=(1, 2)).tolist() == [12.0, 0.0]
    assert pyramid.present.tolist() == [True, False]
    assert [layer.sum(dim=(1, 2)).tolist() for layer in pyramid.values] == [[12.0, 0.0], [10.0, 0.0]]


def test_uncertainty_weighs_each_task_by_its_learned_variance_and_charges_for_it():
    objective = make("uncertainty", (LABEL, AMOUNT))
    with torch.no_grad():
        objective.log_variances.copy_(torch.tensor([0.7, -0.4]))
    step = make_step(objective, (LABEL, AMOUNT))

    losses = objective(step)

    label = cross_entropy(step.output.logits["label"], step.batch.targets["label"])
    amount = float((step.output.logits["amount"] - step.batch.targets["amount"]).square().mean())
    assert float(losses["task.label"].detach()) == pytest.approx(math.exp(-0.7) * label + 0.35, rel=1e-5)
    assert float(losses["task.amount"].detach()) == pytest.approx(0.5 * math.exp(0.4) * amount - 0.2, rel=1e-5)


def test_uncertainty_settles_where_the_variance_equals_twice_the_weighted_loss():
    objective = make("uncertainty", (LABEL, AMOUNT))
    step = make_step(objective, (LABEL, AMOUNT))
    optimiser = torch.optim.Adam(objective.parameters(), lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        torch.stack(list(objective(step).values())).sum().backward(retain_graph=True)
        optimiser.step()

    label = float(step.task_loss({"label": step.output.logits["label"]}))
    amount = float(step.task_loss({"amount": step.output.logits["amount"]}))
    variances = objective.log_variances.exp().tolist()
    assert variances == pytest.approx([2.0 * label, amount], rel=1e-3)  # d/ds: c L exp(-s) = 1/2
