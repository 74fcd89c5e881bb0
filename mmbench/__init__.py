"""mmbench: which encoders and which fusion are worth it for multimodal data, by how much, at what cost, and how sure.

Plugins import their words from here. What needs torch is imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmbench.errors import MmbenchError, Unavailable
from mmbench.hookspecs import hookimpl
from mmbench.spec import (
    AssetSpec,
    DatasetInfo,
    DatasetSpec,
    EncoderInfo,
    EncoderSpec,
    ExecutorSpec,
    FusionSpec,
    Modality,
    ObjectiveSpec,
    TaskSpec,
    TrackerSpec,
)

if TYPE_CHECKING:
    from mmbench.data import Sample as Sample
    from mmbench.data import Waveform as Waveform
    from mmbench.features import Features as Features
    from mmbench.report.export import load_frame as load_frame

__version__ = "0.1.0"

__all__ = [
    "AssetSpec",
    "DatasetInfo",
    "DatasetSpec",
    "EncoderInfo",
    "EncoderSpec",
    "ExecutorSpec",
    "Features",
    "FusionSpec",
    "MmbenchError",
    "Modality",
    "ObjectiveSpec",
    "Sample",
    "TaskSpec",
    "TrackerSpec",
    "Unavailable",
    "Waveform",
    "__version__",
    "hookimpl",
    "load_frame",
]

_LATE = {
    "Features": "mmbench.features",
    "Sample": "mmbench.data",
    "Waveform": "mmbench.data",
    "load_frame": "mmbench.report.export",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'mmbench' has no attribute {name!r}")
