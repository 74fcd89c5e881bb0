"""The digits: what is real, what is synthesised, what is disjoint, and that fusion matters."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest
from mmbench_datasets import digits, espeak
from scipy.fft import dct
from scipy.signal import stft
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mmbench.data import SPLITS, check_canonical
from mmbench.errors import Unavailable, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("digits")


@pytest.fixture(scope="module")
def opened(root):
    return {name: digits.open_digits(root, difficulty=name, seed=0) for name in digits.DIFFICULTIES}


def labels(splits, split):
    return np.array([sample.targets["digit"] for sample in splits[split]])


def test_each_split_holds_every_digit_equally_often(opened):
    counts = {split: Counter(labels(opened["default"], split).tolist()) for split in SPLITS}

    assert counts["train"] == dict.fromkeys(range(10), 120)
    assert counts["val"] == dict.fromkeys(range(10), 24)
    assert counts["test"] == dict.fromkeys(range(10), 30)


def test_samples_are_canonical(opened):
    kinds = {"image": "image", "text": "text", "audio": "audio"}
    for split in SPLITS:
        for sample in opened["default"][split]:
            for name, kind in kinds.items():
                check_canonical(name, kind, sample.inputs[name])
            assert sample.inputs["image"].shape == (1, 8, 8)
            assert sample.inputs["audio"].rate == 8_000


def test_no_language_is_in_two_splits():
    for one, other in itertools.combinations(SPLITS, 2):
        assert not set(digits.LANGUAGES[one]) & set(digits.LANGUAGES[other])
        voices = [{voice for voice in digits.LANGUAGES[split].values() if voice} for split in (one, other)]
        assert not voices[0] & voices[1]


def test_no_voice_is_in_two_splits():
    for one, other in itertools.combinations(SPLITS, 2):
        assert not set(digits.VOICES[one]) & set(digits.VOICES[other])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_word_of_test_was_read_or_heard_before_and_none_of_val_in_training(seed):
    words = {
        split: {
            unicodedata.normalize("NFKC", word).casefold()
            for item in digits.draw(split, seed)
            for word in (item.word, item.spoken)
        }
        for split in SPLITS
    }

    assert not words["test"] & words["train"]
    assert not words["test"] & words["val"]
    assert not words["val"] & words["train"]
    assert len(words["test"]) > 80


def test_words_are_written_and_spoken_in_two_different_languages():
    for split in SPLITS:
        for item in digits.draw(split, seed=0):
            spoken = item.voice.split("+")[0]

            assert spoken != digits.LANGUAGES[split][item.text_language]


@pytest.mark.parametrize("split", ["val", "test"])
def test_samples_that_share_a_written_or_a_spoken_word_are_in_one_group(split):
    drawn = digits.draw(split, seed=0)
    groups = digits.word_groups(drawn)

    for one, other in itertools.combinations(range(len(drawn)), 2):
        if drawn[one].word == drawn[other].word or drawn[one].spoken == drawn[other].spoken:
            assert groups[one] == groups[other]
    spoken_per_digit = [len({item.spoken for item in drawn if item.digit == digit}) for digit in range(10)]
    assert len(set(groups)) == sum(spoken_per_digit)  # a written word meets one spoken word


def test_samples_carry_the_group_of_their_words(opened):
    drawn = digits.draw("test", seed=0)

    assert [sample.group for sample in opened["default"]["test"]] == digits.word_groups(drawn)
    groups = {split: {sample.group for sample in opened["default"][split]} for split in SPLITS}
    assert len(groups["test"]) == 36
    assert not groups["test"] & (groups["train"] | groups["val"])


def test_groups_join_through_samples_between_them():
    def sample(word, spoken):
        return digits.Drawn(digit=3, word=word, text_language="", spoken=spoken, voice="", pitch=0, words_per_minute=0)

    drawn = [sample("tre", "tri"), sample("trys", "tri"), sample("Trys", "üç"), sample("tri", "kolme")]

    assert digits.word_groups(drawn) == ["tre", "tre", "tre", "tri"]


@pytest.mark.parametrize("split", SPLITS)
def test_the_samples_use_every_language_and_voice_of_their_split_and_no_other(split):
    drawn = digits.draw(split, seed=0)
    speakable = {voice for voice in digits.LANGUAGES[split].values() if voice}

    assert {item.text_language for item in drawn} == set(digits.LANGUAGES[split])
    assert {item.voice.split("+")[0] for item in drawn} == speakable
    assert {item.voice.split("+")[1] for item in drawn} == set(digits.VOICES[split])


def test_every_language_has_ten_different_words_without_figures():
    for languages in digits.LANGUAGES.values():
        for language in languages:
            words = [digits.word_of(digit, language) for digit in range(10)]

            assert len(set(words)) == 10, language
            assert all(word and not any(letter.isdigit() for letter in word) for word in words), language


def test_words_are_those_of_the_language():
    assert digits.word_of(0, "de") == "null"
    assert digits.word_of(7, "it") == "sette"
    assert digits.word_of(9, "sr") == "devet"


def test_the_easy_images_are_those_of_scikit_learn_in_the_order_of_the_file(opened):
    loaded = load_digits()
    first_zero, second_zero = loaded.images[loaded.target == 0][:2]
    images = [sample.inputs["image"][0] for sample in opened["easy"]["train"]]

    np.testing.assert_array_equal(images[0], np.round(first_zero * 255 / 16))
    np.testing.assert_array_equal(images[10], np.round(second_zero * 255 / 16))
    assert max(image.max() for image in images) == 255


def test_no_image_is_in_two_splits(opened):
    hashes = {split: {sample.inputs["image"].tobytes() for sample in opened["easy"][split]} for split in SPLITS}

    assert not hashes["train"] & hashes["test"]
    assert not hashes["train"] & hashes["val"]


def test_speech_is_trimmed_and_at_most_seven_tenths_of_a_second(opened):
    for split in SPLITS:
        for sample in opened["easy"][split]:
            values = sample.inputs["audio"].values

            assert 0.02 <= len(values) / 8_000 <= 0.7
            assert abs(values[0]) > 0.02 * np.abs(values).max() * 0.9
            assert np.abs(values).max() <= 1


def test_another_process_makes_the_same_data(opened, tmp_path):
    code = (
        "import sys, hashlib, pathlib; from mmbench_datasets.digits import open_digits;"
        "splits = open_digits(pathlib.Path(sys.argv[1]), difficulty='default', seed=0);"
        "print(hashlib.sha256(b''.join(s.inputs['image'].tobytes() + s.inputs['audio'].values.tobytes()"
        " + s.inputs['text'].encode() for x in splits.values() for s in x)).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    here = hashlib.sha256()
    for samples in opened["default"].values():
        for sample in samples:
            here.update(sample.inputs["image"].tobytes() + sample.inputs["audio"].values.tobytes())
            here.update(sample.inputs["text"].encode())

    assert there.stdout.strip() == here.hexdigest()


def test_another_seed_gives_other_speech_for_the_same_images(opened, tmp_path):
    other = digits.open_digits(tmp_path, difficulty="easy", seed=1)

    first, second = opened["easy"]["test"][0], other["test"][0]
    np.testing.assert_array_equal(first.inputs["image"], second.inputs["image"])
    assert len(first.inputs["audio"].values) != len(second.inputs["audio"].values)


def test_the_second_opening_takes_the_speech_from_the_folder(root, opened, monkeypatch):
    monkeypatch.setattr(espeak, "synthesise", None)  # calling it would raise

    again = digits.open_digits(root, difficulty="default", seed=0)

    np.testing.assert_array_equal(
        again["test"][5].inputs["audio"].values, opened["default"]["test"][5].inputs["audio"].values
    )


def test_the_default_image_keeps_the_components_that_hold_35_percent_of_the_energy(opened):
    original = np.stack([sample.inputs["image"].ravel() for sample in opened["easy"]["train"]]).astype(float)
    degraded = np.stack([sample.inputs["image"].ravel() for sample in opened["default"]["train"]]).astype(float)
    variances = np.sort(np.linalg.eigvalsh(np.cov(original.T)))[::-1]
    shares = np.cumsum(variances) / variances.sum()

    # The first three components hold 39.8 %, the first two 27.7 %.
    assert shares[:3] == pytest.approx([0.143, 0.277, 0.398], abs=0.001)
    kept = np.cov(degraded.T).trace() / np.cov(original.T).trace()
    assert kept == pytest.approx(0.398, abs=0.03)  # clipping to 0 … 255 takes a little


def test_noise_has_the_power_that_was_asked_for():
    rng = np.random.default_rng(0)
    tone = (0.1 * np.sin(np.arange(80_000))).astype(np.float32)

    noise = digits.add_noise(tone, 10.0, rng) - tone

    assert 10 * np.log10(np.mean(tone**2) / np.mean(noise**2)) == pytest.approx(10.0, abs=0.1)


def test_noise_never_leaves_the_range_of_a_waveform():
    loud = np.ones(1_000, dtype=np.float32)

    assert np.abs(digits.add_noise(loud, 0.0, np.random.default_rng(0))).max() == pytest.approx(1.0)


def melspectrum(waveform):
    values = np.pad(waveform.values, (0, max(0, 256 - len(waveform.values))))
    hertz = np.linspace(0, 4_000, 129)
    edges = 700 * (10 ** (np.linspace(90, 2146, 34) / 2595) - 1)
    rising = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    bank = np.clip(np.minimum(rising, falling), 0, None)
    power = np.abs(stft(values, 8_000, nperseg=256, noverlap=192)[2]) ** 2
    logmel = np.log(bank @ power + 1e-7)
    times = np.linspace(0, logmel.shape[1] - 1, 16)
    resized = np.stack([np.interp(times, np.arange(logmel.shape[1]), row) for row in logmel])
    return np.concatenate([dct(resized - resized.mean(), axis=0, norm="ortho")[:13].ravel(), [len(values) / 4_000]])


def scores(splits):
    """Test accuracy of logistic regression on simple features: each alone, and the sum of log-probabilities."""
    target, test = labels(splits, "train"), labels(splits, "test")
    pixels = {split: [s.inputs["image"].ravel() / 64 for s in splits[split]] for split in SPLITS}
    sounds = {split: np.stack([melspectrum(s.inputs["audio"]) for s in splits[split]]) for split in ("train", "test")}
    words = {split: [s.inputs["text"] for s in splits[split]] for split in SPLITS}
    scaler = StandardScaler().fit(sounds["train"])
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3), sublinear_tf=True).fit(words["train"])
    inputs = {
        "image": (1.0, pixels["train"], pixels["test"]),
        "audio": (0.003, scaler.transform(sounds["train"]), scaler.transform(sounds["test"])),
        "text": (30.0, letters.transform(words["train"]), letters.transform(words["test"])),
    }
    logs = {
        name: LogisticRegression(C=strength, max_iter=150).fit(train, target).predict_log_proba(held_out)
        for name, (strength, train, held_out) in inputs.items()
    }
    found = {name: float((log.argmax(axis=1) == test).mean()) for name, log in logs.items()}
    return {**found, "together": float((sum(logs.values()).argmax(axis=1) == test).mean())}


@pytest.mark.slow
def test_by_default_no_modality_alone_comes_near_all_three_together(opened):
    found = scores(opened["default"])

    assert found["together"] > 0.8
    assert 0.6 < found["image"] < 0.8
    assert 0.6 < found["audio"] < 0.85
    assert 0.45 < found["text"] < 0.7
    assert max(found["image"], found["audio"], found["text"]) < found["together"] - 0.05


@pytest.mark.slow
def test_harder_means_worse_alone(opened):
    easy, default, hard = (scores(opened[name]) for name in ("easy", "default", "hard"))

    assert easy["image"] > default["image"] > hard["image"]
    assert easy["audio"] > hard["audio"]


def test_an_unknown_difficulty_is_answered_with_the_known_ones(root):
    with pytest.raises(UsageError, match=r"no difficulty 'harder'; choose one of easy, default, hard.*mean 'hard'"):
        digits.describe(difficulty="harder", seed=0)
    with pytest.raises(UsageError):
        digits.open_digits(root, difficulty="harder", seed=0)


def test_a_seed_that_is_no_count_is_refused():
    with pytest.raises(UsageError, match="whole number"):
        digits.describe(difficulty="easy", seed="x")


def test_the_fingerprint_names_the_versions_that_the_data_depend_on():
    fingerprint = digits.describe(difficulty="default", seed=0).fingerprint

    assert "num2words 0." in fingerprint
    assert "espeakng-loader 0." in fingerprint


def test_without_espeak_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "espeakng_loader.py").write_text("raise ImportError('No module named espeakng_loader')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    with pytest.raises(Unavailable, match="No module named espeakng_loader; install it with `pip install"):
        digits.open_digits(tmp_path / "root", difficulty="default", seed=0)


def test_without_the_data_of_espeak_the_error_says_so(tmp_path, monkeypatch):
    (tmp_path / "espeakng_loader.py").write_text(
        "import importlib.util, sys, pathlib\n"
        "sys.path.remove(str(pathlib.Path(__file__).parent))\n"
        "spec = importlib.util.find_spec('espeakng_loader')\n"
        "real = importlib.util.module_from_spec(spec); spec.loader.exec_module(real)\n"
        "get_library_path = real.get_library_path\n"
        "def get_data_path(): return '/nowhere'\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    # find_spec would give this very module back from sys.modules; a fresh search is needed.
    text = (
        (tmp_path / "espeakng_loader.py")
        .read_text()
        .replace(
            "importlib.util.find_spec('espeakng_loader')",
            "__import__('importlib.machinery').machinery.PathFinder.find_spec('espeakng_loader')",
        )
    )
    (tmp_path / "espeakng_loader.py").write_text(text)

    with pytest.raises(Unavailable, match="lacks eSpeak NG's data"):
        digits.open_digits(tmp_path / "root", difficulty="default", seed=0)


def test_a_word_sounds_different_in_two_languages_and_two_voices():
    said, rate = espeak.synthesise(
        [
            espeak.Utterance(text="sette", voice="it+m4"),
            espeak.Utterance(text="sette", voice="it+f4"),
            espeak.Utterance(text="sedem", voice="sk+m4"),
        ]
    )

    assert rate == 22_050
    assert len({hashlib.sha256(samples.tobytes()).hexdigest() for samples in said}) == 3
    assert all(np.abs(samples).max() > 1_000 for samples in said)


def test_an_unknown_voice_is_named():
    with pytest.raises(Unavailable, match="no voice 'xx"):
        espeak.synthesise([espeak.Utterance(text="a", voice="xx+m1")])
