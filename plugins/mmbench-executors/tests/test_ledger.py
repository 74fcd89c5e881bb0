"""What was submitted, read back by a process that was not there."""

from __future__ import annotations

from pathlib import Path

from mmbench_executors.ledger import Ledger


def tasks(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    return [(task.job_id, task.keys) for task in Ledger(path).tasks]


def test_what_was_submitted_is_read_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.intend("t", [["a", "b"], ["c"]])
    before = tasks(tmp_path / "l")
    ledger.submitted("t", ["7_0", "7_1"])

    assert before == [("", ("a", "b")), ("", ("c",))]
    assert tasks(tmp_path / "l") == [("7_0", ("a", "b")), ("7_1", ("c",))]


def test_cells_that_were_handed_back_are_nobodys_any_more(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.intend("t", [["a", "b"], ["c"]])
    ledger.submitted("t", ["7_0", "7_1"])
    ledger.settle(["a", "c"], [1.5])

    assert tasks(tmp_path / "l") == [("7_0", ("b",))]
    assert list(Ledger(tmp_path / "l").seconds) == [1.5]
    assert [Ledger(tmp_path / "l").has(key) for key in "abc"] == [False, True, False]


def test_a_submission_that_was_not_taken_leaves_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.intend("t", [["a"]])
    ledger.submitted("t", [])

    assert tasks(tmp_path / "l") == []
    assert not Ledger(tmp_path / "l").has("a")


def test_a_cell_that_is_submitted_again_leaves_its_first_job(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.intend("t", [["a", "b"]])
    ledger.submitted("t", ["7"])
    ledger.intend("u", [["b"]])
    ledger.submitted("u", ["8"])

    assert tasks(tmp_path / "l") == [("7", ("a",)), ("8", ("b",))]


def test_a_line_that_a_crash_tore_spoils_no_other(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.intend("t", [["a"]])
    with (tmp_path / "l").open("a") as stream:
        stream.write('{"event": "submi')
    Ledger(tmp_path / "l").submitted("t", ["7"])

    assert tasks(tmp_path / "l") == [("7", ("a",))]
