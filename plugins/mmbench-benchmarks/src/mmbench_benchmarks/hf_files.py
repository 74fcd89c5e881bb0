"""Where Hugging Face's library keeps a dataset, and its Arrow files: found, checked and mapped into memory."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbench.errors import DataError, Unavailable, UsageError
from mmbench_benchmarks.folder import Folder, Published

_PUBLISHED = Published(
    name="hf",
    title="the Hugging Face dataset",
    origin="its hub, where there is a network: datasets.load_dataset(NAME).save_to_disk(PATH)",
    layout="what save_to_disk wrote",
)
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # in Arrow's Message.fbs
#: NAME-SPLIT.arrow, in parts or whole; cache-HASH.arrow is what somebody computed from the dataset.
_CACHE_FILE = re.compile(r"(?!cache-).*-(?P<split>\w+?)(-\d{5}-of-\d{5})?\.arrow")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A dataset as it lies on disk.

    Attributes:
        folder: Where.
        files: Arrow files by the name of their split.
        features: Each column's type, as the library describes it.
    """

    folder: Folder
    files: Mapping[str, tuple[str, ...]]
    features: Mapping[str, Mapping[str, Any]]


def require_pyarrow() -> Any:
    """Return pyarrow, its reader of streams imported.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise Unavailable(
            "datasets of Hugging Face are read by pyarrow: pip install 'mmbench-benchmarks[hf]'"
        ) from None
    return pyarrow


def accepts(path: str) -> bool:
    """Whether a path is a folder that the library saved or cached a dataset in."""
    place = Path(path).expanduser()
    return any((place / name).is_file() for name in ("dataset_dict.json", "state.json")) or (
        (place / "dataset_info.json").is_file() and any(place.glob("*.arrow"))
    )


def find_stored(target: str, known: Mapping[str, str]) -> Stored:
    """Find a dataset in a folder or in the library's cache.

    Args:
        target: The folder, or the dataset's name.
        known: Options; "config" chooses among datasets of one name.

    Raises:
        Unavailable: it is in neither.
        UsageError: the cache holds several.
        DataError: its description is broken, or names files that are not there.
    """
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


def _saved(folder: Folder) -> Stored:
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
        return Stored(folder=folder, files=files, features=features[names[0]])
    if (folder.root / "state.json").exists():
        return Stored(folder=folder, files={"train": _saved_files(folder, "")}, features=_features(folder, ""))
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


def _cached(folder: Folder) -> Stored:
    files: dict[str, list[str]] = {}
    for name in folder.walk("", ".arrow"):
        named = _CACHE_FILE.fullmatch(name)
        if named:
            files.setdefault(named["split"], []).append(name)
    if not files:
        raise folder.unavailable("it holds no .arrow files")
    return Stored(
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


#: A row of booleans takes a bit.
_MOST_ROWS_PER_BYTE = 8


def read_table(pyarrow: Any, stored: Stored, split: str) -> Any:
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
                stream = pyarrow.ipc.open_stream(source)
                _check_types(pyarrow, stream.schema, name)
                table = stream.read_all()
                if table.num_rows > _MOST_ROWS_PER_BYTE * path.stat().st_size:
                    raise DataError(f"{name} claims {table.num_rows:,} rows, more than its bytes hold; save it again")
                table.validate(full=True)
                tables.append(table)
        except (pyarrow.ArrowException, OSError, ValueError, TypeError, IndexError, struct.error) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise DataError(f"{name} cannot be read as an Arrow stream ({reason}); save the dataset again") from None
        lacking = [column for column in stored.features if column not in tables[-1].column_names]
        if lacking:
            raise DataError(f"{name} lacks the column {lacking[0]!r} that dataset_info.json names; save it again")
    return pyarrow.concat_tables(tables)


def _check_types(pyarrow: Any, schema: Any, name: str) -> None:
    """Refuse columns in which rows may share values, so that they unpack to any size; the library writes none.

    Raises:
        DataError: there is one.
    """
    types = pyarrow.types
    waiting = [(field.name, field.type) for field in schema]
    while waiting:
        column, kind = waiting.pop()
        if isinstance(kind, pyarrow.BaseExtensionType):
            waiting.append((column, kind.storage_type))
        elif (
            types.is_dictionary(kind)
            or types.is_run_end_encoded(kind)
            or re.fullmatch(r"(large_)?list_view<.*>|(string|binary)_view", str(kind))
        ):
            raise DataError(
                f"{name}: the column {column!r} is of the type {str(kind)[:80]}, which the library never writes; cast "
                "it to plain values and save the dataset again"
            )
        elif types.is_nested(kind):
            waiting += [(column, kind.field(place).type) for place in range(kind.num_fields)]


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
