"""Rows that a program holds: DataFrames and dicts, written where every process of a run finds them."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from manifest_cases import understood, values
from mmbench_datasets.rows import reference_of_rows
from PIL import Image

from mmbench.errors import DataError, UsageError
from mmbench.reference import parse_reference
from mmbench.registry import load_registry

pytestmark = pytest.mark.usefixtures("own_cache", "own_data")


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_DATA", str(tmp_path / "data"))


def rows(count=30, **more):
    return [
        {"text": f"a text {row}", "label": "ab"[row % 2], **{name: of(row) for name, of in more.items()}}
        for row in range(count)
    ]


def given(data, **options):
    """Return the target and the options of the reference of some rows."""
    head, known = parse_reference(reference_of_rows(data, name="mine", **options))
    assert known.pop("name") == "mine"
    return head.removeprefix("manifest:"), known


def test_dicts_are_rows():
    target, options = given(
        rows(age=lambda row: row, emb=lambda row: np.array([row, 0.5], dtype=np.float32)), emb="emb", v="age"
    )

    assert values(target, "emb", **options)[7].tolist() == [7, 0.5]
    assert values(target, "v", **options)[7].tolist() == [7]


def test_a_data_frame_of_pandas_keeps_gaps_dates_and_numbers():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(
        rows(age=lambda row: None if row == 3 else row / 2, day=lambda row: datetime.date(2024, 1, row % 28 + 1))
    )
    frame["when"] = pandas.to_datetime(frame["day"])
    frame.loc[4, "when"] = pandas.NaT
    frame["grade"] = pandas.Categorical(["low", "high"] * 15)

    target, options = given(frame, v="age", when="when", day="day", grade="grade:category")
    assert values(target, "v", **options)[2:5][0].tolist() == [1]
    assert values(target, "v", **options)[3] is None
    assert values(target, "when", **options)[4] is None
    assert values(target, "day", **options)[0].tolist()[0] == 24
    assert values(target, "grade", **options)[0].tolist() == [0, 1]


def test_cells_of_other_types_are_numbers_and_labels():
    data = rows(
        count=30,
        length=lambda row: datetime.timedelta(minutes=row),
        price=lambda row: Decimal("1.5") * row,
        tags=lambda row: {"y", "x"} if row % 2 else {"x"},
    )
    target, options = given(data, v="length+price", label="tags")

    assert values(target, "v", **options)[3].tolist() == [180, 4.5]
    assert understood(target, **options).targets[0].task.class_names == ("x", "y")


def test_other_tables_are_rows():
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    found = [given(data)[0] for data in (rows(), iter(rows()), pyarrow.Table.from_pylist(rows()))]

    assert len(set(found)) == 1
    assert Path(found[0]).name.startswith("mine-")


def test_a_data_frame_with_two_columns_of_one_name_is_refused():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame([[1, 2]], columns=["v", "v"])

    with pytest.raises(DataError, match="names the column 'v' more than once"):
        reference_of_rows(frame, name="x")


def test_paths_start_from_the_given_folder(tmp_path):
    for row in range(30):
        Image.new("RGB", (4, 4), (row, 0, 0)).save(tmp_path / f"{row}.png")
    target, options = given(rows(photo=lambda row: f"{row}.png"), root=tmp_path, photo="photo")

    assert [int(value[0, 0, 0]) for value in values(target, "photo", **options)] == list(range(30))


def test_the_reference_selects_the_rows():
    reference = reference_of_rows(rows(), name="my, [rows]", words="text")

    (found,) = load_registry().match("dataset", reference)
    assert (found.entry.spec.name, found.name, found.options["words"]) == ("manifest", "my, [rows]", "text")
    assert reference == reference_of_rows(rows(), name="my, [rows]", words="text")
    assert reference != reference_of_rows(rows(31), name="my, [rows]", words="text")
    assert len(understood(found.target, words="text").table) == 30


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ([], DataError),
        ("text", UsageError),
        ([1, 2], UsageError),
        ([{"a": object()}], DataError),
        ([{"a": {"b": 1}}], DataError),
    ],
)
def test_what_are_no_rows_is_refused(data, error):
    with pytest.raises(error):
        reference_of_rows(data, name="x")
