"""Transforms of waveforms: resampling, and the log-mel spectrogram."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmbench import Modality, Waveform
from mmbench.blocks import check_range

# Power of a mel band that counts as silence: keeps the logarithm of digital silence near that of a quiet room.
_SILENCE = 1e-6
# Root mean square under which a waveform is not scaled up any further: the last bit of 16-bit audio.
_QUIETEST = 2.0**-15
_FLOAT16_MAX = 65_504.0


@dataclass(frozen=True)
class Resampled:
    """The waveform at one rate, cut to a greatest length.

    Attributes:
        rate: Samples per second of the result, in Hz.
        level: Whether to keep loudness; if not, each waveform is scaled to a root mean square of 1.
        max_seconds: What comes later is cut off.
    """

    version: ClassVar[str] = "1"

    rate: int
    level: bool
    max_seconds: float

    def __call__(self, sample: Waveform) -> NDArray[np.float16]:
        """Shapes: waveform of L samples -> float16 (L',), at least one sample."""
        samples = at_rate(sample, self.rate, self.max_seconds)
        if not self.level:
            samples = samples / samples.square().mean().sqrt().clamp(min=_QUIETEST)
        return samples.clamp(-_FLOAT16_MAX, _FLOAT16_MAX).to(torch.float16).numpy()


@dataclass(frozen=True)
class LogMel:
    """Natural logarithm of the power in `num_mels` mel bands, in overlapping windows.

    Frame t is centred at t * hop. The bands are triangles on the HTK mel scale between 0 Hz and half the rate, over
    the power spectrum of Hann windows.

    Source: Davis & Mermelstein 1980, doi:10.1109/TASSP.1980.1163420.

    Attributes:
        rate: Waveforms are resampled to this, in Hz.
        num_mels: M, number of bands.
        level: Whether to keep loudness; if not, each sample's mean over bands and frames is subtracted.
        window_ms, hop_ms: Length of a window and distance between two, in milliseconds.
        max_seconds: What comes later is cut off.
    """

    version: ClassVar[str] = "1"

    rate: int
    num_mels: int
    level: bool
    window_ms: float
    hop_ms: float
    max_seconds: float

    def __call__(self, sample: Waveform) -> NDArray[np.float16]:
        """Shapes: waveform of L samples -> float16 (T, M), T = 1 + L' // hop after resampling to L' samples."""
        samples = at_rate(sample, self.rate, self.max_seconds)
        window = max(round(self.rate * self.window_ms / 1000), 1)
        hop = max(round(self.rate * self.hop_ms / 1000), 1)
        power = _mel_spectrogram(self.rate, window, hop, self.num_mels)(samples)  # (M, T)
        bands = (power + _SILENCE).log()
        if not self.level:
            bands = bands - bands.mean()
        return bands.T.contiguous().to(torch.float16).numpy()


def common_rate(modality: Modality, rate: int) -> int:
    """Return the rate that all samples are brought to: `rate`, but not above the median rate of its samples, in Hz.

    Raises:
        UsageError: `rate` is less than 100.
    """
    check_range("rate", rate, 100)
    return min(rate, modality.facts["rate"])


def log_mel(
    modality: Modality, *, rate: int, num_mels: int, level: bool, window_ms: float, hop_ms: float, max_seconds: float
) -> LogMel:
    """Return the spectrogram transform for a modality.

    Raises:
        UsageError: an option is out of range.
    """
    check_range("num_mels", num_mels, 1)
    check_range("window_ms", window_ms, 1.0)
    check_range("hop_ms", hop_ms, 1.0)
    check_range("max_seconds", max_seconds, 0.01)
    return LogMel(
        rate=common_rate(modality, rate),
        num_mels=num_mels,
        level=level,
        window_ms=window_ms,
        hop_ms=hop_ms,
        max_seconds=max_seconds,
    )


def at_rate(sample: Waveform, rate: int, max_seconds: float) -> Tensor:
    """Return the first `max_seconds` of a waveform, resampled: float32 (L',), at least one sample."""
    kept = sample.values[: max(round(max_seconds * sample.rate), 1)]
    samples = torch.tensor(kept, dtype=torch.float32)
    return samples if sample.rate == rate else _resampler(sample.rate, rate)(samples)


@cache
def _resampler(rate: int, new_rate: int) -> Callable[[Tensor], Tensor]:
    import torchaudio.transforms

    return torchaudio.transforms.Resample(rate, new_rate)


@cache
def _mel_spectrogram(rate: int, window: int, hop: int, num_mels: int) -> Callable[[Tensor], Tensor]:
    import torchaudio.transforms

    # Zeros around the waveform, not its reflection, which a waveform shorter than half a window does not have.
    return torchaudio.transforms.MelSpectrogram(
        sample_rate=rate,
        n_fft=1 << (window - 1).bit_length(),
        win_length=window,
        hop_length=hop,
        n_mels=num_mels,
        pad_mode="constant",
    )
