"""Any dataset that Hugging Face's library saved to disk or keeps in its cache, read offline from its Arrow files.

The library itself is not needed: its files are Arrow streams beside a JSON description. Options name columns as in
`manifest`: ``image=img`` makes the modality "image" from the column "img"; ``label``, ``id``, ``config``, ``train``,
``val``, ``test``, ``seed`` and ``max_seconds`` are reserved. Without any, all columns of pictures, sounds and texts are
modalities.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmbench_datasets.labels import read_targets
from mmbench_datasets.lazy import LazySamples, Read
from mmbench_datasets.media import Embedded, read_audio, read_image
from mmbench_datasets.options import check_misspelt, read_max_seconds, read_seed
from mmbench_datasets.splits import split_groups
from mmbench_datasets.table import Table, part_name

from mmbench.data import SPLITS, Split
from mmbench.errors import DataError, SpecError, Unavailable, UsageError, did_you_mean
from mmbench.spec import DatasetInfo, Kind, Modality, TaskSpec
from mmbench_benchmarks.corpus import Corpus, carve_val
from mmbench_benchmarks.folder import Folder, Published

_PUBLISHED = Published(
    name="hf",
    title="the Hugging Face dataset",
    origin="its hub, where there is a network: datasets.load_dataset(NAME).save_to_disk(PATH)",
    layout="what save_to_disk wrote",
)
_RESERVED = ("label", "id", "config", "train", "val", "test", "seed", "max_seconds")
_KINDS: tuple[Kind, ...] = ("image", "audio", "text", "tabular", "sequence")
_SPLIT_WORDS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test",),
}
_VAL_SHARE = 0.15
_TEXT_TYPES = ("string", "large_string")
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # in Arrow's Message.fbs
#: NAME-SPLIT.arrow, in parts or whole; cache-HASH.arrow is what somebody computed from the dataset.
_CACHE_FILE = re.compile(r"(?!cache-).*-(?P<split>\w+?)(-\d{5}-of-\d{5})?\.arrow")


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A dataset as it lies on disk.

    Attributes:
        folder: Where.
        files: Arrow files by the name of their split.
        features: Each column's type, as the library describes it.
    """

    folder: Folder
    files: Mapping[str, tuple[str, ...]]
    features: Mapping[str, Mapping[str, Any]]


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
    pyarrow = _require_pyarrow()
    known = {name: str(value) for name, value in options.items()}
    stored = _find(target, known)
    declared = {name: value for name, value in known.items() if name not in _RESERVED}
    check_misspelt("hf", declared, _RESERVED, stored.features)
    _check_columns(stored, declared)
    names = _split_names(stored, known)
    tables = {split: _read(pyarrow, stored, name) for split, name in names.items()}
    places = [(split, row) for split in tables for row in range(len(tables[split]))]
    columns = {name: [tables[split][name] for split in tables] for name in stored.features}
    target_task, values = _labels(stored, columns, known.get("label", "label"))
    sources = _sources(stored, declared, known)
    ids = _ids(stored, columns, known, [f"{names[split]}-{row:06}" for split, row in places])
    max_seconds = read_max_seconds(known)
    readers, missing, modalities = {}, [], []
    for name, (column, kind) in sources.items():
        chunks = pyarrow.chunked_array([chunk for table in columns[column] for chunk in table.chunks])
        readers[name] = _reader(chunks, column, kind, max_seconds)
        modalities.append(Modality(name=name, kind=kind, facts={"channels": 3} if kind == "image" else {}))
        if chunks.null_count:
            missing.append(name)
    return Corpus(
        folder=stored.folder,
        modalities=tuple(modalities),
        missing=tuple(missing),
        tasks=(target_task,),
        rows=_rows(tables, values, ids, read_seed(known), by_class=target_task.kind == "multiclass"),
        ids=ids,
        targets={target_task.name: values},
        readers=readers,
        annotations=[path for name in names.values() for path in stored.files[name]],
    )


def _require_pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise Unavailable(
            "datasets of Hugging Face are read by pyarrow: pip install 'mmbench-benchmarks[hf]'"
        ) from None
    return pyarrow


# Where it lies


def _find(target: str, known: Mapping[str, str]) -> _Stored:
    path = Path(target).expanduser()
    if path.is_dir():
        return _saved(Folder(_PUBLISHED, target))
    cache = _cache()
    wanted = re.sub(r"[^a-z0-9]", "", target.lower())
    found = [
        entry for entry in (sorted(cache.iterdir()) if cache.is_dir() else [])
        if entry.is_dir() and re.sub(r"[^a-z0-9]", "", entry.name.lower()) == wanted
    ]  # fmt: skip
    infos = sorted(info for entry in found for info in entry.glob("*/*/*/dataset_info.json"))
    config = known.get("config", "")
    if config:
        infos = [info for info in infos if info.parts[-4] == config or info.parts[-4].startswith(f"{config}-")]
    if not infos:
        raise Unavailable(
            f"there is no folder {target!r}, and the cache {cache} holds no dataset of that name"
            f"{f' with the config {config!r}' if config else ''}. Get it from {_PUBLISHED.origin}, and give hf:PATH"
        )
    if len(infos) > 1:
        choices = ", ".join(sorted({info.parts[-4] for info in infos}))
        raise UsageError(
            f"the cache holds {len(infos)} datasets {target!r} ({choices}); choose one with [config=NAME], or give its "
            f"folder, as in hf:{infos[0].parent}"
        )
    return _cached(Folder(_PUBLISHED, str(infos[0].parent)))


def _cache() -> Path:
    chosen = os.environ.get("HF_DATASETS_CACHE", "")
    home = os.environ.get("HF_HOME", "")
    if chosen:
        return Path(chosen).expanduser()
    return (Path(home).expanduser() if home else Path.home() / ".cache" / "huggingface") / "datasets"


def _saved(folder: Folder) -> _Stored:
    """Read a folder of `save_to_disk`, with one split or several, or a folder of the cache."""
    if (folder.root / "dataset_dict.json").exists():
        told = folder.json("dataset_dict.json")
        names = told.get("splits") if isinstance(told, dict) else None
        if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
            raise DataError(f"{folder.root}/dataset_dict.json names no splits; save the dataset again")
        files, features = {}, {}
        for name in names:
            folder.status(f"{name}/state.json", "dataset_dict.json")  # refuses a name such as ../x
            files[name] = _saved_files(folder, f"{name}/")
            features[name] = _features(folder, f"{name}/")
        if any(each != features[names[0]] for each in features.values()):
            raise DataError(f"{folder.root}: its splits have different columns; save those that belong together")
        return _Stored(folder=folder, files=files, features=features[names[0]])
    if (folder.root / "state.json").exists():
        return _Stored(folder=folder, files={"train": _saved_files(folder, "")}, features=_features(folder, ""))
    if (folder.root / "dataset_info.json").exists():
        return _cached(folder)
    raise folder.unavailable("it holds neither dataset_dict.json nor state.json")


def _saved_files(folder: Folder, below: str) -> tuple[str, ...]:
    path = f"{below}state.json"
    told = folder.json(path)
    if not isinstance(told, dict) or told.get("_indices_data_files"):
        raise DataError(f"{path} is of an old version, or selects rows; save it again after flatten_indices()")
    try:
        names = tuple(f"{below}{item['filename']}" for item in told["_data_files"])
    except (KeyError, TypeError):
        raise DataError(f"{path} names no data files; save the dataset again") from None
    folder.statuses([(name, path) for name in names])
    return names


def _cached(folder: Folder) -> _Stored:
    files: dict[str, list[str]] = {}
    for name in folder.walk("", ".arrow"):
        named = _CACHE_FILE.fullmatch(name)
        if named:
            files.setdefault(named["split"], []).append(name)
    if not files:
        raise folder.unavailable("it holds no .arrow files")
    return _Stored(
        folder=folder,
        files={split: tuple(sorted(names)) for split, names in files.items()},
        features=_features(folder, ""),
    )


def _features(folder: Folder, below: str) -> dict[str, Mapping[str, Any]]:
    path = f"{below}dataset_info.json"
    told = folder.json(path)
    features = told.get("features") if isinstance(told, dict) else None
    if not (isinstance(features, dict) and features):
        raise DataError(f"{path} describes no columns; save the dataset again")
    return {
        name: feature if isinstance(feature, dict) else {"_type": "List", "feature": feature}
        for name, feature in features.items()
    }


# What it holds


def _read(pyarrow: Any, stored: _Stored, split: str) -> Any:
    """Map a split's files into memory as one table, its offsets checked.

    Raises:
        DataError: a file is no Arrow stream, is compressed, or has other columns.
    """
    tables = []
    for name in stored.files[split]:
        path = stored.folder.root / name
        _check_whole(path, name)
        try:
            with pyarrow.memory_map(str(path)) as source:
                for message in pyarrow.ipc.MessageReader.open_stream(source):
                    if _is_compressed(message.metadata.to_pybytes()):
                        raise DataError(f"{name} is compressed, which the library never does; save the dataset again")
                source.seek(0)
                table = pyarrow.ipc.open_stream(source).read_all()
                table.validate(full=True)
                tables.append(table)
        except (pyarrow.ArrowException, OSError, ValueError, TypeError, IndexError, struct.error) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise DataError(f"{name} cannot be read as an Arrow stream ({reason}); save the dataset again") from None
        lacking = [column for column in stored.features if column not in tables[-1].column_names]
        if lacking:
            raise DataError(f"{name} lacks the column {lacking[0]!r} that dataset_info.json names; save it again")
    return pyarrow.concat_tables(tables)


def _check_whole(path: Path, name: str) -> None:
    """Check that a stream was written to its end: cut between two batches, it would read as a smaller dataset."""
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - len(_END_OF_STREAM)))
        if stream.read() != _END_OF_STREAM:
            raise DataError(f"{name} cannot be read as an Arrow stream (it is cut short); save the dataset again")


def _is_compressed(metadata: bytes) -> bool:
    """Whether an Arrow message says that its body is compressed, so that it may unpack to any size.

    The message is a FlatBuffer (Arrow's Message.fbs): a table's fields are found by offsets in its vtable.
    """

    def place(table: int, number: int) -> int:
        vtable = table - struct.unpack_from("<i", metadata, table)[0]
        slot = 4 + 2 * number
        size = struct.unpack_from("<H", metadata, vtable)[0]
        offset = struct.unpack_from("<H", metadata, vtable + slot)[0] if slot < size else 0
        return table + offset if offset else 0

    def follow(at: int) -> int:
        return at + int(struct.unpack_from("<I", metadata, at)[0])

    message = follow(0)
    kind, header = place(message, 1), place(message, 2)
    if not (kind and header) or metadata[kind] not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return False
    batch = follow(header)
    if metadata[kind] == _DICTIONARY_BATCH:
        batch = follow(place(batch, 1))
    return bool(place(batch, 3))


def _split_names(stored: _Stored, known: Mapping[str, str]) -> dict[Split, str]:
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


def _check_columns(stored: _Stored, declared: Mapping[str, str]) -> None:
    for name, value in declared.items():
        column = value.rpartition(":")[0] if value not in stored.features and ":" in value else value
        if column not in stored.features:
            raise _no_column(stored, column, f"the modality {name!r}")


def _no_column(stored: _Stored, column: str, purpose: str) -> UsageError:
    return UsageError(
        f"the dataset has no column {column!r} for {purpose}; it has {', '.join(stored.features)}."
        f"{did_you_mean(column, stored.features)}"
    )


def _ids(stored: _Stored, columns: Mapping[str, Any], known: Mapping[str, str], usual: list[str]) -> list[str]:
    if "id" not in known:
        return usual
    if known["id"] not in stored.features:
        raise _no_column(stored, known["id"], "ids")
    ids = [str(value) for table in columns[known["id"]] for value in table.to_pylist()]
    if len(set(ids)) < len(ids) or not all(ids):
        raise DataError(f"the column {known['id']!r} has empty or repeated ids; leave [id=…] out to count rows")
    return ids


def _labels(stored: _Stored, columns: Mapping[str, Any], named: str) -> tuple[TaskSpec, Sequence[Any]]:
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


def _sources(stored: _Stored, declared: Mapping[str, str], known: Mapping[str, str]) -> dict[str, tuple[str, Kind]]:
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


def _reader(column: Any, name: str, kind: Kind, max_seconds: float) -> Read:
    """Return what decodes a row of a column, None where it holds nothing."""

    def read(row: int) -> Any:
        value = column[row].as_py()
        where = f"row {row} of {name!r}"
        if value is None:
            return None
        if kind == "text":
            return str(value)
        if kind == "image":
            return read_image(_embedded(value, where), where, channels=3)
        if kind == "audio":
            return read_audio(_embedded(value, where), where, max_seconds=max_seconds)
        try:
            array = np.asarray(value, dtype=np.float32)
        except (ValueError, TypeError):
            raise DataError(f"{where} holds no numbers of one shape; leave the column out") from None
        return array.reshape(-1) if kind == "tabular" else array.reshape(len(array), -1)

    return read


def _embedded(value: Any, where: str) -> Embedded:
    content = value.get("bytes") if isinstance(value, dict) else value
    path = str(value.get("path") or "") if isinstance(value, dict) else ""
    if not isinstance(content, bytes):
        raise DataError(
            f"{where} is kept outside the dataset ({path[:80]!r}); save it again: save_to_disk() takes files in"
        )
    return Embedded(Path(path).name or where, content)
