"""What became of every planned cell: the plan's row and the journal's record, joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmbench.record import CHOOSING, DONE, Metric, Record

#: Status of a planned cell that nobody has run yet.
PENDING = "pending"
#: Status of a planned cell whose combo a race stopped: it is not to be run.
STOPPED = "stopped"
_COLOURS = {
    "ok": "",
    "cached": "",
    "run": "",
    "unavailable": "magenta",
    "interrupted": "magenta",
    PENDING: "",
    "incompatible": "dim",
    STOPPED: "dim",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One planned cell with its one status.

    Attributes:
        cell_id, dataset, encoders, fusion, objective, seed, role: As in the plan.
        status: One of `mmbench.record.STATUSES`, or "pending", or "stopped".
        reason: Why there is no result, or "".
        record: What the journal holds of it, or None.
        tuned: Values that a sweep chose for it, its number of trials and its score on val; empty without a sweep.
    """

    cell_id: str
    dataset: str
    encoders: str
    fusion: str
    objective: str
    seed: int
    role: str
    status: str
    reason: str
    record: Record | None
    tuned: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether the cell has a result."""
        return self.status in DONE

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Its numbers; a cell that did not finish has none, whatever its record holds."""
        return self.record.metrics if self.record is not None and self.done else ()


def style_of(status: str) -> str:
    """Return the colour of a status, a plan's or a record's, on a terminal; failures are red."""
    return _COLOURS.get(status, "red")


def status_of(row: Mapping[str, Any], record: Record | None) -> tuple[str, str]:
    """Return the one status of a planned cell, and the reason why it has no result or "".

    What the journal says wins over the plan: a cell that ran before its data went away still has its result. A race
    wins over both: what it stopped is not ranked, whoever trained it before.
    """
    if record is not None and row["status"] not in (PENDING, STOPPED):
        return record.status, record.reason
    return (PENDING, "not run yet") if row["status"] == "run" else (row["status"], row["reason"])


def outcomes(
    planned: Iterable[Mapping[str, Any]], records: Mapping[str, Record], *, choosing: bool = False
) -> Iterator[Outcome]:
    """Yield one outcome for every planned cell, in plan order.

    Args:
        planned: `Cell.row()` of every cell.
        records: By cell_id.
        choosing: Yield those that only helped to choose others instead, the rungs of a race and the trials of a sweep:
            they are scored on val alone and stand in no table of results.
    """
    for row in planned:
        if (row["role"] in CHOOSING) != choosing:
            continue
        record = records.get(row["cell_id"])
        status, reason = status_of(row, record)
        yield Outcome(
            cell_id=row["cell_id"],
            dataset=row["dataset"],
            encoders=row["encoders"],
            fusion=row["fusion"],
            objective=row["objective"],
            seed=row["seed"],
            role=row["role"],
            status=status,
            reason=reason,
            record=record,
            tuned=row.get("tuned", {}),
        )


def split_encoders(label: str) -> dict[str, str]:
    """Return encoder by modality for a label of the plan; brackets keep their "+".

    >>> split_encoders("image:cnn[width=32,norm=a+b]+text:embedding-lstm")
    {'image': 'cnn[width=32,norm=a+b]', 'text': 'embedding-lstm'}
    """
    parts: list[str] = []
    depth, start = 0, 0
    for position, character in enumerate(label):
        if character == "[":
            depth += 1
        elif character == "]":
            depth = max(depth - 1, 0)
        elif character == "+" and depth == 0:
            parts.append(label[start:position])
            start = position + 1
    parts.append(label[start:])
    named = [part.partition(":") for part in parts if part]
    return {name: encoder for name, _, encoder in named}
