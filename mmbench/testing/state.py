"""The state of the process that plugins must leave alone: read without importing anything, compared by name."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Mapping
from typing import Any

#: Packages that a light module must not import.
HEAVY = (
    "torch", "torchvision", "torchaudio", "torchmetrics", "timm", "transformers", "pandas",
    "sklearn", "tensorflow", "jax", "cv2", "librosa", "datasets",
)  # fmt: skip


def heavy_modules() -> list[str]:
    """Return which heavy packages are imported."""
    return [name for name in HEAVY if name in sys.modules]


def read_state(*, seeds: bool = True) -> dict[str, Any]:
    """Return the global settings of Python, numpy and torch as comparable values.

    numpy and torch are looked at only where they are loaded. Seeds move whenever anybody draws a number, so callers
    whose subject may draw leave them out.
    """
    state: dict[str, Any] = {
        "the working directory": os.getcwd(),  # noqa: PTH109
        "environment variables": dict(os.environ),
        "warnings filters": [repr(item) for item in warnings.filters],
        "sys.path": list(sys.path),
        "signal handlers": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "running threads": threading.active_count(),
    }
    if seeds:
        state |= read_seeds()
    if "torch" in sys.modules:
        state |= _torch_state()
    return state


def read_seeds() -> dict[str, str]:
    """Return digests of the global random generators' states."""
    seeds = {"the state of `random`": _digest(repr(random.getstate()).encode())}
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        kind, keys, *rest = numpy_random.get_state()
        seeds["numpy's global seed"] = _digest(repr((kind, rest)).encode() + keys.tobytes())
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_rng_state"):
        seeds["torch's global seed"] = _digest(bytes(torch.get_rng_state().numpy()))
    return seeds


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Say what differs between two states, one sentence part for each; what was not there before is not compared."""
    said = []
    for what, value in before.items():
        now = after.get(what, value)
        if now == value:
            continue
        if isinstance(value, Mapping):
            names = sorted(name for name in {*value, *now} if value.get(name) != now.get(name))
            said.append(f"{what} ({', '.join(names)})")
        elif isinstance(value, list) or "seed" in what or "state of" in what:
            said.append(what)
        else:
            said.append(f"{what} (from {value} to {now})")
    return said


def _torch_state() -> dict[str, Any]:
    import torch

    if not hasattr(torch, "get_default_dtype"):  # half imported
        return {}
    return {
        "torch's default dtype": str(torch.get_default_dtype()),
        "torch's default device": str(torch.get_default_device()),
        "torch's number of threads": torch.get_num_threads(),
        "torch's TF32 settings": [
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32,
            torch.get_float32_matmul_precision(),
        ],
        "cuDNN's settings": [
            torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic,
        ],
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "torch's grad mode": torch.is_grad_enabled(),
        "torch's anomaly detection": torch.is_anomaly_enabled(),
        "torch's autocast": torch.is_autocast_enabled("cpu"),
    }  # fmt: skip


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
