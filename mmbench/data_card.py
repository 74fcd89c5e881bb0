"""The data card: what mmbench read of a dataset, for people to check before they believe a number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.cache import ArrayCache
from mmbench.config import part_root
from mmbench.data import SPLITS, Split
from mmbench.dataset_index import Index
from mmbench.dataset_source import DatasetSource
from mmbench.errors import DataError, MmbenchError
from mmbench.input_statistics import PERCENTILES, InputStatistics
from mmbench.part_code import load_attribute
from mmbench.parts import DatasetPart
from mmbench.spec import TaskSpec

#: Classes that a card names; the rest is counted.
MAX_CLASSES = 20
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


def open_source(part: DatasetPart, *, cache_dir: Path, data_dir: Path) -> DatasetSource:
    """Return a chosen dataset, as cells open it; its plugin is called only when the cache lacks something."""
    spec, reference = part.spec, part.reference

    def open_splits() -> Mapping[str, Any]:
        root = part_root(data_dir, reference.entry.ref)
        root.mkdir(parents=True, exist_ok=True)
        target = {"target": reference.target} if part.spec_takes_target else {}
        opened: Mapping[str, Any] = load_attribute(spec.factory)(root, **target, **reference.options)
        return opened

    return DatasetSource(part.info, part.key, open_splits, ArrayCache(cache_dir))


def read_card(part: DatasetPart, *, cache_dir: Path, data_dir: Path, cached_only: bool = False) -> DataCard | None:
    """Return the card of a chosen dataset, or None where it cannot be had.

    Args:
        part: The dataset.
        cache_dir, data_dir: Where arrays and downloaded data lie.
        cached_only: Open nothing: there is a card only where a cell, or an earlier card, read the data.

    Raises:
        DataError: the data cannot be used.
    """
    source = open_source(part, cache_dir=cache_dir, data_dir=data_dir)
    if cached_only:
        index = source.cached_index
        return None if index is None else make_card(part, index)
    try:
        return make_card(part, source.index)
    except DataError:
        raise
    except (MmbenchError, ImportError, OSError):
        return None


def make_card(part: DatasetPart, index: Index) -> DataCard:
    """Return the card of a dataset whose index was read."""
    info = part.info
    return DataCard(
        name=part.label,
        ref=part.reference.entry.ref,
        summary=part.spec.summary,
        num_samples={split: len(index.sample_ids[split]) for split in SPLITS},
        tasks=tuple(_task_card(task, index) for task in info.tasks),
        modalities=tuple(
            ModalityCard(
                name=modality.name,
                kind=modality.kind,
                facts={**index.facts.get(modality.name, {}), **modality.facts},
                splits={split: index.statistics[split][modality.name] for split in SPLITS},
                num_distinct=_num_distinct(index, modality.name),
                repeated=_repeated(index, modality.name),
                warnings=tuple(index.warnings.get(modality.name, ())),
                fault=index.faults.get(modality.name, ""),
            )
            for modality in info.modalities
        ),
        num_conflicting=_num_conflicting(index, info.tasks[0]),
        notes=info.notes,
        fingerprint=info.fingerprint,
        title=info.title,
    )


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


def _task_card(task: TaskSpec, index: Index) -> TaskCard:
    targets = {split: index.targets[split][task.name] for split in SPLITS}
    if task.kind == "regression":
        percentiles: dict[str, tuple[float, ...]] = {
            split: tuple(np.percentile(values, PERCENTILES, axis=0).mean(axis=1).tolist())
            for split, values in targets.items()
        }
        return TaskCard(name=task.name, kind=task.kind, num_outputs=task.num_outputs, percentiles=percentiles)
    if task.kind not in ("multiclass", "multilabel"):
        return TaskCard(name=task.name, kind=task.kind, num_outputs=task.num_outputs)
    counts = {
        split: np.bincount(values, minlength=task.num_outputs) if task.kind == "multiclass" else values.sum(axis=0)
        for split, values in targets.items()
    }
    names = task.class_names or tuple(map(str, range(task.num_outputs)))
    order = np.argsort(-counts["train"], kind="stable")
    absent = [names[number] for number in np.flatnonzero((counts["train"] == 0) & (counts["val"] + counts["test"] > 0))]
    return TaskCard(
        name=task.name,
        kind=task.kind,
        num_outputs=task.num_outputs,
        counts={
            split: {names[number]: int(counts[split][number]) for number in order[:MAX_CLASSES].tolist()}
            for split in SPLITS
        },
        absent=tuple(absent[:MAX_CLASSES]),
        num_absent=len(absent),
    )


def _num_distinct(index: Index, name: str) -> int | None:
    digests = index.digests["train"][name]
    return int(np.unique(digests[digests != 0]).size) if digests.size else None


def _repeated(index: Index, name: str) -> dict[str, int]:
    """Return how many inputs of test stand in train and in val, too."""
    test = index.digests["test"][name]
    found: dict[str, int] = {}
    others: tuple[Split, ...] = ("train", "val")
    for split in others:
        other = index.digests[split][name]
        if test.size and other.size:
            found[split] = int((np.isin(test, other) & (test != 0)).sum())
    return found


def _num_conflicting(index: Index, task: TaskSpec) -> int | None:
    """Return how many samples have inputs that occur with several targets; None where inputs are not known."""
    if task.kind != "multiclass":
        return None
    total = np.zeros(sum(len(index.sample_ids[split]) for split in SPLITS), dtype=np.uint64)
    for name in index.statistics["train"]:
        digests = np.concatenate([index.digests[split][name] for split in SPLITS])
        if digests.size != total.size:
            return None
        total = total * np.uint64(0x9E3779B97F4A7C15) + digests  # wraps around, as it may
    target = np.concatenate([index.targets[split][task.name] for split in SPLITS])
    inputs = np.unique(total, return_inverse=True)[1].ravel()
    pairs = np.unique(np.stack([inputs, target]), axis=1)
    targets_of = np.bincount(pairs[0])
    return int((targets_of[inputs] > 1).sum())
