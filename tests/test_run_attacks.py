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


def journal_of(folder: Path, cells: list[str]) -> RunStore:
    store = RunStore.create(folder)
    store.write_run({})
    for cell in cells:
        store.finish(Record(cell_id=cell, status="ok"), store.begin(cell, 1))
    return store


FORGED = b'{"schema":1,"cell_id":"fedcba9876543210","status":"failed"}\n'


@pytest.mark.parametrize("written", [FORGED, FORGED[:30], b"\n", FORGED * 100])
def test_what_others_append_to_the_journal_of_a_run_under_way_is_set_aside(tmp_path: Path, written: bytes) -> None:
    with journal_of(tmp_path / "run", [CELL]) as store:
        with store.journal.path.open("ab") as stream:
            stream.write(written)
        store.finish(Record(cell_id="f" * 16, status="ok"), store.begin("f" * 16, 1))
        with store.journal.path.open("ab") as stream:
            stream.write(written)
        store.journal.set_foreign_aside()

    read = RunStore.open(tmp_path / "run")
    assert {cell: record.status for cell, record in read.records().items()} == {CELL: "ok", "f" * 16: "ok"}
    assert read.journal.num_damaged == 0
    assert (tmp_path / "run" / "journal.jsonl.foreign").read_bytes() == written * 2
    assert store.journal.num_foreign_bytes == 2 * len(written)


@pytest.mark.parametrize("how", ["cut", "emptied", "replaced", "replaced by a link"])
def test_a_journal_that_others_cut_or_replace_is_not_written_on(tmp_path: Path, home: Path, how: str) -> None:
    before = contents(home)
    with journal_of(tmp_path / "run", [CELL]) as store:
        path = store.journal.path
        text = path.read_bytes()
        if how in ("cut", "emptied"):
            path.write_bytes(text[: len(text) // 2] if how == "cut" else b"")
        else:
            path.unlink()
            if how == "replaced":
                path.write_bytes(FORGED)
            else:
                path.symlink_to(home / "README.md")

        with pytest.raises(OSError, match="while it was written"):
            store.finish(Record(cell_id="f" * 16, status="ok"), store.begin("f" * 16, 1))

    assert contents(home) == before


def test_foreign_lines_are_not_set_aside_through_a_link(tmp_path: Path, home: Path) -> None:
    before = contents(home)
    with journal_of(tmp_path / "run", [CELL]) as store:
        (tmp_path / "run" / "journal.jsonl.foreign").symlink_to(home / "README.md")
        with store.journal.path.open("ab") as stream:
            stream.write(FORGED)

        with pytest.raises(OSError, match="symbolic link"):
            store.journal.set_foreign_aside()

    assert contents(home) == before
