"""Several tables of the same columns as one, each a split."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from mmbench.errors import DataError
from mmbench_datasets.lazy_sequence import LazySequence
from mmbench_datasets.table import Table


class Joined(LazySequence[Any]):
    """Sequences one after the other."""

    def __init__(self, items: Sequence[Sequence[Any]]) -> None:
        self._items = items
        self._ends = list(accumulate(len(each) for each in items))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self._items)

    def item(self, position: int) -> Any:
        """Return the item at a position of all sequences together."""
        which = bisect_right(self._ends, position)
        return self._items[which][position - (self._ends[which - 1] if which else 0)]


def join_tables(folder: Path, tables: Sequence[Table], splits: Sequence[str]) -> Table:
    """Return tables as one.

    Args:
        folder: What they lie in, where paths start from.
        tables: At least one.
        splits: Of each table.

    Raises:
        DataError: their columns differ.
    """
    first = tables[0]
    for table in tables[1:]:
        differing = set(table.columns) ^ set(first.columns)
        if differing:
            name = min(differing)
            lacking, having = (table, first) if name in first.columns else (first, table)
            raise DataError(
                f"{lacking.path.name} has no column {name!r}, which {having.path.name} has: the tables of a folder are "
                "splits of one dataset; give them the same columns, or name one file"
            )
        if set(table.values) != set(first.values) or dict(table.class_names) != dict(first.class_names):
            raise DataError(f"{table.path.name} and {first.path.name} hold columns of different types; save them alike")
    begins = [0, *accumulate(len(table) for table in tables)]
    digest = hashlib.sha256("".join(f"{split} {table.digest}\n" for split, table in zip(splits, tables)).encode())
    several = len(set(splits)) > 1
    return Table(
        path=folder,
        root=folder.resolve(),
        digest=digest.hexdigest(),
        columns={name: Joined([table.columns[name] for table in tables]) for name in first.columns},
        values={name: Joined([table.values[name] for table in tables]) for name in first.values},
        class_names=first.class_names,
        kinds=first.kinds,
        parts=[part for table in tables for part in table.parts],
        splits=[split for split, table in zip(splits, tables) for _ in range(len(table))] if several else (),
        row_faults={
            begin + row: reason for begin, table in zip(begins, tables) for row, reason in table.row_faults.items()
        },
        notes=tuple(dict.fromkeys(note for table in tables for note in table.notes)),
    )
