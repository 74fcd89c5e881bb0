"""Which rows have a modality, and whether train, val and test all show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmbench.data import SPLITS, Split
from mmbench.errors import DataError
from mmbench_datasets.cells import is_unknown
from mmbench_datasets.features import Feature
from mmbench_datasets.modalities import Source
from mmbench_datasets.table import Table
from mmbench_datasets.vectors import ParsedCells

_EMPTY = (None, [], {}, b"")


def present_rows(table: Table, source: Source) -> list[bool]:
    """Return for each row whether it has a modality: a table where any of its values is known."""
    if source.paths:
        return [bool(path) for path in source.paths]
    if source.features:
        known = [_known(table, feature) for feature in source.features]
        return [any(row) for row in zip(*known)]
    (column,) = source.columns
    if source.form == "vectors" and column not in table.values:
        return [item not in _EMPTY for item in ParsedCells(table.columns[column])]
    if column in table.values and source.form != "cells":
        return [item not in _EMPTY and item != {"bytes": None, "path": None} for item in table.values[column]]
    return [bool(cell.strip()) for cell in table.columns[column]]


def _known(table: Table, feature: Feature) -> Sequence[bool]:
    cells = table.columns[feature.column]
    if feature.words:
        return [bool(feature.spellings.get(cell.strip(), cell.strip())) for cell in cells]
    if feature.vector:
        return [bool(cell.strip()) for cell in cells]
    return [not is_unknown(cell) for cell in cells]


def check_presence(
    table: Table, present: Mapping[str, Sequence[bool]], rows: Mapping[Split, Sequence[int]]
) -> list[str]:
    """Return warnings about modalities that no row of val or test has.

    Args:
        table: The rows.
        present: By modality, which rows have it.
        rows: By split.

    Raises:
        DataError: no row of train has a modality.
    """
    notes = []
    for name, has in present.items():
        if not any(has[row] for row in rows["train"]):
            raise DataError(
                f"{table.path.name}: no row of train has {name!r} ({len(rows['train'])} rows), so nothing can be "
                "learned of it; leave it out, or move rows with it to train"
            )
        notes += [
            f"warning: no row of {split} has {name!r} ({len(rows[split])} rows); "
            "scores of that modality alone say nothing there"
            for split in SPLITS[1:]
            if not any(has[row] for row in rows[split])
        ]
    return notes
