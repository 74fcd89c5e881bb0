"""Images decoded to canonical inputs, each claim of a header checked before memory is spent on it."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import DataError
from mmbench.input_statistics import InputSummary
from mmbench_datasets.deep_color import is_deep_color, read_deep_color
from mmbench_datasets.media import LEAVE_OUT, MediaFile, located, open_stream, path_or_stream, read_tail, reason_of

_MOST_PIXELS = 64_000_000
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")
#: How many values of each deep image decide the range of a column, and which of their percentiles.
_RANGE_VALUES, _RANGE_PERCENTILES = 4096, (0.1, 99.9)
#: What Pillow raises at damaged files; warnings among them where Python makes errors of them.
_DECODER_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError, TypeError, AttributeError),
    *(RuntimeError, struct.error, Warning),
)


@dataclass(frozen=True)
class PixelRange:
    """The values of 16-bit and float images that become black and white.

    Attributes:
        low: Becomes 0, as everything below it.
        high: Becomes 255, as everything above it.
    """

    low: float
    high: float


#: All that 16 bits can hold: the upper byte is kept.
FULL_RANGE = PixelRange(0, 65_535)


def is_grey(path: MediaFile) -> bool:
    """Whether an image's header says that it has no colours; False where the header cannot be read."""
    return _mode(path) in (*_GREY_MODES, "LA")


def is_deep(path: MediaFile) -> bool:
    """Whether an image's header says that its values have more than 8 bits."""
    from PIL import Image

    try:
        with Image.open(path_or_stream(path), formats=_IMAGE_FORMATS) as opened:
            return opened.mode[:1] in ("I", "F") or is_deep_color(opened)
    except (*_DECODER_ERRORS, Image.DecompressionBombError):
        return False


def check_image(path: MediaFile, where: str) -> None:
    """Check what can be known of an image without decoding it; one that seems cut short is decoded.

    Raises:
        DataError: it is no image of a format that can be read, cut short, or has too many pixels.
    """
    from PIL import Image

    try:
        with Image.open(path_or_stream(path), formats=_IMAGE_FORMATS) as opened:
            _check_pixels(path, where, *opened.size)
            suspect = _may_be_cut(path, str(opened.format))
            opened.verify()
    except (*_DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise _unreadable_image(path, where, error) from None
    if suspect:
        read_image(path, where, channels=3)


def image_summary(path: MediaFile, where: str, *, channels: int = 0, digest: int = 0) -> InputSummary:
    """Return what an image's header says: channels, and the size once it is upright.

    Args:
        path: The file.
        where: For messages.
        channels: Of the decoded image; 0 takes them from the header.
        digest: Of its content, where known.

    Raises:
        DataError: it is no readable image, or has too many pixels.
    """
    from PIL import Image

    try:
        with Image.open(path_or_stream(path), formats=_IMAGE_FORMATS) as opened:
            width, height = opened.size
            _check_pixels(path, where, width, height)
            if opened.getexif().get(0x0112, 1) in (5, 6, 7, 8):
                width, height = height, width
            grey = opened.mode in (*_GREY_MODES, "LA")
    except (*_DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise _unreadable_image(path, where, error) from None
    facts = {"channels": channels or (1 if grey else 3), "size": [height, width]}
    return InputSummary(facts=facts, amounts={"height": float(height), "width": float(width)}, digest=digest)


def range_of_images(files: Iterable[MediaFile]) -> PixelRange | None:
    """Return the range of all 16-bit and float images among some files, or None where there is none.

    The range goes from the 0.1th to the 99.9th percentile of evenly spaced values, so that a broken pixel does not
    make the rest black. Files that cannot be read are left out: decoding them says why.
    """
    from PIL import Image

    values = []
    for file in files:
        if not is_deep(file):
            continue
        try:
            with Image.open(path_or_stream(file), formats=_IMAGE_FORMATS) as opened:
                if opened.width * opened.height > _MOST_PIXELS:
                    continue
                pixels = _deep_values(file, opened)[0].ravel()
        except (*_DECODER_ERRORS, Image.DecompressionBombError):
            continue
        chosen = pixels[:: max(1, len(pixels) // _RANGE_VALUES)].astype(np.float64)
        values.append(chosen[np.isfinite(chosen)])
    pooled = np.concatenate(values) if values else np.zeros(0)
    if not len(pooled):
        return None
    low, high = (float(value) for value in np.percentile(pooled, _RANGE_PERCENTILES))
    return PixelRange(low, high) if high > low else PixelRange(low, low + 1)


def _deep_values(file: MediaFile, opened: Any) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Return the values of a 16-bit or float image (H, W) or (H, W, 3), and its alpha as 8 bits, if it has one."""
    from PIL import Image

    if not is_deep_color(opened):
        return np.asarray(opened), None
    values = read_deep_color(lambda: Image.open(path_or_stream(file), formats=_IMAGE_FORMATS))
    if values.shape[2] == 3:
        return values, None
    alpha = (values[..., -1] >> 8).astype(np.uint8)
    return (values[..., 0] if values.shape[2] == 2 else values[..., :3]), alpha


def _upright_eight_bits(file: MediaFile, opened: Any, pixel_range: PixelRange | None) -> Any:
    """Return a color image of 16 bits a channel as one of 8 bits, turned as its EXIF says."""
    from PIL import Image, ImageOps

    values, alpha = _deep_values(file, opened)
    orientation = opened.getexif().get(0x0112, 1)  # which loads the image, so that it no longer shows its depth
    shown = Image.fromarray(_eight_bits(values, pixel_range, opened.info.get("transparency")))
    if alpha is not None:
        shown.putalpha(Image.fromarray(alpha))
    shown.getexif()[0x0112] = orientation
    return ImageOps.exif_transpose(shown)


def read_image(
    path: MediaFile, where: str, *, channels: int, pixel_range: PixelRange | None = None
) -> NDArray[np.uint8]:
    """Decode an image upright as its EXIF says, transparent parts on white; the first frame of an animation.

    Args:
        path: The file.
        where: For messages.
        channels: Of the result, 1 or 3.
        pixel_range: Of 16-bit and float images; by default all that 16 bits can hold, or that float images hold.

    Returns:
        uint8 (channels, H, W).

    Raises:
        DataError: it is not a readable PNG, JPEG, WebP, BMP, GIF or TIFF, or has more than 64 million pixels.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path_or_stream(path), formats=_IMAGE_FORMATS) as opened:
            _check_pixels(path, where, *opened.size)
            transparent = opened.info.get("transparency")
            upright: Image.Image = (
                _upright_eight_bits(path, opened, pixel_range)
                if is_deep_color(opened)
                else ImageOps.exif_transpose(opened)
            )
            if upright.mode[:1] in ("I", "F"):
                upright = Image.fromarray(_eight_bits(np.asarray(upright), pixel_range, transparent))
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright)
            pixels = np.asarray(upright.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    except DataError:
        raise
    except (*_DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise _unreadable_image(path, where, error) from None
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def _eight_bits(deep: NDArray[Any], pixel_range: PixelRange | None, transparent: Any) -> NDArray[np.uint8]:
    """Return 16-bit, 32-bit or float values as uint8: the range becomes 0 to 255; the transparent one becomes white."""
    if pixel_range is None and deep.dtype.kind == "f":
        finite = deep[np.isfinite(deep)]
        pixel_range = PixelRange(float(finite.min()), float(finite.max())) if finite.size else PixelRange(0, 1)
    if pixel_range in (None, FULL_RANGE):
        grey = np.clip(deep.astype(np.int64) >> 8, 0, 255).astype(np.uint8)
    else:
        assert pixel_range is not None
        span = pixel_range.high - pixel_range.low or 1.0
        known = np.where(np.isnan(deep), pixel_range.low, deep) if deep.dtype.kind == "f" else deep
        clipped = np.clip(known.astype(np.float64), pixel_range.low, pixel_range.high)
        grey = np.rint((clipped - pixel_range.low) * (255 / span)).astype(np.uint8)
    if isinstance(transparent, int):
        grey = np.where(deep == transparent, np.uint8(255), grey)
    elif isinstance(transparent, tuple) and deep.ndim == 3:
        grey = np.where((deep == np.array(transparent)).all(axis=2, keepdims=True), np.uint8(255), grey)
    return grey


def _may_be_cut(file: MediaFile, image_format: str) -> bool:
    """Whether an image file lacks the mark of its end; PNG's own checksums tell, and the rest must be decoded."""
    if image_format in ("JPEG", "MPO"):
        return not read_tail(file, 64).rstrip(b"\0\r\n").endswith(b"\xff\xd9")
    if image_format == "GIF":
        return not read_tail(file, 64).rstrip(b"\0").endswith(b";")
    if image_format == "WEBP":
        with open_stream(file) as stream:
            claimed = int.from_bytes(stream.read(8)[4:], "little")
            return stream.seek(0, io.SEEK_END) < claimed + 8
    return image_format in ("BMP", "TIFF")


def _mode(path: MediaFile) -> str:
    """Return Pillow's mode of an image by its header, "" where that cannot be read."""
    from PIL import Image

    try:
        with Image.open(path_or_stream(path), formats=_IMAGE_FORMATS) as opened:
            return opened.mode
    except (*_DECODER_ERRORS, Image.DecompressionBombError):
        return ""


def _check_pixels(path: MediaFile, where: str, width: int, height: int) -> None:
    if width * height > _MOST_PIXELS:
        raise DataError(
            f"{located(where, path)} claims {width} x {height} pixels, more than {_MOST_PIXELS:,}; scale it down"
        )


def _unreadable_image(path: MediaFile, where: str, error: Exception) -> DataError:
    return DataError(
        f"{located(where, path)} cannot be read as an image ({reason_of(path, 'image', error)}); "
        f"replace it by a sound PNG, JPEG, WebP, BMP, GIF or TIFF, {LEAVE_OUT}"
    )
