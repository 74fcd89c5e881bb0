"""Canonical samples, and a dataset read once: checked, indexed, and transformed into cached arrays."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from mmbench.cache import ArrayCache
from mmbench.errors import ContractError, DataError
from mmbench.input_statistics import (
    MOST_ERRORS,
    InputStatistics,
    InputSummary,
    digests_of,
    robust_facts,
    spread_warning,
    statistics_of,
)
from mmbench.spec import DatasetInfo, Kind, Modality, TaskSpec

Split: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Array: TypeAlias = NDArray[Any]
#: Samples of a split that are decoded for its statistics where a dataset cannot read headers alone.
_DECODED_SAMPLES = 256

#: Bumped when the index of unchanged data would hold something else.
INDEX_VERSION = 4


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
        samples
            of one group are one observation to intervals and tests, and belong in one split. "" where it stands alone.
        weight: Of its loss in training, at least 0; metrics count every sample once.
    """

    sample_id: str
    inputs: Mapping[str, Any]
    targets: Mapping[str, Any]
    group: str = ""
    weight: float = 1.0


Transform: TypeAlias = Callable[[Any], Array]


@dataclass(frozen=True)
class Column:
    """One modality of one split after an encoder's transform.

    Attributes:
        values: (N, …) when every sample has the same shape, else all samples joined along their first axis.
        offsets: (N + 1,) where each sample begins and ends in `values`; None when shapes are equal.
        present: (N,) boolean; an absent sample has zeros, or no rows at all.
        digests: (N,) uint64 of the inputs before the transform, 0 where absent; None where nobody took them.
    """

    values: Array
    offsets: Array | None
    present: Array
    digests: Array | None = None

    def __len__(self) -> int:
        return len(self.present)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], prefix: str = "") -> Column:
        """Return the column whose parts stand in a mapping, such as an entry of the cache, under their names.

        Args:
            arrays: By ``values``, ``present``, and where there are any ``offsets`` and ``digests``.
            prefix: What stands before these names, as "train.".
        """
        return cls(
            values=arrays[f"{prefix}values"],
            offsets=arrays.get(f"{prefix}offsets"),
            present=arrays[f"{prefix}present"],
            digests=arrays.get(f"{prefix}digests"),
        )


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


class DatasetSource:
    """A dataset plugin's splits, opened only when something is not in the cache yet.

    Args:
        info: Modalities and tasks.
        key: Content key of the dataset: reference, version, options and fingerprint.
        open_splits: Calls the plugin's factory.
        cache: Where indices and columns are kept.
    """

    def __init__(
        self, info: DatasetInfo, key: str, open_splits: Callable[[], Mapping[str, Any]], cache: ArrayCache
    ) -> None:
        self.info = info
        self.key = key
        self._open_splits = open_splits
        self._cache = cache

    @cached_property
    def splits(self) -> Mapping[Split, Sequence[Sample]]:
        """The plugin's splits.

        Raises:
            ContractError: they are not three sequences called train, val and test.
            DataError: one of them is empty.
        """
        opened = self._open_splits()
        if not isinstance(opened, Mapping) or set(opened) != set(SPLITS):
            got = ", ".join(map(str, opened)) if isinstance(opened, Mapping) else repr(type(opened).__name__)
            raise ContractError(f"a dataset must give the splits train, val and test; got {got}")
        for split in SPLITS:
            if not (hasattr(opened[split], "__len__") and hasattr(opened[split], "__getitem__")):
                raise ContractError(f"split {split!r} must be a sequence of Sample, got {type(opened[split]).__name__}")
            if not len(opened[split]):
                raise DataError(f"split {split!r} is empty; mmbench trains on train, chooses on val and reports test")
        return {split: opened[split] for split in SPLITS}

    @cached_property
    def index(self) -> Index:
        """Sample ids, targets and facts, checked; from the cache where it has them."""
        arrays = self._cache.get_or_make(_index_key(self.key), self._make_index)
        return self._read_index(arrays)

    @property
    def cached_index(self) -> Index | None:
        """The index where the cache has it, else None; nothing is opened."""
        arrays = self._cache.get(_index_key(self.key))
        return None if arrays is None else self._read_index(arrays)

    def _read_index(self, arrays: Mapping[str, Array]) -> Index:
        described = json.loads(arrays["index"].tobytes().decode())
        targets = {
            split: {task.name: arrays[f"{split}.{number}"] for number, task in enumerate(self.info.tasks)}
            for split in SPLITS
        }
        ids = {split: tuple(described["sample_ids"][split]) for split in SPLITS}
        names = [modality.name for modality in self.info.modalities]
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

    def modality(self, name: str) -> Modality:
        """Return a modality with its facts completed from the data.

        Raises:
            DataError: no sample of train has it, some inputs cannot be read, or vectors differ in width.
        """
        declared = self._declared(name)
        if name in self.index.faults:
            raise DataError(self.index.faults[name])
        return dataclasses.replace(declared, facts={**self.index.facts.get(name, {}), **declared.facts})

    def columns(self, modality: str, transform: Transform, transform_key: str) -> dict[Split, Column]:
        """Return one modality of every split after `transform`, from the cache where it has it."""
        key = f"column/{self.key}/{_digest([modality, transform_key])}"
        arrays = self._cache.get_or_make(key, lambda: self._make_columns(modality, transform))
        return {split: Column.from_arrays(arrays, f"{split}.") for split in SPLITS}

    def changed_column(
        self,
        modality: str,
        transform: Transform,
        key: str,
        change: Callable[[str, Any], Any],
        positions: Sequence[int],
    ) -> Column:
        """Return one modality of some test samples, changed before `transform`; cached under a key of its own.

        Args:
            modality: Which.
            transform: The encoder's.
            key: Names transform and change by what they do.
            change: (sample_id, canonical input) -> canonical input.
            positions: In the test split.
        """

        def make() -> dict[str, Array]:
            kind = self._declared(modality).kind
            rows: list[Array | None] = []
            shapes: set[tuple[int, ...]] = set()
            samples = self.splits["test"]
            for position in positions:
                sample = samples[position]
                value = sample.inputs.get(modality)
                if value is None:
                    rows.append(None)
                    continue
                value = change(sample.sample_id, value)
                check_canonical(f"{modality!r} of sample {sample.sample_id!r}, changed,", kind, value)
                rows.append(_transformed(modality, value, transform, shapes))
            return _pack(rows, shape=next(iter(shapes), (1,)), same=len(shapes) == 1)

        arrays = self._cache.get_or_make(f"column/{self.key}/{_digest([modality, key, list(positions)])}", make)
        return Column.from_arrays(arrays)

    def train_values(self, modality: str, positions: Sequence[int]) -> list[Any]:
        """Return one modality of some training samples as the dataset gives it; those that lack it are left out."""
        found = [self.splits["train"][position].inputs.get(modality) for position in positions]
        return [value for value in found if value is not None]

    def test_values(self, modality: str, positions: Sequence[int]) -> list[Any]:
        """Return one modality of some test samples as the dataset gives it, None where a sample lacks it."""
        return [self.splits["test"][position].inputs.get(modality) for position in positions]

    def _make_index(self) -> dict[str, Array]:
        ids: dict[str, list[str]] = {}
        groups: dict[str, list[str]] = {}
        arrays: dict[str, Array] = {}
        weights: list[float] = []
        seen: dict[str, str] = {}
        reader = _InputReader(self.info.modalities)
        for split in SPLITS:
            ids[split], groups[split] = [], []
            targets: dict[str, list[Array]] = {task.name: [] for task in self.info.tasks}
            reader.begin(split, len(self.splits[split]))
            for position, sample in enumerate(self._samples(split)):
                _check_id(sample.sample_id, split, seen)
                ids[split].append(sample.sample_id)
                groups[split].append(str(sample.group or ""))
                if split == "train":
                    weights.append(_checked_weight(sample))
                for task in self.info.tasks:
                    targets[task.name].append(read_target(task, sample))
                reader.read(sample, position)
            for number, task in enumerate(self.info.tasks):
                arrays[f"{split}.{number}"] = np.stack(targets[task.name])
            for number, modality in enumerate(self.info.modalities):
                arrays[f"{split}.digests.{number}"] = reader.digests(split, modality.name)
        _check_targets(self.info.tasks, arrays)
        if any(weight != 1 for weight in weights):
            if not any(weights):
                raise DataError("every sample of train has the weight 0, so there is nothing to learn from")
            arrays["train.weights"] = np.array(weights, dtype=np.float32)
        named = {split: names for split, names in groups.items() if any(names)}
        described = {"sample_ids": ids, "groups": named, **reader.described()}
        return {**arrays, "index": np.frombuffer(json.dumps(described).encode(), dtype=np.uint8)}

    def _make_columns(self, modality: str, transform: Transform) -> dict[str, Array]:
        kind = self._declared(modality).kind
        arrays: dict[str, Array] = {}
        shapes: set[tuple[int, ...]] = set()
        rows: dict[Split, list[Array | None]] = {}
        errors: list[str] = []
        for split in SPLITS:
            rows[split] = []
            digests: list[int] = []
            for sample in self._samples(split):
                try:
                    value = sample.inputs.get(modality)
                except DataError as error:
                    errors.append(str(error))
                    continue
                if value is None:
                    rows[split].append(None)
                    digests.append(0)
                    continue
                check_canonical(f"{modality!r} of sample {sample.sample_id!r}", kind, value)
                digests.append(input_digest(value))
                rows[split].append(_transformed(modality, value, transform, shapes))
            arrays[f"{split}.digests"] = np.array(digests, dtype=np.uint64)
        if errors:
            raise DataError(error_list(f"{len(errors):,} inputs of {modality!r} cannot be read", errors))
        if not shapes:
            raise DataError(f"no sample has the modality {modality!r}; leave it out of the selection")
        same = len(shapes) == 1
        for split in SPLITS:
            packed = _pack(rows[split], shape=next(iter(shapes)), same=same)
            arrays.update({f"{split}.{name}": array for name, array in packed.items()})
        return arrays

    def _declared(self, name: str) -> Modality:
        return next(modality for modality in self.info.modalities if modality.name == name)

    def _samples(self, split: Split) -> Iterator[Sample]:
        samples = self.splits[split]
        for position in range(len(samples)):
            sample = samples[position]
            if not isinstance(sample, Sample):
                raise ContractError(f"split {split!r}, item {position}: expected a Sample, got {type(sample).__name__}")
            yield sample


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


def error_list(headline: str, errors: Sequence[str]) -> str:
    """Return one message for several errors: the error itself, or a headline and the first `MOST_ERRORS`."""
    if len(errors) == 1:
        return errors[0]
    rest = f"\n  … and {len(errors) - MOST_ERRORS:,} more" if len(errors) > MOST_ERRORS else ""
    return f"{headline}:" + "".join(f"\n  {error}" for error in errors[:MOST_ERRORS]) + rest


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


def _index_key(key: str) -> str:
    return f"index/{INDEX_VERSION}/{key}"


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


#: Kinds whose inputs do not repeat by chance, as words and table rows do: one that does is the same recording.
RECORDED_KINDS: tuple[Kind, ...] = ("image", "audio", "video", "sequence")
#: Share of test samples with a repeated recording above which there is a warning: a score may be so much too high.
REPEATED_SHARE = 0.01


def repeated_inputs(columns: Mapping[str, Mapping[Split, Column]], info: DatasetInfo) -> list[str]:
    """Return warnings of test samples whose inputs stand in another split, by what a cell reads of them.

    One counts the samples that equal a sample of train or val in every modality of the dataset. One for each recorded
    modality (`RECORDED_KINDS`) counts those with a recording of train, whatever the other modalities are, where they
    are more than `REPEATED_SHARE` of test.

    Args:
        columns: By modality, of every split.
        info: Of the dataset.
    """
    digests = {
        name: {split: column.digests for split in SPLITS if (column := column_of[split]).digests is not None}
        for name, column_of in sorted(columns.items())
    }
    known = {name: of_split for name, of_split in digests.items() if len(of_split) == len(SPLITS)}
    num_equal = _num_equal_samples(known) if set(known) == {modality.name for modality in info.modalities} else 0
    found = []
    if num_equal:
        found.append(
            f"{num_equal} of {len(next(iter(known.values()))['test'])} test samples have exactly the inputs of a "
            "sample of train or val; scores on them say nothing about new data"
        )
    kinds = {modality.name: modality.kind for modality in info.modalities}
    for name in known.keys() & {name for name, kind in kinds.items() if kind in RECORDED_KINDS}:
        test, train = known[name]["test"], known[name]["train"]
        number = int((np.isin(test, train) & (test != 0)).sum())
        if number > max(num_equal, REPEATED_SHARE * len(test)):
            found.append(
                f"{number} of {len(test)} test samples ({number / len(test):.0%}) have exactly the {kinds[name]} "
                f"{name!r} of a sample of train, whose label a model can recall; keep samples that share it in one "
                "split (of a manifest: group=COLUMN)"
            )
    return sorted(found)


def _num_equal_samples(digests: Mapping[str, Mapping[Split, Array]]) -> int:
    """Return how many samples of test equal one of train or val in every modality."""
    joined: dict[Split, Array] = {}
    for split in SPLITS:
        total = np.zeros(1, dtype=np.uint64)
        for of_split in digests.values():
            total = total * np.uint64(0x9E3779B97F4A7C15) + of_split[split]  # wraps around, as it may
        joined[split] = total
    return int(np.isin(joined["test"], np.concatenate([joined["train"], joined["val"]])).sum())


def transform_key(encoder: Any, fallback: str) -> str:
    """Name a transform by what it does, so that encoders with equal transforms share one cached column.

    A transform that is a frozen dataclass is named by its class and fields; any other by `fallback`, the encoder's
    own identity.
    """
    transform = encoder.transform
    if dataclasses.is_dataclass(transform) and not isinstance(transform, type):
        owner = type(transform)
        return f"{owner.__module__}.{owner.__qualname__}:{transform!r}@{getattr(owner, 'version', '1')}"
    return fallback


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


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


def _check_targets(tasks: Sequence[TaskSpec], arrays: Mapping[str, Array]) -> None:
    for number, task in enumerate(tasks):
        train = arrays[f"train.{number}"]
        if task.kind == "multiclass" and len(np.unique(train)) < 2:
            raise DataError(
                f"task {task.name!r} has only one class in train ({int(train[0])}); there is nothing to learn. "
                "Check the label column and the split"
            )


def _transformed(modality: str, value: Any, transform: Transform, shapes: set[tuple[int, ...]]) -> Array:
    """Return an input after `transform`, checked; its shape joins those seen so far."""
    where, row = f"the transform of {modality!r}", np.asarray(transform(value))
    if row.dtype.kind not in "uifb":
        raise ContractError(f"{where} must give numbers, got dtype {row.dtype}")
    shapes.add(row.shape)
    if len(shapes) > 1:
        trailing = {shape[1:] for shape in shapes} | ({()} if any(not shape for shape in shapes) else set())
        if len(trailing) > 1 or len({len(shape) for shape in shapes}) > 1:
            a, b = sorted(shapes)[:2]
            raise ContractError(f"{where} gives shapes {a} and {b}; only the first axis may vary between samples")
    return row


def _pack(rows: Sequence[Array | None], *, shape: tuple[int, ...], same: bool) -> dict[str, Array]:
    present = np.array([row is not None for row in rows], dtype=bool)
    real = [row for row in rows if row is not None]
    dtype = real[0].dtype if real else np.dtype(np.float32)
    if same:
        values = np.zeros((len(rows), *shape), dtype=dtype)
        for position, row in enumerate(rows):
            if row is not None:
                values[position] = row
        return {"values": values, "present": present}
    lengths = [0 if row is None else len(row) for row in rows]
    values = np.concatenate(real) if real else np.zeros((0, *shape[1:]), dtype=dtype)
    return {"values": values, "offsets": np.cumsum([0, *lengths], dtype=np.int64), "present": present}
