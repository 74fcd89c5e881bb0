"""The rows of a manifest as samples whose media are decoded only when a modality is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmbench.data import SPLITS, Split
from mmbench.errors import DataError
from mmbench.input_statistics import InputSummary
from mmbench_datasets.arrays import read_array
from mmbench_datasets.features import Feature, encode
from mmbench_datasets.lazy import LazySamples, Read
from mmbench_datasets.manifest import Manifest
from mmbench_datasets.media import MediaFile
from mmbench_datasets.media_columns import AudioColumn, ImageColumn, VideoColumn, content_digest
from mmbench_datasets.modalities import Source
from mmbench_datasets.presence import present_rows
from mmbench_datasets.source_checks import embedded
from mmbench_datasets.table import Table
from mmbench_datasets.vectors import ParsedCells, as_sequence, as_vector
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
        split: LazySamples(
            manifest.rows[split],
            ids=manifest.ids,
            targets=targets,
            readers=readers,
            groups=manifest.groups,
            weights=manifest.weights,
        )
        for split in SPLITS
    }


def _reader(manifest: Manifest, source: Source) -> Read:
    """Return what gives a modality of a row, or None where the row lacks it."""
    present = present_rows(manifest.table, source)
    if source.features:
        return _TableColumns(manifest.table, source.features, present)
    if source.form in ("files", "embedded"):
        return _media_column(manifest, source, present)
    read = _decoder(manifest, source)
    return lambda row: read(row) if present[row] else None


def _decoder(manifest: Manifest, source: Source) -> Read:
    """Return what reads a text, a list or an array of a row that has it."""
    (column,) = source.columns
    cells = manifest.table.columns[column]
    if source.form == "cells":
        return lambda row: cells[row]
    if source.form == "arrays":
        return lambda row: _array(manifest, source, row)
    items = _items(manifest.table, column)
    if source.kind == "tabular":
        return lambda row: as_vector(items[row])
    return lambda row: as_sequence(items[row])


def _items(table: Table, column: str) -> Sequence[Any]:
    """Return the lists of a column, held as such or as text."""
    return table.values[column] if column in table.values else ParsedCells(table.columns[column])


def _array(manifest: Manifest, source: Source, row: int) -> NDArray[np.float32]:
    where = manifest.table.where(row)
    array = read_array(manifest.root / source.paths[row], where)
    array = array.reshape(-1) if source.kind == "tabular" else array[:, None] if array.ndim == 1 else array
    if array.shape[-1] != source.width:
        raise DataError(f"{where}: {source.paths[row]} has {array.shape[-1]} numbers, and most have {source.width}")
    return array


def _media_column(manifest: Manifest, source: Source, present: Sequence[bool]) -> Read:
    where = manifest.table.where
    if source.form == "embedded":
        where = lambda row: f"{manifest.table.where(row)} of {source.columns[0]!r}"  # noqa: E731
    read_file = _file_of(manifest, source)

    def file(row: int) -> MediaFile | None:
        return read_file(row) if present[row] else None

    def digest(row: int) -> int:
        return int(manifest.digests[source.paths[row]][:16], 16) or 1

    if source.kind == "audio":
        return AudioColumn(file, where, digest, max_seconds=manifest.max_seconds)
    if source.kind == "video":
        return VideoColumn(file, where, digest, max_seconds=manifest.max_seconds, max_frames=manifest.max_frames)
    rows = [row for split in SPLITS for row in manifest.rows[split]]
    return ImageColumn(
        file,
        where,
        digest,
        rows=rows,
        train=manifest.rows["train"],
        channels=3 if source.form == "embedded" else 0,
        pixel_range=manifest.pixel_range,
    )


def _file_of(manifest: Manifest, source: Source) -> Callable[[int], MediaFile]:
    """Return what gives the file of a row."""
    if source.form == "files":
        return lambda row: manifest.root / source.paths[row]
    items = manifest.table.values[source.columns[0]]
    return lambda row: embedded(items[row], f"{manifest.table.where(row)}: {source.name!r}")


@dataclass(frozen=True)
class _TableColumns:
    """Columns of a manifest that make one table.

    Attributes:
        table: The rows.
        features: Its columns.
        present: Which rows have it.
    """

    table: Table
    features: Sequence[Feature]
    present: Sequence[bool]

    def __call__(self, row: int) -> NDArray[np.float32] | None:
        if not self.present[row]:
            return None
        return np.concatenate([self._encoded(feature, row) for feature in self.features])

    def _encoded(self, feature: Feature, row: int) -> NDArray[np.float32]:
        cell = self.table.columns[feature.column][row].strip()
        return encode(feature, cell, _items(self.table, feature.column)[row] if feature.vector else None)

    def summary(self, row: int) -> InputSummary | None:
        """Return the width, and what the cells hold; they are not encoded."""
        if not self.present[row]:
            return None
        cells = [self.table.columns[feature.column][row].strip() for feature in self.features]
        width = sum(feature.width for feature in self.features)
        return InputSummary(facts={"num_features": width}, digest=content_digest("\0".join(cells).encode()))
