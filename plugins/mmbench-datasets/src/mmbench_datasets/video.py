"""Videos decoded to a few evenly spaced frames, each claim of a header checked before time or memory is spent on it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import DataError, Unavailable
from mmbench_datasets.media import Embedded, MediaFile

MAX_FRAMES = 64

_MOST_PIXELS = 64_000_000
_MOST_BYTES = 1 << 30
_MOST_FRAMES_PER_S = 240
#: Containers that hold their own pictures; a playlist, say, would have other files opened.
_CONTAINERS = "mov,matroska,avi,gif,flv,mpeg,mpegts,ogg"
#: A file that ends earlier than it says by more than this share of its length, and these seconds, is cut short.
_LOST_SHARE, _LOST_S = 0.02, 0.25
_ADVICE = "replace it by a sound MP4, WebM, AVI, MKV or GIF file, or leave it out (in a manifest, leave the cell empty)"


def check_video(path: MediaFile, where: str, *, max_seconds: float) -> None:
    """Check that a video is whole and claims no more than may be decoded; nothing is decoded.

    Without PyAV nothing can be told, and opening the dataset will say so.

    Raises:
        DataError: see `read_video`.
    """
    try:
        av = require_av()
    except Unavailable:
        return
    _count_packets(av, path, where, max_seconds)


def read_video(path: MediaFile, where: str, *, max_seconds: float, max_frames: int = MAX_FRAMES) -> NDArray[np.uint8]:
    """Decode evenly spaced frames of a video's first video stream, upright as its header says.

    The packets are counted first, which decodes nothing; then frames are decoded one after the other, and the middle
    one of each of `max_frames` equal parts is kept. A video of no more than `max_frames` keeps all.

    Returns:
        uint8 (T, 3, H, W), T at most `max_frames`.

    Raises:
        DataError: it is not readable, cut short, without frames, longer than `max_seconds`, above 240 frames a second,
            of more than 64 million pixels a frame, or its kept frames take more than 1 GiB.
        Unavailable: PyAV is not installed.
    """
    av = require_av()
    num_packets = _count_packets(av, path, where, max_seconds)
    wanted = set(((2 * np.arange(max_frames) + 1) * num_packets // (2 * max_frames)).tolist())
    kept: list[NDArray[np.uint8]] = []
    num_bytes = 0
    with _opened(av, path, where) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number not in wanted:
                continue
            if frame.width * frame.height > _MOST_PIXELS:
                raise _too_large(path, where, frame.width, frame.height)
            num_bytes += 3 * frame.width * frame.height
            if num_bytes > _MOST_BYTES:
                raise DataError(
                    f"{where}: {path.name} decodes to more than 1 GiB in {max_frames} frames; scale it down, or ask "
                    "for fewer by [max_frames=…]"
                )
            kept.append(_upright(frame, kept))
            if number == max(wanted):
                break
    if not kept:
        raise DataError(f"{where}: {path.name} holds no frames; {_ADVICE}")
    return np.stack(kept)


def require_av() -> Any:
    """Return PyAV.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise Unavailable("videos are decoded by PyAV: pip install 'mmbench-datasets[video]'") from None
    return av


@contextmanager
def _opened(av: Any, path: MediaFile, where: str) -> Iterator[Any]:
    """Open a file as one of the known containers; what FFmpeg says against it becomes a `DataError`."""
    file = io.BytesIO(path.content) if isinstance(path, Embedded) else str(Path(path).absolute())
    limits = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    try:
        with av.open(file, container_options=limits) as container:
            if not container.streams.video:
                raise DataError(f"{where}: {path.name} holds no pictures, or is cut short before they begin; {_ADVICE}")
            if container.streams.video[0].codec_context is None:
                raise DataError(f"{where}: {path.name} cannot be read as video (its codec is unknown); {_ADVICE}")
            yield container
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{where}: {path.name} cannot be read as video ({said}); {_ADVICE}") from None


def _count_packets(av: Any, path: MediaFile, where: str, max_seconds: float) -> int:
    """Return how many packets the first video stream holds, each a frame; check what it claims against what is there.

    Raises:
        DataError: it claims or holds too much, or less than it claims.
    """
    most = int(max_seconds * _MOST_FRAMES_PER_S) + 1
    num_packets, begin, length_s = 0, None, 0.0
    with _opened(av, path, where) as container:
        stream = container.streams.video[0]
        if stream.width * stream.height > _MOST_PIXELS:
            raise _too_large(path, where, stream.width, stream.height)
        claimed_s = _claimed_s(container)
        if claimed_s > max_seconds:
            raise _too_long(path, where, f"claims {claimed_s:.1f} s, more than", max_seconds)
        for packet in container.demux(video=0):
            num_packets += packet.size > 0
            if num_packets > most:
                raise DataError(
                    f"{where}: {path.name} holds more than {_MOST_FRAMES_PER_S} frames for each of {max_seconds:g} s; "
                    f"{_ADVICE}"
                )
            time = packet.pts if packet.pts is not None else packet.dts
            if not packet.size or time is None or packet.time_base is None:
                continue
            begin = time if begin is None else min(begin, time)
            length_s = max(length_s, float((time + (packet.duration or 0) - begin) * packet.time_base))
            if length_s > max_seconds:
                raise _too_long(path, where, "is longer than", max_seconds)
    if not num_packets:
        raise DataError(f"{where}: {path.name} holds no frames; {_ADVICE}")
    # Some containers do not say how long the last frame is shown.
    frame_s = 1.5 * length_s / num_packets
    if claimed_s - length_s > max(_LOST_S, _LOST_SHARE * claimed_s, frame_s):
        raise DataError(f"{where}: {path.name} is cut short: {length_s:.1f} of {claimed_s:.1f} s are there; {_ADVICE}")
    return num_packets


def _claimed_s(container: Any) -> float:
    """Return how many seconds of pictures a header claims, 0 where it claims nothing of them."""
    stream = container.streams.video[0]
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    # A container's own length is that of its longest stream, which may be the sound.
    alone = len(container.streams) == 1
    return container.duration / 1_000_000 if container.duration and alone else 0.0


def _upright(frame: Any, kept: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return a frame as uint8 (3, H, W), turned as its header says and as large as the frames before it."""
    quarters = round(frame.rotation / 90) % 4
    size = {}
    if kept:
        height, width = kept[0].shape[1:]
        size = {"width": height, "height": width} if quarters % 2 else {"width": width, "height": height}
    pixels = np.rot90(frame.to_ndarray(format="rgb24", **size), quarters)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _too_large(path: MediaFile, where: str, width: int, height: int) -> DataError:
    return DataError(
        f"{where}: {path.name} claims {width} x {height} pixels, more than {_MOST_PIXELS:,}; scale it down"
    )


def _too_long(path: MediaFile, where: str, claim: str, max_seconds: float) -> DataError:
    return DataError(
        f"{where}: {path.name} {claim} max_seconds={max_seconds:g}; cut it, or allow it by [max_seconds=…]"
    )
