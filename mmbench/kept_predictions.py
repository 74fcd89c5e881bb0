"""The predictions that cells keep: what their file calls them, and how it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmbench.encoding import parse_json
from mmbench.record import PREDICTIONS_FILE
from mmbench.spec import TaskSpec

Floats: TypeAlias = NDArray[np.float64]

#: Probabilities of multiclass tasks beyond this many numbers are kept of the most probable classes only.
MOST_NUMBERS = 4_000_000
#: So many of the most probable classes are kept then.
TOP_CLASSES = 64


@dataclass(frozen=True)
class TopProbabilities:
    """Probabilities (N, K) of which the largest of each sample, and that of its target, are known exactly.

    It can be asked what metrics over samples ask of an array: the most probable class, and single probabilities. As an
    array, classes that are not among those kept share equally what these leave of 1.

    Attributes:
        top: The largest probabilities, falling: (N, T).
        classes: Of `top`: (N, T).
        target: The true class: (N,).
        of_target: Its probability: (N,).
        num_classes: K.
    """

    top: Floats
    classes: NDArray[np.int64]
    target: NDArray[np.int64]
    of_target: Floats
    num_classes: int

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return len(self.top), self.num_classes

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    def __len__(self) -> int:
        return len(self.top)

    def argmax(self, axis: int) -> NDArray[np.int64]:
        """Return the most probable class of each sample, the first of equal ones: (N,)."""
        if axis != 1:
            raise ValueError(f"the most probable class is found along axis 1, not {axis}")
        found: NDArray[np.int64] = np.where(self.top == self.top[:, :1], self.classes, self.num_classes).min(axis=1)
        return found

    def __getitem__(self, place: Any) -> Floats:
        """Return rows, or single probabilities where `place` is (rows, classes), as of an array."""
        of_target = (np.arange(len(self)), self.target)
        if isinstance(place, tuple) and len(place) == 2 and all(map(np.array_equal, place, of_target)):
            return self.of_target
        found: Floats = np.asarray(self)[place]
        return found

    def take(self, rows: Any) -> TopProbabilities:
        """Return some of the rows, by a mask or by positions."""
        return TopProbabilities(
            self.top[rows], self.classes[rows], self.target[rows], self.of_target[rows], self.num_classes
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        rows = np.arange(len(self))
        known = np.zeros(self.shape, dtype=bool)
        known[rows[:, None], self.classes] = True
        known[rows, self.target] = True
        dense = np.zeros(self.shape, dtype=np.float64)
        dense[rows[:, None], self.classes] = self.top
        dense[rows, self.target] = self.of_target
        num_others = self.num_classes - known.sum(axis=1)
        rest = np.clip(1 - dense.sum(axis=1), 0, None) / np.maximum(num_others, 1)
        dense = np.where(known, dense, np.minimum(rest, self.top[:, -1])[:, None])
        return dense.astype(dtype or np.float64)


def top_probabilities(values: NDArray[Any], target: NDArray[Any]) -> TopProbabilities:
    """Return what is kept of probabilities (N, K) where there are many classes."""
    num_samples, num_classes = values.shape
    count = min(TOP_CLASSES, num_classes)
    rows = np.arange(num_samples)
    # The most probable class, the first of equal ones, is always among those kept: it decides the accuracy.
    best = values.argmax(axis=1)
    chosen = np.argpartition(values, -count, axis=1)[:, -count:]
    lacking = ~(chosen == best[:, None]).any(axis=1)
    chosen[lacking, 0] = best[lacking]
    order = np.argsort(-values[rows[:, None], chosen], axis=1, kind="stable")
    classes = chosen[rows[:, None], order]
    return TopProbabilities(
        values[rows[:, None], classes], classes, target.astype(np.int64), values[rows, target], num_classes
    )


@dataclass(frozen=True)
class Predictions:
    """What one cell kept of one task on one split, as its file has it.

    Attributes:
        prediction: (N, K), or (N, M * num_outputs) for retrieval; `TopProbabilities` where classes are many.
        target: (N,) or (N, K).
        ids: Of the samples, N.
        groups: Names of the samples' groups, N; None where the dataset gives none.
    """

    prediction: Floats | TopProbabilities
    target: Floats
    ids: tuple[str, ...]
    groups: tuple[str, ...] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the shapes are as said, and there are samples."""
        same = len(self.prediction) == len(self.target) == len(self.ids)
        return self.prediction.ndim == 2 and same and len(self.ids) > 0

    def of_samples(self, rows: Any) -> tuple[Floats | TopProbabilities, Floats]:
        """Return predictions and targets of some samples, by a mask or by positions."""
        prediction = self.prediction
        taken = prediction.take(rows) if isinstance(prediction, TopProbabilities) else prediction[rows]
        return taken, self.target[rows]


def load_predictions(cell_folder: Path, task: str, split: str = "test") -> Predictions | None:
    """Return what a cell kept of a task on a split, or None where its folder does not hold it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(cell_folder / PREDICTIONS_FILE, framework="numpy") as file:
            target = np.asarray(file.get_tensor(f"{split}.{task}.target"), dtype=np.float64)
            name = f"{split}.{task}.prediction"
            prediction: Floats | TopProbabilities
            if f"{name}.top" in file.keys():  # noqa: SIM118  (it is no mapping)
                prediction = TopProbabilities(
                    np.asarray(file.get_tensor(f"{name}.top"), dtype=np.float64),
                    file.get_tensor(f"{name}.classes").astype(np.int64),
                    target.astype(np.int64),
                    np.asarray(file.get_tensor(f"{name}.of_target"), dtype=np.float64),
                    int(file.get_tensor(f"{name}.num_classes")[0]),
                )
            else:
                prediction = np.asarray(file.get_tensor(name), dtype=np.float64)
            ids = parse_json(file.get_tensor(f"{split}.sample_ids").tobytes())
            named = f"{split}.groups" in set(file.keys())
            groups = parse_json(file.get_tensor(f"{split}.groups").tobytes()) if named else None
    except (OSError, SafetensorError, ValueError, TypeError, KeyError):
        return None
    if not isinstance(ids, list) or not (groups is None or (isinstance(groups, list) and len(groups) == len(ids))):
        return None
    return Predictions(prediction, target, tuple(map(str, ids)), None if groups is None else tuple(map(str, groups)))


def save_predictions(kept: Mapping[str, NDArray[Any]], cell_folder: Path, tasks: Sequence[TaskSpec]) -> None:
    """Write what a cell keeps, of multiclass tasks of many classes the most probable ones.

    The probabilities of train are kept whole: another cell may be distilled from them.
    """
    from safetensors.numpy import save_file

    written = {name: np.ascontiguousarray(value) for name, value in kept.items()}
    for task in tasks:
        for split in ("val", "test"):
            name = f"{split}.{task.name}.prediction"
            if task.kind != "multiclass" or name not in kept or kept[name].size <= MOST_NUMBERS:
                continue
            found = top_probabilities(written.pop(name), kept[f"{split}.{task.name}.target"])
            written[f"{name}.top"] = np.ascontiguousarray(found.top)
            written[f"{name}.classes"] = np.ascontiguousarray(found.classes.astype(np.uint32))
            written[f"{name}.of_target"] = np.ascontiguousarray(found.of_target)
            written[f"{name}.num_classes"] = np.array([found.num_classes], dtype=np.int64)
    save_file(written, cell_folder / PREDICTIONS_FILE)


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
