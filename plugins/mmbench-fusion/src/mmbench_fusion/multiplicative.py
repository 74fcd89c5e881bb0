"""Multiplicative interactions: one modality generates the weights that read another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mmbench import Features, TaskSpec
from mmbench.errors import UsageError
from mmbench_fusion.projection import Projections

Form = Literal["matrix", "vector", "scalar"]
_FORMS = ("matrix", "vector", "scalar")


class Multiplicative(nn.Module):
    """Joins modality after modality, in the order of their names: f_1 = h_1, f_m = interact(h_m, f_(m-1)).

    With condition z = h_m and input x = f_(m-1), h_m = norm_m(W_m x_m + b_m):

    - matrix: z^T W x + U z + V x + b, a full bilinear form;
    - vector: (U' z + u) * (V x) + U z + b, the condition scales every place of the input;
    - scalar: (u . z + c) (V x) + U z + b, the condition scales the input as a whole.

    Each step ends in a layer norm, so fused = norm(f_M).

    Source: Jayakumar et al. 2020, "Multiplicative interactions and where to find them" (ICLR). Differs in the
    projections, which keep the bilinear form affordable, in the map V of the vector and scalar forms, which brings the
    input to the result's width, and in the layer norms. The fold over more than two modalities follows MultiBench
    (Liang et al. 2021, arXiv:2107.07502).

    Shapes: {modality: Features} each (B, D of that modality) -> (B, fused_dim). A missing modality enters as zeros.

    Raises:
        UsageError: `form` is none of the three.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        tasks: Sequence[TaskSpec],
        *,
        form: Form,
        modality_dim: int,
        fused_dim: int,
    ) -> None:
        super().__init__()
        if form not in _FORMS:
            raise UsageError(f"option 'form' must be one of {', '.join(_FORMS)}, got {form!r}")
        self.fused_dim = fused_dim
        self.projections = Projections(dims, modality_dim)
        widths = [modality_dim] + [fused_dim] * (len(dims) - 2)
        self.interactions = nn.ModuleList(Interaction(form, modality_dim, width, fused_dim) for width in widths)
        self.norms = nn.ModuleList(nn.LayerNorm(fused_dim) for _ in widths)

    def forward(self, features: Mapping[str, Features]) -> Tensor:
        """Join; see the class."""
        vectors, _ = self.projections(features)  # (B, M, modality_dim)
        fused = vectors[:, 0]
        for position, (interact, norm) in enumerate(zip(self.interactions, self.norms), start=1):
            fused = norm(interact(vectors[:, position], fused))
        return fused


class Interaction(nn.Module):
    """One multiplicative interaction; see `Multiplicative` for the three forms.

    Shapes: condition (B, condition_dim), read (B, input_dim) -> (B, output_dim).
    """

    def __init__(self, form: Form, condition_dim: int, input_dim: int, output_dim: int) -> None:
        super().__init__()
        self.form = form
        self.condition = nn.Linear(condition_dim, output_dim)
        self.read = nn.Linear(input_dim, output_dim, bias=False)
        if form == "matrix":
            limit = condition_dim**-0.5
            self.bilinear = nn.Parameter(torch.empty(output_dim, condition_dim, input_dim).uniform_(-limit, limit))
        else:
            self.gain = nn.Linear(condition_dim, output_dim if form == "vector" else 1)

    def forward(self, condition: Tensor, read: Tensor) -> Tensor:
        """Interact; see the class."""
        shifted = self.condition(condition)
        if self.form == "matrix":
            # Not nn.Bilinear, which autocast does not know and which then meets two dtypes.
            product = torch.einsum("bi,oij,bj->bo", condition, self.bilinear, read)
            return product + shifted + self.read(read)
        return self.gain(condition) * self.read(read) + shifted
