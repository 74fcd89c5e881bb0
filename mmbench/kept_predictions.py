"""The predictions that cells keep: what their file calls them, and how it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmbench.record import PREDICTIONS_FILE

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """What one cell kept of one task on one split, as its file has it.

    Attributes:
        prediction: (N, K), or (N, M * num_outputs) for retrieval.
        target: (N,) or (N, K).
        ids: Of the samples, N.
        groups: Names of the samples' groups, N; None where the dataset gives none.
    """

    prediction: Floats
    target: Floats
    ids: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the shapes are as said, and there are samples."""
        same = len(self.prediction) == len(self.target) == len(self.ids)
        return self.prediction.ndim == 2 and same and len(self.ids) > 0


def load_predictions(cell_folder: Path, task: str, split: str = "test") -> Predictions | None:
    """Return what a cell kept of a task on a split, or None where its folder does not hold it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(cell_folder / PREDICTIONS_FILE, framework="numpy") as file:
            prediction = np.asarray(file.get_tensor(f"{split}.{task}.prediction"), dtype=np.float64)
            target = np.asarray(file.get_tensor(f"{split}.{task}.target"), dtype=np.float64)
            ids = json.loads(file.get_tensor(f"{split}.sample_ids").tobytes())
            named = f"{split}.groups" in file.keys()  # noqa: SIM118 (no mapping)
            groups = json.loads(file.get_tensor(f"{split}.groups").tobytes()) if named else None
    except (OSError, SafetensorError, ValueError, TypeError, KeyError):
        return None
    if not isinstance(ids, list) or not (groups is None or (isinstance(groups, list) and len(groups) == len(ids))):
        return None
    return Predictions(prediction, target, tuple(map(str, ids)), None if groups is None else tuple(map(str, groups)))


def kept_arrays(
    split: str,
    predicted: Mapping[str, NDArray[Any]],
    targets: Mapping[str, NDArray[Any]],
    ids: Sequence[str],
    groups: Sequence[str] = (),
) -> dict[str, NDArray[Any]]:
    """Return what a cell keeps of one split, as `load_predictions` finds it: predictions and targets are by task."""
    kept = {f"{split}.{name}.prediction": values for name, values in predicted.items()}
    kept.update({f"{split}.{name}.target": targets[name] for name in predicted})
    # As the bytes of a JSON list, so that predictions can be matched without the dataset.
    kept[f"{split}.sample_ids"] = np.frombuffer(json.dumps(ids).encode(), dtype=np.uint8)
    if groups:
        kept[f"{split}.groups"] = np.frombuffer(json.dumps(groups).encode(), dtype=np.uint8)
    return kept
