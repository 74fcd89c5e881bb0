"""Sounds decoded to canonical inputs, each claim of a header checked before memory is spent on it."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mmbench.data import Waveform
from mmbench.errors import DataError
from mmbench.input_statistics import InputSummary
from mmbench_datasets.media import (
    LEAVE_OUT,
    MediaFile,
    SeekableBytes,
    located,
    open_stream,
    path_or_stream,
    read_tail,
    reason_of,
)
from mmbench_datasets.mp3 import Mp3Claim, count_frames, read_claim, with_length
from mmbench_datasets.sniff import HEAD_BYTES, sniff

_BLOCK_FRAMES = 1 << 16
_MOST_CHUNKS = 1000
_TAIL_BYTES = 1 << 16
_MOST_STREAMED_BYTES = 1 << 30
_LENGTH_UNKNOWN = 0xFFFFFFFF  # what a program writes into a WAV header when it streams
_SIGNED_UNKNOWN = range(0x7FFF0000, 0x80000000)  # sox writes a little less than 2 GiB
_LARGEST_RATE = 10_000_000
_STREAMED_SIZES = (0, 36, _LENGTH_UNKNOWN)  # of the whole file, as such programs write it
_AUDIO_ADVICE = f"replace it by a sound WAV, FLAC, Ogg or Opus file, {LEAVE_OUT}"
#: An MP3 may lack one frame of what its header counts.
_MP3_TOLERANCE = 1152


def check_audio(path: MediaFile, where: str, *, max_seconds: float = float("inf")) -> None:
    """Check what can be known of a sound without decoding it; one that may be damaged is decoded.

    Raises:
        DataError: it is no sound of a format that can be read; it is empty, cut short, or claims more than
            `max_seconds`.
    """
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
        _checked_mp3_claim(path, where)
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
        # libsndfile estimates the length of an MP3; its own header counts it.
        claim = _checked_mp3_claim(path, where)
        tolerance = _MP3_TOLERANCE if claim else max(_MP3_TOLERANCE * 5, claimed // 100)
        claimed = (min(claimed, claim.num_samples) if claim else claimed) - tolerance
    if total < claimed:
        raise DataError(f"{located(where, path)} is cut short: {total} of {claimed} samples are there; {_AUDIO_ADVICE}")
    values = np.concatenate(blocks)
    if not np.isfinite(values).all():
        raise DataError(f"{located(where, path)} holds samples that are no finite numbers; {_AUDIO_ADVICE}")
    return Waveform(values=values, rate=rate)


def _sound_stream(file: MediaFile) -> Any:
    """Return what soundfile opens.

    A WAV that a program streamed with a length of 0 gets its true length. So does an MP3 without a Xing header, whose
    length libsndfile would estimate by the bits of its first frame.
    """
    with open_stream(file) as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        head = stream.read(HEAD_BYTES)
        if sniff(head).name == "MP3" and size <= _MOST_STREAMED_BYTES and read_claim(stream) is None:
            stream.seek(0)
            found = stream.read()
            frames = count_frames(found)
            return SeekableBytes(with_length(found, frames)) if frames else path_or_stream(file)
        at = _unknown_length(stream)
        if not at or size > _MOST_STREAMED_BYTES:
            return path_or_stream(file)
        stream.seek(0)
        content = bytearray(stream.read())
    held = min(len(content) - at - 4, _LENGTH_UNKNOWN - 1)
    content[at : at + 4] = held.to_bytes(4, "little")
    content[4:8] = min(len(content) - 8, _LENGTH_UNKNOWN - 1).to_bytes(4, "little")
    return SeekableBytes(bytes(content))


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
        with open_stream(path) as stream:
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


def _checked_mp3_claim(path: MediaFile, where: str) -> Mp3Claim | None:
    """Return what an MP3 claims, and check that it holds as many bytes as its Xing or VBRI header counts.

    Raises:
        DataError: it holds less.
    """
    with open_stream(path) as stream:
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
    return claim


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


def _ends_ogg(file: MediaFile) -> bool:
    """Whether the last page of an Ogg file says that it is the last."""
    tail = read_tail(file, _TAIL_BYTES)
    page = tail.rfind(b"OggS")
    return 0 <= page < len(tail) - 5 and bool(tail[page + 5] & 4)


def _unreadable_audio(path: MediaFile, where: str, error: Exception) -> DataError:
    return DataError(
        f"{located(where, path)} cannot be read as audio ({reason_of(path, 'audio', error)}); {_AUDIO_ADVICE}"
    )
