"""Manifests in a folder of the test's own, and what is read from them or said against them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from mmbench_datasets.manifest import describe, open_manifest, read_manifest
from PIL import Image

from mmbench.data import SPLITS
from mmbench.errors import DataError


def write(folder, text, name="data.csv"):
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def table(folder, header, rows, name="data.csv"):
    return write(folder, "\n".join([header, *rows]) + "\n", name)


def texts(folder, rows=12, **replaced):
    """A sound manifest of texts in two classes, with some rows replaced by their number."""
    lines = [
        f"s{row},{('train', 'train', 'val', 'test')[row // 2 % 4]},{('cat', 'dog')[row % 2]},a text {row}"
        for row in range(rows)
    ]
    for position, line in replaced.items():
        lines[int(position.removeprefix("row"))] = line
    return table(folder, "id,split,label,text", lines)


def opened(target, **options):
    return open_manifest(Path("nowhere"), target=target, **options)


def column(target, modality, **options):
    splits = opened(target, **options)
    return {sample.sample_id: sample.inputs[modality] for split in SPLITS for sample in splits[split]}


def media(folder, rows=12):
    """PNG, WAV, numbers and categories in one manifest; row 1 lacks audio, row 2 image and age."""
    rng = np.random.default_rng(0)
    lines = []
    for row in range(rows):
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(folder / f"i{row}.png")
        soundfile.write(folder / f"a{row}.wav", rng.uniform(-0.5, 0.5, (400, 2)), 8_000, subtype="FLOAT")
        split = ("train", "train", "val", "test")[row // 2 % 4]
        image, audio, age = f"i{row}.png", f"a{row}.wav", str(20 + row)
        audio = "" if row == 1 else audio
        image, age = ("", "") if row == 2 else (image, age)
        lines.append(f"s{row},{split},{'ab'[row % 2]},{image},{audio},{age},{('red', 'blue')[row % 3 == 0]}")
    return table(folder, "id,split,label,photo,sound,age,colour", lines)


def refuse(target, error=DataError, **options):
    with pytest.raises(error) as caught:
        describe(target, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def understood(target, **options):
    """Return a manifest with everything that planning knows of it."""
    return read_manifest(target, options, check_headers=True)


def rows_of(folder, header, cells, name="data.csv"):
    """Write rows as the csv module does, so that cells may hold commas and quotes."""
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter="\t" if name.endswith(".tsv") else ",").writerows([header, *cells])
    return str(path)


def labelled(folder, labels, name="data.csv"):
    """Write texts with these labels, repeated up to 60 rows."""
    return rows_of(folder, ["text", "label"], [(f"text {row} z", labels[row % len(labels)]) for row in range(60)], name)


def numbered(folder, cells, count=60):
    """Write a column of these cells, and of plain numbers up to `count` rows, with labels that follow the row."""
    values = [*cells, *(f"{row}" for row in range(len(cells), count))]
    return rows_of(folder, ["v", "label"], [(value, "ab"[row % 2]) for row, value in enumerate(values)])


def values(target, modality, **options):
    """Return a modality's input of each row, in the order of the rows."""
    found = column(target, modality, **options)
    return [found[name] for name in sorted(found)]
