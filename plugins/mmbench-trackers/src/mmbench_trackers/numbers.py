"""What of a cell the trackers show: its name, its parts, a learning curve's numbers and its test scores."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmbench.record import Record

#: Numbers of an epoch, as `mmbench.train.Epoch` names them.
CURVES = ("train_loss", "val_loss", "val_score", "lr")


def cell_name(row: Mapping[str, Any]) -> str:
    """Return a short name of a cell that no file system and no page stumbles over, and that is unique in its run.

    >>> cell_name({"dataset": "manifest:/a/b.csv", "fusion": "gated[x=1]", "seed": 0, "cell_id": "0123456789abcdef"})
    'manifest-a-b.csv gated-x-1 seed 0 01234567'
    """
    words = (re.sub(r"[^A-Za-z0-9._]+", "-", str(row[name]))[:60].strip("-") for name in ("dataset", "fusion"))
    return f"{' '.join(words)} seed {row['seed']} {row['cell_id'][:8]}"


def facts(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what was combined in a cell."""
    names = ("cell_id", "dataset", "encoders", "fusion", "objective", "seed", "role")
    return {name: str(row.get(name, "")) for name in names}


def epoch_numbers(epoch: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of one epoch; those that are missing or no numbers are left out."""
    return {name: float(epoch[name]) for name in CURVES if isinstance(epoch.get(name), int | float)}


def scores_on_test(record: Record) -> Iterator[tuple[str, float]]:
    """Yield the clean test scores of a cell as ("test/TASK/METRIC", value), then what training took."""
    for item in record.metrics:
        if item.value is None:
            continue
        if item.phase == "evaluate" and item.split == "test" and item.condition == "clean":
            yield f"test/{item.task}/{item.name}", item.value
        elif item.phase == "train":
            yield f"train/{item.name}", item.value
