"""Which planner walks through a selection: an ordinary grid at once, a race rung by rung, a sweep after its trials."""

from __future__ import annotations

from mmbench.errors import UsageError
from mmbench.plan import Plan
from mmbench.race import Race
from mmbench.stage import AtOnce, Planner
from mmbench.sweep import Sweep


def planner_of(plan: Plan) -> Planner:
    """Return the planner that a plan's configuration asks for.

    Raises:
        UsageError: its table in the run file cannot be used.
        Unavailable: a sweep asks for Optuna, which is not installed.
    """
    raced = plan.config.grid == "race" or bool(plan.config.race)
    if raced and plan.config.sweep:
        raise UsageError("a race and a sweep both decide what is trained: run the race first, then sweep its finalists")
    if plan.config.sweep:
        return Sweep(plan)
    if raced:
        return Race(plan)
    return AtOnce(plan)
