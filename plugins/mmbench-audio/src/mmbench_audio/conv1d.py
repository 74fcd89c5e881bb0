"""`conv1d`: strided convolutions over the raw waveform."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import Standardiser, check_range
from mmbench.spec import Layout
from mmbench_audio.masked import MaskedConv
from mmbench_audio.waveform import Resampled, common_rate


class WaveformCNN(nn.Module):
    """One wide convolution that strides by `hop_ms`, then `depth` blocks of kernel 5 and stride 2.

    The first layer learns `width` filters twice as long as its stride, in the place of a spectrogram; the blocks
    have 2 `width` channels. A vector is the mean over tokens.

    Source: Dai et al. 2016, arXiv:1610.00087, made small: the first stride is ten times theirs.

    Shapes: (B, L), mask (B, L) -> (B, feature_dim), or (B, T, feature_dim) with its mask.

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
        rate: int,
        hop_ms: float,
        max_seconds: float,
    ) -> None:
        super().__init__()
        check_range("feature_dim", feature_dim, 1)
        check_range("width", width, 1)
        check_range("depth", depth, 0)
        check_range("dropout", dropout, 0.0, 1.0)
        check_range("rate", rate, 100)
        check_range("hop_ms", hop_ms, 0.0)
        check_range("max_seconds", max_seconds, 0.01)
        self.layout = layout
        self.feature_dim = feature_dim
        self.transform = Resampled(rate=common_rate(modality, rate), max_seconds=max_seconds)
        self.standardise = Standardiser(1)
        hop = max(round(self.transform.rate * hop_ms / 1000), 1)
        self.blocks = nn.ModuleList([MaskedConv(nn.Conv1d(1, width, kernel_size=2 * hop + 1, stride=hop, padding=hop))])
        channels = width
        for _ in range(depth):
            self.blocks.append(MaskedConv(nn.Conv1d(channels, 2 * width, kernel_size=5, stride=2, padding=2)))
            channels = 2 * width
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(channels, feature_dim)

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of all samples of the training waveforms."""
        self.standardise.fit(values[..., None], mask)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        maps = self.standardise(values.float().unsqueeze(-1)).transpose(1, 2)  # (B, 1, L)
        for block in self.blocks:
            maps, mask = block(maps, mask)
        tokens = self.project(self.dropout(maps.transpose(1, 2)))  # (B, T, feature_dim)
        features = Features(tokens, mask)
        return features if self.layout == "sequence" else Features(features.to_vector().values)
