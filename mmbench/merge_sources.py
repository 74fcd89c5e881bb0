"""The runs that a merge joins: read as they are now, what they disagree about, and the names that follow from it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from mmbench.combo import place_in_tables
from mmbench.errors import UsageError
from mmbench.record import DONE, Record
from mmbench.store import RunStore

#: Split, condition, task and name of a score.
ScoreKey: TypeAlias = tuple[str, str, str, str]


@dataclass(frozen=True, kw_only=True)
class Decisive:
    """The attempt that decides about a cell in one source.

    Attributes:
        place: Its position among the records of the journal.
        scores: Of a cell that several sources plan, else empty.
    """

    place: int
    status: str
    started_at: str
    scores: Mapping[ScoreKey, float | None]


@dataclass(kw_only=True)
class Source:
    """One run that is merged, as it was when it was read.

    Attributes:
        labels: What each of its datasets is called in the new run.
        splits: Hashes of the splits that its cells saw, by dataset.
        identities: What the data were, by dataset, as its records tell.
        num_records: Of its journal; later ones are left for another merge.
    """

    name: str
    store: RunStore
    about: Mapping[str, Any]
    datasets: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Any]]
    labels: dict[str, str] = field(default_factory=dict)
    decisive: dict[str, Decisive] = field(default_factory=dict)
    splits: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    identities: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    num_records: int = 0
    num_damaged: int = 0
    num_without_files: int = 0


def open_sources(folders: Sequence[Path]) -> list[Source]:
    """Open the runs that are to be merged.

    Raises:
        UsageError: a run is missing, damaged or named twice, there are fewer than two, or they hold different things.
    """
    if len(folders) < 2:
        raise UsageError("name at least two runs to merge")
    stores = [RunStore.open(folder) for folder in folders]
    places = [store.folder.resolve() for store in stores]
    for place, count in Counter(places).items():
        if count > 1:
            raise UsageError(f"{place.name} is named {count} times; name each run once")
    sources = [
        Source(
            name=name,
            store=store,
            about=store.read_run(),
            datasets=store.datasets(),
            rows={row["cell_id"]: row for row in store.planned()},
        )
        for name, store in zip(_names(places), stores)
    ]
    first = sources[0]
    for source in sources[1:]:
        if kind(source) != kind(first):
            raise UsageError(
                f"{first.name} holds {kind(first)}s and {source.name} {kind(source)}s; a run holds one of the two"
            )
    return sources


def _names(places: Sequence[Path]) -> list[str]:
    """Name each run by its folder; with the folder above, and then a number, where that is not unique."""
    names = [place.name for place in places]
    if len(set(names)) < len(names):
        names = [f"{place.parent.name}/{place.name}" for place in places]
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return found


def kind(source: Source) -> str:
    """Return what a run holds."""
    return "profile" if source.about.get("kind") == "profile" else "trained cell"


def read_journals(sources: Sequence[Source]) -> None:
    """Note in every source which attempts decide, and what its cells saw of the data."""
    planned = Counter(cell_id for source in sources for cell_id in source.rows)
    for source in sources:
        for place, record in enumerate(source.store.journal):
            source.num_records = place + 1
            dataset = source.rows.get(record.cell_id, {}).get("dataset")
            if dataset is not None and record.status in DONE:
                _note_data(source, str(dataset), record.info)
            before = source.decisive.get(record.cell_id)
            if before is not None and before.status == "ok" and record.status != "ok":
                continue
            source.decisive[record.cell_id] = Decisive(
                place=place,
                status=record.status,
                started_at=record.started_at,
                scores=_scores(record) if planned[record.cell_id] > 1 else {},
            )
        source.num_damaged = source.store.journal.num_damaged


def _note_data(source: Source, dataset: str, info: Mapping[str, Any]) -> None:
    if isinstance(info.get("split_hash"), str):
        source.splits[dataset].add(info["split_hash"])
    identity = mapping(mapping(info.get("identity")).get("dataset"))
    if identity:
        source.identities.setdefault(dataset, identity)


def _scores(record: Record) -> dict[ScoreKey, float | None]:
    if record.status not in DONE:
        return {}
    return {
        (item.split, item.condition, item.task, item.name): item.value
        for item in record.metrics
        if item.phase == "evaluate"
    }


# What the sources disagree about


def settle_labels(sources: Sequence[Source], *, force: bool) -> list[str]:
    """Give every dataset of every source its name in the new run; return what to say about it.

    Raises:
        UsageError: sources disagree about a dataset, and `force` is not given.
    """
    notes: list[str] = []
    kept: dict[str, list[tuple[str, list[Source]]]] = defaultdict(list)  # by old name: new name and who has it
    for source in sources:
        for label in dict.fromkeys([*source.datasets, *(str(row["dataset"]) for row in source.rows.values())]):
            differences = [_differences(label, earlier, source) for _, earlier in kept[label]]
            at = next((at for at, found in enumerate(differences) if not found), None)
            if at is not None:
                agreeing, members = kept[label][at]
                members.append(source)
            else:
                agreeing = f"{label} (from {source.name})" if kept[label] else label
                if differences:
                    words = f"{label} is not the same in {kept[label][0][1][0].name} and {source.name}: "
                    notes.append(words + "; ".join(differences[0]))
                    if force:
                        notes[-1] += f"; what {source.name} has is kept apart as {agreeing!r}"
                kept[label].append((agreeing, [source]))
            source.labels[label] = agreeing
    if notes and not force:
        raise UsageError(
            "\n".join(notes) + "\nSuch numbers do not belong in one table: merge fewer runs, "
            "or --force to keep the later ones apart under a name of their own"
        )
    return notes


def _differences(label: str, earlier: Sequence[Source], source: Source) -> list[str]:
    """Return in words what a source does not share about a dataset with earlier ones, which agree about it."""
    found = _other_data(label, earlier[0], source)
    return found or [words for one in earlier for words in _made_otherwise(label, one, source)]


def _made_otherwise(label: str, first: Source, second: Source) -> list[str]:
    """Return in words which cells of two sources would stand in one place of a table and are not the same cell."""
    # What is measured of one thing with other batch sizes adds to its costs, as within one run.
    profiles = kind(first) == "profile"
    places = {place_in_tables(row): row for row in first.rows.values() if _runs_on(label, row)}
    pairs = [(places.get(place_in_tables(row)), row) for row in second.rows.values() if _runs_on(label, row)]
    found = [
        (one, other)
        for one, other in pairs
        if one is not None
        and one["cell_id"] != other["cell_id"]
        and not (profiles and one.get("measured") == other.get("measured"))
    ]
    if not found:
        return []
    ways = [_tuned(row) for row in found[0]]
    unlike = "protocol, device or other setting" if profiles else "master_seed"
    why = " and ".join(ways) if ways[0] != ways[1] else f"another {unlike}, or another version of a part"
    return [f"{counted_cells(len(found))} made otherwise than in {first.name} ({row_words(found[0][1])}: {why})"]


def _runs_on(label: str, row: Mapping[str, Any]) -> bool:
    return row["dataset"] == label and row["status"] == "run" and place_in_tables(row) is not None


def _tuned(row: Mapping[str, Any]) -> str:
    values = mapping(mapping(row.get("tuned")).get("values"))
    return "tuned to " + ", ".join(f"{name}={value}" for name, value in values.items()) if values else "not tuned"


def _other_data(label: str, first: Source, second: Source) -> list[str]:
    """Return in words how the data differ that two sources have under one name, and the training on them."""
    one, other = mapping(first.datasets.get(label)), mapping(second.datasets.get(label))
    found: list[str] = []
    if one.get("key") != other.get("key"):
        before, after = first.identities.get(label, {}), second.identities.get(label, {})
        found += _unequal(before, after) or [f"other data ({_short(one.get('key'))} and {_short(other.get('key'))})"]
    elif first.splits[label] and second.splits[label] and first.splits[label] != second.splits[label]:
        splits = (", ".join(sorted(source.splits[label])) for source in (first, second))
        found.append(f"other splits ({' and '.join(splits)})")
    return found + [
        f"training with {words}" for words in _unequal(mapping(one.get("train")), mapping(other.get("train")))
    ]


def _unequal(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    names = dict.fromkeys([*one, *other])
    return [f"{name} {one.get(name)} and {other.get(name)}" for name in names if one.get(name) != other.get(name)]


def _short(key: object) -> str:
    return str(key)[:12] if key else "no key"


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a table of a file as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def counted_cells(count: int) -> str:
    """Return "1 cell", "2 cells"."""
    return f"{count} cell" if count == 1 else f"{count} cells"


def row_words(row: Mapping[str, Any]) -> str:
    """Return what people call a cell."""
    parts = [row.get(name) for name in ("dataset", "encoders", "fusion")]
    return ", ".join([*(str(part) for part in parts if part), f"seed {row.get('seed', '?')}"])
