"""Splits by shares and by time: how many rows each has, which ones, and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest
from manifest_cases import opened, refuse, table
from mmbench_datasets.manifest import describe
from mmbench_datasets.split_shares import parse_shares

from mmbench.data import SPLITS
from mmbench.errors import UsageError

pytestmark = pytest.mark.usefixtures("own_cache")


def sizes(target, **options):
    return [len(opened(target, **options)[split]) for split in SPLITS]


def rows_in(part, target, **options):
    return [int(sample.sample_id.removeprefix("s")) for sample in opened(target, **options)[part]]


def plain(folder, rows=200):
    return table(folder, "id,label,text", [f"s{row},{'ab'[row % 2]},some text {row}" for row in range(rows)])


def dated(folder, times):
    lines = [f"s{row},{'ab'[row % 2]},{time},text {row}" for row, time in enumerate(times)]
    return table(folder, "id,label,when,text", lines)


@pytest.mark.parametrize(
    ("split", "expected"),
    [("60/20/20", [120, 40, 40]), ("6/2/2", [120, 40, 40]), ("80/10/10", [160, 20, 20]), ("80/20", [136, 24, 40])],
)
def test_rows_are_split_by_the_shares_that_an_option_gives(tmp_path, split, expected):
    target = plain(tmp_path)

    assert sizes(target, split=split) == expected
    assert Counter(sample.targets["label"] for sample in opened(target, split=split)["test"]) == {
        0: expected[2] // 2,
        1: expected[2] // 2,
    }
    assert any(f"split: drawn by seed 0, {split} by target" in note for note in describe(target, split=split).notes)


def test_the_usual_shares_draw_the_usual_split(tmp_path):
    target = plain(tmp_path)

    assert rows_in("test", target, split="70/15/15") == rows_in("test", target)


def test_shares_leave_a_column_of_splits_aside(tmp_path):
    lines = [f"s{row},{'train' if row < 90 else 'test'},{'ab'[row % 2]},text {row}" for row in range(100)]
    target = table(tmp_path, "id,split,label,text", lines)

    assert sizes(target) == [76, 14, 10]  # val is carved from train
    assert sizes(target, split="60/20/20") == [60, 20, 20]


def test_groups_stay_whole_under_shares(tmp_path):
    lines = [f"s{row},g{row // 5},{'ab'[row % 2]},text {row}" for row in range(200)]
    splits = opened(table(tmp_path, "id,group,label,text", lines), split="60/20/20")

    of_group = Counter(group for split in SPLITS for group in {sample.group for sample in splits[split]})
    assert set(of_group.values()) == {1}
    assert [len(splits[split]) for split in SPLITS] == pytest.approx([120, 40, 40], abs=4)


@pytest.mark.parametrize("split", ["70/30/0", "10/20/30/40", "0/100"])
def test_shares_that_cannot_be_are_refused(split):
    with pytest.raises(UsageError, match=r"each above 0, such as \[split=70/15/15\]"):
        parse_shares(split)


def test_a_column_may_be_called_like_shares(tmp_path):
    lines = [f"s{row},{('train', 'train', 'val', 'test')[row % 4]},{'ab'[row // 4 % 2]},t {row}" for row in range(40)]

    assert sizes(table(tmp_path, "id,1/2,label,text", lines), split="1/2") == [20, 10, 10]


def test_a_split_by_time_trains_on_the_past_and_tests_the_future(tmp_path):
    shuffled = [(row * 7) % 100 for row in range(100)]
    target = dated(tmp_path, [f"2024-{1 + time // 28:02}-{1 + time % 28:02}" for time in shuffled])

    found = {split: {shuffled[row] for row in rows_in(split, target, time="when")} for split in SPLITS}

    assert found == {"train": set(range(70)), "val": set(range(70, 85)), "test": set(range(85, 100))}
    notes = describe(target, time="when").notes
    assert (
        "split: by time, column 'when', 70/15/15: 70 train (2024-01-01 to 2024-03-14); 15 val (2024-03-15 to "
        "2024-04-01); 15 test (2024-04-02 to 2024-04-16)"
    ) in notes


def test_the_column_of_times_is_no_modality_of_its_own(tmp_path):
    target = dated(tmp_path, range(40))

    assert [item.name for item in describe(target, time="when").modalities] == ["text"]


def test_rows_of_one_time_stay_in_one_split_and_numbers_order_as_numbers(tmp_path):
    years = [row // 10 + 5 for row in range(100)]  # 5 to 14: as text "10" would come before "5"
    target = dated(tmp_path, years)

    found = {split: {years[row] for row in rows_in(split, target, time="when", split="50/30/20")} for split in SPLITS}

    assert found == {"train": {5, 6, 7, 8, 9}, "val": {10, 11, 12}, "test": {13, 14}}


def test_a_split_by_time_orders_days_before_months_before_years(tmp_path):
    days = [f"{row % 28 + 1:02}.{row // 28 + 1:02}.{2023 + row // 50}" for row in range(100)]
    target = dated(tmp_path, days)

    # The first fifty rows are of January and February 2023, the others of February to April 2024.
    assert rows_in("train", target, time="when", split="50/25/25") == list(range(50))
    assert rows_in("test", target, time="when", split="50/25/25") == list(range(75, 100))
    assert any("the day first and the month second" in note for note in describe(target, time="when").notes)


def test_times_of_different_zones_are_compared_as_moments(tmp_path):
    hours = [f"2024-01-01T{hour:02}:00:00+00:00" for hour in range(1, 19)]
    target = dated(tmp_path, [*hours, "2024-01-01T23:00:00+05:00", "2024-01-01T16:30:00-05:00"])

    # Rows 17 and 18 are of 18:00 UTC, row 19 of 21:30.
    assert rows_in("test", target, time="when") == [17, 18, 19]
    assert rows_in("test", target, time="when", split="90/5/5") == [19]


def test_a_time_that_cannot_be_read_names_its_row(tmp_path):
    target = dated(tmp_path, ["2024-01-01", "soon", *(f"2024-02-{day:02}" for day in range(1, 25))])

    message = refuse(target, time="when")

    assert "line 3: the time (column 'when') is 'soon'; write numbers in all rows, or dates and times" in message
    assert sum(sizes(target, time="when", drop="bad")) == 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "when", "split": "label"}, "time=when and split=label both say how rows are split"),
        ({"time": "date"}, "no column 'date'"),
    ],
)
def test_a_split_by_time_that_cannot_be_meant_is_refused(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        describe(dated(tmp_path, range(40)), **options)


def test_two_times_are_too_few_for_three_splits(tmp_path):
    message = refuse(dated(tmp_path, [1, 2] * 10), time="when")

    assert "the column 'when' has 2 different times, and a split by time needs three or more" in message


def test_a_group_in_the_past_and_in_the_future_is_refused(tmp_path):
    lines = [f"s{row},{row},g{row % 4},{'ab'[row % 2]},text {row}" for row in range(40)]
    target = table(tmp_path, "id,when,patient,label,text", lines)

    message = refuse(target, time="when", group="patient")

    assert "(column 'patient') is in train and in val; keep a group in one split" in message


def test_a_column_that_is_called_group_is_warned_of_where_time_divides_its_groups(tmp_path):
    lines = [f"s{row},{row},g{row % 4},{'ab'[row % 2]},text {row}" for row in range(40)]
    target = table(tmp_path, "id,when,group,label,text", lines)

    notes = describe(target, time="when").notes

    assert any("warning: 4 groups of the column 'group' stand in several splits" in note for note in notes)
    assert not any("that the split keeps whole" in note for note in notes)
    assert not any("several splits" in note for note in describe(target, time="when", group="").notes)


def test_a_class_that_comes_up_later_says_what_to_do(tmp_path):
    lines = [f"s{row},{row},{'ab'[row % 2] if row < 38 else 'new'},text {row}" for row in range(40)]

    message = refuse(table(tmp_path, "id,when,label,text", lines), time="when")

    assert "the class 'new' of 'label' occurs in test and never in train" in message
    assert "remove these rows, or take more of the rows for train by [split=80/10/10]" in message
