"""Which planner walks through a selection: an ordinary grid at once, a race rung by rung."""

from __future__ import annotations

from mmbench.plan import Plan
from mmbench.race import Race
from mmbench.stage import AtOnce, Planner


def planner_of(plan: Plan) -> Planner:
    """Return the planner that a plan's configuration asks for.

    Raises:
        UsageError: its table in the run file cannot be used.
    """
    if plan.config.grid == "race" or plan.config.race:
        return Race(plan)
    return AtOnce(plan)
