"""An archive stays in its folder, and a damaged or hostile one leaves nothing, however it was packed."""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from prepare_cases import names, tar_of, tree, zip_of

import mmbench.download
import mmbench.unpack
from mmbench.errors import DataError
from mmbench.unpack import unpack, unpacked


def test_a_zip_is_unpacked_beside_itself_and_known_to_be_whole(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", images__1=b"one", images__deep__2=b"two", empty=b"")

    unpack(archive, "0" * 64)

    found = tree(tmp_path)
    assert {name: found[name] for name in ("images/1", "images/deep/2", "empty")} == {
        "images/1": b"one",
        "images/deep/2": b"two",
        "empty": b"",
    }
    assert names(tmp_path) == [".a.zip.unpacked.json", "a.zip", "empty", "images"]
    assert unpacked(archive, "0" * 64) == ""
    assert unpacked(archive, "1" * 64) == "an older archive was unpacked"
    (tmp_path / "images" / "1").write_bytes(b"onE")
    assert unpacked(archive, "") == "1 of its 3 files is gone or damaged, as images/1"


def test_a_tar_is_unpacked_and_links_inside_become_copies(tmp_path: Path) -> None:
    members = [
        ("./data/last", (tarfile.SYMTYPE, "../data/first")),
        ("data/first", b"content"),
        ("data/hard", (tarfile.LNKTYPE, "data/first")),
        ("data/chain", (tarfile.SYMTYPE, "last")),
    ]

    unpack(tar_of(tmp_path / "a.tar.gz", *members), "")

    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["chain", "first", "hard", "last"]
    assert not any(path.is_symlink() for path in (tmp_path / "data").iterdir())
    assert {path.read_bytes() for path in (tmp_path / "data").iterdir()} == {b"content"}


def test_what_a_killed_process_left_while_unpacking_is_removed(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a.zip", x=b"one")
    (tmp_path / ".unpacking-a.zip-dead" / "deep").mkdir(parents=True)

    unpack(archive, "")

    assert names(tmp_path) == [".a.zip.unpacked.json", "a.zip", "x"]


def refused(archive: Path, match: str) -> None:
    """Check that an archive is refused, and that nothing of it stays in its folder or above."""
    before = sorted(str(path) for path in archive.parent.parent.rglob("*"))
    with pytest.raises(DataError, match=match):
        unpack(archive, "")
    assert sorted(str(path) for path in archive.parent.parent.rglob("*")) == before


@pytest.fixture
def inner(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    return tmp_path / "inner"


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "a/../b"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_that_leads_out_is_refused(inner: Path, kind: str, name: str) -> None:
    if kind == "zip":
        with zipfile.ZipFile(inner / "a.zip", "w") as archive:
            archive.writestr("good", b"1")
            archive.writestr(name, b"1")
    else:
        tar_of(inner / "a.tar", ("good", b"1"), (name, b"1"))

    refused(inner / f"a.{kind}", "leads out of its folder; such an archive is not unpacked")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc/passwd", ".."])
def test_a_link_that_leads_out_is_refused(inner: Path, kind: bytes, target: str) -> None:
    refused(tar_of(inner / "a.tar", ("a", (kind, target)), ("a/b", b"1")), "leads out of its folder")


def test_a_link_to_what_is_no_file_of_the_archive_is_refused(inner: Path) -> None:
    refused(tar_of(inner / "a.tar", ("loop", (tarfile.SYMTYPE, "loop"))), "loop is a link to loop, which is no file in")
    refused(tar_of(inner / "b.tar", ("d/x", b"1"), ("e", (tarfile.SYMTYPE, "d"))), "e is a link to d, which is no file")


def test_a_link_in_a_zip_is_no_way_out_either(inner: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(inner / "a.zip", "w") as archive:
        archive.writestr(info, "../../etc/passwd")

    refused(inner / "a.zip", "leads out of its folder")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_refused(inner: Path, kind: bytes) -> None:
    refused(tar_of(inner / "a.tar", ("null", (kind, ""))), "'null' is a device or a pipe")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bomb_is_not_set_off(inner: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(mmbench.unpack, "FREE_BYTES", 1000)
    content = bytes(20 << 20)
    if kind == "zip":
        zip_of(inner / "a.zip", zeros=content)
    else:
        tar_of(inner / "a.tar.gz", ("zeros", content))

    refused(inner / f"a.{kind}", r"unpacks to more than \d+ bytes; that is taken for a bomb")


def test_a_zip_that_lies_about_its_sizes_is_refused(inner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmbench.unpack, "FREE_BYTES", 1000)
    archive = zip_of(inner / "a.zip", zeros=bytes(20 << 20))
    data = archive.read_bytes()
    archive.write_bytes(data.replace((20 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little")))

    refused(archive, "cannot be unpacked|taken for a bomb")


def test_an_archive_of_very_many_files_is_refused(inner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmbench.unpack, "MAX_FILES", 3)

    refused(zip_of(inner / "a.zip", **{f"f{number}": b"" for number in range(4)}), "holds more than 3 files")


@pytest.mark.parametrize("name", ["a.zip", "a.zip.part", ".a.zip.unpacked.json"])
def test_an_archive_does_not_overwrite_what_is_kept_beside_it(inner: Path, name: str) -> None:
    refused(zip_of(inner / "a.zip", **{name: b"mine now"}), "which would stand in its own way")


def test_damaged_archives_and_other_files_are_refused(inner: Path) -> None:
    archive = zip_of(inner / "a.zip", x=os.urandom(5000))
    data = bytearray(archive.read_bytes())
    data[2000] ^= 1
    archive.write_bytes(data)
    refused(archive, "cannot be unpacked: Bad CRC-32")

    packed = tar_of(inner / "b.tar.gz", ("x", os.urandom(5000)))
    os.truncate(packed, 3000)
    refused(packed, "cannot be unpacked|neither a zip nor a tar")

    (inner / "c.zip").write_bytes(b"<html>")
    refused(inner / "c.zip", "is neither a zip nor a tar archive")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_tar_whose_last_bytes_or_checksum_are_wrong_is_refused(inner: Path, kind: str) -> None:
    packed = tar_of(inner / f"a.tar.{kind}", ("x", os.urandom(5000)))
    data = packed.read_bytes()

    packed.write_bytes(data[:-4])
    refused(packed, "cannot be unpacked|neither a zip nor a tar")
    packed.write_bytes(data[:2000] + bytes(8) + data[2008:])
    refused(packed, "cannot be unpacked|neither a zip nor a tar")


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_whose_packed_bytes_are_wrong_is_refused(inner: Path, packing: int) -> None:
    with zipfile.ZipFile(inner / "a.zip", "w", packing) as archive:
        archive.writestr("x", b"again and again " * 1000)
    data = (inner / "a.zip").read_bytes()
    (inner / "a.zip").write_bytes(data[:50] + b"y" * 20 + data[70:])

    refused(inner / "a.zip", "cannot be unpacked: .")
