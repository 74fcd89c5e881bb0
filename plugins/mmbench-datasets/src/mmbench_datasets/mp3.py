"""The length that an MP3 file claims: the count of frames in its Xing, Info or VBRI header."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

_MOST_ID3_BYTES = 64 << 20
_SEARCHED_BYTES = 1 << 16
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
    head = stream.read(10)
    begin = 0
    if head[:3] == b"ID3" and len(head) == 10:
        size = (head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | (head[9] & 127)
        if size > _MOST_ID3_BYTES:
            return None
        begin = size + 10 + (10 if head[5] & 0x10 else 0)
    stream.seek(begin)
    block = stream.read(_SEARCHED_BYTES)
    for at in range(len(block) - 4):
        if block[at] != 0xFF or block[at + 1] & 0xE0 != 0xE0:
            continue
        version, layer, rate_bits = block[at + 1] >> 3 & 3, block[at + 1] >> 1 & 3, block[at + 2] >> 2 & 3
        if version == 1 or layer != 1 or rate_bits == 3 or block[at + 2] >> 4 in (0, 15):
            continue  # reserved values, or another layer than III
        return _claim(block, at, begin + at, version, _RATES[version][rate_bits])
    return None


def _claim(block: bytes, at: int, begin: int, version: int, rate: int) -> Mp3Claim | None:
    mono = block[at + 3] >> 6 == 3
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
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
