"""Damaged pickles, Arrow files and arrays of published sets: each is read or refused, in bounded time and memory."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from damage import bounds, damaged
from mmbench_benchmarks.affect import describe_mosi, open_mosi
from mmbench_benchmarks.hf import describe_hf, open_hf

from mmbench.data import SPLITS
from mmbench.errors import MmbenchError


def pickled(folder: Path) -> Path:
    def part(labels: list[float]) -> dict[str, object]:
        count = len(labels)
        return {
            "vision": np.ones((count, 5, 4)),
            "audio": np.ones((count, 5, 2)),
            "text": np.ones((count, 5, 3)),
            "labels": np.asarray(labels).reshape(count, 1, 1),
            "id": np.array([f"{labels[row]}[{row}]" for row in range(count)]),
        }

    path = folder / "mosi_raw.pkl"
    path.write_bytes(
        pickle.dumps({"train": part([-2.0, 0.0, 1.5]), "valid": part([0.5, -1.0]), "test": part([2.0])}, 4)
    )
    return path


def arrow(folder: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'mmbench-benchmarks[hf]'")
    pytest.importorskip("pyarrow.ipc")
    columns = {
        "t": [f"text {row}" for row in range(40)],
        "v": [[row, 0.5] for row in range(40)],
        "label": ["a", "b"] * 20,
    }
    table = pyarrow.table(columns)
    with pyarrow.OSFile(str(folder / "data.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    value = {"dtype": "string", "_type": "Value"}
    features = {"t": value, "label": value, "v": {"_type": "List", "feature": {"dtype": "float64", "_type": "Value"}}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder / "data.arrow"


def read(folder: Path, kind: str) -> list[str] | None:
    """Return the targets of all samples, or None where the set is refused."""
    describe, opener = (describe_mosi, open_mosi) if kind == "pickle" else (describe_hf, open_hf)
    options = {"task": "sentiment"} if kind == "pickle" else {}
    try:
        describe(str(folder), **options)
        splits = opener(folder, target=str(folder), **options)
        return [
            str((sample.sample_id, sample.targets, len(sample.inputs))) for split in SPLITS for sample in splits[split]
        ]
    except MmbenchError as error:
        assert "Traceback" not in str(error)
        return None


def fuzz(tmp_path: Path, kind: str, rounds: int) -> None:
    path = (pickled if kind == "pickle" else arrow)(tmp_path)
    content, rng = path.read_bytes(), random.Random(0)
    whole = read(tmp_path, kind)
    assert whole
    for _ in range(rounds):
        path.write_bytes(damaged(content, rng))
        with bounds():
            read(tmp_path, kind)
    path.write_bytes(content)
    assert read(tmp_path, kind) == whole


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", ["pickle", "arrow"])
def test_100_damaged_sets_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    fuzz(tmp_path, kind, 100)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["pickle", "arrow"])
def test_500_damaged_sets_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    fuzz(tmp_path, kind, 500)
