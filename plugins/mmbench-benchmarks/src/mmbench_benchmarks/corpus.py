"""A published dataset, understood: what planning must know of it, and its samples, decoded when asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmbench_datasets.filehash import hash_files
from mmbench_datasets.lazy import LazySamples, Read
from mmbench_datasets.splits import split_groups

from mmbench.data import SPLITS, Split
from mmbench.errors import DataError
from mmbench.spec import DatasetInfo, Modality, TaskSpec
from mmbench_benchmarks.folder import Folder


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A dataset's rows.

    Attributes:
        folder: Where it lies.
        modalities, tasks, missing: As in `DatasetInfo`.
        rows: Numbers of rows by split.
        ids: Of every row.
        targets: Of every row, by task.
        readers: What decodes a row, by modality.
        groups: Of every row, as in `Sample.group`; empty where there are none.
        annotations: Small files that decide what samples are; their content is in the fingerprint.
        media: Large files; their names and sizes are in the fingerprint.
        check: Called with the name of an annotation file that was not seen before.
    """

    folder: Folder
    modalities: tuple[Modality, ...]
    tasks: tuple[TaskSpec, ...]
    rows: Mapping[Split, Sequence[int]]
    ids: Sequence[str]
    targets: Mapping[str, Sequence[Any]]
    readers: Mapping[str, Read]
    missing: tuple[str, ...] = ()
    groups: Sequence[str] = ()
    annotations: Sequence[str] = ()
    media: Mapping[str, os.stat_result] = field(default_factory=dict)
    check: Callable[[str], None] = lambda name: None

    def info(self) -> DatasetInfo:
        """Return what planning must know.

        Raises:
            DataError: a split is empty.
        """
        self._check_splits()
        return DatasetInfo(
            modalities=self.modalities,
            tasks=self.tasks,
            missing=self.missing,
            fingerprint=fingerprint(self.folder, self.annotations, self.media, self.check),
        )

    def splits(self) -> dict[Split, LazySamples]:
        """Return the samples.

        Raises:
            DataError: a split is empty.
        """
        self._check_splits()
        return {
            split: LazySamples(
                self.rows[split], ids=self.ids, targets=self.targets, readers=self.readers, groups=self.groups
            )
            for split in SPLITS
        }

    def _check_splits(self) -> None:
        for split in SPLITS:
            if not self.rows[split]:
                raise DataError(
                    f"{self.folder.published.title} at {self.folder.root} has no sample for {split!r} "
                    f"({len(self.ids)} in all); unpack its archives whole"
                )


def fingerprint(
    folder: Folder,
    annotations: Sequence[str],
    media: Mapping[str, os.stat_result],
    check: Callable[[str], None] = lambda name: None,
) -> str:
    """Return a hash over the content of annotation files and the names and sizes of media, wherever the folder lies.

    Raises:
        DataError: an annotation file lies outside the folder, cannot be read, or does not pass `check`.
    """
    found = {name: folder.status(name, folder.published.title) for name in annotations}
    files = {name: status for name, status in found.items() if status}
    try:
        total = hashlib.sha256(hash_files(folder.root, files, check).encode())
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}); see to its permissions") from None
    for name in sorted(media):
        total.update(f"{name}\0{media[name].st_size}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def carve_val(
    rows: Sequence[int], strata: Sequence[Any], ids: Sequence[str], *, share: float
) -> dict[Split, list[int]]:
    """Divide train's rows into train and val by class; which row goes where follows from its id.

    Args:
        rows: Of train.
        strata, ids: Of all rows.
        share: Of val.
    """
    divided = split_groups(
        [ids[row] for row in rows], [strata[row] for row in rows], 0, val_share=share, test_share=0.0
    )
    return {split: [rows[position] for position in divided[split]] for split in ("train", "val")}
