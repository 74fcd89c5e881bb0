"""The data card: what mmbench read of a dataset, for people to check before they believe a number."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mmbench.cache import ArrayCache
from mmbench.data_versions import card_key
from mmbench.encoding import parse_json
from mmbench.errors import DiskError
from mmbench.input_statistics import PERCENTILES, InputStatistics
from mmbench.parts import DatasetPart
from mmbench.spec import SPLITS

#: Classes that a card names; the rest is counted.
MAX_CLASSES = 20
#: What `DataCard.from_json` raises of JSON that is no card.
NO_CARD = (ValueError, TypeError, KeyError, AttributeError)
_MEDIAN, _HIGH = PERCENTILES.index(50), PERCENTILES.index(95)
#: Amounts of a modality that an option of encoders limits: amount, percentile that is compared, unit, what is said.
_LIMITS: Mapping[str, tuple[str, int, str]] = {
    "max_side": ("side", _MEDIAN, "px"),
    "rate": ("rate", _MEDIAN, "Hz"),
    "max_seconds": ("seconds", _HIGH, "s"),
    "num_frames": ("frames", _MEDIAN, "frames"),
}
_PLURALS = {"image": "images", "audio": "sounds", "video": "videos", "text": "texts", "sequence": "sequences"}


@dataclass(frozen=True, kw_only=True)
class TaskCard:
    """One task of a data card.

    Attributes:
        name, kind: As in `TaskSpec`.
        num_outputs: Classes, labels or values.
        counts: By split and class or label, the most frequent of train first; at most `MAX_CLASSES`.
        percentiles: Of a regression's targets by split: `PERCENTILES`, mean over outputs.
        absent: Classes that train lacks and another split has; at most `MAX_CLASSES` of `num_absent`.
        num_absent: How many those are.
    """

    name: str
    kind: str
    num_outputs: int
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    percentiles: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    num_absent: int = 0


@dataclass(frozen=True, kw_only=True)
class ModalityCard:
    """One modality of a data card.

    Attributes:
        name, kind: As in `Modality`.
        facts: What encoders are built for: channels, size, rate, num_features.
        splits: By split, how many samples have it, and percentiles of sizes, rates and lengths.
        num_distinct: Different inputs of train; None where they were not compared.
        repeated: Inputs of test that stand in train and in val, too; empty where they were not compared.
        readings: What encoders make of the inputs where they read less than is there.
        warnings: What is odd.
        fault: Why it cannot be used, or "".
    """

    name: str
    kind: str
    facts: Mapping[str, Any]
    splits: Mapping[str, InputStatistics]
    num_distinct: int | None = None
    repeated: Mapping[str, int] = field(default_factory=dict)
    readings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class DataCard:
    """Summary of a dataset as it was read.

    Attributes:
        name: The dataset's label, as in plans.
        title: Its short name.
        ref: Of the part that read it.
        summary: What it is.
        num_samples: By split.
        tasks, modalities: What there is to predict, and from what.
        num_conflicting: Samples whose inputs equal those of a sample with another target of the first task; None where
            inputs were not compared.
        notes: How the data were understood: where the split comes from, what was ignored.
        fingerprint: Of the content, or "".
    """

    name: str
    ref: str
    summary: str
    num_samples: Mapping[str, int]
    tasks: tuple[TaskCard, ...]
    modalities: tuple[ModalityCard, ...]
    num_conflicting: int | None = None
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    title: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the card as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DataCard:
        """Return the card that `to_json` wrote.

        Raises:
            TypeError, KeyError, ValueError, AttributeError: it is none.
        """
        tasks = tuple(
            TaskCard(
                **{
                    **task,
                    "absent": tuple(task["absent"]),
                    "percentiles": {split: tuple(values) for split, values in task["percentiles"].items()},
                }
            )
            for task in data["tasks"]
        )
        modalities = tuple(
            ModalityCard(
                **{
                    **item,
                    "splits": {split: InputStatistics.from_json(found) for split, found in item["splits"].items()},
                    "readings": tuple(item["readings"]),
                    "warnings": tuple(item["warnings"]),
                }
            )
            for item in data["modalities"]
        )
        return cls(**{**data, "tasks": tasks, "modalities": modalities, "notes": tuple(data["notes"])})

    def with_readings(self, encoders: Iterable[tuple[str, str, Mapping[str, Any]]]) -> DataCard:
        """Return the card with what encoders make of the inputs.

        Args:
            encoders: Modality, label, and options of each encoder.
        """
        by_modality: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
        for name, label, options in encoders:
            by_modality.setdefault(name, []).append((label, options))
        modalities = tuple(
            replace(item, readings=_readings(item, by_modality.get(item.name, []))) for item in self.modalities
        )
        return replace(self, modalities=modalities)


def cached_card(part: DatasetPart, cache: ArrayCache) -> DataCard | None:
    """Return the card of a chosen dataset that `keep_card` kept, or None; imports no NumPy, opens no data."""
    text = cache.get_text(card_key(part.key))
    try:
        return None if text is None else _labelled(DataCard.from_json(parse_json(text)), part)
    except NO_CARD:
        return None


def keep_card(part: DatasetPart, cache: ArrayCache, card: DataCard) -> DataCard:
    """Keep the card of a dataset for later commands, where there is room, and return it."""
    with suppress(DiskError):
        cache.put_text(card_key(part.key), json.dumps(card.to_json()))
    return card


def _labelled(card: DataCard, part: DatasetPart) -> DataCard:
    """Return a card with what it says of the plan's reference to the dataset, and not of its content."""
    return replace(card, name=part.label, title=part.info.title, summary=part.spec.summary, notes=part.info.notes)


def card_lines(card: DataCard) -> list[str]:
    """Return the card as lines of text; those that warn begin with "warning:"."""
    total = sum(card.num_samples.values())
    sizes = ", ".join(f"{split} {card.num_samples[split]:,}" for split in SPLITS)
    lines = [f"{card.name}: {total:,} samples: {sizes}"]
    lines += [f"  {note}" for note in card.notes if not note.startswith("warning:")]
    for task in card.tasks:
        lines += _task_lines(task)
    for modality in card.modalities:
        lines += _modality_lines(modality)
    if card.num_conflicting:
        lines.append(
            f"warning: {card.num_conflicting:,} samples have the inputs of another sample and another "
            f"{card.tasks[0].name!r}: labels may be wrong"
        )
    return [*lines, *(note for note in card.notes if note.startswith("warning:"))]


def _task_lines(task: TaskCard) -> list[str]:
    if task.kind == "regression":
        values = task.percentiles.get("train", ())
        spread = f": {_amount(values[0])} to {_amount(values[-1])}, median {_amount(values[_MEDIAN])} in train"
        return [f"  {task.name}: regression{spread if values else ''}"]
    if task.kind not in ("multiclass", "multilabel"):
        return [f"  {task.name}: {task.kind}"]
    what = "classes" if task.kind == "multiclass" else "labels"
    counts = [f"{name} {count:,}" for name, count in task.counts.get("train", {}).items()]
    shown = ", ".join(counts[:6]) + (", …" if task.num_outputs > 6 else "")
    lines = [f"  {task.name}: {task.kind}, {task.num_outputs:,} {what} (train: {shown})"]
    if task.num_absent:
        named = ", ".join(map(repr, task.absent[:5])) + (", …" if task.num_absent > 5 else "")
        lines.append(f"warning: {task.num_absent:,} {what} of {task.name!r} never occur in train: {named}")
    return lines


def _modality_lines(modality: ModalityCard) -> list[str]:
    statistics = [modality.splits[split] for split in SPLITS]
    present, examined = sum(item.present for item in statistics), sum(item.examined for item in statistics)
    parts = [f"{present:,} of {examined:,} samples have it" if present < examined else "no sample lacks it"]
    train = modality.splits["train"]
    amounts = _shown_amounts(modality)
    parts += [f"{_range(values, unit)}" for _, values, unit in amounts]
    if "num_features" in modality.facts:
        parts.append(f"{modality.facts['num_features']:,} numbers")
    if modality.num_distinct == 1 and train.present > 1:
        parts.append("all equal in train")
    lines = [f"  {modality.name} ({modality.kind}): {', '.join(parts)}"]
    repeated = {split: count for split, count in modality.repeated.items() if count}
    if repeated and modality.kind in ("image", "audio", "video", "sequence"):
        where = " and ".join(f"{count:,} in {split}" for split, count in repeated.items())
        lines.append(f"warning: inputs {modality.name!r} of test stand in other splits, too: {where}")
    lines += [f"    note: {reading}" for reading in modality.readings]
    lines += [f"warning: {warning}" for warning in modality.warnings]
    return [*lines, *([f"warning: {modality.fault}"] if modality.fault else [])]


def _shown_amounts(modality: ModalityCard) -> list[tuple[str, tuple[float, ...], str]]:
    """Return the sizes of a modality in train that a card shows: name, percentiles, unit."""
    amounts = modality.splits["train"].amounts
    units = {"side": "px", "rate": "Hz", "seconds": "s", "frames": "frames", "words": "words", "length": "steps"}
    found = []
    for name, unit in units.items():
        values = _side(amounts) if name == "side" else tuple(amounts.get(name, ()))
        if values:
            found.append((name, values, unit))
    return found


def _side(amounts: Mapping[str, Sequence[float]]) -> tuple[float, ...]:
    """Return percentiles of the longer side."""
    if "height" not in amounts or "width" not in amounts:
        return ()
    return tuple(max(pair) for pair in zip(amounts["height"], amounts["width"]))


def _range(values: Sequence[float], unit: str) -> str:
    if values[0] == values[-1]:
        return f"{_amount(values[0])} {unit}"
    return f"{_amount(values[_MEDIAN])} {unit} ({_amount(values[0])} to {_amount(values[-1])})"


def _amount(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _readings(modality: ModalityCard, encoders: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[str, ...]:
    """Say where encoders read less of the inputs than is there, and how that is changed."""
    amounts = {name: values for name, values, _ in _shown_amounts(modality)}
    found = []
    for option, (amount, percentile, unit) in _LIMITS.items():
        values = amounts.get(amount)
        limited: dict[float, list[str]] = {}
        for label, options in encoders:
            limit = options.get(option)
            if (
                values
                and isinstance(limit, int | float)
                and not isinstance(limit, bool)
                and 0 < limit < values[percentile]
            ):
                limited.setdefault(float(limit), []).append(label)
        for limit, labels in limited.items():
            assert values is not None
            value = values[percentile]
            labels = list(dict.fromkeys(labels))
            better = min(value, 4 * limit)
            what = f"{_PLURALS.get(modality.kind, modality.kind)} {modality.name!r} of {_amount(value)} {unit}"
            which = "" if values[0] == values[-1] else " (median)" if percentile == _MEDIAN else " (95th percentile)"
            bare = labels[0].split("[")[0]
            shown = ", ".join(labels[:4]) + (", …" if len(labels) > 4 else "")
            found.append(
                f"{what}{which} are read at {_amount(limit)} {unit} by {shown}; to read more: "
                f"'{modality.name}={bare}[{option}={_plain(better)}]'"
            )
    return tuple(found)


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.3g}"
