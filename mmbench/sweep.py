"""A sweep: every combo's hyperparameters are chosen on val, by equally many trials each, before it is trained for test.

A trial is a cell of its own, trained with the first seed and scored on val alone. Where a combo has fewer points than
trials, a point that comes again is trained with the next seed, and its score is the mean: a method with little to tune
gets as many trainings as any other. The values with the best mean score are chosen, of those that failed least often;
all seeds are trained with them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmbench.combo import Cell
from mmbench.errors import UsageError
from mmbench.parts import Part, make_part
from mmbench.plan import Plan
from mmbench.record import CellRole
from mmbench.spec_values import to_json
from mmbench.stage import Outlook, Result, Results, Stage, num_unsettled, told
from mmbench.sweep_space import DEFAULT_TRIALS, Axis, Sampler, Values, num_points, parts_of, read_sweep, sampler_of


@dataclass
class _Tuned:
    """One combo on its way to its hyperparameters.

    Attributes:
        cell: Of the first seed.
        axes: What of the combo is swept.
        sampler: Says what is tried.
        trials: What was tried: values by axis, and the cell that tries them.
        values: What was chosen; None before that.
        score: Mean score on val of what was chosen.
        failed: Why nothing could be chosen, or "".
        waiting: Why nothing is chosen yet, or "".
        decided: The decision as plain JSON.
    """

    cell: Cell
    axes: tuple[Axis, ...]
    sampler: Sampler
    trials: list[tuple[Values, Cell]] = field(default_factory=list)
    values: Values | None = None
    score: float | None = None
    failed: str = ""
    waiting: str = ""
    decided: dict[str, Any] | None = None


class Sweep:
    """The planner of a sweep.

    Args:
        plan: The whole grid; unimodal baselines are tuned like all others, the majority floor has nothing to tune.

    Raises:
        UsageError: the table `[sweep]` cannot be used, or what it sweeps is not in the selection or not in all of it.
        Unavailable: Optuna is asked for and not installed.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.config, self.axes = read_sweep(plan.config.sweep, plan.registry)
        self._parts: dict[str, Part] = {}
        self._combos = self._start()
        self._check()
        points = [num_points(combo.axes) for combo in self._combos.values()]
        most = max((count for count in points if count is not None), default=1)
        self.num_trials = most if self.config.method == "grid" else self.config.trials or DEFAULT_TRIALS

    @property
    def plan(self) -> Plan:
        """The whole grid."""
        return self._plan

    def stages(self) -> Generator[Stage, Results, None]:
        """Yield the trials, all at once or, where one leads to the next, one of each combo at a time; then the grid."""
        self._combos = self._start()
        in_turn = self.config.method == "optuna"
        for first in range(self.num_trials if in_turn else 1):
            numbers = [first] if in_turn else range(self.num_trials)
            # Every combo's first trial before any second one.
            asked = [self._ask(combo) for _ in numbers for combo in self._combos.values() if not combo.waiting]
            title = f"trial {first + 1} of {self.num_trials}" if in_turn else f"{self.num_trials} trials of each combo"
            results = yield Stage.of(title, asked)
            for combo in self._combos.values():
                self._tell(combo, results, last=first + 1 == self.num_trials or not in_turn)
        yield Stage(title="the grid, tuned", cells=self._final)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the grid's rows, tuned where that is decided, then those of the trials so far."""
        yield from (cell.row() for cell in self._final())
        for combo in self._combos.values():
            yield from (cell.row() for _, cell in combo.trials)

    def decisions(self) -> list[dict[str, Any]]:
        """Return a line for each combo whose values were chosen, with every trial's score."""
        return [combo.decided for combo in self._combos.values() if combo.decided is not None]

    def outlook(self) -> list[Outlook]:
        """Return the trials and the grid."""
        num_cells = sum(1 for cell in self.plan.cells() if cell.status == "run")
        num_trials = len(self._combos) * self.num_trials
        title = f"{self.num_trials} trials of each of {len(self._combos)} combos ({self.config.method}), on val alone"
        return [
            Outlook(title=title, num_cells=num_trials, exact=True),
            Outlook(title="the grid, tuned", num_cells=num_cells, exact=True),
        ]

    def _start(self) -> dict[str, _Tuned]:
        first, found = self.plan.config.seeds[0], {}
        for cell in self.plan.cells():
            if cell.seed == first and cell.fusion is not None and cell.status == "run":
                axes = tuple(axis for axis in self.axes if axis.applies_to(cell))
                if num_points(axes) != 1:
                    found[cell.combo] = _Tuned(cell, axes, sampler_of(axes, self.config))
        return found

    def _check(self) -> None:
        first = self.plan.config.seeds[0]
        cells = [cell for cell in self.plan.cells() if cell.seed == first and cell.fusion and cell.status == "run"]
        for axis in self.axes:
            if not any(axis.applies_to(cell) for cell in cells):
                raise UsageError(
                    f"[sweep] {axis.name}: nothing that can run in the selection has it; select it, or leave it out"
                )
        compared = [cell for cell in cells if cell.role == "cell"]
        left = next((cell for cell in compared if cell.combo not in self._combos), None)
        if left is not None:
            assert left.fusion is not None
            raise UsageError(
                f"[sweep] gives {left.fusion.label} on {left.dataset.label} nothing to tune, while it is compared with "
                "others that are tuned; sweep what all have, such as [sweep.train] lr, or leave it out of the selection"
            )

    def _ask(self, combo: _Tuned) -> Cell:
        values = combo.sampler.ask()
        again = sum(1 for before, _ in combo.trials if before == values)
        about = {"trial": len(combo.trials) + 1, "values": to_json(values)}
        cell = self._with(combo, combo.cell, values, "trial", about, seed=self.plan.config.seeds[0] + again)
        combo.trials.append((values, cell))
        return cell

    def _tell(self, combo: _Tuned, results: Results, *, last: bool) -> None:
        """Pass the latest trial on to the sampler; after the last one, choose."""
        if combo.waiting:
            return
        came = [(values, cell, results.get(cell.cell_id)) for values, cell in combo.trials]
        unsettled = num_unsettled((cell for _, cell in combo.trials), results)
        if unsettled:
            combo.waiting = f"not tuned yet: {unsettled} of its trials did not end"
            return
        latest = came[-1][2]
        combo.sampler.tell(latest.order[0] if latest is not None and latest.order is not None else None)
        if last:
            self._choose(combo, came)

    def _choose(self, combo: _Tuned, came: Sequence[tuple[Values, Cell, Result | None]]) -> None:
        """Take the values whose trials failed least often, and of these the ones with the best mean."""
        points: dict[str, list[tuple[float, float] | None]] = {}
        by_key: dict[str, Values] = {}
        for values, _, result in came:
            key = json.dumps(to_json(values), sort_keys=True)
            by_key[key] = values
            points.setdefault(key, []).append(result.order if result is not None else None)
        means: dict[str, tuple[float, ...]] = {}
        for key, orders in points.items():
            known = [order for order in orders if order is not None]
            if known:
                # A mean over the seeds that did not fail would favour values that work by luck.
                means[key] = (len(known) / len(orders), *(math.fsum(part) / len(known) for part in zip(*known)))
        if not means:
            combo.failed = "not tuned: no trial of it had a result"
        else:
            # Of equal points the one that was tried first.
            best = max(means, key=lambda key: means[key])
            combo.values, score = by_key[best], means[best][1]
            combo.score = score if math.isfinite(score) else None
        row = combo.cell.row()
        combo.decided = {
            "kind": "sweep",
            **{name: row[name] for name in ("dataset", "encoders", "fusion", "objective")},
            "method": self.config.method,
            "num_trials": len(combo.trials),
            "values": None if combo.values is None else to_json(combo.values),
            "val_score": combo.score,
            "trials": [
                {
                    "cell_id": cell.cell_id,
                    "seed": cell.seed,
                    "values": to_json(values),
                    **told(cell, result),
                }
                for values, cell, result in came
            ],
        }

    def _final(self) -> Iterator[Cell]:
        for cell in self.plan.cells():
            combo = self._combos.get(cell.combo)
            if combo is None or cell.status != "run":
                yield cell
            elif combo.values is not None:
                tuned = {
                    "values": to_json(combo.values),
                    "method": self.config.method,
                    "num_trials": len(combo.trials),
                    "val_score": combo.score,
                }
                yield self._with(combo, cell, combo.values, cell.role, {"tuned": tuned}, seed=cell.seed)
            elif combo.failed:
                yield replace(cell, status="stopped", reason=combo.failed)
            else:
                yield replace(cell, status="pending", reason=combo.waiting or "its trials come first")

    def _with(
        self, combo: _Tuned, cell: Cell, values: Values, role: CellRole, about: dict[str, Any], *, seed: int
    ) -> Cell:
        """Return a cell with these values; its parts keep their labels, so that rows are told apart by method alone."""
        axes = {axis.name: axis for axis in combo.axes}
        train = {axes[name].option: value for name, value in values.items() if axes[name].role == "train"}
        made = {(role_, name): self._part(part, role_, values, axes) for role_, name, part in parts_of(cell)}
        return self.plan.variant(
            cell,
            role=role,
            seed=seed,
            train=train,
            encoders={name: made["encoder", name] for name in cell.encoders},
            fusion=made.get(("fusion", "")),
            objective=made.get(("objective", "")),
            about=about,
        )

    def _part(self, part: Part, role: str, values: Values, axes: dict[str, Axis]) -> Part:
        reference = part.reference
        options = {
            axes[name].option: value
            for name, value in values.items()
            if axes[name].role == role and axes[name].belongs_to(part)
        }
        if not options:
            return part
        key = part.digest + json.dumps(to_json(options), sort_keys=True)
        if key not in self._parts:
            changed = replace(reference, options={**reference.options, **options})
            self._parts[key] = replace(make_part(self.plan.registry, changed), label=part.label)
        return self._parts[key]
