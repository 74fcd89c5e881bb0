"""From videos of any length and size to the short square clips that the encoders read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mmbench import Modality
from mmbench.blocks import Standardiser, check_range
from mmbench.features import without_padding

# ITU-R BT.601, as every common image library converts colour to grey.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class ClipPixels:
    """Keep evenly spaced frames, resize them to a square, convert to the wanted number of channels.

    Attributes:
        side: Height and width of the result, in pixels; resized by antialiased bilinear interpolation.
        channels: 1 (grey) or 3 (RGB) of the result.
        num_frames: At most so many frames; a shorter video keeps all of its own.
    """

    version: ClassVar[str] = "1"

    side: int
    channels: int
    num_frames: int

    def __call__(self, video: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Shapes: uint8 (T, 1 or 3, H, W) -> uint8 (min(T, num_frames), channels, side, side)."""
        clip = _with_channels(evenly_spaced(video, self.num_frames), self.channels)
        if clip.shape[2:] == (self.side, self.side):
            return np.ascontiguousarray(clip)
        pixels = torch.tensor(np.ascontiguousarray(clip), dtype=torch.float32)
        size = (self.side, self.side)
        resized = F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
        return resized.round().clamp(0, 255).to(torch.uint8).numpy()


def evenly_spaced(video: NDArray[np.uint8], num_frames: int) -> NDArray[np.uint8]:
    """Return the middle frame of each of `num_frames` equal parts; all frames where there are no more than that.

    >>> evenly_spaced(np.arange(10, dtype=np.uint8), 3).tolist()
    [1, 5, 8]
    """
    if len(video) <= num_frames:
        return video
    return video[(2 * np.arange(num_frames) + 1) * len(video) // (2 * num_frames)]


def square_side(modality: Modality, max_side: int) -> int:
    """Return the side of the square for a modality: the longer side of its median video, but at most `max_side`.

    Raises:
        UsageError: `max_side` is less than 1.
    """
    check_range("max_side", max_side, 1)
    return int(min(max_side, max(modality.facts["size"])))


class ClipScaler(nn.Module):
    """Bytes to floats, standardised per channel by the real frames of the training videos; padded frames become 0.

    Shapes: uint8 (B, T, C, H, W), mask (B, T) or None -> float32 (B, T, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.standardise = Standardiser(channels, axis=2)
        self.standardise.mean.fill_(127.5)
        self.standardise.std.fill_(127.5)

    def fit(self, values: Any, mask: Any = None) -> None:
        """Take mean and deviation of each channel over all real frames of (N, T, C, H, W)."""
        self.standardise.fit(values, mask)

    def forward(self, pixels: Tensor, mask: Tensor | None) -> Tensor:
        return without_padding(self.standardise(pixels.float()), mask)


def group_norm(channels: int, side: int) -> nn.Module:
    """Normalise groups of channels: as many equal groups of two or more as there can be, at most 8.

    A group of one channel would have a single value in a map of one pixel, which has no deviation; so the one channel
    of such a map (`side` 1) is left as it is.
    """
    if channels * side == 1:
        return nn.Identity()
    return nn.GroupNorm(next((groups for groups in (8, 4, 2) if channels % (2 * groups) == 0), 1), channels)


def _with_channels(clip: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Convert between grey and RGB: uint8 (T, 1 or 3, H, W) -> uint8 (T, channels, H, W)."""
    if clip.shape[1] == channels:
        return clip
    if channels == 3:
        return np.repeat(clip, 3, axis=1)
    grey = np.tensordot(clip.astype(np.float32), _LUMA, axes=(1, 0))  # (T, H, W)
    return np.rint(grey).astype(np.uint8)[:, np.newaxis]
