"""From images of any size to the pixels that a model of timm was trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mmbench_vision.pixels import with_channels


@dataclass(frozen=True)
class TimmPixels:
    """Resize and crop as timm does for evaluation; bytes, not yet normalised.

    Attributes:
        size: Height and width of the result, in pixels.
        channels: 1 (grey) or 3 (RGB) of the result.
        interpolation: "bicubic", "bilinear", …
        crop_pct: Part of the resized image's side that the crop keeps.
        crop_mode: "center" (the shorter side is fitted, the middle kept), "squash" or "border".
        fill: Grey level or RGB around an image that is fitted whole (`crop_mode` "border").
    """

    version: ClassVar[str] = "1"

    size: tuple[int, int]
    channels: int
    interpolation: str
    crop_pct: float
    crop_mode: str
    fill: tuple[float, ...]

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Shapes: uint8 (1 or 3, H, W) -> uint8 (channels, size)."""
        from PIL import Image

        image = with_channels(image, self.channels)
        grey = self.channels == 1
        picture = Image.fromarray(image[0] if grey else np.ascontiguousarray(image.transpose(1, 2, 0)))
        pixels: NDArray[np.uint8] = _steps(self)(picture).numpy()
        return pixels


@lru_cache(maxsize=32)
def _steps(transform: TimmPixels) -> Callable[[Any], Any]:
    import timm.data

    return timm.data.create_transform(
        input_size=(transform.channels, *transform.size),
        interpolation=transform.interpolation,
        crop_pct=transform.crop_pct,
        crop_mode=transform.crop_mode,
        mean=transform.fill,
        std=(1.0,) * len(transform.fill),
        normalize=False,
    )
