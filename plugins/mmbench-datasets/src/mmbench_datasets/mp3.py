"""The length of an MP3 file: the count of frames that its Xing, Info or VBRI header claims, or of those it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

_MOST_ID3_BYTES = 64 << 20
_SEARCHED_BYTES = 1 << 16
_BITRATES_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # kbit/s of MPEG-1, by header
_BITRATES_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # of MPEG-2 and 2.5
_RESYNC_BYTES = 1 << 16
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # by MPEG version bits


@dataclass(frozen=True)
class Mp3Claim:
    """What the first frame of an MP3 file says.

    Attributes:
        num_samples: Per channel, encoder delay and padding included.
        rate: In Hz.
        num_bytes: From the first frame to the end, 0 where it does not say.
        begin: Where the first frame begins in the file.
    """

    num_samples: int
    rate: int
    num_bytes: int
    begin: int


def read_claim(stream: BinaryIO) -> Mp3Claim | None:
    """Return what an MP3 file claims to hold, or None where it has no such header: then nothing is claimed."""
    stream.seek(0)
    begin = _tag_bytes(stream.read(10))
    if begin > _MOST_ID3_BYTES:
        return None
    stream.seek(begin)
    block = stream.read(_SEARCHED_BYTES)
    at = next((at for at in range(len(block) - 4) if _frame_bytes(block, at)), -1)
    return None if at < 0 else _claim(block, at, begin + at)


def _claim(block: bytes, at: int, begin: int) -> Mp3Claim | None:
    version = block[at + 1] >> 3 & 3
    rate = _RATES[version][block[at + 2] >> 2 & 3]
    side = _side_bytes(block[at : at + 4])
    per_frame = 1152 if version == 3 else 576
    for start in (at + 4 + side, at + 6 + side):  # without and with a checksum
        if block[start : start + 4] in (b"Xing", b"Info"):
            flags = int.from_bytes(block[start + 4 : start + 8], "big")
            if not flags & 1:
                return None
            frames = int.from_bytes(block[start + 8 : start + 12], "big")
            num_bytes = int.from_bytes(block[start + 12 : start + 16], "big") if flags & 2 else 0
            return Mp3Claim(frames * per_frame, rate, num_bytes, begin)
    start = at + 36
    if block[start : start + 4] == b"VBRI":
        num_bytes = int.from_bytes(block[start + 10 : start + 14], "big")
        frames = int.from_bytes(block[start + 14 : start + 18], "big")
        return Mp3Claim(frames * per_frame, rate, num_bytes, begin)
    return None


@dataclass(frozen=True)
class Mp3Frames:
    """The frames of an MP3 file.

    Attributes:
        count: How many there are.
        begin: Where the first begins in the file.
        header: Its four bytes.
    """

    count: int
    begin: int
    header: bytes


def count_frames(content: bytes) -> Mp3Frames | None:
    """Return the frames of an MP3 file by walking from header to header; None where none is found."""
    at = _first_frame(content, _tag_bytes(content))
    if at < 0:
        return None
    begin, count = at, 0
    while True:
        length = _frame_bytes(content, at)
        if not length:
            # Between frames may stand tags, or bytes that a splitter left.
            at = _first_frame(content, at + 1, content[begin + 1 : begin + 3])
            if at < 0:
                break
            continue
        if at + length > len(content):
            break
        count += 1
        at += length
    return Mp3Frames(count, begin, content[begin : begin + 4]) if count else None


def with_length(content: bytes, frames: Mp3Frames) -> bytes:
    """Return an MP3 file with a Xing header that states how many frames it has."""
    first = bytearray(frames.header)
    first[1] |= 1  # no checksum
    first[2] = 0x90 | (first[2] & 0x0C)  # a bit rate whose frame holds the header, and no padding
    length = _frame_bytes(bytes(first), 0)
    stated = bytes(first) + bytes(_side_bytes(first)) + b"Xing" + (1).to_bytes(4, "big")
    stated += frames.count.to_bytes(4, "big")
    return stated + bytes(length - len(stated)) + content[frames.begin :]


def _tag_bytes(content: bytes) -> int:
    """Return how long the ID3 tag is that a file begins with."""
    if content[:3] != b"ID3" or len(content) < 10:
        return 0
    size = (content[6] & 127) << 21 | (content[7] & 127) << 14 | (content[8] & 127) << 7 | (content[9] & 127)
    return size + 10 + (10 if content[5] & 0x10 else 0)


def _first_frame(content: bytes, start: int, like: bytes = b"") -> int:
    """Return where a frame begins that another one follows, or the file's end; -1 for nowhere.

    Args:
        content: The file.
        start: Where to look from.
        like: The second and third byte of a frame's header, whose version, layer and rate it has; b"" for any.
    """
    end = min(len(content) - 4, start + _RESYNC_BYTES)
    at = content.find(b"\xff", start)
    while 0 <= at < end:
        length = _frame_bytes(content, at)
        same = not like or (content[at + 1] & 0xFE == like[0] & 0xFE and content[at + 2] & 0x0C == like[1] & 0x0C)
        if length and same and (at + length >= len(content) - 4 or _frame_bytes(content, at + length)):
            return at
        at = content.find(b"\xff", at + 1)
    return -1


def _side_bytes(header: bytes | bytearray) -> int:
    """Return how long the side information is that follows a frame's header: a Xing header stands behind it."""
    mono, mpeg_1 = header[3] >> 6 == 3, header[1] >> 3 & 3 == 3
    return (17 if mono else 32) if mpeg_1 else (9 if mono else 17)


def _frame_bytes(content: bytes, at: int) -> int:
    """Return how long the frame of layer III is that begins there; 0 where none does."""
    if content[at : at + 1] != b"\xff":
        return 0
    header = content[at : at + 4]
    if len(header) < 4 or header[1] & 0xE0 != 0xE0:
        return 0
    version, layer, rate_bits, rate_of_bits = header[1] >> 3 & 3, header[1] >> 1 & 3, header[2] >> 2 & 3, header[2] >> 4
    if version == 1 or layer != 1 or rate_bits == 3 or rate_of_bits in (0, 15):
        return 0
    bits = (_BITRATES_1 if version == 3 else _BITRATES_2)[rate_of_bits] * 1000
    return (144 if version == 3 else 72) * bits // _RATES[version][rate_bits] + (header[2] >> 1 & 1)
