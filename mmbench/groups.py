"""Cells that run as one job: which stand together in a plan, and what each of them gets of the job's outcome."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from mmbench.executors import Outcome
from mmbench.executors.child import LOG_FILE

#: What a group of cells is, for an executor.
GROUP_FUNCTION = "mmbench.cell_group:run_cells"


AnyCell = TypeVar("AnyCell")


def neighbours(cells: Iterable[AnyCell]) -> Iterator[list[AnyCell]]:
    """Yield cells in their order: neighbours of one `group` at once; others, and those that have none, one by one."""
    for group, members in itertools.groupby(cells, key=lambda cell: getattr(cell, "group", "")):
        if group:
            yield list(members)
        else:
            for cell in members:
                yield [cell]


def joined(payloads: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the payload of a group: what all cells have in common, and under ``cells`` what each has of its own.

    >>> joined([{"device": "cpu", "seed": 0}, {"device": "cpu", "seed": 1}])
    {'device': 'cpu', 'cells': [{'seed': 0}, {'seed': 1}]}
    """
    first, *others = payloads
    common = {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
    cells = [{name: value for name, value in payload.items() if name not in common} for payload in payloads]
    return {**common, "cells": cells}


def parted(outcome: Outcome, cell_ids: Sequence[str]) -> list[Outcome] | None:
    """Return each cell's outcome, or None where the group as a whole has none: time is shared equally."""
    if outcome.status != "ok":
        return None
    by_cell = outcome.info.get("cells")
    if not isinstance(by_cell, Mapping) or any(cell_id not in by_cell for cell_id in cell_ids):
        return None
    share = outcome.duration_s / len(cell_ids)
    return [
        Outcome.from_json(by_cell[cell_id], duration_s=share, started_at=outcome.started_at) for cell_id in cell_ids
    ]


def part_folder(folder: Path, cell_id: str) -> Path:
    """Return the folder of one cell of a group, with a copy of what the group's process printed."""
    own = folder / cell_id
    log = folder / LOG_FILE
    with suppress(OSError):  # a disk without room, which whoever writes the record deals with
        own.mkdir(exist_ok=True)
        if log.is_file() and not log.is_symlink():
            shutil.copyfile(log, own / LOG_FILE)
    return own
