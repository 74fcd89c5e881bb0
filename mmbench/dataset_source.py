"""A dataset read once: opened, indexed, and transformed into cached arrays."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from mmbench.cache import ArrayCache
from mmbench.columns import Column, Transform, make_changed_column, make_columns
from mmbench.data import SPLITS, Sample, Split
from mmbench.data_versions import index_key
from mmbench.dataset_index import Index, make_index, read_index
from mmbench.errors import ContractError, DataError
from mmbench.spec import DatasetInfo, Modality


class DatasetSource:
    """A dataset plugin's splits, opened only when something is not in the cache yet.

    Args:
        info: Modalities and tasks.
        key: Content key of the dataset: reference, version, options and fingerprint.
        open_splits: Calls the plugin's factory.
        cache: Where indices and columns are kept.
    """

    def __init__(
        self, info: DatasetInfo, key: str, open_splits: Callable[[], Mapping[str, Any]], cache: ArrayCache
    ) -> None:
        self.info = info
        self.key = key
        self._open_splits = open_splits
        self._cache = cache

    @cached_property
    def splits(self) -> Mapping[Split, Sequence[Sample]]:
        """The plugin's splits.

        Raises:
            ContractError: they are not three sequences called train, val and test.
            DataError: one of them is empty.
        """
        opened = self._open_splits()
        if not isinstance(opened, Mapping) or set(opened) != set(SPLITS):
            got = ", ".join(map(str, opened)) if isinstance(opened, Mapping) else repr(type(opened).__name__)
            raise ContractError(f"a dataset must give the splits train, val and test; got {got}")
        for split in SPLITS:
            if not (hasattr(opened[split], "__len__") and hasattr(opened[split], "__getitem__")):
                raise ContractError(f"split {split!r} must be a sequence of Sample, got {type(opened[split]).__name__}")
            if not len(opened[split]):
                raise DataError(f"split {split!r} is empty; mmbench trains on train, chooses on val and reports test")
        return {split: opened[split] for split in SPLITS}

    @cached_property
    def index(self) -> Index:
        """Sample ids, targets and facts, checked; from the cache where it has them."""
        arrays = self._cache.get_or_make(index_key(self.key), lambda: make_index(self.info, self.splits))
        return read_index(self.info, arrays)

    @property
    def cached_index(self) -> Index | None:
        """The index where the cache has it, else None; nothing is opened."""
        arrays = self._cache.get(index_key(self.key))
        return None if arrays is None else read_index(self.info, arrays)

    def modality(self, name: str) -> Modality:
        """Return a modality with its facts completed from the data.

        Raises:
            DataError: no sample of train has it, some inputs cannot be read, or vectors differ in width.
        """
        declared = self._declared(name)
        if name in self.index.faults:
            raise DataError(self.index.faults[name])
        return dataclasses.replace(declared, facts={**self.index.facts.get(name, {}), **declared.facts})

    def columns(self, modality: str, transform: Transform, transform_key: str) -> dict[Split, Column]:
        """Return one modality of every split after `transform`, from the cache where it has it."""
        key = f"column/{self.key}/{_digest([modality, transform_key])}"
        arrays = self._cache.get_or_make(key, lambda: make_columns(self.splits, self._declared(modality), transform))
        return {split: Column.from_arrays(arrays, f"{split}.") for split in SPLITS}

    def changed_column(
        self,
        modality: str,
        transform: Transform,
        key: str,
        change: Callable[[str, Any], Any],
        positions: Sequence[int],
    ) -> Column:
        """Return one modality of some test samples, changed before `transform`; cached under a key of its own.

        Args:
            modality: Which.
            transform: The encoder's.
            key: Names transform and change by what they do.
            change: (sample_id, canonical input) -> canonical input.
            positions: In the test split.
        """
        arrays = self._cache.get_or_make(
            f"column/{self.key}/{_digest([modality, key, list(positions)])}",
            lambda: make_changed_column(self.splits["test"], positions, self._declared(modality), transform, change),
        )
        return Column.from_arrays(arrays)

    def train_values(self, modality: str, positions: Sequence[int]) -> list[Any]:
        """Return one modality of some training samples as the dataset gives it; those that lack it are left out."""
        found = [self.splits["train"][position].inputs.get(modality) for position in positions]
        return [value for value in found if value is not None]

    def test_values(self, modality: str, positions: Sequence[int]) -> list[Any]:
        """Return one modality of some test samples as the dataset gives it, None where a sample lacks it."""
        return [self.splits["test"][position].inputs.get(modality) for position in positions]

    def _declared(self, name: str) -> Modality:
        return next(modality for modality in self.info.modalities if modality.name == name)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]
