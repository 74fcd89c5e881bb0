"""What a task's kind decides: its loss, class weights, meaning of its logits and floor."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mmbench.errors import DataError
from mmbench.metric_catalog import metric_specs, primary_metric
from mmbench.spec import TaskSpec


@dataclass(frozen=True)
class TargetScaler:
    """Mean and standard deviation of a regression task's training targets: models predict standardised values.

    Attributes:
        mean: float64 (K,), on the device of the targets it was fitted to.
        std: float64 (K,); 1 where the training targets do not vary.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, task: TaskSpec, train_targets: Tensor | NDArray[Any]) -> TargetScaler | None:
        """Measure the training targets (N, K); None for a task that is not a regression.

        Raises:
            DataError: there are no targets, or one is not finite.
        """
        metric_specs(task)
        if task.kind != "regression":
            return None
        values = torch.as_tensor(train_targets).double()
        if values.dim() != 2 or not len(values) or not bool(values.isfinite().all()):
            raise DataError(
                f"training targets of task {task.name!r} must be finite numbers (N, {task.num_outputs}) with N > 0; "
                f"got shape {tuple(values.shape)}"
            )
        std = values.std(dim=0, correction=0)
        # Below this a target is constant but for rounding, and dividing by it would blow the rounding up.
        constant = std <= values.abs().amax(dim=0) * 8 * torch.finfo(torch.float64).eps
        return cls(values.mean(dim=0), std.masked_fill(constant, 1.0))

    def scale(self, target: Tensor) -> Tensor:
        """Original units -> mean 0, standard deviation 1 over train. Shapes: (B, K) -> float32 (B, K)."""
        return ((target - self.mean) / self.std).float()

    def unscale(self, values: Tensor) -> Tensor:
        """Undo `scale`. Shapes: (B, K) -> float64 (B, K)."""
        return values * self.std + self.mean


def class_weights(task: TaskSpec, train_targets: NDArray[Any]) -> Tensor | None:
    """Weights that give rare classes the same say as frequent ones, for `task_loss`; None where there are no classes.

    Multiclass: inverse frequency, scaled to mean 1 over the classes that occur in train; 1 for one that does not.
    Multilabel: negatives per positive of each label, the weight of its positives; 1 for a label that never varies.

    Shapes: train_targets (N,) or (N, K) -> float32 (K,).
    """
    metric_specs(task)
    if task.kind in ("regression", "retrieval"):
        return None
    if task.kind == "multilabel":
        positives = np.asarray(train_targets, dtype=np.float64).sum(axis=0)
        negatives = len(train_targets) - positives
        varies = (positives > 0) & (negatives > 0)
        weights = np.where(varies, negatives / np.maximum(positives, 1), 1.0)
    else:
        counts = np.bincount(train_targets, minlength=task.num_outputs).astype(np.float64)
        inverse = 1 / np.maximum(counts, 1)
        weights = np.where(counts > 0, inverse / inverse[counts > 0].mean(), 1.0)
    return torch.tensor(weights, dtype=torch.float32)


def task_loss(
    task: TaskSpec,
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor | None = None,
    sample_weights: Tensor | None = None,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """Cross entropy (multiclass), binary cross entropy (multilabel), squared error of standardised values, or the
    symmetric cross entropy of finding one's partners in the batch (retrieval).

    Computed in float32 also under autocast. With class weights the multiclass mean divides by the sum of the weights;
    with sample weights it is their weighted mean (times the class weights, divided by the sum of the products).

    Shapes: logits (B, K), or (B, M * K) for retrieval; target int64 (B,) for multiclass and retrieval, float32 (B, K)
    otherwise, standardised for regression (`TargetScaler`); class_weights (K,), sample_weights (B,) -> a scalar, or
    (B,) with reduction "none" (mean over labels or outputs), which takes no sample weights.
    """
    logits = logits.float()
    if sample_weights is not None and reduction == "mean":
        each = task_loss(task, logits, target, class_weights=class_weights, reduction="none")
        by_class = class_weights is not None and task.kind == "multiclass"
        shares = sample_weights * class_weights[target] if by_class and class_weights is not None else sample_weights
        return (sample_weights * each).sum() / shares.sum().clamp(min=torch.finfo(torch.float32).tiny)
    if task.kind == "retrieval":
        each = _contrastive_loss(logits, target, task.num_outputs)
        return each.mean() if reduction == "mean" else each
    if task.kind == "multiclass":
        return F.cross_entropy(logits, target, weight=class_weights, reduction=reduction)
    if task.kind == "multilabel":
        loss = F.binary_cross_entropy_with_logits(logits, target, pos_weight=class_weights, reduction=reduction)
    elif task.kind == "regression":
        loss = F.mse_loss(logits, target, reduction=reduction)
    else:
        metric_specs(task)
    return loss if reduction == "mean" else loss.mean(dim=1)


def predictions(task: TaskSpec, logits: Tensor, scaler: TargetScaler | None = None) -> Tensor:
    """What the logits say: probabilities of classes or labels, values in the target's own unit, or vectors to compare.

    Shapes: logits (B, K) or (B, M * K) of any float type -> the same, float32, float64 of a regression, detached.

    Raises:
        ValueError: a regression task without its scaler.
    """
    values = logits.detach().float()
    if task.kind == "multiclass":
        return values.softmax(dim=1)
    if task.kind == "multilabel":
        return values.sigmoid()
    if task.kind == "retrieval":
        return values
    metric_specs(task)
    if scaler is None:
        raise ValueError(f"task {task.name!r} is a regression: its predictions need the TargetScaler it trained with")
    return scaler.unscale(values)


def majority_predictions(task: TaskSpec, train_targets: NDArray[Any], n: int) -> NDArray[np.floating[Any]]:
    """The floor that every model must pass: what one would say of a sample without looking at it.

    Training frequencies of classes or labels; of a regression the best constant for its primary metric, the median of
    the training targets for the mean absolute error, else their mean. The same for all n samples. For retrieval, two
    modalities whose vectors are all equal: every order of candidates is as likely.

    Shapes: train_targets (N,) or (N, K) -> float32 (n, K), float64 of a regression, or (n, 2 * K) for retrieval.
    """
    metric_specs(task)
    if task.kind == "regression":
        middle = np.median if primary_metric(task) == "mae" else np.mean
        return np.tile(middle(np.asarray(train_targets, dtype=np.float64), axis=0), (n, 1))
    if task.kind == "retrieval":
        return np.zeros((n, 2 * task.num_outputs), dtype=np.float32)
    if task.kind == "multiclass":
        constant = np.bincount(train_targets, minlength=task.num_outputs) / len(train_targets)
    else:
        constant = np.asarray(train_targets, dtype=np.float64).mean(axis=0)
    return np.tile(constant.astype(np.float32), (n, 1))


def _contrastive_loss(vectors: Tensor, groups: Tensor, dim: int) -> Tensor:
    """Symmetric cross entropy of finding one's partners in the batch, mean over all pairs of modalities.

    With one partner each this is InfoNCE as in CLIP (Radford et al. 2021, arXiv:2103.00020); several partners share
    the probability equally. Vectors carry the temperature in their length.

    Shapes: vectors (B, M * dim), groups (B,) -> (B,).
    """
    by_modality = vectors.unflatten(1, (-1, dim)).unbind(1)  # M of (B, dim)
    partners = groups[:, None] == groups[None, :]  # (B, B)
    wanted = partners / partners.sum(dim=1, keepdim=True)
    losses = []
    for one, other in itertools.combinations(by_modality, 2):
        similarity = one @ other.T
        losses += [
            F.cross_entropy(similarity, wanted, reduction="none"),
            F.cross_entropy(similarity.T, wanted, reduction="none"),
        ]
    return torch.stack(losses).mean(dim=0)
