"""Executors for mmbench: the cells of a grid on a SLURM cluster or on Ray."""

from __future__ import annotations

from mmbench import ExecutorSpec, hookimpl

EXECUTORS: tuple[ExecutorSpec, ...] = (
    ExecutorSpec(
        name="slurm",
        factory="mmbench_executors.slurm:SlurmExecutor",
        version="1",
        defaults={
            "partition": "",
            "account": "",
            "qos": "",
            "time": "",
            "memory": "",
            "gpus": 0,
            "cells_per_job": 0,
            "poll": 10.0,
            "sbatch": (),
            "setup": (),
        },
        requires=("submitit",),
        licence="Apache-2.0",
        summary="Cells as array jobs of a SLURM cluster, packed by walltime; the login node may die meanwhile",
    ),
    ExecutorSpec(
        name="ray",
        factory="mmbench_executors.ray:RayExecutor",
        requires=("ray",),
        defaults={"address": "local", "cpus": None, "gpus": 0.0},
        version="1",
        summary="Cells on Ray: a local one or a cluster that runs, with fractions of GPUs; lost nodes are made up for",
    ),
)


@hookimpl
def mmbench_executors() -> list[ExecutorSpec]:
    """Return the executors."""
    return list(EXECUTORS)
