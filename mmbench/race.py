"""A race: successive halving of a grid's combos, by their scores on val after few epochs.

Source: Jamieson and Talwalkar 2016, arXiv:1502.07943; the schedule of epochs is a bracket of Hyperband (Li et al. 2018,
arXiv:1603.06560). Each dataset has a race of its own. In every rung the combos that are left are trained from the start
with the first seed, for `eta` times as many epochs as in the rung before, and about one in `eta` goes on. Those left
after the last rung are trained in full with all seeds: the same cells as without a race. Unlike Hyperband's, rungs are
trained anew rather than continued, so that the rate's schedule fits each length and a cell stays one process.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mmbench.combo import Cell
from mmbench.config import validated
from mmbench.parts import DatasetPart
from mmbench.plan import Plan
from mmbench.stage import Outlook, Result, Results, Stage, num_unsettled, told


class RaceConfig(BaseModel):
    """The table `[race]` of a run file.

    Attributes:
        eta: One combo in so many goes on, to a rung of so many times the epochs.
        min_epochs: Of the first rung, at least.
        finalists: No decision leaves fewer combos; where no more are left, all are trained in full.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    eta: Annotated[float, Field(gt=1)] = 3.0
    min_epochs: Annotated[int, Field(ge=1)] = 1
    finalists: Annotated[int, Field(ge=1)] = 3


def rungs(epochs: int, num_combos: int, config: RaceConfig) -> list[int]:
    """Return the epochs of each rung before the full training.

    >>> rungs(30, 100, RaceConfig())
    [1, 3, 10]
    >>> rungs(30, 8, RaceConfig())
    [10]
    >>> rungs(2, 100, RaceConfig())
    []
    """
    num_needed = 0
    while num_combos > config.finalists:
        num_combos, num_needed = num_kept(num_combos, config), num_needed + 1
    found: list[int] = []
    for rung in range(1, num_needed + 1):
        length = epochs / config.eta**rung
        if length < config.min_epochs:
            break
        found.append(max(config.min_epochs, round(length)))
    return sorted({length for length in found if length < epochs})


def num_kept(num_combos: int, config: RaceConfig) -> int:
    """Return how many of so many combos go on: a share of 1 / eta, rounded up, and no fewer than the finalists.

    >>> num_kept(100, RaceConfig()), num_kept(8, RaceConfig()), num_kept(2, RaceConfig())
    (34, 3, 2)
    """
    return min(num_combos, max(math.ceil(num_combos / config.eta), config.finalists))


@dataclass
class _Heat:
    """The race on one dataset.

    Attributes:
        dataset: Which.
        entered: The first seed's cell of every combo, in the plan's order.
        epochs: Of each rung.
        left: Those still in the race.
        stopped: By combo, of those that are not: the rung they reached and why they were stopped.
        waiting: Why the next rung cannot be decided yet, or "".
        decided: The decisions, as plain JSON.
    """

    dataset: DatasetPart
    entered: list[Cell]
    epochs: list[int]
    left: list[Cell] = field(default_factory=list)
    stopped: dict[str, tuple[int, str]] = field(default_factory=dict)
    waiting: str = ""
    decided: list[dict[str, Any]] = field(default_factory=list)


class Race:
    """The planner of a race.

    Args:
        plan: The whole grid: what is raced are its combos of several modalities. Baselines always run in full.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.config = validated(RaceConfig, plan.config.race, "[race]")
        self._rung_cells: list[Cell] = []
        self._num_rungs = max((len(heat.epochs) for heat in self._heats.values()), default=0)

    @property
    def plan(self) -> Plan:
        """The whole grid."""
        return self._plan

    def stages(self) -> Generator[Stage, Results, None]:
        """Yield baselines with the first rung, each further rung, then finalists and what else is in the plan."""
        for heat in self._heats.values():
            heat.left, heat.stopped, heat.waiting, heat.decided = list(heat.entered), {}, "", []
        self._rung_cells = []
        for rung in range(self._num_rungs):
            cells = self._rung(rung)
            self._rung_cells += cells
            early = [cell for cell in self.plan.cells() if self._is_early(cell)] if rung == 0 else []
            results = yield Stage.of(self._title(rung), [*early, *cells])
            for heat in self._heats.values():
                if rung < len(heat.epochs) and not heat.waiting:
                    self._decide(
                        heat, rung, [cell for cell in cells if cell.dataset.digest == heat.dataset.digest], results
                    )
        yield Stage(title="finalists", cells=self._final)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the grid's rows, each combo with how it stands in the race, then those of the rungs so far."""
        for cell in self.plan.cells():
            yield self._standing(cell).row()
        for cell in self._rung_cells:
            yield cell.row()

    def decisions(self) -> list[dict[str, Any]]:
        """Return a line for each rung of each dataset that was decided."""
        return [decision for heat in self._heats.values() for decision in heat.decided]

    def outlook(self) -> list[Outlook]:
        """Return the stages with the most cells that each can have."""
        left = {name: len(heat.entered) for name, heat in self._heats.items()}
        early = sum(1 for cell in self.plan.cells() if self._is_early(cell) and cell.status == "run")
        found = []
        for rung in range(self._num_rungs):
            racing = [name for name, heat in self._heats.items() if rung < len(heat.epochs)]
            num_cells = sum(left[name] for name in racing) + (early if rung == 0 else 0)
            title = self._title(rung) + (" and baselines" if rung == 0 and early else "")
            found.append(Outlook(title=title, num_cells=num_cells, exact=rung == 0))
            left.update({name: num_kept(left[name], self.config) for name in racing})
        rest = sum(1 for cell in self._rest() if cell.status == "run" and cell.role != "cell")
        final = sum(left.values()) * len(self.plan.config.seeds) + rest
        return [*found, Outlook(title="finalists in full", num_cells=final, exact=not self._num_rungs)]

    @cached_property
    def _heats(self) -> dict[str, _Heat]:
        first = self.plan.config.seeds[0]
        entered: dict[str, list[Cell]] = {part.digest: [] for part in self.plan.datasets}
        for cell in self.plan.cells():
            if cell.seed == first and cell.role == "cell" and cell.status == "run":
                entered[cell.dataset.digest].append(cell)
        heats = {}
        for part in self.plan.datasets:
            cells = entered[part.digest]
            heats[part.digest] = _Heat(part, cells, rungs(part.train.epochs, len(cells), self.config), list(cells))
        return heats

    def _title(self, rung: int) -> str:
        lengths = sorted({heat.epochs[rung] for heat in self._heats.values() if rung < len(heat.epochs)})
        shown = str(lengths[0]) if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        return f"rung {rung + 1} of {self._num_rungs} ({shown} {'epoch' if lengths == [1] else 'epochs'})"

    def _is_early(self, cell: Cell) -> bool:
        """Whether it runs before the first decision: baselines of the first seed, what every gain is measured by."""
        return bool(self._num_rungs) and cell.role == "baseline" and cell.seed == self.plan.config.seeds[0]

    def _rest(self) -> Iterator[Cell]:
        return (cell for cell in self.plan.cells() if not self._is_early(cell))

    def _rung(self, rung: int) -> list[Cell]:
        left = {
            cell.cell_id
            for heat in self._heats.values()
            if rung < len(heat.epochs) and not heat.waiting
            for cell in heat.left
        }
        found = []
        # In the plan's order, in which datasets and fusions take turns.
        for cell in self.plan.cells():
            if cell.cell_id in left:
                epochs = self._heats[cell.dataset.digest].epochs[rung]
                about = {"rung": rung + 1, "epochs": epochs}
                found.append(self.plan.variant(cell, role="rung", train={"epochs": epochs}, about=about))
        return found

    def _decide(self, heat: _Heat, rung: int, cells: Sequence[Cell], results: Results) -> None:
        """Let the best go on, or note what has to end first."""
        came = [(cell, results.get(cell.cell_id)) for cell in cells]
        unsettled = num_unsettled(cells, results)
        if unsettled:
            heat.waiting = f"rung {rung + 1} of {len(heat.epochs)} is not decided: {unsettled} of its cells did not end"
            return
        known = [(cell, result) for cell, result in came if result is not None and result.order is not None]
        # The sort is stable: of equal cells the one that the plan has first goes on.
        known.sort(key=lambda pair: pair[1].order or (), reverse=True)
        ranked = [cell.combo for cell, _ in known]
        kept = set(ranked[: num_kept(len(heat.left), self.config)])
        where = f"rung {rung + 1} of {len(heat.epochs)} ({_epochs(heat.epochs[rung])})"
        for cell, result in came:
            if cell.combo not in kept:
                heat.stopped[cell.combo] = (rung + 1, _why(where, cell, result, ranked, len(kept)))
        heat.left = [cell for cell in heat.left if cell.combo in kept]
        heat.decided.append(
            {
                "kind": "rung",
                "dataset": heat.dataset.label,
                "rung": rung + 1,
                "num_rungs": len(heat.epochs),
                "epochs": heat.epochs[rung],
                "full_epochs": heat.dataset.train.epochs,
                "seed": self.plan.config.seeds[0],
                "eta": self.config.eta,
                "num_entered": len(came),
                "num_kept": len(kept),
                "scores": [_score(cell, result, place < len(kept)) for place, (cell, result) in enumerate(known)]
                + [_score(cell, result, False) for cell, result in came if cell.combo not in ranked],
            }
        )

    def _final(self) -> Iterator[Cell]:
        return (self._standing(cell) for cell in self._rest())

    def _standing(self, cell: Cell) -> Cell:
        """Return a cell of the grid as the race leaves it: to run, stopped, or pending while its combo races."""
        heat = self._heats[cell.dataset.digest]
        if cell.role != "cell" or cell.status != "run" or not heat.epochs:
            return cell
        if cell.combo in heat.stopped:
            rung, reason = heat.stopped[cell.combo]
            return replace(cell, status="stopped", reason=reason, about={"rung": rung, "num_rungs": len(heat.epochs)})
        if len(heat.decided) < len(heat.epochs):
            reason = heat.waiting or f"in the race: rung {len(heat.decided) + 1} of {len(heat.epochs)} comes next"
            return replace(cell, status="pending", reason=reason)
        return cell


def _epochs(number: int) -> str:
    return "1 epoch" if number == 1 else f"{number} epochs"


def _why(where: str, cell: Cell, result: Result | None, ranked: Sequence[str], num_on: int) -> str:
    if cell.combo not in ranked:
        return f"stopped at {where}: {result.status if result else cell.status} there"
    place = ranked.index(cell.combo) + 1
    return f"stopped at {where}: place {place} of {len(ranked)} on val, and {num_on} went on"


def _score(cell: Cell, result: Result | None, kept: bool) -> dict[str, Any]:
    row: Mapping[str, Any] = cell.row()
    return {
        **{name: row[name] for name in ("cell_id", "encoders", "fusion", "objective")},
        **told(cell, result),
        "kept": kept,
    }
