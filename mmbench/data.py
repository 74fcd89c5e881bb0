"""Canonical samples: the form of their inputs and targets, checks of that form, and summaries of inputs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmbench.errors import ContractError, DataError
from mmbench.input_statistics import InputSummary
from mmbench.spec import SPLITS as SPLITS
from mmbench.spec import Kind, TaskSpec
from mmbench.spec import Split as Split

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Waveform:
    """Mono audio.

    Attributes:
        values: float32 (L,), in [-1, 1] where the source was.
        rate: Samples per second, in Hz.
    """

    values: Array
    rate: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One item of a dataset, in canonical form.

    ======== ==============================================================
    kind     input
    ======== ==============================================================
    image    uint8 (C, H, W), C = 1 or 3
    audio    `Waveform`
    text     str
    video    uint8 (T, C, H, W), C = 1 or 3
    tabular  float32 (F,); NaN where a single value is unknown
    sequence float32 (T, F)
    ======== ==============================================================

    Attributes:
        sample_id: Stable and unique over all splits.
        inputs: By modality name; None where this sample lacks the modality. May be a lazy mapping that decodes on
            access: the core reads each modality once. Such a mapping may have a method ``summary(modality)`` that
            returns an `InputSummary` from the header alone, None where the sample lacks the modality.
        targets: By task name: an int (multiclass), K zeros and ones (multilabel), a float or K floats (regression).
        group: Name of what it shares with other samples (a speaker, a patient, a picture with several captions):
            samples of one group are one observation to intervals and tests, and belong in one split. "" where it
            stands alone.
        weight: Of its loss in training, at least 0; metrics count every sample once.
    """

    sample_id: str
    inputs: Mapping[str, Any]
    targets: Mapping[str, Any]
    group: str = ""
    weight: float = 1.0


def iterate_samples(samples: Sequence[Sample], split: Split) -> Iterator[Sample]:
    """Yield the samples of a split.

    Raises:
        ContractError: one of them is no `Sample`.
    """
    for position in range(len(samples)):
        sample = samples[position]
        if not isinstance(sample, Sample):
            raise ContractError(f"split {split!r}, item {position}: expected a Sample, got {type(sample).__name__}")
        yield sample


def check_canonical(where: str, kind: Kind, value: Any) -> None:
    """Check one input of a sample.

    Raises:
        ContractError: `value` is not what `Sample` promises for its kind.
        DataError: it is, but holds NaN, infinity or nothing.
    """
    if kind == "text":
        if not isinstance(value, str):
            raise ContractError(f"{where} must be str, got {type(value).__name__}")
        return
    array = value.values if isinstance(value, Waveform) else value
    if kind == "audio" and not (isinstance(value, Waveform) and isinstance(value.rate, int) and value.rate > 0):
        raise ContractError(f"{where} must be a Waveform with a rate in Hz, got {type(value).__name__}")
    dtype, dims = {
        "image": ("uint8", 3), "video": ("uint8", 4), "audio": ("float32", 1),
        "tabular": ("float32", 1), "sequence": ("float32", 2),
    }[kind]  # fmt: skip
    if not (isinstance(array, np.ndarray) and array.dtype == dtype and array.ndim == dims):
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ContractError(f"{where} ({kind}) must be {dtype} with {dims} axes, got {got}")
    if array.size == 0:
        raise DataError(f"{where} is empty; give None for a modality that a sample lacks")
    if kind in ("image", "video") and array.shape[-3] not in (1, 3):
        raise ContractError(f"{where} must have 1 or 3 channels before height and width, got shape {array.shape}")
    if kind in ("audio", "sequence") and not np.isfinite(array).all():
        raise DataError(f"{where} holds NaN or infinity")
    if kind == "tabular" and np.isinf(array).any():
        raise DataError(f"{where} holds infinity; NaN is for a value that is not known")


def read_target(task: TaskSpec, sample: Sample) -> Array:
    """Return a sample's target for a task: an int64 scalar for multiclass and retrieval, float32 (K,) for multilabel.

    For regression it is float64 (K,): float32 has no two numbers less than 128 apart among times of today, in seconds.

    Raises:
        ContractError: it is not there, or not of the task's form.
        DataError: it is, but is not finite or not among the classes or labels.
    """
    where = f"target {task.name!r} of sample {sample.sample_id!r}"
    if task.name not in sample.targets:
        raise ContractError(f"{where} is not there; sample.targets has {', '.join(sample.targets) or 'nothing'}")
    value = sample.targets[task.name]
    if task.kind in ("multiclass", "retrieval"):
        if isinstance(value, float) and math.isnan(value):
            raise DataError(f"{where} is NaN; remove the sample or give it a label")
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            number = "class number" if task.kind == "multiclass" else "group's number"
            raise ContractError(f"{where} must be a {number}, got {value!r}")
        if task.kind == "multiclass" and not 0 <= value < task.num_outputs:
            raise DataError(f"{where} is {value}, outside 0 … {task.num_outputs - 1}")
        return np.asarray(value, dtype=np.int64)
    try:
        dtype = np.float64 if task.kind == "regression" else np.float32
        array = np.asarray(value, dtype=dtype).reshape(-1)
    except (TypeError, ValueError):
        raise ContractError(f"{where} must be numbers, got {value!r}") from None
    if array.shape != (task.num_outputs,):
        raise ContractError(f"{where} must hold {task.num_outputs} numbers, got {array.size}")
    if not np.isfinite(array).all():
        raise DataError(f"{where} is not finite ({value!r}); remove the sample or give it a label")
    if task.kind == "multilabel" and not np.isin(array, (0.0, 1.0)).all():
        raise DataError(f"{where} must hold zeros and ones, got {value!r}")
    return array


def facts_of(kind: Kind, value: Any) -> dict[str, Any]:
    """Return the facts of a modality (`mmbench.spec.Modality`) that a canonical input shows.

    >>> facts_of("image", np.zeros((3, 32, 48), np.uint8))
    {'channels': 3, 'size': [32, 48]}
    """
    if kind in ("image", "video"):
        return {"channels": int(value.shape[-3]), "size": [int(side) for side in value.shape[-2:]]}
    if kind == "audio":
        return {"rate": int(value.rate)}
    return {"num_features": int(value.shape[-1])} if kind in ("tabular", "sequence") else {}


def summary_of(value: Any) -> InputSummary:
    """Return the facts of a canonical input.

    >>> summary_of("two words").amounts
    {'words': 2.0}
    """
    digest = input_digest(value)
    if isinstance(value, str):
        return InputSummary(amounts={"words": float(len(value.split()))}, digest=digest)
    if isinstance(value, Waveform):
        facts = facts_of("audio", value)
        return InputSummary(
            facts=facts, amounts={"rate": value.rate, "seconds": len(value.values) / value.rate}, digest=digest
        )
    if value.dtype == np.uint8 and value.ndim >= 3:
        facts = facts_of("image", value)
        amounts = {"height": float(value.shape[-2]), "width": float(value.shape[-1])}
        return InputSummary(
            facts=facts, amounts=amounts | ({"frames": float(len(value))} if value.ndim == 4 else {}), digest=digest
        )
    amounts = {"length": float(len(value))} if value.ndim == 2 else {}
    return InputSummary(facts=facts_of("tabular", value), amounts=amounts, digest=digest)


def input_digest(value: Any) -> int:
    """Return 64 bits that depend on a canonical input and nothing else; never 0.

    >>> input_digest("one") == input_digest("one") != input_digest("two")
    True
    """
    if isinstance(value, str):
        described, content = "text", value.encode("utf-8", "surrogatepass")
    else:
        array = value.values if isinstance(value, Waveform) else value
        rate = value.rate if isinstance(value, Waveform) else ""
        described, content = f"{array.dtype}{array.shape}{rate}", np.ascontiguousarray(array).tobytes()
    digest = hashlib.blake2b(content, digest_size=8, person=hashlib.sha256(described.encode()).digest()[:16])
    return int.from_bytes(digest.digest(), "big") or 1
