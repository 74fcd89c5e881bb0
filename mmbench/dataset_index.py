"""The index of a dataset: ids, targets, facts and statistics of its samples, without their inputs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mmbench.data import SPLITS, Array, Sample, Split, check_canonical, iterate_samples, read_target, summary_of
from mmbench.errors import ContractError, DataError, error_list
from mmbench.input_statistics import (
    InputStatistics,
    InputSummary,
    digests_of,
    robust_facts,
    spread_warning,
    statistics_of,
)
from mmbench.spec import DatasetInfo, Modality, TaskSpec

#: Samples of a split that are decoded for its statistics where a dataset cannot read headers alone.
_DECODED_SAMPLES = 256


@dataclass(frozen=True)
class Index:
    """What is known of every sample without its inputs.

    Attributes:
        sample_ids: By split.
        targets: By split and task: int64 (N,), float32 (N, K) of labels, float64 (N, K) of a regression.
        facts: By modality: what the training samples say (channels, size, rate, num_features); see `robust_facts`.
        statistics: By split and modality.
        digests: By split and modality: uint64 (N,) of the inputs as stored, 0 where absent or not known; empty where
            not all samples were examined.
        groups: By split, the names of the samples' groups; empty where no sample of the split has one.
        weights: float32 (N,) of the training samples' losses; None where all are 1.
        warnings: By modality, what is odd about its inputs.
        faults: By modality, why it cannot be used.
    """

    sample_ids: Mapping[Split, tuple[str, ...]]
    targets: Mapping[Split, Mapping[str, Array]]
    facts: Mapping[str, Mapping[str, Any]]
    statistics: Mapping[Split, Mapping[str, InputStatistics]] = field(default_factory=dict)
    digests: Mapping[Split, Mapping[str, Array]] = field(default_factory=dict)
    groups: Mapping[Split, tuple[str, ...]] = field(default_factory=dict)
    weights: Array | None = None
    warnings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def split_hash(self) -> str:
        """Changes whenever a sample moves to another split: hex, 16 digits."""
        text = json.dumps({split: list(self.sample_ids[split]) for split in SPLITS})
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_index(info: DatasetInfo, splits: Mapping[Split, Sequence[Sample]]) -> dict[str, Array]:
    """Return the arrays of the index of a dataset, as `read_index` reads them.

    Raises:
        ContractError: a sample, its id or a target is not of the promised form.
        DataError: ids repeat, or targets or weights cannot be used.
    """
    ids: dict[str, list[str]] = {}
    groups: dict[str, list[str]] = {}
    arrays: dict[str, Array] = {}
    weights: list[float] = []
    seen: dict[str, str] = {}
    reader = _InputReader(info.modalities)
    for split in SPLITS:
        ids[split], groups[split] = [], []
        targets: dict[str, list[Array]] = {task.name: [] for task in info.tasks}
        reader.begin(split, len(splits[split]))
        for position, sample in enumerate(iterate_samples(splits[split], split)):
            _check_id(sample.sample_id, split, seen)
            ids[split].append(sample.sample_id)
            groups[split].append(str(sample.group or ""))
            if split == "train":
                weights.append(_checked_weight(sample))
            for task in info.tasks:
                targets[task.name].append(read_target(task, sample))
            reader.read(sample, position)
        for number, task in enumerate(info.tasks):
            arrays[f"{split}.{number}"] = np.stack(targets[task.name])
        for number, modality in enumerate(info.modalities):
            arrays[f"{split}.digests.{number}"] = reader.digests(split, modality.name)
    _check_targets(info.tasks, arrays)
    if any(weight != 1 for weight in weights):
        if not any(weights):
            raise DataError("every sample of train has the weight 0, so there is nothing to learn from")
        arrays["train.weights"] = np.array(weights, dtype=np.float32)
    named = {split: names for split, names in groups.items() if any(names)}
    described = {"sample_ids": ids, "groups": named, **reader.described()}
    return {**arrays, "index": np.frombuffer(json.dumps(described).encode(), dtype=np.uint8)}


def read_index(info: DatasetInfo, arrays: Mapping[str, Array]) -> Index:
    """Return the index whose arrays `make_index` made."""
    described = json.loads(arrays["index"].tobytes().decode())
    targets = {
        split: {task.name: arrays[f"{split}.{number}"] for number, task in enumerate(info.tasks)} for split in SPLITS
    }
    ids = {split: tuple(described["sample_ids"][split]) for split in SPLITS}
    names = [modality.name for modality in info.modalities]
    statistics: dict[Split, dict[str, InputStatistics]] = {
        split: {name: InputStatistics.from_json(described["statistics"][split][name]) for name in names}
        for split in SPLITS
    }
    digests = {
        split: {name: arrays[f"{split}.digests.{number}"] for number, name in enumerate(names)} for split in SPLITS
    }
    return Index(
        sample_ids=ids,
        targets=targets,
        facts=described["facts"],
        statistics=statistics,
        digests=digests,
        groups={split: tuple(described["groups"].get(split, ())) for split in SPLITS},
        weights=arrays.get("train.weights"),
        warnings=described["warnings"],
        faults=described["faults"],
    )


class _InputReader:
    """Gathers what every sample says of its inputs, by split and modality."""

    def __init__(self, modalities: Sequence[Modality]) -> None:
        self._modalities = modalities
        self._summaries: dict[Split, dict[str, list[InputSummary | None]]] = {}
        self._errors: dict[Split, dict[str, list[str]]] = {}
        self._sizes: dict[Split, int] = {}
        self._faults: dict[str, str] = {}
        self._widths: dict[str, tuple[str, int]] = {}
        self._split: Split = "train"
        self._step = 1

    def begin(self, split: Split, size: int) -> None:
        """Start with a split of so many samples."""
        self._split, self._step = split, max(1, size // _DECODED_SAMPLES)
        self._sizes[split] = size
        self._summaries[split] = {modality.name: [] for modality in self._modalities}
        self._errors[split] = {modality.name: [] for modality in self._modalities}

    def read(self, sample: Sample, position: int) -> None:
        """Note what a sample says of each of its modalities."""
        for modality in self._modalities:
            name = modality.name
            try:
                has_header = hasattr(sample.inputs, "summary")
                if not has_header and not isinstance(sample.inputs, dict) and position % self._step:
                    continue
                summary = _summary(sample, modality)
            except DataError as error:
                self._errors[self._split][name].append(str(error))
                continue
            self._summaries[self._split][name].append(summary)
            width = summary.facts.get("num_features") if summary else None
            if width is not None:
                first, expected = self._widths.setdefault(name, (sample.sample_id, width))
                if width != expected:
                    self._faults.setdefault(
                        name,
                        f"{name!r} has {expected} numbers in sample {first!r} and {width} in {sample.sample_id!r}; "
                        "give vectors of one width, or leave the modality out",
                    )

    def digests(self, split: Split, name: str) -> Array:
        """Return the digests of a split's inputs; empty where not all could be computed."""
        summaries = self._summaries[split][name]
        whole = len(summaries) == self._sizes[split] and all(item is None or item.digest for item in summaries)
        return digests_of(summaries if whole else [])

    def described(self) -> dict[str, Any]:
        """Return facts, statistics, warnings and faults as plain JSON."""
        names = [modality.name for modality in self._modalities]
        facts = {name: robust_facts(self._summaries["train"][name]) for name in names}
        statistics = {
            split: {name: statistics_of(self._summaries[split][name], self._errors[split][name]) for name in names}
            for split in SPLITS
        }
        warnings: dict[str, list[str]] = {name: [] for name in names}
        for name in names:
            errors = [error for split in SPLITS for error in self._errors[split][name]]
            if errors:
                self._faults[name] = error_list(f"{len(errors):,} inputs of {name!r} cannot be read", errors)
            elif not statistics["train"][name].present:
                self._faults.setdefault(name, _absent(name, self._sizes["train"]))
            elif not statistics["test"][name].present:
                warnings[name].append(
                    f"no sample of test has {name!r}: no test score says anything about this modality"
                )
            spread = spread_warning(name, self._summaries["train"][name], facts[name])
            warnings[name] += [spread] if spread else []
        return {
            "facts": facts,
            "statistics": {
                split: {name: dataclasses.asdict(item) for name, item in found.items()}
                for split, found in statistics.items()
            },
            "warnings": warnings,
            "faults": self._faults,
        }


def _summary(sample: Sample, modality: Modality) -> InputSummary | None:
    summarize = getattr(sample.inputs, "summary", None)
    if summarize is not None:
        found: InputSummary | None = summarize(modality.name)
        return found
    value = sample.inputs.get(modality.name)
    if value is None:
        return None
    check_canonical(f"{modality.name!r} of sample {sample.sample_id!r}", modality.kind, value)
    return summary_of(value)


def _absent(name: str, size: int) -> str:
    return (
        f"no sample of train has {name!r} ({size:,} samples), so nothing can be learned of it; move samples that have "
        "it to train, or leave the modality out"
    )


def _checked_weight(sample: Sample) -> float:
    weight = float(sample.weight)
    if not (math.isfinite(weight) and weight >= 0):
        raise DataError(f"the weight of sample {sample.sample_id!r} must be finite and at least 0, got {weight}")
    return weight


def _check_id(sample_id: Any, split: str, seen: dict[str, str]) -> None:
    if not isinstance(sample_id, str) or not sample_id:
        raise ContractError(f"a sample_id must be a non-empty string, got {sample_id!r} in split {split!r}")
    if sample_id in seen:
        raise DataError(f"sample id {sample_id!r} stands in {seen[sample_id]!r} and again in {split!r}; ids are unique")
    seen[sample_id] = split


def _check_targets(tasks: Sequence[TaskSpec], arrays: Mapping[str, Array]) -> None:
    for number, task in enumerate(tasks):
        train = arrays[f"train.{number}"]
        if task.kind == "multiclass" and len(np.unique(train)) < 2:
            raise DataError(
                f"task {task.name!r} has only one class in train ({int(train[0])}); there is nothing to learn. "
                "Check the label column and the split"
            )
