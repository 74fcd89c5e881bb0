"""Gradient blending: the fused loss and each modality's own are weighted by how well, and how honestly, they learn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmbench import TaskSpec
from mmbench.blocks import check_range
from mmbench_objectives.unimodal import unimodal_losses

if TYPE_CHECKING:
    from mmbench.model import Batch, Output
    from mmbench.train import EpochStart, Step

#: Less overfitting than this between two estimates is noise, and no reason for an unbounded weight.
MIN_OVERFITTING = 0.01


class GradientBlending(nn.Module):
    """loss = w_0 loss(fused) + sum over modalities of w_m loss(head of that modality alone), the weights summing to 1.

    Every `every` epochs each loss is measured on a held-out share of train, H, and on as many samples that are stepped
    on, S. Since the start of training it has generalised by G = H_before - H_now and overfitted by O = (H - S)_now - (H
    - S)_before; its weight is G / O^2, normalised. A loss that did not generalise gets no weight; where none did,
    weights stay. All are equal before the first estimate.

    Source: Wang et al. 2020, arXiv:1905.12681, proposition 1, and its online algorithm. Differs in measuring the losses
    of the model that is being trained, where the authors train copies of it for each loss and each estimate; in always
    looking back to the start, because what changes between two estimates late in training is mostly noise; in that
    held-out samples are never trained on; and in bounding |O| from below by 0.01.

    Args:
        dims: Feature width by modality.
        tasks: What is predicted.
        every: Epochs between estimates.
        held_out_share: Share of the training set that no step is taken on.

    Raises:
        UsageError: `held_out_share` is not within 0.01 and 0.5, or `every` is less than 1.
    """

    needs_unimodal_heads = True
    #: Estimates move the weights in place, where a captured step reads them.
    capturable = True
    weights: Tensor
    before: Tensor

    def __init__(
        self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, every: int, held_out_share: float
    ) -> None:
        super().__init__()
        check_range("held_out_share", held_out_share, 0.01, 0.5)
        check_range("every", every, 1, 1000)
        self.names = ("fused", *sorted(dims))
        self.every, self.held_out_share = every, held_out_share
        count = len(self.names)
        self.register_buffer("weights", torch.full((count,), 1.0 / count))
        self.register_buffer("before", torch.zeros(2, count))  # losses on held-out and on seen samples, at the start

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return {"task": …} for the fused prediction and {"unimodal.NAME": …}, each weighted."""
        losses = self._losses(step.output, step.task_loss)
        names = ("task", *(f"unimodal.{name}" for name in self.names[1:]))
        return {name: weight * loss for name, weight, loss in zip(names, self.weights.unbind(), losses.unbind())}

    def before_epoch(self, start: EpochStart) -> None:
        """Estimate the weights anew, every few epochs."""
        if start.epoch % self.every:
            return
        now = torch.stack([self._measure(start, start.held_out()), self._measure(start, start.seen())])
        if start.epoch:
            self.weights.copy_(blend(self.before, now, self.weights))
        else:
            self.before.copy_(now)

    def _measure(self, start: EpochStart, batches: Iterable[Batch]) -> Tensor:
        """Mean losses over some batches, in the order of `names`."""
        total, count = torch.zeros_like(self.weights), 0
        for batch in batches:
            losses = self._losses(
                start.model(batch), lambda logits, batch=batch: start.task_loss(logits, batch.targets)
            )
            total += batch.size * losses
            count += batch.size
        return total / max(count, 1)

    def _losses(self, output: Output, task_loss: Callable[[Mapping[str, Tensor]], Tensor]) -> Tensor:
        alone = unimodal_losses(output, task_loss)
        return torch.stack([task_loss(output.logits), *(alone[name] for name in self.names[1:])])


def blend(before: Tensor, now: Tensor, weights: Tensor) -> Tensor:
    """Weights of losses from what they were on held-out and on seen samples, before and now.

    Shapes: before (2, L), now (2, L), weights (L,), kept where no loss has generalised -> (L,).
    """
    generalised = (before[0] - now[0]).clamp(min=0.0)
    overfitted = (now[0] - now[1]) - (before[0] - before[1])
    found = generalised / overfitted.abs().clamp(min=MIN_OVERFITTING).square()
    total = found.sum()
    return torch.where(total > 0, found / total.clamp(min=1e-12), weights)
