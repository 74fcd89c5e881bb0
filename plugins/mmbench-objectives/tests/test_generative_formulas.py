"""Reconstruction, MVAE and MFM against their formulas, one sample after the other, with missing modalities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mmbench_objectives.mfm import discrepancy
from mmbench_objectives.mvae import kl_from_prior, product_of_experts
from objective_cases import DIMS, SIZE, cross_entropy, make, make_step

NAMES = sorted(DIMS)
ABSENT = {"text": {0, 1}, "audio": {2}, "image": set()}


def standardised(step, name: str, sample: int) -> np.ndarray:
    values = step.output.features[name].tensor[sample].detach().double().numpy()
    return (values - values.mean()) / math.sqrt(values.var() + 1e-5)


def run(module, values: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.tensor(values, dtype=torch.float32)).double().numpy()


def features(step, name: str, sample: int) -> np.ndarray:
    return step.output.features[name].tensor[sample].detach().numpy()


def test_reconstruction_asks_every_code_for_every_modality_that_is_there():
    step = make_step(objective := make("reconstruction", reconstruction_weight=0.7, code_dim=5))

    losses = objective(step)

    parts = dict(zip(NAMES, zip(objective.encoders, objective.decoders)))
    means = []
    for told_by in (NAMES, *([name] for name in NAMES)):
        for wanted in NAMES:
            errors = []
            for i in range(SIZE):
                here = [name for name in told_by if i not in ABSENT[name]]
                if here and i not in ABSENT[wanted]:
                    code = np.mean([run(parts[name][0], features(step, name, i)) for name in here], axis=0)
                    gap = run(parts[wanted][1], code) - standardised(step, wanted, i)
                    errors.append(np.mean(gap**2))
            means.append(np.mean(errors))
    assert len(means) == 12
    assert float(losses["reconstruction"].detach()) == pytest.approx(0.7 * np.mean(means), rel=1e-4)


@pytest.mark.parametrize("name", ["reconstruction", "mvae", "mfm"])
def test_features_are_not_trained_to_be_easy_targets(name):
    """With codes that carry nothing, a target that took gradient would pull features to what the decoder says."""
    step = make_step(objective := make(name))
    for layer in (
        *getattr(objective, "encoders", ()),
        *getattr(objective, "experts", ()),
        *getattr(objective, "own", ()),
    ):
        torch.nn.init.zeros_(layer.weight)
    if name == "mfm":
        torch.nn.init.zeros_(objective.shared.weight)
    losses = objective(step)
    sum(loss for key, loss in losses.items() if key != "task").backward()

    assert all(p.grad is None or not p.grad.any() for p in step.model.encoders.parameters())


def test_the_product_of_experts_is_the_normalised_product_of_the_densities():
    means, log_variances = torch.tensor([[[1.0], [-2.0]]]), torch.tensor([[[0.3], [-0.5]]])
    grid = np.linspace(-12, 12, 200_001)

    for asked in ([True, True], [False, True], [False, False]):
        mean, log_variance = product_of_experts(means, log_variances, torch.tensor([asked]))
        density = np.exp(-0.5 * grid**2)
        for m, is_asked in enumerate(asked):
            if is_asked:
                density *= np.exp(-0.5 * (grid - float(means[0, m, 0])) ** 2 / math.exp(float(log_variances[0, m, 0])))
        density /= density.sum()
        assert float(mean) == pytest.approx((grid * density).sum(), abs=1e-4)
        assert math.exp(float(log_variance)) == pytest.approx(
            (grid**2 * density).sum() - (grid * density).sum() ** 2, rel=1e-3
        )


def test_the_divergence_from_the_prior_is_torchs():
    mean, log_variance = torch.randn(4, 3), torch.randn(4, 3)
    ours = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0)).sum(dim=1)

    torch.testing.assert_close(kl_from_prior(mean, log_variance), expected)


def test_mvae_adds_the_bounds_of_all_modalities_and_of_each_alone():
    step = make_step(objective := make("mvae", elbo_weight=0.1, kl_weight=0.5, latent_dim=3))
    step.generator.manual_seed(11)

    losses = objective(step)

    drawn = torch.Generator().manual_seed(11)
    total = 0.0
    for subset in (NAMES, *([name] for name in NAMES)):
        noise = torch.randn(SIZE, 3, generator=drawn).double().numpy()
        bounds = []
        for i in range(SIZE):
            here = [name for name in subset if i not in ABSENT[name]]
            if not here:
                continue
            told = {n: run(objective.experts[NAMES.index(n)], features(step, n, i)) for n in here}
            precision = 1.0 + sum(np.exp(-told[n][3:]) for n in here)
            mean = sum(told[n][:3] * np.exp(-told[n][3:]) for n in here) / precision
            variance = 1.0 / precision
            z = mean + np.sqrt(variance) * noise[i]
            bound = -0.5 * 0.5 * np.sum(mean**2 + variance - 1.0 - np.log(variance))
            for n in here:
                gap = run(objective.decoders[NAMES.index(n)], z) - standardised(step, n, i)
                bound -= 0.5 * np.sum(gap**2)
            bounds.append(bound)
        total += np.mean(bounds)
    assert float(losses["elbo"].detach()) == pytest.approx(-0.1 * total, rel=1e-4)


def loop_discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    def kernel(a, b):
        return math.exp(-np.sum((a - b) ** 2) / (2 * len(a)))

    pairs = [(i, j) for i in range(len(x)) for j in range(len(x))]
    return float(np.mean([kernel(x[i], x[j]) + kernel(y[i], y[j]) - 2 * kernel(x[i], y[j]) for i, j in pairs]))


def test_mfm_predicts_the_label_generates_and_keeps_factors_near_the_prior():
    step = make_step(objective := make("mfm", factor_weight=0.2, prior_weight=3.0, factor_dim=4))
    step.generator.manual_seed(13)

    losses = objective(step)

    drawn = torch.Generator().manual_seed(13)
    noise = [torch.randn(SIZE, 4, generator=drawn).double().numpy() for _ in range(4)]
    shared = [run(objective.shared, np.concatenate([features(step, n, i) for n in NAMES])) for i in range(SIZE)]
    gaps, generation = [loop_discrepancy(np.array(shared), noise[0])], 0.0
    for m, name in enumerate(NAMES):
        rows = [i for i in range(SIZE) if i not in ABSENT[name]]
        own = {i: run(objective.own[m], features(step, name, i)) for i in rows}
        made = {i: run(objective.decoders[m], np.concatenate([shared[i], own[i]])) for i in rows}
        generation += np.mean([np.mean((made[i] - standardised(step, name, i)) ** 2) for i in rows])
        gaps.append(loop_discrepancy(np.array([own[i] for i in rows]), noise[m + 1][rows]))
    logits = objective.heads[0](torch.tensor(np.array(shared), dtype=torch.float32))
    label = cross_entropy(logits, step.batch.targets["label"])
    assert float(losses["label"].detach()) == pytest.approx(0.2 * label, rel=1e-4)
    assert float(losses["generation"].detach()) == pytest.approx(0.2 * generation, rel=1e-4)
    assert float(losses["prior"].detach()) == pytest.approx(0.2 * 3.0 * sum(gaps), rel=1e-4)


def test_the_discrepancy_of_equal_samples_is_zero_and_grows_with_distance():
    x, everybody = torch.randn(50, 2), torch.ones(50, dtype=torch.bool)

    assert float(discrepancy(x, x, everybody)) == pytest.approx(0.0, abs=1e-6)
    assert float(discrepancy(x, x + 1, everybody)) < float(discrepancy(x, x + 3, everybody))
