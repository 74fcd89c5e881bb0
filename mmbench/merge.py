"""Several runs joined into a new one: cells by their id, each with its journal lines and files, sources remembered."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from mmbench.combo import place_in_tables
from mmbench.data_card import DataCard
from mmbench.durable import sync
from mmbench.encoding import parse_json
from mmbench.errors import UsageError
from mmbench.merge_sources import (
    Decisive,
    Source,
    counted_cells,
    kind,
    mapping,
    open_sources,
    read_journals,
    row_words,
    settle_labels,
)
from mmbench.record import DONE, Record
from mmbench.run_cards import read_cards, write_cards
from mmbench.run_subgroups import Subgroups, read_subgroups, write_subgroups
from mmbench.store import RECORD_FILE, RunStore, check_run_name

#: Scores of one cell that differ by more than this did not come from equal computations.
TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What a merge made.

    Attributes:
        folder: Of the new run.
        sources: Names of the runs that went into it, in order.
        num_cells: How many cells are planned.
        counts: Cells by status, of those that the journals know.
        taken: How many cells each source gave.
        notes: What was decided, one line each.
        warnings: What a reader of the run should know, one line each.
    """

    folder: Path
    sources: tuple[str, ...]
    num_cells: int
    counts: Mapping[str, int]
    taken: Mapping[str, int]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON data."""
        return {
            "run": str(self.folder),
            "sources": list(self.sources),
            "num_cells": self.num_cells,
            "counts": dict(self.counts),
            "taken": dict(self.taken),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }


def merge_runs(folders: Sequence[Path], into: Path, *, argv: Sequence[str] = (), force: bool = False) -> Merged:
    """Join runs into a new one.

    A cell with a result in several runs is taken from the first; a result goes before a failure, the latest failure
    before earlier ones. A cell brings all its journal lines and the files of the attempt that decides. The new run
    appears whole or not at all, whenever the process ends. A source that is being written is read as it is now.

    Args:
        folders: Of the runs, at least two; the order decides between equal cells.
        into: The new run's folder.
        argv: The command, for ``run.json``.
        force: Where sources disagree about a dataset (its data, its splits, how cells were trained), keep the later
            ones apart as "DATASET (from RUN)" instead of refusing.

    Raises:
        UsageError: a run is missing, damaged or named twice, `into` exists, or the sources disagree about a dataset.
    """
    check_run_name(into.name)
    if into.exists():
        raise UsageError(f"{into} exists; merge into another name, or move it away")
    sources = open_sources(folders)
    read_journals(sources)
    notes = settle_labels(sources, force=force)
    rows = _rows(sources)
    choice = _choose(sources, rows)
    notes += _several_results(sources, choice)
    with _staged(into) as store:
        store.write_run(
            {
                **({"kind": "profile"} if kind(sources[0]) == "profile" else {}),
                "argv": list(argv),
                "started_at": max((str(source.about.get("started_at", "")) for source in sources), default=""),
                "config": _shared([mapping(source.about.get("config")) for source in sources]),
                "environment": _shared([mapping(source.about.get("environment")) for source in sources]),
                "merged": [{"run": source.name, **source.about} for source in sources],
            }
        )
        store.write_plan(rows.values(), _datasets(sources))
        decisions = _decisions(sources)
        if decisions:
            store.write_decisions(decisions)
        cards = _cards(sources)
        if cards:
            write_cards(store.folder, cards)
        write_subgroups(store.folder, _subgroups(sources))
        for at, source in enumerate(sources):
            _copy(source, store, {cell_id for cell_id, chosen in choice.items() if chosen == at})
    taken = Counter(sources[at].name for at in choice.values())
    return Merged(
        folder=into,
        sources=tuple(source.name for source in sources),
        num_cells=len(rows),
        counts=dict(Counter(sources[at].decisive[cell_id].status for cell_id, at in choice.items())),
        taken={source.name: taken[source.name] for source in sources},
        notes=tuple(notes),
        warnings=(*_differing_scores(sources, choice, rows), *_losses(sources)),
    )


# The new run


def _rows(sources: Sequence[Source]) -> dict[str, Mapping[str, Any]]:
    """Return the union of the plans, in the order in which a run of the whole would go: a seed's baselines first."""
    rows: dict[str, Mapping[str, Any]] = {}
    for source in sources:
        for cell_id, row in source.rows.items():
            label = source.labels[str(row["dataset"])]
            before = rows.get(cell_id)
            # What one machine could not run, another may have been able to.
            better = before is not None and before["status"] != "run" and row["status"] == "run"
            if before is None or (better and before["dataset"] == label):
                rows[cell_id] = {**row, "dataset": label}
    # Where one source has chosen a combo's values, another's cell that was to wait for that is none any more.
    run = {place_in_tables(row) for row in rows.values() if row["status"] == "run"} - {None}
    left = [row for row in rows.values() if row["status"] == "run" or place_in_tables(row) not in run]
    ordered = sorted(left, key=lambda row: (int(row.get("seed", 0)), row.get("role") != "baseline"))
    return {row["cell_id"]: row for row in ordered}


def _choose(sources: Sequence[Source], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return for every planned cell that was tried which source it is taken from."""
    choice: dict[str, int] = {}
    for at, source in enumerate(sources):
        for cell_id, found in source.decisive.items():
            if cell_id not in source.rows or cell_id not in rows:
                continue  # made otherwise by now: its journal alone still has it
            if source.labels[str(source.rows[cell_id]["dataset"])] != rows[cell_id]["dataset"]:
                continue  # the same cell on data that differ: the plan has the first source's
            if cell_id not in choice or _is_better(found, sources[choice[cell_id]].decisive[cell_id]):
                choice[cell_id] = at
    return choice


def _is_better(found: Decisive, before: Decisive) -> bool:
    if before.status in DONE or found.status in DONE:
        return before.status not in DONE
    return found.started_at > before.started_at


def _datasets(sources: Sequence[Source]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for source in sources:
        for label, about in source.datasets.items():
            found.setdefault(source.labels[label], about)
    return found


def _cards(sources: Sequence[Source]) -> dict[str, DataCard]:
    """Return the data card of each dataset, the first source's where several have one."""
    found: dict[str, DataCard] = {}
    for source in sources:
        for card in read_cards(source.store.folder):
            label = source.labels.get(card.name, card.name)
            found.setdefault(label, replace(card, name=label))
    return found


def _subgroups(sources: Sequence[Source]) -> dict[str, Subgroups]:
    """Return the subgroups of each dataset, every column of the first source that has it."""
    found: dict[str, dict[str, Mapping[str, str]]] = {}
    for source in sources:
        for label, columns in read_subgroups(source.store.folder).items():
            known = found.setdefault(source.labels.get(label, label), {})
            known.update({column: values for column, values in columns.items() if column not in known})
    return dict(found)


def _decisions(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Return what races and sweeps decided, each decision once."""
    found: list[dict[str, Any]] = []
    for source in sources:
        for decision in source.store.decisions():
            named = {**decision, "dataset": source.labels.get(str(decision.get("dataset")), decision.get("dataset"))}
            if named not in found:
                found.append(named)
    return found


def _copy(source: Source, store: RunStore, wanted: set[str]) -> None:
    """Append a source's records of the wanted cells, each decisive one with its files."""
    for place, record in enumerate(islice(iter(source.store.journal), source.num_records)):
        if record.cell_id not in wanted:
            continue
        if place != source.decisive[record.cell_id].place:
            store.journal.append(record)
            continue
        folder = store.begin(record.cell_id, record.attempt)
        source.num_without_files += not _copy_files(source.store.cell_folder(record.cell_id), folder, record)
        store.finish(record, folder)


def _copy_files(origin: Path, folder: Path, record: Record) -> bool:
    """Copy the ordinary files of a cell's folder; return False, with nothing copied, where they are not this record's.

    A run that is being written, or was killed, may already have the files of an attempt its journal does not know.
    """
    if not _is_of(origin, record):
        return False
    try:
        for parent, _, names in os.walk(origin):
            target = folder / Path(parent).relative_to(origin)
            target.mkdir(exist_ok=True)
            for name in names:
                path = Path(parent, name)
                if path.is_file() and not path.is_symlink() and path != origin / RECORD_FILE:
                    _copy_data(path, target / name)
    except OSError:
        if _is_of(origin, record):
            raise
    if _is_of(origin, record):
        return True
    shutil.rmtree(folder)
    folder.mkdir()
    return False


def _copy_data(origin: Path, target: Path) -> None:
    """Copy a file, its holes as holes: a sparse file of a few blocks may claim more than the disk holds."""
    about = origin.stat()
    if about.st_blocks * 512 >= about.st_size or not hasattr(os, "SEEK_DATA"):
        shutil.copyfile(origin, target)
        return
    with origin.open("rb") as source, target.open("wb") as copy:
        copy.truncate(about.st_size)
        at = 0
        with suppress(OSError):  # behind the last data
            while at < about.st_size:
                begin = os.lseek(source.fileno(), at, os.SEEK_DATA)
                at = os.lseek(source.fileno(), begin, os.SEEK_HOLE)
                source.seek(begin)
                copy.seek(begin)
                copy.write(source.read(at - begin))


def _is_of(folder: Path, record: Record) -> bool:
    try:
        data = parse_json((folder / RECORD_FILE).read_bytes())
        return (data["attempt"], data["started_at"]) == (record.attempt, record.started_at)
    except (OSError, ValueError, TypeError, KeyError):
        return False


@contextmanager
def _staged(into: Path) -> Iterator[RunStore]:
    """Give a run to write beside its place, where no list of runs shows it; move it there when all is written."""
    parent = into.parent / f".{into.name}.merging"
    with RunStore.create(parent / into.name) as store:
        try:
            _empty(store.folder)  # of what a merge that was killed left there
            yield store
        except BaseException:  # Ctrl-C too leaves nothing half done
            _empty(store.folder)
            raise
    try:
        # Onto a run that appeared meanwhile this fails, and leaves it alone.
        store.folder.rename(into)
    except OSError as error:
        shutil.rmtree(parent, ignore_errors=True)
        raise UsageError(f"{into} cannot be made: {error.strerror}; merge into another name") from None
    shutil.rmtree(parent, ignore_errors=True)
    sync(into.parent)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name == "cells":
            shutil.rmtree(path)
            path.mkdir()
        elif path.is_file() and not path.name.startswith("."):
            path.unlink()


# Words


def _several_results(sources: Sequence[Source], choice: Mapping[str, int]) -> list[str]:
    pairs: Counter[tuple[int, int]] = Counter()
    for at, source in enumerate(sources):
        for cell_id, found in source.decisive.items():
            if found.status in DONE and cell_id in choice and choice[cell_id] != at:
                pairs[choice[cell_id], at] += 1
    return [
        f"{counted_cells(count)} of {sources[at].name} {'has' if count == 1 else 'have'} a result in "
        f"{sources[chosen].name} too: {sources[chosen].name}'s {'was' if count == 1 else 'were'} taken"
        for (chosen, at), count in pairs.items()
    ]


def _differing_scores(
    sources: Sequence[Source], choice: Mapping[str, int], rows: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Name every cell whose scores, beyond the tolerance, are not the same in all sources that have them."""
    found: list[str] = []
    for cell_id, at in choice.items():
        kept = sources[at].decisive[cell_id]
        for source in sources:
            other = source.decisive.get(cell_id)
            if other is None or other is kept or other.status not in DONE or kept.status not in DONE:
                continue
            keys = [key for key in kept.scores if key in other.scores]
            unequal = [key for key in keys if not _is_equal(kept.scores[key], other.scores[key])]
            if unequal:
                split, condition, task, name = unequal[0]
                words = " ".join(
                    word for word in (split, task, name, condition if condition != "clean" else "") if word
                )
                more = f", and {len(unequal) - 1} more" if len(unequal) > 1 else ""
                found.append(
                    f"cell {cell_id} ({row_words(rows.get(cell_id, {}))}): {words} is {kept.scores[unequal[0]]} in "
                    f"{sources[at].name} and {other.scores[unequal[0]]} in {source.name}{more}; equal hardware and "
                    "versions would give equal scores"
                )
    return found


def _is_equal(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= TOLERANCE * max(1.0, abs(one))


def _losses(sources: Sequence[Source]) -> list[str]:
    found = []
    for source in sources:
        if source.num_damaged:
            lines = "line" if source.num_damaged == 1 else "lines"
            found.append(f"{source.num_damaged} damaged {lines} in the journal of {source.name} could not be read")
        if source.num_without_files:
            found.append(
                f"{counted_cells(source.num_without_files)} of {source.name} came without files (predictions, "
                "timings): paired tests leave them out"
            )
    return found


def _shared(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what all tables have and agree on, table in table."""
    first, *others = tables
    found: dict[str, Any] = {}
    for name, value in first.items():
        values = [table.get(name) for table in others]
        if isinstance(value, Mapping) and all(isinstance(other, Mapping) for other in values):
            found[name] = _shared([value, *(mapping(other) for other in values)])
        elif all(other == value for other in values):
            found[name] = value
    return found
