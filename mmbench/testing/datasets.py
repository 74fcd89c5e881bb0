"""Checks of datasets: splits that share nothing, ids and contents that stay, samples in canonical form."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.data import SPLITS, Sample, Waveform, _target, check_canonical, dataset_root
from mmbench.errors import ContractError, DataError, Unavailable
from mmbench.registry import load_attribute
from mmbench.spec import DatasetInfo, DatasetSpec
from mmbench.testing.checks import Fault, Level, NotChecked, Remark, check, covers
from mmbench.testing.state import changes, read_seeds, read_state
from mmbench.testing.target import Part

#: How long a level may spend on decoding inputs, in seconds; ids and labels are always read whole.
_DECODE_S: dict[Level, float] = {"api": 0.0, "smoke": 2.0, "full": 120.0}
_CHILD_LIMIT_S = 300.0


class DatasetSubject:
    """A dataset, opened once and read within a level's budget."""

    def __init__(self, part: Part, level: Level, device: str) -> None:
        self.part, self.level, self.device = part, level, device

    @property
    def spec(self) -> DatasetSpec:
        """Its descriptor."""
        assert isinstance(self.part.spec, DatasetSpec)
        return self.part.spec

    @functools.cached_property
    def root(self) -> Path:
        """Where it may keep files: what an installed one uses in runs, so that nothing is fetched or made twice."""
        if self.part.plugin.form == "distribution":
            from mmbench.config import data_dir  # pydantic is slow to import, and a child has no need of it

            root = dataset_root(data_dir(), self.part.ref)
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix="mmbench-check-")
            root = Path(self._temporary.name)
        root.mkdir(parents=True, exist_ok=True)
        return root

    @property
    def target(self) -> dict[str, str]:
        """The keyword that a dataset with a target is called with."""
        if self.spec.target == "required" and not self.part.target:
            raise NotChecked(f"it needs a target: check dataset:{self.part.ref}:TARGET")
        return {"target": self.part.target} if self.spec.target != "none" else {}

    @functools.cached_property
    def info(self) -> DatasetInfo:
        """What the descriptor or `describe` says."""
        spec = self.spec
        if not spec.describe:
            return DatasetInfo(modalities=spec.modalities, tasks=spec.tasks, missing=spec.missing)
        told = self.describe()
        if not isinstance(told, DatasetInfo):
            raise Fault(f"describe returned {type(told).__name__}", expected="a DatasetInfo")
        return told

    def describe(self) -> Any:
        """Call the descriptor's `describe` as planning does."""
        return load_attribute(self.spec.describe)(*self.target.values(), **self.part.options)

    def open(self) -> Mapping[str, Sequence[Sample]]:
        """Call the factory.

        Raises:
            NotChecked: its data are not here.
        """
        try:
            splits = load_attribute(self.spec.factory)(self.root, **self.target, **self.part.options)
        except Unavailable as error:
            raise NotChecked(f"unavailable here: {error}") from None
        return splits  # type: ignore[no-any-return]

    @functools.cached_property
    def splits(self) -> Mapping[str, Sequence[Sample]]:
        """The first opening."""
        return self.open()

    @functools.cached_property
    def samples(self) -> dict[str, list[Sample]]:
        """Every sample of every split; lazy inputs stay undecoded."""
        return {split: [self.splits[split][i] for i in range(len(self.splits[split]))] for split in SPLITS}

    @functools.cached_property
    def decoded(self) -> list[tuple[str, Sample, dict[str, Any]]]:
        """(split, sample, inputs by modality) of as many samples as time allows, spread over all splits."""
        limit = time.monotonic() + _DECODE_S[self.level]
        found = []
        for split, sample in _alternating(self.samples):
            inputs = {modality.name: sample.inputs.get(modality.name) for modality in self.info.modalities}
            found.append((split, sample, inputs))
            if time.monotonic() > limit and len(found) >= 30:
                break
        return found

    @functools.cached_property
    def hashes(self) -> list[tuple[str, str, str]]:
        """(split, sample id, digest of all inputs) of the decoded samples."""
        return [(split, sample.sample_id, content_hash(inputs)) for split, sample, inputs in self.decoded]


@check(
    "opens",
    "dataset",
    promise="The factory gives the splits train, val and test, each a sequence of Sample that is not empty.",
    mend='Return {"train": …, "val": …, "test": …}, each with __len__ and __getitem__ giving mmbench.Sample.',
    needs=("options-fit-the-factory",),
)
def opens(subject: DatasetSubject) -> None:
    splits = subject.splits
    if not isinstance(splits, Mapping) or set(splits) != set(SPLITS):
        got = ", ".join(map(str, splits)) if isinstance(splits, Mapping) else type(splits).__name__
        raise Fault(f"it gave {got}", expected="a mapping of train, val and test")
    for split in SPLITS:
        if not (hasattr(splits[split], "__len__") and hasattr(splits[split], "__getitem__")):
            raise Fault(f"{split} is a {type(splits[split]).__name__}", expected="a sequence")
        if not len(splits[split]):
            raise Fault(f"{split} is empty")
        for position in (0, len(splits[split]) - 1):
            if not isinstance(splits[split][position], Sample):
                raise Fault(
                    f"{split}[{position}] is a {type(splits[split][position]).__name__}", expected="an mmbench.Sample"
                )


@check(
    "splits-share-no-id",
    "dataset",
    promise="Every sample id is a text that stands once in all splits together.",
    mend="Make the id from what identifies the item in its source (a file's path, a row's key), and split by it.",
    needs=("opens",),
)
def splits_share_no_id(subject: DatasetSubject) -> None:
    seen: dict[str, str] = {}
    for split, samples in subject.samples.items():
        for sample in samples:
            if not isinstance(sample.sample_id, str) or not sample.sample_id:
                raise Fault(f"a sample of {split} has the id {sample.sample_id!r}", expected="a text that is not empty")
            if sample.sample_id in seen:
                raise Fault(f"{sample.sample_id!r} stands in {seen[sample.sample_id]} and in {split}")
            seen[sample.sample_id] = split


@check(
    "splits-share-no-content",
    "dataset",
    promise="No sample's content stands in two splits: what is tested was never trained on.",
    mend="Remove duplicates before splitting, or split by group, so that copies fall on one side.",
    needs=("samples-are-canonical", "splits-share-no-id"),
)
def splits_share_no_content(subject: DatasetSubject) -> None:
    where: dict[str, tuple[str, str]] = {}
    shared: list[tuple[str, str, str, str]] = []
    for split, sample_id, digest in subject.hashes:
        first = where.setdefault(digest, (split, sample_id))
        if first[0] != split:
            shared.append((*first, split, sample_id))
    if shared:
        a, b, c, d = shared[0]
        raise Fault(f"{len(shared)} of {len(subject.hashes)} samples read, such as {d!r} of {c}, equals {b!r} of {a}")
    total = sum(map(len, subject.samples.values()))
    if len(subject.hashes) < total and covers(subject.level, "full"):
        raise Remark(f"only {len(subject.hashes)} of {total} samples were read in the time there is")


@check(
    "samples-are-canonical",
    "dataset",
    promise="Inputs are in canonical form: uint8 images and video, Waveform, str, float32 tables and sequences.",
    mend="Convert in __getitem__; the forms are in the docstring of mmbench.data.Sample.",
    needs=("opens",),
)
def samples_are_canonical(subject: DatasetSubject) -> None:
    for split, sample, inputs in subject.decoded:
        for modality in subject.info.modalities:
            value = inputs[modality.name]
            if value is None:
                continue
            try:
                check_canonical(f"{modality.name!r} of {sample.sample_id!r} in {split}", modality.kind, value)
            except (ContractError, DataError) as error:
                raise Fault(str(error)) from None


@check(
    "facts-hold",
    "dataset",
    promise="The facts that a modality declares (channels, size, rate, num_features) are true of its samples.",
    mend="Correct the Modality's facts, or leave out what varies: the core reads it off the first sample.",
    needs=("samples-are-canonical",),
)
def facts_hold(subject: DatasetSubject) -> None:
    for _, sample, inputs in subject.decoded:
        for modality in subject.info.modalities:
            value = inputs[modality.name]
            if value is None:
                continue
            true = _facts(modality.kind, value)
            for name, fact in modality.facts.items():
                if name in true and true[name] != fact:
                    raise Fault(
                        f"{modality.name!r} of {sample.sample_id!r} has {name} {true[name]}", expected=f"{name} {fact}"
                    )


@check(
    "labels-in-range",
    "dataset",
    promise="Every sample has a valid target for every task, and train shows at least two classes.",
    mend="Multiclass: an int from 0 to num_outputs - 1; multilabel: zeros and ones; regression: finite floats.",
    needs=("opens",),
)
def labels_in_range(subject: DatasetSubject) -> None:
    seen: dict[str, Counter[int]] = {task.name: Counter() for task in subject.info.tasks}
    for split, samples in subject.samples.items():
        for sample in samples:
            for task in subject.info.tasks:
                try:
                    target = _target(task, sample)
                except (ContractError, DataError) as error:
                    raise Fault(f"{error} ({split})") from None
                if task.kind == "multiclass" and split == "train":
                    seen[task.name][int(target)] += 1
    for task in subject.info.tasks:
        if task.kind == "multiclass":
            if len(seen[task.name]) < 2:
                raise Fault(f"train shows only one class of {task.name!r}: {list(seen[task.name])}")
            absent = [number for number in range(task.num_outputs) if number not in seen[task.name]]
            if absent:
                raise Remark(f"train shows no sample of {len(absent)} classes of {task.name!r}: {absent[:8]}")


@check(
    "missing-is-declared",
    "dataset",
    promise="Samples have the declared modalities and no others; those that some samples lack stand in `missing`.",
    mend="Give None for a modality that a sample lacks, and name it in `missing` of the descriptor or of describe().",
    needs=("samples-are-canonical",),
)
def missing_is_declared(subject: DatasetSubject) -> None:
    names = {modality.name for modality in subject.info.modalities}
    lacking: Counter[str] = Counter()
    for split, sample, inputs in subject.decoded:
        extra = sorted(set(sample.inputs) - names)
        if extra:
            raise Fault(
                f"{sample.sample_id!r} of {split} brings {', '.join(extra)}",
                expected=f"only {', '.join(sorted(names))}",
            )
        gone = [name for name, value in inputs.items() if value is None]
        if len(gone) == len(names):
            raise Fault(f"{sample.sample_id!r} of {split} has no modality at all")
        lacking.update(gone)
    undeclared = sorted(set(lacking) - set(subject.info.missing))
    if undeclared:
        raise Fault(
            f"{undeclared[0]!r} is missing from {lacking[undeclared[0]]} samples, but `missing` does not name it"
        )
    idle = sorted(set(subject.info.missing) - set(lacking))
    if idle:
        raise Remark(f"`missing` names {', '.join(idle)}, which every sample read has")


@check(
    "ids-are-stable",
    "dataset",
    promise="Opening it again, here and in another process, gives the same ids in the same order.",
    mend="Sort what a folder or a set yields; never use hash(), uuid4(), time or a random number for ids.",
    needs=("opens",),
)
def ids_are_stable(subject: DatasetSubject) -> None:
    first = {split: [sample.sample_id for sample in samples] for split, samples in subject.samples.items()}
    again = subject.open()
    for split, ids in first.items():
        second = [again[split][i].sample_id for i in range(len(again[split]))]
        if second != ids:
            raise Fault(f"opened again, {split} has {_first_difference(ids, second)}")
    told = _ids_in_child(subject)
    for split, ids in first.items():
        if told[split] != _ids_digest(ids):
            raise Fault(f"in another process, with another PYTHONHASHSEED, {split} has other ids or another order")


@check(
    "opened-twice-is-the-same",
    "dataset",
    promise="Opened twice, under other seeds and read in another order, it gives the same content and labels.",
    mend="Seed a generator of your own with the `seed` option; draw nothing in __getitem__; store what is random once.",
    needs=("ids-are-stable", "splits-share-no-id", "samples-are-canonical"),
)
def opened_twice_is_the_same(subject: DatasetSubject) -> None:
    _seed_everything(4242)
    again = subject.open()
    positions = {
        (split, sample.sample_id): i for split, samples in subject.samples.items() for i, sample in enumerate(samples)
    }
    for split, sample_id, digest in list(reversed(subject.hashes))[:400]:
        position = positions[split, sample_id]
        other = again[split][position]
        inputs = {modality.name: other.inputs.get(modality.name) for modality in subject.info.modalities}
        if content_hash(inputs) != digest:
            raise Fault(f"{sample_id!r} of {split} has other content the second time")
        if repr(other.targets) != repr(subject.samples[split][position].targets):
            raise Fault(f"{sample_id!r} of {split} has other targets the second time")


@check(
    "fingerprint-is-stable",
    "dataset",
    promise="describe says the same each time, and a fingerprint where the data can change without a new version.",
    mend="Make the fingerprint from content (a hash over files), not from times, paths or ids of objects.",
    needs=("opens",),
)
def fingerprint_is_stable(subject: DatasetSubject) -> None:
    spec, first = subject.spec, subject.info
    if not spec.describe:
        return
    second = subject.describe()
    if second != first:
        raise Fault(f"two calls of describe gave {first} and {second}")
    if spec.target != "none" and not first.fingerprint:
        raise Remark("it reads a target, but gives no fingerprint: changed data would be taken for the old")


@check(
    "ceilings-make-sense",
    "dataset",
    promise="Declared ceilings name subsets of the modalities, lie in 0 … 1, and never fall when a modality is added.",
    mend='Write "audio+image" with names sorted; more information cannot lower the best reachable score.',
    needs=("factory-is-there",),
)
def ceilings_make_sense(subject: DatasetSubject) -> None:
    ceilings = subject.spec.ceilings
    if not ceilings:
        raise NotChecked("it declares none")
    names = {modality.name for modality in subject.info.modalities}
    sets = {}
    for key, value in ceilings.items():
        subset = key.split("+")
        if subset != sorted(set(subset)) or not set(subset) <= names:
            raise Fault(f"{key!r} is no sorted subset of {', '.join(sorted(names))}")
        if not (isinstance(value, int | float) and 0 <= value <= 1):
            raise Fault(f"the ceiling of {key!r} is {value!r}", expected="a number from 0 to 1")
        sets[frozenset(subset)] = value
    for small, low in sets.items():
        for large, high in sets.items():
            if small < large and low > high:
                raise Fault(f"{'+'.join(sorted(small))} may reach {low}, but {'+'.join(sorted(large))} only {high}")


@check(
    "leaves-the-process-alone",
    "dataset",
    promise="Opening and reading it sets no global seed and changes no folder, filter, variable or torch setting.",
    mend="Use np.random.default_rng(seed) of your own; never np.random.seed, random.seed or torch.manual_seed.",
    needs=("opens",),
)
def leaves_the_process_alone(subject: DatasetSubject) -> None:
    _ = subject.splits  # libraries that it imports are loaded by now
    after = []
    for seed in (7, 8):
        _seed_everything(seed)
        before = read_state(seeds=False)
        opened = subject.open()
        for split in SPLITS:
            sample = opened[split][0]
            _ = [sample.inputs.get(modality.name) for modality in subject.info.modalities]
        after.append(read_seeds())
        changed = changes(before, read_state(seeds=False))
        if changed:
            raise Fault(f"it changed {'; '.join(changed)}")
    fixed = [what for what, value in after[0].items() if after[1][what] == value]
    if fixed:
        raise Fault(f"it sets {', '.join(fixed)} to a fixed state")


def content_hash(inputs: Mapping[str, Any]) -> str:
    """Return a digest of everything that a sample shows."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        value = inputs[name]
        digest.update(f"\0{name}\0".encode())
        if isinstance(value, Waveform):
            digest.update(str(value.rate).encode())
            value = value.values
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def _alternating(samples: Mapping[str, Sequence[Sample]]) -> Iterator[tuple[str, Sample]]:
    """Yield samples of all splits in turn, each split's in a fixed spread order."""
    orders = {split: list(np.random.default_rng(0).permutation(len(found))) for split, found in samples.items()}
    for position in range(max(map(len, samples.values()))):
        for split, order in orders.items():
            if position < len(order):
                yield split, samples[split][order[position]]


def _facts(kind: str, value: Any) -> dict[str, Any]:
    if kind in ("image", "video"):
        return {"channels": int(value.shape[-3]), "size": [int(side) for side in value.shape[-2:]]}
    if kind == "audio":
        return {"rate": int(value.rate)}
    return {"num_features": int(value.shape[-1])} if kind in ("tabular", "sequence") else {}


def _first_difference(ids: Sequence[str], others: Sequence[str]) -> str:
    if len(ids) != len(others):
        return f"{len(others)} samples instead of {len(ids)}"
    a, b = next((a, b) for a, b in zip(ids, others) if a != b)
    return f"the id {b!r} where {a!r} stood"


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


def _ids_digest(ids: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()


def _ids_in_child(subject: DatasetSubject) -> dict[str, str]:
    """Open the dataset in another process with another PYTHONHASHSEED; return the digest of each split's ids."""
    plugin = subject.part.plugin
    request = {
        "path": list(plugin.path),
        "factory": subject.spec.factory,
        "root": str(subject.root),
        "options": {**subject.target, **subject.part.options},
    }
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-m", "mmbench.testing.datasets", json.dumps(request)],
        capture_output=True,
        text=True,
        timeout=_CHILD_LIMIT_S,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    try:
        told: dict[str, str] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        said = done.stderr.strip().splitlines()
        raise Fault(f"in another process it cannot be opened: {said[-1] if said else 'no word why'}") from None
    return told


def _main(request: Mapping[str, Any]) -> dict[str, str]:
    sys.path[:0] = request["path"]
    splits = load_attribute(request["factory"])(Path(request["root"]), **request["options"])
    return {split: _ids_digest([splits[split][i].sample_id for i in range(len(splits[split]))]) for split in SPLITS}


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(_main(json.loads(sys.argv[1])))}\n")
