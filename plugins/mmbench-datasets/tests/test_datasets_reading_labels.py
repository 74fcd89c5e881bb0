"""Labels of people's own tables: what is one class, what is a vector, and what is no label."""

from __future__ import annotations

import numpy as np
import pytest
from manifest_cases import labelled, opened, refuse, rows_of, table, understood

from mmbench.data import SPLITS

pytestmark = pytest.mark.usefixtures("own_cache")


def task(target, **options):
    return understood(target, **options).targets[0].task


def targets(target, name="label", **options):
    splits = opened(target, **options)
    found = {sample.sample_id: sample.targets[name] for split in SPLITS for sample in splits[split]}
    return [found[sample_id] for sample_id in sorted(found)]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["0", "1", "1.0", "0.0"], ("0", "1")),
        (["01", "1", "2", "02"], ("1", "2")),
        (["+1", "1", "-1"], ("-1", "1")),
        (["1e0", "1", "2"], ("1", "2")),
        (["1.0", "2.0"], ("1.0", "2.0")),
        (["café", "cafe\u0301", "bar"], ("bar", "café")),
        (["Å", "A\u030a", "\u212b", "b"], ("b", "Å")),
        (["True", "TRUE", "true", "False"], ("False", "TRUE")),
        (["a ", "a", " b"], ("a", "b")),
        (["1.0", "1", "other"], ("1", "other")),
        (["NA", "EU", "SA"], ("EU", "NA", "SA")),
        (["nan", "bread"], ("bread", "nan")),
        (["9007199254740993", "9007199254740992"], ("9007199254740992", "9007199254740993")),
        (["1" * 400, "1" * 399 + "2"], ("1" * 400, "1" * 399 + "2")),
    ],
)
def test_one_class_has_one_spelling(tmp_path, labels, names):
    assert task(labelled(tmp_path, labels)).class_names == names


def test_rows_of_joined_spellings_share_their_target(tmp_path):
    assert targets(labelled(tmp_path, ["0", "1", "1.0", "0.0"]))[:8] == [0, 1, 1, 0, 0, 1, 1, 0]


def test_joined_spellings_are_named(tmp_path):
    notes = understood(labelled(tmp_path, ["0", "1", "1", "1.0"])).notes

    assert "labels of 'label': '1.0' is read as '1'" in notes


@pytest.mark.parametrize(
    "labels",
    [["Cat", "cat", "dog"], ["ice cream", "ice  cream", "dog"], ["ａｂ", "ab", "dog"], ["STRASSE", "straße", "x"]],
)
def test_classes_that_differ_in_case_width_or_blanks_only_stay_apart_with_a_warning(tmp_path, labels):
    manifest = understood(labelled(tmp_path, labels))

    assert manifest.targets[0].task.num_outputs == 3
    assert any("are different classes that differ in case, width or blanks only" in note for note in manifest.notes)


def test_one_unknown_label_among_numbers_is_named(tmp_path):
    target = labelled(tmp_path, [*map(str, range(59)), "NA"])

    assert "data.csv line 61: the label (column 'label') is 'NA', and most labels are numbers" in refuse(target)
    few = labelled(tmp_path, ["0", "1", "NA"], "few.csv")
    assert task(few, label="label:multiclass").class_names == ("0", "1", "NA")


@pytest.mark.parametrize("mark", ["?", "N/A", "-", "unknown", "null"])
def test_marks_of_an_unknown_label_among_class_numbers_are_named(tmp_path, mark):
    assert f"line 4: the label (column 'label') is {mark!r}" in refuse(labelled(tmp_path, ["0", "1", mark, "0", "1"]))


def test_a_word_beside_class_numbers_is_a_class(tmp_path):
    assert task(labelled(tmp_path, ["0", "1", "2", "other"])).class_names == ("0", "1", "2", "other")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(["1,5", "2,25", "3"], [1.5, 2.25, 3.0]), (["$1,000.50", "$2,000.00", "$7"], [1000.5, 2000.0, 7.0]),
     (["5%", "7.5%", "10%"], [5.0, 7.5, 10.0])],
)  # fmt: skip
def test_numbers_to_predict_may_have_commas_and_signs(tmp_path, labels, expected):
    target = labelled(tmp_path, labels)

    assert task(target, label="label:regression").kind == "regression"
    assert targets(target, label="label:regression")[:3] == expected


def test_large_numbers_to_predict_keep_their_differences(tmp_path):
    target = labelled(tmp_path, [str(1_700_000_000_000 + row) for row in range(60)])

    assert targets(target, label="label:regression") == [1_700_000_000_000.0 + row for row in range(60)]


def test_a_target_that_is_constant_in_train_is_refused(tmp_path):
    rows = [
        f"{'train' if row < 40 else 'val' if row < 50 else 'test'},{1.5 if row < 50 else row},t {row}"
        for row in range(60)
    ]

    assert "every label of 'label' in train is 1.5" in refuse(table(tmp_path, "split,label,text", rows))


HOT = [[1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 0, 1]]


@pytest.mark.parametrize(
    "cells",
    [
        ["[1, 0, 1, 0]", "[0, 1, 1, 0]", "[1, 1, 0, 1]"],
        ["[1 0 1 0]", "[0 1 1 0]", "[1 1 0 1]"],
        ["(1, 0, 1, 0)", "(0, 1, 1, 0)", "(1, 1, 0, 1)"],
        ["[True, False, True, False]", "[False, True, True, False]", "[True, True, False, True]"],
        ["[1.0, 0.0, 1.0, 0.0]", "[0.0, 1.0, 1.0, 0.0]", "[1.0, 1.0, 0.0, 1.0]"],
        ["1;0;1;0", "0;1;1;0", "1;1;0;1"],
        ["1 0 1 0", "0 1 1 0", "1 1 0 1"],
        ["1|0|1|0", "0|1|1|0", "1|1|0|1"],
    ],
)
def test_multi_hot_lists_as_text_are_one_label_for_each_place(tmp_path, cells):
    target = labelled(tmp_path, cells)

    found = task(target)
    assert (found.kind, found.num_outputs) == ("multilabel", 4)
    assert found.class_names == ("label[0]", "label[1]", "label[2]", "label[3]")
    assert targets(target)[:3] == [tuple(row) for row in HOT]


def test_multi_hot_lists_of_parquet_are_one_label_for_each_place(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="this pyarrow was built without Parquet")
    hot = np.random.default_rng(0).integers(0, 2, (200, 4))
    parquet.write_table(
        pyarrow.table({"text": [f"a row {row}" for row in range(200)], "label": hot.tolist()}), tmp_path / "hot.parquet"
    )

    np.testing.assert_array_equal(targets(str(tmp_path / "hot.parquet")), hot)


def test_a_multi_hot_list_of_another_length_is_named(tmp_path):
    target = labelled(tmp_path, ["[1, 0, 1, 0]", "[0, 1, 1, 0]", "[1, 1, 0]"])

    assert "line 4: the label (column 'label') has 3 zeros and ones where 4 are due" in refuse(target)


@pytest.mark.parametrize(
    ("cells", "names", "first"),
    [
        (["['x', 'y']", "['y']", "[]"], ("x", "y"), [(1, 1), (0, 1), (0, 0)]),
        (['["x;1", "y"]', '["y"]', '["z"]'], ("x;1", "y", "z"), [(1, 1, 0), (0, 1, 0), (0, 0, 1)]),
        (["[3, 10]", "[10]", "[3, 2, 10]"], ("2", "3", "10"), [(0, 1, 1), (0, 0, 1), (1, 1, 1)]),
        (["[0, 1]", "[1]", "[0]"], ("0", "1"), [(1, 1), (0, 1), (1, 0)]),
        (["1;3", "2", "3"], ("1", "2", "3"), [(1, 0, 1), (0, 1, 0), (0, 0, 1)]),
    ],
)
def test_lists_of_words_and_of_class_numbers_are_sets_of_labels(tmp_path, cells, names, first):
    target = labelled(tmp_path, cells)

    assert (task(target).kind, task(target).class_names) == ("multilabel", names)
    assert targets(target)[:3] == first


def test_lists_of_fractions_are_a_regression_of_several_outputs(tmp_path):
    target = labelled(tmp_path, ["[0.5, -1.25]", "[1.5, 2.0]", "[0.1, 0.2]"])

    assert (task(target).kind, task(target).num_outputs) == ("regression", 2)
    assert targets(target)[:2] == [(0.5, -1.25), (1.5, 2.0)]


def test_lists_of_fractions_of_two_lengths_name_the_row(tmp_path):
    target = labelled(tmp_path, ["[0.5, 1.5]", "[0.5, 2.5]", "[0.5]"])

    assert "line 4: the label (column 'label') holds 1 numbers where 2 finite ones are due" in refuse(target)


def test_lists_of_whole_numbers_of_one_length_are_asked_about(tmp_path):
    target = labelled(tmp_path, ["[3, 7]", "[2, 5]"])

    assert "[label=label:multilabel], or numbers to predict, by [label=label:regression]" in refuse(target)
    assert task(target, label="label:multilabel").class_names == ("2", "3", "5", "7")
    assert targets(target, label="label:regression")[:2] == [(3.0, 7.0), (2.0, 5.0)]


@pytest.mark.parametrize("item", ["1e999", "-1e999", "9" * 400, "nan"])
def test_a_list_with_a_number_that_is_none_names_the_row(tmp_path, item):
    target = labelled(tmp_path, ["[1, 0]", f"[1, {item}]".replace("nan", "NaN"), "[0, 1]"])

    assert "line 3: the label (column 'label')" in refuse(target)


def test_a_list_with_a_gap_names_the_row(tmp_path):
    assert "line 3: the label (column 'label') is '[1, null]', not a list of words or numbers" in refuse(
        labelled(tmp_path, ["[1, 0]", "[1, null]", "[0, 1]"])
    )


def test_the_column_of_labels_may_be_written_in_capitals(tmp_path):
    target = rows_of(tmp_path, ["Text", " Label "], [(f"text {row} z", "ab"[row % 2]) for row in range(30)])

    assert task(target).class_names == ("a", "b")


def test_candidates_are_named_where_no_column_is_called_label(tmp_path):
    cells = [(f"text {row} z", ["owl", "fox"][row % 2], row) for row in range(30)]

    assert "[label=species]; it may be 'species' (2 different)" in refuse(
        rows_of(tmp_path, ["text", "species", "weight"], cells)
    )
