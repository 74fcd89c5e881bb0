"""A trained cell as its diagnostics see it, and how what they find is written down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray

from mmbench.batches import SplitData
from mmbench.data import Split
from mmbench.errors import Diverged
from mmbench.evaluate import primary_value
from mmbench.metric_catalog import metric_specs, primary_metric
from mmbench.model import MultimodalModel
from mmbench.record import Direction, Metric
from mmbench.spec import TaskSpec
from mmbench.tasks import TargetScaler, predictions

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Subject:
    """A trained cell, as the diagnostics see it.

    Attributes:
        model: Holds the weights of the chosen epoch.
        data: Splits by name; test is what is diagnosed.
        tasks: What it predicts.
        scalers: By task, as in training.
        clean: By task: predictions of the whole test split (N, K), as `mmbench.tasks.predictions` gives them.
        takes_missing: Whether the fusion honours masks; else mean features stand in for an absent modality.
        batch_size: Samples encoded at a time.
        autocast: Whether the model runs in bfloat16.
    """

    model: MultimodalModel
    data: Mapping[Split, SplitData]
    tasks: Sequence[TaskSpec]
    scalers: Mapping[str, TargetScaler | None]
    clean: Mapping[str, Array]
    takes_missing: bool
    batch_size: int = 256
    autocast: bool = False

    def target(self, task: TaskSpec, split: Split = "test") -> Array:
        """Return a task's targets, (N,) or (N, K)."""
        values: Array = self.data[split].targets[task.name].cpu().numpy()
        return values

    def score(self, task: TaskSpec, logits: torch.Tensor, rows: Sequence[int] | None = None) -> Scored:
        """Return the task's primary metric for logits of the test split, or of some of its rows."""
        predicted = predictions(task, logits.float(), self.scalers[task.name]).cpu().numpy()
        target = self.target(task)
        return scored(task, predicted, target if rows is None else target[list(rows)])


@dataclass(frozen=True)
class Scored:
    """A value of a primary metric; None with the reason where it has none."""

    value: float | None
    note: str = ""


@dataclass
class Findings:
    """What was found.

    Attributes:
        metrics: For the record.
        info: Facts for its info.
        attribution: What the model looked at in a few samples (`mmbench.diagnostics.attribution`), for a file of the
            cell; None where nobody asked.
    """

    metrics: list[Metric] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    attribution: dict[str, Any] | None = None


def scored(task: TaskSpec, predicted: Array, target: Array) -> Scored:
    """Return the task's primary metric, or why it has no value."""
    try:
        value = primary_value(task, predicted, target)
    except Diverged:
        return Scored(None, "the predictions are not finite")
    return Scored(value) if math.isfinite(value) else Scored(None, f"{primary_metric(task)} is not defined here")


def score_metric(task: TaskSpec, found: Scored, *, condition: str, n: int, note: str = "") -> Metric:
    """Return a score on changed test inputs as a record holds it."""
    spec = metric_specs(task)[primary_metric(task)]
    return Metric(
        phase="evaluate",
        name=spec.name,
        value=found.value,
        split="test",
        condition=condition,
        task=task.name,
        unit=spec.unit,
        direction=spec.direction,
        n=n,
        note=found.note or note,
    )


def derived_metric(
    task: TaskSpec, name: str, value: float | None, *, n: int, note: str = "", signed: bool = True
) -> Metric:
    """Return a number derived from scores, in the unit of the task's primary metric.

    Args:
        task, name, value, n, note: As in `Metric`.
        signed: Whether `sign` was applied, so that more is better; else the direction is the metric's own.
    """
    spec = metric_specs(task)[primary_metric(task)]
    way: Direction = "max" if signed else spec.direction
    about: dict[str, Any] = {"split": "test", "task": task.name, "unit": spec.unit, "direction": way, "n": n}
    return Metric(phase="diagnose", name=name, value=value, note=note, **about)


def sign(task: TaskSpec) -> float:
    """Return what a score is multiplied by for more to be better."""
    return -1.0 if metric_specs(task)[primary_metric(task)].direction == "min" else 1.0
