"""How encoders are trained: rates of their own, layers that join one by one, adapters, and what stands still."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from training_cases import Supervised

from mmbench import TaskSpec
from mmbench.batches import SplitData
from mmbench.columns import Column
from mmbench.config import TrainConfig
from mmbench.errors import ContractError
from mmbench.model import MultimodalModel
from mmbench.optimiser import make_optimiser
from mmbench.tasks import TargetScaler
from mmbench.train import Trainer
from mmbench.tuning import EncoderTuning, apply_tuning, layer_groups, read_tuning

TASK = TaskSpec(name="label", kind="multiclass", num_outputs=2)


class Deep(nn.Module):
    feature_dim = 4

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Linear(3, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.norm = nn.BatchNorm1d(4)

    def forward(self, values, mask):
        hidden = self.stem(values)
        for block in self.blocks:
            hidden = nn.functional.silu(block(hidden))
        return self.norm(hidden)


class Single(nn.Module):
    fused_dim = 4

    def forward(self, features):
        return features["x"].tensor


def part(tuning, **options):
    return {"ref": "toy/deep", "tuning": tuning, "tuning_options": options}


def trainer_of(encoder, tuning, *, epochs=4, schedule="constant", optimiser="sgd"):
    torch.manual_seed(0)
    values = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    labels = (values[:, 0] > 0).astype(np.int64)
    column = Column(values, None, np.ones(32, dtype=bool))
    data = SplitData({"x": column}, {"label": labels}, torch.device("cpu"))
    config = TrainConfig(
        epochs=epochs, batch_size=16, schedule=schedule, warmup=0.0, optimiser=optimiser, lr=0.1, weight_decay=0.0,
        patience=0, clip_norm=0.0, momentum=0.0,
    )  # fmt: skip
    return Trainer(
        MultimodalModel({"x": encoder}, {"x": "vector"}, Single(), (TASK,)),
        Supervised(),
        data,
        data,
        (TASK,),
        {"label": TargetScaler.fit(TASK, torch.from_numpy(labels))},
        config,
        order_seed=0,
        noise_seed=0,
        tunings={"x": tuning},
    )


def moved(before, module):
    return {name for name, value in module.state_dict().items() if not torch.equal(before[name], value)}


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_layers_are_grouped_from_first_to_last_with_the_stem_in_the_first_and_the_norm_in_the_last():
    encoder = Deep()
    names = {id(parameter): name for name, parameter in encoder.named_parameters()}

    groups = [[names[id(parameter)] for parameter in group] for group in layer_groups(encoder)]

    assert groups == [
        ["stem.weight", "stem.bias", "blocks.0.weight", "blocks.0.bias"],
        ["blocks.1.weight", "blocks.1.bias"],
        ["blocks.2.weight", "blocks.2.bias", "norm.weight", "norm.bias"],
    ]


def test_gradual_unfreezing_opens_one_group_an_epoch_from_the_last():
    encoder = Deep()
    trainer = trainer_of(encoder, EncoderTuning(tuning="finetune", freeze_epochs=1, gradual=True))
    open_after = []
    for epoch in range(4):
        before = copied(encoder)
        trainer.epoch(epoch)
        open_after.append(sorted(name for name in moved(before, encoder) if name.endswith("weight")))

    assert open_after == [
        [],
        ["blocks.2.weight", "norm.weight"],
        ["blocks.1.weight", "blocks.2.weight", "norm.weight"],
        ["blocks.0.weight", "blocks.1.weight", "blocks.2.weight", "norm.weight", "stem.weight"],
    ]


def test_an_encoder_that_waits_keeps_the_statistics_of_its_normalisation():
    encoder = Deep()
    trainer = trainer_of(encoder, EncoderTuning(tuning="finetune", freeze_epochs=1))

    trainer.epoch(0)
    assert torch.equal(encoder.norm.running_mean, torch.zeros(4))
    assert not encoder.training

    trainer.epoch(1)
    assert not torch.equal(encoder.norm.running_mean, torch.zeros(4))


def test_the_encoder_steps_at_its_own_rate_and_the_head_at_the_full_one():
    """One step of plain gradient descent from equal weights: the encoder's change scales, the head's does not."""

    def change(lr_factor):
        encoder = Deep()
        trainer = trainer_of(encoder, EncoderTuning(tuning="finetune", lr_factor=lr_factor))
        torch.manual_seed(6)
        head = trainer.model.heads[0]
        with torch.no_grad():
            head.weight.normal_()
        before, head_before = encoder.stem.weight.clone(), head.weight.clone()
        trainer.step(next(trainer.train_data.in_order(32)))
        return encoder.stem.weight - before, head.weight - head_before

    full, head_full = change(1.0)
    tenth, head_tenth = change(0.1)
    torch.testing.assert_close(tenth, 0.1 * full, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(head_tenth, head_full)
    assert full.abs().max() > 1e-4


def test_the_schedule_multiplies_every_rate_alike():
    trainer = trainer_of(Deep(), EncoderTuning(tuning="finetune", lr_factor=0.25), epochs=2, schedule="cosine")
    batch = next(trainer.train_data.in_order(16))
    for _ in range(3):
        trainer.step(batch)

    rates = sorted({group["lr"] for group in trainer.optimiser.param_groups})
    factor = 0.5 * (1 + math.cos(math.pi * 2 / 4))
    assert rates == pytest.approx([0.1 * 0.25 * factor, 0.1 * factor])


def test_one_rate_makes_the_same_two_groups_as_ever():
    optimiser = make_optimiser([Deep()], TrainConfig(weight_decay=0.3), torch.device("cpu"))
    assert [(group["weight_decay"], len(group["params"])) for group in optimiser.param_groups] == [(0.3, 4), (0.0, 6)]


def test_a_frozen_encoder_neither_learns_nor_moves_its_statistics():
    encoder = Deep()
    apply_tuning(encoder, part("frozen", feature_dtype="fp32"))
    trainer = trainer_of(encoder, EncoderTuning(tuning="frozen"))
    before = copied(encoder)

    trainer.run()

    assert moved(before, encoder) == set()


def test_adapters_start_as_the_encoder_and_are_all_that_is_trained():
    torch.manual_seed(0)
    encoder = Deep().eval()
    values = torch.randn(5, 3)
    expected = encoder(values, None)
    options = {"lr_factor": 1.0, "lora_rank": 2, "lora_alpha": 4.0}

    apply_tuning(encoder, part("adapter", **options))
    torch.testing.assert_close(encoder.eval()(values, None), expected)

    trained = {name for name, item in encoder.named_parameters() if item.requires_grad}
    # A down and an up projection for each of the four linear layers.
    assert len(trained) == 8
    assert all("lora_" in name for name in trained)
    trainer = trainer_of(encoder, read_tuning(part("adapter", **options)))
    before = copied(encoder)
    trainer.run()
    assert moved(before, encoder) and all("lora_" in name for name in moved(before, encoder))


def test_an_adapter_computes_the_low_rank_product():
    """Hu et al. 2021: W x + (alpha / r) B A x."""
    encoder = Deep().eval()
    apply_tuning(encoder, part("adapter", lr_factor=1.0, lora_rank=2, lora_alpha=6.0))
    stem = encoder.stem
    down, up = stem.lora_A["default"].weight, stem.lora_B["default"].weight
    with torch.no_grad():
        up.normal_()
    values = torch.randn(7, 3)

    expected = values @ stem.base_layer.weight.T + stem.base_layer.bias + 3.0 * values @ down.T @ up.T
    torch.testing.assert_close(stem(values), expected)


def test_adapters_go_where_the_encoder_says():
    encoder = Deep()
    encoder.adapter_targets = ("blocks.1", "stem")
    apply_tuning(encoder, part("adapter", lr_factor=1.0, lora_rank=2, lora_alpha=4.0))

    adapted = {name.split(".lora_")[0] for name, item in encoder.named_parameters() if item.requires_grad}
    assert adapted == {"blocks.1", "stem"}


def test_what_no_weights_were_pretrained_for_is_trained_whole_beside_the_adapters():
    encoder = Deep()
    encoder.adapter_targets, encoder.fresh_parts = ("stem",), ("norm",)
    apply_tuning(encoder, part("adapter", lr_factor=1.0, lora_rank=2, lora_alpha=4.0))

    trained = {name.split(".lora_")[0] for name, item in encoder.named_parameters() if item.requires_grad}
    assert trained == {"stem", "norm.weight", "norm.bias"}


def test_an_encoder_without_layers_for_adapters_is_refused():
    with pytest.raises(ContractError, match="has no linear layer or convolution for an adapter; use tuning=finetune"):
        apply_tuning(nn.BatchNorm1d(3), part("adapter", lr_factor=1.0, lora_rank=2, lora_alpha=4.0))
