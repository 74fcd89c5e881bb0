"""Files decoded to canonical inputs, each claim of a header checked before memory is spent on it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmbench.data import Waveform
from mmbench.errors import DataError
from mmbench.spec import Kind

_MOST_PIXELS = 64_000_000
_BLOCK_FRAMES = 1 << 16
_MOST_CHUNKS = 1000
_LENGTH_UNKNOWN = 0xFFFFFFFF  # what a program writes into a WAV header when it streams
_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_LEAVE_OUT = "or leave it out (in a manifest, leave the cell empty)"
_AUDIO_ADVICE = f"replace it by a sound WAV, FLAC, Ogg or Opus file, {_LEAVE_OUT}"
_GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")


@dataclass(frozen=True)
class Embedded:
    """A media file within another file.

    Attributes:
        name: For messages.
        content: Its bytes.
    """

    name: str
    content: bytes


MediaFile: TypeAlias = Path | Embedded


def _opened(file: MediaFile) -> Any:
    return io.BytesIO(file.content) if isinstance(file, Embedded) else file


def is_grey(path: MediaFile) -> bool:
    """Whether an image's header says that it has no colours; False where the header cannot be read."""
    from PIL import Image

    try:
        with Image.open(_opened(path), formats=_IMAGE_FORMATS) as opened:
            return opened.mode in (*_GREY_MODES, "LA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def check_header(path: MediaFile, kind: Kind, where: str) -> None:
    """Check what can be known of an image or a sound without decoding it.

    Raises:
        DataError: it is no image, or no sound, of a format that can be read.
    """
    if kind == "image":
        from PIL import Image

        try:
            with Image.open(_opened(path), formats=_IMAGE_FORMATS) as opened:
                opened.verify()
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise _unreadable_image(path, where, error) from None
    elif kind == "audio":
        import soundfile

        _check_wav(path, where)
        try:
            soundfile.info(_opened(path))
        except (soundfile.SoundFileError, OSError, ValueError) as error:
            raise _unreadable_audio(path, where, error) from None


def read_image(path: MediaFile, where: str, *, channels: int) -> NDArray[np.uint8]:
    """Decode an image upright as its EXIF says, transparent parts on white; the first frame of an animation.

    Returns:
        uint8 (channels, H, W), channels 1 or 3; 16-bit grey keeps its upper byte.

    Raises:
        DataError: it is not a readable PNG, JPEG, WebP, BMP or GIF, or has more than 64 million pixels.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(_opened(path), formats=_IMAGE_FORMATS) as opened:
            width, height = opened.size
            if width * height > _MOST_PIXELS:
                raise DataError(
                    f"{where}: {path.name} claims {width} x {height} pixels, more than {_MOST_PIXELS:,}; scale it down"
                )
            upright: Image.Image = ImageOps.exif_transpose(opened)
            if upright.mode.startswith("I"):
                deep = np.asarray(upright).astype(np.int64)
                upright = Image.fromarray(np.clip(deep >> 8, 0, 255).astype(np.uint8))
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                white = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(white, upright)
            pixels = np.asarray(upright.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise _unreadable_image(path, where, error) from None
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def read_audio(path: MediaFile, where: str, *, max_seconds: float) -> Waveform:
    """Decode audio to mono, the mean of its channels, at the file's own rate.

    Raises:
        DataError: it is not readable WAV, FLAC, Ogg, Opus or MP3; it is empty, cut short, or longer than `max_seconds`.
    """
    import soundfile

    _check_wav(path, where)
    try:
        with soundfile.SoundFile(_opened(path)) as opened:
            claimed, rate, container = opened.frames, int(opened.samplerate), opened.format
            if claimed > max_seconds * rate:
                raise DataError(
                    f"{where}: {path.name} claims {claimed / rate:.1f} s, more than max_seconds={max_seconds:g}; "
                    "cut it, or allow it by [max_seconds=…]"
                )
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
                    raise DataError(f"{where}: {path.name} is longer than max_seconds={max_seconds:g}; cut it")
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise _unreadable_audio(path, where, error) from None
    if not total:
        raise DataError(f"{where}: {path.name} holds no sound; {_AUDIO_ADVICE}")
    if total < claimed and container != "MP3":  # the length of an MP3 is an estimate
        raise DataError(f"{where}: {path.name} is cut short: {total} of {claimed} samples are there; {_AUDIO_ADVICE}")
    return Waveform(values=np.concatenate(blocks), rate=rate)


def _check_wav(path: MediaFile, where: str) -> None:
    """Check that a WAV file holds as much sound as its header claims: libsndfile would shorten it in silence.

    Raises:
        DataError: it holds less.
    """
    try:
        with io.BytesIO(path.content) if isinstance(path, Embedded) else path.open("rb") as stream:
            size = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            if stream.read(12)[::8] != b"RW":  # RIFF....WAVE
                return
            for _ in range(_MOST_CHUNKS):
                header = stream.read(8)
                claimed = int.from_bytes(header[4:], "little")
                held = size - stream.tell()
                if header[:4] == b"data" and claimed != _LENGTH_UNKNOWN and claimed > held:
                    raise DataError(
                        f"{where}: {path.name} is cut short: its header claims {claimed:,} bytes of sound, and "
                        f"{held:,} are there; {_AUDIO_ADVICE}"
                    )
                if len(header) < 8 or header[:4] == b"data":
                    return
                stream.seek(claimed + claimed % 2, io.SEEK_CUR)
    except OSError as error:
        raise _unreadable_audio(path, where, error) from None


def _unreadable_image(path: MediaFile, where: str, error: Exception) -> DataError:
    return DataError(
        f"{where}: {path.name} cannot be read as an image ({_first_line(error)}); "
        f"replace it by a sound PNG, JPEG, WebP, BMP or GIF, {_LEAVE_OUT}"
    )


def _unreadable_audio(path: MediaFile, where: str, error: Exception) -> DataError:
    return DataError(f"{where}: {path.name} cannot be read as audio ({_first_line(error)}); {_AUDIO_ADVICE}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
