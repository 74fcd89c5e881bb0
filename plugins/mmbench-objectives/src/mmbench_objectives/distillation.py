"""Distillation: the fused prediction learns from what a trained cell said of the same samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmbench import TaskSpec, Unavailable
from mmbench.blocks import check_range
from mmbench.errors import DataError
from mmbench.kept_predictions import Predictions, load_predictions
from mmbench.tasks import TargetScaler

if TYPE_CHECKING:
    from mmbench.train import Step


class Distillation(nn.Module):
    """loss = (1 - w) * loss(fused) + w * mean over tasks of L(teacher, fused), w being `distillation_weight`.

    The teacher is another cell, of any modalities and any fusion, whose predictions of the training samples were kept
    (`mmbench run --keep-train`). L is t^2 KL(teacher, student) at temperature t for multiclass tasks, the same summed
    over labels for multilabel ones, and the squared distance of standardised predictions for regression. Nothing of val
    or test is read.

    Source: Hinton et al. 2015, arXiv:1503.02531. Differs in that the teacher's predictions are stored ones: those of
    the sample as it is, however the student's copy of it was augmented.

    Args:
        dims: Feature width by modality; not used.
        tasks: What is predicted.
        teacher: Folder of the cell, ``results/RUN/cells/ID``.
        distillation_weight: w, from 0 to 1.
        temperature: t.

    Raises:
        UsageError: an option is out of range.
        Unavailable: the teacher kept no predictions of its training samples, or of other tasks.
    """

    anchor: Tensor

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        teacher: str,
        distillation_weight: float,
        temperature: float,
    ) -> None:
        super().__init__()
        check_range("temperature", temperature, 0.1, 100.0)
        check_range("distillation_weight", distillation_weight, 0.0, 1.0)
        self.tasks = {task.name: task for task in tasks}
        self.distillation_weight, self.temperature = distillation_weight, temperature
        self.folder = Path(teacher).expanduser()
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # knows the device
        self._kept = {task.name: _kept_by(self.folder, task) for task in tasks}

    def before_training(self, sample_ids: Sequence[str]) -> None:
        """Find what the teacher said of each training sample.

        Raises:
            DataError: it was not trained on some of them.
        """
        device = self.anchor.device
        for task, kept in self._kept.items():
            place = {name: row for row, name in enumerate(kept.ids)}
            lacking = [name for name in sample_ids if name not in place]
            if lacking:
                raise DataError(
                    f"the teacher {self.folder} did not train on {len(lacking)} of {len(sample_ids)} samples, such as "
                    f"{lacking[0]!r}; a teacher must share the dataset and the split, and have no smaller --limit"
                )
            rows = [place[name] for name in sample_ids]
            said = torch.from_numpy(kept.prediction[rows].astype(np.float32))
            target = torch.from_numpy(kept.target[rows])
            self.register_buffer(
                _buffer(task), self._softened(self.tasks[task], said, target).to(device), persistent=False
            )

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return {"task": …, "distillation": …}."""
        rows = step.batch.rows
        if rows is None:
            raise ValueError("distillation needs batches that say which training samples they hold")
        losses = []
        for name, task in self.tasks.items():
            said = self.get_buffer(_buffer(name)).index_select(0, rows.to(self.anchor.device))
            losses.append(divergence(said, step.output.logits[name].float(), task.kind, self.temperature).mean())
        weight = self.distillation_weight
        return {
            "task": (1 - weight) * step.task_loss(step.output.logits),
            "distillation": weight * torch.stack(losses).mean(),
        }

    def _softened(self, task: TaskSpec, said: Tensor, target: Tensor) -> Tensor:
        """What the student is to say: probabilities at the temperature, or standardised values. (N, K), (N, …)."""
        if task.kind == "multiclass":
            return (said.log() / self.temperature).softmax(dim=1)
        if task.kind == "multilabel":
            return (said.logit() / self.temperature).sigmoid()
        scaler = TargetScaler.fit(task, target)
        assert scaler is not None
        return scaler.scale(said)


def divergence(teacher: Tensor, logits: Tensor, kind: str, temperature: float) -> Tensor:
    """How far what the logits say is from what a teacher says, for each sample.

    t^2 KL(teacher, softmax(logits / t)) for multiclass tasks, the same summed over labels for multilabel ones, the mean
    squared distance for regression.

    Shapes: teacher (…, K), probabilities at the temperature or values, and logits (…, K) -> (…).
    """
    if kind == "regression":
        return (logits - teacher).square().mean(dim=-1)
    if kind == "multiclass":
        log_said = (logits / temperature).log_softmax(dim=-1)
        return temperature**2 * (torch.xlogy(teacher, teacher) - teacher * log_said).sum(dim=-1)
    log_yes, log_no = F.logsigmoid(logits / temperature), F.logsigmoid(-logits / temperature)
    entropy = torch.xlogy(teacher, teacher) + torch.xlogy(1 - teacher, 1 - teacher)
    return temperature**2 * (entropy - teacher * log_yes - (1 - teacher) * log_no).sum(dim=-1)


def _buffer(task: str) -> str:
    return f"said_{task.replace('.', '_dot_')}"


def _kept_by(folder: Path, task: TaskSpec) -> Predictions:
    kept = load_predictions(folder, task.name, "train")
    if kept is None:
        raise Unavailable(
            f"the teacher {folder} kept no predictions of its training samples for task {task.name!r}; train it by "
            "`mmbench run --keep-train` and name its folder, results/RUN/cells/ID"
        )
    shape = kept.prediction.shape
    if not kept.is_whole or shape[1:] != (task.num_outputs,) or not np.isfinite(kept.prediction).all():
        raise Unavailable(
            f"the teacher {folder} cannot teach task {task.name!r}: finite predictions (N, {task.num_outputs}) are "
            f"needed, its file holds shape {shape}"
        )
    return kept
