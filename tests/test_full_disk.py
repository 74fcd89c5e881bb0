"""A disk that is full, and a results folder that vanishes: what it costs, what is said, and what the same command mends."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_disk import mounted

from mmbench.errors import DiskError
from mmbench.executors.local import LocalExecutor
from mmbench.record import Record
from mmbench.runner import Event, Summary, run
from mmbench.store import RunStore

sys.path.append(str(Path(__file__).parent))  # cells run in processes of their own and must be importable by name
from toy_run import ToyCell


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two MiB."""
    with mounted(tmp_path / "disk", "2m") as made:
        yield made


@pytest.fixture
def report_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 KiB where a run's report goes, of a run that was begun and has no cells yet."""
    with RunStore.create(tmp_path / "results" / "toy") as store:
        store.write_run({"argv": []})
    with mounted(store.folder / "report", "16k") as made:
        yield made


def fill(disk: Path) -> Path:
    """Leave no room on a disk; return the file to remove."""
    ballast = disk / "ballast.bin"
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
        except OSError:
            return ballast


def run_cells(folder: Path, cells: list[ToyCell], on_event=lambda event: None) -> Summary:
    with RunStore.create(folder) as store, LocalExecutor(1, preload=()) as executor:
        store.write_plan(cell.row() for cell in cells)
        return run(cells, store, executor, function="hostile_cells:by_number", on_event=on_event)


def records(folder: Path) -> dict[int, Record]:
    """The journal's records by the number of their cell, once it is sure that no line is damaged."""
    store = RunStore.open(folder)
    numbers = {ToyCell(number).cell_id: number for number in range(10)}
    found = {numbers[record.cell_id]: record for record in store.journal}
    assert store.journal.num_damaged == 0
    assert (folder / "journal.jsonl").read_bytes().endswith(b"\n")
    return found


@pytest.mark.parametrize("do", ["fills_the_disk", "fills_the_disk_and_returns"])
def test_a_cell_that_fills_the_disk_fails_with_that_reason_and_no_other_does(disk: Path, do: str) -> None:
    cells = [ToyCell(number, do if number == 1 else "square") for number in range(4)]

    summary = run_cells(disk / "run", cells)

    assert (summary.counts, summary.cause) == ({"ok": 3, "failed": 1}, "")
    found = records(disk / "run")
    assert [found[number].status for number in range(4)] == ["ok", "failed", "ok", "ok"]
    assert "\n" not in found[1].reason
    assert any(words in found[1].reason for words in ("No space left on device", "the disk is full"))
    # Its files made room for the others.
    assert not (disk / "run" / "cells" / cells[1].cell_id / "ballast.bin").exists()


def test_a_disk_that_somebody_else_fills_stops_the_run_and_the_same_command_completes_it(disk: Path) -> None:
    cells = [ToyCell(number) for number in range(5)]
    ballast: list[Path] = []
    said: list[str] = []

    def on_event(event: Event) -> None:
        if event.kind == "finished" and len(said) == 0 and not ballast:
            ballast.append(fill(disk))
        elif event.kind == "stopped":
            said.append(event.reason)

    summary = run_cells(disk / "run", cells, on_event)

    assert (summary.counts, summary.cause, summary.exit_code) == ({"ok": 1, "pending": 4}, "disk", 1)
    assert said == [
        f"{disk / 'run'} can no longer be written (No space left on device): what ended before is kept; "
        "make room or bring the folder back, then type the command again"
    ]
    assert [found.status for found in records(disk / "run").values()] == ["ok"]

    ballast[0].unlink()
    again = run_cells(disk / "run", cells)
    assert (again.counts, again.num_launched) == ({"ok": 5}, 4)
    assert sorted(records(disk / "run")) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("moment", ["started", "finished"])
def test_a_results_folder_that_vanishes_stops_the_run_with_a_sentence(tmp_path: Path, moment: str) -> None:
    cells = [ToyCell(number) for number in range(5)]

    def on_event(event: Event) -> None:
        if event.kind == moment:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    summary = run_cells(tmp_path / "run", cells, on_event)

    assert summary.cause == "disk"
    assert summary.reason == (
        f"{tmp_path / 'run'} can no longer be written (No such file or directory): what ended before is kept; "
        "make room or bring the folder back, then type the command again"
    )
    assert summary.counts.get("ok", 0) <= 1


def test_a_journal_that_vanishes_alone_stops_the_run_too(tmp_path: Path) -> None:
    def on_event(event: Event) -> None:
        if event.kind == "finished":
            (tmp_path / "run" / "journal.jsonl").unlink(missing_ok=True)

    summary = run_cells(tmp_path / "run", [ToyCell(number) for number in range(5)], on_event)

    assert (summary.counts, summary.cause) == ({"ok": 1, "pending": 4}, "disk")
    assert "it was removed while it was written" in summary.reason


def test_a_plan_that_has_no_room_leaves_the_one_before_and_says_so(disk: Path) -> None:
    with RunStore.create(disk / "run") as store:
        store.write_plan([ToyCell(1).row()])
        fill(disk)

        with pytest.raises(DiskError, match=r"plan\.json cannot be written: No space left on device; make room, or"):
            store.write_plan(ToyCell(number).row() for number in range(10_000))
        store.tell_readers({"beat": 1})  # costs nothing

        assert [row["cell_id"] for row in store.planned()] == [ToyCell(1).cell_id]
        assert [path.name for path in store.folder.glob(".*.writing")] == []


@pytest.mark.slow
def test_a_report_that_has_no_room_is_a_warning_of_a_run_whose_cells_are_done(report_disk: Path) -> None:
    home = report_disk.parents[2]
    command = ("run", "-d", "xor", "-f", "concat", "--protocol", "none", "--run", "toy")

    done = subprocess.run(
        [sys.executable, "-m", "mmbench.cli", *command],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "COLUMNS": "240"},
    )

    assert done.returncode == 1
    assert (
        "the report is not written: results/toy/report cannot be written: No space left on device; "
        "`mmbench report toy` writes it another time"
    ) in done.stdout
    assert "Traceback" not in done.stderr + done.stdout
    statuses = [record.status for record in RunStore.open(home / "results" / "toy").journal]
    assert statuses == ["ok"] * 4
