"""Small inputs that ask for much are refused before memory, disk or time is spent on them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from mmbench.config import load_config
from mmbench.errors import DataError, UsageError
from mmbench.merge import _copy_data
from mmbench.unpack import unpack


def header(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_tar_header_that_claims_much_is_refused(tmp_path: Path, kind: bytes) -> None:
    archive = tmp_path / "data.tar"
    with archive.open("wb") as stream:
        stream.write(header(kind, 3 << 30))
        stream.truncate(3 << 30)

    with pytest.raises(DataError, match="a header claims 3,221,225,472 bytes"):
        unpack(archive, "0" * 64)


def test_a_tar_archive_with_long_names_is_unpacked(tmp_path: Path) -> None:
    archive, name = tmp_path / "data.tar", "folder/" + "x" * 180
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as made:
        info = tarfile.TarInfo(name)
        info.size = 4
        made.addfile(info, io.BytesIO(b"data"))

    unpack(archive, "0" * 64)

    assert (tmp_path / name).read_bytes() == b"data"


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 100_000,
        ".".join(["a"] * 50_000) + " = 1",
        "seeds = " + "9" * 6000,
        "seeds = 999999999",
        'seeds = "' + "9" * 6000 + '"',
        "x = " + "{a = " * 5000 + "1" + "}" * 5000,
    ],
    ids=["arrays", "dotted key", "long number", "many seeds", "long text", "tables"],
)
def test_a_run_file_that_asks_for_much_is_said_in_a_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    begun = time.monotonic()

    with pytest.raises(UsageError) as caught:
        load_config({}, config_file=file)

    assert len(str(caught.value)) < 10_000
    assert time.monotonic() - begun < 30


def test_a_sparse_file_is_copied_with_its_holes(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.write(b"begin")
        stream.truncate(1 << 30)
        stream.seek(512 << 20)
        stream.write(b"middle")
    assert (tmp_path / "sparse").stat().st_size == 1 << 30

    _copy_data(tmp_path / "sparse", tmp_path / "copy")

    about = (tmp_path / "copy").stat()
    assert (about.st_size, about.st_blocks * 512 < 1 << 20) == (1 << 30, True)
    with (tmp_path / "copy").open("rb") as stream:
        assert stream.read(5) == b"begin"
        stream.seek(512 << 20)
        assert stream.read(6) == b"middle"
        assert os.fstat(stream.fileno()).st_size == 1 << 30


def test_a_table_of_100_000_columns_is_looked_at_in_seconds(tmp_path: Path) -> None:
    names = ",".join(f"c{number}" for number in range(100_000))
    (tmp_path / "wide.csv").write_text(f"{names}\n" + ("1," * 99_999 + "0\n") * 2)
    command = [sys.executable, "-c", "from mmbench.cli import main; main()", "plan", "-f", "single"]

    done = subprocess.run(
        [*command, "-d", "manifest:wide.csv[label=zzz]"], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )

    assert done.returncode == 2
    assert done.stderr.startswith("error: wide.csv has no column 'zzz' for labels; it has c0, c1")
    assert len(done.stderr) < 1000
