"""Samples of test that stand in train or val as well are found by their inputs, whatever their ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench.cache import ArrayCache
from mmbench.data import Sample, Waveform, input_digest
from mmbench.dataset_source import DatasetSource
from mmbench.repeated_inputs import repeated_inputs
from mmbench.spec import DatasetInfo, Modality, TaskSpec

INFO = DatasetInfo(
    modalities=(Modality(name="table", kind="tabular"), Modality(name="words", kind="text")),
    tasks=(TaskSpec(name="label", kind="multiclass", num_outputs=2),),
)


def source(folder: Path, test: list[tuple[int, str | None]]) -> DatasetSource:
    """Train holds (0, "a") and (1, "b"), val (2, "c")."""

    def split(name: str, items: list[tuple[int, str | None]]) -> list[Sample]:
        return [
            Sample(f"{name}{at}", {"table": np.full(3, x, dtype=np.float32), "words": words}, {"label": at % 2})
            for at, (x, words) in enumerate(items)
        ]

    splits = {"train": split("train", [(0, "a"), (1, "b")]), "val": split("val", [(2, "c")]), "test": split("t", test)}
    return DatasetSource(INFO, "key", lambda: splits, ArrayCache(folder))


def found(source: DatasetSource, names: tuple[str, ...] = ("table", "words")) -> list[str]:
    transforms: dict[str, Any] = {"table": lambda x: x, "words": lambda x: np.array([len(x)])}
    return repeated_inputs({name: source.columns(name, transforms[name], name) for name in names}, INFO)


PICTURES = DatasetInfo(
    modalities=(Modality(name="caption", kind="text"), Modality(name="photo", kind="image")),
    tasks=(TaskSpec(name="label", kind="multiclass", num_outputs=2),),
)


def pictures(folder: Path, train: list[int], test: list[int | None]) -> DatasetSource:
    """Pictures by number, each with a caption of its own; val holds the picture -1."""

    def split(name: str, numbers: list[Any]) -> list[Sample]:
        return [
            Sample(
                f"{name}{at}",
                {
                    "caption": f"caption {name}{at}",
                    "photo": None if number is None else np.full((1, 4, 4), number, dtype=np.uint8),
                },
                {"label": at % 2},
            )
            for at, number in enumerate(numbers)
        ]

    splits = {"train": split("train", train), "val": split("val", [255]), "test": split("test", test)}
    return DatasetSource(PICTURES, "key", lambda: splits, ArrayCache(folder))


def found_pictures(source: DatasetSource, names: tuple[str, ...]) -> list[str]:
    transforms: dict[str, Any] = {"photo": lambda x: x, "caption": lambda x: np.array([len(x)])}
    return repeated_inputs({name: source.columns(name, transforms[name], name) for name in names}, PICTURES)


@pytest.mark.parametrize("names", [("photo",), ("photo", "caption")])
def test_pictures_of_train_under_another_caption_are_counted(tmp_path, names):
    texts = found_pictures(pictures(tmp_path, [1, 2, 3, 4], [1, 1, 2, 9, None]), names)

    assert len(texts) == 1
    assert texts[0].startswith("3 of 5 test samples (60%) have exactly the image 'photo' of a sample of train")
    assert "group=COLUMN" in texts[0]


def test_one_repeated_picture_in_a_hundred_is_no_warning(tmp_path):
    assert found_pictures(pictures(tmp_path / "few", [1, 2], [1, *range(3, 102)]), ("photo",)) == []
    assert found_pictures(pictures(tmp_path / "more", [1, 2], [1, 2, *range(3, 101)]), ("photo",)) != []


def test_absent_pictures_do_not_repeat(tmp_path):
    assert found_pictures(pictures(tmp_path, [1, 2], [None, None, 3]), ("photo",)) == []


def test_repeated_captions_are_no_warning(tmp_path):
    assert found_pictures(pictures(tmp_path, [1, 2], [1]), ("caption",)) == []


def test_test_samples_with_the_inputs_of_train_or_val_are_counted(tmp_path):
    texts = found(source(tmp_path, [(0, "a"), (2, "c"), (0, "b"), (5, "d")]))

    assert len(texts) == 1
    assert texts[0].startswith("2 of 4 test samples have exactly the inputs of a sample of train or val")


@pytest.mark.parametrize("test", [[(0, "b"), (1, "a")], [(7, "a")], [(0, None)]])
def test_one_equal_modality_is_no_repeated_sample(tmp_path, test):
    assert found(source(tmp_path, test)) == []


def test_some_modalities_of_several_prove_nothing(tmp_path):
    assert found(source(tmp_path, [(0, "a")]), ("words",)) == []


def test_the_count_comes_from_the_cache_too(tmp_path):
    first = found(source(tmp_path, [(0, "a")]))

    again = DatasetSource(INFO, "key", lambda: pytest.fail("opened again"), ArrayCache(tmp_path))

    assert found(again) == first != []


def test_a_digest_tells_contents_shapes_types_and_rates_apart():
    values = np.arange(6, dtype=np.float32)
    inputs = [
        values, values.reshape(2, 3), values.astype(np.uint8), values + 1, Waveform(values, 8000),
        Waveform(values, 16000), "", "text", "Text",
    ]  # fmt: skip

    assert len({input_digest(value) for value in inputs}) == len(inputs)
    assert input_digest(values[::-1][::-1]) == input_digest(values.copy())
