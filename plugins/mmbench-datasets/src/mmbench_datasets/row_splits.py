"""Which split each row belongs to: as a column or the files say, by time, or drawn by the seed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mmbench.data import SPLITS, Split
from mmbench.errors import UsageError
from mmbench_datasets.faults import Faults
from mmbench_datasets.labels import Target
from mmbench_datasets.moments import date_order, order_notes
from mmbench_datasets.split_shares import Shares, parse_shares
from mmbench_datasets.splits import (
    check_groups,
    fill_splits,
    generated_split,
    given_split,
    group_names,
    split_of_word,
)
from mmbench_datasets.table import Table
from mmbench_datasets.temporal_split import period, read_times, temporal_split

#: Names of columns that tell a publisher's split in other words, and of those whose rows may belong together.
_LIKE_SPLIT = re.compile(
    r"(.*[_ -])?(fold|split|subset|partition|set|phase|usage|(is[_ -]?)?(train|training|val|validation|test|holdout))"
    r"([_ -].*)?"
)
_LIKE_GROUP = re.compile(
    r"(patient|subject|person|participant|speaker|user|author|session|scene|video|case)s?([_ -]?id)?"
)


@dataclass(frozen=True, kw_only=True)
class SplitColumns:
    """Where splits and groups come from.

    Attributes:
        split: The column of splits, "" for none.
        group: The column of groups, "" for none.
        cells: The split of each row, empty where it is to be drawn.
        shares: Of the splits that are drawn or cut by time.
        time: The column of times that the split follows, "" for none.
        group_asked: Whether an option names the column of groups.
        notes: What was guessed.
    """

    split: str
    group: str
    cells: Sequence[str]
    shares: Shares
    time: str
    group_asked: bool
    notes: tuple[str, ...]

    @property
    def origin(self) -> Literal["given", "drawn", "temporal"]:
        """Where splits come from."""
        return "temporal" if self.time else "given" if self.cells else "drawn"


def split_columns(table: Table, known: Mapping[str, str], faults: Faults) -> SplitColumns:
    """Return where splits and groups come from, and check that every row names a split.

    A column is taken for splits without being asked for if it is called "split", in any case and with blanks around,
    or if it is the only one whose cells all say train, val or test.

    Raises:
        UsageError: an option names a column that is not there, or several columns look like splits.
    """
    notes: list[str] = []
    asked = known.get("split", "")
    split, cells = "", table.splits
    shares = parse_shares(asked) if asked not in table.columns else None
    time = known.get("time", "")
    if time:
        table.column(time, "times")
        if asked and shares is None:
            raise UsageError(
                f"{table.path.name}: time={time} and split={asked} both say how rows are split; give one of them, or "
                "the shares of a split by time, such as [time=" + time + ",split=70/15/15]"
            )
    if shares is not None or time or (asked == "auto" and "auto" not in table.columns):
        cells = ()
    elif asked:
        split, cells = asked, table.column(asked, "splits")
    elif not cells:
        split = table.same_name("split") or _column_of_splits(table)
        cells = table.columns[split] if split else ()
        if split and split != "split":
            notes.append(f"column {split!r} is taken for the split; [split=auto] draws one instead")
    if not cells and asked != "auto" and shares is None and not time:
        like = [column for column in table.columns if _LIKE_SPLIT.fullmatch(column.strip().casefold())]
        notes += [f"column {column!r} is not used for the split: it does not say train, val or test" for column in like]
    group = known.get("group")
    if group is None:
        group = table.same_name("group")
        if group and not cells and not time:
            notes.append(f'column {group!r} is taken for groups that the split keeps whole; [group=""] ignores it')
    elif group:
        table.column(group, "groups")
    if cells:
        given_split(table, split or "of the files", cells, faults)
    return SplitColumns(
        split=split,
        group=group,
        cells=cells,
        shares=shares or Shares(),
        time=time,
        group_asked="group" in known,
        notes=tuple(notes),
    )


def _column_of_splits(table: Table) -> str:
    """Return the only column whose cells all name a split, train among them; "" where there is none."""
    found = []
    for column, cells in table.columns.items():
        words = set()
        for cell in cells:
            words.add(split_of_word(cell) or "")
            if "" in words:
                break
        if "" not in words and "train" in words and len(words) > 1:
            found.append(column)
    if len(found) > 1:
        raise UsageError(
            f"{table.path.name}: the columns {', '.join(found)} all say train and test; choose one by "
            f"[split={found[0]}], or let mmbench draw a split by [split=auto]"
        )
    return found[0] if found else ""


def split_rows(
    table: Table, columns: SplitColumns, ids: Sequence[str], targets: Sequence[Target], seed: int, faults: Faults
) -> tuple[dict[Split, list[int]], list[str]]:
    """Return the rows of each split, none empty, and notes on where they come from.

    Raises:
        DataError: rows do not fill three splits, or a group is in two of them.
    """
    notes = list(columns.notes)
    if columns.time:
        return _by_time(table, columns, faults, notes)
    if not columns.cells:
        rows = generated_split(
            table, ids, targets, columns.group, seed, asked=columns.group_asked, shares=columns.shares
        )
        if not columns.group and not columns.group_asked:
            notes += _group_notes(table, {item.column for item in targets})
        by = f" and whole groups of {columns.group!r}" if columns.group else ""
        return rows, [*notes, f"split: drawn by seed {seed}, {columns.shares.text} by target{by}: {_sizes(rows)}"]
    given = given_split(table, columns.split, columns.cells, faults)
    rows, note = fill_splits(table, given, targets, group_names(table, ids, columns.group))
    if columns.group:
        check_groups(table, columns.group, rows)
    source = f"column {columns.split!r}" if columns.split else "the names of files"
    return rows, [*notes, f"split: by {source}: {_sizes(rows)}", *([note] if note else [])]


def _by_time(
    table: Table, columns: SplitColumns, faults: Faults, notes: Sequence[str]
) -> tuple[dict[Split, list[int]], list[str]]:
    """Return the rows of a split by time, and the notes with the period of each split."""
    cells = table.columns[columns.time]
    times = read_times(table, columns.time, cells, faults)
    if faults:
        return {split: [] for split in SPLITS}, [*notes]
    rows = temporal_split(table, columns.time, times, columns.shares)
    warnings = [f"column {columns.time!r}: {note}" for note in order_notes(cells, date_order(cells))]
    if columns.group and columns.group_asked:
        check_groups(table, columns.group, rows)
    elif columns.group and (divided := _num_divided(table.columns[columns.group], rows)):
        warnings.append(
            f"warning: {divided} groups of the column {columns.group!r} stand in several splits, as the split is by "
            f'time; [group={columns.group}] refuses that, and [group=""] says that the column holds no groups'
        )
    periods = "; ".join(f"{len(rows[split])} {split} ({period(cells, times, rows[split])})" for split in SPLITS)
    return rows, [*notes, *warnings, f"split: by time, column {columns.time!r}, {columns.shares.text}: {periods}"]


def _group_notes(table: Table, used: Collection[str]) -> list[str]:
    """Return notes on columns whose rows may belong together, such as those of one patient."""
    return [
        f"column {column!r} stands on several rows each: if those belong together, [group={column}] keeps them in one "
        "split"
        for column, cells in table.columns.items()
        if column not in used
        and column not in table.values
        and _LIKE_GROUP.fullmatch(column.strip().casefold())
        and 1 < len(set(cells)) < len(cells)
    ]


def _num_divided(groups: Sequence[str], rows: Mapping[Split, Sequence[int]]) -> int:
    """Return how many groups stand in several splits."""
    found: dict[str, set[Split]] = {}
    for split in SPLITS:
        for row in rows[split]:
            found.setdefault(groups[row].strip(), set()).add(split)
    return sum(1 for name, splits in found.items() if name and len(splits) > 1)


def _sizes(rows: Mapping[Split, Sequence[int]]) -> str:
    return ", ".join(f"{len(rows[split])} {split}" for split in SPLITS)
