"""Models whose cost is known, and a clock in a test's hands."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from mmbench.model import Batch, Input, MultimodalModel
from mmbench.spec import TaskSpec

DIGIT = TaskSpec(name="digit", kind="multiclass", num_outputs=10)


class Encoder(nn.Module):
    """Any network as an encoder of 8 features."""

    feature_dim = 8

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, values, mask):
        return self.network(values)


class Clock:
    """A clock that only moves when it is told, and a nanosecond whenever it is looked at."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1e-9
        return self.now

    def advance(self, seconds):
        self.now += seconds


class Takes(nn.Module):
    """A linear layer that takes as long as it is told, call by call; then as long as the last time."""

    def __init__(self, advance, *seconds):
        super().__init__()
        self.layer, self.advance, self.seconds, self.calls = nn.Linear(8, 8), advance, seconds, 0

    def forward(self, values):
        self.advance(self.seconds[min(self.calls, len(self.seconds) - 1)])
        self.calls += 1
        return self.layer(values)


class Concat(nn.Module):
    def __init__(self, fused_dim):
        super().__init__()
        self.fused_dim = fused_dim

    def forward(self, features):
        return torch.cat([features[name].tensor for name in sorted(features)], dim=1)


def build(**networks):
    encoders = {name: Encoder(network) for name, network in networks.items()}
    return MultimodalModel(encoders, dict.fromkeys(encoders, "vector"), Concat(8 * len(encoders)), [DIGIT])


def batches(model, shape=(8,), size=16):
    def of(count):
        inputs = {name: Input(torch.randn(count, *shape)) for name in model.modalities}
        return Batch(count, inputs, {"digit": torch.randint(0, 10, (count,))})

    return {"train": of(size), "single": of(1)}


def training_step(model, optimiser=None):
    optimiser = optimiser or torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(batch):
        F.cross_entropy(model(batch).logits["digit"], batch.targets["digit"]).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step
