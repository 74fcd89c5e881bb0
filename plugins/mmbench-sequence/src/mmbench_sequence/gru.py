"""`gru`: a recurrent network over a sequence of features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import BidirectionalRNN, Standardiser, check_range
from mmbench.features import without_padding
from mmbench.spec import Layout
from mmbench_sequence.steps import Steps


class SequenceGRU(nn.Module):
    """Bidirectional GRU with `width` units each way over standardised steps; a vector is the mean over steps.

    Source: Cho et al. 2014, arXiv:1406.1078.

    Shapes: float32 (B, T, F), mask (B, T) -> (B, feature_dim), or (B, T, feature_dim) with its mask.

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
        max_length: int,
        dropout: float,
    ) -> None:
        super().__init__()
        check_range("feature_dim", feature_dim, 1)
        check_range("width", width, 1)
        check_range("depth", depth, 1)
        check_range("max_length", max_length, 1)
        check_range("dropout", dropout, 0.0, 1.0)
        self.layout = layout
        self.feature_dim = feature_dim
        self.transform = Steps(max_length=max_length)
        num_features = modality.facts["num_features"]
        self.standardise = Standardiser(num_features)
        self.rnn = BidirectionalRNN("gru", num_features, width, num_layers=depth, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(2 * width, feature_dim)

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of each feature over all training steps."""
        self.standardise.fit(values, mask)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        steps = without_padding(self.standardise(values), mask)
        tokens = self.project(self.dropout(self.rnn(steps, mask)))  # (B, T, feature_dim)
        features = Features(tokens, mask)
        return features if self.layout == "sequence" else Features(features.to_vector().values)
