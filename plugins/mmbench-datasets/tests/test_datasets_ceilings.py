"""Ceiling sets: the declared scores against counting, reading and learning done independently here."""

from __future__ import annotations

import hashlib
import itertools
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from mmbench_datasets import mmbench_datasets as specs_of_package
from mmbench_datasets import rendering
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from mmbench.data import SPLITS, Waveform, check_canonical
from mmbench.errors import UsageError

SPECS = {spec.name: spec for spec in specs_of_package() if spec.ceilings}
NAMES = sorted(SPECS)


def open_set(name, seed=0):
    module, _, attribute = SPECS[name].factory.partition(":")
    return getattr(import_module(module), attribute)(Path("nowhere"), seed=seed)


def read(value):
    """Tell the symbol that an input shows, by a rule of its own kind; None for a missing input."""
    if value is None:
        return None
    if isinstance(value, Waveform):
        spectrum = np.abs(np.fft.rfft(value.values))
        hertz = np.argmax(spectrum) * value.rate / len(value.values)
        return int(np.argmin([abs(hertz - tone) for tone in (400, 700, 1100, 1600, 2200)]))
    if isinstance(value, str):
        nouns = [{"copper", "bronze"}, {"river", "lake"}, {"maple", "birch"}, {"falcon", "heron"}, {"violin", "cello"}]
        return next(symbol for symbol, words in enumerate(nouns) if words & set(value.split()))
    if value.ndim == 1:
        return int(np.argmax(value))
    if value.ndim == 4:
        first, second = value[0, 0] > 130, value[1, 0] > 130
        return next(symbol for symbol, shift in enumerate((2, -2)) if (np.roll(first, shift, axis=1) == second).all())
    if value.ndim == 2:
        return int(np.argmax(value.max(axis=0)))
    return int(np.abs(patterns(value.shape[-1]) - value[0]).max(axis=(2, 3)).min(axis=1).argmin())


@cache
def patterns(size):
    """Stripes without noise: (5 symbols, 17 phases, size, size)."""
    phases = np.linspace(-np.pi / 4, np.pi / 4, 17)
    return np.array([[rendering.stripes(symbol, size, phase) for phase in phases] for symbol in range(5)])


def first_label(sample):
    return next(iter(sample.targets.values()))


def subsets(names):
    return [chosen for count in range(1, len(names) + 1) for chosen in itertools.combinations(sorted(names), count)]


@pytest.fixture(scope="module")
def opened():
    return {name: open_set(name) for name in NAMES}


@pytest.fixture(scope="module")
def symbols(opened):
    """What is shown in each test split, read from the inputs alone."""
    return {
        name: [
            ({modality: read(sample.inputs[modality]) for modality in sample.inputs}, first_label(sample))
            for sample in opened[name]["test"]
        ]
        for name in NAMES
    }


def test_all_sets_of_the_issue_are_there():
    assert NAMES == [
        "moving", "quarters", "redundant", "redundant-3", "redundant-missing", "synergy", "synergy-3", "tasks",
        "unique", "unique-3", "xor",
    ]  # fmt: skip


def test_every_kind_of_modality_is_used_somewhere():
    kinds = {modality.kind for spec in SPECS.values() for modality in spec.modalities}

    assert kinds == {"audio", "image", "sequence", "tabular", "text", "video"}


@pytest.mark.parametrize("name", NAMES)
def test_a_ceiling_is_declared_for_every_subset_of_modalities(name):
    modalities = [modality.name for modality in SPECS[name].modalities]

    assert set(SPECS[name].ceilings) == {"+".join(chosen) for chosen in subsets(modalities)}


@pytest.mark.parametrize("name", NAMES)
def test_the_best_score_on_the_test_split_is_the_declared_ceiling_exactly(name, symbols):
    for subset, ceiling in SPECS[name].ceilings.items():
        counts = {}
        for shown, label in symbols[name]:
            seen = counts.setdefault(tuple(shown[modality] for modality in subset.split("+")), {})
            seen[label] = seen.get(label, 0) + 1
        best = sum(max(by_label.values()) for by_label in counts.values()) / len(symbols[name])

        assert best == pytest.approx(ceiling, abs=1e-12), subset


def test_the_ceilings_of_quarters_are_those_of_the_issue():
    assert dict(SPECS["quarters"].ceilings) == {"audio": 0.5, "image": 0.5, "audio+image": 1.0}


def test_quarters_has_the_sizes_of_av_mnist_shaped_sets(opened):
    assert {split: len(samples) for split, samples in opened["quarters"].items()} == {
        "train": 1600, "val": 400, "test": 400,
    }  # fmt: skip
    assert opened["quarters"]["train"][0].inputs["image"].shape == (1, 28, 28)


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_canonical_and_as_declared(name, opened):
    spec = SPECS[name]
    for split in SPLITS:
        for sample in opened[name][split][:50]:
            for modality in spec.modalities:
                value = sample.inputs[modality.name]
                if value is None:
                    assert modality.name in spec.missing
                    continue
                check_canonical(modality.name, modality.kind, value)
                if modality.kind in ("image", "video"):
                    assert [value.shape[-3], list(value.shape[-2:])] == [
                        modality.facts["channels"],
                        modality.facts["size"],
                    ]
                elif modality.kind == "audio":
                    assert value.rate == modality.facts["rate"]
                elif modality.kind in ("tabular", "sequence"):
                    assert value.shape[-1] == modality.facts["num_features"]
            assert set(sample.targets) == {task.name for task in spec.tasks}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_samples_and_another_seed_others(name, opened):
    assert fingerprint(open_set(name)) == fingerprint(opened[name])
    assert fingerprint(open_set(name, seed=1)) != fingerprint(opened[name])


def fingerprint(splits):
    content = hashlib.sha256()
    for split in SPLITS:
        for sample in splits[split]:
            for modality in sorted(sample.inputs):
                value = sample.inputs[modality]
                value = value.values if isinstance(value, Waveform) else value
                content.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
            content.update(repr((sample.sample_id, sample.targets)).encode())
    return content.hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_no_sample_occurs_in_two_splits(name, opened):
    seen = {}
    for split in SPLITS:
        for sample in opened[name][split]:
            values = [sample.inputs[modality] for modality in sorted(sample.inputs)]
            arrays = [value for value in values if not isinstance(value, str | None)]
            if not arrays:  # a short text alone may well repeat
                continue
            key = b"".join((value.values if isinstance(value, Waveform) else value).tobytes() for value in arrays)
            assert seen.setdefault(key, split) == split


def test_images_of_two_symbols_differ_by_more_than_the_noise_can_bridge():
    phases = np.linspace(-np.pi / 4, np.pi / 4, 13)
    for size in (16, 28):
        patterns = [np.stack([rendering.stripes(symbol, size, phase) for phase in phases]) for symbol in range(5)]
        for one, other in itertools.combinations(patterns, 2):
            closest = min(np.abs(one[:, None] - other[None]).reshape(len(phases) ** 2, -1).max(axis=1))

            # Noise is at most 40 on either side and rounding 0.5; 1 covers the phases between those of the grid.
            assert closest > 2 * 40 + 2


def test_tones_of_two_symbols_differ_by_more_than_the_noise_can_bridge():
    phases = np.linspace(0, 2 * np.pi, 25)
    tones = [np.stack([rendering.tone(symbol, phase) for phase in phases]) for symbol in range(5)]
    for one, other in itertools.combinations(tones, 2):
        closest = min(np.abs(one[:, None] - other[None]).reshape(len(phases) ** 2, -1).max(axis=1))

        assert closest > 2 * 0.1 + 0.05


def test_a_video_played_backwards_is_as_likely_the_other_way_around(opened):
    """Whatever is taken of single frames, and does not see their order, is the same for a video and its reverse."""
    shown = [sample.inputs["video"] for sample in opened["moving"]["test"]]

    assert {read(video) for video in shown} == {0, 1}
    assert all(read(video[::-1]) == 1 - read(video) for video in shown)
    # Each way, a frame is as light in each column: shapes enter on the side they leave.
    columns = [np.mean([video.mean(axis=(0, 1, 2)) for video in shown if read(video) == way], axis=0) for way in (0, 1)]
    np.testing.assert_allclose(columns[0], columns[1], atol=8)
    assert abs(columns[0] - columns[0].mean()).max() < 8


def test_logistic_regression_on_the_mean_frame_is_at_chance_and_on_the_change_between_frames_is_not(opened):
    def features(split, change):
        for sample in opened["moving"][split]:
            frames = (sample.inputs["video"][:, 0] > 130).astype(float)
            # Of each frame with the next one, shifted either way: what a motion detector computes.
            pairs = [(frames[:-1] * np.roll(frames[1:], shift, axis=2)).mean() for shift in (-2, 2)]
            yield pairs if change else frames.mean(axis=0).ravel()

    def score(change):
        label = {split: [first_label(sample) % 2 for sample in opened["moving"][split]] for split in SPLITS}
        model = LogisticRegression(C=1e4, max_iter=1000).fit(list(features("train", change)), label["train"])
        return model.score(list(features("test", change)), label["test"])

    assert score(change=True) == 1.0
    assert score(change=False) == pytest.approx(0.5, abs=0.1)


def test_logistic_regression_solves_xor_on_the_product_and_not_on_the_sum(opened):
    def features(split, *, product):
        rows = [(sample.inputs["a"], sample.inputs["b"]) for sample in opened["xor"][split]]
        return [np.outer(a, b).ravel() if product else np.concatenate([a, b]) for a, b in rows]

    def score(*, product):
        model = LogisticRegression(max_iter=1000).fit(
            features("train", product=product), [first_label(sample) for sample in opened["xor"]["train"]]
        )
        return model.score(features("test", product=product), [first_label(sample) for sample in opened["xor"]["test"]])

    assert score(product=True) == 1.0
    assert score(product=False) < 0.6


def test_a_nearest_neighbour_reads_one_half_of_quarters_from_each_modality_and_all_from_both(opened):
    def pixels(sample):
        return sample.inputs["image"].ravel() / 255.0

    def spectrum(sample):
        return np.abs(np.fft.rfft(sample.inputs["audio"].values))

    def learned(features, part):
        train, test = opened["quarters"]["train"], opened["quarters"]["test"]
        model = KNeighborsClassifier(n_neighbors=5)
        model.fit([features(sample) for sample in train], [part(first_label(sample)) for sample in train])
        return model.predict([features(sample) for sample in test])

    target = np.array([first_label(sample) for sample in opened["quarters"]["test"]])
    halves, fifths = learned(pixels, lambda y: y // 2), learned(spectrum, lambda y: y % 5)
    class_of = {(y // 2, y % 5): y for y in range(10)}
    whole = [class_of.get(pair, -1) for pair in zip(halves.tolist(), fifths.tolist(), strict=True)]

    assert (halves == target // 2).mean() > 0.99
    assert (fifths == target % 5).mean() > 0.99
    assert (np.array(whole) == target).mean() > 0.98
    assert (learned(pixels, lambda y: y) == target).mean() == pytest.approx(0.5, abs=0.08)
    assert (learned(spectrum, lambda y: y) == target).mean() == pytest.approx(0.5, abs=0.08)


def test_redundant_missing_lacks_each_modality_in_three_of_ten_samples_and_never_both(opened):
    for split in SPLITS:
        samples = opened["redundant-missing"][split]
        absent = [tuple(name for name, value in sample.inputs.items() if value is None) for sample in samples]

        assert absent.count(("image",)) == 3 * len(samples) // 10
        assert absent.count(("text",)) == 3 * len(samples) // 10
        assert ("image", "text") not in absent


def test_the_label_of_redundant_is_what_is_shown_in_nine_of_ten_samples(symbols):
    agreeing = sum(shown["text"] == label for shown, label in symbols["redundant"])

    assert agreeing == 432  # of 480


def test_the_targets_of_tasks_follow_from_what_is_shown(opened):
    for sample in opened["tasks"]["test"]:
        t, r = read(sample.inputs["text"]), read(sample.inputs["tabular"])

        assert sample.targets == {
            "code": (t + r) % 4,
            "tags": (t % 2, r % 2, int(t >= 2 and r >= 2)),
            "amount": float(t - r),
        }


@pytest.mark.parametrize("seed", [-1, 1.5, "0", True])
def test_a_seed_that_is_no_count_is_refused(seed):
    with pytest.raises(UsageError, match="whole number"):
        open_set("xor", seed=seed)
