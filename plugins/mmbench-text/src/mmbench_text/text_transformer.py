"""`text-transformer`: a small transformer over characters."""

from __future__ import annotations

from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import TransformerBlock, check_range, sinusoidal_positions
from mmbench.spec import Layout
from mmbench_text.embed import embed
from mmbench_text.tokens import Characters


class TextTransformer(nn.Module):
    """Transformer over character embeddings with sinusoidal positions; a vector is the mean over characters.

    Source: Vaswani et al. 2017, arXiv:1706.03762, the encoder, with normalisation first.

    A pyramid has the characters after every layer: `depth` levels, all but the last of `width`; its last level is the
    sequence.

    Shapes: int32 (B, T), mask (B, T) -> (B, feature_dim), or (B, T, feature_dim) with its mask.

    Raises:
        UsageError: an option is out of range, or `num_heads` does not divide `width`.
    """

    def __init__(
        self,
        modality: Modality,
        layout: Layout,
        *,
        feature_dim: int,
        width: int,
        depth: int,
        num_heads: int,
        vocabulary_size: int,
        max_length: int,
        dropout: float,
    ) -> None:
        super().__init__()
        check_range("feature_dim", feature_dim, 1)
        check_range("width", width, 1)
        check_range("depth", depth, 1)
        check_range("vocabulary_size", vocabulary_size, 2)
        check_range("max_length", max_length, 1)
        check_range("dropout", dropout, 0.0, 1.0)
        self.layout = layout
        self.feature_dim: int | tuple[int, ...] = feature_dim
        if layout == "pyramid":
            self.feature_dim = (*[width] * (depth - 1), feature_dim)
        self.width = width
        self.transform = Characters(vocabulary_size=vocabulary_size, max_length=max_length)
        self.embedding = nn.Embedding(vocabulary_size, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, num_heads, mlp_dim=2 * width, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, feature_dim)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        positions = sinusoidal_positions(values.shape[1], self.width, device=values.device)
        tokens = self.dropout(embed(self.embedding, values, mask) + positions)  # (B, T, width)
        early = []
        for block in self.blocks:
            tokens = block(tokens, mask)
            early.append(tokens)
        tokens = self.project(self.norm(tokens))
        if self.layout == "pyramid":
            return Features((*early[:-1], tokens), None if mask is None else (mask,) * len(early))
        features = Features(tokens, mask)
        return features if self.layout == "sequence" else Features(features.to_vector().values)
