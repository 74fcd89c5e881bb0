"""Subgroups of a table's test rows: by category, by quarters of numbers, by combinations, and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest
from manifest_cases import opened, table
from mmbench_datasets.subgroups import MAX_VALUES, read_subgroups

from mmbench.errors import UsageError

pytestmark = pytest.mark.usefixtures("own_cache")


def patients(folder, rows=80):
    lines = [
        f"s{row},{'train' if row < 20 else 'val' if row < 40 else 'test'},{'ab'[row % 2]},text {row},"
        f"{('F', 'M', '')[row % 3]},{row / 2},{'AB'[row // 2 % 2]},{row % 4}"
        for row in range(rows)
    ]
    return table(folder, "id,split,label,text,sex,age,site,stage", lines)


def test_a_category_divides_the_test_rows_and_those_without_a_value_are_left_out(tmp_path):
    target = patients(tmp_path)

    found = read_subgroups(target, ["sex"])["sex"]

    assert found == {f"s{row}": ("F", "M")[row % 3] for row in range(40, 80) if row % 3 < 2}
    assert set(found) <= {sample.sample_id for sample in opened(target)["test"]}


def test_many_numbers_are_divided_at_their_quartiles_in_test_and_few_are_categories(tmp_path):
    found = read_subgroups(patients(tmp_path), ["age", "stage"])

    assert Counter(found["age"].values()) == {
        "20 to 24.5": 10, "25 to 29.5": 10, "30 to 34.5": 10, "35 to 39.5": 10,
    }  # fmt: skip
    assert Counter(found["stage"].values()) == {"0": 10, "1": 10, "2": 10, "3": 10}


def test_columns_are_combined_by_a_star(tmp_path):
    found = read_subgroups(patients(tmp_path), ["sex*site"])["sex*site"]

    assert set(found.values()) == {"F, A", "F, B", "M, A", "M, B"}
    assert found["s42"] == "F, B"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["sexe"], "no column 'sexe' for subgroups"),
        (["split"], "subgroups=split has 1 different values in test; choose a column with 2 to"),
    ],
)
def test_columns_that_divide_nothing_are_refused(tmp_path, columns, message):
    with pytest.raises(UsageError, match=message):
        read_subgroups(patients(tmp_path), columns)


def test_a_column_of_names_is_refused(tmp_path):
    rows = 2 * MAX_VALUES + 40
    lines = [
        f"{'train' if row < 20 else 'val' if row < 40 else 'test'},{'ab'[row % 2]},text {row},n{row}"
        for row in range(rows)
    ]

    with pytest.raises(UsageError, match=f"has {2 * MAX_VALUES} different values in test"):
        read_subgroups(table(tmp_path, "split,label,text,name", lines), ["name"])
