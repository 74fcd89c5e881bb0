"""The rows of a manifest as samples whose media are decoded only when a modality is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmbench.data import SPLITS, Split
from mmbench.input_statistics import InputSummary
from mmbench_datasets.lazy import LazySamples, Read
from mmbench_datasets.manifest import Manifest
from mmbench_datasets.media_columns import AudioColumn, ImageColumn, VideoColumn, content_digest
from mmbench_datasets.modalities import Feature, Source
from mmbench_datasets.moments import encode_moment
from mmbench_datasets.video import require_av


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
        return _TableColumns([(feature, manifest.table.columns[feature.column]) for feature in source.features])
    cells = manifest.table.columns[source.columns[0]]
    if source.kind == "text":
        return lambda row: cells[row] if cells[row].strip() else None
    return _media_column(manifest, source)


def _media_column(manifest: Manifest, source: Source) -> Read:
    cells = manifest.table.columns[source.columns[0]]
    root, where = manifest.root, manifest.table.where

    def file(row: int) -> Path | None:
        return root / cells[row] if cells[row].strip() else None

    def digest(row: int) -> int:
        return int(manifest.digests[cells[row]][:16], 16) or 1

    if source.kind == "audio":
        return AudioColumn(file, where, digest, max_seconds=manifest.max_seconds)
    if source.kind == "video":
        return VideoColumn(file, where, digest, max_seconds=manifest.max_seconds, max_frames=manifest.max_frames)
    rows = [row for split in SPLITS for row in manifest.rows[split]]
    return ImageColumn(file, where, digest, rows=rows, train=manifest.rows["train"], pixel_range=manifest.pixel_range)


@dataclass(frozen=True)
class _TableColumns:
    """Columns of a manifest that make one table."""

    columns: Sequence[tuple[Feature, Sequence[str]]]

    def __call__(self, row: int) -> NDArray[np.float32] | None:
        if not any(cells[row].strip() for _, cells in self.columns):
            return None
        return np.concatenate([encode(feature, cells[row].strip()) for feature, cells in self.columns])

    def summary(self, row: int) -> InputSummary | None:
        """Return the width, and what the cells hold; they are not encoded."""
        cells = [cells[row].strip() for _, cells in self.columns]
        if not any(cells):
            return None
        width = sum(feature.width for feature, _ in self.columns)
        return InputSummary(facts={"num_features": width}, digest=content_digest("\0".join(cells).encode()))


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
