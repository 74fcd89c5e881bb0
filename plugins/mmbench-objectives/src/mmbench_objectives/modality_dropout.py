"""Modality dropout: in training, samples lose whole modalities at random, and always keep one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.blocks import check_range
from mmbench.features import without_padding

if TYPE_CHECKING:
    from mmbench.train import Step


class ModalityDropout(nn.Module):
    """loss = task loss of the prediction from what is left.

    Each modality of each sample is dropped with `probability`, independently. Where the draw would leave a sample with
    nothing, it keeps all it had. A dropped modality reaches the fusion as a missing one does: zeros, and a False mask.

    Source: Neverova et al. 2016, arXiv:1501.00102 (ModDrop), which drops raw inputs; here the encoders' features are
    dropped, so that encoders run once.

    Raises:
        UsageError: `probability` is not within 0 and 0.95.
    """

    def __init__(self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, probability: float) -> None:
        super().__init__()
        check_range("probability", probability, 0.0, 0.95)
        self.probability = probability

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Fuse again, from what is left, and return its loss."""
        features = step.output.features
        names = sorted(features)
        present = torch.stack([features[name].present for name in names], dim=1)  # (B, M)
        draw = torch.rand(present.shape, generator=step.generator) >= self.probability
        kept = present & draw.to(present.device, non_blocking=True)
        kept = torch.where(kept.any(dim=1, keepdim=True), kept, present)
        left = {name: keep(features[name], kept[:, m]) for m, name in enumerate(names)}
        return {"task": step.task_loss(step.model.fuse(left).logits)}


def keep(features: Features, kept: Tensor) -> Features:
    """The same features, missing in all samples that are not `kept`.

    Shapes: Features of any layout, kept (B,) -> the same layout.
    """
    values, masks = [], []
    for layer in features.layers:
        values.append(without_padding(layer.tensor, kept))
        masks.append(layer.real & kept.view(-1, *[1] * (layer.real.dim() - 1)))
    if isinstance(features.values, tuple):
        return replace(features, values=tuple(values), mask=tuple(masks), losses={})
    return replace(features, values=values[0], mask=masks[0], losses={})
