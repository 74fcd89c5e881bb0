"""A Parquet file whose rows share a few long texts is refused before they are unpacked."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmbench_datasets import arrow_table
from mmbench_datasets.arrow_table import read_parquet

from mmbench.errors import DataError

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet")


def file_of(path: Path, **columns: list[str]) -> bytes:
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


def test_shared_texts_are_read_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_table, "_MOST_UNPACKED_BYTES", 16 << 20)
    texts = ["long " * 100, "short", None, ""] * 500
    content = file_of(tmp_path / "x.parquet", text=texts, label=["a", "b", "c", "d"] * 500)

    names, columns, count = read_parquet("x.parquet", content)

    assert (names, count) == (["text", "label"], 2000)
    assert list(columns.columns["text"])[:4] == ["long " * 100, "short", "", ""]
    assert list(columns.columns["label"])[:4] == ["a", "b", "c", "d"]
