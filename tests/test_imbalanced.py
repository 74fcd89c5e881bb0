"""Classes of 50 : 1 whose best classifiers are known: what each remedy gains, by the metric that shows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmbench_objectives.focal import Focal
from mmbench_objectives.logit_adjustment import LogitAdjustment
from scipy.stats import norm
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from training_cases import CPU, Supervised, make_model

from mmbench.batches import SplitData
from mmbench.columns import Column
from mmbench.config import TrainConfig
from mmbench.spec import TaskSpec
from mmbench.train import Trainer, predict

#: Frequent samples for each rare one.
RATIO = 50
#: Distance between the class means along all four numbers together, in standard deviations.
DISTANCE = 3.0
NUM_SEEDS = 3
SIZES = {"train": 5100, "val": 5100, "test": 20400}
LABEL = TaskSpec(name="label", kind="multiclass", num_outputs=2, primary="balanced_accuracy")


def bayes(prior_ratio):
    """Accuracy and balanced accuracy of the best classifier for so many frequent samples per rare one.

    Equal variances put its threshold on the line between the means at d / 2 + log(ratio) / d.
    """
    threshold = DISTANCE / 2 + np.log(prior_ratio) / DISTANCE
    frequent, rare = norm.cdf(threshold), norm.sf(threshold - DISTANCE)
    return (RATIO * frequent + rare) / (RATIO + 1), (frequent + rare) / 2


def make_data(seed):
    rng = np.random.default_rng(seed)
    found = {}
    for split, num in SIZES.items():
        rare = np.arange(num) % (RATIO + 1) == 0
        values = (rng.normal(size=(num, 4)) + DISTANCE / 2 * rare[:, None]).astype("f4")
        found[split] = SplitData({"x": Column(values, None, np.ones(num, bool))}, {"label": rare.astype("i8")}, CPU)
    return found


def scores(make_objective, primary="balanced_accuracy", **settings):
    """Accuracy and balanced accuracy on test, mean over seeds."""
    task = TaskSpec(name="label", kind="multiclass", num_outputs=2, primary=primary)
    config = TrainConfig(epochs=8, **settings)
    found = []
    for seed in range(NUM_SEEDS):
        data, objective = make_data(seed), make_objective()
        if hasattr(objective, "observe_targets"):
            objective.observe_targets(data["train"].targets)
        trainer = Trainer(
            make_model((task,), seed=seed), objective, data["train"], data["val"], (task,), {"label": None}, config,
            order_seed=seed, noise_seed=seed,
        )  # fmt: skip
        trainer.run()
        said = predict(trainer.model, data["test"], config)["label"].argmax(dim=1)
        truth = data["test"].targets["label"]
        found.append([accuracy_score(truth, said), balanced_accuracy_score(truth, said)])
    return np.mean(found, axis=0)


@pytest.mark.slow
def test_balanced_accuracy_tells_the_remedies_for_rare_classes_apart_and_accuracy_prefers_none():
    torch.set_num_threads(1)
    dims, tasks = {"x": 16}, (LABEL,)
    best_accuracy, _ = bayes(RATIO)
    _, best_balanced = bayes(1)

    by_accuracy = scores(Supervised, primary="accuracy")
    plain = scores(Supervised)
    focal = scores(lambda: Focal(dims, tasks, gamma=2.0))
    remedies = {
        "logit adjustment": scores(lambda: LogitAdjustment(dims, tasks, tau=1.0)),
        "class weights": scores(Supervised, class_weights="balanced"),
        "balanced sampler": scores(Supervised, sampler="balanced"),
    }

    assert by_accuracy[0] == pytest.approx(best_accuracy, abs=0.01)
    for name, (accuracy, balanced) in remedies.items():
        assert accuracy < by_accuracy[0] - 0.01, name
        assert balanced > plain[1] + 0.03, name
        assert balanced == pytest.approx(best_balanced, abs=0.03), name
    # A smaller loss of easy samples alone moves the threshold little.
    assert focal[1] < min(balanced for _, balanced in remedies.values()) - 0.03
