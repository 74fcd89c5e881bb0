"""`bag-of-embeddings`: the mean over embeddings of words and character n-grams."""

from __future__ import annotations

from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import check_range
from mmbench.spec import Layout
from mmbench_text.embed import embed
from mmbench_text.tokens import WordsAndNgrams


class BagOfEmbeddings(nn.Module):
    """Every word and character n-gram has an embedding of `feature_dim`; a vector is their mean.

    Source: Bojanowski et al. 2016, arXiv:1607.04606, and Joulin et al. 2016, arXiv:1607.01759. Differs from them in
    hashing words as well as n-grams and in n-grams from one character up, for words of scripts that write syllables.

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
        vocabulary_size: int,
        max_ngram: int,
        max_length: int,
        dropout: float,
    ) -> None:
        super().__init__()
        check_range("feature_dim", feature_dim, 1)
        check_range("vocabulary_size", vocabulary_size, 2)
        check_range("max_ngram", max_ngram, 0)
        check_range("max_length", max_length, 1)
        check_range("dropout", dropout, 0.0, 1.0)
        self.layout = layout
        self.feature_dim = feature_dim
        self.transform = WordsAndNgrams(vocabulary_size=vocabulary_size, max_ngram=max_ngram, max_length=max_length)
        self.embedding = nn.Embedding(vocabulary_size, feature_dim)
        # As fastText does. Torch's own start at size 1 would make every piece unseen in training loud noise in testing.
        nn.init.uniform_(self.embedding.weight, -1.0 / feature_dim, 1.0 / feature_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        features = Features(self.dropout(embed(self.embedding, values, mask)), mask)
        return features if self.layout == "sequence" else Features(features.to_vector().values)
