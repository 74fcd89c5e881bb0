"""Files come whole, checked and only where they belong, whatever the network, the server or the archive does."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import socketserver
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mmbench.download
import mmbench.unpack
from mmbench import hub
from mmbench.config import RunConfig
from mmbench.download import Patience, fetch
from mmbench.errors import DataError, DiskError, DownloadError, UsageError
from mmbench.prepare import Sources, find_needs, run_prepare, selected
from mmbench.registry import Entry, Registry, load_registry
from mmbench.spec import AssetSpec, DatasetSpec, EncoderSpec, Modality, TaskSpec
from mmbench.unpack import marker_of, unpack, unpacked

CONTENT = bytes(range(256)) * 4096  # 1 MiB
HASH = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(timeout_s=0.5, attempts=3, backoff_s=0.01)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`, as badly as it is told to.

    Attributes:
        cuts: After how many bytes of a body to hang up, one number per request; then no more.
        ranges: Whether Range is honoured.
        etag: Sent and compared, unless empty.
        errors: Statuses to answer with first.
        hangs: Whether to accept and say nothing.
        redirects: By path.
        seen: (path, Range, If-Range) of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/data.bin": CONTENT}
        self.cuts: list[int] = []
        self.ranges = True
        self.etag = '"v1"'
        self.length = True
        self.errors: list[int] = []
        self.hangs = False
        self.redirects: dict[str, str] = {}
        self.seen: list[tuple[str, str | None, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.seen.append((self.path, wanted, self.headers.get("If-Range")))
        if server.hangs:
            time.sleep(3)
            return
        if server.errors:
            self.send_error(server.errors.pop(0))
            return
        if self.path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[self.path])
            self.end_headers()
            return
        if self.path not in server.files:
            self.send_error(404)
            return
        body = server.files[self.path]
        same = self.headers.get("If-Range") in (None, server.etag)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and server.ranges and same else 0
        if start:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        if server.length:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = start + server.cuts.pop(0) if server.cuts else len(body)
        self.wfile.write(body[start:end])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# One file over HTTP


def test_a_file_arrives_whole_under_its_name_and_nothing_else_stays(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []

    fetch(
        f"{server.address}/data.bin",
        tmp_path / "sub" / "data.bin",
        sha256=HASH,
        size_bytes=len(CONTENT),
        on_progress=lambda done, total: told.append((done, total)),
    )

    assert (tmp_path / "sub" / "data.bin").read_bytes() == CONTENT
    assert names(tmp_path / "sub") == ["data.bin"]
    assert (told[0], told[-1]) == ((0, 2**20), (2**20, 2**20))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_is_cut_goes_on_where_it_broke_if_the_server_lets_it(
    server: Server, tmp_path: Path, ranges: bool
) -> None:
    server.cuts, server.ranges = [300_000, 400_000], ranges

    fetch(f"{server.address}/data.bin", tmp_path / "data.bin", sha256=HASH, patience=QUICK)

    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    second = 700_000 if ranges else 400_000
    assert [wanted for _, wanted, _ in server.seen] == [None, "bytes=300000-", f"bytes={second}-"]
    assert server.seen[1][2] == '"v1"'


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 0, 0, 0]
    with pytest.raises(
        DownloadError, match=r"ended after 300000 of 1048576 bytes \(3 attempts\). The same command goes"
    ):
        fetch(f"{server.address}/data.bin", tmp_path / "data.bin", patience=QUICK)
    assert names(tmp_path) == ["data.bin.part", "data.bin.part.json"]
    server.seen.clear()

    fetch(f"{server.address}/data.bin", tmp_path / "data.bin", patience=QUICK)

    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted, _ in server.seen] == ["bytes=300000-"]
    assert names(tmp_path) == ["data.bin"]


def leave_a_part(server: Server, tmp_path: Path, content: bytes, num_bytes: int, sha256: str = "") -> None:
    server.files["/data.bin"] = content
    server.cuts = [num_bytes, 0, 0, 0]
    with pytest.raises(DownloadError):
        fetch(f"{server.address}/data.bin", tmp_path / "data.bin", sha256=sha256, patience=QUICK)
    server.files["/data.bin"] = CONTENT
    server.seen.clear()


def test_a_file_that_changed_meanwhile_is_fetched_from_the_beginning(server: Server, tmp_path: Path) -> None:
    leave_a_part(server, tmp_path, b"old" * 400_000, 300_000)
    server.etag = '"v2"'

    fetch(f"{server.address}/data.bin", tmp_path / "data.bin", patience=QUICK)

    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_part_without_etag_or_date_is_not_gone_on_from_unless_the_hash_will_tell(
    server: Server, tmp_path: Path
) -> None:
    server.etag = ""
    leave_a_part(server, tmp_path, CONTENT, 300_000)
    fetch(f"{server.address}/data.bin", tmp_path / "data.bin", patience=QUICK)
    assert [wanted for _, wanted, _ in server.seen] == [None]

    leave_a_part(server, tmp_path, b"old" * 400_000, 300_000, HASH)
    fetch(f"{server.address}/data.bin", tmp_path / "data.bin", sha256=HASH, patience=QUICK)
    assert [wanted for _, wanted, _ in server.seen] == ["bytes=300000-", None]
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_given_up(server: Server, tmp_path: Path) -> None:
    leave_a_part(server, tmp_path, CONTENT * 2, len(CONTENT) + 5)
    server.errors = [416]

    fetch(f"{server.address}/data.bin", tmp_path / "data.bin", patience=QUICK)

    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_process_that_ended_before_the_last_step_is_made_up_for(server: Server, tmp_path: Path) -> None:
    leave_a_part(server, tmp_path, CONTENT, 300_000)
    (tmp_path / "data.bin.part").write_bytes(CONTENT)

    fetch(f"{server.address}/data.bin", tmp_path / "data.bin", sha256=HASH, patience=QUICK)

    assert server.seen == []
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_another_file_than_promised_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.files["/data.bin"] = b"<html>please log in</html>"

    with pytest.raises(DownloadError, match=f"its sha256 is {sha256(server.files['/data.bin'])}, where {HASH} was"):
        fetch(f"{server.address}/data.bin", tmp_path / "data.bin", sha256=HASH)

    assert names(tmp_path) == []


@pytest.mark.parametrize("length", [True, False])
def test_another_size_than_promised_leaves_nothing(server: Server, tmp_path: Path, length: bool) -> None:
    server.length = length

    with pytest.raises(DownloadError, match=r"it has \d+( or more)? bytes, where 500000 were promised"):
        fetch(f"{server.address}/data.bin", tmp_path / "data.bin", size_bytes=500_000)

    assert names(tmp_path) == []


def test_a_file_that_is_not_there_is_said_at_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"/none\.bin: the server answers 404 Not Found"):
        fetch(f"{server.address}/none.bin", tmp_path / "none.bin")

    assert len(server.seen) == 1
    assert names(tmp_path) == []


def test_a_server_that_is_busy_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.errors = [503, 429]

    fetch(f"{server.address}/data.bin", tmp_path / "data.bin", patience=QUICK)

    assert len(server.seen) == 3


def test_a_server_that_says_nothing_is_given_up(server: Server, tmp_path: Path) -> None:
    server.hangs = True
    began = time.monotonic()

    with pytest.raises(DownloadError, match=r"no answer within 0.2 s \(2 attempts\)"):
        fetch(
            f"{server.address}/data.bin", tmp_path / "x", patience=Patience(timeout_s=0.2, attempts=2, backoff_s=0.01)
        )

    assert time.monotonic() - began < 2


def test_a_server_that_is_not_there_is_given_up(tmp_path: Path) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_address[1]

    with pytest.raises(DownloadError, match="no connection: Connection refused"):
        fetch(f"http://127.0.0.1:{port}/data.bin", tmp_path / "data.bin", patience=QUICK)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/x",
        "file:///etc/passwd",
        "ftp://example.org/x",
        "https:///x",
        "http://localhost.example.org/x",
    ],
)
def test_only_encrypted_addresses_and_this_machine_are_fetched_from(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="is not fetched: only https:// is"):
        fetch(url, tmp_path / "x")


@pytest.mark.parametrize("target", ["http://example.org/x", "file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_does_not_lead_elsewhere_than_an_address_might(server: Server, tmp_path: Path, target: str) -> None:
    server.redirects = {"/data.bin": target}

    with pytest.raises(DownloadError, match=r"is not (fetched|followed)|302"):
        fetch(f"{server.address}/data.bin", tmp_path / "x", patience=QUICK)

    assert names(tmp_path) == []


def test_a_redirect_never_gives_up_encryption() -> None:
    request = SimpleNamespace(type="https", full_url="https://example.org/x")

    with pytest.raises(DownloadError, match="which is not encrypted; that is not followed"):
        mmbench.download._Redirects(()).redirect_request(
            request,
            io.BytesIO(),
            302,
            "",
            {},
            "http://127.0.0.1/x",  # type: ignore[arg-type]
        )


def test_a_redirect_that_is_allowed_is_followed(server: Server, tmp_path: Path) -> None:
    server.redirects = {"/old.bin": f"{server.address}/data.bin"}

    fetch(f"{server.address}/old.bin", tmp_path / "x", sha256=HASH)

    assert (tmp_path / "x").read_bytes() == CONTENT


def test_what_the_disk_cannot_hold_is_not_begun(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mmbench.download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))

    with pytest.raises(DiskError, match=r"has 1 MiB left, where 1 MiB are needed; make room, or choose another folder"):
        fetch(f"{server.address}/data.bin", tmp_path / "data.bin")


# Archives


def zip_of(path: Path, **files: bytes | str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


def tar_of(path: Path, *members: tuple[str, Any], **facts: Any) -> Path:
    packing = {".tgz": "gz", ".gz": "gz", ".bz2": "bz2", ".xz": "xz"}.get(path.suffix, "")
    with tarfile.open(path, f"w:{packing}") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                archive.addfile(info)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


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


# The command


def spec(**facts: Any) -> DatasetSpec:
    return DatasetSpec(
        name="needy",
        factory="needy_data:open",
        version="1",
        modalities=(Modality(name="image", kind="image"),),
        tasks=(TaskSpec(name="label", kind="multiclass", num_outputs=2),),
        **facts,
    )


def registry_of(*specs: Any) -> Registry:
    return Registry(entries=[Entry(spec=item, dist="tests", dist_version="1", plugin="tests") for item in specs])


def prepare(registry: Registry, data: Path, **facts: Any) -> int:
    config = RunConfig(dataset=["needy"], **facts.pop("config", {}))
    sources = Sources(mirror=facts.pop("mirror", ""), folder=facts.pop("source", None), patience=QUICK)
    return run_prepare(config, registry, data, sources=sources, yes=True, **facts)


def file_of(server: Server, **facts: Any) -> AssetSpec:
    return AssetSpec(**{"name": "data.bin", "url": f"{server.address}/data.bin", "sha256": HASH, **facts})


def test_what_is_lacking_is_fetched_once_and_then_known(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = registry_of(spec(files=(file_of(server, size_bytes=2**20, licence="CC-BY-4.0"),)))

    assert prepare(registry, tmp_path, check=True) == 1
    assert server.seen == []
    assert prepare(registry, tmp_path, dry_run=True) == 0
    assert server.seen == []
    assert prepare(registry, tmp_path) == 0

    said = capsys.readouterr().out
    assert "1 file, 1 MiB, into" in said
    assert "CC-BY-4.0" in said
    assert said.endswith("1 file fetched, all there\n")
    assert (tmp_path / "tests--needy" / "data.bin").read_bytes() == CONTENT
    assert prepare(registry, tmp_path, check=True) == prepare(registry, tmp_path) == 0
    assert len(server.seen) == 1


def test_check_finds_a_changed_byte_and_prepare_mends_it(server: Server, tmp_path: Path) -> None:
    registry = registry_of(spec(files=(file_of(server),)))
    prepare(registry, tmp_path)
    file = tmp_path / "tests--needy" / "data.bin"
    file.write_bytes(CONTENT[:-1] + b"?")

    assert prepare(registry, tmp_path, check=True) == 1
    assert prepare(registry, tmp_path) == 0
    assert file.read_bytes() == CONTENT


def test_json_says_how_it_stands_with_every_file(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = (file_of(server, licence="MIT"), file_of(server, name="no/such.bin", url=f"{server.address}/no", sha256=""))

    assert prepare(registry_of(spec(files=files)), tmp_path, as_json=True) == 1

    told = json.loads(capsys.readouterr().out)
    assert told["data_dir"] == str(tmp_path)
    assert told["files"][0] == {
        "part": "dataset needy",
        "status": "fetched",
        "reason": "",
        "name": "data.bin",
        "url": f"{server.address}/data.bin",
        "licence": "MIT",
        "size_bytes": None,
        "checked_by": "sha256",
        "path": str(tmp_path / "tests--needy" / "data.bin"),
    }
    assert (told["files"][1]["status"], told["files"][1]["reason"]) == (
        "failed",
        f"{server.address}/no: the server answers 404 Not Found",
    )


def test_an_archive_is_unpacked_once_and_may_then_be_removed(server: Server, tmp_path: Path) -> None:
    packed = zip_of(tmp_path / "made.zip", images__1=b"one").read_bytes()
    server.files["/a.zip"] = packed
    asset = file_of(server, name="raw/a.zip", url=f"{server.address}/a.zip", sha256=sha256(packed), unpack=True)
    registry = registry_of(spec(files=(asset,)))
    folder = tmp_path / "tests--needy" / "raw"

    assert prepare(registry, tmp_path) == 0
    assert (folder / "images" / "1").read_bytes() == b"one"
    when = (folder / "images" / "1").stat().st_mtime_ns
    assert prepare(registry, tmp_path) == 0
    assert (folder / "images" / "1").stat().st_mtime_ns == when

    (folder / "images" / "1").unlink()
    assert prepare(registry, tmp_path, check=True) == 1
    assert prepare(registry, tmp_path) == 0
    assert len(server.seen) == 1

    (folder / "a.zip").unlink()
    assert prepare(registry, tmp_path, check=True) == 0
    (folder / "images" / "1").unlink()
    assert prepare(registry, tmp_path) == 0
    assert len(server.seen) == 2


def test_an_archive_that_leads_out_fails_and_the_other_files_still_come(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        archive.writestr("../../evil", b"1")
    server.files["/a.zip"] = (tmp_path / "made.zip").read_bytes()
    evil = AssetSpec(name="a.zip", url=f"{server.address}/a.zip", unpack=True)

    assert prepare(registry_of(spec(files=(evil, file_of(server)))), tmp_path) == 1

    assert "failed: dataset needy (a.zip): " in capsys.readouterr().out
    assert not (tmp_path / "evil").exists()
    assert (tmp_path / "tests--needy" / "data.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a//x", "a\\x", ".hidden", "a/./x"])
def test_a_file_that_a_plugin_wants_elsewhere_is_refused(
    server: Server, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(registry_of(spec(files=(file_of(server, name=name),))), tmp_path / "data") == 1

    assert "does not name a file under the folder of tests/needy" in capsys.readouterr().out
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "path", ["/mirror/tests--needy/sub/data.bin", "/mirror/publisher.example.org/v1/d.bin", "/mirror/data.bin"]
)
def test_a_mirror_may_be_laid_out_in_three_ways(server: Server, tmp_path: Path, path: str) -> None:
    server.files = {path: CONTENT}
    asset = AssetSpec(name="sub/data.bin", url="https://publisher.example.org/v1/d.bin?token=1", sha256=HASH)

    assert prepare(registry_of(spec(files=(asset,))), tmp_path, mirror=f"{server.address}/mirror/") == 0

    assert (tmp_path / "tests--needy" / "sub" / "data.bin").read_bytes() == CONTENT


def test_a_mirror_that_lacks_a_file_is_not_gone_past(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asset = AssetSpec(name="other.bin", url=f"{server.address}/data.bin")

    assert prepare(registry_of(spec(files=(asset,))), tmp_path, mirror=f"{server.address}/mirror") == 1

    assert "the mirror has no other.bin; tried" in capsys.readouterr().out
    assert "/data.bin" not in [path for path, _, _ in server.seen]


@pytest.mark.parametrize("path", ["tests--needy/sub/data.bin", "sub/data.bin", "data.bin", "deep/under/any-name"])
def test_a_local_folder_stands_in_for_the_network(server: Server, tmp_path: Path, path: str) -> None:
    source = tmp_path / "usb"
    (source / path).parent.mkdir(parents=True)
    (source / path).write_bytes(CONTENT)
    registry = registry_of(spec(files=(file_of(server, name="sub/data.bin"),)))

    assert prepare(registry, tmp_path / "data", source=source) == 0

    assert (tmp_path / "data" / "tests--needy" / "sub" / "data.bin").read_bytes() == CONTENT
    assert server.seen == []


def test_a_wrong_file_in_a_local_folder_is_named(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / "data.bin").write_bytes(b"other")

    assert prepare(registry_of(spec(files=(file_of(server),))), tmp_path / "data", source=tmp_path / "usb") == 1

    said = " ".join(capsys.readouterr().out.split())
    assert "neither by name nor by hash" in said
    assert "is not it: its sha256 is not the one that was promised" in said


def test_what_only_a_person_can_get_is_said_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry = registry_of(spec(files=(AssetSpec(name="mosi.pkl", licence="CMU, on request"),)))
    assert prepare(registry, tmp_path) == 1
    said = capsys.readouterr().out
    place = tmp_path / "tests--needy" / "mosi.pkl"
    assert f"nobody may hand out mosi.pkl (CMU, on request): get it from its publisher and put it at {place}" in said

    assert "Fetch" not in said  # there is nothing to agree to

    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b"x")

    assert prepare(registry, tmp_path) == 0


def test_two_prepares_at_once_fetch_a_file_once(server: Server, tmp_path: Path) -> None:
    registry = registry_of(spec(files=(file_of(server),)))
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(prepare(registry, tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert codes == [0, 0, 0, 0]
    assert len(server.seen) == 1


def test_nothing_needed_is_a_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(registry_of(spec()), tmp_path) == 0

    assert capsys.readouterr().out == "nothing to prepare: the selection needs no files\n"


def test_a_dataset_that_cannot_be_described_yet_is_prepared(server: Server, tmp_path: Path) -> None:
    needy = DatasetSpec(
        name="needy",
        factory="needy_data:open",
        version="1",
        describe="no_such_module:describe",
        files=(file_of(server),),
    )
    encoder = EncoderSpec(
        name="pretrained",
        factory="x:y",
        version="1",
        kinds=("image",),
        tunings=("frozen", "scratch"),
        weights=(file_of(server, name="weights.bin"),),
    )
    registry = registry_of(needy, encoder)

    assert prepare(registry, tmp_path, config={"encoder": ["picture=pretrained"]}) == 0

    assert names(tmp_path / "tests--needy")[-1] == "data.bin"
    assert names(tmp_path / "tests--pretrained")[-1] == "weights.bin"


def prepare_part(*target: str, **facts: Any) -> tuple[AssetSpec, ...]:
    return (AssetSpec(name="-".join((*target, *(f"{key}={facts[key]}" for key in sorted(facts))))),)


def test_a_parts_own_prepare_is_asked_with_target_tuning_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "needy_data", SimpleNamespace(prepare_part=prepare_part))
    function = "needy_data:prepare_part"
    needy = spec(prepare=function, target="required", defaults={"fold": 1})
    facts = {"factory": "x:y", "version": "1", "kinds": ("image",), "tunings": ("frozen", "scratch")}
    encoder = EncoderSpec(name="lib", target="required", prepare=function, defaults={"size": 224}, **facts)
    config = RunConfig(dataset=["needy:v2[fold=3]"], encoder=["lib/resnet18", "lib/vgg11[tuning=scratch]"])

    needs, troubles = find_needs(config, registry_of(needy, encoder), tmp_path)

    assert troubles == []
    assert [need.asset.name for need in needs] == ["v2-fold=3", "resnet18-size=224-tuning=frozen"]


def test_a_plugin_that_cannot_say_what_it_needs_costs_its_own_line_only(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**options: Any) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setitem(sys.modules, "needy_data", SimpleNamespace(fails=fails, nonsense=lambda **options: 7))
    facts = {"factory": "x:y", "version": "1", "kinds": ("image",), "tunings": ("frozen",)}
    encoders = [
        EncoderSpec(name="raises", prepare="needy_data:fails", **facts),
        EncoderSpec(name="lies", prepare="needy_data:nonsense", **facts),
        EncoderSpec(name="lacks", prepare="needy_data:fails", requires=("no_such_package",), **facts),
    ]

    assert prepare(registry_of(spec(files=(file_of(server),)), *encoders), tmp_path) == 1

    said = capsys.readouterr().out
    assert "failed: encoder raises: needy_data:fails failed: ZeroDivisionError: oh" in said
    assert "failed: encoder lies: needy_data:nonsense must return a tuple of AssetSpec, got 7" in said
    assert "failed: encoder lacks: tests/lacks needs no_such_package: pip install no_such_package" in said
    assert (tmp_path / "tests--needy" / "data.bin").exists()


def test_exclude_and_modality_narrow_what_is_prepared() -> None:
    facts = {"factory": "x:y", "version": "1", "tunings": ("frozen",)}
    two = DatasetSpec(
        name="needy",
        factory="x:y",
        version="1",
        modalities=(Modality(name="photo", kind="image"), Modality(name="caption", kind="text")),
        tasks=(TaskSpec(name="label", kind="multiclass", num_outputs=2),),
    )
    encoders = [EncoderSpec(name=f"e-{kind}", kinds=(kind,), **facts) for kind in ("image", "text", "audio")]
    registry = registry_of(two, *encoders)

    def chosen(**config: Any) -> list[str]:
        return [item.entry.spec.name for item in selected(RunConfig(dataset=["needy"], **config), registry)]

    assert chosen() == ["needy", "e-image", "e-text"]
    assert chosen(modality=["caption"]) == ["needy", "e-text"]
    assert chosen(exclude=["photo=e-image"]) == ["needy", "e-text"]
    assert chosen(encoder=["e-audio"]) == ["needy", "e-image", "e-text"]  # as in a plan: no modality is audio
    with pytest.raises(UsageError, match="no encoder is named 'e-vidio'"):
        chosen(encoder=["e-vidio"])


# The hub


@pytest.fixture
def hub_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def write_snapshot(cache: Path, folder: str, **files: bytes) -> None:
    """Lay out a repository as the hub's library does: blobs named by hash, snapshots of links, a ref to the commit."""
    commit = "c" * 40
    (cache / folder / "refs").mkdir(parents=True, exist_ok=True)
    (cache / folder / "refs" / "main").write_text(commit)
    (cache / folder / "blobs").mkdir(exist_ok=True)
    snapshot = cache / folder / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        blob = cache / folder / "blobs" / (git if name.endswith("json") else sha256(content))
        if not blob.exists():
            blob.write_bytes(content)
        if not (snapshot / name).exists():
            (snapshot / name).symlink_to(Path("../../blobs") / blob.name)


HUB_FILES = {"model.safetensors": b"weights", "config.json": b"{}"}


def test_a_repository_comes_through_the_hubs_own_library(
    tmp_path: Path, hub_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def snapshot_download(name: str, **facts: Any) -> str:
        calls.append({"name": name, **facts})
        write_snapshot(hub_home, "models--org--tiny", **HUB_FILES)
        return ""

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    asset = AssetSpec(name="org/tiny", url="hf:org/tiny", files=("*.json", "*.safetensors"))
    facts = {"factory": "x:y", "version": "1", "kinds": ("image",), "tunings": ("frozen",)}
    registry = registry_of(spec(), EncoderSpec(name="pretrained", weights=(asset,), **facts))

    assert prepare(registry, tmp_path / "data", check=True) == 1
    assert calls == []
    assert prepare(registry, tmp_path / "data") == 0
    assert calls == [
        {
            "name": "org/tiny",
            "repo_type": "model",
            "revision": "main",
            "allow_patterns": ["*.json", "*.safetensors"],
        }
    ]
    assert prepare(registry, tmp_path / "data", check=True) == 0

    (hub_home / "models--org--tiny" / "blobs" / sha256(b"weights")).write_bytes(b"weightz")
    assert prepare(registry, tmp_path / "data", check=True) == 1
    assert prepare(registry, tmp_path / "data") == 0
    assert len(calls) == 2


def test_a_download_from_the_hub_that_broke_off_is_not_taken_for_whole(
    tmp_path: Path, hub_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def snapshot_download(name: str, **facts: Any) -> str:
        write_snapshot(hub_home, "datasets--org--set", **{"config.json": b"{}"})
        raise ConnectionError("reset by peer")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    registry = registry_of(spec(files=(AssetSpec(name="org/set", url="hf:org/set"),)))

    assert prepare(registry, tmp_path / "data") == 1
    assert (
        "failed: dataset needy (org/set): the hub does not give org/set@main: reset by peer" in capsys.readouterr().out
    )
    assert prepare(registry, tmp_path / "data", check=True) == 1
    assert "fetching it was interrupted" in capsys.readouterr().out


def test_without_the_hubs_library_it_is_said_what_to_install(
    tmp_path: Path, hub_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    registry = registry_of(spec(files=(AssetSpec(name="org/set", url="hf:org/set"),)))

    assert prepare(registry, tmp_path / "data") == 1

    assert "files of the Hugging Face hub need its library: pip install huggingface_hub" in capsys.readouterr().out


def test_a_copy_of_a_hub_cache_stands_in_for_the_hub(tmp_path: Path, hub_home: Path) -> None:
    write_snapshot(tmp_path / "usb", "datasets--org--set", **HUB_FILES)
    registry = registry_of(spec(files=(AssetSpec(name="org/set", url="hf:org/set"),)))

    assert prepare(registry, tmp_path / "data", source=tmp_path / "usb") == 0

    copied = hub_home / "datasets--org--set" / "snapshots" / ("c" * 40) / "config.json"
    assert copied.is_symlink()
    assert copied.read_bytes() == b"{}"
    assert prepare(registry, tmp_path / "data", check=True) == 0


def test_a_copy_of_a_hub_cache_with_a_way_out_is_refused(
    tmp_path: Path, hub_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_snapshot(tmp_path / "usb", "datasets--org--set", **HUB_FILES)
    (tmp_path / "usb" / "datasets--org--set" / "blobs" / "evil").symlink_to("/etc/passwd")
    registry = registry_of(spec(files=(AssetSpec(name="org/set", url="hf:org/set"),)))

    assert prepare(registry, tmp_path / "data", source=tmp_path / "usb") == 1

    assert "is a link that leads out of" in capsys.readouterr().out
    assert not hub_home.exists()


@pytest.mark.parametrize("url", ["hf:", "hf:../x", "hf:a/b/c", "hf:org/name@../../x", "hf:org/name@/x"])
def test_an_address_on_the_hub_must_name_a_repository(url: str) -> None:
    with pytest.raises(DataError, match="names no repository; write hf:ORGANISATION/NAME"):
        hub.parse(url, "model")


class HubHandler(BaseHTTPRequestHandler):
    """What the hub answers to its library about one repository of data, and nothing else."""

    commit = "c" * 40
    files = {"config.json": b"{}", "data/x.bin": b"weights" * 1000, "README.md": b"not wanted"}  # noqa: RUF012

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        headers = {}
        if "/resolve/" in path:
            name = path.partition(f"/resolve/{self.commit}/")[2]
            body = self.files[name]
            headers = {"ETag": f'"{self.hash_of(name)}"', "X-Repo-Commit": self.commit}
        elif "/tree/" in path:
            rows = [
                {"type": "file", "path": name, "size": len(body), **self.oid(name)} for name, body in self.files.items()
            ]
            body = json.dumps(rows).encode()
        else:
            siblings = [{"rfilename": name} for name in self.files]
            body = json.dumps({"id": "org/set", "sha": self.commit, "siblings": siblings}).encode()
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def hash_of(self, name: str) -> str:
        body = self.files[name]
        git = hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()
        return sha256(body) if name.endswith("bin") else git

    def oid(self, name: str) -> dict[str, Any]:
        size = len(self.files[name])
        if not name.endswith("bin"):
            return {"oid": self.hash_of(name)}
        return {"oid": "0" * 40, "lfs": {"oid": self.hash_of(name), "size": size, "pointerSize": 1}}


HUB_PLUGIN = '''
"""A dataset that lies on the hub."""
from mmbench import AssetSpec, DatasetSpec, Modality, TaskSpec, hookimpl


@hookimpl
def mmbench_datasets():
    files = (AssetSpec(name="org/set", url="hf:org/set", files=("*.json", "data/*.bin")),)
    modalities = (Modality(name="t", kind="tabular"),)
    tasks = (TaskSpec(name="y", kind="multiclass", num_outputs=2),)
    return [
        DatasetSpec(name="needy", factory="needy:open", version="1", modalities=modalities, tasks=tasks, files=files)
    ]
'''


def test_the_hubs_real_library_brings_the_wanted_files_and_a_changed_byte_is_mended(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    (tmp_path / "needy.py").write_text(HUB_PLUGIN)
    with ThreadingHTTPServer(("127.0.0.1", 0), HubHandler) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        variables = {
            "HF_ENDPOINT": f"http://127.0.0.1:{served.server_address[1]}",
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }
        snapshot = tmp_path / "hub" / "datasets--org--set" / "snapshots" / ("c" * 40)

        done = command(tmp_path, "-d", "needy", "--yes", **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        assert tree(snapshot) == {"config.json": b"{}", "data/x.bin": b"weights" * 1000}

        (snapshot / "data" / "x.bin").resolve().write_bytes(b"weightz" * 1000)
        found = command(tmp_path, "-d", "needy", "--check", **variables)
        assert found.returncode == 1
        assert "data/x.bin is damaged" in found.stdout
        assert command(tmp_path, "-d", "needy", "--yes", **variables).returncode == 0
        assert tree(snapshot)["data/x.bin"] == b"weights" * 1000
        served.shutdown()


# The command line

PLUGIN = '''
"""A dataset that needs a file."""
from mmbench import AssetSpec, DatasetSpec, hookimpl
from mmbench.errors import Unavailable


def describe():
    raise Unavailable("data.bin is not here; run `mmbench prepare -d needy`")


@hookimpl
def mmbench_datasets():
    file = AssetSpec(name="data.bin", url="{url}", sha256="{sha256}", size_bytes=1048576, licence="CC0-1.0")
    return [DatasetSpec(name="needy", factory="needy:open", version="1", describe="needy:describe", files=(file,))]
'''


def command(folder: Path, *arguments: str, answer: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mmbench.cli", "prepare", "--plugin", "needy.py", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        input=answer,
        env={**os.environ, "MMBENCH_DATA": str(folder / "data"), "COLUMNS": "200", **variables},
        timeout=60,
    )


def test_the_command_says_licence_and_size_asks_and_fetches(server: Server, tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text(PLUGIN.format(url=f"{server.address}/data.bin", sha256=HASH))
    file = tmp_path / "data" / "file--needy" / "data.bin"

    refused = command(tmp_path, "-d", "needy", answer="n\n")
    assert refused.returncode == 1
    assert "CC0-1.0" in refused.stdout
    assert "Fetch 1 file, 1 MiB? [y/N]:" in refused.stdout
    assert server.seen == []

    agreed = command(tmp_path, "-d", "needy", answer="y\n")
    assert (agreed.returncode, agreed.stderr) == (0, "")
    assert "1 file fetched, all there" in agreed.stdout
    assert file.read_bytes() == CONTENT

    assert command(tmp_path, "-d", "needy", "--check").returncode == 0
    file.unlink()
    lacking = command(tmp_path, "-d", "needy", "--check", "--json")
    assert lacking.returncode == 1
    assert [item["status"] for item in json.loads(lacking.stdout)["files"]] == ["lacking"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing is selected: say what you want to run"),
        (["-d", "needi"], "no dataset is named 'needi'. Did you mean 'needy'?"),
        (["-d", "needy", "--from", "nowhere"], "--from nowhere: there is no such folder"),
        (["-d", "needy", "--mirror", "example.org"], "--mirror example.org: write an address such as https://"),
        (["-d", "needy", "--json"], "prepare --json cannot ask; say --yes, --check or --dry-run"),
        (["-d", "needy", "--patience", "long"], "--patience: a duration reads 90, 90s, 15m, 2h or 30d; got 'long'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "needy.py").write_text(PLUGIN.format(url="https://example.org/data.bin", sha256=HASH))

    done = command(tmp_path, *arguments)

    assert done.returncode == 2
    assert done.stderr.startswith(f"mmbench: {message}")


def test_an_interrupted_prepare_says_that_it_can_go_on(server: Server, tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text(PLUGIN.format(url=f"{server.address}/data.bin", sha256=HASH))
    server.hangs = True
    process = subprocess.Popen(
        [sys.executable, "-m", "mmbench.cli", "prepare", "--plugin", "needy.py", "-d", "needy", "--yes"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "MMBENCH_DATA": str(tmp_path / "data")},
    )
    while not server.seen and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)

    said = process.communicate(timeout=10)[0]
    assert process.returncode == 130
    assert said.endswith("interrupted; the same command goes on where this one stopped\n")


ASKER = '''
"""Says in its summary whether libraries are told to stay off the network."""
import os
from mmbench import FusionSpec, hookimpl


@hookimpl
def mmbench_fusions():
    told = [os.environ.get(f"{name}_OFFLINE", "-") for name in ("HF_HUB", "TRANSFORMERS", "HF_DATASETS")]
    return [FusionSpec(name="asker", factory="asker:Asker", version="1", summary=" ".join(told))]
'''


def test_every_command_but_prepare_stays_off_the_network(tmp_path: Path) -> None:
    (tmp_path / "asker.py").write_text(ASKER)
    arguments = [sys.executable, "-m", "mmbench.cli", "show", "asker", "--plugin", "asker.py", "--json"]

    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True)

    assert json.loads(done.stdout)[0]["summary"] == "1 1 1"


def test_the_default_grid_needs_nothing(tmp_path: Path) -> None:
    config = RunConfig(grid="smoke", dataset=["digits", "xor"])

    assert find_needs(config, load_registry(), tmp_path) == ([], [])
    assert marker_of(tmp_path / "a.zip").name == ".a.zip.unpacked.json"
