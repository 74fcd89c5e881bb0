"""Reconstruction: a code shared by all modalities, from which each can be told, whichever of them made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmbench import TaskSpec
from mmbench_objectives.codes import decoder, mean_over, target
from mmbench_objectives.vectors import pooled, vector_dims

if TYPE_CHECKING:
    from mmbench.train import Step


class Reconstruction(nn.Module):
    """loss = task loss + reconstruction_weight * mean over codes and modalities of the squared error.

    The code of some modalities is the mean of their A_m f_m; a decoder D_m turns it into features of m. Codes come
    from all modalities that a sample has, and from each alone; every one has to tell every modality that is there:
    mean over S in {all, {1}, …, {M}} and over m of |D_m(code of S) - f_m|^2 / D.

    Source: the bimodal autoencoder of Ngiam et al. 2011, Multimodal deep learning (ICML), which also shows single
    modalities and asks for all. Differs in reconstructing features instead of inputs: targets are standardised per
    sample and get no gradient (see `mmbench_objectives.codes.target`); and in training the task beside it.

    Args:
        dims: Feature width by modality.
        tasks: What is predicted.
        reconstruction_weight: Factor of the squared error.
        code_dim: Width of the code.
    """

    def __init__(
        self, dims: Mapping[str, int], tasks: Sequence[TaskSpec], *, reconstruction_weight: float, code_dim: int
    ) -> None:
        super().__init__()
        widths = vector_dims(dims)
        self.names = tuple(widths)
        self.reconstruction_weight = reconstruction_weight
        self.encoders = nn.ModuleList(nn.Linear(width, code_dim) for width in widths.values())
        self.decoders = nn.ModuleList(decoder(code_dim, width) for width in widths.values())

    def forward(self, step: Step) -> Mapping[str, Tensor]:
        """Return the task loss and {"reconstruction": scalar}."""
        features = [step.output.features[name] for name in self.names]
        present = torch.stack([given.present for given in features], dim=1)  # (B, M)
        parts = torch.stack([encode(pooled(given)) for encode, given in zip(self.encoders, features)], dim=1)
        weights = present.to(parts.dtype).unsqueeze(2)
        every = (parts * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        codes = [(every, present.any(dim=1))]
        if len(features) > 1:
            codes += [(parts[:, m], present[:, m]) for m in range(len(features))]
        errors = [
            mean_over((decode(code).float() - target(given)).square().mean(dim=1), there & given.present)
            for code, there in codes
            for decode, given in zip(self.decoders, features)
        ]
        return {
            "task": step.task_loss(step.output.logits),
            "reconstruction": self.reconstruction_weight * torch.stack(errors).mean(),
        }
