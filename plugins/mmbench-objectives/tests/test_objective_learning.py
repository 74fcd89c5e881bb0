"""Objectives do measurably what their papers say, on sets built to show it, in the one training loop."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch
from mmbench_objectives import OBJECTIVES
from mmbench_objectives.modality_dropout import keep
from mmbench_objectives.uncertainty import Uncertainty
from torch import Tensor, nn

from mmbench import TaskSpec
from mmbench.batches import SplitData
from mmbench.config import TrainConfig
from mmbench.data import Column
from mmbench.model import MultimodalModel
from mmbench.train import Trainer

BY_NAME = {spec.name: spec for spec in OBJECTIVES}
CPU = torch.device("cpu")
NUM_CLASSES, INPUT_DIM, FEATURE_DIM = 4, 16, 24
LABEL = TaskSpec(name="label", kind="multiclass", num_outputs=NUM_CLASSES)
DIGIT = TaskSpec(name="label", kind="multiclass", num_outputs=10)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.feature_dim = FEATURE_DIM
        self.net = nn.Sequential(nn.Linear(INPUT_DIM, 32), nn.ReLU(), nn.Linear(32, FEATURE_DIM))

    def forward(self, values, mask=None):
        return self.net(values)


class Join(nn.Module):
    def __init__(self, num_modalities: int) -> None:
        super().__init__()
        self.fused_dim = num_modalities * FEATURE_DIM

    def forward(self, features):
        return torch.cat([features[name].tensor for name in sorted(features)], dim=1)


class Average(nn.Module):
    """The mean of probabilities, as decision-level fusion."""

    def forward(self, task, logits):
        votes = torch.stack(
            [given.tensor.log_softmax(dim=1) for _, given in sorted(logits.items()) if given.present.any()]
        )
        return votes.logsumexp(dim=0)


def split(inputs: dict[str, np.ndarray], labels: np.ndarray) -> SplitData:
    columns = {name: Column(values.astype("f4"), None, np.ones(len(values), bool)) for name, values in inputs.items()}
    return SplitData(columns, {"label": labels.astype("i8")}, CPU)


def train(objective_name, data, *, level="feature", task=LABEL, seed=0, options=None, **config):
    """Train a small model by an objective; return both."""
    names = data["names"]
    spec = BY_NAME[objective_name]
    module, _, attribute = spec.factory.partition(":")
    torch.manual_seed(seed)
    dims = dict.fromkeys(names, FEATURE_DIM)
    objective = getattr(import_module(module), attribute)(dims, (task,), **{**spec.defaults, **(options or {})})
    model = MultimodalModel(
        {name: Encoder() for name in names},
        dict.fromkeys(names, "vector"),
        Average() if level == "decision" else Join(len(names)),
        (task,),
        level=level,
        unimodal_heads=getattr(objective, "needs_unimodal_heads", False),
    )
    settings = TrainConfig(epochs=15, patience=0, **config)
    Trainer(
        model,
        objective,
        data["train"],
        data["val"],
        (task,),
        {"label": None},
        settings,
        order_seed=seed,
        noise_seed=seed,
    ).run()
    model.eval()
    return model, objective


def accuracy(model: MultimodalModel, data: SplitData, *, only: str | None = None) -> float:
    """Test accuracy, from one modality alone where `only` names it."""
    batch = next(iter(data.in_order(len(data))))
    with torch.no_grad():
        features = model.encode(batch)
        if only is not None:
            nobody = torch.zeros(batch.size, dtype=torch.bool)
            features = {name: given if name == only else keep(given, nobody) for name, given in features.items()}
        logits = model.fuse(features).logits["label"]
    return float((logits.argmax(dim=1) == batch.targets["label"]).float().mean())


def encoded(model: MultimodalModel, data: SplitData) -> dict[str, Tensor]:
    with torch.no_grad():
        batch = next(iter(data.in_order(len(data))))
        return {name: given.tensor for name, given in model.encode(batch).items()}


def splits(make, sizes=(600, 200, 400)) -> dict:
    """Splits of a set; `make(size, rng)` gives inputs by modality and labels."""
    made = {name: make(size, np.random.default_rng([7, size])) for name, size in zip(("train", "val", "test"), sizes)}
    return {"names": sorted(made["train"][0]), **{name: split(*given) for name, given in made.items()}}


CODES = np.random.default_rng(5).normal(size=(3, 10, INPUT_DIM))


def strong_and_weak(size, rng):
    """Both modalities show the label, one of four; the strong one nearly without noise."""
    labels = rng.integers(NUM_CLASSES, size=size)
    strong = CODES[0, labels] + 0.5 * rng.normal(size=(size, INPUT_DIM))
    weak = 0.5 * CODES[1, labels] + 0.8 * rng.normal(size=(size, INPUT_DIM))
    return {"strong": strong, "weak": weak}, labels


def quarters(size, rng):
    """One modality shows half the digit, the other its remainder by five: alone each leaves two digits open."""
    digits = rng.integers(10, size=size)
    symbols = {"half": digits // 2, "rest": digits % 5}
    inputs = {
        name: CODES[m, s] + 0.3 * rng.normal(size=(size, INPUT_DIM)) for m, (name, s) in enumerate(symbols.items())
    }
    return inputs, digits


VIEWS = np.random.default_rng(6).normal(size=(2, 8, INPUT_DIM))


def two_views(size, rng):
    """Two linear views of a hidden point of eight numbers; the label is the signs of the first two."""
    hidden = rng.normal(size=(size, 8))
    inputs = {name: hidden @ view + 0.1 * rng.normal(size=(size, INPUT_DIM)) for name, view in zip("ab", VIEWS)}
    return inputs, 2 * (hidden[:, 0] > 0) + (hidden[:, 1] > 0)


def retrieval(model, objective, data) -> float:
    """How often the nearest of all test samples' b to a sample's a is its own."""
    given = encoded(model, data)
    a, b = (nn.functional.normalize(p(given[n]), dim=1) for n, p in zip(objective.names, objective.projections))
    return float(((a @ b.T).argmax(dim=1) == torch.arange(len(a))).float().mean())


def test_infonce_aligns_two_spaces_so_that_pairs_unseen_in_training_find_each_other():
    data = splits(two_views)

    aligned = retrieval(*train("infonce", data), data["test"])
    unaligned = retrieval(*train("infonce", data, options={"alignment_weight": 0.0}), data["test"])

    assert aligned >= 0.9  # of 400; measured 0.98
    assert unaligned <= 0.05  # chance is 0.0025


def test_ogm_ge_lets_a_starved_modality_say_more():
    data = splits(strong_and_weak)
    alone = {"supervised": [], "ogm-ge": []}

    for seed in range(5):
        for name, options in (("supervised", {}), ("ogm-ge", {"alpha": 1.0})):
            model, _ = train(name, data, seed=seed, options=options, optimiser="sgd", lr=0.03)
            alone[name].append(accuracy(model, data["test"], only="weak"))

    # What the fused model makes of the weak modality when it is alone; measured 0.626 and 0.754.
    assert np.mean(alone["ogm-ge"]) >= np.mean(alone["supervised"]) + 0.08


def test_modality_dropout_prepares_for_a_missing_modality():
    data = splits(strong_and_weak)

    usual = [accuracy(train("supervised", data, seed=seed)[0], data["test"], only="weak") for seed in range(3)]
    prepared = [train("modality-dropout", data, seed=seed)[0] for seed in range(3)]

    alone = [accuracy(model, data["test"], only="weak") for model in prepared]
    assert np.mean(alone) >= np.mean(usual) + 0.08  # measured 0.885 and 0.751
    assert min(accuracy(model, data["test"]) for model in prepared) >= 0.98


def test_joint_losses_make_the_average_of_decisions_solve_what_it_does_not_solve_by_its_own_loss():
    data = splits(quarters)

    usual = [
        accuracy(train("supervised", data, level="decision", task=DIGIT, seed=s)[0], data["test"]) for s in range(3)
    ]
    joint = [accuracy(train("joint", data, level="decision", task=DIGIT, seed=s)[0], data["test"]) for s in range(3)]

    assert min(joint) >= 0.98
    assert np.mean(usual) <= 0.9


def test_uncertainty_trusts_the_task_that_can_be_learned():
    rng = np.random.default_rng(8)
    inputs, labels = strong_and_weak(600, rng)
    tasks = (LABEL, TaskSpec(name="noise", kind="multiclass", num_outputs=2))
    columns = {name: Column(values.astype("f4"), None, np.ones(600, bool)) for name, values in inputs.items()}
    data = SplitData(columns, {"label": labels.astype("i8"), "noise": rng.integers(2, size=600)}, CPU)
    torch.manual_seed(0)
    objective = Uncertainty(dict.fromkeys(inputs, FEATURE_DIM), tasks)
    encoders = {name: Encoder() for name in inputs}
    model = MultimodalModel(encoders, dict.fromkeys(inputs, "vector"), Join(2), tasks)

    settings = TrainConfig(epochs=30, lr=1e-2, patience=0)
    scalers = {"label": None, "noise": None}
    Trainer(model, objective, data, data, tasks, scalers, settings, order_seed=0, noise_seed=0).run()

    label, noise = objective.log_variances.tolist()
    assert label < noise - 0.5
