"""What every mistake in a manifest's columns and options is told, at planning."""

from __future__ import annotations

from pathlib import Path

import pytest
from manifest_cases import media, refuse, table, texts, write

from mmbench.errors import UsageError

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_column_named_twice(tmp_path):
    assert "names the column 'text' more than once" in refuse(write(tmp_path, "label,text,text\na,b,c\n"))


def test_a_column_that_is_not_there(tmp_path):
    target = texts(tmp_path)

    assert "no column 'txt' for the modality 'words'; it has id, split, label, text. Did you mean 'text'?" in refuse(
        target, UsageError, words="txt"
    )
    assert "no column 'lable' for labels" in refuse(target, UsageError, label="lable")
    assert "no column 'x' for splits" in refuse(target, UsageError, split="x")
    assert "no column 'x' for ids" in refuse(target, UsageError, id="x")
    assert "no column 'x' for groups" in refuse(target, UsageError, group="x")


def test_no_labels_at_all(tmp_path):
    target = table(tmp_path, "class,text", [f"{'ab'[row % 2]},some text {row}" for row in range(20)])

    message = refuse(target)
    assert "no column 'label'; name the labels' column with [label=class]; it may be" in message
    assert "'class' (2 different)" in message
    assert "It has class, text" in message


def test_an_unknown_kind(tmp_path):
    target = texts(tmp_path)

    assert "'txt' is not one of image, audio, video, text, tabular, sequence, category. Did you mean 'text'?" in refuse(
        target, UsageError, words="text:txt"
    )
    assert "'classes' is not one of multiclass, multilabel, regression" in refuse(
        target, UsageError, label="label:classes"
    )


def test_a_misspelt_option_is_not_taken_for_a_modality(tmp_path):
    assert "no option 'lable'. Did you mean 'label'?" in refuse(texts(tmp_path), UsageError, lable="label")


def test_the_labels_cannot_be_an_input(tmp_path):
    assert "reads" not in refuse(texts(tmp_path), UsageError, words="label")
    assert "which holds the labels of 'label'" in refuse(texts(tmp_path), UsageError, words="label")
    assert "which holds the splits" in refuse(texts(tmp_path), UsageError, words="text+split")


def test_a_modality_with_an_impossible_name(tmp_path):
    assert "name modalities as in [image=COLUMN]" in refuse(texts(tmp_path), UsageError, **{"my text!": "text"})


def test_duplicate_and_empty_ids(tmp_path):
    assert "data.csv line 3: the id 's0' is that of data.csv line 2 too" in refuse(
        texts(tmp_path, row1="s0,train,dog,x")
    )
    assert "line 3: the id (column 'id') is empty" in refuse(texts(tmp_path, row1=",train,dog,x"))


def test_one_class_only(tmp_path):
    target = table(tmp_path, "label,text", [f"cat,some text {row}" for row in range(20)])

    assert "holds one class only ('cat'); there is nothing to learn" in refuse(target)


def test_empty_and_nan_labels(tmp_path):
    assert "line 2: the label (column 'label') is empty" in refuse(texts(tmp_path, row0="s0,train,,x y"))
    rows = [f"{('nan', '1.5', '2')[row % 3]},some text {row}" for row in range(20)]
    assert "line 2: the label (column 'label') is NaN" in refuse(table(tmp_path, "label,text", rows))
    rows = [f"{('1.5', 'inf')[row % 2]},some text {row}" for row in range(20)]
    assert "line 3: the label (column 'label') must be a finite number, got 'inf'" in refuse(
        table(tmp_path, "label,text", rows), label="label:regression"
    )


def test_a_column_of_mixed_media(tmp_path):
    target = media(tmp_path)
    Path(target).write_text(Path(target).read_text().replace("i3.png", "a3.wav"))

    assert "line 5: 'a3.wav' in column 'photo' is not image, as most of the column is" in refuse(target)


def test_an_empty_column_named_as_a_modality(tmp_path):
    target = table(tmp_path, "label,text,none", [f"{'ab'[row % 2]},some text {row}," for row in range(20)])

    assert "the column 'none' is empty, so no sample has 'x'; leave it out" in refuse(target, x="none")


def test_nothing_to_learn_from(tmp_path):
    target = table(tmp_path, "label,age", [f"{'ab'[row % 2]},{row}" for row in range(20)])

    assert "no column holds paths of media or texts; name the modalities" in refuse(target)


def test_a_table_of_too_many_categories(tmp_path):
    target = table(tmp_path, "label,word", [f"{'ab'[row % 2]},w{row}" for row in range(200)])

    assert "For text use word:text" in refuse(target, meta="word:tabular")


@pytest.mark.parametrize("options", [{"seed": "x"}, {"max_seconds": "long"}, {"max_seconds": 0}])
def test_numbers_that_are_none(tmp_path, options):
    assert "must be a" in refuse(texts(tmp_path), UsageError, **options)
