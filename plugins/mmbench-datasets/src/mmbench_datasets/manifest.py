"""Any data of one's own: a manifest whose columns are paths, texts, numbers and labels, checked before anything runs.

Options name the columns. ``label``, ``split``, ``id``, ``group``, ``seed`` and ``max_seconds`` are reserved; every
other option is a modality: ``image=photo`` makes the modality "image" from the column "photo". ``meta=age+height``
joins columns into one table. ``text=number:text`` forces a kind where the content would be taken for another.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, TypeAlias

from mmbench.errors import DataError, UsageError, did_you_mean
from mmbench.spec import DatasetInfo, Kind, Modality, TaskKind, TaskSpec
from mmbench_datasets.filehash import hash_files
from mmbench_datasets.table import Table, read_table

Split: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

RESERVED = ("label", "split", "id", "group", "seed", "max_seconds")
MEDIA_ENDINGS: Mapping[str, Kind] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"), "image"),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"), "audio"),
    **dict.fromkeys((".mp4", ".mkv", ".webm", ".mov", ".avi"), "video"),
}  # type: ignore[dict-item]
_FORCED_KINDS = ("image", "audio", "video", "text", "tabular")
_TASK_KINDS = ("multiclass", "multilabel", "regression")
_SPLIT_WORDS: Mapping[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test",
}  # fmt: skip
_TEXT_NAMES = ("text", "caption", "sentence", "transcript", "description", "title", "question", "utterance")
_FEW_CLASSES = 20  # integers up to this many are classes …
_ROWS_PER_CLASS = 10  # … and beyond, if each occurs this often on average
_MOST_CATEGORIES = 64
_VAL_SHARE, _TEST_SHARE = 0.15, 0.15
_DEFAULT_MAX_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column of a table modality.

    Attributes:
        column: Its name.
        categories: The words that training knows, one output each; empty for numbers, which give one output.
    """

    column: str
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many numbers it gives."""
        return len(self.categories) or 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a modality comes from.

    Attributes:
        name: The modality.
        kind: Its kind.
        columns: The manifest's columns: one, or several for a table.
        features: For a table, how its columns become numbers.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    features: tuple[Feature, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a task comes from.

    Attributes:
        column: Of the manifest.
        task: Name, kind, classes.
        values: The target of each row, as `mmbench.data.Sample` wants it.
    """

    column: str
    task: TaskSpec
    values: Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest understood: what each column is for, and which rows belong to which split.

    Attributes:
        table: The cells.
        root: The folder that paths start from.
        ids: Of each row.
        sources: The modalities.
        targets: The tasks.
        rows: By split, in the file's order.
        files: What `os.stat` said of every file that a row names, by path as written.
        max_seconds: Longest audio or video accepted, in seconds.
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
    settings: Mapping[str, Any]

    @property
    def missing(self) -> tuple[str, ...]:
        """Modalities that some rows lack."""
        return tuple(
            source.name
            for source in self.sources
            if any(all(not cell.strip() for cell in cells) for cells in self.cells(source))
        )

    def cells(self, source: Source) -> Iterable[tuple[str, ...]]:
        """Return the cells of a modality, row by row."""
        return zip(*(self.table.columns[column] for column in source.columns))


def describe(target: str, **options: Any) -> DatasetInfo:
    """Return what planning must know, after every check that needs no decoding.

    Raises:
        UsageError: an option names a column or a kind that is not there.
        DataError: the manifest cannot be used; see `read_manifest`.
    """
    manifest = read_manifest(target, options)
    content = hashlib.sha256(manifest.table.content)
    content.update(json.dumps(manifest.settings, sort_keys=True).encode())
    content.update(hash_files(manifest.root, manifest.files).encode())
    return DatasetInfo(
        modalities=tuple(_modality(source) for source in manifest.sources),
        tasks=tuple(item.task for item in manifest.targets),
        missing=manifest.missing,
        fingerprint=content.hexdigest(),
    )


def open_manifest(root: Path, *, target: str, **options: Any) -> dict[str, Any]:  # noqa: ARG001
    """Return the splits; a sample's inputs are decoded when they are asked for, one modality at a time.

    Raises:
        UsageError: an option names a column or a kind that is not there.
        DataError: the manifest cannot be used; see `read_manifest`.
        Unavailable: it names videos and PyAV is not installed.
    """
    from mmbench_datasets.records import open_records

    return open_records(read_manifest(target, options))


def read_manifest(target: str, options: Mapping[str, Any]) -> Manifest:
    """Read a manifest and decide what each column is for.

    Raises:
        UsageError: an option names a column or a kind that is not there.
        DataError: rows, ids, labels, splits or files that cannot be used.
    """
    table = read_table(target)
    known = {name: str(value) for name, value in options.items()}
    ids = _read_ids(table, known.get("id"))
    targets = _read_targets(table, known.get("label"))
    seed, max_seconds = _read_numbers(known)
    split_column, group_column = _split_columns(table, known)
    if split_column:
        rows = _given_split(table, split_column)
        if "group" in known:
            _check_groups(table, group_column, rows)
    else:
        rows = _generated_split(table, ids, targets[0], group_column, seed)
    _check_labels_of_splits(table, targets, rows)
    used = {item.column for item in targets} | {split_column, group_column, known.get("id", "id")}
    declared = {name: value for name, value in known.items() if name not in RESERVED}
    if declared:
        sources = [_declared(table, name, value) for name, value in declared.items()]
    else:
        sources = _inferred(table, ids, used)
    sources = [_with_features(table, source, rows["train"]) for source in sources]
    root = table.path.resolve().parent
    files = _find_files(table, root, sources)
    return Manifest(
        table=table,
        root=root,
        ids=ids,
        sources=sorted(sources, key=lambda source: source.name),
        targets=targets,
        rows=rows,
        files=files,
        max_seconds=max_seconds,
        settings={**known, "seed": seed, "max_seconds": max_seconds},
    )


# Ids, numbers and columns by name.


def _column(table: Table, name: str, purpose: str) -> list[str]:
    if name not in table.columns:
        raise UsageError(
            f"{table.path.name} has no column {name!r} for {purpose}; it has {', '.join(table.columns)}."
            f"{did_you_mean(name, table.columns)}"
        )
    return table.columns[name]


def _names(table: Table, value: str) -> list[str]:
    """Read "a+b" as two columns, unless a column is called just that."""
    return [value] if value in table.columns else value.split("+")


def _with_kind(table: Table, value: str, kinds: Sequence[str], purpose: str) -> tuple[str, str]:
    """Read "column:kind" as a column and a kind, unless a column is called just that."""
    if value in table.columns or ":" not in value:
        return value, ""
    column, _, kind = value.rpartition(":")
    if kind not in kinds:
        raise UsageError(f"{purpose} {value!r}: {kind!r} is not one of {', '.join(kinds)}.{did_you_mean(kind, kinds)}")
    return column, kind


def _read_ids(table: Table, named: str | None) -> list[str]:
    name = named or "id"
    if not named and name not in table.columns:
        return [f"row-{number:06}" for number in range(1, len(table) + 1)]
    ids = _column(table, name, "ids")
    first_row: dict[str, int] = {}
    for row, sample_id in enumerate(ids):
        if not sample_id.strip():
            raise DataError(f"{table.where(row)}: the id (column {name!r}) is empty; every sample needs one")
        if sample_id in first_row:
            raise DataError(
                f"{table.where(row)}: the id {sample_id!r} stands in line {table.lines[first_row[sample_id]]} already; "
                "ids are unique"
            )
        first_row[sample_id] = row
    return ids


def _read_numbers(known: Mapping[str, str]) -> tuple[int, float]:
    try:
        seed = int(known.get("seed", "0"))
    except ValueError:
        raise UsageError(f"seed must be a whole number, got {known['seed']!r}") from None
    max_seconds = _number(known.get("max_seconds", str(_DEFAULT_MAX_SECONDS)))
    if max_seconds is None or max_seconds <= 0:
        raise UsageError(f"max_seconds must be a number above 0, got {known['max_seconds']!r}")
    return seed, max_seconds


def _split_columns(table: Table, known: Mapping[str, str]) -> tuple[str, str]:
    """Return the columns that hold splits and groups, each "" when there is none."""
    split = known.get("split", "split" if "split" in table.columns else "")
    if split == "auto" and "auto" not in table.columns:
        split = ""
    elif split:
        _column(table, split, "splits")
    group = known.get("group", "group" if "group" in table.columns else "")
    if group:
        _column(table, group, "groups")
    return split, group


def _number(cell: str) -> float | None:
    """Return a cell as a finite number, or None; Python's own extras such as "1_000" are not numbers here."""
    if "_" in cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _is_nan(cell: str) -> bool:
    return cell.strip().lower() in ("nan", "+nan", "-nan")


# Labels.


def _read_targets(table: Table, named: str | None) -> list[Target]:
    if named is None and "label" not in table.columns:
        raise DataError(
            f"{table.path.name} has no column 'label'; name the labels' column with [label=COLUMN]. "
            f"It has {', '.join(table.columns)}.{did_you_mean('label', table.columns)}"
        )
    targets = []
    for part in _names(table, named or "label"):
        column, kind = _with_kind(table, part, _TASK_KINDS, "the label")
        cells = [cell.strip() for cell in _column(table, column, "labels")]
        targets.append(_read_target(table, column, cells, kind))
    return targets


def _read_target(table: Table, column: str, cells: Sequence[str], forced: str) -> Target:
    for row, cell in enumerate(cells):
        if not cell and forced != "multilabel":  # a sample may have none of several labels
            raise DataError(
                f"{table.where(row)}: the label (column {column!r}) is empty; give it a label or remove the row"
            )
    distinct = sorted(set(cells))
    words = [cell for cell in distinct if not _is_nan(cell)]
    numbers = {cell: _number(cell) for cell in words}
    numeric = bool(words) and all(value is not None for value in numbers.values())
    kind = forced or _target_kind(cells, distinct, numbers, numeric)
    if numeric and len(words) < len(distinct):
        row = next(row for row, cell in enumerate(cells) if _is_nan(cell))
        raise DataError(f"{table.where(row)}: the label (column {column!r}) is NaN; give it a label or remove the row")
    if kind == "regression":
        return _regression(table, column, cells)
    if kind == "multilabel":
        return _multilabel(table, column, cells)
    names = sorted(distinct, key=(lambda cell: (numbers[cell] or 0.0, cell)) if numeric else None)
    if len(names) < 2:
        raise DataError(
            f"{table.path.name}: the label column {column!r} holds one class only ({names[0]!r}); "
            "there is nothing to learn. Check the column, or name another with [label=COLUMN]"
        )
    number_of = {name: number for number, name in enumerate(names)}
    task = TaskSpec(name=_task_name(column), kind="multiclass", num_outputs=len(names), class_names=tuple(names))
    return Target(column=column, task=task, values=[number_of[cell] for cell in cells])


def _target_kind(
    cells: Sequence[str], distinct: Sequence[str], numbers: Mapping[str, float | None], numeric: bool
) -> TaskKind:
    if any(";" in cell or "|" in cell for cell in distinct):
        return "multilabel"
    if not numeric:
        return "multiclass"
    if any(value is not None and value != int(value) for value in numbers.values()):
        return "regression"
    few = len(distinct) <= _FEW_CLASSES or len(cells) >= _ROWS_PER_CLASS * len(distinct)
    return "multiclass" if few else "regression"


def _regression(table: Table, column: str, cells: Sequence[str]) -> Target:
    values = []
    for row, cell in enumerate(cells):
        value = _number(cell)
        if value is None:
            raise DataError(
                f"{table.where(row)}: the label (column {column!r}) must be a finite number, got {cell!r}; "
                "mend it, remove the row, or force classes with [label=COLUMN:multiclass]"
            )
        values.append(value)
    if len(set(values)) < 2:
        raise DataError(f"{table.path.name}: every label in {column!r} is {cells[0]}; there is nothing to learn")
    return Target(
        column=column, task=TaskSpec(name=_task_name(column), kind="regression", num_outputs=1), values=values
    )


def _multilabel(table: Table, column: str, cells: Sequence[str]) -> Target:
    sets = [{part.strip() for part in cell.replace("|", ";").split(";")} - {""} for cell in cells]
    names = sorted(set().union(*sets))
    if not names:
        raise DataError(f"{table.path.name}: the label column {column!r} holds no labels")
    task = TaskSpec(name=_task_name(column), kind="multilabel", num_outputs=len(names), class_names=tuple(names))
    return Target(column=column, task=task, values=[tuple(int(name in labels) for name in names) for labels in sets])


def _task_name(column: str) -> str:
    """A column's name in the letters that a task's name may have."""
    cleaned = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in column)[:64]
    return cleaned if cleaned[:1].isalnum() or cleaned[:1] == "_" else f"_{cleaned}"[:64]


# Splits.


def _given_split(table: Table, column: str) -> dict[Split, list[int]]:
    rows: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for row, cell in enumerate(table.columns[column]):
        split = _SPLIT_WORDS.get(cell.strip().lower())
        if split is None:
            raise DataError(
                f"{table.where(row)}: the split (column {column!r}) is {cell!r}; write train, val or test, "
                "or let mmbench split by [split=auto]"
            )
        rows[split].append(row)
    for split in SPLITS:
        if not rows[split]:
            found = ", ".join(name for name in SPLITS if rows[name])
            raise DataError(
                f"{table.path.name}: no row has the split {split!r} (column {column!r} has {found}); mmbench trains on "
                "train, chooses on val and reports test. Mark some rows so, or let mmbench split by [split=auto]"
            )
    return rows


def _check_groups(table: Table, column: str, rows: Mapping[Split, Sequence[int]]) -> None:
    split_of: dict[str, Split] = {}
    for split in SPLITS:
        for row in rows[split]:
            group = table.columns[column][row]
            if group.strip() and split_of.setdefault(group, split) != split:
                raise DataError(
                    f"{table.where(row)}: the group {group!r} (column {column!r}) is in {split_of[group]} and in "
                    f"{split}; keep a group in one split, or let mmbench split by [split=auto]"
                )


def _generated_split(
    table: Table, ids: Sequence[str], target: Target, group_column: str, seed: int
) -> dict[Split, list[int]]:
    """Split 70/15/15 by class and whole groups; a row's place depends on its id and the seed, not on its position."""
    strata = target.values if target.task.kind == "multiclass" else [0] * len(table)
    members: dict[str, list[int]] = {}
    for row, sample_id in enumerate(ids):
        group = table.columns[group_column][row].strip() if group_column else ""
        members.setdefault(f"group {group}" if group else f"id {sample_id}", []).append(row)
    order = sorted(members, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    order.sort(key=lambda name: -len(members[name]))  # large groups while there is room for them
    total = Counter(strata)
    room: dict[Split, Counter[Any]] = {"train": Counter(), "val": Counter(), "test": Counter()}
    for stratum, count in total.items():
        room["val"][stratum] = max(round(_VAL_SHARE * count), int(count >= 3))
        room["test"][stratum] = max(round(_TEST_SHARE * count), int(count >= 2))
        room["train"][stratum] = count - room["val"][stratum] - room["test"][stratum]
    holders = Counter(stratum for rows in members.values() for stratum in {strata[row] for row in rows})
    rows: dict[Split, list[int]] = {split: [] for split in SPLITS}
    trained: set[Any] = set()
    for name in order:
        held = Counter(strata[row] for row in members[name])
        for stratum in held:
            holders[stratum] -= 1
        needed = any(stratum not in trained and not holders[stratum] for stratum in held)
        split = "train" if needed else max(SPLITS, key=lambda split: _fit(held, room[split]))
        if split == "train":
            trained |= set(held)
        room[split].subtract(held)
        rows[split].extend(members[name])
    for split in SPLITS:
        if not rows[split]:
            raise DataError(
                f"{table.path.name}: {len(table)} rows in {len(members)} groups do not fill train, val and test; "
                "add rows or a column 'split'"
            )
        rows[split].sort()
    return rows


def _fit(held: Counter[Any], room: Counter[Any]) -> float:
    """How well a group fits where there is room, as a share of the group, then by how much room is left."""
    fitting = sum(min(count, max(room[stratum], 0)) for stratum, count in held.items()) / held.total()
    return fitting + 1e-6 * sum(room[stratum] for stratum in held) / max(1, held.total())


def _check_labels_of_splits(table: Table, targets: Sequence[Target], rows: Mapping[Split, Sequence[int]]) -> None:
    """Raise where a class occurs in val or test and never in train: no model could learn it."""
    for item in targets:
        if item.task.kind == "multiclass":
            trained = {item.values[row] for row in rows["train"]}
            if len(trained) < 2:
                raise DataError(
                    f"{table.path.name}: train holds one class only of {item.task.name!r} "
                    f"({item.task.class_names[min(trained)]!r}); there is nothing to learn"
                )
            unseen = {
                item.values[row]: (split, row)
                for split in ("test", "val")
                for row in rows[split]
                if item.values[row] not in trained
            }
        elif item.task.kind == "multilabel":
            labels = range(item.task.num_outputs)
            absent = [label for label in labels if not any(item.values[row][label] for row in rows["train"])]
            unseen = {
                label: (split, row)
                for label in absent
                for split in ("test", "val")
                for row in rows[split]
                if item.values[row][label]
            }
        else:
            continue
        if unseen:
            label, (split, row) = min(unseen.items())
            raise DataError(
                f"{table.where(row)}: the class {item.task.class_names[label]!r} of {item.task.name!r} occurs in {split} "
                f"and never in train ({len(unseen)} such), so it cannot be learned; "
                "move rows to train, remove them, or split anew by [split=auto]"
            )


# Modalities.


def _declared(table: Table, name: str, value: str) -> Source:
    value, forced = _with_kind(table, value, _FORCED_KINDS, f"the modality {name!r}")
    columns = _names(table, value)
    for column in columns:
        _column(table, column, f"the modality {name!r}")
    if len(columns) > 1:
        if forced not in ("", "tabular"):
            raise UsageError(f"the modality {name!r} joins {len(columns)} columns, which makes a table, not {forced}")
        return Source(name=name, kind="tabular", columns=tuple(columns))
    cells = _filled(table.columns[columns[0]])
    if not cells:
        raise DataError(
            f"{table.path.name}: the column {columns[0]!r} is empty, so no sample has {name!r}; leave it out"
        )
    kind = forced or _kind_of(table, columns[0])
    return Source(name=name, kind=kind, columns=(columns[0],))  # type: ignore[arg-type]


def _filled(cells: Sequence[str]) -> list[str]:
    return [cell for cell in cells if cell.strip()]


def _ending(cell: str) -> str:
    """The ending of a path in lower case, fast: manifests have many cells."""
    return cell[cell.rfind(".") :].lower() if "." in cell else ""


def _kind_of(table: Table, column: str) -> Kind:
    """Tell a column's kind by its content: media by the endings of its paths, numbers are tabular, else text."""
    cells = _filled(table.columns[column])
    kinds = Counter(MEDIA_ENDINGS.get(_ending(cell)) for cell in cells)
    media = [kind for kind in kinds if kind]
    if media and (None not in kinds or kinds[None] < len(cells) / 2):
        if len(kinds) > 1:
            common = max(media, key=lambda kind: kinds[kind])
            row, cell = next(
                (row, cell)
                for row, cell in enumerate(table.columns[column])
                if cell.strip() and MEDIA_ENDINGS.get(_ending(cell)) != common
            )
            raise DataError(
                f"{table.where(row)}: {cell!r} in column {column!r} is not {common}, as most of the column is; "
                f"mend it, leave the cell empty, or force a kind with {column}:KIND"
            )
        return media[0]
    numeric = all(_number(cell) is not None or _is_nan(cell) for cell in cells)
    return "tabular" if numeric and cells else "text"


def _inferred(table: Table, ids: Sequence[str], used: set[str]) -> list[Source]:
    """Take every column of media paths and every column of text; numbers and categories must be asked for."""
    sources = []
    for column, cells in table.columns.items():
        filled = _filled(cells)
        if column in used or len(set(filled)) < 2 or cells == ids:
            continue
        kind = _kind_of(table, column)
        if kind in ("image", "audio", "video") or (kind == "text" and _reads_as_text(column, filled)):
            sources.append(Source(name=_task_name(column), kind=kind, columns=(column,)))
    if not sources:
        raise DataError(
            f"{table.path.name}: no column holds paths of media or texts; name the modalities, as in "
            f"[meta={'+'.join(list(table.columns)[:2])}]. The columns are {', '.join(table.columns)}"
        )
    return sources


def _reads_as_text(column: str, cells: Sequence[str]) -> bool:
    """Whether a column is text by its name, or because at least half of its cells hold several words."""
    if any(column.lower() == name or column.lower().startswith(f"{name}_") for name in _TEXT_NAMES):
        return not column.lower().endswith(("_id", "_lang", "_language"))
    return sum(len(cell.split()) > 1 for cell in cells) * 2 >= len(cells)


def _with_features(table: Table, source: Source, train: Sequence[int]) -> Source:
    if source.kind != "tabular":
        return source
    features = []
    for column in source.columns:
        cells = table.columns[column]
        if all(not cell.strip() or _number(cell) is not None or _is_nan(cell) for cell in cells):
            features.append(Feature(column=column))
            continue
        categories = sorted({cells[row].strip() for row in train} - {""})
        if not 0 < len(categories) <= _MOST_CATEGORIES:
            raise DataError(
                f"{table.path.name}: the column {column!r} of {source.name!r} has {len(categories)} different words in "
                f"train; a table takes numbers, or 1 to {_MOST_CATEGORIES} categories. For text use {column}:text"
            )
        features.append(Feature(column=column, categories=tuple(categories)))
    return Source(name=source.name, kind="tabular", columns=source.columns, features=tuple(features))


def _modality(source: Source) -> Modality:
    facts = {"num_features": sum(feature.width for feature in source.features)} if source.kind == "tabular" else {}
    return Modality(name=source.name, kind=source.kind, facts=facts)


# Files.


def _find_files(table: Table, root: Path, sources: Sequence[Source]) -> dict[str, os.stat_result]:
    """Look at every file that a row names: it must be a file under the manifest's folder."""
    files: dict[str, os.stat_result] = {}
    absent: dict[str, int] = {}
    safe_folders: dict[str, bool] = {}
    for source in sources:
        if source.kind not in ("image", "audio", "video"):
            continue
        for row, cell in enumerate(table.columns[source.columns[0]]):
            if not cell.strip() or cell in files:
                continue
            _check_path(table, row, cell)
            full = os.path.join(root, cell)  # noqa: PTH118  (twenty times faster than pathlib)
            try:
                status = os.lstat(full)
            except (OSError, ValueError):
                absent.setdefault(cell, row)
                continue
            folder = os.path.dirname(full)  # noqa: PTH120
            if folder not in safe_folders:
                safe_folders[folder] = Path(folder).resolve().is_relative_to(root)
            if stat.S_ISLNK(status.st_mode):
                inside = Path(full).resolve().is_relative_to(root)
                status = os.stat(full) if inside and Path(full).exists() else status
            else:
                inside = safe_folders[folder]
            if not inside:
                raise DataError(
                    f"{table.where(row)}: {cell!r} leads out of the manifest's folder by a link; copy the file there"
                )
            if not stat.S_ISREG(status.st_mode):
                absent.setdefault(cell, row)
                continue
            files[cell] = status
    if absent:
        first = ", ".join(f"{cell!r} (line {table.lines[row]})" for cell, row in list(absent.items())[:3])
        raise DataError(
            f"{table.path.name} names {len(absent)} files that are not there: {first}{', …' if len(absent) > 3 else ''}; "
            f"paths start from the manifest's folder, {root}"
        )
    return files


def _check_path(table: Table, row: int, cell: str) -> None:
    windows = PureWindowsPath(cell) if ":" in cell or "\\" in cell else None
    if cell.startswith(("/", "\\", "~")) or PurePosixPath(cell).is_absolute() or (windows and windows.drive):
        raise DataError(
            f"{table.where(row)}: {cell!r} is an absolute path; write it relative to the manifest's folder, "
            "so that the data can move"
        )
    if ".." in cell and (".." in cell.split("/") or ".." in cell.split("\\")):
        raise DataError(f"{table.where(row)}: {cell!r} leaves the manifest's folder by '..'; put the file below it")
