"""What tests of objectives share: a small model, a step of it with gaps, and the cross-entropy in plain loops."""

from __future__ import annotations

import math
from importlib import import_module

import numpy as np
import torch
from mmbench_objectives import OBJECTIVES
from torch import nn

from mmbench import Features, TaskSpec
from mmbench.model import Batch, Input, MultimodalModel
from mmbench.tasks import task_loss
from mmbench.train import Step

BY_NAME = {spec.name: spec for spec in OBJECTIVES}
LABEL = TaskSpec(name="label", kind="multiclass", num_outputs=3)
AMOUNT = TaskSpec(name="amount", kind="regression", num_outputs=1)
DIMS = {"text": 6, "audio": 4, "image": 5}
SIZE = 8


class Encoder(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.feature_dim = dim
        self.layer = nn.Linear(7, dim)

    def forward(self, values, mask=None):
        return self.layer(values)


class Join(nn.Module):
    """Concatenation that remembers what it was given."""

    fused_dim = 9

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(sum(DIMS.values()), self.fused_dim)
        self.given: dict[str, Features] = {}

    def forward(self, features):
        self.given = dict(features)
        return self.layer(torch.cat([features[name].tensor for name in sorted(features)], dim=1)).relu()


def make(name: str, tasks=(LABEL,), **options) -> nn.Module:
    module, _, attribute = BY_NAME[name].factory.partition(":")
    torch.manual_seed(0)
    return getattr(import_module(module), attribute)(DIMS, tasks, **{**BY_NAME[name].defaults, **options})


def make_step(objective: nn.Module, tasks=(LABEL,), *, missing: bool = True, progress: float = 0.5) -> Step:
    """A step of a small model; with `missing`, samples 0 and 1 lack text and sample 2 lacks audio."""
    torch.manual_seed(1)
    model = MultimodalModel(
        {name: Encoder(dim) for name, dim in DIMS.items()},
        dict.fromkeys(DIMS, "vector"),
        Join(),
        tasks,
        unimodal_heads=getattr(objective, "needs_unimodal_heads", False),
    )
    absent = {"text": {0, 1}, "audio": {2}, "image": set()} if missing else {name: set() for name in DIMS}
    inputs = {}
    for name in DIMS:
        rows = torch.tensor([row for row in range(SIZE) if row not in absent[name]])
        inputs[name] = Input(torch.randn(len(rows), 7), None, rows if absent[name] else None)
    targets = {"label": torch.randint(3, (SIZE,)), "amount": torch.randn(SIZE, 1)}
    batch = Batch(SIZE, inputs, {task.name: targets[task.name] for task in tasks})

    def loss_of(logits):
        given = [task for task in tasks if task.name in logits]
        return torch.stack([task_loss(task, logits[task.name], batch.targets[task.name]) for task in given]).sum()

    return Step(
        model=model,
        batch=batch,
        output=model(batch),
        epoch=0,
        progress=progress,
        generator=torch.Generator().manual_seed(2),
        task_loss=loss_of,
    )


def cross_entropy(logits, labels) -> float:
    rows = logits.detach().double().numpy()
    return float(np.mean([-row[label] + math.log(np.exp(row).sum()) for row, label in zip(rows, labels.tolist())]))
