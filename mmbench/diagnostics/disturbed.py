"""Disturbed test inputs as a model takes them: raw, changed, transformed, and encoded where features are shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from mmbench.batches import SplitData, some_of
from mmbench.columns import Column, Transform
from mmbench.dataset_source import DatasetSource
from mmbench.diagnostics.noise import VERSION, Array, Corruption, Stats, corrupt, stats_of
from mmbench.spec import Kind

#: Training samples from which the features of tables and sequences are measured.
MAX_STATS_SAMPLES = 2000


class DisturbedInputs:
    """Gives test inputs as `mmbench.diagnostics.robustness` asks for them; each is made once and kept in the cache.

    Args:
        source: The dataset.
        test: The cell's test split, which may be a part of the dataset's.
        transform_of: A modality's transform and the key that names it.
        encode: By modality: what turns a column of inputs into one of features, where the model reads features.
    """

    def __init__(
        self,
        source: DatasetSource,
        test: SplitData,
        transform_of: Callable[[str], tuple[Transform, str]],
        encode: Mapping[str, Callable[[Column], Mapping[str, Array]]],
    ) -> None:
        self.source, self.test, self.transform_of, self.encode = source, test, transform_of, encode
        self.kinds: Mapping[str, Kind] = {item.name: item.kind for item in source.info.modalities}
        self._stats = cache(self._measure)

    def __call__(self, modality: str, corruption: Corruption, severity: float, positions: Sequence[int]) -> Column:
        """Return one modality of some of the cell's test samples under a corruption."""
        transform, key = self.transform_of(modality)
        stats = self._stats(modality) if self.kinds[modality] in ("tabular", "sequence") else None
        rows = self._rows(positions)

        def change(sample_id: str, value: object) -> object:
            return corrupt(value, corruption, severity, seed=f"{modality}/{sample_id}", stats=stats)

        name = f"{key}/{corruption.name}@{severity:g} v{VERSION}"
        column = self.source.changed_column(modality, transform, name, change, rows)
        if modality not in self.encode:
            return column
        return Column.from_arrays(self.encode[modality](column))

    def originals(self, modality: str, positions: Sequence[int]) -> list[Any]:
        """Return one modality of some of the cell's test samples as the dataset gives it; None where one lacks it."""
        return self.source.test_values(modality, self._rows(positions))

    def ids(self, positions: Sequence[int]) -> list[str]:
        """Return the ids of some of the cell's test samples."""
        return [self.source.index.sample_ids["test"][row] for row in self._rows(positions)]

    def _rows(self, positions: Sequence[int]) -> Sequence[int]:
        """Positions in the dataset's own test split."""
        return positions if self.test.subset is None else [int(self.test.subset[position]) for position in positions]

    def _measure(self, modality: str) -> Stats:
        count = len(self.source.index.sample_ids["train"])
        return stats_of(self.source.train_values(modality, some_of(MAX_STATS_SAMPLES, count)))
