"""Losses, class weights, scalers and floors of each kind of task, against scikit-learn and plain arithmetic."""

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight

from mmbench.errors import DataError, SpecError
from mmbench.metric_catalog import METRICS, primary_metric
from mmbench.spec import TaskSpec
from mmbench.tasks import (
    TargetScaler,
    class_weights,
    majority_predictions,
    predictions,
    task_loss,
)


def multiclass(num_outputs=3, **facts):
    return TaskSpec(name="digit", kind="multiclass", num_outputs=num_outputs, **facts)


def multilabel(num_outputs=2, **facts):
    return TaskSpec(name="tags", kind="multilabel", num_outputs=num_outputs, **facts)


def regression(num_outputs=1, **facts):
    return TaskSpec(name="age", kind="regression", num_outputs=num_outputs, **facts)


# Primary metrics


@pytest.mark.parametrize(("task", "name"), [(multiclass(), "accuracy"), (multilabel(), "map"), (regression(), "mae")])
def test_each_kind_has_a_usual_primary_metric(task, name):
    assert primary_metric(task) == name


def test_a_task_can_choose_its_primary_metric():
    assert primary_metric(multiclass(primary="f1_macro")) == "f1_macro"


def test_an_unknown_primary_metric_is_refused_with_the_nearest_name():
    with pytest.raises(SpecError, match=r"wants the primary metric 'f1_makro'.*Did you mean 'f1_macro'"):
        primary_metric(multiclass(primary="f1_makro"))


def test_no_kind_names_a_metric_twice():
    for specs in METRICS.values():
        names = [spec.name for spec in specs]
        assert len(set(names)) == len(names)


def test_errors_and_losses_are_the_metrics_where_less_is_better():
    less = {spec.name for specs in METRICS.values() for spec in specs if spec.direction == "min"}

    assert less == {"log_loss", "calibration_error", "mae", "rmse", "median_rank"}


# Losses


def test_multiclass_loss_is_the_log_loss():
    logits = torch.randn(50, 3)
    target = torch.arange(50) % 3

    expected = log_loss(target.numpy(), logits.double().softmax(1).numpy())
    assert task_loss(multiclass(), logits, target).item() == pytest.approx(expected, rel=1e-6)


def test_weighted_multiclass_loss_divides_by_the_sum_of_the_weights():
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    target = torch.tensor([0, 1, 0])
    weights = torch.tensor([0.5, 1.5])

    loss = task_loss(multiclass(2), logits, target, class_weights=weights)

    each = np.array([np.log(2), np.log(2), np.log(1 + np.exp(-2))])
    assert loss.item() == pytest.approx(each @ [0.5, 1.5, 0.5] / 2.5, rel=1e-6)


def test_multilabel_loss_is_binary_cross_entropy_with_weighted_positives():
    logits = torch.tensor([[0.3, -1.2], [2.0, 0.1]])
    target = torch.tensor([[1.0, 0.0], [1.0, 1.0]])

    loss = task_loss(multilabel(), logits, target, class_weights=torch.tensor([3.0, 1.0]))

    p = 1 / (1 + np.exp(-logits.double().numpy()))
    each = [-3 * np.log(p[0, 0]), -np.log(1 - p[0, 1]), -3 * np.log(p[1, 0]), -np.log(p[1, 1])]
    assert loss.item() == pytest.approx(np.mean(each), rel=1e-6)


def test_regression_loss_is_the_mean_squared_error():
    loss = task_loss(regression(2), torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))

    assert loss.item() == 2.5


@pytest.mark.parametrize("task", [multiclass(3), multilabel(3), regression(3)], ids=lambda task: task.kind)
def test_losses_per_sample_have_the_mean_loss_as_their_mean(task):
    logits = torch.randn(7, 3)
    target = torch.arange(7) % 3 if task.kind == "multiclass" else torch.randint(0, 2, (7, 3)).float()

    each = task_loss(task, logits, target, reduction="none")

    assert each.shape == (7,)
    assert each.mean().item() == pytest.approx(task_loss(task, logits, target).item(), rel=1e-6)


@pytest.mark.parametrize("task", [multiclass(3), multilabel(3), regression(3)], ids=lambda task: task.kind)
def test_half_precision_logits_give_a_float32_loss_with_a_gradient(task):
    logits = torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True)
    target = torch.tensor([0, 1, 2, 0]) if task.kind == "multiclass" else torch.ones(4, 3)

    loss = task_loss(task, logits, target)
    loss.backward()

    assert loss.dtype == torch.float32
    assert logits.grad.isfinite().all()


def test_a_large_logit_does_not_overflow():
    assert task_loss(multilabel(), torch.tensor([[1e4, -1e4]]), torch.tensor([[0.0, 0.0]])).item() == 5000.0


# Class weights


def test_multiclass_weights_are_scikit_learns_balanced_ones_scaled_to_mean_1():
    target = np.array([0] * 6 + [1] * 3 + [2])

    weights = class_weights(multiclass(), target)

    balanced = compute_class_weight("balanced", classes=np.arange(3), y=target)
    np.testing.assert_allclose(weights.numpy(), balanced / balanced.mean(), rtol=1e-6)
    assert weights.numpy() == pytest.approx([1 / 3, 2 / 3, 2])


def test_a_class_absent_from_train_weighs_1_and_does_not_disturb_the_others():
    assert class_weights(multiclass(4), np.array([0, 0, 0, 2])).tolist() == [0.5, 1.0, 1.5, 1.0]


def test_multilabel_weights_are_negatives_per_positive():
    target = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]], dtype=np.float32)

    assert class_weights(multilabel(3), target).tolist() == [3.0, 1.0, 1.0]


def test_a_regression_has_no_class_weights():
    assert class_weights(regression(), np.zeros((3, 1), dtype=np.float32)) is None


# Scaling targets


def test_the_scaler_is_scikit_learns():
    target = np.random.default_rng(0).normal([5, -300], [2, 40], size=(100, 2)).astype(np.float32)

    scaler = TargetScaler.fit(regression(2), torch.from_numpy(target))

    expected = StandardScaler().fit_transform(target)
    np.testing.assert_allclose(scaler.scale(torch.from_numpy(target)).numpy(), expected, atol=1e-5)


def test_unscaling_undoes_scaling():
    target = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    scaler = TargetScaler.fit(regression(), target)

    torch.testing.assert_close(scaler.unscale(scaler.scale(target)), target)


def test_times_of_today_in_seconds_are_scaled_without_loss():
    times = 1.7e9 + 10.5 * np.arange(14)[:, None]
    scaler = TargetScaler.fit(regression(), times)

    scaled = scaler.scale(torch.from_numpy(times))

    np.testing.assert_allclose(scaled.numpy(), StandardScaler().fit_transform(times), atol=1e-6)
    assert len(np.unique(scaled)) == 14
    np.testing.assert_allclose(predictions(regression(), scaled, scaler).numpy(), times, rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 7.3, 1e8, -0.1])
def test_a_constant_target_is_centred_but_not_blown_up(value):
    target = torch.full((9, 1), value)
    scaler = TargetScaler.fit(regression(), target)

    assert scaler.std.tolist() == [1.0]
    assert scaler.scale(target).abs().max() <= 1e-6 * max(1.0, abs(value))


def test_only_a_regression_has_a_scaler():
    assert TargetScaler.fit(multiclass(), torch.tensor([0, 1])) is None
    assert TargetScaler.fit(multilabel(), torch.ones(2, 2)) is None


@pytest.mark.parametrize("bad", [torch.tensor([[1.0], [float("nan")]]), torch.zeros(0, 1), torch.zeros(3)])
def test_targets_that_cannot_be_scaled_are_refused(bad):
    with pytest.raises(DataError, match="training targets of task 'age' must be finite"):
        TargetScaler.fit(regression(), bad)


# Predictions


def test_multiclass_predictions_are_probabilities_in_float32():
    given = predictions(multiclass(), torch.tensor([[0.0, np.log(2), np.log(5)]], dtype=torch.float64))

    assert given.dtype == torch.float32
    assert given[0].tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])


def test_log_probabilities_come_back_as_their_probabilities():
    probabilities = torch.tensor([[0.1, 0.2, 0.7]])

    torch.testing.assert_close(predictions(multiclass(), probabilities.log()), probabilities)


def test_multilabel_predictions_are_independent_probabilities():
    assert predictions(multilabel(), torch.tensor([[0.0, np.log(3)]]))[0].tolist() == pytest.approx([0.5, 0.75])


def test_regression_predictions_are_in_the_targets_own_unit():
    scaler = TargetScaler(mean=torch.tensor([10.0]), std=torch.tensor([4.0]))

    assert predictions(regression(), torch.tensor([[0.5]]), scaler).tolist() == [[12.0]]


def test_regression_predictions_need_the_scaler():
    with pytest.raises(ValueError, match="need the TargetScaler"):
        predictions(regression(), torch.zeros(1, 1))


def test_predictions_carry_no_graph():
    assert not predictions(multiclass(), torch.zeros(1, 3, requires_grad=True)).requires_grad


# The floor


def test_the_multiclass_floor_is_the_training_frequencies():
    floor = majority_predictions(multiclass(4), np.array([2, 2, 2, 0]), 5)

    assert floor.shape == (5, 4)
    assert floor.dtype == np.float32
    assert floor[3].tolist() == [0.25, 0.0, 0.75, 0.0]


def test_the_multilabel_floor_is_the_label_frequencies():
    assert majority_predictions(multilabel(), np.array([[1, 0], [1, 1]]), 1).tolist() == [[1.0, 0.5]]


def test_the_regression_floor_is_the_best_constant_of_its_primary_metric():
    target = np.array([[1.0, 0.0], [3.0, 1.0], [11.0, 5.0]])

    assert majority_predictions(regression(2), target, 2).tolist() == [[3.0, 1.0]] * 2
    assert majority_predictions(regression(2, primary="rmse"), target, 1).tolist() == [[5.0, 2.0]]


@pytest.mark.parametrize("primary", ["mae", "rmse"])
def test_no_constant_is_better_than_the_regression_floor(primary):
    target = np.random.default_rng(0).lognormal(0, 1.5, (301, 1))
    task = regression(primary=primary)
    losses = {"mae": lambda x: np.abs(target - x).mean(), "rmse": lambda x: np.sqrt(np.square(target - x).mean())}

    floor = losses[primary](majority_predictions(task, target, 301))

    best = scipy.optimize.minimize_scalar(losses[primary], bounds=(target.min(), target.max()), method="bounded")
    assert floor <= best.fun + 1e-9
