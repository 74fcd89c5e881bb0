"""Samples of test that stand in train or val as well are found by their inputs, whatever their ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbench.cache import ArrayCache
from mmbench.data import DatasetSource, Sample, Waveform, input_digest, repeated_inputs
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


def found(source: DatasetSource, names: tuple[str, ...] = ("table", "words")) -> str:
    transforms: dict[str, Any] = {"table": lambda x: x, "words": lambda x: np.array([len(x)])}
    return repeated_inputs({name: source.columns(name, transforms[name], name) for name in names}, INFO)


def test_test_samples_with_the_inputs_of_train_or_val_are_counted(tmp_path):
    text = found(source(tmp_path, [(0, "a"), (2, "c"), (0, "b"), (5, "d")]))

    assert text.startswith("2 of 4 test samples have exactly the inputs of a sample of train or val")


@pytest.mark.parametrize("test", [[(0, "b"), (1, "a")], [(7, "a")], [(0, None)]])
def test_one_equal_modality_is_no_repeated_sample(tmp_path, test):
    assert found(source(tmp_path, test)) == ""


def test_some_modalities_of_several_prove_nothing(tmp_path):
    assert found(source(tmp_path, [(0, "a")]), ("words",)) == ""


def test_the_count_comes_from_the_cache_too(tmp_path):
    first = found(source(tmp_path, [(0, "a")]))

    again = DatasetSource(INFO, "key", lambda: pytest.fail("opened again"), ArrayCache(tmp_path))

    assert found(again) == first != ""


def test_a_digest_tells_contents_shapes_types_and_rates_apart():
    values = np.arange(6, dtype=np.float32)
    inputs = [
        values, values.reshape(2, 3), values.astype(np.uint8), values + 1, Waveform(values, 8000),
        Waveform(values, 16000), "", "text", "Text",
    ]  # fmt: skip

    assert len({input_digest(value) for value in inputs}) == len(inputs)
    assert input_digest(values[::-1][::-1]) == input_digest(values.copy())
