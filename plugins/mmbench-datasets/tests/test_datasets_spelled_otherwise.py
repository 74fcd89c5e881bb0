"""Labels and numbers as other programs write them: read right, or refused with the row, the column and what to do."""

from __future__ import annotations

import numpy as np
import pytest
from manifest_cases import labelled, numbered, opened, refuse, rows_of, understood, values

from mmbench.data import SPLITS

pytestmark = pytest.mark.usefixtures("own_cache")


def first_labels(target, count, **options):
    splits = opened(target, **options)
    found = {sample.sample_id: sample.targets["label"] for split in SPLITS for sample in splits[split]}
    return [found[f"row-{row + 1:06}"] for row in range(count)]


def numbers(folder, cells, **options):
    """Return what is read from a column that repeats some cells."""
    target = rows_of(folder, ["v", "label"], [(cells[row % len(cells)], "ab"[row // 3 % 2]) for row in range(60)])
    found = values(target, "v", **(options or {"v": "v"}))[: len(cells)]
    return [None if value is None else [float(number) for number in value] for value in found]


@pytest.mark.parametrize(
    ("cells", "names", "first"),
    [
        (["0,1,1", "1,0,1", "1,1,0"], ("label[0]", "label[1]", "label[2]"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)]),
        (["{'b', 'a'}", "{'b'}", "set()"], ("a", "b"), [(1, 1), (0, 1), (0, 0)]),
        (["[1. 0.]", "[0. 1.]"], ("label[0]", "label[1]"), [(1, 0), (0, 1)]),
        (["caf\u00e9;x", "cafe\u0301", "x"], ("caf\u00e9", "x"), [(1, 1), (1, 0), (0, 1)]),
        (["1;2", "1.0;3", "2"], ("1", "2", "3"), [(1, 1, 0), (1, 0, 1), (0, 1, 0)]),
        (['["caf\u00e9", "x"]', '["cafe\u0301"]', '["x"]'], ("caf\u00e9", "x"), [(1, 1), (1, 0), (0, 1)]),
    ],
)
def test_several_labels_of_a_row_are_told_apart(tmp_path, cells, names, first):
    target = labelled(tmp_path, cells)

    task = understood(target).targets[0].task
    assert (task.kind, task.class_names) == ("multilabel", names)
    assert first_labels(target, len(cells)) == first


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["True", "1", "False", "0"], ("0", "1")),
        (["cat", "cat\u200b", "dog"], ("cat", "dog")),
        (["\ufeffcat", "cat", "cat", "dog"], ("cat", "dog")),
        (["cat\u00a0", "cat", "dog"], ("cat", "dog")),
        (["\u22121", "-1", "1"], ("-1", "1")),
        (["24 h", "48 h", "72 h"], ("24 h", "48 h", "72 h")),
        (["red car", "blue car", "red bus"], ("blue car", "red bus", "red car")),
        (["Portland, OR", "Salem, MA", "Austin, TX"], ("Austin, TX", "Portland, OR", "Salem, MA")),
    ],
)
def test_labels_that_mean_the_same_are_one_class(tmp_path, cells, names):
    assert understood(labelled(tmp_path, cells)).targets[0].task.class_names == names


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            ["a,b", "b", "a", "a,c", "c,b"],
            "line 2: the label (column 'label') is 'a,b', and what its commas divide are",
        ),
        (["0,1", "1,0"], "[label=label:multilabel], or one class each, by [label=label:multiclass]"),
        (
            ["[0 1 ... 0]", "[1 1 ... 0]"],
            "line 2: the label (column 'label') is '[0 1 ... 0]', which looks like a list",
        ),
        (["[cat, dog]", "[cat]", "[dog, cat]"], 'cannot be read as one; write ["a", "b"] or a;b'),
        (["['a', 'b']", "a", "['b']"], "line 3: the label (column 'label') is 'a', not a list"),
        (["x", "y", "['x', 'y']", "x"], "line 4: the label (column 'label') is the list \"['x', 'y']\""),
        (["0.5", "1e300", "2.5"], "line 3: the label (column 'label') must be a finite number, got '1e300'"),
        (["1,000", "2,500", "3,750", *(f"{row + 4},{row + 100}" for row in range(57))], "may be read as 1 or 1000"),
        (["a/b", "a", "b"], "line 2: the label (column 'label') is 'a/b', whose parts are labels of other rows"),
        (["#a #b", "#a", "#b"], "write several labels as a;b"),
        (["a\nb", "a", "b"], "[label=label:multiclass]"),
        ([f"word{row}" for row in range(60)], "60 of the 60 classes of 'label' are on one row only"),
    ],
)
def test_labels_that_can_be_read_in_two_ways_are_asked_about(tmp_path, cells, message):
    assert message in refuse(labelled(tmp_path, cells))


def test_commas_divide_labels_where_that_is_asked_for(tmp_path):
    target = labelled(tmp_path, ["a, b", "b", "a", "c, b"])

    assert first_labels(target, 4, label="label:multilabel") == [(1, 1, 0), (0, 1, 0), (1, 0, 0), (0, 1, 1)]
    assert understood(target, label="label:multiclass").targets[0].task.class_names == ("a", "a, b", "b", "c, b")


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        (["a", "b", "NA"], "'NA' (20 rows) is a class of its own; if it marks an unknown label, empty these cells"),
        (
            [f"2024-01-{day:02}" for day in range(1, 29)],
            "the labels of 'label' are dates or times, such as '2024-01-01'",
        ),
        (["a|b", *"aaaaaaaaa", *"bbbbbbbbbb"], "3 of 60 rows hold several, such as 'a|b'; [label=label:multiclass]"),
        (["ice-cream", "ice cream", "cake"], "'ice cream' and 'ice-cream' are different classes"),
        (["'cat'", "cat", "dog"], "are different classes that differ in case, width or blanks only"),
        (["Dog;cat", "dog", "cat"], "'Dog' and 'dog' are different classes"),
        (["yes", "no", "1", "0"], "'0', '1', 'no', 'yes' are different classes; write yes and no alike"),
    ],
)
def test_what_is_guessed_of_labels_is_said(tmp_path, cells, note):
    assert any(note in each for each in understood(labelled(tmp_path, cells)).notes)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["\u22121.5", "2", "\u22123"], [[-1.5], [2], [-3]]),
        (["1,23,456", "12,34,567", "5,678"], [[123456], [1234567], [5678]]),
        (["1,5E+05", "2,25", "3,5"], [[150000], [2.25], [3.5]]),
        (["5 kg", "7.5 kg", "6kg"], [[5], [7.5], [6]]),
        (["USD 5", "USD 7.50", "USD 1,000.25"], [[5], [7.5], [1000.25]]),
        (["1,5;2,5", "0,5;1", "-3,25;4,5"], [[1.5, 2.5], [0.5, 1], [-3.25, 4.5]]),
        (["[1.0, nan, 3.0]", "[4.0, 5.0, 6.0]"], [[1, np.nan, 3], [4, 5, 6]]),
        (["[1., nan, 3.]", "[4., 5., 6.]"], [[1, np.nan, 3], [4, 5, 6]]),
        (["[1. nan 3.]", "[4. 5. 6.]"], [[1, np.nan, 3], [4, 5, 6]]),
        (["array([1., 2.])", "array([3., 4.], dtype=float32)"], [[1, 2], [3, 4]]),
        (["tensor([1., 2.])", "tensor([3., 4.], device='cuda:0')"], [[1, 2], [3, 4]]),
        (["TRUE", "NA", "false"], [[1, 0], None, [0, 1]]),
    ],
)
def test_numbers_and_lists_are_read_as_other_programs_write_them(tmp_path, cells, expected):
    found = numbers(tmp_path, cells)
    for value, due in zip(found, expected, strict=True):
        if due is None:
            assert value is None
        else:
            np.testing.assert_allclose(value, due, rtol=1e-6)


@pytest.mark.parametrize("kind", ["", ":tabular"])
def test_decimal_commas_are_one_number_whether_or_not_a_table_is_asked_for(tmp_path, kind):
    assert numbers(tmp_path, ["0,5", "1,5", "2,5"], v=f"v{kind}") == [[0.5], [1.5], [2.5]]


def test_whole_numbers_beyond_64_bit_floats_keep_their_differences(tmp_path):
    start = 1_234_567_890_123_456_789
    target = rows_of(tmp_path, ["v", "label"], [(start + row, "ab"[row % 2]) for row in range(60)])

    assert np.diff([float(value[0]) for value in values(target, "v", v="v")]).tolist() == [1.0] * 59


def test_a_code_that_is_read_as_a_number_is_named(tmp_path):
    target = rows_of(tmp_path, ["zip", "label"], [(f"0{1000 + row % 7}", "ab"[row % 2]) for row in range(60)])

    assert any("'01000' is read as a number; if it is a code" in note for note in understood(target, z="zip").notes)


def test_an_hour_of_one_digit_is_a_time(tmp_path):
    assert numbers(tmp_path, ["6:00", "18:00"]) == [pytest.approx([1, 0], abs=1e-6), pytest.approx([-1, 0], abs=1e-6)]


@pytest.mark.parametrize(("cells", "width"), [(["caf\u00e9", "cafe\u0301", "tea"], 2), (["1", "1.0", "2"], 2)])
def test_categories_have_one_spelling_each(tmp_path, cells, width):
    found = numbers(tmp_path, cells, v="v:category")

    assert len(found[0]) == width
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("cell", ["05/01/2024", "1.5.24", "28.04.24", "9:05 PM", "May 1, 2024", "1 May 2024 10:30"])
@pytest.mark.parametrize("kind", ["", ":tabular"])
def test_dates_that_differ_from_place_to_place_are_refused(tmp_path, cell, kind):
    target = rows_of(tmp_path, ["v", "label"], [(cell, "ab"[row % 2]) for row in range(60)])

    message = refuse(target, v=f"v{kind}")
    assert f"data.csv line 2: the column 'v' holds dates or times such as {cell!r}" in message
    assert "write them as 2024-05-01" in message


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["[0.1 0.2 ... 0.9]", "[0.3 0.4 ... 0.5]"], "line 2: the column 'v' holds arrays whose middle was left out"),
        (["NA", "?"], "the column 'v' holds marks of unknown values only, such as 'NA'"),
        (["1e-50", "2e-50", "3e-50"], "become one and the same as 32-bit floats"),
        (["5 kg", "7 lb", "6 kg"], "line 3: in column 'v' of 'v', '7 lb' is no number, as most of the column is"),
        (["1.5", "2,5", "3,5", "4.5"], "is no number, as most of the column is"),
        (["5%", "7%", "0.05"], "line 4: in column 'v' of 'v', '0.05' is no number"),
    ],
)
def test_columns_that_would_be_read_wrong_are_refused(tmp_path, cells, message):
    target = rows_of(tmp_path, ["v", "label"], [(cells[row % len(cells)], "ab"[row // 3 % 2]) for row in range(60)])

    assert message in refuse(target, v="v")


def test_a_joined_column_without_a_value_in_train_is_refused(tmp_path):
    parts = ["train"] * 30 + ["val"] * 10 + ["test"] * 20
    rows = [(row, "" if part == "train" else row, "ab"[row % 2], part) for row, part in enumerate(parts)]

    message = refuse(rows_of(tmp_path, ["v", "w", "label", "split"], rows), t="v+w")
    assert "no row of train has a value in the column 'w' of 't' (30 rows), so nothing can be learned of it" in message


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        (["a text", "nan", "more text"], "20 cells of 'v' are 'nan', which is read as a word of text 'v'"),
        (["(0.5)", "(1.5)", "(2.5)"], "look like numbers that mmbench does not know, such as '(0.5)'"),
        (["0x1f", "0x2e", "0x3d"], "most of its cells look like numbers that mmbench does not know, such as '0x1f'"),
        (["['a', 'b']", "['c']", "['d', 'e']"], "most of its cells are lists of words"),
    ],
)
def test_cells_of_a_text_that_may_be_none_are_named(tmp_path, cells, note):
    target = rows_of(tmp_path, ["v", "label"], [(cells[row % 3], "ab"[row // 3 % 2]) for row in range(60)])

    assert any(note in each for each in understood(target, v="v").notes)


def test_a_number_that_is_no_number_is_still_named_with_its_row(tmp_path):
    assert "line 2: in column 'v' of 'v', '(5.5)' is no number" in refuse(numbered(tmp_path, ["(5.5)"]), v="v")


@pytest.mark.parametrize("odd", ["img.jpg;short", "img.jpg;short;1,5;a;too many"])
def test_one_row_of_another_width_leaves_semicolons_the_separator(tmp_path, odd):
    lines = [f"img{row}.jpg;words;{row},5;{'ab'[row % 2]}" for row in range(60)]
    file = tmp_path / "data.csv"
    file.write_text("\n".join(["file;text;weight;label", *lines, odd]) + "\n", encoding="utf-8")

    said = refuse(file, text="text", label="label")
    assert "line 62" in said
    assert "line 1 " not in said
