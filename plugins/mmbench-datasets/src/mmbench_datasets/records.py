"""The rows of a manifest as samples whose media are decoded only when a modality is asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmbench.data import SPLITS, Split
from mmbench_datasets.lazy import LazySamples, Read
from mmbench_datasets.manifest import Manifest
from mmbench_datasets.media import is_grey, read_audio, read_image
from mmbench_datasets.modalities import Feature, Source
from mmbench_datasets.moments import encode_moment
from mmbench_datasets.video import read_video, require_av


def open_records(manifest: Manifest) -> dict[Split, LazySamples]:
    """Return the splits of a manifest.

    Raises:
        Unavailable: it names videos and PyAV is not installed.
    """
    if any(source.kind == "video" for source in manifest.sources):
        require_av()
    readers = {source.name: _reader(manifest, source) for source in manifest.sources}
    targets = {item.task.name: item.values for item in manifest.targets}
    return {
        split: LazySamples(manifest.rows[split], ids=manifest.ids, targets=targets, readers=readers) for split in SPLITS
    }


def _reader(manifest: Manifest, source: Source) -> Read:
    """Return what gives a modality of a row, or None where its cells are empty."""
    if source.kind == "tabular":
        return _table_reader(manifest, source)
    cells = manifest.table.columns[source.columns[0]]
    if source.kind == "text":
        return lambda row: cells[row] if cells[row].strip() else None
    decode = _decoder(manifest, source)
    return lambda row: decode(row) if cells[row].strip() else None


def _decoder(manifest: Manifest, source: Source) -> Read:
    cells = manifest.table.columns[source.columns[0]]
    table, root, limit = manifest.table, manifest.root, manifest.max_seconds
    if source.kind == "audio":
        return lambda row: read_audio(root / cells[row], table.where(row), max_seconds=limit)
    if source.kind == "video":
        frames = manifest.max_frames
        return lambda row: read_video(root / cells[row], table.where(row), max_seconds=limit, max_frames=frames)
    channels: list[int] = []

    def decode(row: int) -> NDArray[np.uint8]:
        if not channels:  # grey only where the whole column is, so that every image has the same channels
            grey = all(is_grey(root / cell) for cell in dict.fromkeys(cells) if cell.strip())
            channels.append(1 if grey else 3)
        return read_image(root / cells[row], table.where(row), channels=channels[0])

    return decode


def _table_reader(manifest: Manifest, source: Source) -> Read:
    columns = [(feature, manifest.table.columns[feature.column]) for feature in source.features]

    def read(row: int) -> NDArray[np.float32] | None:
        if not any(cells[row].strip() for _, cells in columns):
            return None
        return np.concatenate([encode(feature, cells[row].strip()) for feature, cells in columns])

    return read


def encode(feature: Feature, cell: str) -> NDArray[np.float32]:
    """Return a cell as numbers: (1,) for a number, one-hot for a category, all zero for one that training never saw.

    An empty cell gives NaN: the value is not known. Dates and times: see `encode_moment`.
    """
    if feature.moment:
        return np.array(encode_moment(feature.moment, cell), dtype=np.float32)
    if not cell:
        return np.full(feature.width, np.nan, dtype=np.float32)
    if feature.categories:
        return np.array([cell == category for category in feature.categories], dtype=np.float32)
    return np.array([float(cell)], dtype=np.float32)
