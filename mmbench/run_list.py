"""The runs of a folder: a line for each, and their removal."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rich.text import Text

from mmbench.errors import MmbenchError, UsageError, did_you_mean
from mmbench.heartbeat import why_gone
from mmbench.record import DONE, FAILURES
from mmbench.report.tables import num_to_run
from mmbench.report.text import clean, counted
from mmbench.store import RunStore, foreign_entries, list_runs
from mmbench.terminal_table import Column, TerminalTable
from mmbench.views import console, size_text


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run in one line.

    Attributes:
        name: Of its folder.
        datasets: Their labels.
        num_done, num_cells: Cells with a result, of those that are to run.
        state: "running", "complete", "profile", "failed cells", "to continue" or why it cannot be read.
        started_at: When the last command began, in ISO 8601, or "".
    """

    name: str
    datasets: tuple[str, ...]
    num_done: int
    num_cells: int
    state: str
    started_at: str


def summaries(results: Path) -> Iterator[RunSummary]:
    """Yield every run of a folder, the one that was continued last first."""
    found = []
    for name in list_runs(results):
        try:
            found.append(_summary(RunStore.open(results / name)))
        except MmbenchError as error:
            found.append(
                RunSummary(name=name, datasets=(), num_done=0, num_cells=0, state=clean(str(error), 80), started_at="")
            )
    yield from sorted(found, key=lambda run: run.started_at, reverse=True)


def summaries_json(results: Path) -> list[dict[str, Any]]:
    """Return every run of a folder as plain JSON."""
    return [asdict(run) for run in summaries(results)]


def print_runs(results: Path) -> None:
    """Print a line for every run of a folder, and what to do with one."""
    out = console()
    found = list(summaries(results))
    if not found:
        out.print(Text(f"{results} has no runs; `mmbench run --grid quick` makes one in about a minute"))
        return
    made = TerminalTable(
        [
            Column(heading="run", kind="name"),
            Column(heading="cells done"),
            Column(heading="state", kind="text", cut=True, min_width=12),
            Column(heading="last command", kind="text", priority=1, cut=True, min_width=16),
            Column(heading="datasets", kind="text", priority=2, cut=True),
        ]
    )
    for run in found:
        done = f"{run.num_done} of {run.num_cells}"
        made.add_row(run.name, done, run.state, run.started_at[:16].replace("T", " "), ", ".join(run.datasets))
    made.print(out)
    out.print(
        Text("`mmbench report RUN` shows one, `mmbench view RUN` opens it, `mmbench status RUN` says what failed")
    )


def runs_to_remove(results: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the folders of the runs that patterns name.

    Raises:
        UsageError: a pattern names none, a run that is being written, or a folder that holds anything of others.
    """
    names = list_runs(results)
    folders: dict[Path, None] = {}
    for pattern in patterns:
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            there = f"there are {', '.join(names[:10])}" if names else "it has none"
            raise UsageError(f"{results} has no run {pattern!r}; {there}.{did_you_mean(pattern, names)}")
        for name in matching:
            folder = results / name
            if folder.is_symlink():
                raise UsageError(f"{folder} is a link; remove it yourself")
            foreign = foreign_entries(folder)
            if foreign:
                raise UsageError(
                    f"{folder} holds what is not of a run: {clean(', '.join(foreign[:5]), 200)}; move it away, or "
                    "remove the folder yourself"
                )
            RunStore.create(folder).close()  # refuses a run that another process writes
            folders[folder] = None
    return list(folders)


def size_of(folder: Path) -> int:
    """Return the bytes of all files under a folder."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() or file.is_symlink())


def remove_runs(folders: Sequence[Path]) -> None:
    """Remove the folders of runs with all that is in them."""
    for folder in folders:
        shutil.rmtree(folder)


def removal_words(folders: Sequence[Path]) -> str:
    """Say which runs are removed and how much they hold."""
    size = sum(map(size_of, folders))
    return f"{counted(len(folders), 'run')} ({', '.join(folder.name for folder in folders)}), {size_text(size)}"


def _summary(store: RunStore) -> RunSummary:
    about = store.read_run()
    states = store.states()
    counts: Counter[str] = Counter()
    for row in store.planned():
        state = states.get(row["cell_id"])
        counts[state.status if state is not None else "pending" if row["status"] == "run" else row["status"]] += 1
    num_cells = num_to_run(counts)
    num_done = sum(counts[status] for status in DONE)
    left = num_cells - num_done
    failed = sum(counts[status] for status in FAILURES)
    writer = store.writer()
    if writer is not None and not why_gone(store, writer):
        state_words = "running"
    elif not left:
        state_words = "complete"
    elif failed == left:
        state_words = f"{failed} failed"
    else:
        state_words = f"{left - failed} to continue" + (f", {failed} failed" if failed else "")
    if about.get("kind") == "profile":
        state_words = f"profile, {state_words}"
    return RunSummary(
        name=store.name,
        datasets=tuple(store.datasets()),
        num_done=num_done,
        num_cells=num_cells,
        state=state_words,
        started_at=str(about.get("started_at", "")),
    )
