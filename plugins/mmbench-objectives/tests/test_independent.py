"""Independent training: unimodal models never feel the fusion, and stacking learns from what they have not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmbench_objectives.independent import Independent
from torch import nn

from mmbench import Features, TaskSpec
from mmbench.errors import UsageError
from mmbench.model import Batch, Input, MultimodalModel
from mmbench.tasks import task_loss
from mmbench.train import EpochStart, Step

TASK = TaskSpec(name="label", kind="multiclass", num_outputs=3)
DIMS = {"a": 4, "b": 4}


class Encoder(nn.Module):
    feature_dim = 4

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 4)

    def forward(self, values, mask=None):
        return Features(self.layer(values))


class Weigh(nn.Module):
    """One learned weight per modality on its logits."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.7, 0.2]))
        self.seen = []

    def forward(self, task, logits):
        self.seen.append({name: given.present.clone() for name, given in logits.items()})
        votes = [given.tensor * given.present[:, None] for _, given in sorted(logits.items())]
        return self.weight[0] * votes[0] + self.weight[1] * votes[1]


class Mean(nn.Module):
    def forward(self, task, logits):
        return sum(given.tensor for given in logits.values()) / len(logits)


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def model_of(fusion):
    return MultimodalModel(
        {name: Encoder() for name in DIMS}, dict.fromkeys(DIMS, "vector"), fusion, (TASK,), level="decision"
    )


def batch_of(size, seed, *, gaps=False):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(1, size) if gaps else None  # the first sample lacks b
    inputs = {
        "a": Input(torch.randn(size, 5, generator=generator)),
        "b": Input(torch.randn(size - gaps, 5, generator=generator), None, rows),
    }
    return Batch(size, inputs, {"label": torch.randint(3, (size,), generator=generator)})


def loss_of(logits, targets):
    return task_loss(TASK, logits["label"], targets["label"])


def step_of(model, batch):
    return Step(
        model=model,
        batch=batch,
        output=model(batch),
        epoch=0,
        progress=0.0,
        generator=torch.Generator().manual_seed(7),
        task_loss=lambda logits: loss_of(logits, batch.targets),
    )


def start_of(model, held_out):
    return EpochStart(model=model, epoch=0, progress=0.0, seen=lambda: (), held_out=lambda: held_out, task_loss=loss_of)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("gaps", [False, True])
def test_each_modality_gets_the_gradient_of_its_own_loss_and_the_fusion_that_of_the_joined_one(gaps):
    model, batch = model_of(Weigh()), batch_of(6, 1, gaps=gaps)
    objective = Independent(DIMS, (TASK,), held_out_share=0.0)

    losses = objective(step_of(model, batch))
    together = gradients(model, sum(losses.values()))

    assert list(losses) == ["unimodal.a", "unimodal.b", "fusion"]
    for place, name in enumerate("ab"):
        alone = gradients(model, objective(step_of(model, batch))[f"unimodal.{name}"])
        other = gradients(model, objective(step_of(model, batch))["fusion"])
        for key in (f"encoders.{place}.layer.weight", f"unimodal_heads.{place}.weight"):
            assert torch.equal(together[key], alone[key])
            assert other[key] is None
    assert together["fusion.weight"].abs().min() > 0


def test_the_fusions_loss_is_the_cross_entropy_of_the_joined_votes():
    model, batch = model_of(Weigh()), batch_of(6, 1)

    step = step_of(model, batch)
    loss = Independent(DIMS, (TASK,), held_out_share=0.0)(step)["fusion"].item()

    logits = {name: given["label"].detach().double().numpy() for name, given in step.output.unimodal_logits.items()}
    joined = 0.7 * logits["a"] + 0.2 * logits["b"]
    expected = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(joined, batch.targets["label"].tolist())]
    assert loss == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_rule_without_weights_leaves_only_the_modalities_own_losses():
    model = model_of(Mean())
    objective = Independent(DIMS, (TASK,), held_out_share=0.2)
    objective.before_epoch(start_of(model, [batch_of(5, 3)]))

    assert list(objective(step_of(model, batch_of(6, 1)))) == ["unimodal.a", "unimodal.b"]


def test_with_a_held_out_share_the_fusion_learns_from_held_out_votes_alone():
    model, batch = model_of(Weigh()), batch_of(64, 1)
    objective = Independent(DIMS, (TASK,), held_out_share=0.2)
    held = [batch_of(3, 3, gaps=True), batch_of(2, 4)]
    with torch.no_grad():
        objective.before_epoch(start_of(model, held))
        outputs = [model(part) for part in held]
    model.fusion.seen.clear()

    found = objective(step_of(model, batch))["fusion"].item()

    drawn = torch.randint(5, (64,), generator=torch.Generator().manual_seed(7))
    terms = []
    for row in drawn.tolist():
        part, place = (0, row) if row < 3 else (1, row - 3)
        a, b = (outputs[part].unimodal_logits[name]["label"][place].double().numpy() for name in "ab")
        joined = 0.7 * a + 0.2 * b * (row != 0)
        terms.append(np.log(np.exp(joined).sum()) - joined[int(held[part].targets["label"][place])])
    assert found == pytest.approx(np.mean(terms), rel=1e-5)
    assert torch.equal(model.fusion.seen[-1]["b"], drawn != 0)
    assert set(drawn.tolist()) == {0, 1, 2, 3, 4}


def test_an_impossible_share_says_what_is_possible():
    with pytest.raises(UsageError, match=r"option 'held_out_share' must be from 0.0 to 0.9, got 1.0"):
        Independent(DIMS, (TASK,), held_out_share=1.0)
