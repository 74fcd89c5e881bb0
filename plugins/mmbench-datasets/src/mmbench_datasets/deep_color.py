"""Color images of 16 bits a channel, of which Pillow decodes the upper byte alone, read whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Pillow's names of the raw data, and those by which it reads the lower byte of each number instead of the upper one.
_LOWER = {
    "RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGBA;16B": "RGBA;16L", "RGBA;16L": "RGBA;16B",
}  # fmt: skip
#: Grey and alpha of 16 bits each take four bytes, as a color with alpha of 8 bits does.
_GREY_WITH_ALPHA = "LA;16B"


def is_deep_color(image: Any) -> bool:
    """Whether a Pillow image that is opened and not loaded has 16 bits in each of several channels."""
    rawmode = _rawmode(image)
    return rawmode in _LOWER or rawmode == _GREY_WITH_ALPHA


def read_deep_color(open_image: Callable[[], Any]) -> NDArray[np.uint16]:
    """Return an image for which `is_deep_color` holds.

    Args:
        open_image: Opens it anew.

    Returns:
        uint16 (H, W, C): grey and alpha, a color, or a color and alpha.
    """
    with open_image() as image:
        rawmode = _rawmode(image)
        if rawmode == _GREY_WITH_ALPHA:
            _set_rawmode(image, "RGBA")
            pairs = np.asarray(image).astype(np.uint16)
            return pairs[..., ::2] * 256 + pairs[..., 1::2]
        upper = np.asarray(image).astype(np.uint16)
    with open_image() as image:
        _set_rawmode(image, _LOWER[rawmode])
        return upper * 256 + np.asarray(image)


def _rawmode(image: Any) -> str:
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    args = tiles[0][3]
    rawmode = args[0] if isinstance(args, tuple) and args else args
    if not isinstance(rawmode, str):
        return ""
    return rawmode.replace("16N", "16L" if np.little_endian else "16B")


def _set_rawmode(image: Any, rawmode: str) -> None:
    tiles = []
    for codec, extents, offset, args in image.tile:
        changed = (rawmode, *args[1:]) if isinstance(args, tuple) else rawmode
        tiles.append((codec, extents, offset, changed))
    image.tile = [type(image.tile[0])(*tile) for tile in tiles]
