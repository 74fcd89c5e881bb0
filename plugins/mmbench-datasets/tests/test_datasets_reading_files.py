"""Files that tables name, and lists that they hold: found, told by content, checked for one shape."""

from __future__ import annotations

import io
import unicodedata

import numpy as np
import pytest
import soundfile
from manifest_cases import column, opened, refuse, rows_of, understood, values
from PIL import Image

from mmbench.errors import UsageError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def photos(tmp_path):
    """Return a function that writes 24 pictures and a table that names them."""

    def write(spelling=lambda name: name, stored=lambda number: f"im/{number}.png", more=(), header=("photo", "label")):
        names = []
        for number in range(24):
            path = tmp_path / stored(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (number, 0, 0)).save(path, format="PNG")
            names.append((spelling(stored(number)), "ab"[number % 2], *more))
        return rows_of(tmp_path, header, names)

    return write


def reds(target, **options):
    return [int(value[0, 0, 0]) for value in values(target, "photo", **options)]


@pytest.mark.parametrize(
    "spelling",
    [
        lambda name: name,
        lambda name: f"{name} ",
        lambda name: f"  {name}",
        lambda name: name.replace("/", "\\"),
        lambda name: f"{name}?v=2",
        lambda name: f"'{name}'",
        lambda name: f"./{name}",
    ],
)
def test_a_file_is_found_under_every_spelling_that_means_it(photos, spelling):
    target = photos(spelling)

    assert understood(target, photo="photo").sources[0].kind == "image"
    assert reds(target, photo="photo") == list(range(24))


def test_an_absolute_path_below_the_tables_folder_is_found(photos, tmp_path):
    assert reds(photos(lambda name: str(tmp_path / name))) == list(range(24))


def test_paths_may_start_from_another_folder(photos, tmp_path):
    target = photos(lambda name: name.removeprefix("im/"))

    assert "there" in refuse(target, photo="photo")
    assert reds(target, root="im") == list(range(24))
    assert reds(target, root=str(tmp_path / "im")) == list(range(24))
    assert "there is no folder" in refuse(target, UsageError, root="nowhere")


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_another_unicode_form_are_found(photos, on_disk, in_table):
    target = photos(
        lambda name: unicodedata.normalize(in_table, name),
        lambda number: unicodedata.normalize(on_disk, f"bilder/café/käse {number}.png"),
    )

    assert reds(target) == list(range(24))
    assert any("24 paths are written otherwise than on disk" in note for note in understood(target).notes)


def test_a_file_whose_name_differs_in_case_is_suggested(photos, tmp_path):
    target = photos()
    (tmp_path / "im" / "3.png").rename(tmp_path / "im" / "3.PNG")

    assert "line 5: column 'photo' names the file 'im/3.png', which is not there (there is 'im/3.PNG')" in refuse(
        target
    )


@pytest.mark.parametrize("ending", ["", ".dat", ".tif", ".jfif", ".png_"])
def test_the_content_of_files_tells_their_kind_where_endings_do_not(photos, ending):
    target = photos(stored=lambda number: f"owl/{number:03}{ending}")

    manifest = understood(target, photo="photo")
    assert [(source.kind, source.form) for source in manifest.sources] == [("image", "files")]
    assert reds(target, photo="photo") == list(range(24))


@pytest.mark.parametrize("options", [{"photo": "photo"}, {"photo": "photo", "text": "note"}])
@pytest.mark.parametrize("ending", [".xyz", "", ".doc", ".heic"])
def test_files_of_no_known_medium_are_never_text(tmp_path, ending, options):
    cells = []
    for number in range(24):
        folder = tmp_path / ["owl", "fox"][number % 2]
        folder.mkdir(exist_ok=True)
        (folder / f"{number}{ending}").write_bytes(b"\x00\x01 no medium \x02" * 9)
        cells.append((f"{folder.name}/{number}{ending}", f"note {number} z", folder.name))
    target = rows_of(tmp_path, ["photo", "note", "label"], cells)

    message = refuse(target, **options)
    assert "the column 'photo' names files that are none of the media that mmbench reads" in message
    assert "photo:text" in message
    assert values(target, "photo", photo="photo:text")[0] == f"owl/0{ending}"


@pytest.mark.parametrize(
    "cell", ["img/{}.tif", "img/{}.heic", "https://example.org/{}.png", "s3://bucket/{}.jpeg?v=2", "x/{}.m4a", "{}.npy"]
)
def test_names_of_files_that_are_not_there_are_never_text(tmp_path, cell):
    target = rows_of(tmp_path, ["photo", "label"], [(cell.format(row), "ab"[row % 2]) for row in range(24)])

    message = refuse(target, photo="photo")
    assert "not there" in message or "no such file is below" in message or "none of the files" in message
    assert "data.csv" in message


def test_a_caption_that_ends_in_a_file_name_stays_text(tmp_path):
    cells = [(f"the picture {row} is called a.png or b.tif, or so", "ab"[row % 2]) for row in range(24)]

    assert understood(rows_of(tmp_path, ["note", "label"], cells), note="note").sources[0].kind == "text"


def test_a_sound_among_pictures_is_named_and_a_picture_called_a_sound_is_read(photos, tmp_path):
    target = photos()
    soundfile.write(tmp_path / "x.wav", np.zeros(80), 8_000)
    content = (tmp_path / "data.csv").read_text()
    (tmp_path / "im" / "4.png").rename(tmp_path / "im" / "4.wav")
    (tmp_path / "data.csv").write_text(content.replace("im/4.png", "im/4.wav"))

    assert reds(target, photo="photo") == list(range(24))
    (tmp_path / "data.csv").write_text(content.replace("im/4.png", "x.wav"))
    assert "line 6: 'x.wav' in column 'photo' is not image, as most of the column is" in refuse(target, photo="photo")


def test_all_unreadable_files_are_named_at_once_and_can_be_left_out(photos, tmp_path):
    target = photos(more=("x",), header=("photo", "label", "k"))
    for number in (3, 8):
        (tmp_path / "im" / f"{number}.png").write_bytes(b"no picture")
    (tmp_path / "im" / "5.png").unlink()

    message = refuse(target)
    assert "line 7: column 'photo' names the file 'im/5.png', which is not there" in message
    (tmp_path / "im" / "5.png").write_bytes((tmp_path / "im" / "6.png").read_bytes())
    message = refuse(target)
    assert "data.csv has 2 faults in 2 rows" in message
    assert "line 5: 3.png cannot be read as an image" in message
    assert len(column(target, "photo", drop="bad")) == 22


# Lists and arrays


def vectors(folder, cells, name="data.csv"):
    return rows_of(folder, ["emb", "label"], [(cell, "ab"[row % 2]) for row, cell in enumerate(cells)], name)


EMB = np.random.default_rng(0).normal(size=(70, 8)).astype(np.float32)


@pytest.mark.parametrize(
    "written",
    [
        lambda row: str(row.tolist()),
        lambda row: str(tuple(row.tolist())),
        lambda row: "[" + "  ".join(map(str, row.tolist())) + "]",
        lambda row: " ".join(map(str, row.tolist())),
        lambda row: ";".join(map(str, row.tolist())),
        lambda row: ", ".join(map(str, row.tolist())),
    ],
)
def test_lists_of_numbers_as_text_are_a_table_of_that_width(tmp_path, written):
    target = vectors(tmp_path, map(written, EMB))

    source = understood(target, emb="emb").sources[0]
    assert (source.kind, source.width) == ("tabular", 8)
    np.testing.assert_allclose(values(target, "emb", emb="emb"), EMB, rtol=1e-6)


@pytest.mark.parametrize("kind", ["", ":tabular"])
def test_a_list_column_of_parquet_is_a_table_of_that_width(tmp_path, kind):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="this pyarrow was built without Parquet")
    labels = ["ab"[row % 2] for row in range(70)]
    parquet.write_table(pyarrow.table({"emb": EMB.tolist(), "label": labels}), tmp_path / "emb.parquet")
    target = str(tmp_path / "emb.parquet")

    assert dict(understood(target).sources[0].__dict__)["kind"] == "tabular"
    np.testing.assert_array_equal(values(target, "emb", emb=f"emb{kind}"), EMB)


def test_a_list_joins_other_columns_of_a_table(tmp_path):
    cells = [(str([row, 0.5]), row, "ab"[row % 2]) for row in range(30)]
    target = rows_of(tmp_path, ["emb", "age", "label"], cells)

    assert values(target, "m", m="emb+age")[3].tolist() == [3, 0.5, 3]


def test_ragged_lists_are_refused_as_a_table_and_read_as_a_sequence(tmp_path):
    target = vectors(tmp_path, ([1.0, 2.0] if row == 4 else [1.0, 2.0, 3.0, row] for row in range(30)))

    message = refuse(target, s="emb")
    assert "line 6: 's' (column 'emb') has 2 numbers, and most rows have 4: a table needs one width" in message
    assert "read it as s=emb:sequence" in message
    assert values(target, "s", s="emb:sequence")[4].tolist() == [[1], [2]]


def test_empty_lists_and_empty_cells_are_rows_without_the_modality(tmp_path):
    target = vectors(tmp_path, ("[]" if row == 4 else "" if row == 5 else [1.0, row] for row in range(30)))

    assert understood(target, s="emb").missing == ("s",)
    found = values(target, "s", s="emb")
    assert (found[3].tolist(), found[4], found[5]) == ([1, 3], None, None)


def test_lists_of_lists_are_a_sequence(tmp_path):
    target = vectors(tmp_path, ([[row, 1], [2, 3]] + [[4, 5]] * (row % 3) for row in range(30)))

    source = understood(target, s="emb").sources[0]
    assert (source.kind, source.width) == ("sequence", 2)
    assert values(target, "s", s="emb")[1].tolist() == [[1, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    "cell", ["[[1, 2], [3]]", "[[1, 2], []]", "[[1, 2], 3]", "[[1, 2], [3, 'x']]", "[[1, 2], [3, null]]", "[1, 2]", "x"]
)
def test_a_sequence_of_another_shape_is_named(tmp_path, cell):
    target = vectors(tmp_path, (cell if row == 4 else [[row, 1], [2, 3]] for row in range(30)))

    assert "line 6: 's' (column 'emb')" in refuse(target, s="emb")


def test_a_gap_in_a_list_is_an_unknown_value_and_infinity_is_refused(tmp_path):
    target = vectors(tmp_path, ("[1, null]" if row == 4 else f"[{row}, 2]" for row in range(30)))
    assert np.isnan(values(target, "s", s="emb")[4][1])

    target = vectors(tmp_path, ("[1, 1e999]" if row == 4 else f"[{row}, 2]" for row in range(30)))
    assert "line 6: 's' (column 'emb') holds a number that is infinite" in refuse(target, s="emb")


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_paths_of_arrays_are_features_computed_beforehand(tmp_path, name):
    for row in range(30):
        save = np.save if name == "x.npy" else np.savez
        save(tmp_path / f"{row}{name}", EMB[row].astype(np.float64))
    target = vectors(tmp_path, (f"{row}{name}" for row in range(30)))

    source = understood(target, s="emb").sources[0]
    assert (source.kind, source.form, source.width) == ("tabular", "arrays", 8)
    np.testing.assert_array_equal(values(target, "s", s="emb"), EMB[:30])


def test_arrays_of_two_axes_are_sequences(tmp_path):
    for row in range(30):
        np.save(tmp_path / f"{row}.npy", np.full((row + 1, 3), row, dtype=np.int16))
    target = vectors(tmp_path, (f"{row}.npy" for row in range(30)))

    assert understood(target).sources[0].kind == "sequence"
    assert values(target, "emb")[2].tolist() == [[2, 2, 2]] * 3


def bad_arrays():
    whole = io.BytesIO()
    np.save(whole, np.zeros((1000,)))
    several = io.BytesIO()
    np.savez(several, a=np.zeros(8), b=np.zeros(8))
    return {
        "cut short": whole.getvalue()[:500],
        "cannot be read as an array": b"no array",
        "is <U1": _saved(np.array(["x"])),
        "cannot be read": b"\x93NUMPY\x01\x00\xff\xff{",
        "shape (2, 2, 2)": _saved(np.zeros((2, 2, 2))),
        "holds 2 arrays": several.getvalue(),
        "has 3 numbers, and most have 8": _saved(np.zeros(3)),
        "is object": _saved(np.array([{}], dtype=object)),
    }


def _saved(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(("reason", "content"), bad_arrays().items())
def test_an_array_that_cannot_be_used_is_named(tmp_path, reason, content):
    for row in range(30):
        np.save(tmp_path / f"{row}.npy", EMB[row])
    (tmp_path / "4.npy").write_bytes(content)
    target = vectors(tmp_path, (f"{row}.npy" for row in range(30)))

    message = refuse(target, s="emb")
    assert "line 6: 4.npy" in message
    assert reason in message
    assert len(column(target, "s", s="emb", drop="bad")) == 29


# Modalities that splits lack


def media_of_parts(folder, has):
    (folder / "im").mkdir()
    (folder / "au").mkdir()
    cells = []
    for row in range(66):
        part = "train" if row < 33 else "val" if row < 50 else "test"
        Image.new("RGB", (8, 8), (row, 0, 0)).save(folder / "im" / f"{row}.png")
        soundfile.write(folder / "au" / f"{row}.wav", np.full(80, row / 100), 8_000)
        cell = has(part)
        cells.append(
            (
                part,
                "ab"[row % 2],
                f"text {row} z",
                *(value.format(row) if cell else "" for value in ("im/{}.png", "au/{}.wav", "{}")),
            )
        )
    return rows_of(folder, ["split", "label", "text", "photo", "sound", "x"], cells)


@pytest.mark.parametrize("name", ["photo", "sound", "x"])
def test_a_modality_that_no_row_of_train_has_is_refused(tmp_path, name):
    target = media_of_parts(tmp_path, lambda part: part != "train")

    assert f"no row of train has {name!r} (33 rows), so nothing can be learned of it" in refuse(
        target, **{"text": "text", name: name}
    )


def test_a_modality_that_no_row_of_test_has_is_warned_of(tmp_path):
    target = media_of_parts(tmp_path, lambda part: part != "test")

    assert "warning: no row of test has 'photo' (16 rows); scores of that modality alone say nothing there" in (
        understood(target, photo="photo", text="text").notes
    )
    assert opened(target, photo="photo", text="text")["test"][0].inputs["photo"] is None


def test_media_in_parquet_are_read_from_bytes_and_structs(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="this pyarrow was built without Parquet")
    pictures, sounds = [], []
    for row in range(30):
        stream = io.BytesIO()
        Image.new("RGB", (4, 4), (row, 0, 0)).save(stream, format="PNG")
        pictures.append(stream.getvalue())
        stream = io.BytesIO()
        soundfile.write(stream, np.full(80, row / 64), 8_000, format="WAV", subtype="PCM_16")
        sounds.append({"bytes": stream.getvalue(), "path": f"{row}.wav"})
    sounds[4] = None
    parquet.write_table(
        pyarrow.table({"pic": pictures, "snd": sounds, "label": ["ab"[row % 2] for row in range(30)]}),
        tmp_path / "media.parquet",
    )
    target = str(tmp_path / "media.parquet")

    manifest = understood(target)
    assert {source.name: source.kind for source in manifest.sources} == {"pic": "image", "snd": "audio"}
    assert manifest.missing == ("snd",)
    assert [int(value[0, 0, 0]) for value in values(target, "pic")] == list(range(30))
    assert float(values(target, "snd")[3].values[0]) == 3 / 64


def test_a_struct_with_a_path_alone_is_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="this pyarrow was built without Parquet")
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, format="PNG")
    items = [{"bytes": stream.getvalue(), "path": None} for _ in range(29)] + [{"bytes": None, "path": "/etc/hostname"}]
    labels = ["ab"[row % 2] for row in range(30)]
    parquet.write_table(pyarrow.table({"pic": items, "label": labels}), tmp_path / "media.parquet")

    assert "row 30: 'pic' (column 'pic') is kept outside the dataset ('/etc/hostname')" in refuse(
        str(tmp_path / "media.parquet")
    )
