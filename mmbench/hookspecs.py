"""The whole extension surface: hooks that return descriptors, called when names are looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pluggy

from mmbench.spec import DatasetSpec, EncoderSpec, ExecutorSpec, FusionSpec, ObjectiveSpec, TrackerSpec

PROJECT = "mmbench"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def mmbench_encoders() -> Sequence[EncoderSpec]:  # type: ignore[empty-body]
    """Return the encoders that this plugin offers."""


@hookspec
def mmbench_fusions() -> Sequence[FusionSpec]:  # type: ignore[empty-body]
    """Return the fusions that this plugin offers."""


@hookspec
def mmbench_objectives() -> Sequence[ObjectiveSpec]:  # type: ignore[empty-body]
    """Return the objectives that this plugin offers."""


@hookspec
def mmbench_datasets() -> Sequence[DatasetSpec]:  # type: ignore[empty-body]
    """Return the datasets that this plugin offers."""


@hookspec
def mmbench_trackers() -> Sequence[TrackerSpec]:  # type: ignore[empty-body]
    """Return the trackers that this plugin offers: `mmbench run --tracker NAME` tells them how the run goes."""


@hookspec
def mmbench_executors() -> Sequence[ExecutorSpec]:  # type: ignore[empty-body]
    """Return the executors that this plugin offers: `mmbench run --executor NAME` runs the cells there."""


@hookspec
def mmbench_skip(combo: Mapping[str, Any]) -> str | None:
    """Return why this combo should not run, or None.

    `combo` holds plain JSON: ``dataset``, ``encoders`` (by modality), ``fusion`` and ``objective``, each with ``ref``
    and ``options``. The reason makes the cell `incompatible`.
    """
