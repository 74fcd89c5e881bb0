"""A run on disk: what was planned, a journal of what came of it, and a folder for each cell; whole at any moment.

    results/RUN/run.json         command, configuration, versions, hardware, git
               /plan.json        every planned cell, one a line
               /decisions.json   what a race or a sweep decided, each decision with the scores that made it
               /journal.jsonl    one line for each finished attempt, on disk before the next step
               /cells/ID/        files of the decisive attempt, with its record.json
               /cells/.ID.N.X/   an attempt under way; removed at the next start when nothing finished it

There is one writer at a time, and any number of readers.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mmbench.durable import empty, identity, make_ordinary, remove, sync, sync_tree, write_atomically, write_or_say
from mmbench.encoding import parse_json
from mmbench.errors import UsageError, did_you_mean
from mmbench.journal import CELL_ID, JOURNAL_FILE, CellState, Journal
from mmbench.record import Record
from mmbench.redaction import redacted

if TYPE_CHECKING:
    from filelock import FileLock

PLAN_SCHEMA = 1
RUN_FILE = "run.json"
PLAN_FILE = "plan.json"
RECORD_FILE = "record.json"
DECISIONS_FILE = "decisions.json"
DATA_CARDS_FILE = "data_cards.json"
SUBGROUPS_FILE = "subgroups.json"

_RUN_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "argv": list,
    "config": dict,
    "environment": dict,
    "kind": str,
    "merged": (list, dict),
    "started_at": str,
}
_ROW_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("dataset", "encoders", "fusion", "objective", "role", "status", "reason", "variant"), str),
    "seed": int,
    "measured": (dict, str, type(None)),
    "tuned": (dict, type(None)),
}
_DATASET_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("ref", "summary", "key"), str),
    **dict.fromkeys(("tasks", "modalities"), list),
    **dict.fromkeys(("ceilings", "train"), dict),
}
_TASK_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("name", "kind", "primary"), str),
    "num_outputs": int,
    "class_names": (list, tuple),
    "weight": (int, float),
}

#: What an executor says of an attempt in words.
_WORDS = ("log.txt", "traceback.txt")
#: Where executors keep what outlives a command; it is there before the run is.
EXECUTORS_FOLDER = "executors"
_LOCK_FILE = ".lock"
_WRITER_FILE = ".writer.json"
#: The folder of an attempt under way, or of one that another replaces.
_ATTEMPT = re.compile(r"\.[0-9a-f]{16}\.(\d+|old)\.[0-9a-f]{8}")
#: What mmbench and its plugins write into the folder of a run.
_ENTRIES = frozenset(
    {RUN_FILE, PLAN_FILE, DECISIONS_FILE, DATA_CARDS_FILE, SUBGROUPS_FILE, JOURNAL_FILE, f"{JOURNAL_FILE}.gz",
     f"{JOURNAL_FILE}.foreign", _LOCK_FILE, _WRITER_FILE, "cells", EXECUTORS_FOLDER, "report", "trackers", "models"}
)  # fmt: skip
_RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


class RunStore:
    """One run. Made by `create`, to write, or by `open`, to read.

    Attributes:
        folder: The run's folder.
        journal: Its attempts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder / JOURNAL_FILE)
        self._lock: FileLock | None = None
        self._writing: dict[str, Any] = {}
        self._states: tuple[object, dict[str, CellState]] | None = None

    @classmethod
    def create(cls, folder: Path) -> RunStore:
        """Begin a run, or continue the one that is there; no other process may write to it until `close`.

        Raises:
            UsageError: the name cannot name a run, the folder is something else, or somebody is writing to it.
        """
        check_run_name(folder.name)
        if folder.exists() and not is_run(folder) and (not folder.is_dir() or any(_foreign(folder))):
            raise UsageError(
                f"{folder} exists and is no run of mmbench (it has no {RUN_FILE}); "
                "choose another name with --run, or move it away"
            )
        for name in ("cells", EXECUTORS_FOLDER, JOURNAL_FILE):
            if (folder / name).is_symlink():
                raise UsageError(
                    f"{folder / name} is a link, and a run writes and removes nothing outside its own folder; "
                    "move the whole run to the other place, or choose another name with --run"
                )
        try:
            (folder / "cells").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be written: {error.strerror}; choose another place with --results"
            ) from None
        store = cls(folder)
        store._acquire()
        store._remove_leftovers()
        store.journal.hold()
        return store

    @classmethod
    def open(cls, folder: Path) -> RunStore:
        """Open a run to read it, whether or not somebody is writing to it.

        Raises:
            UsageError: there is no such run; the message names those that exist.
        """
        if not folder.exists():
            names = list_runs(folder.parent)
            there = f"{folder.parent} has {_listed(names)}" if names else f"{folder.parent} has no runs"
            hint = did_you_mean(folder.name, names)
            raise UsageError(f"no run is named {folder.name!r}; {there}.{hint} `mmbench run --run NAME` makes one")
        if not is_run(folder):
            names = list_runs(folder) if folder.is_dir() else []
            inside = f" It contains runs: {_listed(names)}; name one of them." if names else ""
            raise UsageError(f"{folder} is no run of mmbench: it has no {RUN_FILE} and no {PLAN_FILE}.{inside}")
        return cls(folder)

    @property
    def name(self) -> str:
        """Return the run's name, also where its folder was given as a dot."""
        return self.folder.resolve().name

    def write_run(self, about: Mapping[str, Any]) -> None:
        """Write ``run.json``: command, configuration, versions, hardware, git, without the secrets in them."""
        plain = json.loads(json.dumps(about, default=str))
        write_or_say(self.folder / RUN_FILE, [json.dumps(redacted(plain), indent=2), "\n"])

    def read_run(self) -> dict[str, Any]:
        """Return ``run.json``, or {} when it is missing or damaged."""
        try:
            data = parse_json((self.folder / RUN_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(data, dict):
            return {}
        # A part of another type than it is written with is damage too.
        return {name: value for name, value in data.items() if isinstance(value, _RUN_FIELDS.get(name, object))}

    def write_plan(self, rows: Iterable[Mapping[str, Any]], datasets: Mapping[str, Any] | None = None) -> int:
        """Write ``plan.json``, one cell a line, without keeping the rows; return how many there are.

        Args:
            rows: The planned cells.
            datasets: What reports must know of the datasets, by label.
        """
        count = 0

        def lines() -> Iterator[str]:
            nonlocal count
            encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
            yield f'{{"schema":{PLAN_SCHEMA},"datasets":{encode(datasets or {})},"cells":['
            for row in rows:
                yield (",\n" if count else "\n") + encode(row)
                count += 1
            yield f'\n],"num_cells":{count}}}\n'

        write_or_say(self.folder / PLAN_FILE, lines())
        return count

    def write_decisions(self, decisions: Iterable[Mapping[str, Any]]) -> None:
        """Write ``decisions.json``, one a line."""
        lines = ",\n".join(json.dumps(decision, allow_nan=False) for decision in decisions)
        write_or_say(self.folder / DECISIONS_FILE, ["[\n", lines, "\n]\n"])

    def decisions(self) -> list[dict[str, Any]]:
        """Return what a race or a sweep decided so far; nothing for an ordinary run.

        Raises:
            UsageError: ``decisions.json`` is damaged.
        """
        path = self.folder / DECISIONS_FILE
        try:
            found = parse_json(path.read_text(encoding="utf-8"))
            return [dict(decision) for decision in found]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            raise UsageError(
                f"{path} is damaged ({error}); remove it and type the run's command again: the records decide as before"
            ) from None

    def planned(self) -> Iterator[dict[str, Any]]:
        """Yield the row of every planned cell; nothing when there is no plan yet.

        Raises:
            UsageError: ``plan.json`` is damaged.
        """
        path = self.folder / PLAN_FILE
        if not path.exists():
            return
        with path.open("rb") as stream:
            self._read_plan_head(stream.readline())
            for line in stream:
                if line.startswith(b"]"):
                    return
                try:
                    row = parse_json(line.rstrip().removesuffix(b",").decode())
                    _check_row(row)
                except (ValueError, RecursionError) as error:
                    raise self._damaged_plan(error) from None
                yield row
        raise self._damaged_plan("it ends too early")

    def datasets(self) -> dict[str, Any]:
        """Return what the plan says of its datasets, by label; {} when there is no plan yet.

        Raises:
            UsageError: ``plan.json`` is damaged.
        """
        path = self.folder / PLAN_FILE
        if not path.exists():
            return {}
        with path.open("rb") as stream:
            return self._read_plan_head(stream.readline())

    def _read_plan_head(self, line: bytes) -> dict[str, Any]:
        try:
            head = parse_json(line.decode() + "]}")
            schema, datasets = head["schema"], head.get("datasets", {})
            _check_datasets(datasets)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._damaged_plan(error) from None
        if schema != PLAN_SCHEMA:
            where = self.folder / PLAN_FILE
            raise UsageError(f"{where} was written by another version of mmbench; type the run's command again")
        return dict(datasets)

    def _damaged_plan(self, error: object) -> UsageError:
        where = self.folder / PLAN_FILE
        return UsageError(f"{where} is damaged ({error}); remove it and type the run's command again")

    def records(self, slim: Callable[[Record], Record] = lambda record: record) -> dict[str, Record]:
        """Return the decisive attempt at each cell: one that is ok if there is any, else the latest.

        Args:
            slim: Leaves out of each record what the caller does not need, so that a large run fits in memory.
        """
        decisive: dict[str, Record] = {}
        for record in self.journal:
            before = decisive.get(record.cell_id)
            if before is None or record.status == "ok" or before.status != "ok":
                decisive[record.cell_id] = slim(record)
        return decisive

    def states(self) -> dict[str, CellState]:
        """Return what is decided about each cell, in short; the journal is read again when it has changed."""
        read = identity(self.journal.path), identity(self.journal.packed)
        if self._states is None or self._states[0] != read:
            self._states = read, self.journal.states()
        return self._states[1]

    def cell_folder(self, cell_id: str) -> Path:
        """Return where the files of a cell's decisive attempt are.

        Raises:
            ValueError: `cell_id` is none, and might lead out of the run.
        """
        if not CELL_ID.fullmatch(cell_id):
            raise ValueError(f"a cell's id has 16 hex digits, got {cell_id!r}")
        return self.folder / "cells" / cell_id

    def begin(self, cell_id: str, attempt: int) -> Path:
        """Return a new, empty folder for an attempt at a cell."""
        place = self.cell_folder(cell_id)
        # The random end keeps a process that outlived a killed run for a moment from writing into its successor's.
        folder = place.parent / f".{cell_id}.{attempt}.{secrets.token_hex(4)}"
        folder.mkdir()
        return folder

    def finish(self, record: Record, folder: Path) -> None:
        """Put the files of an attempt in their place and its record into the journal.

        The files come first: a record in the journal always has its files, files without a record are made again.
        """
        place = self.cell_folder(record.cell_id)
        make_ordinary(folder)
        remove(folder / RECORD_FILE)
        # "x" follows no link that somebody may have put there. The folder is not in its place yet: nobody reads it.
        with (folder / RECORD_FILE).open("x", encoding="utf-8") as stream:
            stream.write(json.dumps(record.to_json(), indent=1, allow_nan=False) + "\n")
        sync_tree(folder)  # once for each file: half of what an empty cell takes is waiting for the disk
        if os.path.lexists(place):
            aside = place.parent / f".{record.cell_id}.old.{secrets.token_hex(4)}"
            place.rename(aside)
            folder.rename(place)
            remove(aside)
        else:
            folder.rename(place)
        sync(place.parent)
        self.journal.append(record)

    def drop_files(self, folder: Path) -> None:
        """Remove what an attempt wrote but for its log and its traceback, to make room."""
        empty(folder, keep=_WORDS)

    def close(self) -> None:
        """Let others write."""
        self.journal.close()
        if self._lock is not None:
            (self.folder / _WRITER_FILE).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def __enter__(self) -> RunStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _acquire(self) -> None:
        from filelock import FileLock, Timeout  # takes longer to import than a reader takes to read

        lock = FileLock(self.folder / _LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(
                f"run {self.name!r} is being written by {self._writer()}; "
                "wait until it ends, or choose another name with --run"
            ) from None
        except OSError as error:
            raise UsageError(
                f"{self.folder} cannot be locked: {error.strerror}; choose another place with --results"
            ) from None
        self._lock = lock
        self._writing = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.tell_readers({})

    def tell_readers(self, news: Mapping[str, Any]) -> None:
        """Say in the writer's file, beside who writes, what those who watch the run may want to know.

        It is nothing that must be kept: a file that cannot be written costs nothing but the news.
        """
        with suppress(OSError):
            write_atomically(self.folder / _WRITER_FILE, [json.dumps({**self._writing, **news})], durably=False)

    def writer(self) -> dict[str, Any] | None:
        """Return what the writer says of itself, or None when nobody writes: ``pid``, ``host``, ``since`` and news."""
        try:
            data = parse_json((self.folder / _WRITER_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def _writer(self) -> str:
        writer = self.writer() or {}
        if not {"pid", "host", "since"} <= writer.keys():
            return "another process"
        return f"process {writer['pid']} on {writer['host']} since {writer['since']}"

    def _remove_leftovers(self) -> None:
        for entry in os.scandir(self.folder / "cells"):
            if _ATTEMPT.fullmatch(entry.name):
                remove(Path(entry.path))
        for path in self.folder.glob(".*.writing"):
            if path.is_symlink() or path.is_file():
                path.unlink(missing_ok=True)


def _check_row(row: Any) -> None:
    """Check the parts of a row of the plan that mmbench itself reads.

    Raises:
        ValueError: one has another type.
    """
    if not (isinstance(row, dict) and CELL_ID.fullmatch(str(row.get("cell_id"))) and isinstance(row["cell_id"], str)):
        raise ValueError("a row has no cell_id")
    for name, kind in _ROW_FIELDS.items():
        if name in row and not (isinstance(row[name], kind) and type(row[name]) is not bool):
            raise ValueError(f"a row's {name} cannot be {type(row[name]).__name__}")


def _check_datasets(datasets: Any) -> None:
    """Check what a plan says of its datasets.

    Raises:
        ValueError: a part that mmbench itself reads has another type.
    """
    if not (isinstance(datasets, dict) and all(isinstance(about, dict) for about in datasets.values())):
        raise ValueError("its datasets are no objects")
    for about in datasets.values():
        for name, kind in _DATASET_FIELDS.items():
            if name in about and not isinstance(about[name], kind):
                raise ValueError(f"a dataset's {name} cannot be {type(about[name]).__name__}")
        if not all(type(value) in (int, float) for value in about.get("ceilings", {}).values()):
            raise ValueError("a dataset's ceilings are no numbers")
        for name in ("tasks", "modalities"):
            if not all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in about.get(name) or ()):
                raise ValueError(f"a dataset's {name} have no names")
        for task in about.get("tasks") or ():
            for name, kind in _TASK_FIELDS.items():
                if name in task and not (isinstance(task[name], kind) and type(task[name]) is not bool):
                    raise ValueError(f"a task's {name} cannot be {type(task[name]).__name__}")
            if not all(isinstance(name, str) for name in task.get("class_names") or ()):
                raise ValueError("a task's class_names are no text")


def check_run_name(name: str) -> None:
    """Check the name of a run.

    Raises:
        UsageError: it could not be a folder's name on every system.
    """
    if not _RUN_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a run: use 1 to 100 letters, digits, '.', '_' and '-', "
            "starting with a letter, a digit or '_'"
        )


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run."""
    return any((folder / name).is_file() for name in (RUN_FILE, PLAN_FILE, JOURNAL_FILE, f"{JOURNAL_FILE}.gz"))


def list_runs(results: Path) -> list[str]:
    """Return the names of the runs in a folder, sorted."""
    try:
        return sorted(entry.name for entry in results.iterdir() if entry.is_dir() and is_run(entry))
    except OSError:
        return []


def foreign_entries(folder: Path) -> list[str]:
    """Return the names in a folder that are not of a run; all of them where no file of a run is among them."""
    names = sorted(entry.name for entry in folder.iterdir() if not _is_temporary(entry))
    return [name for name in names if name not in _ENTRIES] if _is_of_mmbench(folder) else names


def _is_of_mmbench(folder: Path) -> bool:
    """Return whether a file of a run is as mmbench writes it: others have a plan.json and a run.json, too."""
    store = RunStore(folder)
    if isinstance(store.read_run().get("argv"), list):
        return True
    try:
        with (folder / PLAN_FILE).open("rb") as stream:
            return stream.read(64).startswith(b'{"schema":')
    except OSError:
        return next(store.journal.lines(), None) is not None


def _foreign(folder: Path) -> Iterator[str]:
    """Yield what is in a folder and would not be there if a run had just begun in it."""
    ours = (_LOCK_FILE, _WRITER_FILE, "cells", EXECUTORS_FOLDER)
    yield from (entry.name for entry in folder.iterdir() if entry.name not in ours and not _is_temporary(entry))


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".writing")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown
