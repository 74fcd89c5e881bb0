"""`logmel-lstm`: a recurrent network over a log-mel spectrogram."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import BidirectionalRNN, Standardiser, check_range
from mmbench.features import without_padding
from mmbench.spec import Layout
from mmbench_audio.waveform import log_mel


class LogMelLSTM(nn.Module):
    """Bidirectional LSTM with `width` units each way over the standardised frames; a vector is the mean over frames.

    Source: Graves & Schmidhuber 2005, doi:10.1016/j.neunet.2005.06.042.

    Shapes: (B, T, M), mask (B, T) -> (B, feature_dim), or (B, T, feature_dim) with its mask.

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
        dropout: float,
        **spectrogram: Any,
    ) -> None:
        super().__init__()
        check_range("feature_dim", feature_dim, 1)
        check_range("width", width, 1)
        check_range("depth", depth, 1)
        check_range("dropout", dropout, 0.0, 1.0)
        self.layout = layout
        self.feature_dim = feature_dim
        self.transform = log_mel(modality, **spectrogram)
        self.standardise = Standardiser(self.transform.num_mels)
        self.rnn = BidirectionalRNN("lstm", self.transform.num_mels, width, num_layers=depth, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(2 * width, feature_dim)

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of each mel band over the training frames."""
        self.standardise.fit(values, mask)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        frames = without_padding(self.standardise(values.float()), mask)
        tokens = self.project(self.dropout(self.rnn(frames, mask)))  # (B, T, feature_dim)
        features = Features(tokens, mask)
        return features if self.layout == "sequence" else Features(features.to_vector().values)
