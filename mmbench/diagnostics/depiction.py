"""A modality of one sample as a report can show it: a small picture, words, columns, and what each part contributed.

Everything is bounded, whatever the dataset holds; contributions are whole numbers from -100 to 100, in parts of the
largest of the modality and sample.
"""

from __future__ import annotations

import base64
import itertools
import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from mmbench.columns import Transform
from mmbench.data import Waveform
from mmbench.spec import Kind

Array = NDArray[Any]

#: Most cells of a heat map on each side, parts of a strip, columns of a table, and characters of a text.
MAX_GRID = 16
MAX_STEPS = 64
MAX_COLUMNS = 24
MAX_CHARACTERS = 400
#: Spectrogram: frames, mel bands, and dynamic range in dB.
_FRAMES, _BANDS, _RANGE_DB = 96, 64, 70.0
_WINDOW_S = 0.032


@dataclass(frozen=True)
class Looked:
    """What one modality of one sample contributed.

    Attributes:
        present: Whether the sample has it.
        evidence: What its features add to the explained output, in its unit (nats of log probability).
        tokens: The same by token (T,), where its features are a sequence; else None.
        inputs: What its inputs add, in the shape that its encoder takes them or, for text, (T,); None where the
            gradient does not reach them.
        seen: The input as the encoder takes it, (…) without padding; None where features are stored.
    """

    present: bool
    evidence: float
    tokens: Array | None
    inputs: Array | None
    seen: Array | None


def depicted(
    name: str, kind: Kind, looked: Looked, original: Any, transform: Transform | None, *, side: int
) -> dict[str, Any]:
    """Return one modality of one sample as plain JSON.

    Args:
        name, kind: Of the modality.
        looked: What it contributed.
        original: As the dataset gives it; None where it is missing.
        transform: Its encoder's; None where the model reads stored features.
        side: Most pixels of a picture on each side.

    Returns:
        ``name``, ``kind``, ``present``, ``evidence``, and what there is of ``picture`` (``png`` in base64, ``width``,
        ``height``), ``grid`` (rows over the picture), ``steps`` (along time), ``words`` ([text, contribution]),
        ``columns`` ([number of the column, value, contribution]) and ``by`` ("inputs" or "tokens": what contributed).
    """
    evidence = float(f"{looked.evidence:.6g}") if math.isfinite(looked.evidence) else None
    found: dict[str, Any] = {"name": name, "kind": kind, "present": looked.present, "evidence": evidence}
    if not looked.present or original is None:
        return {**found, "present": False}
    amounts = looked.inputs if looked.inputs is not None else looked.tokens
    if amounts is not None and np.isfinite(amounts).all():
        found["by"] = "inputs" if looked.inputs is not None else "tokens"
    else:
        amounts = None
    show = {
        "image": _image, "video": _video, "audio": _audio, "text": _text, "tabular": _table, "sequence": _sequence,
    }[kind]  # fmt: skip
    return {**found, **show(original, looked, amounts, transform, side)}


def _image(original: Any, looked: Looked, amounts: Array | None, transform: Transform | None, side: int) -> Any:
    seen = looked.seen
    # What the encoder saw lies exactly under the map; where that is no picture, the whole original stands in.
    picture = seen if seen is not None and seen.ndim == 3 and seen.shape[0] in (1, 3) else original
    found = {"picture": _picture(picture, side)}
    return found if amounts is None else {**found, **_on_picture(amounts)}


def _video(original: Any, looked: Looked, amounts: Array | None, transform: Transform | None, side: int) -> Any:
    if amounts is None or amounts.ndim != 4:
        found = {"picture": _picture(original[len(original) // 2], side)}
        return found if amounts is None else {**found, **_strip(amounts)}
    frames = amounts.sum(axis=(1, 2, 3))
    best = int(np.abs(frames).argmax())
    seen = looked.seen
    fits = seen is not None and seen.shape == amounts.shape and seen.shape[1] in (1, 3)
    frame = seen[best] if fits and seen is not None else original[(2 * best + 1) * len(original) // (2 * len(frames))]
    return {"picture": _picture(frame, side), **_on_picture(amounts[best]), **_strip(frames)}


def _audio(original: Waveform, looked: Looked, amounts: Array | None, transform: Transform | None, side: int) -> Any:
    limit = getattr(transform, "max_seconds", None)
    length = len(original.values)
    if isinstance(limit, int | float) and limit > 0:
        length = min(length, max(round(limit * original.rate), 1))
    image = spectrogram(original.values[:length], original.rate)
    found = {"picture": _picture(image[None], side), "seconds": round(length / original.rate, 3)}
    return found if amounts is None else {**found, **_strip(amounts)}


def _sequence(original: Array, looked: Looked, amounts: Array | None, transform: Transform | None, side: int) -> Any:
    steps = np.asarray(original, dtype=np.float64)
    if amounts is not None and looked.inputs is not None:
        steps = steps[: len(amounts)]
    spread = steps.std(axis=0)
    scaled = (steps - steps.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    rows = np.clip(128 + 50 * scaled.T, 0, 255).astype(np.uint8)  # one row per feature
    found = {"picture": _picture(rows[None], side), "length": len(steps)}
    return found if amounts is None else {**found, **_strip(amounts)}


def _table(original: Array, looked: Looked, amounts: Array | None, transform: Transform | None, side: int) -> Any:
    if amounts is None or amounts.shape != original.shape:
        found = {"columns": [[at, _value(value), 0] for at, value in enumerate(original[:MAX_COLUMNS])]}
        return found if amounts is None else {**found, **_strip(amounts)}
    parts = hundredths(amounts)
    order = sorted(range(len(parts)), key=lambda at: -abs(parts[at]))[:MAX_COLUMNS]
    return {"columns": [[at, _value(original[at]), parts[at]] for at in order], "length": len(parts)}


def _text(original: str, looked: Looked, amounts: Array | None, transform: Transform | None, side: int) -> Any:
    if amounts is None:
        return {"words": [[original[:MAX_CHARACTERS], 0]]}
    pieces = getattr(transform, "pieces", None)
    if callable(pieces):
        text, spans = pieces(original)
        if isinstance(text, str) and len(spans) == len(amounts):
            return {"words": segments(text, spans, amounts)}
    return {"words": [[original[:MAX_CHARACTERS], 0]], **_strip(amounts)}


def segments(text: str, spans: Any, amounts: Array) -> list[list[Any]]:
    """Cut a text wherever a token begins or ends, and give each piece its tokens' contributions by their overlap.

    >>> segments("ab c", [(0, 2), (3, 4), (0, 0)], np.array([4.0, -2.0, 9.0]))
    [['ab', 100], [' ', 0], ['c', -50]]
    """
    length = min(len(text), MAX_CHARACTERS)
    by_character = np.zeros(len(text))
    edges = {0, length}
    for (begin, end), amount in zip(spans, amounts):
        if 0 <= begin < end <= len(text):
            by_character[begin:end] += amount / (end - begin)
            edges |= {min(begin, length), min(end, length)}
    cuts = sorted(edges)
    pairs = list(itertools.pairwise(cuts))
    parts = hundredths(np.array([by_character[begin:end].sum() for begin, end in pairs]))
    return [[text[begin:end], part] for (begin, end), part in zip(pairs, parts)]


def hundredths(amounts: Array) -> list[int]:
    """Return whole numbers from -100 to 100 in proportion, the largest of them 100 or -100; zeros stay zeros.

    >>> hundredths(np.array([0.5, -1.0, 0.0]))
    [50, -100, 0]
    """
    flat = np.asarray(amounts, dtype=np.float64).ravel()
    most = np.abs(flat).max(initial=0.0)
    if not most > 0:
        return [0] * len(flat)
    found: list[int] = np.rint(100 * (flat / most)).astype(int).tolist()
    return found


def pooled(amounts: Array, cells: int) -> Array:
    """Sum the first axis into at most so many neighbouring parts: the total stays.

    >>> pooled(np.arange(5.0), 2).tolist()
    [1.0, 9.0]
    """
    if len(amounts) <= cells:
        return amounts
    return np.add.reduceat(amounts, np.arange(cells) * len(amounts) // cells, axis=0)


def _on_picture(amounts: Array) -> dict[str, Any]:
    """A map from (C, H, W), or from tokens (T,) that fill a square; any other tokens stay a strip."""
    if amounts.ndim == 3:
        plane = amounts.sum(axis=0)
    else:
        side = math.isqrt(len(amounts))
        if amounts.ndim != 1 or side < 2 or side * side != len(amounts):
            return _strip(amounts)
        plane = amounts.reshape(side, side)
    plane = pooled(pooled(plane, MAX_GRID).T, MAX_GRID).T
    return {"grid": np.array(hundredths(plane)).reshape(plane.shape).tolist()}


def _strip(amounts: Array) -> dict[str, Any]:
    along = amounts.reshape(len(amounts), -1).sum(axis=1)
    return {"steps": hundredths(pooled(along, MAX_STEPS))} if len(along) > 1 else {}


def _value(value: float) -> float | None:
    return float(f"{float(value):.4g}") if math.isfinite(value) else None


def _picture(image: Array, side: int) -> dict[str, Any]:
    """A picture of at most `side` pixels each way: (1 or 3, H, W) of bytes, or of any numbers, brightest white."""
    pixels = torch.tensor(np.ascontiguousarray(image), dtype=torch.float32)
    if image.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = (pixels - low) * (255 / max(high - low, 1e-12))
    height, width = pixels.shape[1:]
    if max(height, width) > side:
        share = side / max(height, width)
        size = (max(round(height * share), 1), max(round(width * share), 1))
        pixels = F.interpolate(pixels[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    small = pixels.round().clamp(0, 255).to(torch.uint8).numpy()
    encoded = base64.b64encode(png(small)).decode()
    return {"png": encoded, "width": small.shape[2], "height": small.shape[1]}


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode a picture: uint8 (1 or 3, H, W), grey or RGB.

    Source: Portable Network Graphics, ISO/IEC 15948:2003; every line as it is or less its left neighbours.
    """
    channels, height, width = image.shape
    lines = np.ascontiguousarray(image.transpose(1, 2, 0))  # (H, W, C)
    less_left = lines.copy()
    less_left[:, 1:] -= lines[:, :-1]  # bytes wrap around, as the filter wants
    packed = []
    for number, filtered in enumerate((lines, less_left)):
        marks = np.full((height, 1), number, dtype=np.uint8)
        packed.append(zlib.compress(np.concatenate([marks, filtered.reshape(height, -1)], axis=1).tobytes(), 9))
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", min(packed, key=len)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(content)) + tag + content + struct.pack(">I", zlib.crc32(tag + content))
        for tag, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def spectrogram(samples: Array, rate: int) -> NDArray[np.uint8]:
    """Draw a waveform: log power in mel bands, low ones at the bottom, over at most 96 spans of time: uint8 (M, T).

    White is the loudest; 70 dB below it is black. Long waveforms are looked at in places.
    """
    window = max(min(round(_WINDOW_S * rate), len(samples)), 1)
    num_windows = min(max(2 * len(samples) // window - 1, 1), 16 * _FRAMES)
    starts = np.linspace(0, len(samples) - window, num_windows).astype(np.int64)
    frames = samples[starts[:, None] + np.arange(window)] * np.hanning(window + 2)[1:-1]
    size = max(1 << (window - 1).bit_length(), 1024)
    power = np.abs(np.fft.rfft(frames, size, axis=1)) ** 2  # (N, bins)
    tops = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, tops, _BANDS + 1) / 2595) - 1)  # in Hz
    bins = np.clip((edges * size / rate).astype(np.int64), 0, power.shape[1] - 1)
    bands = np.stack(
        [power[:, low : max(high, low + 1)].mean(axis=1) for low, high in itertools.pairwise(bins)], axis=1
    )
    counts = pooled(np.ones(len(bands)), _FRAMES)
    decibels = 10 * np.log10(pooled(bands, _FRAMES) / counts[:, None] + 1e-20)
    scaled = np.clip(1 + (decibels - decibels.max()) / _RANGE_DB, 0, 1)
    return np.ascontiguousarray(np.rint(255 * scaled.T[::-1]).astype(np.uint8))
