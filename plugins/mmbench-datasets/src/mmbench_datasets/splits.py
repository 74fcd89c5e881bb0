"""The rows of a manifest in train, val and test: as a column says, or 70/15/15 by class and group."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmbench.data import SPLITS, Split
from mmbench.errors import DataError
from mmbench_datasets.labels import Target
from mmbench_datasets.table import Table

_SPLIT_WORDS: Mapping[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test",
}  # fmt: skip
_VAL_SHARE, _TEST_SHARE = 0.15, 0.15
#: Groups are placed in another random order until every split is within this share of all rows of its size.
MAX_MISS = 0.02
NUM_DRAWS = 20


def given_split(table: Table, column: str) -> dict[Split, list[int]]:
    """Split as a column says.

    Raises:
        DataError: a cell names no split, or a split has no row.
    """
    rows: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for row, cell in enumerate(table.columns[column]):
        split = _SPLIT_WORDS.get(cell.strip().lower())
        if split is None:
            raise DataError(
                f"{table.where(row)}: the split (column {column!r}) is {cell!r}; write train, val or test, "
                "or let mmbench split by [split=auto]"
            )
        rows[split].append(row)
    for split in SPLITS:
        if not rows[split]:
            found = ", ".join(name for name in SPLITS if rows[name])
            raise DataError(
                f"{table.path.name}: no row has the split {split!r} (column {column!r} has {found}); mmbench trains on "
                "train, chooses on val and reports test. Mark some rows so, or let mmbench split by [split=auto]"
            )
    return rows


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
                    f"{split}; keep a group in one split, or let mmbench split by [split=auto]; "
                    f"rename the column if it does not hold groups"
                )


def generated_split(
    table: Table, ids: Sequence[str], target: Target, group_column: str, seed: int
) -> dict[Split, list[int]]:
    """Split 70/15/15 by class and whole groups; a row's place depends on its id and the seed, not on its position."""
    strata = target.values if target.task.kind == "multiclass" else [0] * len(table)
    cells = [cell.strip() for cell in table.columns[group_column]] if group_column else [""] * len(table)
    groups = [f"group {cell}" if cell else f"id {sample_id}" for cell, sample_id in zip(cells, ids)]
    rows = split_groups(groups, strata, seed)
    if not all(rows.values()):
        raise DataError(
            f"{table.path.name}: {len(table)} rows in {len(set(groups))} groups do not fill train, val and test; "
            "add rows or a column 'split'"
        )
    return rows


def split_groups(
    groups: Sequence[str],
    strata: Sequence[Any],
    seed: int,
    *,
    val_share: float = _VAL_SHARE,
    test_share: float = _TEST_SHARE,
) -> dict[Split, list[int]]:
    """Split rows by whole groups, close to the shares in every stratum; every stratum reaches train.

    A row's place depends on its group's name and the seed, not on its position.

    Args:
        groups: Of each row.
        strata: Of each row: its class, or the same for all.
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
    nothing of them.
    """
    order = sorted(members, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    total = Counter(strata)
    room: dict[Split, Counter[Any]] = {"train": Counter(), "val": Counter(), "test": Counter()}
    for stratum, count in total.items():
        room["val"][stratum] = max(round(val_share * count), int(count >= 3)) if val_share else 0
        room["test"][stratum] = max(round(test_share * count), int(count >= 2)) if test_share else 0
        room["train"][stratum] = count - room["val"][stratum] - room["test"][stratum]
    holders = Counter(stratum for rows in members.values() for stratum in {strata[row] for row in rows})
    rows: dict[Split, list[int]] = {split: [] for split in SPLITS}
    trained: set[Any] = set()
    for name in order:
        held = Counter(strata[row] for row in members[name])
        for stratum in held:
            holders[stratum] -= 1
        needed = any(stratum not in trained and not holders[stratum] for stratum in held)
        split = "train" if needed else max(SPLITS, key=lambda split: _fit(held, room[split]))
        if split == "train":
            trained |= set(held)
        room[split].subtract(held)
        rows[split].extend(members[name])
    miss = max(abs(sum(room[split].values())) for split in SPLITS) / max(1, len(strata))
    return rows, miss if all(
        rows[split] or not share for split, share in zip(SPLITS, (1, val_share, test_share))
    ) else 1.0


def _fit(held: Counter[Any], room: Counter[Any]) -> float:
    """How well a group fits where there is room, as a share of the group, then by how much room is left."""
    fitting = sum(min(count, max(room[stratum], 0)) for stratum, count in held.items()) / held.total()
    return fitting + 1e-6 * sum(room[stratum] for stratum in held) / max(1, held.total())


def check_labels_of_splits(table: Table, targets: Sequence[Target], rows: Mapping[Split, Sequence[int]]) -> None:
    """Raise where a class occurs in val or test and never in train: no model could learn it."""
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
                "move rows to train, remove them, or split anew by [split=auto]"
            )
