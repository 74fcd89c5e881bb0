"""A Parquet file whose rows share a few long texts is refused before they are unpacked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mmbench_datasets import arrow_table
from mmbench_datasets.arrow_table import read_parquet

from mmbench.errors import DataError

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet")


def file_of(path: Path, **columns: Any) -> bytes:
    parquet.write_table(pyarrow.table(columns), path, compression="zstd", use_dictionary=True)
    return path.read_bytes()


@pytest.mark.parametrize("num_columns", [1, 8])
def test_one_long_text_in_many_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_columns: int
) -> None:
    monkeypatch.setattr(arrow_table, "_MOST_UNPACKED_BYTES", 16 << 20)
    content = file_of(tmp_path / "x.parquet", **{f"t{number}": ["x" * 40_000] * 1000 for number in range(num_columns)})
    assert len(content) < 200_000
    before = pyarrow.total_allocated_bytes()

    with pytest.raises(DataError, match="unpacks to more than"):
        read_parquet("x.parquet", content)

    assert pyarrow.total_allocated_bytes() - before < 16 << 20


TEXT = "x" * 40_000
NESTED: dict[str, Any] = {
    "lists": [[TEXT]] * 1000,
    "lists of lists": [[[TEXT], [TEXT]]] * 500,
    "objects": [{"a": TEXT, "b": 1}] * 1000,
    "lists of objects": [[{"a": TEXT}]] * 1000,
    "bytes in lists": [[TEXT.encode()]] * 1000,
}


@pytest.mark.parametrize("values", NESTED.values(), ids=NESTED)
def test_one_long_text_in_the_lists_of_many_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: Any
) -> None:
    monkeypatch.setattr(arrow_table, "_MOST_UNPACKED_BYTES", 16 << 20)
    content = file_of(tmp_path / "x.parquet", t=values)
    assert len(content) < 200_000

    with pytest.raises(DataError, match="unpacks to more than"):
        read_parquet("x.parquet", content)


def test_shared_texts_in_lists_are_read_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_table, "_MOST_UNPACKED_BYTES", 16 << 20)
    texts = [["long " * 100, "short"], [], None, ["x" * 3000]] * 500
    objects = [{"a": "long " * 100, "b": None}, None] * 1000
    content = file_of(tmp_path / "x.parquet", texts=texts, objects=objects)

    names, columns, count = read_parquet("x.parquet", content)

    assert (names, count) == (["texts", "objects"], 2000)
    assert list(columns.values["texts"])[:4] == texts[:4]
    assert list(columns.values["objects"])[:2] == objects[:2]


def test_shared_texts_are_read_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_table, "_MOST_UNPACKED_BYTES", 16 << 20)
    texts = ["long " * 100, "short", None, ""] * 500
    content = file_of(tmp_path / "x.parquet", text=texts, label=["a", "b", "c", "d"] * 500)

    names, columns, count = read_parquet("x.parquet", content)

    assert (names, count) == (["text", "label"], 2000)
    assert list(columns.columns["text"])[:4] == ["long " * 100, "short", "", ""]
    assert list(columns.columns["label"])[:4] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("within", ["rows", "lists"])
def test_twenty_gigabytes_of_a_kilobyte_are_refused_within_two(tmp_path: Path, within: str) -> None:
    """The attack at its size: 1,000 rows of one text of 20 MB, in a process that may take 3 GiB of addresses."""
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000, "int32"), pyarrow.array(["x" * 20_000_000]))
    if within == "lists":
        column = pyarrow.ListArray.from_arrays(pyarrow.array(range(1001), "int32"), column)
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"t": column}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 20_000
    script = f"""
import pathlib, resource
from mmbench_datasets.arrow_table import read_parquet
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
try:
    read_parquet("x.parquet", pathlib.Path({str(path)!r}).read_bytes())
except Exception as error:
    print(type(error).__name__, error)
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)

    assert done.stdout.startswith("DataError x.parquet unpacks to more than 4 GiB"), done


_DAMAGE_FOOTER = """
import io, pyarrow, pyarrow.parquet
from mmbench.errors import DataError
from mmbench_datasets.arrow_table import read_parquet

stream = io.BytesIO()
pyarrow.parquet.write_table(pyarrow.table({"label": ["a", None] * 20, "v": [1, None] * 20}), stream)
content = stream.getvalue()
begin = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
for place in range(begin, len(content) - 8):
    if content[place] == 2:  # "optional", among other things
        damaged = content[:place] + b"\\0" + content[place + 1 :]
        try:
            read_parquet("data.parquet", damaged)
        except DataError:
            pass
print("alive")
"""


def test_damaged_metadata_of_columns_never_end_the_process() -> None:
    """pyarrow ends the process where a column that stored its levels of definition is said to have none."""
    done = subprocess.run([sys.executable, "-c", _DAMAGE_FOOTER], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-500:]
