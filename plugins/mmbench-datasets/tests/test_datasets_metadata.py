"""Metadata beside media: numbers, categories, dates and times of several columns as one modality of any name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from mmbench_datasets.manifest import describe, open_manifest
from mmbench_datasets.moments import encode_moment, moment_of

from mmbench.errors import DataError

ROWS = [
    "train,owl,a note,52.52,13.40,2024-01-01,00:00,forest",
    "train,fox,a tone,48.10,,2024-07-01,06:00,town",
    "train,owl,a tune,,,,,",
    "train,fox,a bell,-33.90,151.20,2023-12-31,18:30:30,forest",
    "val,owl,a horn,0,0,2024-02-29,12:00,town",
    "val,fox,a drum,1,1,2000-01-01,13:00,desert",
    "test,owl,a harp,2,2,1999-01-01,23:59,town",
    "test,fox,a lute,3,3,2024-01-08,11:00,forest",
]


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "birds.csv"
    path.write_text("\n".join(["split,label,text,lat,lon,day,hour,place", *ROWS]) + "\n")
    return str(path)


def column(target, name, split="train", **options):
    samples = open_manifest(Path("nowhere"), target=target, **options)[split]
    return [sample.inputs[name] for sample in samples]


def widths(target, **options):
    return {modality.name: dict(modality.facts) for modality in describe(target, **options).modalities}


def test_several_columns_make_one_modality_of_the_name_that_the_user_gives(manifest):
    info = describe(manifest, text="text", where="lat+lon")

    assert [(modality.name, modality.kind) for modality in info.modalities] == [("text", "text"), ("where", "tabular")]
    assert info.modalities[1].facts == {"num_features": 2}
    np.testing.assert_allclose(column(manifest, "where", where="lat+lon")[0], [52.52, 13.40], rtol=1e-6)


def test_a_value_that_is_not_there_is_nan_and_a_row_without_any_lacks_the_modality(manifest):
    _, second, third, _ = column(manifest, "where", where="lat+lon")

    assert second[0] == pytest.approx(48.1)
    assert math.isnan(second[1])
    assert third is None
    assert describe(manifest, where="lat+lon").missing == ("where",)


def test_categories_are_those_of_train_and_a_new_one_is_none_of_them(manifest):
    assert [value.tolist() for value in column(manifest, "place", "val", place="place:tabular")] == [[0, 1], [0, 0]]
    assert column(manifest, "place", place="place:tabular")[0].tolist() == [1, 0]


def test_numbers_dates_times_and_categories_stand_side_by_side_in_the_order_of_the_columns(manifest):
    first = column(manifest, "meta", meta="lat+day+hour+place")[0]

    assert widths(manifest, meta="lat+day+hour+place") == {"meta": {"num_features": 1 + 5 + 2 + 2}}
    # 2024-01-01 was a Monday: where the circles of year and week begin. So does midnight that of the day.
    np.testing.assert_allclose(first, [52.52, 24, 0, 1, 0, 1, 0, 1, 1, 0], rtol=1e-6)


def test_a_column_of_dates_is_a_table_without_being_told_so(manifest):
    assert widths(manifest, when="day") == {"when": {"num_features": 5}}
    assert widths(manifest, text="day:text") == {"text": {}}
    assert [modality.name for modality in describe(manifest).modalities] == ["text"]


@pytest.mark.parametrize(
    ("moment", "cell", "expected"),
    [
        ("time", "06:00", [1, 0]),
        ("time", "18:00:00", [-1, 0]),
        ("time", "12:00:00.5+02:00", [math.sin(2 * math.pi * 43_200.5 / 86_400), -1]),
        # 2023 has 365 days; the 183rd (2 July, a Sunday) begins after 182 of them.
        ("date", "2023-07-02", [23 + 182 / 365, math.sin(2 * math.pi * 182 / 365), math.cos(2 * math.pi * 182 / 365),
                                math.sin(2 * math.pi * 6 / 7), math.cos(2 * math.pi * 6 / 7)]),
        ("datetime", "2024-01-01T06:00Z", [24, 0, 1, 0, 1, 1, 0]),
        ("datetime", "2001-01-01 18:00", [1, 0, 1, 0, 1, -1, 0]),
        ("date", "", [math.nan] * 5),
        ("time", "NaN", [math.nan] * 2),
    ],
)  # fmt: skip
def test_a_moment_becomes_places_on_the_circles_of_day_week_and_year(moment, cell, expected):
    np.testing.assert_allclose(encode_moment(moment, cell), expected, atol=1e-6)


def test_the_last_minute_of_a_day_is_near_the_first_of_the_next():
    late, early = encode_moment("time", "23:59"), encode_moment("time", "00:01")

    assert math.dist(late, early) < 0.01


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["2024-05-01", "2024-05-02"], "date"),
        (["13:45", "00:00:59"], "time"),
        (["2024-05-01T13:45:00+02:00", "2024-05-01 13:45"], "datetime"),
        (["2024-05-01", "13:45"], None),
        (["2024-13-01"], None),
        (["25:00"], None),
        (["01.05.2024"], None),
        (["2024"], None),
        ([], None),
    ],
)
def test_only_iso_8601_of_one_sort_is_taken_for_moments(cells, expected):
    assert moment_of(cells) == expected


def test_too_many_words_say_what_a_table_takes(tmp_path):
    rows = [f"{('train', 'val', 'test')[row % 3]},{'ab'[row // 3 % 2]},word{row}" for row in range(300)]
    (tmp_path / "data.csv").write_text("\n".join(["split,label,word", *rows]) + "\n")

    with pytest.raises(DataError, match=r"100 different words in train; a table takes numbers, dates and times"):
        describe(str(tmp_path / "data.csv"), meta="word:tabular")


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("{2}.{1}.{0}", "day first and the month second"),
        ("{2}/{1}/{0}", "day first and the month second"),
        ("{1}/{2}/{0}", "day second and the month first"),
        ("{0}/{1}/{2}", "year, month and day"),
        ("{0}.{1}.{2}", "year, month and day"),
    ],
)
@pytest.mark.parametrize("clock", ["", " 09:30"])
def test_dates_are_read_in_the_order_that_their_column_decides(tmp_path, written, words, clock):
    days = [f"2024-{row % 12 + 1:02}-{row % 28 + 1:02}" for row in range(24)]
    others = [written.format(*day.split("-")) for day in days]
    rows = [f"{('train', 'val', 'test')[row % 3]},{'ab'[row // 3 % 2]},{day}{clock},{other}{clock}"
            for row, (day, other) in enumerate(zip(days, others))]  # fmt: skip
    target = str(tmp_path / "data.csv")
    Path(target).write_text("\n".join(["split,label,iso,other", *rows]) + "\n")

    found = column(target, "other", other="other:tabular")

    np.testing.assert_allclose(found, column(target, "iso", iso="iso:tabular"))
    assert words in " ".join(describe(target, when="other").notes)
    assert describe(target, when="iso", time="other", split="50/25/25").notes  # a split by time reads them, too


@pytest.mark.parametrize(
    "cells",
    [
        ["01.02.2024", "12.11.2024"],  # no number passes 12
        ["28.04.2024", "04.28.2024"],  # both do
        ["28.04.2024", "04/05/2024"],  # two separators may be two orders
    ],
)
def test_dates_whose_order_no_cell_decides_are_refused(tmp_path, cells):
    rows = [f"{('train', 'val', 'test')[row % 3]},{'ab'[row // 3 % 2]},{cells[row % 2]}" for row in range(24)]
    (tmp_path / "data.csv").write_text("\n".join(["split,label,when", *rows]) + "\n")

    with pytest.raises(DataError, match="can be read in several ways, and no cell decides which"):
        describe(str(tmp_path / "data.csv"), when="when")


def test_a_day_that_no_calendar_has_names_its_row(tmp_path):
    days = ["28.04.2024", "03.05.2024", "30.02.2024", "17.08.2023"]
    rows = [f"{('train', 'val', 'test')[row % 3]},{'ab'[row // 3 % 2]},{days[row % 4 if row < 3 else 0]}"
            for row in range(24)]  # fmt: skip
    (tmp_path / "data.csv").write_text("\n".join(["split,label,when", *rows]) + "\n")

    with pytest.raises(DataError, match=r"line 4: in column 'when' of 'when', '30\.02\.2024' is no date"):
        describe(str(tmp_path / "data.csv"), when="when")
