"""Files decoded to canonical inputs, each claim of a header checked before memory is spent on it."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmbench.data import Waveform
from mmbench.errors import DataError
from mmbench.input_statistics import InputSummary
from mmbench.spec import Kind
from mmbench_datasets.deep_color import is_deep_color, read_deep_color
from mmbench_datasets.mp3 import count_frames, read_claim, with_length
from mmbench_datasets.sniff import HEAD_BYTES, Format, read_format, sniff

_MOST_PIXELS = 64_000_000
_BLOCK_FRAMES = 1 << 16
_MOST_CHUNKS = 1000
_TAIL_BYTES = 1 << 16
_MOST_STREAMED_BYTES = 1 << 30
_OPENING = re.compile(r"^Error opening .*?: ")
_OBJECT = re.compile(r"<[\w.]+ object at 0x[0-9a-fA-F]+>")
_LENGTH_UNKNOWN = 0xFFFFFFFF  # what a program writes into a WAV header when it streams
_SIGNED_UNKNOWN = range(0x7FFF0000, 0x80000000)  # sox writes a little less than 2 GiB
_LARGEST_RATE = 10_000_000
_STREAMED_SIZES = (0, 36, _LENGTH_UNKNOWN)  # of the whole file, as such programs write it
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_LEAVE_OUT = "or leave it out (in a manifest, leave the cell empty)"
_AUDIO_ADVICE = f"replace it by a sound WAV, FLAC, Ogg or Opus file, {_LEAVE_OUT}"
_GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")
#: An MP3 may lack one frame of what its header counts.
_MP3_TOLERANCE = 1152
#: How many values of each deep image decide the range of a column, and which of their percentiles.
_RANGE_VALUES, _RANGE_PERCENTILES = 4096, (0.1, 99.9)


@dataclass(frozen=True)
class Embedded:
    """A media file within another file.

    Attributes:
        name: For messages; "" where the place says it all.
        content: Its bytes.
    """

    name: str
    content: bytes


@dataclass(frozen=True)
class PixelRange:
    """The values of 16-bit and float images that become black and white.

    Attributes:
        low: Becomes 0, as everything below it.
        high: Becomes 255, as everything above it.
    """

    low: float
    high: float


#: What Pillow raises at damaged files; warnings among them where Python makes errors of them.
_DECODER_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, ArithmeticError, LookupError, TypeError, AttributeError),
    *(RuntimeError, struct.error, Warning),
)
#: All that 16 bits can hold: the upper byte is kept.
FULL_RANGE = PixelRange(0, 65_535)


MediaFile: TypeAlias = Path | Embedded


class _Bytes(io.BytesIO):
    """Content whose beginning is as far back as one can seek: libsndfile asks for more in damaged files."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return super().seek(0)


def _opened(file: MediaFile) -> Any:
    return _Bytes(file.content) if isinstance(file, Embedded) else file


def format_of(file: MediaFile) -> Format:
    """Return the format that a file's first bytes show."""
    return sniff(file.content[:HEAD_BYTES]) if isinstance(file, Embedded) else read_format(file)


def is_grey(path: MediaFile) -> bool:
    """Whether an image's header says that it has no colours; False where the header cannot be read."""
    return _mode(path) in (*_GREY_MODES, "LA")


def is_deep(path: MediaFile) -> bool:
    """Whether an image's header says that its values have more than 8 bits."""
    from PIL import Image

    try:
        with Image.open(_opened(path), formats=_IMAGE_FORMATS) as opened:
            return opened.mode[:1] in ("I", "F") or is_deep_color(opened)
    except (*_DECODER_ERRORS, Image.DecompressionBombError):
        return False


def check_header(path: MediaFile, kind: Kind, where: str, *, max_seconds: float = float("inf")) -> None:
    """Check what can be known of an image or a sound without decoding it; a file that seems cut short is decoded.

    Raises:
        DataError: it is no image, or no sound, of a format that can be read; it is empty, cut short, or claims more
            than `max_seconds`.
    """
    if kind == "image":
        from PIL import Image

        try:
            with Image.open(_opened(path), formats=_IMAGE_FORMATS) as opened:
                _check_pixels(path, where, *opened.size)
                suspect = _may_be_cut(path, str(opened.format))
                opened.verify()
        except (*_DECODER_ERRORS, Image.DecompressionBombError) as error:
            raise _unreadable_image(path, where, error) from None
        if suspect:
            read_image(path, where, channels=3)
    elif kind == "audio":
        import soundfile

        _check_wav(path, where)
        try:
            with soundfile.SoundFile(_sound_stream(path)) as opened:
                container, frames = opened.format, opened.frames
                _check_claim(path, where, frames, int(opened.samplerate), max_seconds)
                holds_floats = opened.subtype in ("FLOAT", "DOUBLE")
                if container == "FLAC" and frames > 0 and not _has_sample(opened, frames - 1):
                    raise DataError(f"{located(where, path)} is cut short; {_AUDIO_ADVICE}")
        except (soundfile.SoundFileError, OSError, ValueError) as error:
            raise _unreadable_audio(path, where, error) from None
        if not frames:
            raise DataError(f"{located(where, path)} holds no sound; {_AUDIO_ADVICE}")
        if container in ("MP3", "MPEG"):
            _check_mp3_bytes(path, where)
        if holds_floats or (container == "OGG" and not _ends_ogg(path)):
            read_audio(path, where, max_seconds=float("inf"))


def _has_sample(opened: Any, number: int) -> bool:
    """Whether a sound has a sample of that number: a file that is cut short has no such place."""
    import soundfile

    try:
        opened.seek(number)
        return bool(len(opened.read(1)))
    except soundfile.SoundFileError:
        return False


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
        with Image.open(_opened(path), formats=_IMAGE_FORMATS) as opened:
            width, height = opened.size
            _check_pixels(path, where, width, height)
            if opened.getexif().get(0x0112, 1) in (5, 6, 7, 8):
                width, height = height, width
            grey = opened.mode in (*_GREY_MODES, "LA")
    except (*_DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise _unreadable_image(path, where, error) from None
    facts = {"channels": channels or (1 if grey else 3), "size": [height, width]}
    return InputSummary(facts=facts, amounts={"height": float(height), "width": float(width)}, digest=digest)


def audio_summary(path: MediaFile, where: str, *, digest: int = 0) -> InputSummary:
    """Return what a sound's header says: its rate, and how many seconds it claims.

    Raises:
        DataError: it is no readable sound.
    """
    import soundfile

    try:
        with soundfile.SoundFile(_sound_stream(path)) as opened:
            rate, frames = int(opened.samplerate), opened.frames
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise _unreadable_audio(path, where, error) from None
    _check_rate(path, where, rate)
    amounts = {"rate": float(rate), "seconds": frames / rate}
    return InputSummary(facts={"rate": rate}, amounts=amounts, digest=digest)


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
            with Image.open(_opened(file), formats=_IMAGE_FORMATS) as opened:
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
    values = read_deep_color(lambda: Image.open(_opened(file), formats=_IMAGE_FORMATS))
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
        with Image.open(_opened(path), formats=_IMAGE_FORMATS) as opened:
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


def read_audio(path: MediaFile, where: str, *, max_seconds: float) -> Waveform:
    """Decode audio to mono, the mean of its channels, at the file's own rate.

    Raises:
        DataError: it is not readable WAV, FLAC, Ogg, Opus or MP3; it is empty, cut short, or longer than `max_seconds`.
    """
    import soundfile

    _check_wav(path, where)
    try:
        with soundfile.SoundFile(_sound_stream(path)) as opened:
            claimed, rate, container = opened.frames, int(opened.samplerate), opened.format
            _check_claim(path, where, claimed, rate, max_seconds)
            blocks: list[NDArray[np.float32]] = []
            total = 0
            while True:
                # Block by block: a header may claim anything, and soundfile would allocate for the claim.
                block = opened.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)
                if not len(block):
                    break
                blocks.append(block.mean(axis=1, dtype=np.float32))
                total += len(block)
                if total > max_seconds * rate:
                    raise DataError(f"{located(where, path)} is longer than max_seconds={max_seconds:g}; cut it")
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise _unreadable_audio(path, where, error) from None
    if not total:
        raise DataError(f"{located(where, path)} holds no sound; {_AUDIO_ADVICE}")
    if container in ("MP3", "MPEG"):
        _check_mp3_bytes(path, where)
        # libsndfile estimates the length of an MP3; its own header counts it.
        with _stream(path) as stream:
            claim = read_claim(stream)
        tolerance = _MP3_TOLERANCE if claim else max(_MP3_TOLERANCE * 5, claimed // 100)
        claimed = (min(claimed, claim.num_samples) if claim else claimed) - tolerance
    if total < claimed:
        raise DataError(f"{located(where, path)} is cut short: {total} of {claimed} samples are there; {_AUDIO_ADVICE}")
    values = np.concatenate(blocks)
    if not np.isfinite(values).all():
        raise DataError(f"{located(where, path)} holds samples that are no finite numbers; {_AUDIO_ADVICE}")
    return Waveform(values=values, rate=rate)


def _stream(file: MediaFile) -> BinaryIO:
    return io.BytesIO(file.content) if isinstance(file, Embedded) else file.open("rb")


def _sound_stream(file: MediaFile) -> Any:
    """Return what soundfile opens.

    A WAV that a program streamed with a length of 0 gets its true length. So does an MP3 without a Xing header, whose
    length libsndfile would estimate by the bits of its first frame.
    """
    with _stream(file) as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        head = stream.read(HEAD_BYTES)
        if sniff(head).name == "MP3" and size <= _MOST_STREAMED_BYTES and read_claim(stream) is None:
            stream.seek(0)
            found = stream.read()
            frames = count_frames(found)
            return _Bytes(with_length(found, frames)) if frames else _opened(file)
        at = _unknown_length(stream)
        if not at or size > _MOST_STREAMED_BYTES:
            return _opened(file)
        stream.seek(0)
        content = bytearray(stream.read())
    held = min(len(content) - at - 4, _LENGTH_UNKNOWN - 1)
    content[at : at + 4] = held.to_bytes(4, "little")
    content[4:8] = min(len(content) - 8, _LENGTH_UNKNOWN - 1).to_bytes(4, "little")
    return _Bytes(bytes(content))


def _unknown_length(stream: BinaryIO) -> int:
    """Return where a WAV's data chunk says 0 bytes although more follow, as in a streamed file; else 0."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE" or int.from_bytes(head[4:8], "little") not in _STREAMED_SIZES:
        return 0
    for _ in range(_MOST_CHUNKS):
        header = stream.read(8)
        if len(header) < 8:
            return 0
        claimed = int.from_bytes(header[4:], "little")
        if header[:4] == b"data":
            return stream.tell() - 4 if claimed == 0 and stream.tell() < size else 0
        stream.seek(claimed + claimed % 2, io.SEEK_CUR)
    return 0


def _check_wav(path: MediaFile, where: str) -> None:
    """Check that a WAV file holds as much sound as its header claims: libsndfile would shorten it in silence.

    Raises:
        DataError: it holds less.
    """
    try:
        with _stream(path) as stream:
            size = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            if stream.read(12)[::8] != b"RW":  # RIFF....WAVE
                return
            for _ in range(_MOST_CHUNKS):
                header = stream.read(8)
                claimed = int.from_bytes(header[4:], "little")
                held = size - stream.tell()
                if header[:4] == b"data" and claimed > held and not _is_unknown_length(claimed):
                    raise DataError(
                        f"{located(where, path)} is cut short: its header claims {claimed:,} bytes of sound, and "
                        f"{held:,} are there; {_AUDIO_ADVICE}"
                    )
                if len(header) < 8 or header[:4] == b"data":
                    return
                stream.seek(claimed + claimed % 2, io.SEEK_CUR)
    except OSError as error:
        raise _unreadable_audio(path, where, error) from None


def _is_unknown_length(claimed: int) -> bool:
    """Whether a WAV header claims what programs write that do not know how much follows."""
    return claimed == _LENGTH_UNKNOWN or claimed in _SIGNED_UNKNOWN


def _check_mp3_bytes(path: MediaFile, where: str) -> None:
    """Check that an MP3 holds as many bytes as its Xing or VBRI header counts.

    Raises:
        DataError: it holds less.
    """
    with _stream(path) as stream:
        claim = read_claim(stream)
        held = stream.seek(0, io.SEEK_END)
    if claim and claim.num_bytes:
        held -= claim.begin
        lost_s = (1 - held / claim.num_bytes) * claim.num_samples / claim.rate
        if lost_s * claim.rate > _MP3_TOLERANCE:
            raise DataError(
                f"{located(where, path)} is cut short: its header claims {claim.num_bytes:,} bytes of sound, and "
                f"{held:,} are there; {_AUDIO_ADVICE}"
            )


def _check_claim(path: MediaFile, where: str, num_samples: int, rate: int, max_seconds: float) -> None:
    _check_rate(path, where, rate)
    if num_samples > max_seconds * rate:
        raise DataError(
            f"{located(where, path)} claims {num_samples / rate:.1f} s, more than max_seconds={max_seconds:g}; "
            "cut it, or allow it by [max_seconds=…]"
        )


def _check_rate(path: MediaFile, where: str, rate: int) -> None:
    if not 0 < rate <= _LARGEST_RATE:
        raise DataError(f"{located(where, path)} claims {rate:,} samples a second, which no sound has; {_AUDIO_ADVICE}")


def _tail(file: MediaFile, num_bytes: int) -> bytes:
    with _stream(file) as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, size - num_bytes))
        return stream.read()


def _ends_ogg(file: MediaFile) -> bool:
    """Whether the last page of an Ogg file says that it is the last."""
    tail = _tail(file, _TAIL_BYTES)
    page = tail.rfind(b"OggS")
    return 0 <= page < len(tail) - 5 and bool(tail[page + 5] & 4)


def _may_be_cut(file: MediaFile, image_format: str) -> bool:
    """Whether an image file lacks the mark of its end; PNG's own checksums tell, and the rest must be decoded."""
    if image_format in ("JPEG", "MPO"):
        return not _tail(file, 64).rstrip(b"\0\r\n").endswith(b"\xff\xd9")
    if image_format == "GIF":
        return not _tail(file, 64).rstrip(b"\0").endswith(b";")
    if image_format == "WEBP":
        with _stream(file) as stream:
            claimed = int.from_bytes(stream.read(8)[4:], "little")
            return stream.seek(0, io.SEEK_END) < claimed + 8
    return image_format in ("BMP", "TIFF")


def _mode(path: MediaFile) -> str:
    """Return Pillow's mode of an image by its header, "" where that cannot be read."""
    from PIL import Image

    try:
        with Image.open(_opened(path), formats=_IMAGE_FORMATS) as opened:
            return opened.mode
    except (*_DECODER_ERRORS, Image.DecompressionBombError):
        return ""


def _check_pixels(path: MediaFile, where: str, width: int, height: int) -> None:
    if width * height > _MOST_PIXELS:
        raise DataError(
            f"{located(where, path)} claims {width} x {height} pixels, more than {_MOST_PIXELS:,}; scale it down"
        )


def located(where: str, path: MediaFile) -> str:
    """Return where a file is named and its name, for messages."""
    return where if where.endswith(path.name) else f"{where}: {path.name}"


def _unreadable_image(path: MediaFile, where: str, error: Exception) -> DataError:
    return DataError(
        f"{located(where, path)} cannot be read as an image ({_reason(path, 'image', error)}); "
        f"replace it by a sound PNG, JPEG, WebP, BMP, GIF or TIFF, {_LEAVE_OUT}"
    )


def _unreadable_audio(path: MediaFile, where: str, error: Exception) -> DataError:
    return DataError(
        f"{located(where, path)} cannot be read as audio ({_reason(path, 'audio', error)}); {_AUDIO_ADVICE}"
    )


def _reason(path: MediaFile, kind: Kind, error: Exception) -> str:
    """Return why a file cannot be read: its format, where that is another kind's, else the first line of the error."""
    found = format_of(path)
    if found.name and found.kind != kind:
        return f"it is {found.name}"
    line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if line.startswith("cannot identify image file"):
        return "its format is unknown"
    line = _OPENING.sub("", line)
    # Addresses differ from process to process, and a reason that differs is listed once per cell.
    return _OBJECT.sub("the content", line)
