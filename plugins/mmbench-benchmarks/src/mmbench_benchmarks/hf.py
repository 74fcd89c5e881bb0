"""Any dataset that Hugging Face's library saved to disk or keeps in its cache, read offline from its Arrow files.

The library itself is not needed: its files are Arrow streams beside a JSON description. Options name columns as in
`manifest`: ``image=img`` makes the modality "image" from the column "img". ``config``, ``train``, ``val`` and ``test``
choose among what is stored. Without modalities, the columns of pictures, sounds, lists of numbers and texts are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmbench_datasets.arrow_table import arrow_columns
from mmbench_datasets.lazy import LazySamples
from mmbench_datasets.manifest import RESERVED, Manifest, understand
from mmbench_datasets.records import open_records
from mmbench_datasets.subgroups import subgroups_of
from mmbench_datasets.table import Part, Table

from mmbench.data import SPLITS, Split
from mmbench.errors import DataError, UsageError, did_you_mean
from mmbench.spec import DatasetInfo
from mmbench_benchmarks.corpus import fingerprint
from mmbench_benchmarks.hf_files import Stored, find_stored, read_table, require_pyarrow

_RESERVED = (*(name for name in RESERVED if name not in ("root", "encoding")), "config", "train", "val", "test")
_SPLIT_WORDS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("validation", "val", "valid", "dev"),
    "test": ("test",),
}


def describe_hf(target: str, **options: Any) -> DatasetInfo:
    """Return what planning must know; the column of labels is read. See `open_hf`."""
    return replace(_understood(target, options).info(), title=Path(target).name)


def open_hf(root: Path, /, *, target: str, **options: Any) -> dict[Split, LazySamples]:
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
        DataError: its files are broken, or a row is.
    """
    return open_records(_understood(target, options))


def read_hf_subgroups(target: str, columns: Sequence[str], /, **options: Any) -> dict[str, dict[str, str]]:
    """Return the subgroups of test samples by the values of columns; see `mmbench_datasets.subgroups`.

    Raises:
        UsageError: a column is not there, or has too many different values.
    """
    return subgroups_of(_understood(target, options), columns)


def _understood(target: str, options: Mapping[str, Any]) -> Manifest:
    known = {name: str(value) for name, value in options.items()}
    return understand(_stored_table(target, known), known, dataset="hf", reserved=_RESERVED)


def _stored_table(target: str, known: Mapping[str, str]) -> Table:
    """Return the rows of the chosen splits, mapped into memory."""
    pyarrow = require_pyarrow()
    stored = find_stored(target, known)
    names = _split_names(stored, known)
    tables = {split: read_table(pyarrow, stored, name) for split, name in names.items()}
    wanted = list(stored.features)
    try:
        joined = pyarrow.concat_tables([table.select(wanted) for table in tables.values()])
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{stored.folder.root}: its splits have different columns ({str(error)[:120]}); save those that belong "
            "together"
        ) from None
    if not len(joined):
        raise DataError(f"{stored.folder.root} has no rows; save the dataset again")
    found = arrow_columns(joined, stored.features)
    return Table(
        path=stored.folder.root,
        root=stored.folder.root,
        digest=fingerprint(stored.folder, [path for name in names.values() for path in stored.files[name]], {}),
        columns=found.columns,
        values=found.values,
        class_names=found.class_names,
        kinds=found.kinds,
        parts=[Part(name=names[split], word="row", numbers=range(len(table))) for split, table in tables.items()],
        ids=[f"{names[split]}-{row:06}" for split, table in tables.items() for row in range(len(table))],
        splits=[split for split, table in tables.items() for _ in range(len(table))] if len(tables) > 1 else (),
    )


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
    return found
