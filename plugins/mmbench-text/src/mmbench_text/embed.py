"""Looking up embeddings of padded token numbers."""

from __future__ import annotations

from torch import Tensor, nn


def embed(table: nn.Embedding, numbers: Tensor, mask: Tensor | None) -> Tensor:
    """Look up token numbers; padding gives zeros, whatever numbers stand there.

    Shapes: numbers (B, T), mask (B, T) or None -> (B, T, D).
    """
    if mask is None:
        return table(numbers)
    return table(numbers.masked_fill(~mask, 0)).masked_fill(~mask.unsqueeze(-1), 0.0)
