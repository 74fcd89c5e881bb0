"""A run folder of somebody else has nothing removed, written or read outside of it, and hides no other run."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbench.errors import UsageError
from mmbench.record import Record
from mmbench.report import write_files
from mmbench.store import RunStore

CELL = "0123456789abcdef"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Somebody's folder with hidden files and folders."""
    folder = tmp_path / "home"
    for name in (".ssh/id_ed25519", ".config/app.toml", f".{CELL}.1.deadbeef/notes.txt", "README.md", "report.html"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious")
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["cells", "executors"])
def test_a_run_with_a_linked_folder_is_not_continued(tmp_path: Path, home: Path, name: str) -> None:
    before = contents(home)
    with RunStore.create(tmp_path / "run") as store:
        store.write_run({})
    if (tmp_path / "run" / name).exists():
        (tmp_path / "run" / name).rmdir()
    (tmp_path / "run" / name).symlink_to(home, target_is_directory=True)

    with pytest.raises(UsageError, match=f"{name} is a link"):
        RunStore.create(tmp_path / "run")

    assert contents(home) == before


def test_a_journal_that_is_a_link_is_not_appended_to(tmp_path: Path, home: Path) -> None:
    before = contents(home)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "run" / "journal.jsonl").symlink_to(home / ".config" / "app.toml")

    with pytest.raises(UsageError, match=r"journal\.jsonl is a link"):
        RunStore.create(tmp_path / "run")

    assert contents(home) == before


@pytest.mark.parametrize("name", ["run.json", "plan.json", "decisions.json", ".writer.json", ".run.json.writing"])
def test_a_file_of_a_run_that_is_a_link_is_replaced_and_not_written_through(
    tmp_path: Path, home: Path, name: str
) -> None:
    before = contents(home)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "journal.jsonl").touch()
    (tmp_path / "run" / name).symlink_to(home / "README.md")

    with RunStore.create(tmp_path / "run") as store:
        store.write_run({})
        store.write_plan([])
        store.write_decisions([])

    assert contents(home) == before


def test_only_folders_of_attempts_are_removed_when_a_run_goes_on(tmp_path: Path) -> None:
    cells = tmp_path / "run" / "cells"
    with RunStore.create(tmp_path / "run") as store:
        store.write_run({})
        abandoned = store.begin(CELL, 1)
    strangers = [".ssh", ".config", f".{CELL}", f".{CELL}.1", f".{CELL}.1.notes", ".0123.1.deadbeef"]
    for name in strangers:
        (cells / name).mkdir()

    with RunStore.create(tmp_path / "run"):
        pass

    assert not abandoned.exists()
    assert sorted(path.name for path in cells.iterdir()) == sorted(strangers)


def test_links_among_the_attempts_are_removed_and_not_followed(tmp_path: Path, home: Path) -> None:
    before = contents(home)
    with RunStore.create(tmp_path / "run") as store:
        store.write_run({})
    link = tmp_path / "run" / "cells" / f".{CELL}.1.deadbeef"
    link.symlink_to(home, target_is_directory=True)

    with RunStore.create(tmp_path / "run"):
        pass

    assert not link.is_symlink()
    assert contents(home) == before


@pytest.mark.parametrize("target", ["home", "nowhere"])
def test_a_cells_folder_that_is_a_link_is_replaced_and_not_emptied(tmp_path: Path, home: Path, target: str) -> None:
    before = contents(home)
    with RunStore.create(tmp_path / "run") as store:
        store.write_run({})
        (tmp_path / "run" / "cells" / CELL).symlink_to(tmp_path / target, target_is_directory=True)
        store.finish(Record(cell_id=CELL, status="ok"), store.begin(CELL, 1))

    assert (tmp_path / "run" / "cells" / CELL / "record.json").is_file()
    assert contents(home) == before


def test_a_report_folder_that_is_a_link_is_not_written_into(tmp_path: Path, home: Path) -> None:
    before = contents(home)
    (tmp_path / "report").symlink_to(home, target_is_directory=True)

    with pytest.raises(UsageError, match="is a link, which a report does not follow"):
        write_files(tmp_path / "report", {"report.html": "new", "README.md": "new"})

    assert contents(home) == before


def test_a_report_file_that_is_a_link_is_replaced_and_not_written_through(tmp_path: Path, home: Path) -> None:
    before = contents(home)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").symlink_to(home / "report.html")

    write_files(tmp_path / "report", {"report.html": "new"})

    assert (tmp_path / "report" / "report.html").read_text() == "new"
    assert contents(home) == before
