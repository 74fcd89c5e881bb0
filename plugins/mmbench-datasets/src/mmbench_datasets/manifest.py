"""Any data of one's own: a table whose columns are paths, texts, numbers and labels, checked before anything runs.

Options name the columns. ``label``, ``split``, ``id``, ``group``, ``time``, ``sample_weight``, ``seed``, ``drop``,
``root``, ``encoding``, ``max_seconds``, ``max_frames`` and ``pixel_range`` are reserved; every other option is a
modality: ``image=photo`` makes the modality "image" from the column "photo". ``meta=age+height`` joins columns into
one table, and so does ``genes=gene_*``. ``text=number:text`` forces a kind where the content looks like another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mmbench.data import Split
from mmbench.errors import DataError, SpecError, UsageError
from mmbench.spec import DatasetInfo
from mmbench_datasets.cells import number
from mmbench_datasets.column_notes import column_notes
from mmbench_datasets.faults import Faults
from mmbench_datasets.features import read_features, with_train
from mmbench_datasets.filehash import file_digests, hash_files
from mmbench_datasets.files import TableFiles
from mmbench_datasets.folders import read_folder
from mmbench_datasets.image import PixelRange
from mmbench_datasets.labels import Target, check_trained, read_targets
from mmbench_datasets.modalities import Inference, Source, declared_source, infer_columns, inferred_sources, modality_of
from mmbench_datasets.options import check_misspelt, read_max_seconds, read_pixel_range, read_seed
from mmbench_datasets.presence import check_presence, present_rows
from mmbench_datasets.read_table import read_table
from mmbench_datasets.row_splits import SplitColumns, split_columns, split_rows
from mmbench_datasets.source_checks import check_files, check_items, find_paths
from mmbench_datasets.splits import check_labels_of_splits, split_of_word
from mmbench_datasets.table import Table
from mmbench_datasets.video import MAX_FRAMES

RESERVED = (
    "label",
    "split",
    "id",
    "group",
    "time",
    "sample_weight",
    "seed",
    "drop",
    "root",
    "encoding",
    "max_seconds",
    "max_frames",
    "pixel_range",
)
_MOST_ROUNDS = 10
#: Rows and columns that are looked at to say what the columns hold that nobody named.
_MOST_UNNAMED_ROWS, _MOST_UNNAMED_COLUMNS = 500, 200


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest understood: what each column is for, and which rows belong to which split.

    Attributes:
        table: The cells.
        root: The folder that paths start from.
        ids: Of each row.
        groups: Of each row, "" where it stands alone; empty without a column of groups.
        weights: Of each row's loss in training; empty without a column of weights.
        sources: The modalities, by name.
        targets: The tasks.
        rows: By split, in the file's order.
        files: What `os.stat` said of every file that a row names, by relative path.
        missing: Modalities that some rows lack.
        max_seconds: Longest audio or video accepted, in seconds.
        max_frames: Most frames of a video that are kept, evenly spaced in time.
        pixel_range: Of 16-bit and float images; None takes that of the column's images in train.
        settings: The options as they were understood, for the fingerprint.
        inferred: Whether no option named a modality.
        notes: What was guessed or left out, for people to see.
    """

    table: Table
    root: Path
    ids: Sequence[str]
    groups: Sequence[str]
    weights: Sequence[float]
    sources: Sequence[Source]
    targets: Sequence[Target]
    rows: Mapping[Split, Sequence[int]]
    files: Mapping[str, os.stat_result]
    missing: tuple[str, ...]
    max_seconds: float
    max_frames: int
    pixel_range: PixelRange | None
    settings: Mapping[str, Any]
    inferred: bool = False
    notes: tuple[str, ...] = ()

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 of every file, by relative path."""
        return file_digests(self.root, self.files)

    def fingerprint(self) -> str:
        """Return a hash over what was read, the options and the content of every file: hex."""
        content = hashlib.sha256(self.table.digest.encode())
        content.update(json.dumps(self.settings, sort_keys=True).encode())
        content.update(hash_files(self.root, self.files).encode())
        return content.hexdigest()

    def summary(self) -> str:
        """Say in a line what was read from where."""
        sources = [f"{source.name} ({source.kind}) from {_listed(source.columns)}" for source in self.sources]
        labels = [f"{item.column!r} ({item.task.kind}, {item.task.num_outputs})" for item in self.targets]
        taken = f"{', '.join(sources)}{', guessed' if self.inferred else ''}"
        return f"{self.table.path.name}: {len(self.table):,} rows; {taken}; label {', '.join(labels)}"

    def info(self) -> DatasetInfo:
        """Return what planning must know."""
        try:
            return DatasetInfo(
                modalities=tuple(modality_of(source) for source in self.sources),
                tasks=tuple(item.task for item in self.targets),
                missing=self.missing,
                fingerprint=self.fingerprint(),
                title=title_of(self.table.path),
                notes=(self.summary(), *self.notes),
                inferred=self.inferred,
            )
        except SpecError as error:
            raise UsageError(f"{self.table.path.name}: {error}; name modalities as in [image=COLUMN]") from None


def _listed(columns: Sequence[str]) -> str:
    """Name columns, of many the first and the last."""
    if len(columns) > 4:
        return f"{len(columns)} columns, {columns[0]!r} to {columns[-1]!r}"
    return "+".join(map(repr, columns))


def title_of(path: Path) -> str:
    """Return what tables call data of their own: the name of the file or folder without its ending."""
    resolved = path.resolve()
    name = resolved.stem if resolved.is_file() else resolved.name
    return "".join(letter if letter.isprintable() else "_" for letter in name)[:64]


def describe(target: str, **options: Any) -> DatasetInfo:
    """Return what planning must know, after every check that needs no decoding; headers of new files are read.

    The fingerprint covers the manifest's bytes, the options and the content of every file, so results are never mixed
    with those of changed data.

    Raises:
        UsageError: an option names a column or a kind that is not there.
        DataError: the manifest cannot be used: see `read_manifest`.
        Unavailable: it is Parquet and pyarrow is not installed.
    """
    return read_manifest(target, options, check_headers=True).info()


def open_manifest(root: Path, /, *, target: str, **options: Any) -> dict[Split, Any]:
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


def read_manifest(target: str, options: Mapping[str, Any], *, check_headers: bool = False) -> Manifest:
    """Read a manifest and decide what each column is for; see `understand`."""
    known = {name: str(value) for name, value in options.items()}
    read = read_folder if Path(target).expanduser().is_dir() else read_table
    table = read(target, encoding=known.get("encoding", ""))
    return understand(table, known, check_headers=check_headers)


def understand(
    table: Table, known: Mapping[str, str], *, dataset: str = "manifest", reserved: Sequence[str] = RESERVED,
    check_headers: bool = False,
) -> Manifest:  # fmt: skip
    """Decide what each column of a table is for, and check every row.

    With ``drop=bad`` rows that cannot be used are left out; else all of them are named at once.

    Args:
        table: The rows.
        known: The options.
        dataset: Its name, for messages.
        reserved: The options that are no modalities.
        check_headers: Whether files that were not seen before are looked into.

    Raises:
        UsageError: an option names a column or a kind that is not there.
        DataError: rows cannot be used; there is one class only; a split is empty; a class or a modality is never in
            train.
    """
    drop = known.get("drop", "")
    if drop not in ("", "bad"):
        raise UsageError(f"drop must be bad, which leaves out rows that cannot be used, got {drop!r}")
    check_misspelt(dataset, (name for name in known if name not in reserved), reserved)
    num_rows, dropped = len(table), list(table.row_faults.values())
    whole = table.without(table.row_faults) if dropped else table
    for _ in range(_MOST_ROUNDS):
        if not len(whole):
            raise DataError(f"{table.path.name}: no row is left, as all have faults, such as: {dropped[0]}")
        faults = Faults()
        manifest = _understood(whole, known, reserved, faults, check_headers=check_headers or bool(drop))
        if not drop and (dropped or faults):
            raise faults.error(table.path.name, dropped)
        if manifest is not None:
            break
        dropped += faults.messages
        whole = whole.without(faults.rows)
    else:
        raise faults.error(table.path.name, can_drop=False)
    if not dropped:
        return manifest
    left_out = num_rows - len(whole)
    _check_splits_left(table, whole, known, dropped[0])
    notes = [f"warning: {left_out} of {num_rows} rows are left out by drop=bad, such as: {dropped[0]}"]
    for item in manifest.targets:
        cells = {cell.strip() for cell in table.columns[item.column]} - {""}
        lost = cells - {cell.strip() for cell in whole.columns[item.column]}
        if lost and item.task.kind == "multiclass":
            notes.append(
                f"warning: drop=bad leaves no row with {', '.join(map(repr, sorted(lost)[:5]))} in {item.column!r}"
            )
    return replace(manifest, notes=(*notes, *manifest.notes), settings={**manifest.settings, "dropped_rows": left_out})


def _check_splits_left(table: Table, whole: Table, known: Mapping[str, str], fault: str) -> None:
    """Check that rows are left of every split that the table names.

    Raises:
        DataError: all rows of one were left out.
    """
    named = [
        {split_of_word(cell) for cell in split_columns(rows, known, Faults()).cells} - {None} for rows in (table, whole)
    ]
    lost = sorted(str(split) for split in named[0] - named[1])
    if lost:
        raise DataError(
            f"{table.path.name}: drop=bad leaves no row of {lost[0]}, as all of them have faults, such as: {fault}"
        )


def _understood(
    table: Table, known: Mapping[str, str], reserved: Sequence[str], faults: Faults, *, check_headers: bool
) -> Manifest | None:
    """Return the manifest, or None where `faults` holds rows that cannot be used."""
    declared = {name: value for name, value in known.items() if name not in reserved}
    id_column, ids = _read_ids(table, known, faults)
    targets = read_targets(table, known.get("label", ""), faults)
    seed, max_seconds, max_frames = read_seed(known), read_max_seconds(known), _read_max_frames(known)
    splits = split_columns(table, known, faults)
    used = {item.column for item in targets} | {
        splits.split,
        splits.group,
        splits.time,
        id_column,
        known.get("sample_weight", ""),
    } - {""}
    files = TableFiles(_root(table, known), "the table's folder" if "root" not in known else "root", table.root)
    notes = [*table.notes, *(note for item in targets for note in item.notes)]
    weights = _read_weights(table, known.get("sample_weight", ""), faults)
    if declared:
        sources = [declared_source(table, files, name, value, used) for name, value in declared.items()]
        _check_leaks(sources, targets, splits)
    else:
        sources, remarks = inferred_sources(table, files, ids, used)
        notes += remarks
    sources, remarks = _checked_sources(table, files, sources, faults)
    notes += remarks
    if check_headers and not faults:
        check_files(table, files, sources, faults, max_seconds=max_seconds)
    if faults:
        return None
    rows, remarks = split_rows(table, splits, ids, targets, seed, faults)
    notes += remarks
    if faults:
        return None
    check_labels_of_splits(table, targets, rows, origin=splits.origin)
    check_trained(table, targets, rows)
    sources = [
        replace(source, features=tuple(with_train(table, source.name, source.features, rows["train"])))
        for source in sources
    ]
    sources = sorted(sources, key=lambda source: source.name)
    present = {source.name: present_rows(table, source) for source in sources}
    notes += check_presence(table, present, rows)
    unread = _columns_not_named(table, files, ids, used, sources) if declared and check_headers else None
    notes += column_notes(table, sources, used, declared, unread)
    frames = {"max_frames": max_frames} if any(source.kind == "video" for source in sources) else {}
    return Manifest(
        table=table,
        root=files.root,
        ids=ids,
        groups=[cell.strip() for cell in table.columns[splits.group]] if splits.group else (),
        weights=weights,
        sources=sources,
        targets=targets,
        rows=rows,
        files=files.named_by(sources),
        missing=tuple(name for name, has in present.items() if not all(has)),
        max_seconds=max_seconds,
        max_frames=max_frames,
        pixel_range=read_pixel_range(known),
        settings={**known, "seed": seed, "max_seconds": max_seconds, **frames},
        inferred=not declared,
        notes=tuple(dict.fromkeys(notes)),
    )


def _columns_not_named(
    table: Table, files: TableFiles, ids: Sequence[str], used: Collection[str], sources: Sequence[Source]
) -> Inference:
    """Return what the columns hold that no option names, by some of the rows."""
    step = -(-len(table) // _MOST_UNNAMED_ROWS)
    some = table.without(set(range(len(table))) - set(range(0, len(table), step)))
    read = {*used, *(column for source in sources for column in source.columns)}
    others = [column for column in table.columns if column not in read]
    return infer_columns(
        some,
        files,
        list(ids[::step]),
        {*read, *others[_MOST_UNNAMED_COLUMNS:]},
        [source.name for source in sources],
    )


def _checked_sources(
    table: Table, files: TableFiles, sources: Sequence[Source], faults: Faults
) -> tuple[list[Source], list[str]]:
    """Return the sources with how their rows are read, and notes."""
    checked: list[Source] = []
    notes: list[str] = []
    for source in sources:
        if source.form in ("files", "arrays"):
            source = find_paths(table, files, source, faults)
        elif source.form in ("vectors", "embedded"):
            source = check_items(table, source, faults)
        elif source.kind == "tabular":
            features, remarks = read_features(table, source.name, source.columns, source.categories, faults)
            source = replace(source, features=tuple(features))
            notes += remarks
        checked.append(source)
    if files.respelt:
        cell, path = next(iter(files.respelt.items()))
        notes.append(f"{len(files.respelt)} paths are written otherwise than on disk, such as {cell!r} for {path!r}")
    return checked, notes


def _root(table: Table, known: Mapping[str, str]) -> Path:
    """Return the folder that paths start from.

    Raises:
        UsageError: the option `root` names no folder.
    """
    if "root" not in known:
        return table.root
    root = table.root / Path(known["root"]).expanduser()
    if not root.is_dir():
        raise UsageError(f"root={known['root']}: there is no folder {root}; it starts from the table's folder")
    return root


def _check_leaks(sources: Sequence[Source], targets: Sequence[Target], splits: SplitColumns) -> None:
    for source in sources:
        for item in targets:
            if item.column in source.columns:
                raise UsageError(
                    f"the modality {source.name!r} would read the column {item.column!r}, which holds the labels of "
                    f"{item.task.name!r}; take it out"
                )
        if splits.split in source.columns:
            raise UsageError(
                f"the modality {source.name!r} would read the column {splits.split!r}, which holds the splits"
            )


def _read_ids(table: Table, known: Mapping[str, str], faults: Faults) -> tuple[str, Sequence[str]]:
    """Return the column of ids, "" for none, and the id of each row."""
    asked = known.get("id")
    name = (table.same_name("id") if not table.ids else "") if asked is None else asked
    if not name:
        return "", table.ids or [f"row-{count:06}" for count in range(1, len(table) + 1)]
    ids = table.column(name, "ids")
    hint = "" if asked else '; [id=""] numbers the rows instead'
    first_row: dict[str, int] = {}
    for row, sample_id in enumerate(ids):
        if not sample_id.strip():
            faults.add(row, f"{table.where(row)}: the id (column {name!r}) is empty; every sample needs one{hint}")
        elif sample_id in first_row:
            faults.add(
                row,
                f"{table.where(row)}: the id {sample_id!r} is that of {table.where(first_row[sample_id])} too; "
                f"ids are unique{hint}",
            )
        else:
            first_row[sample_id] = row
    return name, list(ids)


def _read_weights(table: Table, column: str, faults: Faults) -> list[float]:
    """Return the weight of each row; nothing where no column is named."""
    if not column:
        return []
    weights = []
    for row, cell in enumerate(table.column(column, "sample weights")):
        weight = number(cell.strip())
        if weight is None or weight < 0:
            faults.add(
                row,
                f"{table.where(row)}: the sample weight (column {column!r}) is {cell!r}; write a number of at least 0",
            )
        weights.append(weight or 0.0)
    return weights


def _read_max_frames(known: Mapping[str, str]) -> int:
    """Return the option `max_frames`, `MAX_FRAMES` where it is not given."""
    max_frames = number(known.get("max_frames", str(MAX_FRAMES)))
    if max_frames is None or max_frames < 1 or max_frames % 1:
        raise UsageError(f"max_frames must be a whole number above 0, got {known['max_frames']!r}")
    return int(max_frames)
