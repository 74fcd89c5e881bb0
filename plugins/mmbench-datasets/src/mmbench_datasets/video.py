"""Videos decoded to a few evenly spaced frames, each claim of a header checked before time or memory is spent on it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import DataError, Unavailable
from mmbench.input_statistics import InputSummary
from mmbench_datasets.media import Embedded, MediaFile, format_of, located

MAX_FRAMES = 64

_WHERE = re.compile(r"^\[Errno -?\d+\] |:? '[^']*'( returned \d+)?$")

_MOST_PIXELS = 64_000_000
_MOST_BYTES = 1 << 30
_MOST_FRAMES_PER_S = 240
#: Containers that hold their own pictures; a playlist, say, would have other files opened.
_CONTAINERS = "mov,matroska,avi,gif,flv,mpeg,mpegts,ogg"
#: A file that ends earlier than it says by more than this share of its length, and these seconds, is cut short.
_LOST_SHARE, _LOST_S = 0.02, 0.25
#: A frame that is shown this much longer than the usual one makes a video's frame rate variable.
_UNEVEN = 3.0
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
    _read_packets(av, path, where, max_seconds)


def read_video(path: MediaFile, where: str, *, max_seconds: float, max_frames: int = MAX_FRAMES) -> NDArray[np.uint8]:
    """Decode evenly spaced frames of a video's first video stream, upright as its header says.

    The packets are read first, which decodes nothing; then frames are decoded one after the other, and the one shown
    in the middle of each of `max_frames` equal parts of the time is kept. A video of no more than `max_frames` keeps
    all. Where frames are shown for different times, a frame that is shown in the middle of several parts is kept for
    each of them. What an edit list leaves out is not shown.

    Returns:
        uint8 (T, 3, H, W), T at most `max_frames`.

    Raises:
        DataError: it is not readable, cut short, without frames, longer than `max_seconds`, above 240 frames a second,
            of more than 64 million pixels a frame, or its kept frames take more than 1 GiB.
        Unavailable: PyAV is not installed.
    """
    av = require_av()
    packets = _read_packets(av, path, where, max_seconds)
    kept: list[NDArray[np.uint8]] = []
    with _opened(av, path, where) as container:
        for frame, count in _chosen(container.decode(video=0), packets, max_frames):
            if frame.width * frame.height > _MOST_PIXELS:
                raise _too_large(path, where, frame.width, frame.height)
            if 3 * frame.width * frame.height * (len(kept) + count) > _MOST_BYTES:
                raise DataError(
                    f"{located(where, path)} decodes to more than 1 GiB in {max_frames} frames; scale it down, or ask "
                    "for fewer by [max_frames=…]"
                )
            kept += [_upright(frame, kept)] * count
    if not kept:
        raise DataError(f"{located(where, path)} holds no frames; {_ADVICE}")
    return np.stack(kept)


def video_summary(path: MediaFile, where: str, *, digest: int = 0) -> InputSummary:
    """Return what a video's header says: its size, and the seconds and frames that it claims.

    Raises:
        DataError: it is not readable.
        Unavailable: PyAV is not installed.
    """
    with _opened(require_av(), path, where) as container:
        stream = container.streams.video[0]
        height, width, frames, seconds = stream.height, stream.width, stream.frames, _claimed_s(container)
    amounts = {"height": float(height), "width": float(width)}
    amounts |= {"seconds": seconds} if seconds else {}
    amounts |= {"frames": float(frames)} if frames else {}
    return InputSummary(facts={"channels": 3, "size": [height, width]}, amounts=amounts, digest=digest)


@dataclass(frozen=True)
class _Packets:
    """What the packets of a stream say, each a frame.

    Attributes:
        times: When each frame that is shown begins, in the stream's units, in order; empty where one does not say.
        end: When the last one ends, in these units.
        count: Of all packets with content.
    """

    times: NDArray[np.int64]
    end: float
    count: int


def _chosen(frames: Iterable[Any], packets: _Packets, max_frames: int) -> Iterator[tuple[Any, int]]:
    """Yield the frames to keep, and how often each: evenly spaced in time, or by number where all last equally long."""
    if not _is_uneven(packets):
        num_frames = len(packets.times) or packets.count
        wanted = set(((2 * np.arange(max_frames) + 1) * num_frames // (2 * max_frames)).tolist())
        for number, frame in enumerate(frames):
            if number in wanted:
                yield frame, 1
            if number == max(wanted):
                return
        return
    lengths = np.diff(np.append(packets.times, packets.end))
    begin, usual = packets.times[0], max(float(np.median(lengths)), 1.0)
    num_kept = min(max_frames, max(len(lengths), round((packets.end - begin) / usual)))
    middles = begin + (2 * np.arange(num_kept) + 1) * (packets.end - begin) / (2 * num_kept)
    shown, counts = np.unique(np.searchsorted(packets.times, middles, side="right") - 1, return_counts=True)
    count_at = {int(packets.times[number]): int(count) for number, count in zip(shown, counts)}
    for frame in frames:
        if frame.pts in count_at:
            yield frame, count_at.pop(frame.pts)
        if not count_at:
            return


def _is_uneven(packets: _Packets) -> bool:
    """Whether some frames are shown for clearly longer than others."""
    if len(packets.times) < 3:
        return False
    lengths = np.diff(packets.times)
    return bool(lengths.max() > _UNEVEN * max(float(np.median(lengths)), 1.0))


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
                raise DataError(
                    f"{located(where, path)} holds no pictures, or is cut short before they begin; {_ADVICE}"
                )
            if container.streams.video[0].codec_context is None:
                raise DataError(f"{located(where, path)} cannot be read as video (its codec is unknown); {_ADVICE}")
            yield container
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        known = format_of(path)
        said = f"it is {known.name}" if known.name and known.kind != "video" else _reason(error)
        raise DataError(f"{located(where, path)} cannot be read as video ({said}); {_ADVICE}") from None


def _reason(error: Exception) -> str:
    """Return the first line of an error without its number and the path of the file."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return _WHERE.sub("", line)[:200]


def _read_packets(av: Any, path: MediaFile, where: str, max_seconds: float) -> _Packets:
    """Return what the packets of the first video stream say; check what it claims against what is there.

    Raises:
        DataError: it claims or holds too much, or less than it claims.
    """
    most = int(max_seconds * _MOST_FRAMES_PER_S) + 1
    num_packets, begin, length_s = 0, None, 0.0
    times: list[int] = []
    end, all_timed = 0.0, True
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
                    f"{located(where, path)} holds more than {_MOST_FRAMES_PER_S} frames for each of {max_seconds:g} "
                    f"s; {_ADVICE}"
                )
            time = packet.pts if packet.pts is not None else packet.dts
            if not packet.size or time is None or packet.time_base is None:
                continue
            if packet.pts is None:
                all_timed = False
            elif not packet.is_discard:
                times.append(packet.pts)
                end = max(end, packet.pts + (packet.duration or 0))
            begin = time if begin is None else min(begin, time)
            length_s = max(length_s, float((time + (packet.duration or 0) - begin) * packet.time_base))
            if length_s > max_seconds:
                raise _too_long(path, where, "is longer than", max_seconds)
    if not num_packets:
        raise DataError(f"{located(where, path)} holds no frames; {_ADVICE}")
    # Some containers do not say how long the last frame is shown.
    frame_s = 1.5 * length_s / num_packets
    if claimed_s - length_s > max(_LOST_S, _LOST_SHARE * claimed_s, frame_s):
        raise DataError(
            f"{located(where, path)} is cut short: {length_s:.1f} of {claimed_s:.1f} s are there; {_ADVICE}"
        )
    shown = np.array(sorted(times) if all_timed and len(times) <= num_packets else [], dtype=np.int64)
    if len(shown) and end <= shown[-1]:  # some containers do not say how long the last frame is shown
        end = float(shown[-1] + (np.median(np.diff(shown)) if len(shown) > 1 else 1))
    return _Packets(times=shown, end=end, count=num_packets)


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
        f"{located(where, path)} claims {width} x {height} pixels, more than {_MOST_PIXELS:,}; scale it down"
    )


def _too_long(path: MediaFile, where: str, claim: str, max_seconds: float) -> DataError:
    return DataError(
        f"{located(where, path)} {claim} max_seconds={max_seconds:g}; cut it, or allow it by [max_seconds=…]"
    )
