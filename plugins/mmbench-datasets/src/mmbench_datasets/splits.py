"""The rows of a manifest in train, val and test: as a column says, or drawn by target and group."""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mmbench.data import SPLITS, Split
from mmbench.errors import DataError
from mmbench_datasets.faults import Faults
from mmbench_datasets.labels import Target
from mmbench_datasets.split_shares import VAL_OF_TRAIN, Shares
from mmbench_datasets.table import Table

_SPLIT_WORDS: Mapping[str, Split] = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "development": "val",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
_SET = re.compile(r"[\s_-]*(set|split|data)$")
_GIVEN_ADVICE = "move rows to train, remove them, or split anew by [split=auto]"
_DRAWN_ADVICE = "draw another split by [seed=1], or mark the rows in a column 'split'"
_TEMPORAL_ADVICE = "remove these rows, or take more of the rows for train by [split=80/10/10]"
_ADVICE = {"given": _GIVEN_ADVICE, "drawn": _DRAWN_ADVICE, "temporal": _TEMPORAL_ADVICE}
#: Groups are placed in another random order until every split is within this share of all rows of its size.
MAX_MISS = 0.02
NUM_DRAWS = 20
#: A regression is split by so many quantiles of its target at most, each of so many rows at least.
MAX_QUANTILES, MIN_PER_QUANTILE = 10, 20


def split_of_word(word: str) -> Split | None:
    """Return the split that a word names, such as "Train", "validation" or "test set"; None for any other."""
    word = word.strip().lower()
    return _SPLIT_WORDS.get(word) or _SPLIT_WORDS.get(_SET.sub("", word))


def given_split(table: Table, column: str, cells: Sequence[str], faults: Faults) -> dict[Split, list[int]]:
    """Return the rows of each split as a column says; a split that no row has is empty.

    Args:
        table: The rows.
        column: For messages.
        cells: The split of each row.
        faults: Takes the rows whose cell names no split.
    """
    rows: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for row, cell in enumerate(cells):
        split = split_of_word(cell)
        if split is None:
            faults.add(
                row,
                f"{table.where(row)}: the split (column {column!r}) is {cell!r}; write train, val or test, "
                "or let mmbench split by [split=auto]",
            )
        else:
            rows[split].append(row)
    return rows


def fill_splits(
    table: Table, rows: Mapping[Split, Sequence[int]], targets: Sequence[Target], groups: Sequence[str]
) -> tuple[dict[Split, list[int]], str]:
    """Return splits of which none is empty, and what was done for that.

    A part of train becomes val where there is none, by class and whole groups; where there is val and no test, val
    becomes test first. Rows of test are never moved.

    Raises:
        DataError: train is empty, or it is all that there is.
    """
    found = [split for split in SPLITS if rows[split]]
    if len(found) == len(SPLITS):
        return {split: list(rows[split]) for split in SPLITS}, ""
    if "train" not in found or found == ["train"]:
        lacking = next(split for split in ("train", "test") if split not in found)
        raise DataError(
            f"{table.path.name}: no row has the split {lacking!r} (there is {', '.join(found)}); mmbench trains on "
            "train, chooses on val and reports test. Mark some rows so, or let mmbench split by [split=auto]"
        )
    note = "val is 15 % of train, as no row has it"
    test = list(rows["test"])
    if not test:
        test, note = list(rows["val"]), "the rows of val are test, as no row has test; val is 15 % of train"
    train = rows["train"]
    strata = strata_of(targets)
    divided = split_groups(
        [groups[row] for row in train], [strata[row] for row in train], 0, val_share=VAL_OF_TRAIN, test_share=0.0
    )
    filled: dict[Split, list[int]] = {
        "train": [train[position] for position in divided["train"]],
        "val": [train[position] for position in divided["val"]],
        "test": test,
    }
    if not all(filled.values()):
        raise DataError(f"{table.path.name}: train has too few rows or groups to take val from; mark rows as val")
    return filled, note


def group_names(table: Table, ids: Sequence[str], group_column: str) -> list[str]:
    """Return the group of each row; a row without one is a group of its own, by its id."""
    cells = [cell.strip() for cell in table.columns[group_column]] if group_column else [""] * len(table)
    return [f"group {cell}" if cell else f"id {sample_id}" for cell, sample_id in zip(cells, ids)]


def check_groups(table: Table, column: str, rows: Mapping[Split, Sequence[int]]) -> None:
    """Check that no group of the column is in two splits.

    Raises:
        DataError: one is.
    """
    split_of: dict[str, Split] = {}
    for split in SPLITS:
        for row in rows[split]:
            group = table.columns[column][row]
            if group.strip() and split_of.setdefault(group, split) != split:
                raise DataError(
                    f"{table.where(row)}: the group {group!r} (column {column!r}) is in {split_of[group]} and in "
                    f"{split}; keep a group in one split, or let mmbench split by [split=auto], "
                    f'or ignore the column by [group=""] if it does not hold groups'
                )


def generated_split(
    table: Table,
    ids: Sequence[str],
    targets: Sequence[Target],
    group_column: str,
    seed: int,
    *,
    asked: bool = True,
    shares: Shares = Shares(),  # noqa: B008  (it is frozen)
) -> dict[Split, list[int]]:
    """Split by target and whole groups; a row's place depends on its id and the seed, not on its position.

    Args:
        table, ids: The rows.
        targets: The tasks whose classes, labels and quantiles are divided evenly.
        group_column: "" for none.
        seed: Draws another split.
        asked: Whether an option names the column of groups.
        shares: Of val and test.
    """
    groups = group_names(table, ids, group_column)
    rows = split_groups(groups, strata_of(targets), seed, val_share=shares.val, test_share=shares.test)
    if not all(rows.values()):
        taken = (
            f' (the column {group_column!r} was taken for groups; [group=""] ignores it)'
            if group_column and not asked
            else ""
        )
        classes = Counter(targets[0].values) if targets[0].task.kind == "multiclass" else Counter()
        single = sum(count == 1 for count in classes.values())
        alone = (
            f"; {single} of the {len(classes)} classes of {targets[0].column!r} are on one row only, which train "
            "needs: check that the column holds classes"
            if single * 2 > len(table)
            else ""
        )
        raise DataError(
            f"{table.path.name}: {len(table)} rows in {len(set(groups))} groups do not fill train, val and test"
            f"{taken}{alone}; add rows or a column 'split'"
        )
    return rows


def strata_of(targets: Sequence[Target]) -> list[Any]:
    """Return what a split should hold in proportion, of each row, as `split_groups` takes it.

    The classes and labels of every task, so that each can reach train; the quantiles of a regression where that is the
    first task.
    """
    columns = [_strata(item, first=not number) for number, item in enumerate(targets)]
    known = [column for column in columns if column is not None]
    if len(known) == 1 and targets[0].task.kind != "multilabel":
        return known[0]
    return [
        frozenset((number, stratum) for number, column in enumerate(known) for stratum in _each(column[row]))
        for row in range(len(targets[0].values))
    ]


def _strata(target: Target, *, first: bool) -> list[Any] | None:
    """Return a task's stratum of each row, a frozenset of those for labels; None where it has none."""
    if target.task.kind == "multiclass":
        return list(target.values)
    if target.task.kind == "multilabel":
        return [frozenset(np.flatnonzero(labels).tolist()) for labels in target.values]
    if not first or target.task.num_outputs > 1:
        return None
    values = np.asarray(target.values, dtype=np.float64)
    num_bins = max(1, min(MAX_QUANTILES, len(values) // MIN_PER_QUANTILE))
    edges = np.quantile(values, np.arange(1, num_bins) / num_bins)
    found: list[Any] = np.searchsorted(edges, values, side="right").tolist()
    return found


def _each(stratum: Any) -> Iterable[Any]:
    return stratum if isinstance(stratum, frozenset) else (stratum,)


def split_groups(
    groups: Sequence[str],
    strata: Sequence[Any],
    seed: int,
    *,
    val_share: float = Shares.val,
    test_share: float = Shares.test,
) -> dict[Split, list[int]]:
    """Split rows by whole groups, close to the shares in every stratum; every stratum reaches train.

    A row's place depends on its group's name and the seed, not on its position.

    Args:
        groups: Of each row.
        strata: Of each row: its class, or the same for all; a frozenset where rows belong to several, such as labels.
        seed: Draws another split.
        val_share, test_share: The rest is train.
    """
    members: dict[str, list[int]] = {}
    for row, name in enumerate(groups):
        members.setdefault(name, []).append(row)
    drawn = (_drawn_split(members, strata, f"{seed}{draw or ''}", val_share, test_share) for draw in range(NUM_DRAWS))
    chosen: tuple[float, dict[Split, list[int]]] | None = None
    for rows, miss in drawn:
        if chosen is None or miss < chosen[0]:
            chosen = miss, rows
        if miss <= MAX_MISS:
            break
    assert chosen is not None, "NUM_DRAWS is at least one"
    return {split: sorted(chosen[1][split]) for split in SPLITS}


def _drawn_split(
    members: Mapping[str, Sequence[int]], strata: Sequence[Any], seed: str, val_share: float, test_share: float
) -> tuple[dict[Split, list[int]], float]:
    """Place groups in random order; return the rows by split, and by how much a split misses its size, as a share.

    The order knows nothing of sizes: with the largest groups first they would all be in train, and test would say
    nothing of them. Where rows belong to several strata, the rarest stratum is shared out first.
    """
    order = sorted(members, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    held = {name: Counter(item for row in members[name] for item in _each(strata[row])) for name in order}
    places = _Places(held, {name: len(members[name]) for name in order}, val_share, test_share)
    if any(isinstance(stratum, frozenset) for stratum in strata):
        splits = places.share_out_rarest_first(order)
    else:
        splits = {name: places.place(name, functools.partial(places.fit, name)) for name in order}
    rows: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for name, split in splits.items():
        rows[split].extend(members[name])
    miss = max(abs(places.num_free[split]) for split in SPLITS) / max(1, len(strata))
    wanted = zip(SPLITS, (1, val_share, test_share))
    return rows, miss if all(rows[split] or not share for split, share in wanted) else 1.0


class _Places:
    """How many rows each split may still take, of each stratum and of all, while groups are placed.

    Args:
        held: Rows of each stratum, by group.
        sizes: Rows of each group.
        val_share, test_share: The rest is train.
    """

    def __init__(
        self, held: Mapping[str, Counter[Any]], sizes: Mapping[str, int], val_share: float, test_share: float
    ) -> None:
        self._held, self._sizes = held, sizes
        self._room: dict[Split, Counter[Any]] = {split: Counter() for split in SPLITS}
        totals: Counter[Any] = Counter()
        for of_group in held.values():
            totals.update(of_group)
        for stratum, count in totals.items():
            for split, free in _shared(count, val_share, test_share).items():
                self._room[split][stratum] = free
        self.num_free = _shared(sum(sizes.values()), val_share, test_share)
        if all(of_group.total() == sizes[name] for name, of_group in held.items()):
            self.num_free = {split: room.total() for split, room in self._room.items()}
        self._left = totals
        self._holders = Counter(stratum for of_group in held.values() for stratum in of_group)
        self._trained: set[Any] = set()

    def place(self, name: str, fit: Callable[[Split], Any]) -> Split:
        """Put a group where it fits best, or in train where that would never see one of its strata otherwise."""
        held = self._held[name]
        self._holders.subtract(held.keys())
        needed = any(stratum not in self._trained and not self._holders[stratum] for stratum in held)
        split: Split = "train" if needed else max(SPLITS, key=fit)
        if split == "train":
            self._trained |= set(held)
        self._room[split].subtract(held)
        self._left.subtract(held)
        self.num_free[split] -= self._sizes[name]
        return split

    def fit(self, name: str, split: Split) -> float:
        """How well a group fits where there is room, as a share of the group, then by how much room is left."""
        held, room = self._held[name], self._room[split]
        fitting = sum(min(count, max(room[stratum], 0)) for stratum, count in held.items()) / held.total()
        return fitting + 1e-6 * sum(room[stratum] for stratum in held) / max(1, held.total())

    def share_out_rarest_first(self, order: Sequence[str]) -> dict[str, Split]:
        """Place groups whose rows belong to several strata each, or to none; return the split of each.

        Iterative stratification: Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label data".
        """
        names_of: dict[Any, list[str]] = {}
        for name in order:
            for stratum in sorted(self._held[name], key=repr):
                names_of.setdefault(stratum, []).append(name)
        found: dict[str, Split] = {}
        while waiting := [stratum for stratum in names_of if self._left[stratum] > 0]:
            rarest = min(waiting, key=lambda stratum: self._left[stratum])
            for name in names_of.pop(rarest):
                if name not in found:
                    found[name] = self.place(name, functools.partial(self._wants, name, rarest))
        for name in order:
            if name not in found:
                found[name] = self.place(name, lambda split: self.num_free[split])
        return found

    def _wants(self, name: str, stratum: Any, split: Split) -> tuple[int, int, int]:
        """How much a split wants a group for the sake of one stratum, then for its size."""
        free = self._room[split][stratum]
        return min(self._held[name][stratum], max(free, 0)), free, self.num_free[split]


def _shared(count: int, val_share: float, test_share: float) -> dict[Split, int]:
    """Share out so many rows: one at least for test, and one for val, where there are enough."""
    val = max(round(val_share * count), int(count >= 3)) if val_share else 0
    test = max(round(test_share * count), int(count >= 2)) if test_share else 0
    return {"train": count - val - test, "val": val, "test": test}


def check_labels_of_splits(
    table: Table,
    targets: Sequence[Target],
    rows: Mapping[Split, Sequence[int]],
    *,
    origin: Literal["given", "drawn", "temporal"] = "given",
) -> None:
    """Raise where a class occurs in val or test and never in train: no model could learn it.

    Args:
        table: The rows.
        targets: The tasks.
        rows: By split.
        origin: Where the split comes from.
    """
    for item in targets:
        if item.task.kind == "multiclass":
            trained = {item.values[row] for row in rows["train"]}
            if len(trained) < 2:
                raise DataError(
                    f"{table.path.name}: train holds one class only of {item.task.name!r} "
                    f"({item.task.class_names[min(trained)]!r}); there is nothing to learn"
                )
            unseen = {
                item.values[row]: (split, row)
                for split in ("test", "val")
                for row in rows[split]
                if item.values[row] not in trained
            }
        elif item.task.kind == "multilabel":
            labels = range(item.task.num_outputs)
            absent = [label for label in labels if not any(item.values[row][label] for row in rows["train"])]
            unseen = {
                label: (split, row)
                for label in absent
                for split in ("test", "val")
                for row in rows[split]
                if item.values[row][label]
            }
        else:
            continue
        if unseen:
            label, (split, row) = min(unseen.items())
            raise DataError(
                f"{table.where(row)}: the class {item.task.class_names[label]!r} of {item.task.name!r} occurs in "
                f"{split} and never in train ({len(unseen)} such), so it cannot be learned; "
                f"{_ADVICE[origin]}"
            )
