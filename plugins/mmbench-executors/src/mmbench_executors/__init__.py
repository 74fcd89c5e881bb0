"""Executors for mmbench: the cells of a grid on a SLURM cluster or on Ray."""

from __future__ import annotations

from mmbench import ExecutorSpec, hookimpl

EXECUTORS: tuple[ExecutorSpec, ...] = ()


@hookimpl
def mmbench_executors() -> list[ExecutorSpec]:
    """Return the executors."""
    return list(EXECUTORS)
