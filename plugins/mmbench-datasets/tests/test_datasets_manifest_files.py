"""What is said of a manifest, or of files named by it, that cannot be read or must not be."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from manifest_cases import column, media, refuse, texts, write
from mmbench_datasets.manifest import describe

from mmbench.errors import DataError, Unavailable, UsageError

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_manifest_that_is_not_there(tmp_path):
    assert "there is no table" in refuse(str(tmp_path / "none.csv"))


def test_a_manifest_of_another_kind(tmp_path):
    assert "must end in .csv, .tsv, .tab, .parquet, .jsonl, .ndjson or .json" in refuse(
        str(tmp_path / "data.xlsx"), UsageError
    )


def test_a_folder_instead_of_a_manifest(tmp_path):
    (tmp_path / "folder.csv").mkdir()

    assert "holds neither a table" in refuse(str(tmp_path / "folder.csv"))


def test_bytes_that_are_not_utf_8_are_located(tmp_path):
    target = texts(tmp_path)
    content = Path(target).read_bytes().replace(b"a text 2", "a téxt 2".encode("latin-1"))
    Path(target).write_bytes(content)

    message = refuse(target)
    assert f"byte 0xe9 at offset {content.index(0xE9)}, line 4; save it again as UTF-8" in message


def test_a_ragged_row(tmp_path):
    assert "line 3 has 5 cells, but the header has 4" in refuse(texts(tmp_path, row1="s1,train,dog,one,two"))
    assert "line 2 has 3 cells, but the header has 4" in refuse(texts(tmp_path, row0="s0,train,dog"))


def test_a_quote_that_is_never_closed(tmp_path):
    assert "is not well-formed CSV" in refuse(texts(tmp_path, row5='s5,val,dog,"open'))


def test_semicolons_instead_of_commas_are_understood(tmp_path):
    target = texts(tmp_path)
    Path(target).write_text(Path(target).read_text().replace(",", ";").replace("a text 7", "one, two"))

    assert column(target, "text")["s7"] == "one, two"


def test_an_empty_file_and_a_file_without_rows(tmp_path):
    assert "is empty; its first line must name the columns" in refuse(write(tmp_path, ""))
    assert "has a header and no rows" in refuse(write(tmp_path, "id,label,text\n"))


def test_missing_files_are_counted_and_named(tmp_path):
    target = media(tmp_path)
    for row in (3, 5, 6, 8):
        (tmp_path / f"i{row}.png").unlink()

    message = refuse(target)
    assert "data.csv has 4 faults in 4 rows; correct them, or leave such rows out with [drop=bad]:" in message
    assert "data.csv line 5: column 'photo' names the file 'i3.png', which is not there; paths start from" in message
    assert "data.csv line 10: column 'photo' names the file 'i8.png'" in message


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/etc/hostname.png", "is an absolute path"),
        ("C:\\pictures\\a.png", "is an absolute path"),
        ("~/a.png", "is an absolute path"),
        ("../a.png", "leaves the table's folder by '..'"),
        ("x/../../a.png", "leaves the table's folder by '..'"),
        ("x\\..\\a.png", "leaves the table's folder by '..'"),
    ],
)
def test_paths_that_leave_the_folder(tmp_path, path, reason):
    target = media(tmp_path)
    Path(target).write_text(Path(target).read_text().replace("i3.png", path))

    message = refuse(target)
    assert "data.csv line 5" in message
    assert reason in message


def test_links_that_leave_the_folder(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    target = media(inside)
    (inside / "i3.png").rename(tmp_path / "outside.png")
    (inside / "i3.png").symlink_to(tmp_path / "outside.png")
    assert "line 5: 'i3.png' leads out of the table's folder by a link" in refuse(target)

    (inside / "i3.png").unlink()
    (inside / "linked").symlink_to(tmp_path)
    Path(target).write_text(Path(target).read_text().replace("i3.png", "linked/outside.png"))
    assert "leads out of the table's folder by a link" in refuse(target)


def test_links_within_the_folder_are_followed(tmp_path):
    target = media(tmp_path)
    (tmp_path / "i3.png").unlink()
    (tmp_path / "i3.png").symlink_to("i4.png")

    values = column(target, "photo")
    np.testing.assert_array_equal(values["s3"], values["s4"])


def test_broken_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'mmbench-datasets[parquet]'")

    assert "cannot be read as Parquet" in refuse(write(tmp_path, b"PAR1 nonsense", "data.parquet"))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    target = write(tmp_path, b"PAR1", "data.parquet")

    with pytest.raises(Unavailable, match=r"pip install 'mmbench-datasets\[parquet\]'"):
        describe(target)


@pytest.mark.parametrize("name", ["broken.png", "broken.flac"])
def test_a_file_that_is_no_medium_is_refused_before_anything_runs(tmp_path, name):
    target = media(tmp_path)
    manifest = Path(target)
    lines = manifest.read_text().splitlines()
    kind = ".png" if name.endswith("png") else ".flac"
    old = next(cell for cell in lines[1].split(",") if cell.endswith((kind, ".wav") if kind == ".flac" else kind))
    (manifest.parent / name).write_bytes(b"no medium at all")
    manifest.write_text("\n".join([lines[0], lines[1].replace(old, name), *lines[2:]]) + "\n")

    with pytest.raises(DataError, match=rf"line 2: {name} cannot be read as (an image|audio)"):
        describe(target)
