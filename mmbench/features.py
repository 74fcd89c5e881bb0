"""The one carrier of what encoders give and fusions take: values, their mask, and losses of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mmbench.spec import Layout


@dataclass(frozen=True)
class Features:
    """Features of one modality for a batch.

    ======== =============================== =======================================================
    layout   values                          mask (True = real; None = everything is real)
    ======== =============================== =======================================================
    vector   (B, D)                          (B,): the modality is present in this sample
    sequence (B, T, D)                       (B, T): this token is real; a missing modality has none
    pyramid  tuple of (B, T_i, D_i), early   tuple of (B, T_i), or None
             layers first
    ======== =============================== =======================================================

    Attributes:
        values: Floating point.
        mask: Boolean.
        losses: Named scalars that the module wants added to the objective.

    >>> Features(torch.zeros(2, 5, 8)).layout
    'sequence'
    """

    values: Tensor | tuple[Tensor, ...]
    mask: Tensor | tuple[Tensor, ...] | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """Which of the three layouts this is."""
        if isinstance(self.values, tuple):
            return "pyramid"
        return "vector" if self.values.dim() == 2 else "sequence"

    @property
    def tensor(self) -> Tensor:
        """The values of a vector or a sequence, (B, D) or (B, T, D).

        Raises:
            TypeError: this is a pyramid.
        """
        if isinstance(self.values, tuple):
            raise TypeError("a pyramid has several tensors; iterate over .values")
        return self.values

    @property
    def present(self) -> Tensor:
        """Whether each sample has this modality at all: (B,), boolean."""
        first = self.values[0] if isinstance(self.values, tuple) else self.values
        mask = self.mask[0] if isinstance(self.mask, tuple) else self.mask
        if mask is None:
            return torch.ones(first.shape[0], dtype=torch.bool, device=first.device)
        return mask if mask.dim() == 1 else mask.any(dim=1)

    @property
    def token_mask(self) -> Tensor:
        """The mask of a sequence, (B, T); all True where none was given."""
        tokens = self.tensor
        if isinstance(self.mask, Tensor):
            return self.mask
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)

    @property
    def real(self) -> Tensor:
        """Where a vector, (B,), or a sequence, (B, T), is real; all True where no mask was given.

        Raises:
            TypeError: this is a pyramid; ask each of its `layers`.
        """
        return self.present if self.layout == "vector" else self.token_mask

    @property
    def layers(self) -> tuple[Features, ...]:
        """Each layer of a pyramid as a sequence, early ones first; a vector or a sequence is its own only layer.

        >>> [layer.tensor.shape[2] for layer in Features((torch.zeros(2, 5, 8), torch.zeros(2, 3, 16))).layers]
        [8, 16]
        """
        if not isinstance(self.values, tuple):
            return (self,)
        masks = self.mask if isinstance(self.mask, tuple) else (None,) * len(self.values)
        return tuple(Features(values, mask) for values, mask in zip(self.values, masks, strict=True))

    def to_vector(self) -> Features:
        """Pool a sequence to a vector by the mean over its real tokens; a missing modality gives zeros.

        Shapes: (B, T, D) -> (B, D).
        """
        if self.layout == "vector":
            return self
        return replace(self, values=masked_mean(self.tensor, self.token_mask), mask=self.present)


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens, zero where there are none.

    Shapes: tokens (B, T, D), mask (B, T) -> (B, D).
    """
    weights = mask.unsqueeze(-1).to(tokens.dtype)  # (B, T, 1)
    return without_padding(tokens, mask).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


def without_padding(values: Tensor, mask: Tensor | None) -> Tensor:
    """The values, zero where they are not real, whatever stood there: padding may hold anything, NaN too.

    Shapes: values (B, …) and mask (B,), or values (B, T, …) and mask (B, T); no mask means everything is real.
    """
    if mask is None:
        return values
    return values.masked_fill(~mask.reshape(*mask.shape, *[1] * (values.dim() - mask.dim())), 0)
