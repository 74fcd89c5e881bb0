"""A split by time: train is the past, test the future, and rows of one time stay together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from mmbench.data import SPLITS, Split
from mmbench.errors import DataError
from mmbench_datasets.cells import number
from mmbench_datasets.faults import Faults
from mmbench_datasets.moments import as_iso, date_order
from mmbench_datasets.split_shares import Shares
from mmbench_datasets.table import Table


def read_times(table: Table, column: str, cells: Sequence[str], faults: Faults) -> list[float]:
    """Return the time of each row: numbers as they are, dates and times as seconds since 1970.

    Dates are written as in ISO 8601, or in one order that the column's cells decide: see `date_order`.

    A time without a zone is taken for UTC. Rows whose time cannot be read are faults, and have 0.
    """
    numeric = all(number(cell.strip()) is not None for cell in cells)
    order = None if numeric else date_order(cells)
    times = []
    for row, cell in enumerate(cells):
        value = number(cell.strip()) if numeric else _seconds(as_iso(cell.strip(), order))
        if value is None:
            faults.add(
                row,
                f"{table.where(row)}: the time (column {column!r}) is {cell!r}; write numbers in all rows, or dates "
                "and times such as 2024-03-31 or 2024-03-31T12:30:00",
            )
        times.append(value or 0.0)
    return times


def temporal_split(table: Table, column: str, times: Sequence[float], shares: Shares) -> dict[Split, list[int]]:
    """Return the rows of each split: the earliest are train, the latest test, those between val.

    The borders lie between two different times, where the sizes are closest to the shares.

    Raises:
        DataError: fewer than three different times.
    """
    order = sorted(range(len(times)), key=lambda row: (times[row], row))
    starts = [at for at in range(1, len(order)) if times[order[at]] != times[order[at - 1]]]
    if len(starts) < 2:
        raise DataError(
            f"{table.path.name}: the column {column!r} has {len(starts) + 1} different times, and a split by time "
            "needs three or more"
        )
    wanted_test = (1 - shares.test) * len(order)
    test = min(starts[1:], key=lambda at: abs(at - wanted_test))
    wanted_val = (1 - shares.test - shares.val) * len(order)
    val = min((at for at in starts if at < test), key=lambda at: abs(at - wanted_val))
    bounds = (0, val, test, len(order))
    return {split: sorted(order[low:high]) for split, low, high in zip(SPLITS, bounds, bounds[1:])}


def period(cells: Sequence[str], times: Sequence[float], rows: Sequence[int]) -> str:
    """Return the first and the last time of some rows, as the table writes them."""
    first, last = min(rows, key=lambda row: times[row]), max(rows, key=lambda row: times[row])
    return cells[first].strip() if times[first] == times[last] else f"{cells[first].strip()} to {cells[last].strip()}"


def _seconds(cell: str) -> float | None:
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
