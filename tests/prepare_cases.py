"""What tests of downloads, archives and `mmbench prepare` share: a bad server, archives, a dataset in need."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mmbench.config import RunConfig
from mmbench.download import Patience
from mmbench.prepare import Sources, run_prepare
from mmbench.registry import Entry, Registry
from mmbench.spec import AssetSpec, DatasetSpec, Modality, TaskSpec

CONTENT = bytes(range(256)) * 4096  # 1 MiB
HASH = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(timeout_s=10.0, attempts=3, backoff_s=0.01)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`, as badly as it is told to.

    Attributes:
        cuts: After how many bytes of a body to hang up, one number per request; then no more.
        ranges: Whether Range is honoured.
        etag: Sent and compared, unless empty.
        errors: Statuses to answer with first.
        reason: What stands beside them in the answer.
        endless: Whether bodies have no end, and no length.
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
        self.reason: str | None = None
        self.endless = False
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
            self.send_error(server.errors.pop(0), server.reason)
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
        if server.endless:
            self.end_headers()
            with suppress(OSError):  # until nobody reads it any more
                while True:
                    self.wfile.write(body)
            return
        if server.length:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = start + server.cuts.pop(0) if server.cuts else len(body)
        self.wfile.write(body[start:end])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
