"""Samples that decode an input only when it is asked for, one modality at a time, and keep nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from mmbench.data import Sample, summary_of
from mmbench.input_statistics import InputSummary

#: What gives one modality of a row, or None where the row lacks it.
Read: TypeAlias = Callable[[int], Any]


class LazyInputs(Mapping[str, Any]):
    """The inputs of one row; each access decodes anew and keeps nothing.

    A reader may have a method ``summary(row)`` that reads a header alone.
    """

    def __init__(self, readers: Mapping[str, Read], row: int) -> None:
        self._readers = readers
        self._row = row

    def __getitem__(self, modality: str) -> Any:
        return self._readers[modality](self._row)

    def summary(self, modality: str) -> InputSummary | None:
        """Return what is known of an input without decoding it, None where the row lacks it."""
        reader = self._readers[modality]
        summarize = getattr(reader, "summary", None)
        if summarize is not None:
            found: InputSummary | None = summarize(self._row)
            return found
        value = reader(self._row)
        return None if value is None else summary_of(value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


class LazySamples(Sequence[Sample]):
    """Some rows of a dataset.

    Args:
        rows: Which, in order.
        ids: Of all rows.
        targets: By task, of all rows.
        readers: By modality.
        groups: Of all rows; "" for a row that stands alone. Empty where there are none.
        weights: Of all rows; empty where all are 1.
    """

    def __init__(
        self,
        rows: Sequence[int],
        *,
        ids: Sequence[str],
        targets: Mapping[str, Sequence[Any]],
        readers: Mapping[str, Read],
        groups: Sequence[str] = (),
        weights: Sequence[float] = (),
    ) -> None:
        self._groups = groups
        self._weights = weights
        self._rows = rows
        self._ids = ids
        self._targets = targets
        self._readers = readers

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self[each] for each in range(*position.indices(len(self)))]
        row = self._rows[position]
        return Sample(
            sample_id=self._ids[row],
            inputs=LazyInputs(self._readers, row),
            targets={task: values[row] for task, values in self._targets.items()},
            group=self._groups[row] if self._groups else "",
            weight=self._weights[row] if self._weights else 1.0,
        )
