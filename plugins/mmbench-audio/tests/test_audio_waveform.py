"""The transforms of waveforms agree with their formulas, written out in numpy."""

import subprocess
import sys

import numpy as np
import pytest
from mmbench_audio.waveform import LogMel, Resampled, common_rate, log_mel

from mmbench import Modality, Waveform

LOG_MEL = {"rate": 8_000, "num_mels": 20, "level": True, "window_ms": 32.0, "hop_ms": 20.0, "max_seconds": 4.0}


def noise(length, rate):
    return Waveform(np.random.default_rng(0).standard_normal(length).astype(np.float32) * 0.1, rate)


def log_mel_by_formula(samples, *, rate, num_mels, window, hop, size):
    """Log-mel by the definition: Hann window, discrete Fourier transform, triangles on the HTK mel scale."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    framed = np.zeros(size)
    framed[(size - window) // 2 : (size - window) // 2 + window] = hann
    signal = np.concatenate([np.zeros(size // 2), samples.astype(np.float64), np.zeros(size // 2)])
    num_bins = size // 2 + 1
    angles = -2j * np.pi * np.outer(np.arange(num_bins), np.arange(size)) / size
    num_frames = 1 + len(samples) // hop
    power = np.stack(
        [abs(np.exp(angles) @ (signal[t * hop : t * hop + size] * framed)) ** 2 for t in range(num_frames)]
    )

    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), num_mels + 2) / 2595) - 1)
    frequencies = np.arange(num_bins) * rate / size
    bands = np.zeros((num_frames, num_mels))
    for band, (low, centre, high) in enumerate(zip(corners, corners[1:], corners[2:])):
        for bin_, frequency in enumerate(frequencies):
            weight = max(0.0, min((frequency - low) / (centre - low), (high - frequency) / (high - centre)))
            bands[:, band] += weight * power[:, bin_]
    return np.log(bands + 1e-6)


@pytest.mark.parametrize("length", [1, 159, 160, 161, 1500])
def test_log_mel_matches_its_formula(length):
    sample = noise(length, 8_000)

    bands = LogMel(**LOG_MEL)(sample)

    expected = log_mel_by_formula(sample.values, rate=8_000, num_mels=20, window=256, hop=160, size=256)
    assert bands.dtype == np.float16
    assert bands.shape == (1 + length // 160, 20)
    np.testing.assert_allclose(bands, expected, atol=0.01)  # float16 keeps three digits


def test_a_window_that_is_no_power_of_two_is_centred_in_the_next_one():
    sample = noise(1500, 8_000)

    bands = LogMel(**{**LOG_MEL, "window_ms": 25.0})(sample)

    expected = log_mel_by_formula(sample.values, rate=8_000, num_mels=20, window=200, hop=160, size=256)
    np.testing.assert_allclose(bands, expected, atol=0.01)


def test_without_level_the_mean_over_bands_and_frames_is_zero():
    bands = LogMel(**{**LOG_MEL, "level": False})(noise(3000, 8_000))

    assert abs(bands.astype(np.float64).mean()) < 1e-3


def test_a_tone_lands_in_the_band_around_its_frequency():
    samples = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000).astype(np.float32)

    bands = LogMel(**LOG_MEL)(Waveform(samples, 8_000))

    # 1000 Hz are 1000 mel; 20 bands up to 4000 Hz = 2146 mel are 102.2 mel apart: the tenth is centred at 1022 mel.
    assert (bands[5:-5].argmax(axis=1) == 9).all()


def test_resampling_keeps_a_tone_and_drops_what_is_above_the_new_limit():
    times = np.arange(22_050) / 22_050
    low, high = (np.sin(2 * np.pi * frequency * times).astype(np.float32) for frequency in (1000, 6000))

    resampled = Resampled(rate=8_000, level=True, max_seconds=4.0)(Waveform(low + high, 22_050))

    assert resampled.dtype == np.float16
    assert resampled.shape == (8_000,)
    expected = np.sin(2 * np.pi * 1000 * np.arange(8_000) / 8_000)
    np.testing.assert_allclose(resampled[200:-200], expected[200:-200], atol=0.02)


def test_without_level_the_root_mean_square_is_one_but_silence_stays_silent():
    loud = Resampled(rate=8_000, level=False, max_seconds=4.0)(noise(5000, 8_000))
    silent = Resampled(rate=8_000, level=False, max_seconds=4.0)(Waveform(np.zeros(50, dtype=np.float32), 8_000))

    assert np.sqrt(np.mean(loud.astype(np.float64) ** 2)) == pytest.approx(1.0, abs=1e-3)
    assert (silent == 0).all()


def test_what_comes_after_the_greatest_length_is_cut_off():
    sample = noise(22_050, 22_050)

    assert Resampled(rate=8_000, level=True, max_seconds=0.5)(sample).shape == (4_000,)
    assert LogMel(**{**LOG_MEL, "max_seconds": 0.5})(sample).shape == (26, 20)


@pytest.mark.parametrize("rate", [4_000, 8_000, 44_100])
def test_one_sample_is_enough(rate):
    one = Waveform(np.array([0.5], dtype=np.float32), rate)

    assert len(Resampled(rate=8_000, level=False, max_seconds=4.0)(one)) >= 1
    assert LogMel(**LOG_MEL)(one).shape == (1, 20)


@pytest.mark.parametrize(("native", "wanted", "expected"), [(8_000, 16_000, 8_000), (44_100, 16_000, 16_000)])
def test_the_rate_is_not_raised_above_the_datas(native, wanted, expected):
    voice = Modality(name="voice", kind="audio", facts={"rate": native})

    assert common_rate(voice, wanted) == expected
    assert log_mel(voice, **{**LOG_MEL, "rate": wanted}).rate == expected


def test_samples_beyond_float16_do_not_become_infinite():
    loud = Waveform(np.array([1e6, -1e6, 0.0], dtype=np.float32), 8_000)

    assert Resampled(rate=8_000, level=True, max_seconds=1.0)(loud).tolist() == [65504.0, -65504.0, 0.0]


def test_the_callers_waveform_is_left_as_it_was():
    sample = noise(1000, 8_000)
    before = sample.values.copy()

    Resampled(rate=8_000, level=False, max_seconds=4.0)(sample)
    LogMel(**LOG_MEL)(sample)

    np.testing.assert_array_equal(sample.values, before)


def test_the_light_module_imports_no_torch():
    code = (
        "import sys, mmbench_audio; mmbench_audio.mmbench_encoders();"
        "print('torch' in sys.modules, 'torchaudio' in sys.modules)"
    )

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False False"


def test_building_an_encoder_imports_no_torchaudio():
    code = (
        "import sys; from mmbench import Modality; from mmbench_audio import mmbench_encoders;"
        "from mmbench_audio.logmel_cnn import LogMelCNN;"
        "LogMelCNN(Modality(name='a', kind='audio', facts={'rate': 8000}), 'vector', **mmbench_encoders()[0].defaults);"
        "print('torchaudio' in sys.modules)"
    )

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
