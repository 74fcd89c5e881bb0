"""`embedding-lstm`: a recurrent network over characters."""

from __future__ import annotations

from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import BidirectionalRNN, check_range
from mmbench.spec import Layout
from mmbench_text.embed import embed
from mmbench_text.tokens import Characters


class EmbeddingLSTM(nn.Module):
    """Bidirectional LSTM with `width` units each way over character embeddings; a vector is the mean over characters.

    Source: Graves & Schmidhuber 2005, doi:10.1016/j.neunet.2005.06.042.

    Shapes: int32 (B, T), mask (B, T) -> (B, feature_dim), or (B, T, feature_dim) with its mask.

    Raises:
        UsageError: an option is out of range.
    """

    def __init__(
        self,
        modality: Modality,
        layout: Layout,
        *,
        feature_dim: int,
        width: int,
        depth: int,
        embedding_dim: int,
        vocabulary_size: int,
        max_length: int,
        dropout: float,
    ) -> None:
        super().__init__()
        check_range("feature_dim", feature_dim, 1)
        check_range("width", width, 1)
        check_range("depth", depth, 1)
        check_range("embedding_dim", embedding_dim, 1)
        check_range("vocabulary_size", vocabulary_size, 2)
        check_range("max_length", max_length, 1)
        check_range("dropout", dropout, 0.0, 1.0)
        self.layout = layout
        self.feature_dim = feature_dim
        self.transform = Characters(vocabulary_size=vocabulary_size, max_length=max_length)
        self.embedding = nn.Embedding(vocabulary_size, embedding_dim)
        self.rnn = BidirectionalRNN("lstm", embedding_dim, width, num_layers=depth, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(2 * width, feature_dim)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        characters = self.dropout(embed(self.embedding, values, mask))  # (B, T, embedding_dim)
        tokens = self.project(self.dropout(self.rnn(characters, mask)))  # (B, T, feature_dim)
        features = Features(tokens, mask)
        return features if self.layout == "sequence" else Features(features.to_vector().values)
