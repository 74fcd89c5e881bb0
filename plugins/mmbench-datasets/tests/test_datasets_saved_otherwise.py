"""Tables as spreadsheets, notebooks and scripts save them: read right, or refused with the line and what to do."""

from __future__ import annotations

import gzip
import io
import json

import numpy as np
import pytest
from manifest_cases import refuse, rows_of, understood, values, write
from PIL import Image

from mmbench.errors import UsageError

pytestmark = pytest.mark.usefixtures("own_cache")

HEADER = "text,label\n"
BODY = "".join(f"some text {row},{'ab'[row % 2]}\n" for row in range(40))


@pytest.mark.parametrize(
    "content",
    [
        "sep=;\n" + (HEADER + BODY).replace(",", ";"),
        '"sep=;"\r\n' + (HEADER + BODY).replace(",", ";"),
        "text,label,\n" + BODY.replace("\n", ",\n"),
        "text,label,,\n" + BODY.replace("\n", ",,\n"),
        HEADER + BODY + "   \n",
        "label, text\n" + "".join(f'{"ab"[row % 2]}, "some text {row}"\n' for row in range(40)),
        b"\xef\xbb\xbf\xef\xbb\xbf" + (HEADER + BODY).encode(),
        (HEADER + BODY).encode("utf-16"),
    ],
)
def test_the_same_rows_are_read_however_they_are_saved(tmp_path, content):
    target = write(tmp_path, content)

    assert values(target, "text", text="text")[:2] == ["some text 0", "some text 1"]
    assert understood(target, text="text").targets[0].task.class_names == ("a", "b")


def test_a_comma_before_a_quote_within_a_cell_is_part_of_it(tmp_path):
    cells = [(f' {{"a": {row}, "b": "x"}}', "ab"[row % 2]) for row in range(30)]
    target = rows_of(tmp_path, ["text", "label"], cells)

    assert values(target, "text", text="text")[3] == ' {"a": 3, "b": "x"}'
    assert not any("blanks" in note for note in understood(target, text="text").notes)


@pytest.mark.parametrize("name", ["data.tsv", "data.tab"])
def test_commas_in_a_file_of_tabs_are_understood(tmp_path, name):
    assert values(write(tmp_path, HEADER + BODY, name), "text")[0] == "some text 0"


def test_blanks_around_the_name_of_a_column_need_not_be_written(tmp_path):
    cells = [(f"some text {row}", ["owl", "fox ", "fox"][row % 3], row) for row in range(30)]
    target = rows_of(tmp_path, ["note ", " Species", "weight"], cells)

    assert "it may be ' Species' (2 different)" in refuse(target)
    assert understood(target, label="Species", text="note").targets[0].task.class_names == ("fox", "owl")


def test_a_column_without_a_name_is_called_after_its_place(tmp_path):
    lines = "".join(f"{row},{line}\n" for row, line in enumerate(BODY.splitlines()))
    manifest = understood(write(tmp_path, f",{HEADER}{lines}"), text="text", n="column_1")

    assert [source.columns for source in manifest.sources] == [("column_1",), ("text",)]
    assert "the column without a name, in place 1, is called 'column_1'" in manifest.notes


def test_a_column_without_a_name_takes_the_name_of_no_other_column(tmp_path):
    rows = "".join(f"{row},{100 + row},{'ab'[row % 2]}\n" for row in range(30))
    manifest = understood(write(tmp_path, ",column_1,label\n" + rows), meta="column_1")

    assert list(manifest.table.columns) == ["column_1_", "column_1", "label"]
    assert [manifest.table.columns[name][2] for name in ("column_1_", "column_1")] == ["2", "102"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "# exported\n" + HEADER + BODY,
            "line 1 must name the columns; it has 1 cells (# exported), and 41 of 41 rows",
        ),
        (HEADER + BODY.replace("\n", ",\n"), "line 1 must name the columns; it has 2 cells (text, label)"),
        (HEADER + BODY + HEADER + BODY, "line 42 repeats the names of the columns; remove it"),
        (HEADER + BODY + '"no end,a\n' + BODY, "line 42 opens a quote that is never closed"),
        (
            HEADER + "".join(f'"he said \\"{row}\\", so",a\n' for row in range(40)),
            'write quotes within cells twice, ""',
        ),
        ("height, cm;label\n" + "".join(f"{row},5;{'ab'[row % 2]}\n" for row in range(40)), "can be read in two ways"),
        (gzip.compress((HEADER + BODY).encode()), "is gzip, no table of text: unpack it"),
        (b"PK\x03\x04" + bytes(99), "is ZIP, no table of text: an .xlsx file"),
        ("<!doctype html><html></html>", "is HTML, no table of text"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer, no table of text"),
        ("\0".join(HEADER + BODY), "[encoding=utf-16-le]"),
        ("\0" + "\0".join(HEADER + BODY), "[encoding=utf-16-be]"),
        ("label\n" + "a\nb\n" * 20, "there is nothing beside 'label' to learn from"),
    ],
)
def test_files_that_are_no_table_say_why(tmp_path, content, message):
    assert message in refuse(write(tmp_path, content))


def test_text_that_was_read_by_another_encoding_is_named(tmp_path):
    body = BODY.replace("some", "\u201ccaf\u00e9\u201d")
    twice = (HEADER + BODY.replace("some", "caf\u00e9")).encode().decode("cp1252").encode()

    assert any("they may mean 'caf\u00e9'" in note for note in understood(write(tmp_path, twice)).notes)
    controls = write(tmp_path, (HEADER + body).encode("cp1252"), "latin.csv")
    assert any("[encoding=cp1252]" in note for note in understood(controls, encoding="latin-1").notes)
    assert not any("encoding" in note for note in understood(controls, encoding="cp1252").notes)


OBJECTS = [{"text": f"some text {row}", "label": "ab"[row % 2]} for row in range(40)]
LINES = "\n".join(map(json.dumps, OBJECTS))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data.json", LINES),
        ("data.jsonl", json.dumps(OBJECTS, indent=1)),
        ("data.jsonl", LINES.encode("utf-16")),
        ("data.jsonl", LINES.encode("utf-8-sig")),
    ],
)
def test_json_is_read_as_what_it_is(tmp_path, name, content):
    assert values(write(tmp_path, content, name), "text")[:2] == ["some text 0", "some text 1"]


def test_a_key_that_an_object_holds_twice_is_named(tmp_path):
    lines = [*LINES.splitlines(), '{"text": "a b", "label": "a", "label": "b"}']

    assert "line 41 is no readable JSON (the key 'label' stands there more than once)" in refuse(
        write(tmp_path, "\n".join(lines), "data.jsonl")
    )


def test_an_object_of_columns_says_how_to_save_rows(tmp_path):
    assert "orient='records'" in refuse(write(tmp_path, json.dumps({"text": ["a"], "label": ["b"]}), "data.json"))


@pytest.mark.parametrize("words", [("Training Set", "Test Set"), ("train_set", "test-set"), ("TRAIN SPLIT", "testing")])
def test_words_for_splits_may_say_set(tmp_path, words):
    cells = [(f"a text {row}", "ab"[row % 2], words[row >= 40]) for row in range(60)]

    assert len(understood(rows_of(tmp_path, ["text", "label", "split"], cells)).rows["test"]) == 20


@pytest.mark.parametrize("name", ["is_train", "is_test", "test", "data_split", "cv_fold", "train_flag"])
def test_a_column_that_may_tell_the_split_in_other_words_is_named(tmp_path, name):
    cells = [(f"a text {row}", "ab"[row % 2], int(row < 40)) for row in range(60)]

    assert f"column {name!r} is not used for the split: it does not say train, val or test" in (
        understood(rows_of(tmp_path, ["text", "label", name], cells)).notes
    )


def test_a_column_of_patients_is_proposed_for_groups(tmp_path):
    cells = [(f"a text {row}", "ab"[row % 2], row // 4) for row in range(60)]

    notes = understood(rows_of(tmp_path, ["text", "label", "patient_id"], cells)).notes
    assert any("[group=patient_id] keeps them in one split" in note for note in notes)


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path, format="PNG")


def photos(folder, stored, written, table="data.csv"):
    """Write pictures, and a table below the folder that names them otherwise."""
    for row in range(24):
        photo(folder / stored.format(row))
    (folder / table).parent.mkdir(exist_ok=True)
    return rows_of(
        (folder / table).parent, ["photo", "label"], [(written.format(row), "ab"[row % 2]) for row in range(24)]
    )


@pytest.mark.parametrize(
    ("stored", "written", "message"),
    [
        ("im/{}.png", "{}.png", "(there is 'im/0.png': [root=im] starts paths there)"),
        ("im/{}.png", "IM/{}.PNG", "(there is 'im/0.png')"),
        ("im/{}.jpeg", "im/{}.jpg", "(there is 'im/0.jpeg')"),
        ("im/{}.png", "im/{}", "'im/0' may be 'im/0.png'; say so by photo:image"),
        ("im/{}.png", "https://example.org/{}.png", "Download the files, and name them by relative paths"),
        ("im/{}.png", "['im/{}.png']", "looks like names of files"),
        ("im/{}.png", "/data/im/{}.png", "or name a folder above it by [root=FOLDER]"),
        ("im/{}.png", "nowhere/{}.png", "None of the other 23 files of the column is there"),
    ],
)
def test_paths_that_lead_nowhere_suggest_what_is_there(tmp_path, stored, written, message):
    target = photos(tmp_path, stored, written)

    found = refuse(target, photo="photo")
    assert "data.csv line 2: " in found
    assert message in found


@pytest.mark.parametrize(
    ("stored", "written", "table", "options"),
    [
        ("im/a {}.png", "im/a%20{}.png", "data.csv", {"photo": "photo"}),
        ("im/{}.png", "im/{}", "data.csv", {"photo": "photo:image"}),
        ("im/{}.png", "../im/{}.png", "tables/data.csv", {"photo": "photo", "root": ".."}),
    ],
)
def test_paths_that_mean_a_file_are_found(tmp_path, stored, written, table, options):
    manifest = understood(photos(tmp_path, stored, written, table), **options)

    assert [source.kind for source in manifest.sources] == ["image"]
    assert list(manifest.sources[0].paths) == [stored.format(row) for row in range(24)]


def test_parquet_of_structs_names_what_it_holds(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="this pyarrow was built without Parquet")
    labels = ["ab"[row % 2] for row in range(24)]
    stream = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(stream, format="PNG")
    for row in range(24):
        photo(tmp_path / f"im/{row}.png")
    columns = {
        "m": [{"x": row, "y": 2} for row in range(24)],
        "length": pyarrow.array([1500 * row for row in range(24)], pyarrow.duration("ms")),
        "pic": [{"bytes": None, "path": f"im/{row}.png"} for row in range(24)],
        "several": [[{"bytes": stream.getvalue(), "path": None}]] * 24,
        "text": ["one text"] * 24,
        "label": labels,
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "data.parquet")
    target = str(tmp_path / "data.parquet")

    assert 'the column \'m\' holds {"x": 0, "y": 2}, which is no list of numbers' in refuse(target, UsageError, m="m")
    assert [float(value[0]) for value in values(target, "length", length="length")[:3]] == [0, 1.5, 3]
    assert values(target, "pic", pic="pic")[3].shape == (3, 4, 4)
    assert "bytes" in refuse(target, UsageError, s="several")
