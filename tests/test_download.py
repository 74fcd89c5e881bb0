"""A file comes whole and checked or not at all, whatever the network and the server do."""

from __future__ import annotations

import io
import socketserver
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from prepare_cases import CONTENT, HASH, QUICK, Handler, Server, names, sha256

import mmbench.download
import mmbench.unpack
from mmbench.download import Patience, fetch
from mmbench.errors import DiskError, DownloadError


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

    assert time.monotonic() - began < 30


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


def test_a_download_without_an_end_leaves_the_disk_its_room(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 2**20 + mmbench.download._ROOM_BYTES + 20 * 2**20

    def disk_usage(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=room - sum(path.stat().st_size for path in tmp_path.iterdir()))

    server.endless = True
    monkeypatch.setattr(mmbench.download, "_ROOM_EVERY_BYTES", 2**20)
    monkeypatch.setattr(mmbench.download.shutil, "disk_usage", disk_usage)

    with pytest.raises(DiskError, match="make room, or choose another folder"):
        fetch(f"{server.address}/data.bin", tmp_path / "data.bin", patience=QUICK)

    assert names(tmp_path) == []
