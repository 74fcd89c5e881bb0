"""Supervised contrastive and canonical-correlation objectives against numpy, with missing modalities."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from mmbench_objectives.cca import correlation
from mmbench_objectives.supcon import contrastive_loss
from objective_cases import DIMS, SIZE, make, make_step

from mmbench.errors import UsageError

NAMES = sorted(DIMS)
ABSENT = {"text": {0, 1}, "audio": {2}, "image": set()}


def projected(step, objective, *, unit: bool) -> dict[str, np.ndarray]:
    found = {}
    for name, projection in zip(NAMES, objective.projections):
        values = (
            step.output.features[name].tensor.detach().double().numpy() @ projection.weight.detach().double().numpy().T
        )
        found[name] = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12) if unit else values
    return found


def test_supervised_contrast_equals_its_formula_over_all_views_that_are_there():
    step = make_step(objective := make("supcon", contrastive_weight=0.3, temperature=0.2))

    losses = objective(step)

    unit = projected(step, objective, unit=True)
    labels = step.batch.targets["label"].tolist()
    views = [(unit[name][i], labels[i]) for name in NAMES for i in range(SIZE) if i not in ABSENT[name]]
    terms = []
    for i, (z, label) in enumerate(views):
        rest = [(other, of) for j, (other, of) in enumerate(views) if j != i]
        whole = sum(math.exp(z @ other / 0.2) for other, _ in rest)
        company = [math.log(math.exp(z @ other / 0.2) / whole) for other, of in rest if of == label]
        if company:
            terms.append(-sum(company) / len(company))
    assert len(views) == 21
    assert float(losses["contrastive"].detach()) == pytest.approx(0.3 * sum(terms) / len(terms), rel=1e-4)


def test_a_view_without_company_of_its_class_is_no_anchor():
    scores = torch.tensor([[9.0, 1.0, 0.0], [1.0, 9.0, 0.0], [0.0, 0.0, 9.0]])

    loss = contrastive_loss(scores, torch.tensor([1, 1, 2]), torch.ones(3, dtype=torch.bool))

    assert float(loss) == pytest.approx(math.log(math.e + 1) - 1)  # the third has nobody, and pushes the two others
    assert float(contrastive_loss(scores, torch.tensor([0, 1, 2]), torch.ones(3, dtype=torch.bool))) == 0.0


def canonical(x: np.ndarray, y: np.ndarray, ridge: float) -> float:
    """The sum of canonical correlations as Andrew et al. write it, by inverse square roots and an SVD."""
    x, y = x - x.mean(0), y - y.mean(0)
    n = len(x)

    def inverse_root(s):
        values, vectors = np.linalg.eigh(s)
        return vectors @ np.diag(values**-0.5) @ vectors.T

    xx, yy = (v.T @ v / (n - 1) + ridge * np.eye(v.shape[1]) for v in (x, y))
    return float(np.linalg.svd(inverse_root(xx) @ (x.T @ y / (n - 1)) @ inverse_root(yy), compute_uv=False).sum())


def test_deep_cca_equals_the_singular_values_of_the_whitened_cross_covariance():
    step = make_step(objective := make("deep-cca", correlation_weight=0.5, embedding_dim=3, ridge=0.01))

    losses = objective(step)

    views = projected(step, objective, unit=False)
    terms = []
    for one, other in itertools.combinations(NAMES, 2):
        rows = [i for i in range(SIZE) if i not in ABSENT[one] | ABSENT[other]]
        terms.append(canonical(views[one][rows], views[other][rows], 0.01))
    assert float(losses["correlation"].detach()) == pytest.approx(-0.5 * sum(terms) / 3, rel=1e-4)


def test_a_linear_view_of_the_same_has_full_correlation_and_independent_views_have_next_to_none():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 3, generator=generator)
    everybody = torch.ones(4000, dtype=torch.bool)

    same = correlation(x, x @ torch.randn(3, 3, generator=generator), everybody, 1e-6)
    apart = correlation(x, torch.randn(4000, 3, generator=generator), everybody, 1e-6)

    assert float(same) == pytest.approx(3.0, abs=1e-3)
    assert float(apart) < 0.15


def test_correlations_of_too_few_or_of_equal_samples_have_finite_gradients():
    for values, complete in ((torch.randn(4, 3), torch.tensor([True, False, False, False])), (torch.ones(4, 3), None)):
        x, y = values.clone().requires_grad_(), values.clone().requires_grad_()
        everybody = torch.ones(4, dtype=torch.bool) if complete is None else complete
        found = correlation(x, y, everybody, 1e-3)
        found.backward()

        assert float(found.detach()) == pytest.approx(0.0, abs=1e-9)
        assert torch.isfinite(x.grad).all()
        assert torch.isfinite(y.grad).all()


@pytest.mark.parametrize("name", ["infonce", "supcon"])
def test_a_temperature_that_no_score_can_be_divided_by_is_refused(name):
    with pytest.raises(UsageError, match=r"option 'temperature' must be from 0.01 to 10.0, got 0.0"):
        make(name, temperature=0.0)
