"""Disturbed inputs: what severity promises is what comes out, the same for a sample every time."""

from __future__ import annotations

import difflib

import numpy as np
import pytest

from mmbench.data import Waveform, check_canonical
from mmbench.diagnostics.noise import CORRUPTIONS, SEVERITIES, Stats, condition, corrupt, snr_db, stats_of
from mmbench.diagnostics.robustness import area

RNG = np.random.default_rng(0)
TONE = Waveform(np.sin(np.arange(8000) * 0.3).astype(np.float32) * 0.5, 8000)
STATS = Stats(np.arange(5, dtype=np.float32), np.array([0, 1, 2, 3, 4], dtype=np.float32))
VALUES = {
    "image": RNG.integers(0, 256, (3, 32, 24)).astype(np.uint8),
    "video": RNG.integers(0, 256, (4, 1, 16, 16)).astype(np.uint8),
    "audio": TONE,
    "text": "the quick brown fox jumps over the lazy dog",
    "tabular": RNG.normal(size=5).astype(np.float32),
    "sequence": RNG.normal(size=(20, 5)).astype(np.float32),
}
ALL = [(kind, corruption) for kind, corruptions in CORRUPTIONS.items() for corruption in corruptions]


def named(kind, name):
    return next(corruption for corruption in CORRUPTIONS[kind] if corruption.name == name)


def changed(kind, name, severity, value=None, seed="s"):
    return corrupt(VALUES[kind] if value is None else value, named(kind, name), severity, seed=seed, stats=STATS)


def plain(value):
    return value.values if isinstance(value, Waveform) else value


@pytest.mark.parametrize(("kind", "corruption"), ALL, ids=lambda item: getattr(item, "name", item))
@pytest.mark.parametrize("severity", SEVERITIES)
def test_a_disturbed_sample_is_canonical_repeats_and_leaves_the_original(kind, corruption, severity):
    before = np.array(plain(VALUES[kind]))

    one = corrupt(VALUES[kind], corruption, severity, seed="a", stats=STATS)
    two = corrupt(VALUES[kind], corruption, severity, seed="a", stats=STATS)

    check_canonical("it", kind, one)
    assert np.array_equal(plain(one), plain(two))
    assert np.array_equal(np.array(plain(VALUES[kind])), before)
    assert not np.array_equal(plain(one), before) or (kind, corruption.name, severity) == ("tabular", "drop", 0.1)
    assert corrupt(VALUES[kind], corruption, 0.0, seed="a", stats=STATS) is VALUES[kind]


def test_other_samples_get_other_noise_and_more_of_it_is_more_of_the_same():
    assert not np.array_equal(changed("tabular", "gaussian", 0.5), changed("tabular", "gaussian", 0.5, seed="t"))
    half = changed("sequence", "gaussian", 0.5) - VALUES["sequence"]
    full = changed("sequence", "gaussian", 1.0) - VALUES["sequence"]
    assert full == pytest.approx(2 * half, abs=1e-5)
    lost = [np.abs(changed("sequence", "drop", s) - STATS.mean).sum(axis=1) == 0 for s in (0.25, 0.5)]
    assert [int(item.sum()) for item in lost] == [5, 10]
    assert bool((lost[1] | ~lost[0]).all())


# Audio


@pytest.mark.parametrize("severity", SEVERITIES)
def test_the_signal_to_noise_ratio_measured_is_the_one_asked_for(severity):
    noise = changed("audio", "noise", severity).values.astype(np.float64) - TONE.values

    ratio = 10 * np.log10(np.square(TONE.values, dtype=np.float64).mean() / np.square(noise).mean())

    assert ratio == pytest.approx(30 - 40 * severity, abs=0.01)
    assert ratio == pytest.approx(snr_db(severity), abs=0.01)


def test_silence_stays_silence():
    silence = Waveform(np.zeros(100, dtype=np.float32), 8000)

    for name in ("noise", "clipping", "dropout"):
        assert not changed("audio", name, 1.0, silence).values.any()


def test_clipping_bounds_the_wave_and_dropout_silences_a_share_of_frames():
    assert np.abs(changed("audio", "clipping", 0.5).values).max() == pytest.approx(0.505 * 0.5, rel=1e-3)
    ones = Waveform(np.ones(8000, dtype=np.float32), 8000)
    frames = changed("audio", "dropout", 0.25, ones).values.reshape(50, 160)
    assert sorted(frames.mean(axis=1)) == [0.0] * 12 + [1.0] * 38
    assert not changed("audio", "dropout", 1.0, ones).values.any()


# Images


def test_image_noise_has_the_standard_deviation_it_says():
    grey = np.full((1, 200, 200), 128, dtype=np.uint8)

    assert changed("image", "gaussian", 0.1, grey).astype(float).std() == pytest.approx(12.8, rel=0.03)


def test_occlusion_covers_its_share_in_one_block_and_the_same_in_every_channel():
    black = np.zeros((3, 40, 40), dtype=np.uint8)

    covered = changed("image", "occlusion", 0.25, black)

    assert (covered == 128).mean() == 0.25
    rows = np.flatnonzero((covered[0] == 128).any(axis=1))
    assert np.array_equal(rows, np.arange(rows[0], rows[0] + 20))
    assert np.array_equal(covered[0], covered[2])
    assert (changed("image", "occlusion", 1.0, black) == 128).all()


def test_contrast_goes_by_its_share_and_blur_spreads_as_far_as_it_says():
    half = changed("image", "contrast", 0.5)
    assert half.std() == pytest.approx(VALUES["image"].std() / 2, rel=0.01)
    assert np.unique(changed("image", "contrast", 1.0)).size == 1

    dot = np.zeros((1, 65, 65), dtype=np.uint8)
    dot[0, 32] = 255  # a line: its blur along the other axis is the Gaussian itself
    profile = changed("image", "blur", 0.1, dot)[0, :, 32].astype(float)
    away = np.arange(65) - 32
    assert np.sqrt((profile * away**2).sum() / profile.sum()) == pytest.approx(65 / 40, rel=0.05)


# Text


def test_text_loses_its_share_of_words_and_keeps_one():
    text = " ".join(f"w{at}" for at in range(20))

    left = changed("text", "drop", 0.25, text).split()

    assert len(left) == 15
    assert left == [word for word in text.split() if word in left]
    assert changed("text", "drop", 1.0, text) == "w0"
    assert changed("text", "drop", 1.0, "one") == "one"
    assert changed("text", "typos", 1.0, "") == ""


def test_swapped_letters_are_the_same_letters_and_typos_hit_their_share():
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 104)))

    swapped = changed("text", "swap", 0.5, text)
    typed = changed("text", "typos", 0.2, text)

    assert sorted(swapped) == sorted(text)
    assert sum(a != b for a, b in zip(swapped, text)) == 2 * 26
    kept = sum(block.size for block in difflib.SequenceMatcher(a=text, b=typed, autojunk=False).get_matching_blocks())
    assert len(text) - 11 <= kept <= len(text)
    assert typed != text


# Tables


def test_table_noise_is_in_standard_deviations_of_training():
    table = np.zeros((5000, 5), dtype=np.float32)

    noisy = changed("sequence", "gaussian", 0.5, table)

    assert noisy.std(axis=0) == pytest.approx([0, 1, 2, 3, 4], rel=0.05)
    assert changed("tabular", "drop", 1.0).tolist() == [0, 1, 2, 3, 4]


def test_statistics_leave_out_what_is_not_known():
    rows = [np.array([1.0, np.nan], dtype=np.float32), np.array([3.0, 5.0], dtype=np.float32)]

    stats = stats_of(rows)

    assert stats.mean.tolist() == [2.0, 5.0]
    assert stats.std.tolist() == [1.0, 0.0]


# Curves


def test_the_area_is_numpy_s():
    severities, scores = [0.0, *SEVERITIES], [0.9, 0.8, 0.7, 0.5, 0.4, 0.3]

    expected = np.interp(np.linspace(0, 1, 100_001), severities, scores).mean()
    assert area(severities, scores) == pytest.approx(expected, abs=1e-5)
    assert condition("image", named("image", "blur"), 0.5) == "noise:image.blur@0.5"
