"""A file that is replaced is noticed, whatever its modification time says."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from mmbench_datasets import filehash
from mmbench_datasets.filehash import file_digests


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(filehash, "_SETTLED_NS", -1)  # every file is remembered at once


def digest_of(file: Path) -> str:
    return file_digests(file.parent, {file.name: file.stat()})[file.name]


@pytest.mark.parametrize("how", ["in place", "another file moved there"])
def test_a_file_replaced_with_size_and_time_kept_has_another_digest(tmp_path: Path, how: str) -> None:
    file = tmp_path / "data" / "clip.wav"
    file.parent.mkdir()
    file.write_bytes(b"first")
    os.utime(file, ns=(10**18, 10**18))
    before = digest_of(file)

    if how == "in place":
        file.write_bytes(b"other")
    else:
        (tmp_path / "new").write_bytes(b"other")
        (tmp_path / "new").replace(file)
    os.utime(file, ns=(10**18, 10**18))

    assert before == hashlib.sha256(b"first").hexdigest()
    assert digest_of(file) == hashlib.sha256(b"other").hexdigest()


def test_a_file_that_is_as_it_was_is_not_read_again(tmp_path: Path) -> None:
    file = tmp_path / "data" / "clip.wav"
    file.parent.mkdir()
    file.write_bytes(b"first")
    checked: list[str] = []
    for _ in range(2):
        file_digests(file.parent, {file.name: file.stat()}, checked.append)

    assert checked == ["clip.wav"]
