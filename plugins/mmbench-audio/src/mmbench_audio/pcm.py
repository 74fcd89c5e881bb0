"""Waveforms as 16-bit samples at the rate of a pretrained model, which makes its own features of them on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmbench import Waveform
from mmbench.features import without_padding
from mmbench_audio.waveform import at_rate

_FULL_SCALE = 32_768


@dataclass(frozen=True)
class Pcm:
    """The waveform resampled and cut to a greatest length, 16 bits a sample: exact where the source had 16 bits.

    A waveform that leaves [-1, 1] is scaled down as a whole until it does not, because cutting its peaks would distort.

    Attributes:
        rate: Samples per second of the result, in Hz.
        max_seconds: What comes later is cut off.
        min_samples: Shorter waveforms are followed by zeros: the fewest that a model can make a frame of.
    """

    version: ClassVar[str] = "1"

    rate: int
    max_seconds: float
    min_samples: int = 1

    def __call__(self, sample: Waveform) -> NDArray[np.int16]:
        """Shapes: waveform of L samples -> int16 (L',), at least `min_samples`."""
        samples = at_rate(sample, self.rate, self.max_seconds)
        samples = samples / samples.abs().max().clamp(min=1.0)
        short = self.min_samples - len(samples)
        if short > 0:
            samples = torch.nn.functional.pad(samples, (0, short))
        return (samples * _FULL_SCALE).round().clamp(-_FULL_SCALE, _FULL_SCALE - 1).to(torch.int16).numpy()


def to_float(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return samples in [-1, 1), zero at masked places: int16 (B, L) -> float32 (B, L)."""
    return without_padding(values.float() / _FULL_SCALE, mask)
