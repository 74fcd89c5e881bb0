"""Columns of numbers, dates and categories: what is a number, what is unknown, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from manifest_cases import column, numbered, refuse, rows_of, understood, values

pytestmark = pytest.mark.usefixtures("own_cache")


def single(target, **options):
    """Return the first number of each row; None where the row lacks the table."""
    found = values(target, "v", **(options or {"v": "v"}))
    return [None if value is None else float(value[0]) for value in found]


@pytest.mark.parametrize(
    "mark", ["NA", "?", "N/A", "n/a", "#N/A", "-", "--", ".", "nan", "null", "None", "unknown", "<NA>"]
)
def test_a_mark_of_an_unknown_value_among_numbers_is_unknown_and_the_column_stays_numbers(tmp_path, mark):
    target = numbered(tmp_path, ["7", mark, "9"])

    assert single(target)[:4] == [7, None, 9, 3]
    manifest = understood(target, v="v")
    assert manifest.missing == ("v",)
    assert any(f"1 cells with marks such as {mark!r} are unknown values" in note for note in manifest.notes)


def test_an_unknown_value_within_a_table_is_nan(tmp_path):
    target = rows_of(
        tmp_path,
        ["v", "w", "label"],
        [("NA" if row == 9 else f"{row * 1.37:.2f}", row, "ab"[row % 2]) for row in range(300)],
    )

    found = values(target, "t", t="v+w")
    assert (math.isnan(found[9][0]), found[9][1]) == (True, 9)
    assert found[10].tolist() == pytest.approx([13.7, 10])


@pytest.mark.parametrize("cell", ["inf", "-inf", "12%", "3,5", "$5", "12px", "1_000", "1e999", "0x1f", "five"])
def test_a_cell_that_is_no_number_among_numbers_is_refused_with_its_place(tmp_path, cell):
    message = refuse(numbered(tmp_path, ["1.5", cell]), v="v")

    assert f"data.csv line 3: in column 'v' of 'v', {cell!r} is no number, as most of the column is" in message
    assert "v:category or v:text" in message


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["3,5", "0,25", "-1,5"], [3.5, 0.25, -1.5]),
        (["1.234,56", "2.000", "3"], [1234.56, 2000, 3]),
        (["1,234.5", "2,000", "3"], [1234.5, 2000, 3]),
        (["1 234,5", "2 000", "3"], [1234.5, 2000, 3]),
        (["1\u202f234", "2\u00a0000", "3 000 000"], [1234, 2000, 3_000_000]),
        (["1'234.5", "2'000", "3"], [1234.5, 2000, 3]),
        ([" 5", "6 ", "7"], [5, 6, 7]),
        (["1e3", "2E-1", "+3"], [1000, 0.2, 3]),
        (["٣", "٤", "5"], [3, 4, 5]),
    ],
)
def test_numbers_are_read_as_their_column_writes_them(tmp_path, cells, expected):
    target = numbered(tmp_path, cells)

    assert single(target)[:3] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["12%", "7.5 %", "3%"], [12, 7.5, 3]),
        (["$1,000.50", "$2,000", "$3"], [1000.5, 2000, 3]),
        (["5 €", "7,50 €", "1 €"], [5, 7.5, 1]),
    ],
)
def test_a_sign_that_every_number_has_is_left_off_and_named(tmp_path, cells, expected):
    target = rows_of(tmp_path, ["v", "label"], [(cells[row % 3], "ab"[row // 3 % 2]) for row in range(60)])

    assert single(target)[:3] == pytest.approx(expected)
    assert any("the sign" in note for note in understood(target, v="v").notes)


def test_a_comma_that_may_stand_for_two_things_is_refused(tmp_path):
    message = refuse(numbered(tmp_path, ["1,000", "2,500"]), v="v")

    assert "data.csv has 2 faults in 2 rows" in message
    assert "line 3: in column 'v' of 'v', '2,500' may be read as 2.5 or 2500" in message


def test_a_column_of_numbers_with_one_mark_is_no_text(tmp_path):
    manifest = understood(numbered(tmp_path, ["?"]), v="v")

    assert [(source.name, source.kind) for source in manifest.sources] == [("v", "tabular")]


def test_numbers_may_be_forced_to_be_categories_or_text(tmp_path):
    cells = [(str(row % 3), "ab"[row % 2]) for row in range(60)]
    target = rows_of(tmp_path, ["v", "label"], cells)

    assert values(target, "v", v="v:category")[:3][1].tolist() == [0, 1, 0]
    assert values(target, "t", t="v:text")[:3] == ["0", "1", "2"]


def test_category_may_be_said_of_one_of_several_columns(tmp_path):
    target = rows_of(
        tmp_path, ["zip", "w", "label"], [(["1", "2"][row % 2], row, "ab"[row // 2 % 2]) for row in range(60)]
    )

    assert values(target, "meta", meta="zip:category+w")[3].tolist() == [0, 1, 3]


@pytest.mark.parametrize("start", [1_700_000_000, 1_700_000_000_000, 20_000_000, 2**53 - 100])
def test_large_numbers_keep_their_differences(tmp_path, start):
    target = rows_of(tmp_path, ["v", "label"], [(start + row, "ab"[row % 2]) for row in range(60)])

    found = single(target)
    assert np.diff(found).tolist() == [1.0] * 59


def test_numbers_that_single_precision_keeps_are_given_as_they_stand(tmp_path):
    assert single(numbered(tmp_path, ["1000000", "0.5"]))[:2] == [1_000_000, 0.5]


def test_a_number_beyond_single_precision_is_refused(tmp_path):
    assert "'1e39' is too large for 32-bit floats" in refuse(numbered(tmp_path, ["1e39"]), v="v")


def test_time_stamps_of_nanoseconds_are_times(tmp_path):
    target = rows_of(tmp_path, ["v", "label"], [(f"2024-01-01T06:00:00.{row:09}", "ab"[row % 2]) for row in range(60)])

    assert values(target, "v", v="v")[0].tolist() == pytest.approx([24, 0, 1, 0, 1, 1, 0], abs=1e-6)


def test_an_unknown_date_is_nan_and_a_wrong_one_is_refused(tmp_path):
    dates = [f"2024-01-{row % 28 + 1:02}" for row in range(60)]
    good = rows_of(
        tmp_path,
        ["v", "w", "label"],
        [("unknown" if row == 4 else date, row, "ab"[row % 2]) for row, date in enumerate(dates)],
    )

    assert np.isnan(values(good, "v", v="v+w")[4][:5]).all()
    bad = rows_of(
        tmp_path,
        ["v", "label"],
        [("13.05.2024" if row == 4 else date, "ab"[row % 2]) for row, date in enumerate(dates)],
    )
    assert "line 6: in column 'v' of 'v', '13.05.2024' is no date, as most of the column is" in refuse(bad, v="v")


def test_words_for_true_and_false_are_a_table(tmp_path):
    target = rows_of(tmp_path, ["v", "label"], [(["True", "False"][row % 2], "ab"[row // 2 % 2]) for row in range(60)])

    assert values(target, "v", v="v")[0].tolist() == [0, 1]


def test_all_faults_of_a_file_are_listed_at_once_and_at_most_twenty(tmp_path):
    cells = [("x" if row % 2 else row, "" if row % 20 == 0 else "ab"[row // 2 % 2]) for row in range(100)]
    target = rows_of(tmp_path, ["v", "label"], [*cells, *((row, "ab"[row % 2]) for row in range(50))])

    message = refuse(target, v="v")
    assert "data.csv has 55 faults in 55 rows; correct them, or leave such rows out with [drop=bad]:" in message
    assert len(message.splitlines()) == 22
    assert message.endswith("and 35 more")


def test_drop_bad_leaves_faulty_rows_out_and_says_so(tmp_path):
    target = rows_of(
        tmp_path,
        ["id", "v", "label"],
        [(f"s{row}", "x" if row == 3 else row, "" if row == 5 else "ab"[row // 2 % 2]) for row in range(60)],
    )

    found = column(target, "v", v="v", drop="bad")
    assert len(found) == 58
    assert not {"s3", "s5"} & set(found)
    manifest = understood(target, v="v", drop="bad")
    assert manifest.notes[0].startswith("warning: 2 of 60 rows are left out by drop=bad, such as: data.csv line 5")
    assert manifest.settings["dropped_rows"] == 2


def test_drop_bad_never_leaves_a_whole_split_or_a_class_out_in_silence(tmp_path):
    parts = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    cells = [("x" if part == "test" else row, "abc"[row % 3], part) for row, part in enumerate(parts)]
    assert "drop=bad leaves no row of test, as all of them have faults, such as: data.csv line 52" in refuse(
        rows_of(tmp_path, ["v", "label", "split"], cells), v="v", drop="bad"
    )

    cells = [("x" if row % 3 == 2 else row, "abc"[row % 3]) for row in range(60)]
    notes = understood(rows_of(tmp_path, ["v", "label"], cells, "b.csv"), v="v", drop="bad").notes
    assert "warning: drop=bad leaves no row with 'c' in 'label'" in notes


def test_drop_takes_one_word(tmp_path):
    from mmbench.errors import UsageError

    assert "drop must be bad" in refuse(numbered(tmp_path, []), UsageError, drop="all")


def test_a_table_whose_rows_are_all_bad_is_refused(tmp_path):
    target = rows_of(tmp_path, ["v", "label"], [(row, "") for row in range(10)])

    assert "the label column 'label' is empty" in refuse(target, v="v", drop="bad")
