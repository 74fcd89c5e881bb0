"""What stands in for missing modalities: formulas in plain loops, training statistics only, the same at evaluation."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from training_cases import Supervised

import mmbench.missing
from mmbench.batches import SplitData, complete
from mmbench.columns import Column
from mmbench.compatibility import incompatibilities
from mmbench.config import TrainConfig
from mmbench.diagnostics.encoded import absent, take
from mmbench.errors import DataError, UsageError
from mmbench.features import Features
from mmbench.missing import make_filler
from mmbench.model import MultimodalModel
from mmbench.parts import make_part
from mmbench.registry import Entry, Registry
from mmbench.spec import MISSING_POLICIES, DatasetInfo, FusionSpec, Modality, ObjectiveSpec, TaskSpec
from mmbench.train import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
DIMS = {"a.b": 3, "type": 2, "c": 4}
LABEL = TaskSpec(name="label", kind="multiclass", num_outputs=2)
CPU = torch.device("cpu")
FILLING = [policy for policy in MISSING_POLICIES if policy != "mask"]


def encoded(size, seed, share=0.6):
    """Features of some samples, each modality there with a probability; 1000, which none may read, where it is not."""
    generator = torch.Generator().manual_seed(seed)
    features = {}
    for name, width in DIMS.items():
        mask = torch.rand(size, generator=generator) < share
        values = torch.randn(size, width, generator=generator) * 2 + 1
        features[name] = Features(values.masked_fill(~mask[:, None], 1000.0), mask)
    return features


def observed(policy, train, parts=4):
    torch.manual_seed(0)
    filler = make_filler(policy, DIMS)
    size = len(train["c"].present)
    chunks = torch.arange(size).chunk(parts)
    taken = [{n: Features(g.tensor[rows], g.mask[rows]) for n, g in train.items()} for rows in chunks]
    if filler.observes:
        filler.observe(taken, size)
    return filler.eval()


def means(train):
    """By modality, the mean over the samples that have it, and the root of the mean of the columns' variances."""
    found = {}
    for name, given in train.items():
        rows = [row.double().numpy() for row, here in zip(given.tensor, given.mask.tolist()) if here]
        mean = sum(rows) / len(rows)
        variance = sum((row - mean) ** 2 for row in rows) / len(rows)
        found[name] = mean, float(np.sqrt(variance.mean()))
    return found


def neighbours_mean(train, test, sample, wanted):
    """The interpolation of one sample's modality, one training sample after the other."""
    scales = means(train)
    distances = []
    for other in range(len(train["c"].mask)):
        if not train[wanted].mask[other]:
            continue
        terms = []
        for name, width in DIMS.items():
            if test[name].mask[sample] and train[name].mask[other]:
                gap = (test[name].tensor[sample] - train[name].tensor[other]).double()
                terms.append(float(gap @ gap) / (width * scales[name][1] ** 2))
        if terms:
            distances.append((sum(terms) / len(terms), other))
    if not distances:
        return scales[wanted][0]
    nearest = [other for _, other in sorted(distances)[:5]]
    return sum(train[wanted].tensor[other].double().numpy() for other in nearest) / len(nearest)


def predicted(filler, train, test, sample, wanted):
    """The imputation of one sample's modality, by the network's own weights in numpy."""
    about = means(train)
    if not any(test[name].mask[sample] for name in DIMS):
        return about[wanted][0]
    read, flags = [], []
    for name, width in DIMS.items():
        if name == wanted:
            continue
        here = bool(test[name].mask[sample])
        mean, scale = about[name]
        read.append((test[name].tensor[sample].double().numpy() - mean) / scale if here else np.zeros(width))
        flags.append(float(here))
    first, _, last = filler.networks[list(DIMS).index(wanted)]
    matrices = [tensor.detach().double().numpy() for layer in (first, last) for tensor in (layer.weight, layer.bias)]
    hidden = np.maximum(matrices[0] @ np.concatenate([*read, flags]) + matrices[1], 0.0)
    mean, scale = about[wanted]
    return mean + scale * (matrices[2] @ hidden + matrices[3])


@pytest.mark.parametrize("policy", FILLING)
def test_every_gap_is_filled_by_the_policys_formula_and_nothing_else_is_touched(policy):
    train, test = encoded(60, seed=1), encoded(40, seed=2)
    filler = observed(policy, train)
    for network in getattr(filler, "networks", ()):
        nn.init.normal_(network[2].weight)  # it starts at zero, which would test nothing

    filled = filler(test)

    tokens = dict(zip(DIMS, filler.token.detach().split(list(DIMS.values())))) if policy == "learned-token" else {}
    gaps = 0
    for name in DIMS:
        assert filled[name].mask is None
        for sample, here in enumerate(test[name].mask.tolist()):
            expected = {
                "drop": lambda n, s: means(train)[n][0],
                "zero": lambda n, s: np.zeros(DIMS[n]),
                "mean": lambda n, s: means(train)[n][0],
                "interpolate": lambda n, s: neighbours_mean(train, test, s, n),
                "impute": lambda n, s: predicted(filler, train, test, s, n),
                "learned-token": lambda n, s: tokens[n],
            }[policy](name, sample)
            if here:
                expected = test[name].tensor[sample].numpy()
            gaps += not here
            np.testing.assert_allclose(filled[name].tensor[sample].detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert gaps > 20


def test_a_missing_sequence_becomes_one_real_token_that_holds_the_filling():
    filler = make_filler("learned-token", {"x": 2, "y": 3}).eval()
    tokens = torch.arange(24.0).view(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [False] * 4])
    given = {"x": Features(torch.ones(2, 2)), "y": Features(tokens * mask[..., None], mask)}

    filled = filler(given)["y"]

    assert filled.token_mask.tolist() == [[True, True, False, False], [True, False, False, False]]
    assert torch.equal(filled.tensor[0], given["y"].tensor[0])
    assert torch.equal(filled.tensor[1, 0], filler.token.detach()[2:])


def test_neighbours_are_sought_in_a_bounded_part_of_the_training_set_spread_over_it(monkeypatch):
    monkeypatch.setattr(mmbench.missing, "MAX_BANK", 7)
    train = encoded(60, seed=3)

    filler = observed("interpolate", train)

    there = {name: given.tensor.masked_fill(~given.mask[:, None], 0.0) for name, given in train.items()}
    raw = torch.cat([there[name][::9] for name in DIMS], dim=1)  # ceil(60 / 7) = 9
    centre, spread = (np.concatenate([np.full(DIMS[n], 0.0) + means(train)[n][i] for n in DIMS]) for i in (0, 1))
    np.testing.assert_allclose(filler.bank.numpy(), (raw.numpy() - centre) / spread, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(filler.mean.split(list(DIMS.values()))[2].numpy(), means(train)["c"][0], rtol=1e-5)


def test_neighbours_are_kept_evenly_spread_though_a_last_batch_may_hold_none_of_them(monkeypatch):
    monkeypatch.setattr(mmbench.missing, "MAX_BANK", 4)
    train = encoded(13, seed=6)
    filler = make_filler("interpolate", DIMS)

    filler.observe(({name: take(train[name], rows) for name in DIMS} for rows in torch.arange(13).split(6)), 13)

    kept = [0, 4, 8, 12]  # ceil(13 / 4) = 4
    np.testing.assert_array_equal(
        filler.bank_present.numpy(), torch.stack([train[name].present[kept] for name in DIMS], dim=1).numpy()
    )
    filler.observe(({name: take(train[name], rows) for name in DIMS} for rows in torch.arange(10).split(9)), 10)
    assert len(filler.bank) == 4  # of 10 samples, each third
    filler.observe(({name: take(train[name], rows) for name in DIMS} for rows in torch.arange(11).split(10)), 11)
    assert len(filler.bank) == 4  # the eleventh, alone in its batch, is none of them


def test_the_imputation_loss_is_the_share_of_variance_left_over_the_samples_that_can_teach_it():
    dims = {"a": 3, "b": 2}
    train = dict(zip(dims, encoded(50, seed=4).values()))
    torch.manual_seed(0)
    filler = make_filler("impute", dims)
    filler.observe([train], 50)
    for network in filler.networks:
        nn.init.normal_(network[2].weight, std=0.2)

    losses = {name: given.losses for name, given in filler.train()(train).items()}

    about = means(train)
    for wanted, other, network in (("a", "b", filler.networks[0]), ("b", "a", filler.networks[1])):
        errors = []
        for sample in range(50):
            if train[wanted].mask[sample] and train[other].mask[sample]:
                z = {n: (train[n].tensor[sample].numpy() - about[n][0]) / about[n][1] for n in dims}
                read = torch.tensor([*z[other], 1.0], dtype=torch.float32)
                errors.append(float(((network(read).detach().numpy() - z[wanted]) ** 2).mean()))
        assert list(losses[wanted]) == ["impute"]
        assert float(losses[wanted]["impute"].detach()) == pytest.approx(np.mean(errors), rel=1e-4)


def test_an_imputer_starts_at_the_mean_and_its_loss_trains_nothing_but_itself():
    features = encoded(40, seed=5)
    values = {name: given.tensor.clone().requires_grad_() for name, given in features.items()}
    given = {name: Features(values[name], features[name].mask) for name in DIMS}
    filler = make_filler("impute", DIMS).train()
    filler.observe([features], 40)

    filled = filler(given)
    at_first = {name: filled[name].tensor.detach().clone() for name in DIMS}
    sum(item.losses["impute"] for item in filled.values()).backward()

    for name in DIMS:
        gap = ~features[name].mask
        torch.testing.assert_close(
            at_first[name][gap], torch.tensor(means(features)[name][0], dtype=torch.float32).expand(int(gap.sum()), -1)
        )
    assert all(value.grad is None for value in values.values())
    assert all(bool(network[2].weight.grad.any()) for network in filler.networks)


class Encoder(nn.Module):
    def __init__(self, width, dim):
        super().__init__()
        self.feature_dim = dim
        self.layer = nn.Linear(width, dim)

    def forward(self, values, mask=None):
        return self.layer(values)


class Join(nn.Module):
    """Concatenation that takes no mask."""

    def __init__(self, dims):
        super().__init__()
        self.fused_dim = sum(dims.values())
        self.given = {}

    def forward(self, features):
        self.given = features
        return torch.cat([features[name].tensor for name in sorted(features)], dim=1)


class Mean(nn.Module):
    """Decision level: the mean of the votes that are there."""

    def __init__(self):
        super().__init__()
        self.given = {}

    def forward(self, task, logits):
        self.given = logits
        return torch.stack([given.tensor for given in logits.values()]).mean(0)


def split(size, seed, share=0.6, shift=0.0):
    rng = np.random.default_rng(seed)
    label = rng.integers(2, size=size)
    columns = {}
    for name, width in DIMS.items():
        values = (rng.normal(size=(size, width)) + 2 * label[:, None] + shift).astype("f4")
        columns[name] = Column(values, None, rng.random(size) < share)
    return SplitData(columns, {"label": label.astype("i8")}, CPU)


def model(policy, level="feature"):
    torch.manual_seed(0)
    encoders = {name: Encoder(width, width) for name, width in DIMS.items()}
    fusion = Join(DIMS) if level == "feature" else Mean()
    filler = make_filler(policy, DIMS)
    return MultimodalModel(encoders, dict.fromkeys(DIMS, "vector"), fusion, (LABEL,), level=level, missing=filler)


def train(policy, train_data, val_data, level="feature", epochs=3):
    built = model(policy, level)
    config = TrainConfig(epochs=epochs, patience=0, batch_size=16, select="loss", lr=3e-2)
    trainer = Trainer(
        built, Supervised(), train_data, val_data, (LABEL,), {"label": None}, config, order_seed=0, noise_seed=0
    )
    return trainer, trainer.run()


@pytest.mark.parametrize("level", ["feature", "decision"])
@pytest.mark.parametrize("policy", FILLING)
def test_a_fusion_without_masks_trains_on_gaps_with_finite_gradients_and_meets_no_gap(policy, level):
    trainer, trained = train(policy, split(64, 1), split(32, 2), level, epochs=8)
    built = trainer.model
    batch = next(iter(split(16, 3).in_order(16)))

    output = built.train()(batch)
    torch.stack([trainer.loss(output.logits, batch.targets), *output.losses.values()]).sum().backward()

    assert all(given.present.all() for given in built.fusion.given.values())
    assert not all(given.present.all() for given in output.features.values())  # what encoders gave stays as it was
    assert all(torch.isfinite(p.grad).all() for p in built.parameters() if p.grad is not None)
    assert set(output.losses) == ({f"{name}.impute" for name in DIMS} if policy == "impute" else set())
    assert trained.history[-1].val_loss < 0.6  # ln 2 = 0.69 is chance


@pytest.mark.parametrize("policy", ["mean", "interpolate", "impute"])
def test_a_policy_knows_the_training_set_only(policy):
    # One epoch, so that val cannot even choose between two.
    one, other = (train(policy, split(64, 1), split(32, seed, shift=seed), epochs=1)[0].model for seed in (2, 9))
    before = {key: value.clone() for key, value in one.missing.state_dict().items()}
    one.eval()(next(iter(split(32, 4, shift=-5).in_order(32))))

    for key, value in one.missing.state_dict().items():
        assert torch.equal(value, other.missing.state_dict()[key])  # whatever val holds
        assert torch.equal(value, before[key])  # whatever was predicted
        assert not key.startswith(("mean", "bank")) or value.any()


def test_after_training_the_statistics_are_those_of_the_training_set_under_the_chosen_weights():
    data = split(64, 1)
    trainer, trained = train("mean", data, split(32, 2), epochs=4)
    built = trainer.model.eval()

    with torch.no_grad():
        features = built.encode(next(iter(data.in_order(64))))

    expected = np.concatenate([means(features)[name][0] for name in DIMS])
    assert trained.best_epoch >= 0
    np.testing.assert_allclose(built.missing.mean.numpy(), expected, rtol=1e-4)


def test_a_modality_that_is_taken_away_at_test_is_filled_like_any_gap():
    trainer, _ = train("mean", split(64, 1, share=1.0), split(32, 2, share=1.0))
    built = trainer.model.eval()
    with torch.no_grad():
        features = built.encode(next(iter(split(8, 3, share=1.0).in_order(8))))
        left = {name: absent(name, given) if name == "type" else given for name, given in features.items()}
        built.fuse(left)

    mean = built.missing.mean.split(list(DIMS.values()))[1]
    assert torch.equal(built.fusion.given["type"].tensor, mean.expand(8, 2))


def test_drop_keeps_the_complete_samples():
    here = {"a": [True, True, False, True], "b": [True, False, True, True]}
    columns = {name: Column(np.zeros((4, 1), "f4"), None, np.array(present)) for name, present in here.items()}

    assert complete(columns).tolist() == [0, 3]
    assert complete(columns, np.array([1, 2, 3])).tolist() == [3]
    with pytest.raises(DataError, match="missing=drop leaves no training sample: none has all of a, b"):
        complete(columns, np.array([1, 2]))


def fusion(**facts):
    return FusionSpec(name="concat", factory="a:b", version="1", **facts)


def registry(**facts):
    return Registry(entries=[Entry(spec=fusion(**facts), dist="d", dist_version="1", plugin="p")])


def test_a_policy_is_part_of_the_reference_and_of_the_key_but_not_of_the_options():
    known = registry(defaults={"width": 4})
    usual, imputing = (make_part(known, known.resolve("fusion", text)) for text in ("concat", "concat[missing=impute]"))

    assert (usual.reference.missing, imputing.reference.missing) == ("mask", "impute")
    assert dict(imputing.reference.options) == {"width": 4}
    assert (usual.label, imputing.label) == ("concat", "concat[missing=impute]")
    assert usual.identity == {"ref": "d/concat", "version": "1", "options": {"width": 4}}  # keys of old rows stand
    assert imputing.identity == {**usual.identity, "missing": {"policy": "impute", "version": "1"}}
    assert make_part(known, known.resolve("fusion", "concat[missing=mask]")).digest == usual.digest


def test_a_policy_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(UsageError) as refused:
        registry().resolve("fusion", "concat[missing=imput]")

    assert str(refused.value) == (
        "fusion 'concat': missing=imput is none of mask, drop, zero, mean, interpolate, impute, learned-token. "
        "Did you mean 'impute'?"
    )


def test_a_policy_lets_fusions_without_masks_serve_gaps_where_it_can():
    info = DatasetInfo(
        modalities=(Modality(name="a", kind="text"), Modality(name="b", kind="text")), tasks=(LABEL,), missing=("b",)
    )
    objective = ObjectiveSpec(name="supervised", factory="a:b", version="1")

    assert incompatibilities(info, 2, ["b"], fusion(), objective, "mean") == []
    assert incompatibilities(info, 2, ["b"], fusion(), objective) == [
        "concat does not take missing modalities, and some samples lack b; fill them, as by concat[missing=mean]"
    ]
    assert incompatibilities(info, 2, ["b"], fusion(accepts="pyramid"), objective, "zero") == [
        "missing=zero fills vectors and token sequences, but concat needs several layers"
    ]
    assert incompatibilities(info, 1, ["b"], fusion(min_modalities=1), objective, "impute") == [
        "missing=impute fills a modality from the others, and there is only one"
    ]


@pytest.mark.full
def test_imputing_beats_zeros_where_modalities_tell_the_same_and_the_favourites_are_taken_away(tmp_path):
    environment = {**os.environ, "MMBENCH_CACHE": str(tmp_path / "cache"), "MMBENCH_DATA": str(tmp_path / "data")}
    command = [sys.executable, "-m", "mmbench.cli"]
    encoders = [f"-e{name}" for name in ("image=mlp", "text=bag-of-embeddings", "audio=logmel-cnn")]
    fusions = ["-fconcat[missing=impute]", "-fconcat[missing=zero]"]
    options = ["--seeds", "3", "--protocol", "none", "--no-baselines", "--run", "gaps"]
    run = subprocess.run(
        [*command, "run", "-dredundant-3", "-dredundant-missing", *encoders, *fusions, *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, env=environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    done = subprocess.run([*command, "export", "gaps"], cwd=tmp_path, capture_output=True, text=True, timeout=60)

    found = {}
    for row in csv.DictReader(io.StringIO(done.stdout)):
        if row["metric"] == "accuracy" and row["split"] == "test":
            key = row["dataset"], row["condition"], row["fusion"].split("=")[1].rstrip("]")
            found.setdefault(key, []).append(float(row["value"]))

    # Trained on complete samples, asked for the modality that it had leant on least. The ceiling is 0.9.
    # Measured: impute 0.887, 0.890, 0.898; zero 0.250, 0.392, 0.535.
    assert min(found["redundant-3", "only:text", "impute"]) >= 0.8
    assert (
        np.mean(found["redundant-3", "only:text", "zero"]) <= np.mean(found["redundant-3", "only:text", "impute"]) - 0.3
    )
    # Trained on gaps, both reach the ceiling of 1.
    assert min(found["redundant-missing", "clean", "impute"]) >= 0.98
    assert len(found["redundant-missing", "clean", "impute"]) == 3
