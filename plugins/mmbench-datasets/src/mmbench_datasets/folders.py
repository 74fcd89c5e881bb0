"""A folder as a table: one table in it, a table for each split, or a folder for each class."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmbench.data import Split
from mmbench.errors import DataError, UsageError
from mmbench_datasets.joined_tables import join_tables
from mmbench_datasets.modalities import ARRAY_ENDINGS, MEDIA_ENDINGS, ending_of
from mmbench_datasets.read_table import ENDINGS, read_table
from mmbench_datasets.splits import split_of_word
from mmbench_datasets.table import Part, Table

#: Tables that say something about a folder and are no samples.
_NO_TABLES = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "package.json")
#: "train-00000-of-00002.parquet", "validation.csv", "test_1.jsonl"
_SPLIT_FILE = re.compile(r"(?P<split>[a-z]+)([-_.].*)?", re.IGNORECASE)
_MOST_FILES = 5_000_000
_MOST_LISTED = 10
_MOST_LOOKED_AT = 10_000


def accepts(path: str) -> bool:
    """Whether a path is a table, or a folder with tables or class folders."""
    place = Path(path).expanduser()
    if place.is_dir():
        saved = any((place / name).exists() for name in ("dataset_dict.json", "state.json"))
        return not saved and (bool(_tables_in(place)) or _has_class_folders(place))
    return place.suffix.lower() in ENDINGS and place.is_file()


def read_folder(target: str, *, encoding: str = "") -> Table:
    """Read a folder as a table.

    It may hold one table; tables named after splits, in it, in "data" or in its only folder with tables, as
    repositories of the Hugging Face hub do; or a folder of media for each class, with folders for splits above them
    or without.

    Raises:
        UsageError: it holds several tables that are no splits.
        DataError: it holds neither, or its files cannot be read.
    """
    folder = Path(target).expanduser()
    tables = _tables_in(folder)
    if not tables:
        return _class_folders(folder)
    splits = [_split_of(path) for path in tables]
    if all(splits):
        return join_tables(folder, [read_table(str(path), encoding=encoding) for path in tables], splits)  # type: ignore[arg-type]
    if len(tables) == 1:
        return read_table(str(tables[0]), encoding=encoding)
    listed = ", ".join(str(path.relative_to(folder)) for path in tables[:_MOST_LISTED])
    raise UsageError(
        f"the folder {target!r} holds {len(tables)} tables ({listed}); name one of them, as in {tables[0]}, or call "
        "them after their splits: train.csv, val.csv, test.csv"
    )


def _tables_in(folder: Path) -> list[Path]:
    """Return the tables of a folder, of its folder "data", or of the only one of its folders that has any."""
    here = _tables_of(folder)
    if here:
        return here
    below = [found for entry in sorted(_folders(folder)) if (found := _tables_of(entry))]
    return below[0] if len(below) == 1 else next((found for found in below if found[0].parent.name == "data"), [])


def _tables_of(folder: Path) -> list[Path]:
    try:
        return sorted(
            entry
            for entry in folder.iterdir()
            if entry.suffix.lower() in ENDINGS
            and not entry.name.startswith(".")
            and entry.name not in _NO_TABLES
            and entry.is_file()
        )
    except OSError:
        return []


def _folders(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return []


def _split_of(path: Path) -> Split | None:
    named = _SPLIT_FILE.fullmatch(path.stem)
    return split_of_word(named["split"]) if named else None


def _has_class_folders(folder: Path) -> bool:
    return any(_media_in(entry) for entry in _folders(folder)[:_MOST_LISTED])


def _media_in(folder: Path) -> bool:
    looked_at = 0
    for _, folders, names in os.walk(folder):
        if any(ending_of(name) in (*MEDIA_ENDINGS, *ARRAY_ENDINGS) for name in names):
            return True
        looked_at += len(names) + len(folders)
        if looked_at > _MOST_LOOKED_AT:
            break
    return False


def _class_folders(folder: Path) -> Table:
    """Return a table of the files below class folders; files of one name and several kinds are one sample."""
    paths, others = _files_below(folder)
    if not paths:
        raise DataError(
            f"{folder} holds neither a table ({', '.join(ENDINGS)}) nor media in folders named after their classes"
        )
    tops = {path.split("/", 1)[0] for path in paths}
    split_of = {top: split for top in tops if (split := split_of_word(top))}
    splits = set(split_of)
    has_splits = len(tops) > 1 and splits == tops
    if splits != tops and "train" in split_of.values() and len(set(split_of.values())) > 1:
        raise DataError(
            f"{folder}: the folders {', '.join(sorted(splits))} are splits, and {', '.join(sorted(tops - splits))} "
            f"{'is none' if len(tops - splits) == 1 else 'are none'}; move what is no split out of the folder, or "
            "call it after one: train, val or test"
        )
    depth = 2 if has_splits else 1
    samples = _samples(paths)
    kinds = sorted({kind for files in samples.values() for kind in files})
    keys = list(samples)
    columns: dict[str, Sequence[str]] = {"id": keys}
    if has_splits:
        columns["split"] = [key.split("/", 1)[0] for key in keys]
    columns["label"] = ["/".join(key.split("/")[depth - 1 : depth]) if key.count("/") >= depth else "" for key in keys]
    columns.update({kind: [samples[key].get(kind, "") for key in keys] for kind in kinds})
    faults = {
        row: f"{folder.name}/{key} lies in no class folder; put it into one, or take it away"
        for row, key in enumerate(keys)
        if not columns["label"][row]
    }
    notes = ["labels: the names of the folders" + (f" below {', '.join(sorted(tops))}" if has_splits else "")]
    if others:
        endings = ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in others.most_common(5))
        notes.append(f"files of other kinds are not used: {endings}")
    return Table(
        path=folder,
        root=folder.resolve(),
        digest=hashlib.sha256("\n".join(paths).encode("utf-8", "surrogateescape")).hexdigest(),
        columns=columns,
        parts=(Part(name=folder.name, word="file", numbers=keys),),
        row_faults=faults,
        notes=tuple(notes),
    )


def _files_below(folder: Path) -> tuple[list[str], Counter[str]]:
    """Return the relative paths of all media, and how many other files there are, by ending."""
    paths: list[str] = []
    others: Counter[str] = Counter()
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        for name in names:
            if name.startswith(".") or name == "Thumbs.db":
                continue
            if ending_of(name) in (*MEDIA_ENDINGS, *ARRAY_ENDINGS):
                paths.append(name if below == "." else f"{below}/{name}")
            else:
                others[ending_of(name)] += 1
        if len(paths) > _MOST_FILES:
            raise DataError(f"{folder} holds more than {_MOST_FILES:,} files; divide it")
    return sorted(paths), others


def _samples(paths: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the files of each sample by kind: those of one name without its ending, if no kind stands there twice."""
    by_stem: dict[str, list[str]] = {}
    for path in paths:
        by_stem.setdefault(path.rsplit(".", 1)[0], []).append(path)
    samples: dict[str, dict[str, str]] = {}
    for stem, together in by_stem.items():
        kinds = [_kind(path) for path in together]
        if len(set(kinds)) == len(kinds):
            samples[stem] = dict(zip(kinds, together))
        else:
            samples.update({path: {kind: path} for kind, path in zip(kinds, together)})
    return samples


def _kind(path: str) -> str:
    return str(MEDIA_ENDINGS.get(ending_of(path), "features"))
