"""Objectives do measurably what their papers say, on sets built to show it, in the one training loop."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch
from mmbench_objectives import OBJECTIVES
from mmbench_objectives.adversarial import Adversarial, push
from mmbench_objectives.cca import correlation
from mmbench_objectives.codes import target
from mmbench_objectives.modality_dropout import keep
from mmbench_objectives.uncertainty import Uncertainty
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.batches import SplitData
from mmbench.columns import Column
from mmbench.config import TrainConfig
from mmbench.model import MultimodalModel
from mmbench.train import Step, Trainer

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
    def __init__(self, input_dim: int = INPUT_DIM, hidden_dim: int = 32) -> None:
        super().__init__()
        self.feature_dim = FEATURE_DIM
        self.net = nn.Sequential(nn.Linear(input_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, FEATURE_DIM))

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


def train(objective_name, data, *, level="feature", task=LABEL, seed=0, options=None, encoders=None, **config):
    """Train a small model by an objective; return both."""
    names = data["names"]
    spec = BY_NAME[objective_name]
    module, _, attribute = spec.factory.partition(":")
    torch.manual_seed(seed)
    dims = dict.fromkeys(names, FEATURE_DIM)
    objective = getattr(import_module(module), attribute)(dims, (task,), **{**spec.defaults, **(options or {})})
    model = MultimodalModel(
        {name: Encoder(*(encoders or {}).get(name, ())) for name in names},
        dict.fromkeys(names, "vector"),
        Average() if level == "decision" else Join(len(names)),
        (task,),
        level=level,
        unimodal_heads=getattr(objective, "needs_unimodal_heads", False),
    )
    settings = TrainConfig(**{"epochs": 15, "patience": 0, **config})
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


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "margin"), [("pmr", {}, 0.06), ("agm", {"alpha": 3.0}, 0.02)])
def test_other_ways_to_balance_let_a_starved_modality_say_more_too(name, options, margin):
    data = splits(strong_and_weak)

    def alone(objective, **about):
        return [
            accuracy(train(objective, data, seed=s, optimiser="sgd", lr=0.03, **about)[0], data["test"], only="weak")
            for s in range(5)
        ]

    # Measured: supervised 0.626, AGM 0.677, PMR 0.756.
    assert np.mean(alone(name, options=options)) >= np.mean(alone("supervised")) + margin


ROTE_DIM = 300


def signal_and_rote(size, rng):
    """One modality shows the label, one of four, under noise; the other is wide and loud, and shows nothing."""
    labels = rng.integers(NUM_CLASSES, size=size)
    signal = CODES[0, labels] + 1.6 * rng.normal(size=(size, INPUT_DIM))
    return {"signal": signal, "rote": 6.0 * rng.normal(size=(size, ROTE_DIM))}, labels


@pytest.mark.slow
def test_gradient_blending_trusts_the_modality_that_generalises_and_beats_equal_weights():
    """Wang et al. 2020: joint training is worse than it could be, because modalities overfit at different rates."""
    data = splits(signal_and_rote, (800, 300, 2000))
    found = {}
    for name in ("gradient-blending", "joint", "supervised"):
        for seed in range(3):
            model, objective = train(
                name, data, seed=seed, encoders={"signal": (INPUT_DIM, 64), "rote": (ROTE_DIM, 64)},
                epochs=20, batch_size=32, optimiser="sgd", lr=0.03,
            )  # fmt: skip
            found.setdefault(name, []).append(accuracy(model, data["test"]))
            if name == "gradient-blending":
                _, rote, signal = objective.weights.tolist()
                assert rote <= 0.1  # measured 0.02
                assert signal >= 0.5  # measured 0.80 to 0.86

    # Measured, though blending steps on a fifth fewer samples: 0.751, 0.664 (equal weights), 0.718.
    assert np.mean(found["gradient-blending"]) >= np.mean(found["joint"]) + 0.05
    assert np.mean(found["gradient-blending"]) >= np.mean(found["supervised"]) + 0.01


def views(objective, data, model):
    """Both modalities' test features in the objective's own space."""
    given = encoded(model, data)
    with torch.no_grad():
        return [projection(given[name]) for name, projection in zip(objective.names, objective.projections)]


def test_deep_cca_makes_unseen_pairs_correlate():
    data = splits(two_views)
    found = {}
    for weight in (0.0, 0.1):
        model, objective = train("deep-cca", data, options={"correlation_weight": weight})
        x, y = views(objective, data["test"], model)
        found[weight] = float(correlation(x, y, torch.ones(len(x), dtype=torch.bool), 1e-3)) / x.shape[1]

    assert found[0.1] >= 0.85  # mean of eight correlations; measured 0.93 to 0.95
    assert found[0.0] <= 0.6  # measured 0.43 to 0.48


def test_supervised_contrast_lays_classes_of_different_modalities_together():
    data = splits(strong_and_weak)
    labels = data["test"].targets["label"]
    found = {}
    for weight in (0.0, 0.5):
        model, objective = train("supcon", data, options={"contrastive_weight": weight})
        a, b = (nn.functional.normalize(view, dim=1) for view in views(objective, data["test"], model))
        found[weight] = float((labels[(a @ b.T).argmax(dim=1)] == labels).float().mean())

    assert found[0.5] >= 0.9  # the nearest of the other modality is of the same class; measured 0.96 to 0.99
    assert found[0.0] <= 0.6  # measured 0.06 to 0.48


@pytest.mark.parametrize("name", ["reconstruction", "mvae"])
def test_one_modality_tells_anothers_features_on_unseen_samples(name):
    data = splits(two_views)
    found = {}
    for weight in (0.0, None):
        options = (
            {} if weight is None else {"reconstruction_weight" if name == "reconstruction" else "elbo_weight": weight}
        )
        model, objective = train(name, data, options=options)
        given = encoded(model, data["test"])
        one, other = objective.names
        with torch.no_grad():
            wanted = target(Features(given[other]))
            if name == "reconstruction":
                code = objective.encoders[0](given[one])
            else:
                mean, log_variance = objective.experts[0](given[one]).chunk(2, dim=1)
                code = mean / (1.0 + log_variance.exp())  # times the prior
            gap = objective.decoders[1](code) - wanted
        found[weight] = float(gap.square().mean() / (wanted - wanted.mean(0)).square().mean())

    assert found[0.0] >= 0.95  # share of variance that is not explained
    assert found[None] <= {"reconstruction": 0.5, "mvae": 0.87}[name]  # measured 0.38 and 0.78


def test_the_factors_of_mfm_tell_the_label_and_make_unseen_features():
    data = splits(strong_and_weak)
    found = {}
    for weight in (0.0, 0.1):
        model, objective = train("mfm", data, options={"factor_weight": weight}, lr=3e-3)
        given = encoded(model, data["test"])
        vectors = [given[name] for name in objective.names]
        with torch.no_grad():
            shared = objective.shared(torch.cat(vectors, dim=1))
            right = objective.heads[0](shared).argmax(dim=1) == data["test"].targets["label"]
            left = []
            for vector, own, decode in zip(vectors, objective.own, objective.decoders):
                wanted = target(Features(vector))
                gap = decode(torch.cat([shared, own(vector)], dim=1)) - wanted
                left.append(float(gap.square().mean() / (wanted - wanted.mean(0)).square().mean()))
        found[weight] = float(right.float().mean()), max(left)

    assert found[0.1][0] >= 0.95  # accuracy from the discriminative factor alone; measured 1.0
    assert found[0.1][1] <= 0.3  # share of variance not explained; measured 0.03 and 0.09
    assert found[0.0][1] >= 0.9


@pytest.mark.slow
def test_mixup_makes_a_model_that_overfits_less_sure_of_itself_and_no_less_right():
    def blurred(size, rng):
        inputs, labels = strong_and_weak(size, rng)
        return {name: values + 1.5 * rng.normal(size=values.shape) for name, values in inputs.items()}, labels

    data = splits(blurred, (200, 100, 1000))
    found = {}
    for name, options in (("supervised", {}), ("mixup", {"alpha": 1.0})):
        for seed in range(3):
            model, _ = train(name, data, seed=seed, options=options, epochs=60, lr=3e-3, batch_size=32)
            with torch.no_grad():
                sure = model(next(iter(data["test"].in_order(1000)))).logits["label"].softmax(1).amax(1).mean()
            found.setdefault(name, []).append((float(sure), accuracy(model, data["test"])))
    (sure, right), (mixed_sure, mixed_right) = np.mean(found["supervised"], axis=0), np.mean(found["mixup"], axis=0)

    assert mixed_sure <= sure - 0.04  # mean confidence; measured 0.80 and 0.87
    assert mixed_right >= right - 0.01  # measured 0.844 and 0.839


def test_adversarial_training_makes_the_worst_push_hurt_less():
    data = splits(two_views)
    found = {}
    for name, options in (("supervised", {}), ("adversarial", {"epsilon": 0.5, "num_steps": 3})):
        model, _ = train(name, data, options=options)
        batch = next(iter(data["test"].in_order(400)))
        output = model(batch)
        step = Step(
            model=model, batch=batch, output=output, epoch=0, progress=0.0, generator=torch.Generator().manual_seed(0),
            task_loss=lambda logits, y=batch.targets["label"]: nn.functional.cross_entropy(logits["label"], y),
        )  # fmt: skip
        attack = Adversarial({}, (), adversarial_weight=1.0, epsilon=0.5, num_steps=10).attack(step)
        right = model.fuse(push(output.features, attack)).logits["label"].argmax(dim=1) == batch.targets["label"]
        found[name] = float(right.float().mean()), accuracy(model, data["test"])

    assert found["adversarial"][0] >= found["supervised"][0] + 0.1  # measured 0.37 and 0.18
    assert found["adversarial"][1] >= 0.88  # of clean samples; measured 0.925, supervised 0.94


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
