"""Composition: missing modalities, promises that are checked, sequences that become vectors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmbench.errors import ContractError
from mmbench.features import Features, masked_mean, without_padding
from mmbench.model import Batch, Input, MultimodalModel
from mmbench.spec import TaskSpec

TASKS = (
    TaskSpec(name="label", kind="multiclass", num_outputs=3),
    TaskSpec(name="size", kind="regression", num_outputs=1),
)


class Line(nn.Module):
    """An encoder that is one linear layer."""

    def __init__(self, width, dim, layout="vector"):
        super().__init__()
        self.feature_dim = dim
        self.layout = layout
        self.linear = nn.Linear(width, dim)
        self.seen = []

    def forward(self, values, mask):
        self.seen.append(len(values))
        return self.linear(values) if self.layout == "vector" else Features(self.linear(values), mask)


class Sum(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fused_dim = dim

    def forward(self, features):
        return sum(given.tensor for given in features.values())


class Mean(nn.Module):
    """Decision level: mean of the logits of present modalities."""

    def forward(self, task, logits):
        present = torch.stack([given.present for given in logits.values()]).unsqueeze(-1)
        values = torch.stack([given.tensor for given in logits.values()])
        return (values * present).sum(0) / present.sum(0)


def model(**options):
    encoders = {"type": Line(4, 6), "a.b": Line(5, 6)}
    layouts = {"type": "vector", "a.b": "vector"}
    return MultimodalModel(encoders, layouts, options.pop("fusion", Sum(6)), TASKS, **options)


def batch(rows=None):
    second = torch.randn(3 if rows is None else len(rows), 5)
    return Batch(size=3, inputs={"type": Input(torch.randn(3, 4)), "a.b": Input(second, None, rows)}, targets={})


def test_names_that_modules_cannot_have_are_fair_names_for_modalities():
    output = model()(batch())

    assert output.logits["label"].shape == (3, 3)
    assert output.logits["size"].shape == (3, 1)


def test_an_encoder_never_sees_a_sample_without_its_modality():
    built = model()
    output = built(batch(rows=torch.tensor([0, 2])))

    assert built.encoders[1].seen == [2]
    assert output.features["a.b"].present.tolist() == [True, False, True]
    assert output.features["a.b"].tensor[1].abs().sum() == 0


def test_a_batch_in_which_nobody_has_a_modality_is_still_predicted():
    built = model()
    output = built(batch(rows=torch.tensor([], dtype=torch.long)))

    assert built.encoders[1].seen == []
    assert torch.isfinite(output.logits["label"]).all()
    assert not output.features["a.b"].present.any()


def test_a_missing_sample_gets_the_same_features_whoever_is_beside_it():
    built = model()
    full = batch()
    part = Batch(
        size=3,
        inputs={**full.inputs, "a.b": Input(full.inputs["a.b"].values[[1]], None, torch.tensor([1]))},
        targets={},
    )

    torch.testing.assert_close(built(full).fused[1], built(part).fused[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32])
def test_what_is_not_real_becomes_zero_at_any_number_of_axes(dtype):
    values = torch.tensor([[1, 2], [3, 4]]).to(dtype)

    by_sample = without_padding(values, torch.tensor([True, False]))
    by_token = without_padding(values.unsqueeze(2), torch.tensor([[True, False], [False, True]]))

    assert by_sample.tolist() == [[1, 2], [0, 0]]
    assert by_token.tolist() == [[[1], [0]], [[0], [4]]]
    assert by_token.dtype == dtype
    assert without_padding(values, None) is values


def test_what_is_not_real_becomes_zero_whatever_it_was():
    values = torch.tensor([[1.0, float("nan")], [float("inf"), 2.0]])

    assert without_padding(values, torch.tensor([[True, False], [False, True]])).tolist() == [[1.0, 0.0], [0.0, 2.0]]


def test_a_sequence_is_pooled_over_its_real_tokens():
    built = MultimodalModel({"text": Line(4, 6, "sequence")}, {"text": "sequence"}, Sum(6), TASKS)
    values = torch.randn(2, 5, 4)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    output = built(Batch(size=2, inputs={"text": Input(values, mask)}, targets={}))

    expected = built.encoders[0].linear(values[1, :2]).mean(0)
    torch.testing.assert_close(output.fused[1], expected)


def test_padding_may_hold_anything():
    tokens = torch.randn(1, 3, 2)
    mask = torch.tensor([[True, True, False]])
    poisoned = tokens.clone()
    poisoned[0, 2] = float("nan")

    torch.testing.assert_close(masked_mean(poisoned, mask), tokens[:, :2].mean(1))


def test_a_decision_level_fusion_votes_over_present_modalities():
    built = model(fusion=Mean(), level="decision")
    output = built(batch(rows=torch.tensor([0, 2])))

    torch.testing.assert_close(output.logits["label"][1], output.unimodal_logits["type"]["label"][1])
    assert output.fused is None


def test_unimodal_heads_exist_only_where_they_are_wanted():
    assert model()(batch()).unimodal_logits == {}
    assert set(model(unimodal_heads=True)(batch()).unimodal_logits) == {"type", "a.b"}


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            lambda built: setattr(built.encoders[0], "linear", nn.Linear(4, 7)),
            "promised feature_dim 6 for a batch of 3",
        ),
        (lambda built: setattr(built.encoders[0], "forward", lambda v, m: v.unsqueeze(1)), "promised layout 'vector'"),
        (
            lambda built: setattr(built.encoders[0], "forward", lambda v, m: "x"),
            "must return a tensor or Features, got str",
        ),
        (lambda built: setattr(built.fusion, "fused_dim", 9), r"promised \(3, 9\)"),
        (lambda built: setattr(built.fusion, "forward", lambda f: None), "forward gave NoneType"),
    ],
)
def test_a_broken_promise_is_named(break_it, message):
    built = model()
    break_it(built)

    with pytest.raises(ContractError, match=message):
        built(batch())


@pytest.mark.parametrize("dim", [None, 0, -3, "8", [], [4, 0]])
def test_an_encoder_must_promise_a_width(dim):
    encoder = Line(4, 6)
    encoder.feature_dim = dim

    with pytest.raises(ContractError, match="must have feature_dim"):
        MultimodalModel({"x": encoder}, {"x": "vector"}, Sum(6), TASKS)


def test_auxiliary_losses_carry_the_name_of_who_gave_them():
    class Noisy(Line):
        def forward(self, values, mask):
            return Features(self.linear(values), losses={"kl": torch.tensor(2.0)})

    built = MultimodalModel({"x": Noisy(4, 6)}, {"x": "vector"}, Sum(6), TASKS)
    output = built(Batch(size=2, inputs={"x": Input(torch.randn(2, 4))}, targets={}))

    assert output.losses == {"x.kl": torch.tensor(2.0)}


def test_every_parameter_is_registered():
    names = {name for name, _ in model(unimodal_heads=True).named_parameters()}

    assert len(names) == 2 * 2 + 2 * 2 + 4 * 2
