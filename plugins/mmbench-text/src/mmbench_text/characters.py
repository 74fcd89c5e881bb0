"""`tokens`: the characters of a text, each looked up in a table, and nothing more."""

from __future__ import annotations

from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import check_range, span_means
from mmbench.spec import Layout
from mmbench_text.embed import embed
from mmbench_text.tokens import Characters


class Tokens(nn.Module):
    """One learned vector per character.

    Nothing here looks beyond a character: all understanding is left to what reads the tokens, as in early fusion.
    Tokens carry no position. A vector holds the means of `num_spans` equal spans of the text side by side, so that it
    has one width for any length and still knows early from late.

    Source: character embeddings as of Kim et al. 2015, arXiv:1508.06615.

    Shapes: int32 (B, T), mask (B, T) -> (B, T, token_dim) with its mask, or (B, num_spans * token_dim).

    Raises:
        UsageError: an option is out of range.
    """

    def __init__(
        self,
        modality: Modality,
        layout: Layout,
        *,
        token_dim: int,
        num_spans: int,
        vocabulary_size: int,
        max_length: int,
    ) -> None:
        super().__init__()
        check_range("token_dim", token_dim, 1)
        check_range("num_spans", num_spans, 1)
        check_range("vocabulary_size", vocabulary_size, 2)
        check_range("max_length", max_length, 1)
        self.layout = layout
        self.num_spans = num_spans
        self.feature_dim = token_dim * (num_spans if layout == "vector" else 1)
        self.transform = Characters(vocabulary_size=vocabulary_size, max_length=max_length)
        self.embedding = nn.Embedding(vocabulary_size, token_dim)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        tokens = embed(self.embedding, values, mask)  # (B, T, token_dim)
        if self.layout == "vector":
            return Features(span_means(tokens, mask, self.num_spans).flatten(1))
        return Features(tokens, mask)
