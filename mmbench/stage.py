"""A run in stages: what a later one trains is decided by what the one before scored on val, and by nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from mmbench.combo import Cell
from mmbench.plan import Plan
from mmbench.record import DONE, TRANSIENT, Record


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a planner may know of a cell that was tried: nothing of test is in it.

    Attributes:
        status: Of the attempt that decides.
        settled: Whether the same command would leave the cell alone.
        score: What chose the cell's epoch on val, more being better; None where there is none.
        loss: The task loss on val of that epoch; it decides between equal scores.
    """

    status: str
    settled: bool
    score: float | None = None
    loss: float | None = None

    @property
    def order(self) -> tuple[float, float] | None:
        """What cells are compared by, more being better; None without a result."""
        if self.status not in DONE or (self.score is None and self.loss is None):
            return None
        return _order(self.score, self.loss)


Results: TypeAlias = Mapping[str, Result]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Cells that can run without knowing how any of them ends.

    Attributes:
        title: What people call it: "rung 1 of 2".
        cells: Gives them in the order of launch, as often as it is asked.
    """

    title: str
    cells: Callable[[], Iterable[Cell]]

    @classmethod
    def of(cls, title: str, cells: Sequence[Cell]) -> Stage:
        """Return a stage of cells that are known by now."""
        return cls(title=title, cells=lambda: cells)


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """A stage before it is decided.

    Attributes:
        title: As it will be called.
        num_cells: That will run, or that may run at most.
        exact: Which of the two.
    """

    title: str
    num_cells: int
    exact: bool


class Planner(Protocol):
    """Decides stage after stage. It holds no state that the run's records do not give again."""

    @property
    def plan(self) -> Plan:
        """The selection that it works through."""

    def stages(self) -> Generator[Stage, Results, None]:
        """Yield each stage, and take what its cells and all others came to."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the line of plan.json of every cell, as far as the stages were walked through."""

    def decisions(self) -> list[dict[str, Any]]:
        """Return what was decided so far, each decision with the scores that made it, as plain JSON."""

    def outlook(self) -> list[Outlook]:
        """Return the shape of the whole before anything runs; nothing where there is one stage."""


@dataclass(frozen=True)
class AtOnce:
    """The planner of an ordinary grid: one stage, nothing to decide."""

    plan: Plan

    def stages(self) -> Generator[Stage, Results, None]:
        """Yield the plan."""
        yield Stage(title="", cells=self.plan.cells)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the plan's rows."""
        return (cell.row() for cell in self.plan.cells())

    def decisions(self) -> list[dict[str, Any]]:
        """Return nothing."""
        return []

    def outlook(self) -> list[Outlook]:
        """Return nothing."""
        return []


def result_of(record: Record, *, num_killed: int, max_killed: int) -> Result:
    """Return what a planner may know of a record.

    Args:
        record: Of the attempt that decides.
        num_killed: Attempts at the cell that ended as killed.
        max_killed: From how many on it is given up.
    """
    history = [epoch for epoch in record.info.get("history", ()) if isinstance(epoch, Mapping)]
    best = max(history, key=_epoch_order, default={})
    given_up = num_killed >= max_killed if record.status == "killed" else record.status not in TRANSIENT
    return Result(
        status=record.status,
        # Data or weights that are not here are a reason to lose: waiting for them would hold up everything.
        settled=given_up or record.status == "unavailable",
        score=_finite(best.get("val_score")),
        loss=_finite(best.get("val_loss")),
    )


def num_unsettled(cells: Iterable[Cell], results: Results) -> int:
    """Return how many of the cells that can run did not come to an end yet."""
    came = (results.get(cell.cell_id) for cell in cells if cell.status == "run")
    return sum(1 for result in came if result is None or not result.settled)


def told(cell: Cell, result: Result | None) -> dict[str, Any]:
    """Return what a decision says of a cell that it was made by, as plain JSON."""
    return {
        "status": result.status if result else cell.status,
        "val_score": result.score if result else None,
        "val_loss": result.loss if result else None,
    }


def only_val(record: Record) -> Record:
    """Leave out of a record all that a planner must not know."""
    return replace(record, metrics=(), info={key: record.info[key] for key in ("history",) if key in record.info})


def _epoch_order(epoch: Mapping[str, Any]) -> tuple[float, float]:
    """As `mmbench.train.Trainer` chooses the epoch."""
    return _order(_finite(epoch.get("val_score")), _finite(epoch.get("val_loss")))


def _order(score: float | None, loss: float | None) -> tuple[float, float]:
    """What is best on val comes last; of equal scores the lower loss, and what is not known loses."""
    return (-math.inf if score is None else score, -math.inf if loss is None else -loss)


def _finite(value: Any) -> float | None:
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else None
