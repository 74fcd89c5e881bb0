"""From images of any size to the fixed square of pixels that the encoders read."""

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

# ITU-R BT.601, as every common image library converts colour to grey.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class SquarePixels:
    """Resize to a square by antialiased bilinear interpolation and convert to the wanted number of channels.

    Attributes:
        side: Height and width of the result, in pixels.
        channels: 1 (grey) or 3 (RGB) of the result.
    """

    version: ClassVar[str] = "1"

    side: int
    channels: int

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Shapes: uint8 (1 or 3, H, W) -> uint8 (channels, side, side)."""
        image = with_channels(image, self.channels)
        if image.shape[1:] == (self.side, self.side):
            return np.ascontiguousarray(image)
        pixels = torch.tensor(image, dtype=torch.float32).unsqueeze(0)
        size = (self.side, self.side)
        resized = F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
        return resized[0].round().clamp(0, 255).to(torch.uint8).numpy()


def square_side(modality: Modality, max_side: int, *, multiple_of: int = 1) -> int:
    """Return the side of the square for a modality: that of its images, but at most `max_side`.

    Args:
        modality: With the median size of its images.
        max_side: Largest allowed side, in pixels.
        multiple_of: The side is rounded down to a multiple of this, and is at least this.

    Raises:
        UsageError: `max_side` is less than 1.
    """
    check_range("max_side", max_side, 1)
    side = min(max_side, max(modality.facts["size"]))
    return max(side - side % multiple_of, multiple_of)


class PixelScaler(nn.Module):
    """Bytes to floats, standardised per channel by the training images.

    Shapes: uint8 (B, C, H, W) -> float32 (B, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.standardise = Standardiser(channels, axis=1)
        self.standardise.mean.fill_(127.5)
        self.standardise.std.fill_(127.5)

    def fit(self, values: Any) -> None:
        """Take mean and deviation of each channel over the training images (N, C, H, W)."""
        self.standardise.fit(values)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.standardise(pixels.float())


def with_channels(image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Convert between grey and RGB: uint8 (1 or 3, H, W) -> uint8 (channels, H, W)."""
    if image.shape[0] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=0)
    grey = np.tensordot(_LUMA, image.astype(np.float32), axes=1)
    return np.rint(grey).astype(np.uint8)[np.newaxis]
