"""Disturbed inputs: what is done to a raw sample, by kind, name and severity; the same for a sample in every cell.

Severity runs from 0 (nothing) to 1; what it means is in each corruption's `unit`. The random choices of a sample depend
on its id, the modality and the corruption, not on the severity: more of it is more of the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.data import Waveform
from mmbench.spec import Kind

Array = NDArray[Any]
SEVERITIES: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 1.0)
#: Bumped when any corruption gives other samples.
VERSION = 1
FRAME_S = 0.02


@dataclass(frozen=True)
class Stats:
    """What training says of a table's or a sequence's features: means and standard deviations, (F,)."""

    mean: Array
    std: Array


Change = Callable[[Any, float, np.random.Generator, "Stats | None"], Any]


@dataclass(frozen=True)
class Corruption:
    """One way to disturb an input.

    Attributes:
        name: As it stands in conditions: "gaussian" in "noise:image.gaussian@0.25".
        unit: What severity s means.
        change: (sample, severity, generator, statistics of training) -> a canonical sample of the same kind.
    """

    name: str
    unit: str
    change: Change


def corrupt(value: Any, corruption: Corruption, severity: float, *, seed: str, stats: Stats | None = None) -> Any:
    """Return a disturbed copy of a canonical sample; severity 0 gives it back.

    Args:
        value: As `mmbench.data.Sample` promises it.
        corruption: One of `CORRUPTIONS` of its kind.
        severity: 0 to 1.
        seed: Decides the random choices: the sample's id and the modality.
        stats: Needed for tables and sequences.
    """
    if severity == 0:
        return value
    digest = hashlib.sha256(json.dumps([seed, corruption.name]).encode()).digest()
    return corruption.change(value, severity, np.random.default_rng(int.from_bytes(digest[:16], "big")), stats)


def condition(modality: str, corruption: Corruption, severity: float) -> str:
    """Name a disturbance as records do.

    >>> condition("image", CORRUPTIONS["image"][0], 0.25)
    'noise:image.gaussian@0.25'
    """
    return f"noise:{modality}.{corruption.name}@{severity:g}"


def stats_of(values: list[Array]) -> Stats:
    """Measure the features of training samples, (F,) or (T, F) each; unknown values (NaN) are left out."""
    rows = np.concatenate([np.atleast_2d(value) for value in values]).astype(np.float64)
    known = np.isfinite(rows)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, rows, 0.0).sum(axis=0) / count
    std = np.sqrt(np.where(known, (rows - mean) ** 2, 0.0).sum(axis=0) / count)
    return Stats(mean.astype(np.float32), std.astype(np.float32))


# Images, and the frames of videos: uint8 (…, C, H, W)


def _image_gaussian(value: Array, severity: float, rng: np.random.Generator, stats: Stats | None) -> Array:
    return _grey(value + 128.0 * severity * rng.standard_normal(value.shape))


def _image_blur(value: Array, severity: float, rng: np.random.Generator, stats: Stats | None) -> Array:
    from scipy.ndimage import gaussian_filter

    sigma = severity * min(value.shape[-2:]) / 4
    return _grey(gaussian_filter(value.astype(np.float32), sigma=(*(0,) * (value.ndim - 2), sigma, sigma)))


def _image_occlusion(value: Array, severity: float, rng: np.random.Generator, stats: Stats | None) -> Array:
    height, width = value.shape[-2:]
    tall, wide = (max(1, round(side * severity**0.5)) for side in (height, width))
    place = rng.random(2)  # drawn before it is scaled: the same corner at every severity
    top, left = round(place[0] * (height - tall)), round(place[1] * (width - wide))
    covered = value.copy()
    covered[..., top : top + tall, left : left + wide] = 128
    return covered


def _image_contrast(value: Array, severity: float, rng: np.random.Generator, stats: Stats | None) -> Array:
    mean = value.mean()
    return _grey(mean + (1 - severity) * (value - mean))


def _grey(value: Array) -> Array:
    grey: Array = np.clip(np.rint(value), 0, 255).astype(np.uint8)
    return grey


# Audio


def _audio_noise(value: Waveform, severity: float, rng: np.random.Generator, stats: Stats | None) -> Waveform:
    wave = value.values.astype(np.float64)
    noise = rng.standard_normal(len(wave))
    power = np.square(wave).mean()
    noise *= np.sqrt(power / (np.square(noise).mean() * 10 ** (snr_db(severity) / 10)))
    return Waveform((wave + noise).astype(np.float32), value.rate)


def snr_db(severity: float) -> float:
    """Return the signal-to-noise ratio of audio noise, in dB.

    >>> [snr_db(severity) for severity in (0.25, 0.5, 1.0)]
    [20.0, 10.0, -10.0]
    """
    return 30.0 - 40.0 * severity


def _audio_clipping(value: Waveform, severity: float, rng: np.random.Generator, stats: Stats | None) -> Waveform:
    limit = (1 - 0.99 * severity) * np.abs(value.values).max(initial=0.0)
    return Waveform(np.clip(value.values, -limit, limit).astype(np.float32), value.rate)


def _audio_dropout(value: Waveform, severity: float, rng: np.random.Generator, stats: Stats | None) -> Waveform:
    length = max(1, round(FRAME_S * value.rate))
    lost = _chosen(-(-len(value.values) // length), severity, rng)
    wave = value.values.copy()
    wave[np.repeat(lost, length)[: len(wave)]] = 0.0
    return Waveform(wave, value.rate)


# Text


def _text_typos(value: str, severity: float, rng: np.random.Generator, stats: Stats | None) -> str:
    hit = _chosen(len(value), severity / 2, rng)
    kinds, others = rng.integers(0, 3, len(value)), rng.integers(0, max(len(value), 1), len(value))
    typed = []
    for character, wrong, kind, other in zip(value, hit, kinds, others):
        # Left out, typed twice, or another character of the same text.
        typed.append(("", character * 2, value[other])[kind] if wrong else character)
    return "".join(typed) or value


def _text_drop(value: str, severity: float, rng: np.random.Generator, stats: Stats | None) -> str:
    words = value.split()
    lost = _chosen(len(words), severity, rng)
    return " ".join(word for word, gone in zip(words, lost) if not gone) or (words or [value])[0]


def _text_swap(value: str, severity: float, rng: np.random.Generator, stats: Stats | None) -> str:
    letters = list(value)
    for pair in np.flatnonzero(_chosen(len(letters) // 2, severity, rng)):
        letters[2 * pair], letters[2 * pair + 1] = letters[2 * pair + 1], letters[2 * pair]
    return "".join(letters)


# Tables (F,) and sequences (T, F)


def _gaussian(value: Array, severity: float, rng: np.random.Generator, stats: Stats | None) -> Array:
    assert stats is not None
    noisy: Array = value + 2 * severity * stats.std * rng.standard_normal(value.shape)
    return noisy.astype(np.float32)


def _table_drop(value: Array, severity: float, rng: np.random.Generator, stats: Stats | None) -> Array:
    assert stats is not None
    kept: Array = np.where(_chosen(len(value), severity, rng), stats.mean, value)
    return kept.astype(np.float32)


def _sequence_drop(value: Array, severity: float, rng: np.random.Generator, stats: Stats | None) -> Array:
    assert stats is not None
    kept: Array = np.where(_chosen(len(value), severity, rng)[:, None], stats.mean, value)
    return kept.astype(np.float32)


def _chosen(count: int, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Choose a share of places at random; those of a smaller share are among those of a larger one."""
    places: NDArray[np.bool_] = rng.permutation(count) < round(share * count)
    return places


_IMAGE = (
    Corruption("gaussian", "standard deviation of added noise, 128 s grey levels", _image_gaussian),
    Corruption("blur", "standard deviation of a Gaussian blur, s / 4 of the shorter side", _image_blur),
    Corruption("occlusion", "share of the area under one grey block, s", _image_occlusion),
    Corruption("contrast", "share of the contrast taken away, s", _image_contrast),
)
CORRUPTIONS: Mapping[Kind, tuple[Corruption, ...]] = MappingProxyType(
    {
        "image": _IMAGE,
        "video": _IMAGE,
        "audio": (
            Corruption("noise", "white noise at a signal-to-noise ratio of 30 - 40 s dB", _audio_noise),
            Corruption("clipping", "clipped at 1 - 0.99 s of the peak", _audio_clipping),
            Corruption("dropout", "share of frames of 20 ms that are silent, s", _audio_dropout),
        ),
        "text": (
            Corruption("typos", "share of characters left out, doubled or replaced, s / 2", _text_typos),
            Corruption("drop", "share of words left out, s; one word stays", _text_drop),
            Corruption("swap", "share of pairs of neighbouring characters that trade places, s", _text_swap),
        ),
        "tabular": (
            Corruption("gaussian", "standard deviation of added noise, 2 s of each feature's over train", _gaussian),
            Corruption("drop", "share of values replaced by the mean over train, s", _table_drop),
        ),
        "sequence": (
            Corruption("gaussian", "standard deviation of added noise, 2 s of each feature's over train", _gaussian),
            Corruption("drop", "share of steps replaced by the mean over train, s", _sequence_drop),
        ),
    }
)
