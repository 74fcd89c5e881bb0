"""Symbols drawn as images, tones, sentences, rows, sequences and videos, so that a perfect reader never errs.

Each renderer takes a symbol (0 to `num_symbols` - 1) and a random generator. What varies beside the symbol (phase,
noise, filler words, length) is independent of it and bounded so that no value can come from two symbols: noise of
images and tones is at most ±b at every point, and any two patterns of different symbols differ somewhere by more than
2 b. Reading is therefore exact, and the best possible score of a set depends only on how its symbols make the label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.data import Waveform
from mmbench.spec import Kind

MAX_SYMBOLS = 5
RATE_HZ = 8_000
TONE_SAMPLES = 1_200  # 0.15 s
TONES_HZ = (400.0, 700.0, 1_100.0, 1_600.0, 2_200.0)
NUM_FEATURES = 5

_IMAGE_AMPLITUDE, _IMAGE_NOISE = 80.0, 40.0
_IMAGE_CYCLES = 3.0
_TONE_AMPLITUDE, _TONE_NOISE = 0.3, 0.1
_ROW_NOISE = 0.4
NUM_FRAMES, FRAME_SIDE, PIXELS_PER_FRAME = 8, 16, 2
SHAPE_LEVEL, GROUND_LEVEL, _VIDEO_NOISE = 200.0, 60.0, 40.0
_SHAPES = tuple(
    np.array([[letter == "#" for letter in row] for row in rows])
    for rows in (("####", "####", "####", "####"), (".##.", "####", "####", ".##."), ("#..#", ".##.", ".##.", "#..#"))
)
_WORDS = (
    ("copper", "bronze"),
    ("river", "lake"),
    ("maple", "birch"),
    ("falcon", "heron"),
    ("violin", "cello"),
)
_FILLERS = ("the", "old", "was", "near", "a", "and", "we", "saw", "it")


def stripes(symbol: int, size: int, phase: float) -> NDArray[np.float64]:
    """Return parallel stripes at symbol * 36 degrees, (size, size), around 128 without noise."""
    angle = np.pi * symbol / MAX_SYMBOLS
    y, x = np.mgrid[:size, :size] / size - 0.5
    wave = np.sin(2 * np.pi * _IMAGE_CYCLES * (x * np.cos(angle) + y * np.sin(angle)) + phase)
    return np.asarray(128 + _IMAGE_AMPLITUDE * wave)


def image(symbol: int, rng: np.random.Generator, *, size: int) -> NDArray[np.uint8]:
    """Return stripes whose direction tells the symbol, phase within ±45 degrees: uint8 (1, size, size)."""
    noise = rng.uniform(-_IMAGE_NOISE, _IMAGE_NOISE, (size, size))
    return np.round(stripes(symbol, size, rng.uniform(-np.pi / 4, np.pi / 4)) + noise).astype(np.uint8)[None]


def tone(symbol: int, phase: float) -> NDArray[np.float64]:
    """Return a pure tone, (1200,) at 8 kHz, without noise."""
    time = np.arange(TONE_SAMPLES) / RATE_HZ
    return np.asarray(_TONE_AMPLITUDE * np.sin(2 * np.pi * TONES_HZ[symbol] * time + phase))


def audio(symbol: int, rng: np.random.Generator) -> Waveform:
    """Return 0.15 s of a noisy tone of any phase whose pitch tells the symbol."""
    noise = rng.uniform(-_TONE_NOISE, _TONE_NOISE, TONE_SAMPLES)
    return Waveform(values=(tone(symbol, rng.uniform(0, 2 * np.pi)) + noise).astype(np.float32), rate=RATE_HZ)


def text(symbol: int, rng: np.random.Generator) -> str:
    """Return three to five filler words with one of the symbol's two words among them."""
    words = [_FILLERS[position] for position in rng.integers(len(_FILLERS), size=rng.integers(3, 6))]
    words.insert(int(rng.integers(len(words) + 1)), _WORDS[symbol][rng.integers(2)])
    return " ".join(words)


def row(symbol: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return five numbers within ±0.4, the symbol's raised by 1: float32 (5,)."""
    values = rng.uniform(-_ROW_NOISE, _ROW_NOISE, NUM_FEATURES)
    values[symbol] += 1
    return values.astype(np.float32)


def sequence(symbol: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return 8 to 16 rows within ±0.4, the symbol's feature raised by 1 during half of them: float32 (T, 5)."""
    length = int(rng.integers(8, 17))
    values = rng.uniform(-_ROW_NOISE, _ROW_NOISE, (length, NUM_FEATURES))
    begin = int(rng.integers(length - length // 2 + 1))
    values[begin : begin + length // 2, symbol] += 1
    return values.astype(np.float32)


def video(symbol: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a shape that moves right (symbol 0) or left (symbol 1) and comes in again: uint8 (8, 1, 16, 16).

    The video of symbol 1 is one of symbol 0 played backwards, so the frames themselves, and whatever is taken of them
    regardless of their order, say nothing of the symbol.
    """
    shape = _SHAPES[rng.integers(len(_SHAPES))]
    height, width = shape.shape
    ground = np.zeros((FRAME_SIDE, FRAME_SIDE), dtype=bool)
    top = int(rng.integers(FRAME_SIDE - height + 1))
    ground[top : top + height, :width] = shape
    begin = int(rng.integers(FRAME_SIDE))
    steps = [np.roll(ground, begin + PIXELS_PER_FRAME * step, axis=1) for step in range(NUM_FRAMES)]
    levels = np.where(np.stack(steps), SHAPE_LEVEL, GROUND_LEVEL)
    frames = np.round(levels + rng.uniform(-_VIDEO_NOISE, _VIDEO_NOISE, levels.shape)).astype(np.uint8)[:, None]
    return np.ascontiguousarray(frames[::-1] if symbol else frames)


Renderer = Callable[[int, np.random.Generator], Any]
RENDERERS: Mapping[Kind, Renderer] = MappingProxyType(
    {
        "image": partial(image, size=16),
        "audio": audio,
        "text": text,
        "tabular": row,
        "sequence": sequence,
        "video": video,
    }
)
