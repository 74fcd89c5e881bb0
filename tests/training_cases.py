"""A small model and what it is trained on, for tests of training."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from mmbench.batches import SplitData
from mmbench.columns import Column
from mmbench.config import TrainConfig
from mmbench.model import MultimodalModel
from mmbench.spec import TaskSpec
from mmbench.tasks import TargetScaler
from mmbench.train import Trainer

CPU = torch.device("cpu")
LABEL = TaskSpec(name="label", kind="multiclass", num_outputs=2)
VALUE = TaskSpec(name="value", kind="regression", num_outputs=1)
TAGS = TaskSpec(name="tags", kind="multilabel", num_outputs=2)


class Encoder(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.feature_dim = 16
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, values, mask):
        return self.net(values)


class First(nn.Module):
    fused_dim = 16

    def forward(self, features):
        return features["x"].tensor


class Supervised(nn.Module):
    def forward(self, step):
        return {"task": step.task_loss(step.output.logits)}


def make_split(count, seed, tasks=(LABEL,), *, sequences=False):
    """Vectors `x`, and on demand sequences `y` of one to six steps."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, 4)).astype("f4")
    targets = {
        "label": (values[:, 0] * values[:, 1] > 0).astype("i8"),
        "value": (10 + 3 * values[:, :1]).astype("f4"),
        "tags": (values[:, 1:3] > 0).astype("f4"),
    }
    columns = {"x": Column(values, None, np.ones(count, bool))}
    if sequences:
        lengths = rng.integers(1, 7, count)
        steps = rng.normal(size=(lengths.sum(), 4)).astype("f4")
        offsets = np.concatenate([[0], lengths.cumsum()]).astype("i8")
        columns["y"] = Column(steps, offsets, np.ones(count, bool))
    return SplitData(columns, {task.name: targets[task.name] for task in tasks}, CPU)


def make_model(tasks=(LABEL,), dropout=0.0, seed=0):
    torch.manual_seed(seed)
    return MultimodalModel({"x": Encoder(dropout)}, {"x": "vector"}, First(), tasks)


def make_scalers(train, tasks):
    return {task.name: TargetScaler.fit(task, train.targets[task.name]) for task in tasks}


def make_trainer(config=None, tasks=(LABEL,), model=None, objective=None, order_seed=7, noise_seed=9):
    train, val = make_split(203, 1, tasks), make_split(101, 2, tasks)
    scalers = make_scalers(train, tasks)
    return Trainer(
        model or make_model(tasks),
        objective or Supervised(),
        train,
        val,
        tasks,
        scalers,
        config or TrainConfig(epochs=4),
        order_seed=order_seed,
        noise_seed=noise_seed,
    )
