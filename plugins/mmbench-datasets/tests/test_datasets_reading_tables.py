"""Tables as programs write them: encodings, separators, quotes, headers, JSON, and columns of splits and groups."""

from __future__ import annotations

import json
import re

import pytest
from manifest_cases import opened, refuse, rows_of, table, texts, understood, values, write
from mmbench_datasets.manifest import describe
from PIL import Image

from mmbench.data import SPLITS
from mmbench.errors import UsageError

pytestmark = pytest.mark.usefixtures("own_cache")
ROWS = [f"a text {row},{'ab'[row % 2]}" for row in range(30)]
CONTENT = "\n".join(["text,label", *ROWS, "é café,a"]) + "\n"


@pytest.mark.parametrize(
    "encoded",
    [
        CONTENT.encode(),
        CONTENT.encode("utf-8-sig"),
        CONTENT.encode("utf-16"),
        b"\xfe\xff" + CONTENT.encode("utf-16-be"),
        CONTENT.encode("utf-32"),
        CONTENT.replace("\n", "\r\n").encode(),
        CONTENT.replace("\n", "\r").encode(),
        CONTENT.replace(",", ";").encode(),
        CONTENT.replace(",", "\t").encode(),
        CONTENT.replace(",", "|").encode(),
        CONTENT.replace("\n", "\n\n").encode(),
        CONTENT.rstrip("\n").encode(),
    ],
)
def test_the_same_table_is_read_from_every_encoding_line_end_and_separator(tmp_path, encoded):
    found = values(write(tmp_path, encoded), "text")

    assert (len(found), found[3], found[30]) == (31, "a text 3", "é café")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "mac_roman", "utf-16-le"])
def test_an_encoding_that_nothing_tells_is_asked_for(tmp_path, encoding):
    target = write(tmp_path, CONTENT.encode(encoding))

    message = refuse(target)
    assert "line" in message
    assert "in [encoding=" in message
    assert values(target, "text", encoding=encoding)[30] == "é café"


@pytest.mark.parametrize("encoding", ["klingon", "rot13", "hex"])
def test_an_encoding_that_is_none_is_refused(tmp_path, encoding):
    assert "encoding" in refuse(write(tmp_path, CONTENT), UsageError, encoding=encoding)


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_separators_of_lines_in_unicode_are_letters_of_a_cell(tmp_path, letter):
    lines = [f"one{letter}two {row},{'ab'[row % 2]}" for row in range(30)]

    assert values(table(tmp_path, "text,label", lines), "text")[0] == f"one{letter}two 0"
    objects = [
        json.dumps({"text": f"one{letter}two {row}", "label": "ab"[row % 2]}, ensure_ascii=False) for row in range(30)
    ]
    assert values(write(tmp_path, "\n".join(objects), "data.jsonl"), "text")[0] == f"one{letter}two 0"


def test_quotes_in_a_tsv_file_are_letters_unless_they_stand_around_a_cell(tmp_path):
    lines = [
        f"{cell} {row}\t{'ab'[row % 2]}" for row, cell in enumerate(['5" screen', '"open', 'say "hi"', "plain"] * 8)
    ]
    lines[4] = '"all ""quoted"" here"\ta'

    found = values(write(tmp_path, "\n".join(["text\tlabel", *lines]), "data.tsv"), "text")
    assert found[:5] == ['5" screen 0', '"open 1', 'say "hi" 2', "plain 3", 'all "quoted" here']


def test_a_tsv_cell_with_a_tab_and_a_line_break_in_quotes_is_one_cell(tmp_path):
    cells = [("one\ttwo\tthree\nfour" if row == 3 else f"text {row}", "ab"[row % 2]) for row in range(30)]

    assert values(rows_of(tmp_path, ["text", "label"], cells, "data.tsv"), "text")[3] == ("one\ttwo\tthree\nfour")
    cells[3] = ("one\ttwo\nthree", "b")
    assert "can be read in two ways: quotes around cells with line breaks give 30 rows" in refuse(
        rows_of(tmp_path, ["text", "label"], cells, "two.tsv")
    )


def test_a_european_spreadsheet_is_read(tmp_path):
    lines = [f"{row};{row},5;{'ab'[row % 2]}" for row in range(40)]
    target = table(tmp_path, "id;price;label", lines)

    splits = opened(target, v="price")
    found = {sample.sample_id: float(sample.inputs["v"][0]) for split in SPLITS for sample in splits[split]}
    assert found == {str(row): row + 0.5 for row in range(40)}
    notes = understood(target, v="price").notes
    assert "cells are separated by semicolons" in notes
    assert "column 'price': numbers with decimal commas" in notes


def test_a_comma_within_the_cells_of_a_file_with_semicolons_is_a_letter(tmp_path):
    lines = [f"one, two {row};{'ab'[row % 2]}" for row in range(40)]

    assert values(table(tmp_path, "text;label", lines), "text")[0] == "one, two 0"


def test_all_ragged_rows_are_named_beside_other_faults(tmp_path):
    message = refuse(texts(tmp_path, row1="s1,train,dog", row3="s3,train,,x y", row5="a,b,c,d,e"))

    assert "data.csv has 3 faults in 3 rows" in message
    assert "line 3 has 3 cells, but the header has 4" in message
    assert "line 7 has 5 cells, but the header has 4" in message
    assert "line 5: the label (column 'label') is empty" in message


def test_ragged_rows_can_be_left_out(tmp_path):
    target = texts(tmp_path, rows=24, row1="s1,train,dog")

    assert len(understood(target, drop="bad").table) == 23


@pytest.mark.parametrize(
    ("content", "reason"),
    [("a,a\n1,2\n", "names the column 'a' more than once"), (",,\n1,2,3\n", "is empty; its first line must name"),
     ("\n\n", "is empty; its first line"),
     ('"a,b\n', "is not well-formed CSV"), ("a,b\n\0,1\n", "holds a NUL character")],
)  # fmt: skip
def test_a_file_without_a_usable_header_is_refused(tmp_path, content, reason):
    assert reason in refuse(write(tmp_path, content))


@pytest.mark.parametrize("name", ["data.jsonl", "data.ndjson", "data.json"])
def test_json_objects_are_rows(tmp_path, name):
    objects = [{"text": f"a text {row}", "label": "ab"[row % 2], "emb": [row, 0.5], "n": row} for row in range(30)]
    objects[2].pop("text")
    objects[3]["text"] = None
    content = json.dumps(objects) if name == "data.json" else "\n".join(map(json.dumps, objects)) + "\n\n"
    target = write(tmp_path, content, name)

    found = values(target, "emb", emb="emb", words="text", v="n")
    assert found[5].tolist() == [5, 0.5]
    assert values(target, "words", emb="emb", words="text")[1:5] == ["a text 1", None, None, "a text 4"]
    assert values(target, "v", v="n")[7].tolist() == [7]


def test_lines_that_are_no_json_objects_are_named_together(tmp_path):
    lines = [json.dumps({"text": f"a text {row}", "label": "ab"[row % 2]}) for row in range(30)]
    lines[3], lines[7], lines[9] = "{", "[1]", '"text"'

    message = refuse(write(tmp_path, "\n".join(lines), "data.jsonl"))
    assert "data.jsonl has 3 faults in 3 rows" in message
    assert "line 8 holds list, not an object" in message


def split_rows_of(folder, header, word=str, groups=False):
    cells = []
    for row in range(240):
        part = ["Train", "Val", "Test"][0 if row < 160 else 1 if row < 200 else 2]
        cells.append((f"s{row}", word(part), f"patient{row // 4}", f"day number {row}", "ab"[row % 2]))
    return rows_of(folder, header, cells)


@pytest.mark.parametrize(
    "header", ["split", "Split", "SPLIT", "split ", " Split", "subset", "fold", "partition", "usage", "anything"]
)
def test_the_publishers_split_is_kept_however_its_column_is_called(tmp_path, header):
    target = split_rows_of(tmp_path, ["ID", header, "Group", "text", "label"])

    splits = opened(target)
    assert [sample.sample_id for sample in splits["test"]] == [f"s{row}" for row in range(200, 240)]
    assert "split: by column" in " ".join(understood(target).notes)


@pytest.mark.parametrize(
    "words", [("training", "validation", "testing"), ("TRAIN", "dev", "TEST"), (" train", "valid ", "test")]
)
def test_the_words_for_splits(tmp_path, words):
    target = split_rows_of(
        tmp_path, ["id", "split", "g", "text", "label"], dict(zip(("Train", "Val", "Test"), words, strict=True)).get
    )

    assert {split: len(rows) for split, rows in opened(target).items()} == {"train": 160, "val": 40, "test": 40}


def test_two_columns_that_look_like_splits_are_asked_about(tmp_path):
    cells = [
        (("train", "val", "test")[row % 3], ("train", "test")[row % 2], f"text {row}", "ab"[row // 3 % 2])
        for row in range(60)
    ]
    target = rows_of(tmp_path, ["subset", "fold", "text", "label"], cells)

    assert "the columns subset, fold all say train and test; choose one by [split=subset]" in refuse(target, UsageError)
    assert len(opened(target, split="subset")["test"]) == 20


def test_a_drawn_split_is_said_and_so_is_a_column_of_folds_that_is_not_used(tmp_path):
    cells = [(row % 5, f"text {row} z", "ab"[row % 2]) for row in range(60)]
    notes = understood(rows_of(tmp_path, ["fold", "text", "label"], cells)).notes

    assert any(
        re.fullmatch(r"split: drawn by seed 0, 70/15/15 by target: \d+ train, \d+ val, \d+ test", n) for n in notes
    )
    assert "column 'fold' is not used for the split: it does not say train, val or test" in notes


def test_groups_in_a_column_with_a_capital_stay_together(tmp_path):
    cells = [(f"p{row // 4}", f"text {row}", "ab"[row % 2]) for row in range(120)]
    target = rows_of(tmp_path, [" Group", "text", "label"], cells)

    groups = [{int(sample.inputs["text"].split()[1]) // 4 for sample in rows} for rows in opened(target).values()]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]


def test_a_column_of_two_groups_is_said_to_be_taken_unasked_and_can_be_ignored(tmp_path):
    cells = [(f"text {row} z", ["control", "treatment"][row % 2], "ab"[row // 2 % 2]) for row in range(60)]
    target = rows_of(tmp_path, ["text", "group", "label"], cells)

    assert "(the column 'group' was taken for groups; [group=\"\"] ignores it)" in refuse(target)
    assert len(opened(target, group="")["test"]) > 0


def test_ids_that_stand_twice_can_be_ignored(tmp_path):
    cells = [(row % 7, f"text {row} z", "ab"[row % 2]) for row in range(60)]
    target = rows_of(tmp_path, ["ID", "text", "label"], cells)

    assert '[id=""] numbers the rows instead' in refuse(target)
    assert opened(target, id="")["test"][0].sample_id.startswith("row-")


@pytest.mark.parametrize(
    "name", ["text", "image", "speed", "lab", "feed", "gid", "idx", "test", "seat", "table", "max"]
)
def test_reasonable_names_of_modalities_are_taken(tmp_path, name):
    assert [source.name for source in understood(texts(tmp_path), **{name: "text"}).sources] == [name]


@pytest.mark.parametrize(
    ("name", "meant"),
    [("lable", "label"), ("labels", "label"), ("groups", "group"), ("splitt", "split"), ("sede", "seed")],
)
def test_reserved_names_with_exchanged_letters_are_refused(tmp_path, name, meant):
    assert f"no option {name!r}. Did you mean {meant!r}?" in refuse(texts(tmp_path), UsageError, **{name: "text"})


def test_globs_name_the_columns_of_wide_tables(tmp_path):
    header = ["label", *(f"gene_{number}" for number in range(300)), "age", "gene_label"]
    cells = [("ab"[row % 2], *(row + number for number in range(300)), row, "ab"[row % 2]) for row in range(60)]
    target = rows_of(tmp_path, header, cells)

    found = values(target, "genes", genes="gene_[0-9]*", meta="age+gene_1*", label="gene_label")
    assert found[3].tolist() == list(range(3, 303))
    meta = values(target, "meta", genes="gene_[0-9]*", meta="age+gene_1*", label="gene_label")
    assert meta[0].shape == (1 + 1 + 10 + 100,)
    assert "no column 'gen_*' for the modality 'genes'" in refuse(target, UsageError, genes="gen_*")


def test_a_glob_leaves_labels_and_splits_out(tmp_path):
    cells = [(("train", "val", "test")[row % 3], row, row * 2, "ab"[row // 3 % 2]) for row in range(60)]
    target = rows_of(tmp_path, ["c_split", "c_1", "c_2", "c_label"], cells)

    found = values(target, "t", t="c_*", label="c_label", split="c_split")
    assert sorted(value.tolist() for value in found)[1] == [1, 2]


def test_columns_whose_names_clean_to_the_same_get_names_of_their_own(tmp_path):
    cells = [(f"one {row} a", f"two {row} b", f"three {row} c", "ab"[row % 2]) for row in range(60)]
    target = rows_of(tmp_path, ["my text", "my_text", "my-text" + "x" * 80, "label"], cells)

    names = [source.name for source in understood(target).sources]
    assert len(set(names)) == 3
    assert {"my_text", "my_text_2"} < set(names)


def test_columns_left_out_are_named(tmp_path):
    cells = [(f"one {row} a", row, row % 3, "ab"[row % 2]) for row in range(60)]
    notes = understood(rows_of(tmp_path, ["text", "weight", "size", "label"], cells)).notes

    advice = "as in [text=text,meta=weight+size]"
    assert f"not used: weight, size; numbers, dates and categories are read where they are named, {advice}" in notes


def test_a_warning_names_columns_of_media_and_text_that_are_not_read_beside_named_ones(tmp_path):
    rows = [(f"{row}.png", f"one {row} a", row / 7, f"2024-01-{row % 28 + 1:02}", "ab"[row % 2]) for row in range(60)]
    for row in range(60):
        Image.new("RGB", (8, 8), (row, 0, 0)).save(tmp_path / f"{row}.png")
    target = rows_of(tmp_path, ["picture", "caption", "weight", "day", "label"], rows)

    notes = describe(target, meta="weight").notes
    whole = describe(target, picture="picture", caption="caption", meta="weight").notes

    assert (
        "warning: only the columns that options name are read, not 'picture' (image), 'caption' (text); to read them, "
        "too: [meta=weight,picture=picture,caption=caption]"
    ) in notes
    assert "ignored: 'day'; numbers, dates and categories are read by [meta=weight,meta_2=day]" in notes
    assert not any("only the columns that options name" in note for note in whole)


def test_columns_that_no_option_names_are_judged_by_some_rows_of_a_large_table(tmp_path):
    rows = [(row, f"one {row} a", "ab"[row % 2]) for row in range(3_000)]
    target = rows_of(tmp_path, ["weight", "caption", "label"], rows)

    notes = describe(target, meta="weight").notes

    assert any(note.startswith("warning: only the columns") and "'caption' (text)" in note for note in notes)
