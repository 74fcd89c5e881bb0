"""Damaged tables and arrays of every format: each is read or refused by a message, in bounded time and memory."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
from damage import bounds, damaged
from mmbench_datasets.arrays import read_array
from mmbench_datasets.manifest import read_manifest
from mmbench_datasets.records import open_records

from mmbench.data import SPLITS, check_canonical
from mmbench.errors import MmbenchError

ROWS = [
    {
        "text": f"text {row}",
        "v": row / 7,
        "w": [row, 1.5],
        "label": "ab"[row % 2],
        "split": ("train", "val", "test")[row % 3],
    }
    for row in range(24)
]
FORMATS = ("csv", "tsv", "tab", "json", "jsonl", "ndjson", "parquet", "npy")


def table(ending: str) -> bytes:
    if ending in ("csv", "tsv", "tab"):
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(ROWS[0]), delimiter="," if ending == "csv" else "\t")
        writer.writeheader()
        writer.writerows(ROWS)
        return stream.getvalue().encode()
    if ending == "json":
        return json.dumps(ROWS).encode()
    if ending in ("jsonl", "ndjson"):
        return "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    if ending == "npy":
        array = io.BytesIO()
        np.save(array, np.arange(24.0).reshape(4, 6))
        return array.getvalue()
    pytest.importorskip("pyarrow.parquet", reason="pyarrow with Parquet is not installed")
    import pyarrow
    import pyarrow.parquet

    stored = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), stored, compression="zstd")
    return stored.getvalue()


def read(path: Path) -> list[object] | None:
    """Return the labels of a table, or the numbers of an array; None where it is refused."""
    try:
        if path.suffix == ".npy":
            return list(read_array(path, "line 2").tolist())
        manifest = read_manifest(str(path), {"label": "label"}, check_headers=True)
        splits = open_records(manifest)
        samples = [sample for split in SPLITS for sample in splits[split]]
        for sample in samples:
            for source in manifest.sources:
                value = sample.inputs[source.name]
                if value is not None:
                    check_canonical(source.name, source.kind, value)
        return [str(sample.targets) for sample in samples]
    except MmbenchError as error:
        assert "Traceback" not in str(error)
        assert len(str(error)) < 100_000
        return None


def fuzz(folder: Path, ending: str, rounds: int) -> None:
    content, rng = table(ending), random.Random(0)
    sound = folder / f"sound.{ending}"
    sound.write_bytes(content)
    whole = read(sound)
    assert whole is not None
    path = folder / f"data.{ending}"
    for _ in range(rounds):
        path.write_bytes(damaged(content, rng))
        with bounds():
            read(path)
    assert read(sound) == whole


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("ending", FORMATS)
def test_100_damaged_tables_of_each_format_are_read_or_refused(tmp_path: Path, ending: str) -> None:
    fuzz(tmp_path, ending, 100)


@pytest.mark.full
@pytest.mark.parametrize("ending", FORMATS)
def test_500_damaged_tables_of_each_format_are_read_or_refused(tmp_path: Path, ending: str) -> None:
    fuzz(tmp_path, ending, 500)
