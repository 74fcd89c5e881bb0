"""A cache that somebody else has prepared neither crashes its reader nor has a stranger's files removed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import bounds

from mmbench.cache import ArrayCache
from mmbench.errors import DiskError

KEY = "column/3f/9c"
OLD = (1.0, 1.0)


def forge(root: Path, change: Callable[[dict[str, Any]], Any], key: str = KEY) -> Path:
    """Store an entry, change its manifest and give it the checksum that belongs to it then."""
    ArrayCache(root).put(key, {"x": np.arange(8.0)})
    file = root / key / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest.pop("crc32")
    manifest = change(manifest) or manifest
    checksum = zlib.crc32(json.dumps(manifest, sort_keys=True).encode())
    file.write_text(json.dumps({**manifest, "crc32": checksum}))
    return root / key


def array(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["arrays"]["x"].update(changes)


FORGERIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "pointers": array(dtype="|O"),
    "pointers by name": array(dtype="object"),
    "structure with pointers": array(dtype="O,i4"),
    "structure": array(dtype=[["a", "|O"]]),
    "void": array(dtype="|V8"),
    "dates": array(dtype="<M8[s]"),
    "dtype of a sub-array": array(dtype="(2,)f8"),
    "dtype of a gigantic text": array(dtype="<U999999999", shape=[1]),
    "no dtype": array(dtype=None),
    "a number as dtype": array(dtype=7),
    "one number more, read from the header": array(shape=[9]),
    "one number less": array(shape=[7]),
    "1000 times as many": array(shape=[8000]),
    "negative": array(shape=[-8]),
    "two negatives": array(shape=[-2, -4]),
    "overflowing": array(shape=[10**30]),
    "overflowing to the right size": array(shape=[2**62, 4, 2]),
    "a nan": array(shape=[float("nan")]),
    "a bool": array(shape=[True]),
    "100 dimensions": array(shape=[1] * 100),
    "zero times huge": array(shape=[0, 2**62]),
    "text as shape": array(shape="8"),
    "file outside": array(file="../../../secret"),
    "absolute file": array(file="/etc/passwd"),
    "the manifest as file": array(file="manifest.json"),
    "another number of bytes": array(size_bytes=10**40),
    "arrays as a list": lambda manifest: manifest.update(arrays=[]),
    "another key": lambda manifest: manifest.update(key="column/3f/9d"),
    "a list as manifest's arrays' entry": lambda manifest: manifest.update(arrays={"x": []}),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_manifest_with_the_right_checksum_is_made_again(tmp_path: Path, forgery: str) -> None:
    forge(tmp_path, FORGERIES[forgery])
    cache = ArrayCache(tmp_path)

    assert cache.get(KEY) is None
    assert cache.get_or_make(KEY, lambda: {"x": np.ones(3)})["x"].tolist() == [1.0, 1.0, 1.0]


def test_pointers_from_a_file_are_never_dereferenced(tmp_path: Path) -> None:
    """The attack itself, in a process of its own: reading such an array would be a segmentation fault."""
    forge(tmp_path, array(dtype="|O"))
    script = f"""
import pathlib
from mmbench.cache import ArrayCache
found = ArrayCache(pathlib.Path({str(tmp_path)!r})).get({KEY!r})
print(found if found is None else found["x"][1])
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout) == (0, "None\n")


@pytest.mark.parametrize("kind", ["fifo", "folder", "link to a device", "link outside", "deep", "long number"])
def test_a_manifest_that_is_no_manifest_holds_nobody_up(tmp_path: Path, kind: str) -> None:
    folder = forge(tmp_path, lambda manifest: None)
    file = folder / "manifest.json"
    text = file.read_text()
    file.unlink()
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "link to a device":
        file.symlink_to("/dev/zero")
    elif kind == "link outside":
        (tmp_path / "elsewhere").write_text(text)
        file.symlink_to(tmp_path / "elsewhere")
    elif kind == "deep":
        file.write_text("[" * 200_000)
    else:
        file.write_text('{"crc32": ' + "9" * 10_000 + "}")

    assert ArrayCache(tmp_path).get(KEY) is None
    assert ArrayCache(tmp_path).entries() == []


def plant(root: Path) -> dict[str, bytes]:
    """Put other people's files everywhere into a cache; return them, none of which may change."""
    ArrayCache(root).put("index/aa", {"x": np.arange(8.0)})
    files = {
        "proj/manifest.json": b'{"name": "my web app"}',
        "proj/src/code.py": b"precious",
        "flat/manifest.json": b'{"name": "an extension", "format": 2}',
        "arrays/manifest.json": b"{}",
        "arrays/0.npy": b"data of mine",
        "checked/manifest.json": (root / "index/aa/manifest.json").read_bytes(),  # a copy: its key is another
        "checked/0.npy": (root / "index/aa/0.npy").read_bytes(),
        "index/aa/sub/notes.txt": b"below an entry",
        ".writing-diary/page.txt": b"mine",
        ".writing-diary-abcd1234/page.txt": b"mine",
        ".removing-old-abcd1234/entry/page.txt": b"mine",
        ".removing-old-abcd5678/entry/0.npy/page.txt": b"mine",
        ".encoding-abcd1234/page.txt": b"mine",
        "project/.encoding-abcd1234/train": b"mine",
        "project/.writing-thesis-abcd1234/chapter1.tex": b"mine",
        ".ssh/id_ed25519": b"key",
        ".git/config": b"[core]",
        "locks/.poetry.lock": b"",
        ".package-0123456789abcdef.lock": b"",
        "locks/.package-0123456789abcdef.lock": b"with content",
        "node_modules/.package-lock.json": b"{}",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, OLD, follow_symlinks=False)
    return files


def read(root: Path, names: dict[str, bytes]) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in names if (root / name).is_file()}


def test_nothing_of_others_is_removed_wherever_it_is(tmp_path: Path) -> None:
    files = plant(tmp_path)
    ArrayCache(tmp_path).put(KEY, {"x": np.arange(8.0)})

    done = ArrayCache(tmp_path).trim(max_bytes=0)

    assert [entry.key for entry in done.removed] == [KEY]
    assert read(tmp_path, files) == files


def test_the_command_and_its_dry_run_agree_and_leave_others_alone(tmp_path: Path) -> None:
    files = plant(tmp_path)
    ArrayCache(tmp_path).put(KEY, {"x": np.arange(8.0)})

    def clean(*options: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-c", "from mmbench.cli import main; main()", "clean", "--cache", "--json", *options],
            capture_output=True,
            text=True,
            env={**os.environ, "MMBENCH_CACHE": str(tmp_path)},
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    promised = clean("--dry-run")
    assert promised["removed"]["keys"] == [KEY]
    assert (tmp_path / KEY).is_dir()
    assert clean("--yes")["removed"] == promised["removed"]
    assert read(tmp_path, files) == files


@pytest.mark.parametrize("where", ["column", "column/3f", KEY])
def test_an_entry_behind_a_link_is_not_removed(tmp_path: Path, where: str) -> None:
    root, outside = tmp_path / "cache", tmp_path / "outside"
    ArrayCache(outside).put(KEY, {"x": np.arange(8.0)})
    (root / where).parent.mkdir(parents=True)
    (root / where).symlink_to(outside / where, target_is_directory=True)

    assert ArrayCache(root).trim(max_bytes=0).removed == ()
    assert ArrayCache(outside).get(KEY) is not None


def test_an_entry_replaced_by_a_link_after_it_was_listed_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, outside = ArrayCache(tmp_path / "cache"), tmp_path / "outside"
    cache.put(KEY, {"x": np.arange(8.0)})
    ArrayCache(outside).put(KEY, {"x": np.arange(8.0)})
    listed = cache.entries()
    for path in (outside / KEY / "manifest.json", cache.root / KEY / "manifest.json"):
        os.utime(path, OLD)
    monkeypatch.setattr(cache, "entries", lambda: listed)
    shutil.rmtree(cache.root / "column")
    (cache.root / "column").symlink_to(outside / "column", target_is_directory=True)

    assert [entry.key for entry in cache.trim(max_bytes=0).busy] == [KEY]
    assert ArrayCache(outside).get(KEY) is not None


def test_a_foreign_folder_in_the_place_of_an_entry_is_not_removed_to_write_one(tmp_path: Path) -> None:
    (tmp_path / KEY / "src").mkdir(parents=True)
    (tmp_path / KEY / "src" / "code.py").write_text("precious")

    with pytest.raises(DiskError, match="holds files of another program"):
        ArrayCache(tmp_path).put(KEY, {"x": np.arange(8.0)})

    assert (tmp_path / KEY / "src" / "code.py").read_text() == "precious"
    assert not [path for path in tmp_path.rglob(".*") if path.is_dir()]


def test_locks_that_are_links_are_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    root = tmp_path / "cache"
    (root / "column" / "3f").mkdir(parents=True)
    (root / "column" / "3f" / ".9c.lock").symlink_to(victim)

    before = victim.stat().st_mode

    with suppress(DiskError):  # the lock cannot be taken, which is said
        ArrayCache(root).get_or_make(KEY, lambda: {"x": np.ones(3)})

    assert victim.read_text() == "precious"
    assert victim.stat().st_mode == before


def mutate(text: bytes, source: random.Random) -> bytes:
    data = bytearray(text)
    for _ in range(source.randint(1, 4)):
        kind = source.randrange(4)
        at = source.randrange(len(data) + 1)
        if kind == 0 and data:
            data[at % len(data)] = source.randrange(256)
        elif kind == 1:
            del data[at : at + source.randint(1, 40)]
        elif kind == 2:
            data[at:at] = bytes(source.randrange(256) for _ in range(source.randint(1, 20)))
        else:
            data[at:at] = source.choice(
                [b"-1", b"1e999", b"null", b"[[[[", b'"|O"', b"99999999999999999999", b"{}", b"true"]
            )
    return bytes(data)


def fuzz(root: Path, rounds: int) -> None:
    source = random.Random(0)
    cache = ArrayCache(root)
    values = np.arange(64.0).reshape(8, 8)
    cache.put("index/other", {"x": values})
    for number in range(rounds):
        cache.put(KEY, {"x": values, "y": np.array([1, 2])})
        file = root / KEY / source.choice(["manifest.json", "0.npy", "1.npy"])
        text = file.read_bytes()
        if file.name == "manifest.json" and source.random() < 0.7:  # one leaf, with the checksum that belongs to it
            manifest = json.loads(text)
            manifest.pop("crc32")
            leaves = [(manifest, key) for key in manifest] + [
                (entry, key) for entry in manifest["arrays"].values() for key in entry
            ]
            place, key = source.choice(leaves)
            place[key] = source.choice([None, -1, 2**70, 1.5, "", "|O", "x" * 5000, [], {}, [[1]], True, float("inf")])
            text = json.dumps({**manifest, "crc32": zlib.crc32(json.dumps(manifest, sort_keys=True).encode())}).encode()
        else:
            text = mutate(text, source)
        file.write_bytes(text)

        with bounds():
            found = cache.get(KEY)
            cache.entries()

        if found is not None and "x" in found:
            np.testing.assert_array_equal(found["x"], values, err_msg=f"round {number}")
        assert cache.get("index/other") is not None
        shutil.rmtree(root / KEY)


def test_100_mutated_entries_are_read_right_or_not_at_all(tmp_path: Path) -> None:
    fuzz(tmp_path, 100)


@pytest.mark.full
def test_2000_mutated_entries_are_read_right_or_not_at_all(tmp_path: Path) -> None:
    fuzz(tmp_path, 2000)
