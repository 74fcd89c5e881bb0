"""Reading a file that grows, beyond what the journal's follower shows in test_store.py."""

from __future__ import annotations

from pathlib import Path

from mmbench.tail import Tail


def test_what_a_reader_leaves_unread_comes_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "curve"
    path.write_bytes(b"one\ntwo\n")
    tail = Tail(path)

    assert next(tail.new_lines()) == b"one\n"
    assert list(tail.new_lines()) == [b"two\n"]


def test_a_file_that_cannot_be_opened_has_no_new_lines(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    assert list(Tail(tmp_path / "folder").new_lines()) == []
