"""What a finished cell leaves behind: its status, its reason and its numbers, as plain JSON."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

SCHEMA = 1
#: A line of JSON for each epoch, in the folder of an attempt, while it trains.
HISTORY_FILE = "history.jsonl"
#: "SPLIT.TASK.prediction", "SPLIT.TASK.target" and "SPLIT.sample_ids" (JSON), in the folder of a cell with a result.
PREDICTIONS_FILE = "predictions.safetensors"
#: Raw times by what was timed, as JSON, in the folder of a cell that was measured.
TIMINGS_FILE = "timings.json"

Status: TypeAlias = Literal[
    "ok",
    "cached",
    "incompatible",
    "unavailable",
    "failed",
    "oom_gpu",
    "oom_host",
    "timeout",
    "killed",
    "diverged",
    "interrupted",
]
STATUSES: tuple[Status, ...] = get_args(Status)
CellRole: TypeAlias = Literal["cell", "baseline", "rung", "trial"]
#: Roles of cells that only help to choose others: they are scored on val alone and stand in no leaderboard.
CHOOSING: tuple[CellRole, ...] = ("rung", "trial")
Direction: TypeAlias = Literal["max", "min", ""]

#: Statuses of a cell that has a result.
DONE: tuple[Status, ...] = ("ok", "cached")
#: Statuses of a cell that ran and has no result: each makes the exit code 1.
FAILURES: tuple[Status, ...] = ("failed", "oom_gpu", "oom_host", "timeout", "killed", "diverged", "interrupted")
#: Statuses that say more about the machine or the moment than about the cell: the same command tries again.
TRANSIENT: tuple[Status, ...] = ("unavailable", "killed", "interrupted")


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One number of a cell, in long form.

    Attributes:
        phase: "train", "evaluate", "profile", or "diagnose" for what is derived from scores on changed inputs.
        split: "train", "val" or "test"; "" where a split has no meaning.
        condition: "clean", or what was done to the inputs: "drop:audio", "noise:image.blur@0.3".
        task: Name of the task, or "".
        name: "accuracy", "throughput_samples_per_s", …
        value: The number, or None with the reason in `note`.
        unit: "1" for shares and counts, else SI: "s", "bytes", "samples/s", "flop".
        direction: "max" when more is better, "min" when less is, "" when neither.
        n: How many samples or repetitions the number rests on, or None.
        ci_low, ci_high: 95 % confidence interval, or None.
        note: Why the value is null, or how it was got.
    """

    phase: str
    name: str
    value: float | None
    split: str = ""
    condition: str = "clean"
    task: str = ""
    unit: str = "1"
    direction: Direction = ""
    n: int | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults; a value that is not finite becomes null with a note."""
        data: dict[str, Any] = {"phase": self.phase, "name": self.name, "value": self.value}
        if self.value is not None and not math.isfinite(self.value):
            data["value"] = None
            data["note"] = self.note or f"the value was {self.value}"
        for name in ("split", "condition", "task", "unit", "direction", "n", "ci_low", "ci_high", "note"):
            value = getattr(self, name)
            if value != _METRIC_DEFAULTS[name] and name not in data:
                data[name] = value
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Metric:
        """Rebuild a metric from `to_json`; fields this version does not know are dropped.

        Raises:
            ValueError: a field is missing or has another type.
        """
        _check_fields("metric", data, _METRIC_FIELDS, needs=("phase", "name", "value"))
        known = cls.__dataclass_fields__
        # A run has millions of numbers and a handful of words: interned, they fit in memory.
        given: dict[str, Any] = {
            key: sys.intern(value) if type(value) is str and len(value) < 200 else value
            for key, value in data.items()
            if key in known
        }
        return cls(**given)


_NUMBER = (int, float)
#: What each field of a metric may be; a bool is no number.
_METRIC_FIELDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("phase", "name", "split", "condition", "task", "unit", "note", "direction"), (str,)),
    **dict.fromkeys(("value", "ci_low", "ci_high"), (int, float, type(None))),
    "n": (int, type(None)),
}
_RECORD_FIELDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("cell_id", "status", "reason", "started_at"), (str,)),
    "attempt": (int,),
    "duration_s": _NUMBER,
    "metrics": (list, tuple),
    "info": (dict,),
}
#: What those parts of a record's info may be that mmbench itself reads.
_INFO_FIELDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(
        (
            "identity", "num_samples", "versions", "times_s", "perf_setup", "layouts", "feature_dims", "device_memory",
            "diagnostics", "encoder_cost",
        ),
        (dict, type(None)),
    ),
    **dict.fromkeys(("split_hash", "perf_key", "device", "precision", "selected_by"), (str, type(None))),
    **dict.fromkeys(("warnings", "history", "pooled"), (list, tuple, type(None))),
}  # fmt: skip
_METRIC_DEFAULTS = {name: item.default for name, item in Metric.__dataclass_fields__.items()}


@dataclass(frozen=True, kw_only=True)
class Record:
    """The outcome of one attempt at one cell: a line of the journal.

    Attributes:
        cell_id: First 16 hex digits of the cell's quality key.
        status: One of `STATUSES`.
        reason: Empty for "ok", else one line for people.
        attempt: 1 for the first.
        started_at: UTC, ISO 8601.
        duration_s: Wall time of the attempt.
        metrics: Every number.
        info: Facts for provenance and charts: hardware, versions, best epoch, history, warnings.
    """

    cell_id: str
    status: Status
    reason: str = ""
    attempt: int = 1
    started_at: str = ""
    duration_s: float = 0.0
    metrics: tuple[Metric, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON data."""
        return {
            "schema": SCHEMA,
            "cell_id": self.cell_id,
            "status": self.status,
            "reason": self.reason,
            "attempt": self.attempt,
            "started_at": self.started_at,
            "duration_s": round(self.duration_s, 6),
            "metrics": [metric.to_json() for metric in self.metrics],
            "info": dict(self.info),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """Rebuild a record from `to_json`.

        Raises:
            ValueError: the data are not a record, or of a newer schema.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            schema = data.get("schema") if isinstance(data, Mapping) else None
            raise ValueError(f"a record of schema {SCHEMA} was expected, got {schema!r}")
        check_record(data)
        return cls(
            cell_id=data["cell_id"],
            status=data["status"],
            reason=str(data.get("reason", "")),
            attempt=int(data.get("attempt", 1)),
            started_at=str(data.get("started_at", "")),
            duration_s=float(data.get("duration_s", 0.0)),
            metrics=tuple(Metric.from_json(metric) for metric in data.get("metrics", ())),
            info=dict(data.get("info", {})),
        )


def check_record(data: Mapping[str, Any]) -> None:
    """Check that `Record.from_json` takes the fields of a line of the journal, without making a record of them.

    Raises:
        ValueError: a field is missing or has another type.
    """
    if data.get("schema") != SCHEMA:
        raise ValueError(f"a record of schema {SCHEMA} was expected, got {data.get('schema')!r}")
    _check_fields("record", data, _RECORD_FIELDS, needs=("cell_id", "status"))
    if data["status"] not in STATUSES:
        raise ValueError(f"a record needs a known status, got {data['status']!r}")
    if not 0 <= data.get("duration_s", 0.0) < math.inf or data.get("attempt", 1) > 2**31:
        raise ValueError("a record's duration or number of attempts cannot be")
    for metric in data.get("metrics", ()):
        _check_fields("metric", metric, _METRIC_FIELDS, needs=("phase", "name", "value"))
    check_info(data.get("info", {}))


def check_info(info: Mapping[str, Any]) -> None:
    """Check the parts of a record's info that mmbench itself reads.

    Raises:
        ValueError: one has another type.
    """
    _check_fields("info", info, _INFO_FIELDS)
    if not all(isinstance(warning, str) for warning in info.get("warnings") or ()):
        raise ValueError("info's warnings must be text")
    if not all(isinstance(epoch, Mapping) for epoch in info.get("history") or ()):
        raise ValueError("info's history must be a list of objects")


def _check_fields(
    what: str, data: Mapping[str, Any], fields: Mapping[str, tuple[type, ...]], needs: Iterable[str] = ()
) -> None:
    if not isinstance(data, Mapping):
        raise ValueError(f"a {what} must be an object, got {type(data).__name__}")
    for name, value in data.items():
        if name in fields and not (isinstance(value, fields[name]) and type(value) is not bool):
            raise ValueError(f"a {what}'s {name} cannot be {type(value).__name__}")
    for name in needs:
        if name not in data:
            raise ValueError(f"a {what} needs {name}")
