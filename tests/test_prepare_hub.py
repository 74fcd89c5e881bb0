"""Repositories of the hub come whole, through its own library or from a copy of its cache."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prepare_cases import command, prepare, registry_of, sha256, spec, tree

from mmbench import hub
from mmbench.errors import DataError
from mmbench.spec import AssetSpec, EncoderSpec


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
