"""What changes a manifest's fingerprint, and how often files are read for it."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
from manifest_cases import media
from mmbench_datasets.manifest import describe

pytestmark = pytest.mark.usefixtures("own_cache")


def age(folder, seconds=10):
    """Make files older than the clock's resolution, so that their hashes are remembered."""
    past = time.time() - seconds
    for path in folder.iterdir():
        if path.is_file():
            os.utime(path, (past, past))


def test_the_fingerprint_follows_content_options_and_nothing_else(tmp_path):
    target = media(tmp_path)
    first = describe(target).fingerprint

    assert describe(target).fingerprint == first
    assert describe(target, photo="photo").fingerprint != first
    (tmp_path / "unused.png").write_bytes(b"x")
    age(tmp_path)
    assert describe(target).fingerprint == first
    (tmp_path / "i3.png").write_bytes((tmp_path / "i4.png").read_bytes())
    assert describe(target).fingerprint != first


def test_the_same_data_in_another_folder_have_the_same_fingerprint(tmp_path):
    (tmp_path / "one").mkdir()
    target = media(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")

    assert describe(target).fingerprint == describe(str(tmp_path / "two" / "data.csv")).fingerprint


def test_planning_again_reads_no_file_twice(tmp_path, monkeypatch):
    target = media(tmp_path)
    age(tmp_path)
    first = describe(target).fingerprint
    monkeypatch.setattr("hashlib.file_digest", None)  # calling it would raise

    assert describe(target).fingerprint == first


def test_a_damaged_memo_is_ignored(tmp_path):
    target = media(tmp_path)
    age(tmp_path)
    first = describe(target).fingerprint
    (memo,) = (tmp_path / "cache" / "manifest-hashes").glob("*.json")

    for damage in ("{", "[]", json.dumps({"i0.png": "x"})):
        memo.write_text(damage)
        assert describe(target).fingerprint == first


def test_a_cache_folder_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "file" / "below"))

    assert len(describe(media(tmp_path)).fingerprint) == 64
