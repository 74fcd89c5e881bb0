"""Checks of datasets: splits that share nothing, ids and contents that stay, samples in canonical form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from mmbench.data import SPLITS, Sample, check_canonical, facts_of, read_target
from mmbench.errors import ContractError, DataError
from mmbench.testing.checks import Fault, NotChecked, Remark, check, covers
from mmbench.testing.compare import seed_everything
from mmbench.testing.dataset_subject import DatasetSubject, content_hash, ids_digest, ids_in_child
from mmbench.testing.state import changes, read_seeds, read_state


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
    mend="Correct the Modality's facts, or leave out what varies: the core reads it off the samples of train.",
    needs=("samples-are-canonical",),
)
def facts_hold(subject: DatasetSubject) -> None:
    for _, sample, inputs in subject.decoded:
        for modality in subject.info.modalities:
            value = inputs[modality.name]
            if value is None:
                continue
            true = facts_of(modality.kind, value)
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
                    target = read_target(task, sample)
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
    told = ids_in_child(subject)
    for split, ids in first.items():
        if told[split] != ids_digest(ids):
            raise Fault(f"in another process, with another PYTHONHASHSEED, {split} has other ids or another order")


@check(
    "opened-twice-is-the-same",
    "dataset",
    promise="Opened twice, under other seeds and read in another order, it gives the same content and labels.",
    mend="Seed a generator of your own with the `seed` option; draw nothing in __getitem__; store what is random once.",
    needs=("ids-are-stable", "splits-share-no-id", "samples-are-canonical"),
)
def opened_twice_is_the_same(subject: DatasetSubject) -> None:
    seed_everything(4242)
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
        seed_everything(seed)
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


def _first_difference(ids: Sequence[str], others: Sequence[str]) -> str:
    if len(ids) != len(others):
        return f"{len(others)} samples instead of {len(ids)}"
    a, b = next((a, b) for a, b in zip(ids, others) if a != b)
    return f"the id {b!r} where {a!r} stood"
