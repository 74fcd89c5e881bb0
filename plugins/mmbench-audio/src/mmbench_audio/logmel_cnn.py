"""`logmel-cnn`: convolutions over a log-mel spectrogram."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import Standardiser, check_range
from mmbench.features import without_padding
from mmbench.spec import Layout
from mmbench_audio.masked import MaskedConv
from mmbench_audio.waveform import log_mel


class LogMelCNN(nn.Module):
    """Three 3 x 3 convolution blocks over time and frequency of the standardised log-mel spectrogram.

    The blocks have `width`, 2 `width` and 2 `width` channels; each halves the frequencies, the first two halve time.
    A token joins all frequencies of one time step; a vector is the mean over tokens. A pyramid has the time steps of
    every block; its last level is the sequence.

    Source: Hershey et al. 2016, arXiv:1609.09430, made small.

    Shapes: (B, T, M), mask (B, T) -> (B, feature_dim), or (B, T / 4, feature_dim) with its mask; a pyramid also has
    (B, T / 2, width * M / 2) and (B, T / 4, 2 width * M / 4) before it.

    Raises:
        UsageError: an option is out of range.
    """

    def __init__(
        self, modality: Modality, layout: Layout, *, feature_dim: int, width: int, dropout: float, **spectrogram: Any
    ) -> None:
        super().__init__()
        check_range("feature_dim", feature_dim, 1)
        check_range("width", width, 1)
        check_range("dropout", dropout, 0.0, 1.0)
        self.layout = layout
        self.transform = log_mel(modality, **spectrogram)
        num_mels = self.transform.num_mels
        self.standardise = Standardiser(num_mels)
        self.blocks = nn.ModuleList()
        channels, widths = 1, []
        for growth, time_stride in ((1, 2), (2, 2), (2, 1)):
            conv = nn.Conv2d(channels, width * growth, kernel_size=3, stride=(2, time_stride), padding=1)
            # The first block's input is standardised, and its map the largest: normalising it would cost the most.
            self.blocks.append(MaskedConv(conv, normalise=channels > 1))
            channels, num_mels = width * growth, -(-num_mels // 2)
            widths.append(channels * num_mels)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(widths[-1], feature_dim)
        self.feature_dim = (*widths[:-1], feature_dim) if layout == "pyramid" else feature_dim

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of each mel band over the training frames."""
        self.standardise.fit(values, mask)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        frames = without_padding(self.standardise(values.float()), mask)  # (B, T, M)
        maps = frames.transpose(1, 2).unsqueeze(1)  # (B, 1, M, T)
        early, masks = [], []
        for block in self.blocks:
            maps, mask = block(maps, mask)
            if self.layout == "pyramid":
                early.append(_tokens(maps))
                masks.append(mask)
        tokens = self.project(self.dropout(_tokens(maps)))  # (B, T', feature_dim)
        if self.layout == "pyramid":
            return Features((*early[:-1], tokens), None if mask is None else tuple(masks))
        features = Features(tokens, mask)
        return features if self.layout == "sequence" else Features(features.to_vector().values)


def _tokens(maps: Tensor) -> Tensor:
    """One token per time step, all its frequencies joined: (B, C, M, T) -> (B, T, C * M)."""
    return maps.flatten(1, 2).transpose(1, 2)
