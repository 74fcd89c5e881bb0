"""The format of a file by its first bytes, whatever its name says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmbench.spec import Kind

#: So many bytes of a file are enough.
HEAD_BYTES = 512


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        name: As people call it.
        kind: The modality kind that mmbench decodes it to, "" where it does not read the format.
    """

    name: str
    kind: Kind | Literal[""] = ""


_MAGIC: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", Format("PNG", "image")),
    (0, b"\xff\xd8\xff", Format("JPEG", "image")),
    (0, b"GIF8", Format("GIF", "image")),
    (0, b"BM", Format("BMP", "image")),
    (0, b"II*\0", Format("TIFF", "image")),
    (0, b"MM\0*", Format("TIFF", "image")),
    (0, b"\0\0\0\x0cjP  ", Format("JPEG 2000")),
    (0, b"\xff\x4f\xff\x51", Format("JPEG 2000")),
    (0, b"8BPS", Format("Photoshop")),
    (0, b"fLaC", Format("FLAC", "audio")),
    (0, b"ID3", Format("MP3", "audio")),
    (0, b"FORM", Format("AIFF", "audio")),
    (0, b".snd", Format("AU", "audio")),
    (0, b"caff", Format("CAF", "audio")),
    (0, b"\x1aE\xdf\xa3", Format("Matroska", "video")),
    (0, b"FLV\x01", Format("FLV", "video")),
    (0, b"\0\0\x01\xba", Format("MPEG", "video")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Format("Windows Media")),
    (0, b"\x93NUMPY", Format("NumPy")),
    (0, b"\x89HDF", Format("HDF5")),
    (0, b"PK\x03\x04", Format("ZIP")),
    (0, b"\x1f\x8b", Format("gzip")),
    (0, b"%PDF", Format("PDF")),
    (0, b"PAR1", Format("Parquet")),
    (0, b"ARROW1", Format("Arrow")),
    (0, b"\xd0\xcf\x11\xe0", Format("an old Office file")),
    (0, b"SQLite format 3\0", Format("SQLite")),
    (128, b"DICM", Format("DICOM")),
)
_RIFF = {
    b"WAVE": Format("WAV", "audio"),
    b"AVI ": Format("AVI", "video"),
    b"WEBP": Format("WebP", "image"),
}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC"}


def read_format(path: Path) -> Format:
    """Return the format that a file's first bytes show; `Format("")` where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return sniff(stream.read(HEAD_BYTES))
    except OSError:
        return Format("")


def sniff(head: bytes) -> Format:
    """Return the format that the first bytes of a file show; `Format("")` for an unknown one.

    >>> sniff(b"RIFF\\x24\\x00\\x00\\x00WAVEfmt ").name, sniff(b"II*\\x00").kind, sniff(b"").name
    ('WAV', 'image', 'an empty file')
    """
    if not head:
        return Format("an empty file")
    for offset, magic, known in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return known
    if head[:4] in (b"RIFF", b"RF64", b"RIFX"):
        return _RIFF.get(head[8:12], Format("RIFF"))
    if head[:4] == b"OggS":
        return Format("Ogg", "video" if b"theora" in head else "audio")
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in _BRANDS:
            return Format(_BRANDS[brand])
        return Format("M4A") if brand.startswith(b"M4") and brand != b"M4V " else Format("MP4", "video")
    if head[4:8] in (b"moov", b"mdat", b"wide"):
        return Format("MOV", "video")
    if len(head) >= 4 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return Format("AAC")
    if len(head) >= 4 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06:
        return Format("MP3", "audio")
    start = head.lstrip()[:64].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return Format("HTML")
    if start.startswith((b"<svg", b"<?xml")):
        return Format("SVG or XML")
    if start.startswith(b"version https://git-lfs"):
        return Format("a Git LFS pointer")
    return Format("")
