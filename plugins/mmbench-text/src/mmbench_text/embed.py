"""Looking up embeddings of padded token numbers."""

from __future__ import annotations

from torch import Tensor, nn

from mmbench.features import without_padding


def embed(table: nn.Embedding, numbers: Tensor, mask: Tensor | None) -> Tensor:
    """Look up token numbers; padding gives zeros, whatever numbers stand there.

    Shapes: numbers (B, T), mask (B, T) or None -> (B, T, D).
    """
    return without_padding(table(without_padding(numbers, mask)), mask)
