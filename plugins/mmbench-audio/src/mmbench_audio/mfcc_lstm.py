"""`mfcc-lstm`: a recurrent network over mel-frequency cepstral coefficients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmbench import Features, Modality, Waveform
from mmbench.blocks import BidirectionalRNN, Standardiser, check_range
from mmbench.errors import UsageError
from mmbench.features import without_padding
from mmbench.spec import Layout
from mmbench_audio.waveform import at_rate, common_rate

_DELTA_FRAMES = 9  # that a slope is fitted over: 4 on each side


@dataclass(frozen=True)
class Mfcc:
    """Mel-frequency cepstral coefficients and their slopes over time, in overlapping windows.

    Source: Davis & Mermelstein 1980, doi:10.1109/TASSP.1980.1163420; slopes: Furui 1986,
    doi:10.1109/TASSP.1986.1164788.

    Attributes:
        rate: Waveforms are resampled to this, in Hz.
        num_coefficients: C, how many coefficients are kept, the one of loudness (the first) among them.
        num_mels: Number of mel bands that they summarise.
        window_ms, hop_ms: Length of a window and distance between two, in milliseconds.
        max_seconds: What comes later is cut off.
    """

    version: ClassVar[str] = "1"

    rate: int
    num_coefficients: int
    num_mels: int
    window_ms: float
    hop_ms: float
    max_seconds: float

    def __call__(self, sample: Waveform) -> NDArray[np.float16]:
        """Shapes: waveform of L samples -> float16 (T, 2 C), T = 1 + L' // hop after resampling to L' samples."""
        import torchaudio.functional

        samples = at_rate(sample, self.rate, self.max_seconds)
        window = max(round(self.rate * self.window_ms / 1000), 1)
        hop = max(round(self.rate * self.hop_ms / 1000), 1)
        coefficients = _mfcc(self.rate, self.num_coefficients, self.num_mels, window, hop)(samples)  # (C, T)
        slopes = torchaudio.functional.compute_deltas(coefficients, win_length=_DELTA_FRAMES)
        return torch.cat([coefficients, slopes]).T.contiguous().to(torch.float16).numpy()


class MfccLSTM(nn.Module):
    """Bidirectional LSTM with `width` units each way over standardised coefficients; a vector is the mean over frames.

    Source: Graves & Schmidhuber 2005, doi:10.1016/j.neunet.2005.06.042, whose input they were.

    Shapes: (B, T, 2 C), mask (B, T) -> (B, feature_dim), or (B, T, feature_dim) with its mask.

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
        num_coefficients: int,
        num_mels: int,
        window_ms: float,
        hop_ms: float,
        max_seconds: float,
    ) -> None:
        super().__init__()
        for option, value in (("feature_dim", feature_dim), ("width", width), ("depth", depth)):
            check_range(option, value, 1)
        check_range("dropout", dropout, 0.0, 1.0)
        check_range("num_coefficients", num_coefficients, 1)
        check_range("window_ms", window_ms, 1.0)
        check_range("hop_ms", hop_ms, 1.0)
        check_range("max_seconds", max_seconds, 0.01)
        if num_coefficients > num_mels:
            raise UsageError(f"num_coefficients={num_coefficients} cannot be made of num_mels={num_mels} bands")
        self.layout = layout
        self.feature_dim = feature_dim
        self.transform = Mfcc(
            rate=common_rate(modality, rate),
            num_coefficients=num_coefficients,
            num_mels=num_mels,
            window_ms=window_ms,
            hop_ms=hop_ms,
            max_seconds=max_seconds,
        )
        self.standardise = Standardiser(2 * num_coefficients)
        self.rnn = BidirectionalRNN("lstm", 2 * num_coefficients, width, num_layers=depth, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(2 * width, feature_dim)

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take the mean and deviation of each coefficient and slope over the training frames."""
        self.standardise.fit(values, mask)

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Features:
        frames = without_padding(self.standardise(values.float()), mask)
        tokens = self.project(self.dropout(self.rnn(frames, mask)))  # (B, T, feature_dim)
        features = Features(tokens, mask)
        return features if self.layout == "sequence" else Features(features.to_vector().values)


@cache
def _mfcc(rate: int, num_coefficients: int, num_mels: int, window: int, hop: int) -> Callable[[Tensor], Tensor]:
    import torchaudio.transforms

    mel = {
        "n_fft": 1 << (window - 1).bit_length(),
        "win_length": window,
        "hop_length": hop,
        "n_mels": num_mels,
        # Zeros around the waveform, not its reflection, which a waveform shorter than half a window does not have.
        "pad_mode": "constant",
    }
    return torchaudio.transforms.MFCC(sample_rate=rate, n_mfcc=num_coefficients, melkwargs=mel)
