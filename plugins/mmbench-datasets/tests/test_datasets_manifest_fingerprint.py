"""What changes a manifest's fingerprint, and how often files are read for it."""

from __future__ import annotations

import json
import shutil

import pytest
from manifest_cases import media
from mmbench_datasets.manifest import describe

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def remembered(monkeypatch):
    """Files are remembered however new they are: the time of change cannot be set back."""
    monkeypatch.setattr("mmbench_datasets.filehash._SETTLED_NS", -1)


def test_the_fingerprint_follows_content_options_and_nothing_else(tmp_path):
    target = media(tmp_path)
    first = describe(target).fingerprint

    assert describe(target).fingerprint == first
    assert describe(target, photo="photo").fingerprint != first
    (tmp_path / "unused.png").write_bytes(b"x")
    assert describe(target).fingerprint == first
    (tmp_path / "i3.png").write_bytes((tmp_path / "i4.png").read_bytes())
    assert describe(target).fingerprint != first


def test_the_same_data_in_another_folder_have_the_same_fingerprint(tmp_path):
    (tmp_path / "one").mkdir()
    target = media(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")

    assert describe(target).fingerprint == describe(str(tmp_path / "two" / "data.csv")).fingerprint


@pytest.mark.usefixtures("remembered")
def test_planning_again_reads_no_file_twice(tmp_path, monkeypatch):
    target = media(tmp_path)
    first = describe(target).fingerprint
    monkeypatch.setattr("hashlib.file_digest", None)  # calling it would raise

    assert describe(target).fingerprint == first


@pytest.mark.usefixtures("remembered")
def test_a_damaged_memo_is_ignored(tmp_path):
    target = media(tmp_path)
    first = describe(target).fingerprint
    (memo,) = (tmp_path / "cache" / "manifest-hashes").glob("*.json")

    for damage in ("{", "[]", json.dumps({"i0.png": "x"})):
        memo.write_text(damage)
        assert describe(target).fingerprint == first


def test_a_cache_folder_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "file" / "below"))

    assert len(describe(media(tmp_path)).fingerprint) == 64
