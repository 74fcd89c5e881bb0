"""Any data of one's own: a manifest whose columns are paths, texts, numbers and labels, checked before anything runs.

Options name the columns. ``label``, ``split``, ``id``, ``group``, ``seed``, ``max_seconds``, ``max_frames`` and
``pixel_range`` are reserved; every other option is a modality: ``image=photo`` makes the modality "image" from the
column "photo". ``meta=age+height`` joins columns into one table. ``text=number:text`` forces a kind where the content
would be taken for another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmbench.data import Split
from mmbench.errors import DataError, SpecError, UsageError
from mmbench.spec import DatasetInfo, Kind
from mmbench_datasets.filehash import file_digests, hash_files
from mmbench_datasets.files import find_files
from mmbench_datasets.labels import Target, read_targets
from mmbench_datasets.media import PixelRange, check_header
from mmbench_datasets.modalities import (
    MEDIA_KINDS,
    Source,
    declared_source,
    inferred_sources,
    modality_of,
    with_features,
)
from mmbench_datasets.options import check_misspelt, read_max_seconds, read_pixel_range, read_seed
from mmbench_datasets.splits import check_groups, check_labels_of_splits, generated_split, given_split
from mmbench_datasets.table import Table, number, read_table
from mmbench_datasets.video import MAX_FRAMES, check_video

RESERVED = ("label", "split", "id", "group", "seed", "max_seconds", "max_frames", "pixel_range")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest understood: what each column is for, and which rows belong to which split.

    Attributes:
        table: The cells.
        root: The folder that paths start from.
        ids: Of each row.
        sources: The modalities, by name.
        targets: The tasks.
        rows: By split, in the file's order.
        files: What `os.stat` said of every file that a row names, by path as written.
        max_seconds: Longest audio or video accepted, in seconds.
        max_frames: Most frames of a video that are kept, evenly spaced in time.
        pixel_range: Of 16-bit and float images; None takes that of the column's images in train.
        settings: The options as they were understood, for the fingerprint.
    """

    table: Table
    root: Path
    ids: Sequence[str]
    sources: Sequence[Source]
    targets: Sequence[Target]
    rows: Mapping[Split, Sequence[int]]
    files: Mapping[str, os.stat_result]
    max_seconds: float
    max_frames: int
    pixel_range: PixelRange | None
    settings: Mapping[str, Any]

    @property
    def missing(self) -> tuple[str, ...]:
        """Modalities that some rows lack: all their cells are blank."""
        return tuple(
            source.name
            for source in self.sources
            if any(not any(map(str.strip, cells)) for cells in self._cells(source))
        )

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 of every file, by path as written."""
        return file_digests(self.root, self.files, self.check_file)

    def check_file(self, name: str) -> None:
        """Check that a file is of the kind that its column says.

        Raises:
            DataError: its header cannot be read.
        """
        kind, row = self._named[name]
        if kind == "video":
            check_video(self.root / name, self.table.where(row), max_seconds=self.max_seconds)
        else:
            check_header(self.root / name, kind, self.table.where(row), max_seconds=self.max_seconds)

    @cached_property
    def _named(self) -> Mapping[str, tuple[Kind, int]]:
        """Kind and first row of every file."""
        named: dict[str, tuple[Kind, int]] = {}
        for source in self.sources:
            if source.kind in MEDIA_KINDS:
                for row, cell in enumerate(self.table.columns[source.columns[0]]):
                    named.setdefault(cell, (source.kind, row))
        return named

    def _cells(self, source: Source) -> Iterable[tuple[str, ...]]:
        return zip(*(self.table.columns[column] for column in source.columns))


def describe(target: str, **options: Any) -> DatasetInfo:
    """Return what planning must know, after every check that needs no decoding; headers of new files are read.

    The fingerprint covers the manifest's bytes, the options and the content of every file, so results are never mixed
    with those of changed data.

    Raises:
        UsageError: an option names a column or a kind that is not there.
        DataError: the manifest cannot be used: see `read_manifest`.
        Unavailable: it is Parquet and pyarrow is not installed.
    """
    manifest = read_manifest(target, options)
    content = hashlib.sha256(manifest.table.content)
    content.update(json.dumps(manifest.settings, sort_keys=True).encode())
    content.update(hash_files(manifest.root, manifest.files, manifest.check_file).encode())
    _check_train(manifest)
    try:
        return DatasetInfo(
            modalities=tuple(modality_of(source) for source in manifest.sources),
            tasks=tuple(item.task for item in manifest.targets),
            missing=manifest.missing,
            fingerprint=content.hexdigest(),
        )
    except SpecError as error:
        raise UsageError(f"{manifest.table.path.name}: {error}; name modalities as in [image=COLUMN]") from None


def open_manifest(root: Path, *, target: str, **options: Any) -> dict[Split, Any]:
    """Return the splits; a sample's inputs are decoded when they are asked for, one modality at a time.

    Args:
        root: Not used: nothing is kept beside the manifest.
        target: Path of the manifest.
        options: As in the module's first lines.

    Raises:
        UsageError: an option names a column or a kind that is not there.
        DataError: the manifest cannot be used: see `read_manifest`.
        Unavailable: it is Parquet and pyarrow is not installed, or it names videos and PyAV is not.
    """
    from mmbench_datasets.records import open_records

    return open_records(read_manifest(target, options))


def read_manifest(target: str, options: Mapping[str, Any]) -> Manifest:
    """Read a manifest and decide what each column is for.

    Raises:
        UsageError: an option names a column or a kind that is not there.
        DataError: the file is not a table; an id is empty or stands twice; a label is empty or NaN; there is one class
            only; a split is empty; a class is never in train; a file is absent or lies outside the manifest's folder.
    """
    table = read_table(target)
    known = {name: str(value) for name, value in options.items()}
    declared = {name: value for name, value in known.items() if name not in RESERVED}
    check_misspelt("manifest", declared, RESERVED, table.columns)
    ids = _read_ids(table, known.get("id", ""))
    targets = read_targets(table, known.get("label", ""))
    seed, max_seconds, max_frames = read_seed(known), read_max_seconds(known), _read_max_frames(known)
    split_column, group_column = _split_columns(table, known)
    if split_column:
        rows = given_split(table, split_column)
        if group_column:
            check_groups(table, group_column, rows)
    else:
        rows = generated_split(table, ids, targets, group_column, seed)
    check_labels_of_splits(table, targets, rows)
    if declared:
        sources = [declared_source(table, name, value) for name, value in declared.items()]
        _check_leaks(sources, targets, split_column)
    else:
        used = {item.column for item in targets} | {split_column, group_column, known.get("id", "id")}
        sources = inferred_sources(table, ids, used)
    table = _with_stripped_paths(table, sources)
    sources = [with_features(table, source, rows["train"]) for source in sources]
    root = table.path.resolve().parent
    frames = {"max_frames": max_frames} if any(source.kind == "video" for source in sources) else {}
    return Manifest(
        table=table,
        root=root,
        ids=ids,
        sources=sorted(sources, key=lambda source: source.name),
        targets=targets,
        rows=rows,
        files=find_files(table, root, sources),
        max_seconds=max_seconds,
        max_frames=max_frames,
        pixel_range=read_pixel_range(known),
        settings={**known, "seed": seed, "max_seconds": max_seconds, **frames},
    )


def _with_stripped_paths(table: Table, sources: Sequence[Source]) -> Table:
    """Return the table with the blanks around paths of media gone."""
    media = {source.columns[0] for source in sources if source.kind in MEDIA_KINDS}
    columns = {
        name: [cell.strip() for cell in cells] if name in media else cells for name, cells in table.columns.items()
    }
    return replace(table, columns=columns)


def _check_train(manifest: Manifest) -> None:
    """Raise where no row of train has a modality: nothing could be learned of it."""
    train = manifest.rows["train"]
    for source in manifest.sources:
        columns = [manifest.table.columns[column] for column in source.columns]
        if not any(cells[row].strip() for row in train for cells in columns):
            raise DataError(
                f"{manifest.table.path.name}: no row of train has {source.name!r} ({len(train)} rows; column "
                f"{'+'.join(source.columns)}), so nothing can be learned of it; move rows that have it to train, or "
                "leave the modality out"
            )


def _check_leaks(sources: Sequence[Source], targets: Sequence[Target], split_column: str) -> None:
    for source in sources:
        for item in targets:
            if item.column in source.columns:
                raise UsageError(
                    f"the modality {source.name!r} would read the column {item.column!r}, which holds the labels of "
                    f"{item.task.name!r}; take it out"
                )
        if split_column in source.columns:
            raise UsageError(
                f"the modality {source.name!r} would read the column {split_column!r}, which holds the splits"
            )


def _read_ids(table: Table, named: str) -> list[str]:
    name = named or "id"
    if not named and name not in table.columns:
        return [f"row-{count:06}" for count in range(1, len(table) + 1)]
    ids = table.column(name, "ids")
    first_row: dict[str, int] = {}
    for row, sample_id in enumerate(ids):
        if not sample_id.strip():
            raise DataError(f"{table.where(row)}: the id (column {name!r}) is empty; every sample needs one")
        if sample_id in first_row:
            raise DataError(
                f"{table.where(row)}: the id {sample_id!r} is that of {table.where(first_row[sample_id])} too; "
                "ids are unique"
            )
        first_row[sample_id] = row
    return ids


def _read_max_frames(known: Mapping[str, str]) -> int:
    """Return the option `max_frames`, `MAX_FRAMES` where it is not given."""
    max_frames = number(known.get("max_frames", str(MAX_FRAMES)))
    if max_frames is None or max_frames < 1 or max_frames % 1:
        raise UsageError(f"max_frames must be a whole number above 0, got {known['max_frames']!r}")
    return int(max_frames)


def _split_columns(table: Table, known: Mapping[str, str]) -> tuple[str, str]:
    """Return the columns that hold splits and groups, each "" when there is none."""
    split = known.get("split", "split" if "split" in table.columns else "")
    if split == "auto" and "auto" not in table.columns:
        split = ""
    elif split:
        table.column(split, "splits")
    group = known.get("group", "group" if "group" in table.columns else "")
    if group:
        table.column(group, "groups")
    return split, group
