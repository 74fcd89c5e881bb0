"""Published multimodal datasets, read from the files as their authors lay them out."""

from __future__ import annotations

from mmbench import DatasetSpec, hookimpl


@hookimpl
def mmbench_datasets() -> list[DatasetSpec]:
    """Return the datasets of this package."""
    return []
