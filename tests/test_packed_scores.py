"""Per-sample scores in a small file: the same scores, samples and groups come back, and nothing else is believed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from safetensors.numpy import load, save

from mmbench.report.packed_scores import PackedScores, SampleScores, ScoreKey, in_canonical_order, pack
from mmbench.report.pairwise import compare_pairs

CELL, OTHER = "d8212ea6288d9a16", "00000000000000ff"


def _packed(tmp_path: Path, found: dict[ScoreKey, SampleScores]) -> PackedScores:
    path = tmp_path / "scores.safetensors"
    path.write_bytes(pack(found))
    return PackedScores(path)


def test_right_and_wrong_answers_come_back_exactly(tmp_path: Path) -> None:
    answers = np.array([1, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1], dtype=float)
    ids = [f"s{number}" for number in range(11)]
    key = ScoreKey(CELL, "label", "accuracy")

    back = _packed(tmp_path, {key: in_canonical_order(answers, ids)}).get(key)

    assert back is not None
    assert back.scores.tolist() == in_canonical_order(answers, ids).scores.tolist()
    assert back.scores.sum() == 7


def test_other_scores_come_back_within_one_step_of_sixteen_bits(tmp_path: Path) -> None:
    errors = np.random.default_rng(0).lognormal(size=500)
    key = ScoreKey(CELL, "price", "mae")

    scored = in_canonical_order(errors, [str(number) for number in range(500)])
    back = _packed(tmp_path, {key: scored}).get(key)

    assert back is not None
    step = (errors.max() - errors.min()) / 65535
    assert np.abs(back.scores - scored.scores).max() <= step / 2 * (1 + 1e-9)


def test_packed_errors_give_scipys_paired_t_test(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shared = rng.lognormal(size=400)
    errors = [shared + 0.1 * rng.normal(size=400) + 0.01 * row for row in range(2)]
    ids = [str(number) for number in range(400)]
    keys = [ScoreKey(cell, "price", "mae") for cell in (CELL, OTHER)]

    back = _packed(tmp_path, {key: in_canonical_order(each, ids) for key, each in zip(keys, errors)})

    rows = [found.scores for key in keys if (found := back.get(key)) is not None]
    expected = scipy.stats.ttest_rel(*errors).pvalue
    assert compare_pairs(np.stack(rows)[:, None]).p_values[0, 1] == pytest.approx(expected, rel=5e-3)


def test_equal_scores_of_all_samples_come_back(tmp_path: Path) -> None:
    key = ScoreKey(CELL, "price", "mae")

    back = _packed(tmp_path, {key: in_canonical_order(np.full(3, 2.5), ["a", "b", "c"])}).get(key)

    assert back is not None and back.scores.tolist() == [2.5, 2.5, 2.5]


def test_the_order_of_rows_in_a_file_does_not_matter(tmp_path: Path) -> None:
    one = in_canonical_order(np.array([1.0, 0.0, 1.0]), ["a", "b", "c"], np.array([0, 1, 0]))
    other = in_canonical_order(np.array([1.0, 1.0, 0.0]), ["c", "a", "b"], np.array([0, 0, 1]))

    assert one.samples == other.samples
    assert one.scores.tolist() == other.scores.tolist()
    assert one.groups is not None and other.groups is not None
    assert one.groups.tolist() == other.groups.tolist()


def test_cells_on_other_samples_have_another_digest() -> None:
    assert in_canonical_order(np.ones(2), ["a", "b"]).samples != in_canonical_order(np.ones(2), ["a", "c"]).samples


def test_ids_themselves_are_not_in_the_file(tmp_path: Path) -> None:
    content = pack({ScoreKey(CELL, "label", "accuracy"): in_canonical_order(np.ones(1), ["patient Jane Doe"])})

    assert b"Jane" not in content


def test_groups_travel_with_the_samples(tmp_path: Path) -> None:
    scored = in_canonical_order(np.array([1.0, 0.0, 1.0, 1.0]), ["a", "b", "c", "d"], np.array([0, 1, 0, 1]))
    key = ScoreKey(CELL, "label", "accuracy")

    back = _packed(tmp_path, {key: scored}).get(key)

    assert back is not None and back.groups is not None and scored.groups is not None
    assert back.groups.tolist() == scored.groups.tolist()


def test_an_id_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        in_canonical_order(np.ones(2), ["a", "a"])


def test_five_hundred_cells_of_three_hundred_answers_take_less_than_25_kb() -> None:
    rng = np.random.default_rng(0)
    ids = [f"digit-{number:05d}" for number in range(300)]
    found = {
        ScoreKey(f"{number:016x}", "label", "accuracy"): in_canonical_order(rng.integers(0, 2, 300).astype(float), ids)
        for number in range(514)
    }

    assert len(pack(found)) < 25_000


def test_a_missing_file_has_no_scores_and_is_no_problem(tmp_path: Path) -> None:
    packed = PackedScores(tmp_path / "scores.safetensors")

    assert len(packed) == 0 and packed.problem == ""


@pytest.mark.parametrize(
    "damage",
    [
        "cut",
        "not safetensors",
        "another format",
        "header of the wrong type",
        "fewer samples than said",
        "ids do not fit",
        "nan range",
        "deep header",
    ],
)
def test_a_damaged_file_says_so_and_gives_nothing(tmp_path: Path, damage: str) -> None:
    key = ScoreKey(CELL, "price", "mae")
    content = pack({key: in_canonical_order(np.array([0.5, 1.5, 2.5]), ["a", "b", "c"])})
    arrays = load(content)
    block = {"task": "price", "metric": "mae", "samples": "0" * 32, "num_samples": 3, "bits": False}
    name = "mmbench-sample-scores-1"
    if damage == "cut":
        content = content[:-3]
    elif damage == "not safetensors":
        content = b"\xff" * 100
    elif damage == "another format":
        content = save(arrays, metadata={"mmbench-sample-scores-2": "[]"})
    elif damage == "header of the wrong type":
        content = save(arrays, metadata={name: json.dumps([{**block, "num_samples": "3"}])})
    elif damage == "fewer samples than said":
        content = save(arrays, metadata={name: json.dumps([{**block, "num_samples": 10**9}])})
    elif damage == "ids do not fit":
        arrays["0.cells"] = np.zeros((2, 8), dtype=np.uint8)
        content = save(arrays, metadata={name: json.dumps([block])})
    elif damage == "nan range":
        arrays["0.range"] = np.full((1, 2), np.nan)
        content = save(arrays, metadata={name: json.dumps([block])})
    else:
        content = save(arrays, metadata={name: "[" * 100_000})
    path = tmp_path / "scores.safetensors"
    path.write_bytes(content)

    packed = PackedScores(path)

    assert len(packed) == 0
    assert packed.problem.startswith("scores.safetensors cannot be read: ")
