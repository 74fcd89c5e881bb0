"""Training objectives for mmbench: what training minimises and how its gradients are used."""

from __future__ import annotations

from mmbench import ObjectiveSpec, hookimpl

OBJECTIVES = (
    ObjectiveSpec(
        name="supervised",
        factory="mmbench_objectives.supervised:Supervised",
        version="1",
        summary="The tasks' losses on the fused prediction",
        licence="Apache-2.0",
    ),
)


@hookimpl
def mmbench_objectives() -> tuple[ObjectiveSpec, ...]:
    """Return this package's objectives."""
    return OBJECTIVES
