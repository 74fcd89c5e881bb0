"""`conv1d`: convolutions over the raw waveform, the first of which starts as a filterbank."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench import Features, Modality
from mmbench.blocks import Standardiser, check_range
from mmbench.features import without_padding
from mmbench.spec import Layout
from mmbench_audio.masked import MaskedConv
from mmbench_audio.waveform import Resampled, common_rate

# Power, relative to the waveform's, that counts as silence: 50 dB below.
_SILENCE = 1e-5
_FIT_SAMPLES = 64


class WaveformCNN(nn.Module):
    """A learned filterbank, then `depth` convolution blocks of kernel 3 and stride 2, over the raw waveform.

    A vector is the mean over tokens.

    Source: the filterbank is that of Zeghidour et al. 2021, arXiv:2101.08596, with the stride in the convolution and a
    logarithm in place of its pooling and compression; the blocks are those of Dai et al. 2016, arXiv:1610.00087, made
    small.

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
        num_filters: int,
        dropout: float,
        rate: int,
        level: bool,
        window_ms: float,
        hop_ms: float,
        max_seconds: float,
    ) -> None:
        super().__init__()
        check_range("feature_dim", feature_dim, 1)
        check_range("width", width, 1)
        check_range("depth", depth, 0)
        check_range("num_filters", num_filters, 1)
        check_range("dropout", dropout, 0.0, 1.0)
        check_range("window_ms", window_ms, 1.0)
        check_range("hop_ms", hop_ms, 1.0)
        check_range("max_seconds", max_seconds, 0.01)
        self.layout = layout
        self.feature_dim = feature_dim
        self.transform = Resampled(rate=common_rate(modality, rate), level=level, max_seconds=max_seconds)
        self.standardise = Standardiser(1)
        self.filterbank = LearnedFilterbank(
            num_filters,
            self.transform.rate,
            half_window=max(round(self.transform.rate * window_ms / 2000), 1),
            hop=max(round(self.transform.rate * hop_ms / 1000), 1),
        )
        self.standardise_power = Standardiser(num_filters)
        self.blocks = nn.ModuleList()
        channels = num_filters
        for _ in range(depth):
            self.blocks.append(MaskedConv(nn.Conv1d(channels, 2 * width, kernel_size=3, stride=2, padding=1)))
            channels = 2 * width
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(channels, feature_dim)

    @torch.no_grad()
    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of the training waveforms, then of their log power in each band."""
        values = torch.as_tensor(values)
        mask = None if mask is None else torch.as_tensor(mask)
        self.standardise.fit(values.unsqueeze(-1), mask)
        powers, masks = [], []
        for start in range(0, len(values), _FIT_SAMPLES):
            part = slice(start, start + _FIT_SAMPLES)
            power, power_mask = self._log_power(values[part], None if mask is None else mask[part])
            powers.append(power)
            masks.append(power_mask)
        self.standardise_power.fit(torch.cat(powers), None if mask is None else torch.cat(masks))

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        power, mask = self._log_power(values, mask)
        power = without_padding(self.standardise_power(power), mask)  # (B, T, num_filters)
        maps = power.transpose(1, 2).contiguous()  # (B, num_filters, T)
        for block in self.blocks:
            maps, mask = block(maps, mask)
        tokens = self.project(self.dropout(maps.transpose(1, 2)))  # (B, T', feature_dim)
        features = Features(tokens, mask)
        return features if self.layout == "sequence" else Features(features.to_vector().values)

    def _log_power(self, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        waveform = self.standardise(values.float().unsqueeze(-1)).squeeze(-1)  # (B, L)
        return self.filterbank(without_padding(waveform, mask), mask)


class LearnedFilterbank(nn.Module):
    """Log power of the waveform in learned bands.

    Each band is a pair of filters, whose squared outputs are added. They start as the cosine and the sine of one
    frequency under a Gaussian, so that the sum does not depend on phase; the frequencies are evenly spaced in mel.
    Plain random filters at a stride this long would see a random phase in every frame.

    Source: Zeghidour et al. 2021, arXiv:2101.08596.

    Shapes: waveform (B, L), zero at padded samples, mask (B, L) or None -> (B, T, num_filters), mask (B, T) or None;
    T = ceil(L / hop).
    """

    window: Tensor

    def __init__(self, num_filters: int, rate: int, *, half_window: int, hop: int) -> None:
        super().__init__()
        self.half_window = half_window
        self.hop = hop
        cosines, sines, window = _gabor_filters(num_filters, rate, half_window)
        self.cosines = nn.Parameter(cosines)
        self.sines = nn.Parameter(sines)
        # Apart from the weights, which are then of size 1: an optimiser's step at a usual rate would overwrite 1 / 200.
        self.register_buffer("window", window, persistent=False)

    def forward(self, waveform: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        # As a matrix product over frames, a strided convolution of one channel is twice as fast on a CPU.
        frames = F.pad(waveform, (self.half_window, self.half_window)).unfold(1, 2 * self.half_window + 1, self.hop)
        filters = torch.cat([self.cosines, self.sines]) * self.window
        in_phase, in_quadrature = F.linear(frames, filters).chunk(2, dim=-1)
        power = in_phase.float().square() + in_quadrature.float().square()  # (B, T, num_filters)
        return (power + _SILENCE).log(), None if mask is None else mask[:, :: self.hop]


def _gabor_filters(num_filters: int, rate: int, half_window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines and sines of mel-spaced frequencies, two of (num_filters, W), and a Gaussian window of sum 1, (W,)."""
    highest = 2595.0 * math.log10(1.0 + rate / 2 / 700.0)  # in mel
    mels = torch.linspace(0.0, highest, num_filters + 2)[1:-1]
    frequencies = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)  # in Hz
    times = torch.arange(-half_window, half_window + 1)  # in samples; W = 2 * half_window + 1
    angles = 2.0 * math.pi / rate * frequencies.unsqueeze(1) * times
    window = torch.exp(-0.5 * (times / (0.4 * half_window)).square())
    return angles.cos(), angles.sin(), window / window.sum()
