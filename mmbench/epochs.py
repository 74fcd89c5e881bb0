"""What training leaves behind: a learning curve, and the weights of the epoch that val chose."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Epoch:
    """One line of a learning curve.

    Attributes:
        train_loss: Mean objective over the epoch's steps.
        val_loss: The task loss on val.
        val_score: What chose the epoch, more being better: the primary metric on val, minus it where less is better,
            or minus the loss where that chooses. NaN where the metric is not defined on these predictions.
        lr: The rate of the optimiser's first group as the epoch finds it: that of the step before.
        time_s: Wall time of training, without validation.
        grad_norms: By modality, of several: the norm of its encoder's gradient in the epoch's last step, before
            clipping. Their ratio says which modality is learning (Wang et al. 2020, arXiv:1905.12681).
    """

    train_loss: float
    val_loss: float
    val_score: float
    lr: float
    time_s: float
    grad_norms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """A finished training; the model holds the weights of the chosen epoch.

    Attributes:
        history: One entry per epoch.
        best_epoch: The chosen one, from 0.
        selected_by: The metric on val that chose it.
        num_steps: Optimiser steps taken.
        train_time_s: Wall time of all epochs without validation.
        samples_per_s: Training throughput over all epochs but the first, which holds warm-up.
    """

    history: tuple[Epoch, ...]
    best_epoch: int
    selected_by: str
    num_steps: int
    train_time_s: float
    samples_per_s: float


class EpochChoice:
    """Chooses an epoch by its score on val, then by its loss, and keeps its weights.

    Args:
        model: The model being trained.
        patience: Epochs without a better score after which training ends; 0 for never.
    """

    def __init__(self, model: nn.Module, patience: int) -> None:
        self.model, self.patience = model, patience
        self.history: list[Epoch] = []
        self.best_epoch = 0
        self._best: tuple[float, float] = (-math.inf, -math.inf)
        self._last_gain = 0
        self._state: dict[str, Any] | None = None

    def add(self, epoch: Epoch) -> bool:
        """Take note of the epoch that the model has just gone through; return whether patience is at its end."""
        number = len(self.history)
        self.history.append(epoch)
        # A score that is not defined loses against any other; where none is, the loss chooses.
        rank = (-math.inf if math.isnan(epoch.val_score) else epoch.val_score, -epoch.val_loss)
        if rank[0] > self._best[0]:
            self._last_gain = number
        if rank > self._best:
            self._best, self.best_epoch = rank, number
            self._state = {name: _copied(value) for name, value in self.model.state_dict().items()}
        # A lower loss at the same score moves the choice, but does not buy more epochs.
        return bool(self.patience) and number - self._last_gain >= self.patience

    def restore(self) -> None:
        """Put the chosen epoch's weights into the model."""
        if self._state is not None:
            self.model.load_state_dict(self._state)


def _copied(value: Any) -> Any:
    # `deepcopy` of a tensor that is part of a larger one would copy all of that.
    return value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
