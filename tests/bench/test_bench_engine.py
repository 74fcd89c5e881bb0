"""Training through the engine costs what a bare hand-written loop costs: same model, data, optimiser and clipping.

Rounds of both take turns, so that a machine whose speed drifts changes both alike; the figure is the median over
pairs of the ratio engine / bare.
"""

from __future__ import annotations

import copy
import statistics
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from mmbench.batches import SplitData
from mmbench.columns import Column
from mmbench.config import TrainConfig
from mmbench.model import MultimodalModel
from mmbench.spec import TaskSpec
from mmbench.train import Trainer

CPU = torch.device("cpu")
TASK = TaskSpec(name="label", kind="multiclass", num_outputs=10)
CONFIG = TrainConfig(batch_size=40, schedule="constant", warmup=0.0)
NUM_SAMPLES = 200
#: Many short epochs: the machine seldom changes its mood between two of them, and those where it did are outvoted.
NUM_PAIRS = 60


class LeNet(nn.Module):
    """The image encoder that MultiBench trains on AV-MNIST, a few convolutions, each halving the side."""

    def __init__(self, depth, channels=6):
        super().__init__()
        blocks = []
        for level in range(depth):
            width = channels * 2**level
            before = 1 if level == 0 else width // 2
            blocks += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        self.net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.feature_dim = channels * 2 ** (depth - 1) * 4

    def forward(self, values, mask=None):
        return self.net(values)


class Concat(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 64), nn.ReLU())
        self.fused_dim = 64

    def forward(self, features):
        return self.net(torch.cat([given.tensor for given in features.values()], dim=1))


class Supervised(nn.Module):
    def forward(self, step):
        return {"task": step.task_loss(step.output.logits)}


def make():
    rng = np.random.default_rng(0)
    arrays = {
        "image": rng.normal(size=(NUM_SAMPLES, 1, 28, 28)).astype("f4"),
        "audio": rng.normal(size=(NUM_SAMPLES, 1, 112, 112)).astype("f4"),
    }
    labels = rng.integers(0, 10, NUM_SAMPLES)
    columns = {name: Column(values, None, np.ones(NUM_SAMPLES, bool)) for name, values in arrays.items()}
    data = SplitData(columns, {"label": labels}, CPU)
    torch.manual_seed(0)
    encoders = {"image": LeNet(3), "audio": LeNet(5)}
    fusion = Concat(sum(encoder.feature_dim for encoder in encoders.values()))
    model = MultimodalModel(encoders, dict.fromkeys(encoders, "vector"), fusion, (TASK,))
    trainer = Trainer(model, Supervised(), data, data, (TASK,), {"label": None}, CONFIG, order_seed=1, noise_seed=2)
    tensors = [torch.from_numpy(values) for values in arrays.values()]
    return trainer, tensors, torch.from_numpy(labels)


def bare_epoch(model, optimiser, batches):
    model.train()
    image, audio = model.encoders
    for first, second, label in batches:
        fused = model.fusion.net(torch.cat([image.net(first), audio.net(second)], dim=1))
        loss = F.cross_entropy(model.heads[0](fused), label)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def ratios(one, other, pairs):
    """Time two functions in turn; return the ratio of each pair."""
    found = []
    for turn in range(pairs + 1):
        times = []
        for function in (one, other) if turn % 2 else (other, one):
            began = time.process_time()
            function()
            times.append(time.process_time() - began)
        if turn:  # the first pair is warm-up
            found.append(times[0] / times[1] if turn % 2 else times[1] / times[0])
    return found


@pytest.mark.full
@pytest.mark.parametrize("loading", ["resident tensors", "data loader"])
def test_an_epoch_through_the_engine_against_a_bare_loop(benchmark, one_thread, loading):
    trainer, tensors, labels = make()
    bare = copy.deepcopy(trainer.model)
    groups = [
        {"params": [item for item in bare.parameters() if item.dim() > 1], "weight_decay": CONFIG.weight_decay},
        {"params": [item for item in bare.parameters() if item.dim() == 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=CONFIG.lr, fused=True)
    loader = DataLoader(TensorDataset(*tensors, labels), batch_size=CONFIG.batch_size, shuffle=True)

    def gathered():
        for index in torch.randperm(NUM_SAMPLES).split(CONFIG.batch_size):
            yield tensors[0][index], tensors[1][index], labels[index]

    batches = gathered if loading == "resident tensors" else lambda: loader
    found = ratios(
        lambda: trainer.epoch(0), lambda: bare_epoch(bare, optimiser, batches()), NUM_PAIRS if benchmark.enabled else 1
    )

    benchmark.extra_info["ratio_engine_to_bare"] = round(statistics.median(found), 4)
    benchmark.extra_info["ratios"] = [round(ratio, 4) for ratio in found]
    benchmark.pedantic(trainer.epoch, args=(0,), rounds=3 if benchmark.enabled else 1)
    if benchmark.enabled:
        print(f"\nengine / bare loop over {loading}: {statistics.median(found):.3f}")  # noqa: T201  (the figure)
        assert statistics.median(found) <= 1.02
