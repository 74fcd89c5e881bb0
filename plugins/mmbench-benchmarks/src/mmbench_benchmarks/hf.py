"""Any dataset that Hugging Face's library saved to disk or keeps in its cache, read offline from its Arrow files.

The library itself is not needed: its files are Arrow streams beside a JSON description. Options name columns as in
`manifest`: ``image=img`` makes the modality "image" from the column "img"; ``label``, ``id``, ``config``, ``train``,
``val``, ``test``, ``seed``, ``max_seconds`` and ``pixel_range`` are reserved. Without any, all columns of pictures,
sounds and texts are modalities.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmbench_datasets.labels import read_targets
from mmbench_datasets.lazy import LazySamples, Read
from mmbench_datasets.media import Embedded, PixelRange
from mmbench_datasets.media_columns import AudioColumn, ImageColumn
from mmbench_datasets.options import check_misspelt, read_max_seconds, read_pixel_range, read_seed
from mmbench_datasets.splits import split_groups
from mmbench_datasets.table import Table, part_name

from mmbench.data import SPLITS, Split
from mmbench.errors import DataError, SpecError, UsageError, did_you_mean
from mmbench.spec import DatasetInfo, Kind, Modality, TaskSpec
from mmbench_benchmarks.corpus import Corpus, carve_val
from mmbench_benchmarks.hf_files import Stored, find_stored, read_table, require_pyarrow

_RESERVED = ("label", "id", "config", "train", "val", "test", "seed", "max_seconds", "pixel_range")
_KINDS: tuple[Kind, ...] = ("image", "audio", "text", "tabular", "sequence")
_SPLIT_WORDS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test",),
}
_VAL_SHARE = 0.15
_TEXT_TYPES = ("string", "large_string")


def describe_hf(target: str, **options: Any) -> DatasetInfo:
    """Return what planning must know; the column of labels is read. See `open_hf`."""
    try:
        return _corpus(target, options).info()
    except SpecError as error:
        raise UsageError(f"hf:{target}: {error}; name modalities as in [image=COLUMN]") from None


def open_hf(root: Path, *, target: str, **options: Any) -> dict[Split, LazySamples]:
    """Return the splits of a saved or cached dataset.

    Without a split for validation it is 15 % of train; without one for test, the split for validation is test and
    validation is carved from train; a dataset of one split is divided 70/15/15.

    Args:
        root: Not used: the dataset lies where the library put it.
        target: The folder of `save_to_disk`, or the dataset's name in the library's cache.
        options: As in the module's first lines.

    Raises:
        Unavailable: it is not there, or pyarrow is not installed.
        UsageError: an option names a column, a kind or a split that is not there.
        DataError: its files are broken, or a label is.
    """
    return _corpus(target, options).splits()


def _corpus(target: str, options: Mapping[str, Any]) -> Corpus:
    pyarrow = require_pyarrow()
    known = {name: str(value) for name, value in options.items()}
    stored = find_stored(target, known)
    declared = {name: value for name, value in known.items() if name not in _RESERVED}
    check_misspelt("hf", declared, _RESERVED, stored.features)
    _check_columns(stored, declared)
    names = _split_names(stored, known)
    tables = {split: read_table(pyarrow, stored, name) for split, name in names.items()}
    places = [(split, row) for split in tables for row in range(len(tables[split]))]
    columns = {name: [tables[split][name] for split in tables] for name in stored.features}
    target_task, values = _labels(stored, columns, known.get("label", "label"))
    sources = _sources(stored, declared, known)
    ids = _ids(stored, columns, known, [f"{names[split]}-{row:06}" for split, row in places])
    rows = _rows(tables, values, ids, read_seed(known), by_class=target_task.kind == "multiclass")
    limits = {"max_seconds": read_max_seconds(known), "pixel_range": read_pixel_range(known), "train": rows["train"]}
    readers, missing, modalities = {}, [], []
    for name, (column, kind) in sources.items():
        chunks = pyarrow.chunked_array([chunk for table in columns[column] for chunk in table.chunks])
        readers[name] = _reader(chunks, column, kind, **limits)
        modalities.append(Modality(name=name, kind=kind, facts={"channels": 3} if kind == "image" else {}))
        if chunks.null_count:
            missing.append(name)
            _check_train(name, chunks, rows["train"])
    return Corpus(
        folder=stored.folder,
        modalities=tuple(modalities),
        missing=tuple(missing),
        tasks=(target_task,),
        rows=rows,
        ids=ids,
        targets={target_task.name: values},
        readers=readers,
        annotations=[path for name in names.values() for path in stored.files[name]],
    )


# What it holds


def _split_names(stored: Stored, known: Mapping[str, str]) -> dict[Split, str]:
    """Return the stored splits that are used as train, val and test."""
    found: dict[Split, str] = {}
    for split in SPLITS:
        if split in known:
            if known[split] not in stored.files:
                raise UsageError(
                    f"[{split}={known[split]}]: the dataset has the splits {', '.join(stored.files)}."
                    f"{did_you_mean(known[split], stored.files)}"
                )
            found[split] = known[split]
        else:
            name = next((word for word in _SPLIT_WORDS[split] if word in stored.files), "")
            if name and name not in known.values():
                found[split] = name
    if len(stored.files) == 1 and not found:
        found["train"] = next(iter(stored.files))
    if "train" not in found:
        raise UsageError(f"the dataset has the splits {', '.join(stored.files)}; say which is train by [train=NAME]")
    if len(set(found.values())) < len(found):
        raise UsageError("two of train, val and test would be the same split; name others by [test=NAME]")
    if "val" in found and "test" not in found:
        found["test"] = found.pop("val")
    return found


def _rows(
    tables: Mapping[Split, Any], values: Sequence[Any], ids: Sequence[str], seed: int, *, by_class: bool
) -> dict[Split, list[int]]:
    rows: dict[Split, list[int]] = {}
    begin = 0
    for split, table in tables.items():
        rows[split] = list(range(begin, begin + len(table)))
        begin += len(table)
    strata = values if by_class else [0] * begin
    if set(rows) == {"train"}:
        return split_groups(ids, strata, seed)
    if "val" not in rows:
        rows |= carve_val(rows["train"], strata, ids, share=_VAL_SHARE)
    return {split: rows[split] for split in SPLITS}


def _check_columns(stored: Stored, declared: Mapping[str, str]) -> None:
    for name, value in declared.items():
        column = value.rpartition(":")[0] if value not in stored.features and ":" in value else value
        if column not in stored.features:
            raise _no_column(stored, column, f"the modality {name!r}")


def _no_column(stored: Stored, column: str, purpose: str) -> UsageError:
    return UsageError(
        f"the dataset has no column {column!r} for {purpose}; it has {', '.join(stored.features)}."
        f"{did_you_mean(column, stored.features)}"
    )


def _ids(stored: Stored, columns: Mapping[str, Any], known: Mapping[str, str], usual: list[str]) -> list[str]:
    if "id" not in known:
        return usual
    if known["id"] not in stored.features:
        raise _no_column(stored, known["id"], "ids")
    ids = [str(value) for table in columns[known["id"]] for value in table.to_pylist()]
    if len(set(ids)) < len(ids) or not all(ids):
        raise DataError(f"the column {known['id']!r} has empty or repeated ids; leave [id=…] out to count rows")
    return ids


def _labels(stored: Stored, columns: Mapping[str, Any], named: str) -> tuple[TaskSpec, Sequence[Any]]:
    column = named if named in stored.features else named.rpartition(":")[0] or named
    if column not in stored.features:
        raise _no_column(stored, column, "labels; name it with [label=COLUMN]")
    feature = stored.features[column]
    values = [value for table in columns[column] for value in table.to_pylist()]
    inner = feature.get("feature") if feature.get("_type") in ("List", "LargeList", "Sequence") else None
    names = (inner if isinstance(inner, dict) else feature).get("names")
    if isinstance(names, list):
        names = [str(name) for name in names]
        return _class_labels(column, values, names, several=isinstance(inner, dict))
    cells = [";".join(map(str, value)) if isinstance(value, list) else _cell(value) for value in values]
    name = Path(f"{stored.folder.root.name}.parquet")  # so that messages count rows
    table = Table(path=name, content=b"", columns={column: cells}, lines=list(range(len(cells))))
    (target,) = read_targets(table, named)
    return target.task, target.values


def _cell(value: Any) -> str:
    return "" if value is None else str(int(value)) if isinstance(value, bool) else str(value)


def _class_labels(
    column: str, values: Sequence[Any], names: Sequence[str], *, several: bool
) -> tuple[TaskSpec, Sequence[Any]]:
    """Return the task of a column whose classes the dataset itself names, in its order."""
    kind = "multilabel" if several else "multiclass"
    for row, value in enumerate(values):
        for each in value if several and isinstance(value, list) else [value]:
            if not (isinstance(each, int) and 0 <= each < len(names)):
                raise DataError(
                    f"row {row} has the label {each!r}, and {column!r} knows 0 to {len(names) - 1}: the labels of this "
                    "split may be hidden; take another, as in [test=validation]"
                )
    task = TaskSpec(name=part_name(column), kind=kind, num_outputs=len(names), class_names=tuple(names))  # type: ignore[arg-type]
    if several:
        return task, [tuple(int(number in value) for number in range(len(names))) for value in values]
    return task, values


# Its modalities


def _sources(stored: Stored, declared: Mapping[str, str], known: Mapping[str, str]) -> dict[str, tuple[str, Kind]]:
    """Return the column and the kind of each modality."""
    label = known.get("label", "label")
    used = {label, label.rpartition(":")[0], known.get("id", "")}
    if not declared:
        found = {
            part_name(column): (column, kind)
            for column, feature in stored.features.items()
            if column not in used and (kind := _kind(feature)) in ("image", "audio", "text")
        }
        if not found:
            raise UsageError(f"no column holds pictures, sounds or texts; name some of {', '.join(stored.features)}")
        return found  # type: ignore[return-value]
    sources: dict[str, tuple[str, Kind]] = {}
    for name, value in declared.items():
        column, forced = (value, "") if value in stored.features else value.rsplit(":", 1)
        if forced and forced not in _KINDS:
            raise UsageError(f"the modality {name!r}: {forced!r} is not one of {', '.join(_KINDS)}")
        if column in used:
            raise UsageError(f"the modality {name!r} would read {column!r}, which holds labels or ids; take it out")
        kind = forced or _kind(stored.features[column])
        if not kind:
            raise UsageError(
                f"the column {column!r} is {json.dumps(stored.features[column])[:120]}, which is none of "
                f"{', '.join(_KINDS)}; force a kind with {name}={column}:KIND, or leave it out"
            )
        sources[name] = (column, kind)  # type: ignore[assignment]
    return sources


def _kind(feature: Mapping[str, Any], depth: int = 0) -> str:
    """Return the kind that a column's type means, or ""."""
    name = feature.get("_type")
    if name in ("Image", "Audio"):
        return str(name).lower()
    if name == "Array2D":
        return "sequence"
    if name in ("List", "LargeList", "Sequence") and depth < 2:
        inner = feature.get("feature")
        below = _kind(inner, depth + 1) if isinstance(inner, dict) else ""
        return "tabular" if below == "tabular" and depth == 0 and not _is_list(inner) else "sequence" if below else ""
    if name == "Value":
        dtype = str(feature.get("dtype"))
        if dtype in _TEXT_TYPES:
            return "text" if depth == 0 else ""
        return "tabular" if dtype.startswith(("float", "int", "uint", "bool")) else ""
    return ""


def _is_list(feature: Any) -> bool:
    return isinstance(feature, dict) and feature.get("_type") in ("List", "LargeList", "Sequence")


def _check_train(name: str, column: Any, train: Sequence[int]) -> None:
    """Raise where no row of train has a modality: nothing could be learned of it."""
    if not any(column[row].is_valid for row in train):
        raise DataError(
            f"no row of train has {name!r} ({len(train)} rows), so nothing can be learned of it; move rows that have "
            "it to train, or leave the modality out"
        )


def _reader(
    column: Any, name: str, kind: Kind, *, max_seconds: float, pixel_range: PixelRange | None, train: Sequence[int]
) -> Read:
    """Return what decodes a row of a column, None where it holds nothing."""

    def where(row: int) -> str:
        return f"row {row} of {name!r}"

    def file(row: int) -> Embedded | None:
        value = column[row].as_py()
        return None if value is None else _embedded(value, where(row))

    def read(row: int) -> Any:
        value = column[row].as_py()
        if value is None:
            return None
        if kind == "text":
            return str(value)
        try:
            array = np.asarray(value, dtype=np.float32)
        except (ValueError, TypeError):
            raise DataError(f"{where(row)} holds no numbers of one shape; leave the column out") from None
        return array.reshape(-1) if kind == "tabular" else array.reshape(len(array), -1)

    if kind == "image":
        return ImageColumn(file, where, channels=3, train=train, pixel_range=pixel_range)
    if kind == "audio":
        return AudioColumn(file, where, max_seconds=max_seconds)
    return read


def _embedded(value: Any, where: str) -> Embedded:
    content = value.get("bytes") if isinstance(value, dict) else value
    path = str(value.get("path") or "") if isinstance(value, dict) else ""
    if not isinstance(content, bytes):
        raise DataError(
            f"{where} is kept outside the dataset ({path[:80]!r}); save it again: save_to_disk() takes files in"
        )
    return Embedded(Path(path).name, content)
