"""No training step of a first-party fusion or objective waits for the device it computes on."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from importlib import import_module

import numpy as np
import pytest
import torch
from mmbench_fusion import FUSIONS
from mmbench_objectives import OBJECTIVES
from safetensors.numpy import save_file
from torch import nn

import mmbench.train as training
from mmbench.batches import SplitData
from mmbench.columns import Column
from mmbench.compatibility import incompatibilities
from mmbench.config import TrainConfig
from mmbench.features import Features
from mmbench.hostwork import HostWaits, drawn_on_host, host_state
from mmbench.kept_predictions import kept_arrays
from mmbench.missing import make_filler
from mmbench.model import MultimodalModel
from mmbench.record import PREDICTIONS_FILE
from mmbench.spec import MISSING_POLICIES, DatasetInfo, Modality, TaskSpec
from mmbench.train import Trainer

#: Holds shapes and no numbers: torch refuses whatever would ask it for one, as a GPU would have to be waited for.
META = torch.device("meta")
NAMES = ("audio", "image", "text")
DIM, NUM, SIZE = 8, 12, 6
IDS = tuple(f"s{row}" for row in range(NUM))
TASKS = {
    "multiclass": TaskSpec(name="label", kind="multiclass", num_outputs=3),
    "multilabel": TaskSpec(name="tags", kind="multilabel", num_outputs=3),
    "regression": TaskSpec(name="amount", kind="regression", num_outputs=2),
    "retrieval": TaskSpec(name="match", kind="retrieval", num_outputs=4),
}
#: A fusion of each kind, with which every objective is tried; the whole product takes minutes.
EVERY_KIND = ("concat", "cross-attention", "pyramid", "stacking")
#: What the GPU's own routine looks at on the host, whoever calls it.
KNOWN = {"deep-cca": "aten._linalg_svd"}


class Encoder(nn.Module):
    def __init__(self, layout):
        super().__init__()
        self.layout = layout
        self.feature_dim = (DIM, DIM) if layout == "pyramid" else DIM
        self.layer = nn.Linear(5, DIM)

    def forward(self, values, mask):
        tokens = self.layer(values)
        if self.layout == "pyramid":
            return Features((tokens, tokens), (mask, mask))
        made = Features(tokens, mask)
        return made if self.layout == "sequence" else made.to_vector()


def split(task, gaps=True):
    """12 samples of up to 4 tokens; each modality but the first is missing in some."""
    rng = np.random.default_rng(0)
    columns = {}
    for number, name in enumerate(NAMES):
        here = np.arange(NUM) % 3 != number if gaps and number else np.ones(NUM, bool)
        lengths = np.where(here, 1 + np.arange(NUM) % 4, 0)
        columns[name] = Column(
            rng.normal(size=(lengths.sum(), 5)).astype("f4"), np.concatenate([[0], np.cumsum(lengths)]), here
        )
    targets = {
        "label": np.arange(NUM) % 3,
        "tags": rng.integers(0, 2, (NUM, 3)).astype("f4"),
        "amount": rng.normal(size=(NUM, 2)).astype("f4"),
        "match": np.arange(NUM),
    }
    return SplitData(columns, {task.name: targets[task.name]}, META, subset=np.arange(NUM)[::-1].copy())


@cache
def part(kind, name):
    return next(spec for spec in (FUSIONS if kind == "fusion" else OBJECTIVES) if spec.name == name)


def built(spec, *given, **options):
    module, _, attribute = spec.factory.partition(":")
    return getattr(import_module(module), attribute)(*given, **{**spec.defaults, **options})


def teacher(folder, task):
    """A cell that kept what it says of the training samples."""
    shape = (NUM, task.num_outputs)
    said, targets = np.full(shape, 0.5), np.zeros(NUM if task.kind == "multiclass" else shape)
    kept = kept_arrays("train", {task.name: said}, {task.name: targets}, IDS)
    save_file(kept, folder / PREDICTIONS_FILE)
    return {"teacher": str(folder)}


def make_trainer(fusion, objective, task, policy="mask", **options):
    dims = dict.fromkeys(NAMES, (DIM, DIM) if fusion.accepts == "pyramid" else DIM)
    asked = built(objective, dims, (task,), **options).to(META)
    if hasattr(asked, "before_training"):
        asked.before_training(IDS)
    model = MultimodalModel(
        {name: Encoder(fusion.accepts) for name in NAMES},
        dict.fromkeys(NAMES, fusion.accepts),
        built(fusion, dims, (task,)),
        (task,),
        level=fusion.level,
        accepts=fusion.accepts,
        unimodal_heads=getattr(asked, "needs_unimodal_heads", False),
        missing=make_filler(policy, dims),
    )
    data = split(task)
    config = TrainConfig(batch_size=SIZE, optimiser="sgd")
    return Trainer(model.to(META), asked, data, data, (task,), {task.name: None}, config, order_seed=0, noise_seed=0)


@pytest.fixture(autouse=True)
def _what_tensors_without_numbers_can_do(monkeypatch):
    """The optimiser is torch's own and not in question; its fused form refuses them, as autocast does."""
    monkeypatch.setattr(torch, "autocast", lambda *given, **named: nullcontext())
    monkeypatch.setattr(
        training,
        "make_optimiser",
        lambda modules, *_: torch.optim.SGD(
            [{"params": [item for module in modules for item in module.parameters()], "lr_factor": 1.0}], foreach=False
        ),
    )


def waits_of(trainer):
    with HostWaits(META) as seen:
        trainer.step(trainer.train_data.batch(torch.arange(SIZE)), 0, {})
    return seen.waits


def combos():
    """Every fusion under every objective that it goes with, on the first kind of task that both can do."""
    for fusion in FUSIONS:
        for objective in OBJECTIVES:
            for kind, task in TASKS.items():
                info = DatasetInfo(
                    modalities=tuple(Modality(name=name, kind="text") for name in NAMES),
                    tasks=(task,),
                    missing=NAMES[1:],
                )
                if not incompatibilities(info, len(NAMES), list(info.missing), fusion, objective, "mask"):
                    ordinary = objective.name == "supervised" or fusion.name in EVERY_KIND
                    yield pytest.param(
                        fusion,
                        objective,
                        task,
                        id=f"{fusion.name}-{objective.name}-{kind}",
                        marks=[] if ordinary else [pytest.mark.full],
                    )
                    break


@pytest.mark.parametrize(("fusion", "objective", "task"), list(combos()))
def test_no_step_of_a_first_party_combo_waits_for_the_device(fusion, objective, task, tmp_path):
    options = teacher(tmp_path, task) if "teacher" in objective.must_give else {}
    known = KNOWN.get(objective.name)

    assert waits_of(make_trainer(fusion, objective, task, **options)) == ([known] if known else [])


@pytest.mark.parametrize("policy", MISSING_POLICIES)
def test_no_policy_for_missing_modalities_waits_for_the_device(policy):
    trainer = make_trainer(part("fusion", "concat"), part("objective", "supervised"), TASKS["multiclass"], policy)

    assert waits_of(trainer) == []


@pytest.mark.parametrize(
    ("ask", "found"),
    [
        (lambda x: x.sum().item(), ["aten._local_scalar_dense"]),
        (lambda x: float(x.max()), ["aten._local_scalar_dense"]),
        (lambda x: bool((x > 0).any()), ["aten._local_scalar_dense"]),
        (lambda x: x[x > 0], ["aten.index by a mask"]),
        (lambda x: x.nonzero(), ["aten.nonzero"]),
        (lambda x: x.masked_select(x > 0), ["aten.masked_select"]),
        (lambda x: x.repeat_interleave(torch.arange(4)), ["aten.repeat_interleave"]),
        (lambda x: x.repeat_interleave(torch.arange(4), output_size=6), []),
        (lambda x: torch.linalg.svdvals(torch.outer(x, x)), ["aten._linalg_svd"]),
        (lambda x: x.unique(), ["aten._unique2"]),
        (lambda x: x.masked_fill(x > 0, 1.0), []),
        (lambda x: x[torch.tensor([1, 2])], []),
        (lambda x: torch.where(x > 0, x, 0.0).sum(), []),
    ],
)
def test_what_waits_for_the_device_is_told_by_name(ask, found):
    with HostWaits(torch.device("cpu")) as seen:
        ask(torch.tensor([-1.0, 0.5, 2.0, 3.0]))

    assert seen.waits == found


def test_copies_between_host_and_device_are_told_apart():
    values = torch.ones(3)
    with HostWaits(META) as seen:
        values.to(META, non_blocking=True)
    assert (seen.waits, seen.copies) == ([], ["aten._to_copy from the host"])

    with HostWaits(META) as seen:
        values.to(META)
    assert seen.waits == ["aten._to_copy from the host that waits for its end"]

    with HostWaits(META) as seen:
        values.sum().item()  # the host's own
    assert seen.waits == []


def test_numbers_drawn_on_the_host_are_noticed():
    before = drawn_on_host(META)
    assert drawn_on_host(META) == before

    torch.rand(1)
    assert drawn_on_host(META) != before
    before = drawn_on_host(torch.device("cpu"))
    torch.rand(1)  # the device's own
    assert drawn_on_host(torch.device("cpu")) == before
    np.random.rand()
    assert drawn_on_host(torch.device("cpu")) != before


def test_the_state_that_a_graph_rests_on_names_what_it_is():
    module = nn.BatchNorm1d(2)
    module.num_calls = 3
    before = host_state({"model": module})
    module.eval()
    module.num_calls += 1
    module.weight.requires_grad_(False)
    module.running_mean = torch.zeros(2)
    after = host_state({"model": module})

    changed = {name for name in after if before[name] != after[name]}
    assert changed == {"model.training", "model.num_calls", "model.weight", "model.running_mean"}
