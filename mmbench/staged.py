"""Stages driven through a run: each is launched, the planner is told what val says of it, its decisions are kept."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

from mmbench.combo import place_in_tables
from mmbench.record import DONE
from mmbench.runner import MAX_KILLED, Summary
from mmbench.stage import Planner, Result, Stage, only_val, result_of
from mmbench.store import RunStore


class Launch(Protocol):
    """Runs the missing cells of a stage."""

    def __call__(self, stage: Stage, num_missing: int, *, spent_s: float, max_failures: float | None) -> Summary:
        """Return how the stage stands when no more of it is launched."""


def run_stages(
    planner: Planner,
    store: RunStore,
    launch: Launch,
    *,
    max_failures: float | None = None,
    on_decisions: Callable[[Sequence[Mapping[str, Any]]], None] = lambda decisions: None,
) -> Summary:
    """Run every stage whose turn comes, and return how all of them stand.

    A stage follows when the one before was walked through; what stops a stage early stops the run. The plan of the run
    is written before anything of a stage is launched and after the last decision, so that it always says what becomes
    of every cell.

    Args:
        planner: Says what comes next.
        store: Open for writing.
        launch: Runs the missing cells of a stage.
        max_failures: As in `mmbench.runner.run`; a number is over all stages, a share of each.
        on_decisions: Told what was decided between two stages.
    """
    began = time.monotonic()
    summaries: list[Summary] = []
    stages = planner.stages()
    stage: Stage | None = next(stages)
    num_told, written = 0, False
    while stage is not None:
        missing = num_missing(store, stage)
        if missing:
            write_plan(store, planner)
            written = True
        failures = max_failures
        if isinstance(max_failures, int):
            failures = max(1, max_failures - sum(summary.num_failed for summary in summaries))
        summaries.append(launch(stage, missing, spent_s=time.monotonic() - began, max_failures=failures))
        if summaries[-1].cause:
            break
        try:
            stage = stages.send(_ResultsOf(store))
        except StopIteration:
            stage = None
        decisions = planner.decisions()
        on_decisions(decisions[num_told:])
        num_told = len(decisions)
        written = written and stage is None and not decisions
    if not written:
        write_plan(store, planner)
    return _joined(summaries, time.monotonic() - began)


def write_plan(store: RunStore, planner: Planner) -> None:
    """Write plan.json and decisions.json, keeping what earlier commands added to the same run."""
    plan = planner.plan
    kept_ids = _kept_ids(store, planner)
    # What earlier commands planned stays first; it is read while its successor is written beside it.
    kept_rows = (row for row in store.planned() if row["cell_id"] in kept_ids) if kept_ids else ()
    store.write_plan(itertools.chain(kept_rows, planner.rows()), {**store.datasets(), **plan.datasets_json()})
    decisions = planner.decisions()
    here = {part.label for part in plan.datasets}
    tuned = {_tuned_combo(decision) for decision in decisions}
    kept = [
        decision
        for decision in store.decisions()
        # A race is one of all combos of a dataset; each combo of a sweep is decided by itself.
        if (decision["dataset"] not in here if decision["kind"] == "rung" else _tuned_combo(decision) not in tuned)
    ]
    if kept or decisions:
        store.write_decisions([*kept, *decisions])


def _kept_ids(store: RunStore, planner: Planner) -> set[str]:
    """Return the cells that earlier commands planned and this one has not; a plan as before costs no memory."""
    before = (row["cell_id"] for row in store.planned())
    now = (row["cell_id"] for row in planner.rows())
    if all(one == other for one, other in itertools.zip_longest(before, now)):
        return set()
    ids = {row["cell_id"] for row in store.planned()}
    places = set()
    for row in planner.rows():
        ids.discard(row["cell_id"])
        places.add(place_in_tables(row))
    # What is made otherwise now has another id: by a newer version of a part, or tuned since it was pending.
    places.discard(None)
    ids.difference_update(row["cell_id"] for row in store.planned() if place_in_tables(row) in places)
    return ids


def _tuned_combo(decision: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(decision.get(name) for name in ("dataset", "encoders", "fusion", "objective"))


def num_missing(store: RunStore, stage: Stage) -> int:
    """Count the cells of a stage that have no result yet; some of them may be final failures."""
    done = {cell_id for cell_id, state in store.states().items() if state.status in DONE}
    return sum(cell.status == "run" and cell.cell_id not in done for cell in stage.cells())


class _ResultsOf(Mapping[str, Result]):
    """What a run's journal says of each cell on val; read when the planner first asks."""

    def __init__(self, store: RunStore) -> None:
        self.store = store

    @cached_property
    def _results(self) -> dict[str, Result]:
        states = self.store.states()
        return {
            cell_id: result_of(record, num_killed=states[cell_id].num_killed, max_killed=MAX_KILLED)
            for cell_id, record in self.store.records(only_val).items()
        }

    def __getitem__(self, cell_id: str) -> Result:
        return self._results[cell_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)


def _joined(summaries: Sequence[Summary], duration_s: float) -> Summary:
    counts: Counter[str] = Counter()
    for summary in summaries:
        counts.update(summary.counts)
    last = summaries[-1]
    return Summary(
        counts=dict(counts),
        num_launched=sum(summary.num_launched for summary in summaries),
        cause=last.cause,
        reason=last.reason,
        signum=last.signum,
        duration_s=duration_s,
    )
