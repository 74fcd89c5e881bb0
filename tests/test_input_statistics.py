"""Facts of a dataset come from all its samples: no first, odd or damaged one decides for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from mmbench.cache import ArrayCache
from mmbench.data import SPLITS, Sample, Waveform, summary_of
from mmbench.dataset_source import DatasetSource
from mmbench.errors import DataError
from mmbench.input_statistics import InputSummary, robust_facts, statistics_of
from mmbench.spec import DatasetInfo, Modality, TaskSpec

TASK = TaskSpec(name="label", kind="multiclass", num_outputs=2)


def image(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.full((channels, height, width), height % 256, dtype=np.uint8)


def sound(rate: int) -> Waveform:
    return Waveform(np.zeros(rate // 10, dtype=np.float32), rate)


def source(tmp_path: Any, kind: str, train: list[Any], rest: Any = None, inputs: type = dict) -> DatasetSource:
    info = DatasetInfo(modalities=(Modality(name="x", kind=kind),), tasks=(TASK,))  # type: ignore[arg-type]
    values = {"train": train, "val": [rest] * 4, "test": [rest] * 4}

    def open_splits() -> Mapping[str, Any]:
        return {
            split: [
                Sample(f"{split}-{row}", inputs({} if value is None else {"x": value}), {"label": row % 2})
                for row, value in enumerate(values[split])
            ]
            for split in SPLITS
        }

    return DatasetSource(info, "key", open_splits, ArrayCache(tmp_path))


@pytest.mark.parametrize("place", [0, 10, 19])
@pytest.mark.parametrize(
    ("kind", "usual", "odd", "facts"),
    [
        ("image", image(32, 48), image(1, 1), {"channels": 3, "size": [32, 48]}),
        ("image", image(32, 48), image(4000, 1), {"channels": 3, "size": [32, 48]}),
        ("image", image(8, 8, 1), image(8, 8, 3), {"channels": 3, "size": [8, 8]}),
        ("audio", sound(16_000), sound(1_000), {"rate": 16_000}),
        ("audio", sound(16_000), sound(192_000), {"rate": 16_000}),
        ("video", image(8, 16)[None], image(1, 1)[None], {"channels": 3, "size": [8, 16]}),
        ("sequence", np.ones((3, 4), np.float32), np.ones((1, 4), np.float32), {"num_features": 4}),
    ],
)
def test_one_odd_sample_changes_no_fact_wherever_it_stands(tmp_path, place, kind, usual, odd, facts):
    train = [usual] * 20
    train[place] = odd

    assert dict(source(tmp_path, kind, train, usual).modality("x").facts) == facts


def test_facts_are_medians_of_heights_widths_and_rates():
    sizes = [[10, 100], [20, 90], [30, 80], [40, 70], [50, 60]]
    rates = [8_000, 8_000, 16_000, 44_100, 44_100]

    assert robust_facts([InputSummary(facts={"size": size}) for size in sizes]) == {"size": [30, 80]}
    assert robust_facts([InputSummary(facts={"rate": rate}) for rate in rates]) == {"rate": 16_000}


@pytest.mark.parametrize(
    ("kind", "usual", "odd", "said"),
    [
        ("image", image(32, 32), image(1, 1), "from 1 to 32 px; the median, 32 px, was taken, and 1 of 20 differ"),
        ("audio", sound(16_000), sound(1_000), "from 1,000 to 16,000 Hz; the median, 16,000 Hz, was taken"),
    ],
)
def test_facts_that_differ_widely_are_worth_a_warning(tmp_path, kind, usual, odd, said):
    (warning,) = source(tmp_path, kind, [odd] + [usual] * 19, usual).index.warnings["x"]

    assert said in warning


def test_facts_that_differ_a_little_are_worth_none(tmp_path):
    train = [image(20 + row, 40) for row in range(20)]

    assert source(tmp_path, "image", train, image(9, 30)).index.warnings["x"] == []


def test_vectors_of_two_widths_are_refused_with_both_samples(tmp_path):
    train = [np.zeros(2, np.float32)] * 3 + [np.zeros(4, np.float32)]

    with pytest.raises(DataError, match="'x' has 2 numbers in sample 'train-0' and 4 in 'train-3'"):
        source(tmp_path, "tabular", train, np.zeros(2, np.float32)).modality("x")


def test_a_modality_that_train_lacks_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"no sample of train has 'x' \(5 samples\)"):
        source(tmp_path, "image", [None] * 5, image(4, 4)).modality("x")


def test_a_modality_that_test_lacks_is_worth_a_warning(tmp_path):
    (warning,) = source(tmp_path, "image", [image(4, 4)] * 5, None).index.warnings["x"]

    assert "no sample of test has 'x'" in warning


def test_statistics_hold_percentiles_and_counts():
    summaries = [InputSummary(amounts={"seconds": float(value)}) for value in range(101)] + [None] * 9

    found = statistics_of(summaries)
    assert (found.present, found.missing, found.examined) == (101, 9, 110)
    assert found.amounts == {"seconds": (0.0, 5.0, 50.0, 95.0, 100.0)}


class Headers(dict):
    """Inputs that can be summarized but, in the fourth sample, not decoded."""

    def summary(self, modality: str) -> InputSummary | None:
        if modality not in self:
            return None
        if self[modality].shape[1] == 13:
            raise DataError("line 5: x.png cannot be read as an image")
        return summary_of(self[modality])


def test_headers_are_read_instead_of_decoding_and_all_bad_ones_are_listed(tmp_path):
    train = [image(4, 4)] * 3 + [image(13, 4)] * 30

    with pytest.raises(DataError) as caught:
        source(tmp_path, "image", train, image(4, 4), Headers).modality("x")

    lines = str(caught.value).splitlines()
    assert lines[0] == "30 inputs of 'x' cannot be read:"
    assert len(lines) == 22
    assert lines[-1].strip() == "… and 10 more"


def test_equal_inputs_have_equal_digests_and_the_index_is_the_same_from_the_cache(tmp_path):
    first = source(tmp_path, "image", [image(4, 4), image(5, 4), image(4, 4)], image(4, 4)).index
    again = source(tmp_path, "image", [], None).cached_index

    a, b, c = first.digests["train"]["x"].tolist()
    assert a == c != b
    assert first.statistics == again.statistics
    np.testing.assert_array_equal(first.digests["test"]["x"], again.digests["test"]["x"])
