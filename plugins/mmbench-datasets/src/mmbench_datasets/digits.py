"""Handwritten, written and spoken digits: real images, number words, and speech synthesised by eSpeak NG.

The three modalities of a sample belong together by label only, as in AV-MNIST (Vielzeuf et al. 2018, arXiv:1808.07275):
an 8x8 handwritten digit (scikit-learn's `load_digits`, from Alpaydin and Kaynak 1998), the digit's word in some
language, and the digit spoken in another language by some voice. The speech is synthesised, not recorded.

Languages, voices and words belong to one split. Related languages share spellings (Slovenian and Serbian "tri"), so a
word of a test language is left out of the training languages that have it too: no test word was read or heard in
training. Its relatives were ("trys", "tre"), which is what makes the task learnable. Images go to splits in the order
of the file, where neighbours tend to be by the same hand.

In val and test a written word always meets the same spoken word. The samples of a split then fall into groups
that share no word, written or spoken (`word_groups`): the units that an interval must resample.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.cache import ArrayCache
from mmbench.data import SPLITS, Sample, Split, Waveform
from mmbench.errors import Unavailable, UsageError, did_you_mean
from mmbench.spec import DatasetInfo, Modality, TaskSpec

RATE_HZ = 8_000
MAX_SPEECH_S = 0.7
PER_CLASS: Mapping[Split, int] = {"train": 120, "val": 24, "test": 30}  # the rarest digit has 174 images

# Languages by split: code of num2words -> voice of eSpeak NG, or None where it does not pronounce the words.
LANGUAGES: Mapping[Split, Mapping[str, str | None]] = {
    "train": {
        "be": "be", "ca": "ca", "cs": "cs", "da": "da", "de": "de", "en": "en-us", "eo": "eo", "es": "es",
        "fr": "fr-be", "lv": "lv", "pl": "pl", "ro": "ro", "ru": "ru", "sl": "sl", "sv": "sv", "uk": "uk",
        "am": None, "ar": None, "bn": None, "fa": None, "he": None, "kn": None, "kz": None, "tr": None,
    },
    "val": {"is": "is", "nl": "nl", "pt": "pt", "ce": None, "tg": None},
    "test": {
        "it": "it", "no": "nb", "sk": "sk", "sr": "sr",
        "az": None, "cy": None, "fi": None, "hu": None, "id": None, "lt": None,
    },
}  # fmt: skip

# Variants of eSpeak NG's voices that sound like people. None has `echo` or `breath`: with those (f2, f3, f5, Alicia, …)
# the same list of words comes out differently in every process.
VOICES: Mapping[Split, tuple[str, ...]] = {
    "train": (
        "m1", "m3", "m6", "m7", "Alex", "Denis", "Michael", "ed",
        "f1", "Andrea", "anika", "belinda", "grandma", "shelby",
    ),
    "val": ("m5", "john", "aunty"),
    "test": ("m4", "m8", "steph"),
}  # fmt: skip


@dataclass(frozen=True)
class Difficulty:
    """How far the inputs are degraded.

    Attributes:
        image_energy: Share of the training images' PCA energy that is at least kept; None leaves the image as it is.
        audio_snr_db: Ratio of speech to added white noise; None adds none.
    """

    image_energy: float | None
    audio_snr_db: float | None


DIFFICULTIES: Mapping[str, Difficulty] = {
    "easy": Difficulty(image_energy=None, audio_snr_db=None),
    "default": Difficulty(image_energy=0.35, audio_snr_db=30.0),
    "hard": Difficulty(image_energy=0.25, audio_snr_db=5.0),
}

MODALITIES = (
    Modality(name="image", kind="image", facts={"channels": 1, "size": [8, 8]}),
    Modality(name="text", kind="text"),
    Modality(name="audio", kind="audio", facts={"rate": RATE_HZ}),
)
TASKS = (TaskSpec(name="digit", kind="multiclass", num_outputs=10, class_names=tuple("0123456789")),)

_PITCHES = (30, 70)
_WORDS_PER_MINUTE = (140, 230)
_FASTEST_WORDS_PER_MINUTE = 450
_SILENCE = 0.02  # share of a word's peak under which its ends are cut off
_LAYOUT = 1  # of the cached arrays
_GROUPS = "by written and spoken word"  # what samples of one group share


def describe(*, difficulty: str, seed: int) -> DatasetInfo:
    """Return what planning must know; the fingerprint holds the versions that words and speech depend on."""
    _check_options(difficulty, seed)
    versions = [f"{package} {_version(package)}" for package in ("num2words", "espeakng-loader")]
    facts = [[LANGUAGES[split], VOICES[split]] for split in SPLITS] + [asdict(DIFFICULTIES[difficulty]), _GROUPS]
    tables = _digest(facts)
    return DatasetInfo(modalities=MODALITIES, tasks=TASKS, fingerprint=", ".join([*versions, f"tables {tables}"]))


def open_digits(root: Path, *, difficulty: str, seed: int) -> dict[Split, list[Sample]]:
    """Return the splits: 1,200, 240 and 300 samples, the ten digits equally often in each.

    Args:
        root: Where the synthesised speech is kept, some 15 MB.
        difficulty: One of `DIFFICULTIES`.
        seed: Draws languages, voices, pitch, speed, pairing and noise; the split of the images is fixed.

    Raises:
        UsageError: there is no such difficulty, or the seed is not a whole number.
        Unavailable: num2words, scikit-learn or eSpeak NG are missing.
    """
    _check_options(difficulty, seed)
    chosen = DIFFICULTIES[difficulty]
    drawn = {split: draw(split, seed) for split in SPLITS}
    images = _images()
    if chosen.image_energy is not None:
        images = _degrade_images(images, chosen.image_energy)
    speech = _speech(root, drawn)
    splits: dict[Split, list[Sample]] = {}
    for split in SPLITS:
        splits[split] = []
        groups = word_groups(drawn[split])
        for number, item in enumerate(drawn[split]):
            waveform = speech[split][number]
            if chosen.audio_snr_db is not None:
                rng = np.random.default_rng([seed, SPLITS.index(split), number, 1])
                waveform = add_noise(waveform, chosen.audio_snr_db, rng)
            inputs = {
                "image": images[split][number],
                "text": item.word,
                "audio": Waveform(values=waveform, rate=RATE_HZ),
            }
            splits[split].append(
                Sample(
                    sample_id=f"{split}-{number:04}",
                    inputs=inputs,
                    targets={"digit": item.digit},
                    group=groups[number],
                )
            )
    return splits


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What one sample says and how it is said.

    Attributes:
        digit: The label, 0 to 9.
        word: In `text_language`.
        text_language: Code of num2words.
        spoken: In `voice`'s language.
        voice: "LANGUAGE+VARIANT" of eSpeak NG.
        pitch: 0 to 99.
        words_per_minute: Speed.
    """

    digit: int
    word: str
    text_language: str
    spoken: str
    voice: str
    pitch: int
    words_per_minute: int


def draw(split: Split, seed: int) -> list[Drawn]:
    """Draw the words and voices of one split; sample `number` is of digit ``number % 10``."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    voices = LANGUAGES[split]
    words = _own_words(split)
    spoken_with = [] if split == "train" else [_spoken_with(list(of_digit), voices, rng) for of_digit in words]
    drawn = []
    for number in range(10 * PER_CLASS[split]):
        digit = number % 10
        text_language = _choice(list(words[digit]), rng)
        if spoken_with:
            spoken_language = spoken_with[digit][text_language]
        else:
            spoken_language = _choice([name for name in words[digit] if voices[name] and name != text_language], rng)
        drawn.append(
            Drawn(
                digit=digit,
                word=words[digit][text_language],
                text_language=text_language,
                spoken=words[digit][spoken_language],
                voice=f"{voices[spoken_language]}+{_choice(VOICES[split], rng)}",
                pitch=int(rng.integers(*_PITCHES)),
                words_per_minute=int(rng.integers(*_WORDS_PER_MINUTE)),
            )
        )
    return drawn


def spelling(word: str) -> str:
    """Return a word without what is no difference of spelling: case and the form of its Unicode characters."""
    return unicodedata.normalize("NFKC", word).casefold()


def word_groups(drawn: Sequence[Drawn]) -> list[str]:
    """Return the group of each sample: samples that share the written or the spoken word, directly or through others.

    A group has the name of the first of its written words in alphabetical order.
    """
    group_of: dict[tuple[str, str], set[str]] = {}
    for item in drawn:
        keys = ("written", spelling(item.word)), ("spoken", spelling(item.spoken))
        merged = set().union({spelling(item.word)}, *(group_of.get(key, ()) for key in keys))
        for key, group in group_of.items():
            if group & merged:
                group_of[key] = merged
        group_of.update(dict.fromkeys(keys, merged))
    return [min(group_of["written", spelling(item.word)]) for item in drawn]


def _own_words(split: Split) -> list[dict[str, str]]:
    """Return the words of a split by digit and language, without those spelled as in a split that comes after it.

    In val and test a spelling that several languages share counts once, for the first of them, so that groups of
    samples that share words stay small.
    """
    later = [language for other in SPLITS[SPLITS.index(split) + 1 :] for language in LANGUAGES[other]]
    words: list[dict[str, str]] = []
    for digit in range(10):
        taken = {spelling(word_of(digit, language)) for language in later}
        words.append({})
        for language in LANGUAGES[split]:
            word = word_of(digit, language)
            if spelling(word) not in taken:
                words[digit][language] = word
                if split != "train":
                    taken.add(spelling(word))
    return words


def _spoken_with(
    languages: Sequence[str], voices: Mapping[str, str | None], rng: np.random.Generator
) -> dict[str, str]:
    """Return the spoken language that each written one always meets: another one, all about equally often."""
    shuffled = [languages[position] for position in rng.permutation(len(languages))]
    spoken = [language for language in shuffled if voices[language]]
    read_only = [language for language in shuffled if not voices[language]]
    return dict(zip(spoken, spoken[1:] + spoken[:1])) | dict(zip(read_only, itertools.cycle(spoken)))


def _choice(items: Sequence[str], rng: np.random.Generator) -> str:
    return items[rng.integers(len(items))]


def word_of(digit: int, language: str) -> str:
    """Return the digit's word in a language of num2words."""
    try:
        from num2words import num2words
    except ImportError:
        raise Unavailable("the number words need num2words; install it with `pip install num2words`") from None
    return str(num2words(digit, lang=language)).strip()


def add_noise(waveform: NDArray[np.float32], snr_db: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Add white Gaussian noise at a ratio of speech to noise power, then scale the peak back to at most 1."""
    power = float(np.mean(np.square(waveform, dtype=np.float64)))
    noise = rng.standard_normal(len(waveform)) * np.sqrt(power / 10 ** (snr_db / 10))
    noisy = waveform + noise
    return (noisy / max(1.0, float(np.abs(noisy).max()))).astype(np.float32)


def trim_silence(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut off both ends up to where the word passes 2 % of its peak."""
    loud = np.flatnonzero(np.abs(waveform) > _SILENCE * np.abs(waveform).max(initial=0.0))
    return waveform[loud[0] : loud[-1] + 1] if len(loud) else waveform[:0]


def _images() -> dict[Split, NDArray[np.uint8]]:
    """Return the images by split, uint8 (N, 1, 8, 8), sample `number` of digit ``number % 10``."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise Unavailable("the images need scikit-learn; install it with `pip install scikit-learn`") from None
    loaded = load_digits()
    pixels = np.round(loaded.images * (255 / 16)).astype(np.uint8)[:, None]  # 0 … 16 -> 0 … 255
    by_digit = [pixels[loaded.target == digit] for digit in range(10)]
    images: dict[Split, NDArray[np.uint8]] = {}
    begin = 0
    for split in SPLITS:
        end = begin + PER_CLASS[split]
        # (count, 10, 1, 8, 8) -> (count * 10, 1, 8, 8): digits take turns
        images[split] = np.stack([of_digit[begin:end] for of_digit in by_digit], axis=1).reshape(-1, 1, 8, 8)
        begin = end
    return images


def _degrade_images(images: Mapping[Split, NDArray[np.uint8]], energy: float) -> dict[Split, NDArray[np.uint8]]:
    """Keep the leading principal components of the training images that together hold `energy` of their variance."""
    train = images["train"].reshape(len(images["train"]), -1).astype(np.float64)
    mean = train.mean(axis=0)
    _, singular_values, components = np.linalg.svd(train - mean, full_matrices=False)
    shares = np.cumsum(singular_values**2) / np.sum(singular_values**2)
    kept = components[: int(np.searchsorted(shares, energy)) + 1]
    degraded: dict[Split, NDArray[np.uint8]] = {}
    for split, pixels in images.items():
        flat = pixels.reshape(len(pixels), -1) - mean
        restored = flat @ kept.T @ kept + mean
        degraded[split] = np.clip(np.round(restored), 0, 255).astype(np.uint8).reshape(pixels.shape)
    return degraded


def _speech(root: Path, drawn: Mapping[Split, list[Drawn]]) -> dict[Split, list[NDArray[np.float32]]]:
    """Return the spoken words by split, float32 (L,) at 8 kHz; synthesised once per root, list of words and version."""
    everything = [item for split in SPLITS for item in drawn[split]]
    key = f"speech-{_LAYOUT}-{_version('espeakng-loader')}-{_digest([asdict(item) for item in everything])}"
    arrays = ArrayCache(Path(root)).get_or_make(key, lambda: _synthesise(everything))
    joined, offsets = arrays["joined"], arrays["offsets"]
    words = [joined[begin:end] / np.float32(32_768) for begin, end in itertools.pairwise(offsets)]
    speech: dict[Split, list[NDArray[np.float32]]] = {}
    begin = 0
    for split in SPLITS:
        speech[split] = words[begin : begin + len(drawn[split])]
        begin += len(drawn[split])
    return speech


def _synthesise(drawn: list[Drawn]) -> dict[str, NDArray[Any]]:
    """Say every word, at 8 kHz without silence; a word over `MAX_SPEECH_S` is said again, faster."""
    words = _say(drawn, [item.words_per_minute for item in drawn])
    limit = int(MAX_SPEECH_S * RATE_HZ)
    long = [number for number, word in enumerate(words) if len(word) > limit]
    if long:
        speeds = [
            min(_FASTEST_WORDS_PER_MINUTE, int(1.15 * drawn[number].words_per_minute * len(words[number]) / limit))
            for number in long
        ]
        for number, word in zip(long, _say([drawn[number] for number in long], speeds), strict=True):
            words[number] = word[:limit]
    silent = [item for item, word in zip(drawn, words, strict=True) if len(word) < RATE_HZ // 50]
    if silent:
        raise Unavailable(f"eSpeak NG says nothing for {silent[0].spoken!r} with the voice {silent[0].voice!r}")
    quantised = [np.round(word * 32_767).astype(np.int16) for word in words]
    return {"joined": np.concatenate(quantised), "offsets": np.cumsum([0, *(len(word) for word in quantised)])}


def _say(drawn: list[Drawn], speeds: list[int]) -> list[NDArray[np.float32]]:
    from scipy.signal import firwin, resample_poly

    from mmbench_datasets.espeak import Utterance, synthesise

    spoken, rate = synthesise(
        [
            Utterance(text=item.spoken, voice=item.voice, pitch=item.pitch, words_per_minute=speed)
            for item, speed in zip(drawn, speeds, strict=True)
        ]
    )
    up, down = RATE_HZ // math.gcd(RATE_HZ, rate), rate // math.gcd(RATE_HZ, rate)  # 160 / 441
    # resample_poly's own filter, designed once: designing it took most of the time.
    taps = firwin(20 * max(up, down) + 1, 1 / max(up, down), window=("kaiser", 5.0))
    resampled = [resample_poly(samples / 32_768, up, down, window=taps).astype(np.float32) for samples in spoken]
    return [trim_silence(np.clip(word, -1, 1)) for word in resampled]


def _check_options(difficulty: Any, seed: Any) -> None:
    if difficulty not in DIFFICULTIES:
        raise UsageError(
            f"digits has no difficulty {difficulty!r}; choose one of {', '.join(DIFFICULTIES)}."
            f"{did_you_mean(str(difficulty), DIFFICULTIES)}"
        )
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UsageError(f"the seed of digits must be a whole number of at least 0, got {seed!r}")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
