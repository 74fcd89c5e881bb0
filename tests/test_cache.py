"""Whatever happens to a cache's files or to the processes that write them, nobody ever gets a wrong array."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from own_disk import mounted

import mmbench.cache
from mmbench.cache import ArrayCache, sizes_by_sort
from mmbench.config import RunConfig
from mmbench.errors import DiskError

KEY = "column/3f/9c"
HOUR = 3600.0
DAY = 24 * HOUR


def sample_arrays() -> dict[str, np.ndarray]:
    return {
        "train.values": np.arange(60, dtype=np.float32).reshape(5, 4, 3),
        "train.offsets": np.array([0, 2, 5]),
        "train.present": np.array([True, False, True]),
        "nothing": np.zeros((0, 3), np.uint8),
        "scalar": np.array(7.5),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        "names": np.array(["ä", "bc"]),
    }


def assert_same(found: Mapping[str, np.ndarray] | None, expected: Mapping[str, np.ndarray]) -> None:
    assert found is not None
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def never() -> dict[str, np.ndarray]:
    raise AssertionError("the entry is there and need not be made")


def aged(root: Path, key: str, age_s: float, size: int = 1000) -> None:
    """Store an entry that was last used so long ago; `size` is about what it takes on disk."""
    ArrayCache(root).put(key, {"x": np.zeros(size, np.uint8)})
    then = time.time() - age_s
    os.utime(root / key / "manifest.json", (then, then))


def hidden(root: Path) -> list[Path]:
    return [path for path in root.rglob(".*") if not path.name.endswith(".lock")]


def test_arrays_of_every_shape_come_back_as_they_were(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)

    cache.put(KEY, sample_arrays())

    assert_same(cache.get(KEY), sample_arrays())


def test_what_is_read_is_mapped_and_any_reader_of_npy_opens_the_file(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    cache.put(KEY, {"x": np.arange(4.0)})

    found = cache.get(KEY)

    assert found is not None
    assert isinstance(found["x"], np.memmap)
    np.testing.assert_array_equal(np.load(tmp_path / KEY / "0.npy", allow_pickle=False), [0.0, 1.0, 2.0, 3.0])


def test_an_entry_is_made_once_and_then_read(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)

    assert_same(cache.get_or_make(KEY, sample_arrays), sample_arrays())
    assert_same(cache.get_or_make(KEY, never), sample_arrays())


@pytest.mark.parametrize("key", ["../x", "a//b", "/etc", "a/../../b", "a/.hidden", "a\\b", ""])
def test_a_key_that_leaves_the_folder_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="leaves the cache folder"):
        ArrayCache(tmp_path).get(key)


def test_arrays_of_objects_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'x' of cache entry column/3f/9c holds Python objects"):
        ArrayCache(tmp_path).put(KEY, {"x": np.array([None])})

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pristine")
    ArrayCache(root).put(KEY, sample_arrays())
    return root


@given(data=st.data())
def test_a_byte_changed_anywhere_never_gives_a_wrong_array(pristine: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "cache"
        shutil.copytree(pristine, root)
        files = sorted((root / KEY).iterdir())
        file = data.draw(st.sampled_from(files), label="file")
        content = bytearray(file.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1), label="place")
        content[place] ^= data.draw(st.integers(1, 255), label="mask")
        file.write_bytes(content)

        found = ArrayCache(root).get(KEY)

        if found is not None:  # white space in the manifest is all that may change
            assert file.name == "manifest.json"
            assert_same(found, sample_arrays())


@given(data=st.data())
def test_a_file_cut_short_anywhere_is_noticed(pristine: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "cache"
        shutil.copytree(pristine, root)
        file = data.draw(st.sampled_from(sorted((root / KEY).iterdir())), label="file")
        os.truncate(file, data.draw(st.integers(0, file.stat().st_size - 1), label="size"))
        cache = ArrayCache(root)

        assert cache.get(KEY) is None
        assert_same(cache.get_or_make(KEY, lambda: {"x": np.arange(3)}), {"x": np.arange(3)})
        assert_same(cache.get_or_make(KEY, never), {"x": np.arange(3)})


def test_a_lost_file_is_noticed(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    for name in ("0.npy", "manifest.json"):
        cache.put(KEY, sample_arrays())
        (tmp_path / KEY / name).unlink()

        assert cache.get(KEY) is None


def test_an_array_that_vanished_from_the_manifest_is_noticed(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    cache.put(KEY, sample_arrays())
    manifest = tmp_path / KEY / "manifest.json"
    told = json.loads(manifest.read_text())
    del told["arrays"]["train.offsets"]
    manifest.write_text(json.dumps(told))

    assert cache.get(KEY) is None


@pytest.mark.parametrize("text", ['{"format": 3, "crc32": 0, "chunks": []}', "[]", "null", "{}", "3", '"x"', "\xff"])
def test_an_entry_of_a_newer_format_or_of_none_is_made_again(tmp_path: Path, text: str) -> None:
    cache = ArrayCache(tmp_path)
    cache.put(KEY, sample_arrays())
    (tmp_path / KEY / "manifest.json").write_text(text, encoding="latin-1")

    assert cache.get(KEY) is None
    assert_same(cache.get_or_make(KEY, sample_arrays), sample_arrays())


_WRITER = """
import sys
from pathlib import Path
import numpy as np
from mmbench.cache import ArrayCache
cache = ArrayCache(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(int(sys.argv[3])):
    value = number + int(sys.argv[2])
    arrays = {name: np.full(50_000, value, np.int64) for name in ("a", "b", "c")}
    cache.put("column/x/y", arrays)
print("done", flush=True)
"""


def writer(root: Path, first: int, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WRITER, str(root), str(first), str(rounds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def assert_whole(found: Mapping[str, np.ndarray]) -> None:
    values = {int(value) for array in found.values() for value in (array[0], array[-1])}
    assert len(values) == 1, f"arrays of different writers in one entry: {values}"


def test_a_writer_killed_at_any_moment_leaves_a_whole_entry_or_none(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    chance = random.Random(0)
    seen = 0
    for first in range(0, 60_000, 10_000):
        process = writer(tmp_path, first, 10_000)
        until = time.monotonic() + 120
        while first == 0 and cache.get("column/x/y") is None:  # a slow disk takes its time for the first one
            assert time.monotonic() < until
        time.sleep(chance.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = cache.get("column/x/y")
        if found is not None:
            seen += 1
            assert_whole(found)
    assert seen > 0

    for leftover in hidden(tmp_path):
        for path in (leftover, *leftover.rglob("*")):
            os.utime(path, (0, 0))
    cache.trim(max_bytes=0)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_at_once_never_mix_and_no_reader_sees_half(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    writers = [writer(tmp_path, 0, 60), writer(tmp_path, 10**6, 60)]
    seen = 0
    while any(process.poll() is None for process in writers):
        found = cache.get("column/x/y")
        if found is not None:
            seen += 1
            assert_whole(found)

    assert [process.returncode for process in writers] == [0, 0]
    assert seen > 0
    assert hidden(tmp_path) == []


_MAKER = """
import os, sys, time
from pathlib import Path
import numpy as np
from mmbench.cache import ArrayCache

def make():
    (Path(sys.argv[1]) / f"made-by-{os.getpid()}").touch()
    time.sleep(0.3)
    return {"x": np.arange(3)}

print(ArrayCache(Path(sys.argv[1]) / "cache").get_or_make("column/x/y", make)["x"].sum())
"""


def test_several_processes_that_ask_at_once_make_an_entry_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _MAKER, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]

    assert [process.communicate()[0] for process in processes] == ["3\n", "3\n", "3\n"]
    assert len(list(tmp_path.glob("made-by-*"))) == 1


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_mapped_array_outlives_its_entry(tmp_path: Path, what: str) -> None:
    cache = ArrayCache(tmp_path)
    cache.put(KEY, {"x": np.arange(100_000)})
    found = cache.get(KEY)
    assert found is not None

    if what == "removed":
        assert len(cache.trim(max_bytes=0).removed) == 1
    else:
        cache.put(KEY, {"x": np.zeros(100_000, np.int64)})

    assert int(found["x"].sum()) == 100_000 * 99_999 // 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "1m") as disk:
        yield disk


def test_a_full_disk_is_said_clearly_and_keeps_nothing_half(small_disk: Path) -> None:
    cache = ArrayCache(small_disk)
    cache.put("column/small", {"x": np.arange(3)})

    with pytest.raises(DiskError, match=r"cannot keep column/big \(4\.0 MiB\) under .*: No space left on device. Make"):
        cache.get_or_make("column/big", lambda: {"x": np.ones(2**19)})

    assert hidden(small_disk) == []
    assert_same(cache.get("column/small"), {"x": np.arange(3)})


@pytest.mark.parametrize("function", ["fsync", "write"])
def test_a_disk_that_fails_while_writing_is_said_clearly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if function == "fsync":
        monkeypatch.setattr(mmbench.cache.os, "fsync", fail)
    else:
        monkeypatch.setattr(mmbench.cache, "_write_through", fail)

    with pytest.raises(DiskError, match="No space left on device"):
        ArrayCache(tmp_path).put(KEY, sample_arrays())

    assert hidden(tmp_path) == []
    assert ArrayCache(tmp_path).entries() == []


def test_a_folder_that_cannot_be_made_is_said_clearly(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DiskError, match=r"cannot be written: .*Choose another with --cache or"):
        ArrayCache(tmp_path / "file").get_or_make(KEY, sample_arrays)


def test_the_error_of_whoever_makes_an_entry_passes_and_frees_the_lock(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)

    def fail() -> dict[str, np.ndarray]:
        raise OSError("the sample cannot be decoded")

    with pytest.raises(OSError, match="the sample cannot be decoded"):
        cache.get_or_make(KEY, fail)

    assert_same(cache.get_or_make(KEY, sample_arrays), sample_arrays())


def test_entries_are_listed_by_when_they_were_used(tmp_path: Path) -> None:
    aged(tmp_path, "index/a", 2 * DAY, 1000)
    aged(tmp_path, "features/b/c", DAY, 3000)
    aged(tmp_path, "index/d", 3 * DAY, 1000)

    entries = ArrayCache(tmp_path).entries()

    assert [entry.key for entry in entries] == ["index/d", "index/a", "features/b/c"]
    assert [(sort, count) for sort, (count, _) in sizes_by_sort(entries).items()] == [("features", 1), ("index", 2)]
    assert all(0 <= entry.size_bytes - size < 500 for entry, size in zip(entries, (1000, 1000, 3000)))


def test_reading_notes_the_time_at_most_once_a_minute(tmp_path: Path) -> None:
    cache = ArrayCache(tmp_path)
    manifest = tmp_path / "index/a/manifest.json"
    aged(tmp_path, "index/a", 30)
    before = manifest.stat().st_mtime

    cache.get("index/a")
    assert manifest.stat().st_mtime == before

    aged(tmp_path, "index/a", 90)
    cache.get("index/a")
    assert time.time() - manifest.stat().st_mtime < 30


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    for days, key in enumerate(("index/a", "index/b", "index/c", "index/d")):
        aged(tmp_path, key, days * DAY, 100_000)
    cache = ArrayCache(tmp_path)
    cache.get("index/d")  # the oldest, and used again

    done = cache.trim(max_bytes=250_000)

    assert [entry.key for entry in done.removed] == ["index/c", "index/b"]
    assert [entry.key for entry in cache.entries()] == ["index/a", "index/d"]


def test_what_was_not_used_for_long_goes(tmp_path: Path) -> None:
    aged(tmp_path, "index/a", 31 * DAY)
    aged(tmp_path, "column/b/c", 29 * DAY)

    done = ArrayCache(tmp_path).trim(older_than_s=30 * DAY)

    assert [entry.key for entry in done.removed] == ["index/a"]
    assert [entry.key for entry in done.kept] == ["column/b/c"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["column"]


def test_a_dry_run_says_the_same_and_removes_nothing(tmp_path: Path) -> None:
    aged(tmp_path, "index/a", DAY)
    (tmp_path / "index" / ".writing-b-abcd1234").mkdir()
    os.utime(tmp_path / "index" / ".writing-b-abcd1234", (0, 0))
    cache = ArrayCache(tmp_path)

    promised = cache.trim(max_bytes=0, dry_run=True)

    assert (tmp_path / "index" / ".writing-b-abcd1234").exists()
    assert cache.trim(max_bytes=0).removed == promised.removed
    assert list(tmp_path.iterdir()) == []


def test_an_entry_whose_lock_is_held_stays(tmp_path: Path) -> None:
    aged(tmp_path, "index/a", DAY)
    cache = ArrayCache(tmp_path)
    with FileLock(tmp_path / "index" / ".a.lock"):
        assert [entry.key for entry in cache.trim(max_bytes=0, dry_run=True).busy] == ["index/a"]
        assert [entry.key for entry in cache.trim(max_bytes=0).busy] == ["index/a"]
        assert cache.get("index/a") is not None

    assert [entry.key for entry in cache.trim(max_bytes=0).removed] == ["index/a"]


def test_an_entry_used_after_it_was_listed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aged(tmp_path, "index/a", DAY)
    cache = ArrayCache(tmp_path)
    listed = cache.entries()
    cache.get("index/a")
    monkeypatch.setattr(cache, "entries", lambda: listed)

    assert [entry.key for entry in cache.trim(max_bytes=0).busy] == ["index/a"]


@pytest.mark.parametrize(
    ("age_s", "held", "stays"), [(2 * HOUR, False, False), (60, False, True), (2 * HOUR, True, True)]
)
def test_leftovers_go_after_an_hour_unless_their_writer_lives(
    tmp_path: Path, age_s: float, held: bool, stays: bool
) -> None:
    leftover = tmp_path / "column" / "x" / ".writing-y-abcd1234"
    leftover.mkdir(parents=True)
    (leftover / "0.npy").touch()
    then = time.time() - age_s
    for path in (leftover / "0.npy", leftover):
        os.utime(path, (then, then))
    lock = FileLock(leftover.parent / ".y.lock")
    if held:
        lock.acquire()

    ArrayCache(tmp_path).trim(older_than_s=DAY)

    assert leftover.exists() == stays
    lock.release()


def test_files_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    aged(tmp_path, "index/a", DAY)
    others = ["notes.txt", "index/readme.md", "mine/manifest.json", "mine/data.csv", "empty/folder/.keep"]
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "vacant").mkdir()

    ArrayCache(tmp_path).trim(max_bytes=0)

    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(others)
    assert (tmp_path / "vacant").is_dir()


def test_an_entry_with_a_damaged_manifest_is_left_alone_and_made_again(tmp_path: Path) -> None:
    aged(tmp_path, "index/a", DAY)
    (tmp_path / "index/a/manifest.json").write_text("{")
    cache = ArrayCache(tmp_path)

    assert cache.trim(max_bytes=0).removed == ()
    assert_same(cache.get_or_make("index/a", sample_arrays), sample_arrays())
    assert [entry.key for entry in cache.trim(max_bytes=0).removed] == ["index/a"]


def test_entries_may_be_removed_while_others_are_made(tmp_path: Path) -> None:
    process = writer(tmp_path, 0, 150)
    cache = ArrayCache(tmp_path)
    while process.poll() is None:
        cache.trim(max_bytes=0)

    assert process.returncode == 0
    assert hidden(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "size"),
    [("50GiB", 50 * 2**30), ("10 gb", 10**10), ("1.5k", 1500), ("2e9", 2 * 10**9), (7, 7), ("0", 0), ("none", None)],
)
def test_sizes_are_read_as_people_write_them(text: Any, size: int | None) -> None:
    assert RunConfig(cache_limit=text).cache_limit == size


@pytest.mark.parametrize("text", ["much", "-1", "5 GiBs", "1.2.3k", -3])
def test_other_sizes_are_refused(text: Any) -> None:
    with pytest.raises(ValueError, match=r"a size reads 10GiB, 500MB or none|greater than or equal to 0"):
        RunConfig(cache_limit=text)


def mmbench_command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mmbench.cli", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_clean_shows_what_lies_there_and_removes_what_it_is_asked_to(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    aged(cache, "features/a/b", 40 * DAY, 3 * 2**20)
    aged(cache, "encoder-cost/a/b", DAY)
    aged(cache, "index/a", HOUR)

    def clean(*arguments: str) -> subprocess.CompletedProcess[str]:
        return mmbench_command("clean", "--cache", *arguments, cwd=tmp_path, MMBENCH_CACHE=str(cache))

    told = json.loads(clean("--dry-run", "--older-than", "30d", "--json").stdout)
    assert (told["removed"]["entries"], told["kept"]["entries"], told["in_use"]["entries"]) == (1, 2, 0)
    assert list(told["sorts"]) == ["features", "encoder-cost", "index"]
    assert "Remove 3 MiB under" in clean("--older-than", "30d").stdout  # nobody says yes
    assert (cache / "features/a/b").exists()

    done = clean("--max-size", "1MiB", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert "removed 1 entry, 3 MiB" in done.stdout
    assert sorted(path.name for path in cache.iterdir()) == ["encoder-cost", "index"]

    assert "removed 2 entries" in clean("--yes").stdout
    assert list(cache.iterdir()) == []
    assert "is empty" in clean().stdout
    wrong = clean("--max-size", "much")
    assert (wrong.returncode, wrong.stderr) == (2, "error: a size reads 10GiB, 500MB or none; got 'much'\n")


@pytest.mark.slow
def test_the_end_of_a_run_bounds_the_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    aged(cache, "features/old/entry", 40 * DAY, 2**20)
    selection = ["-d", "xor", "-f", "concat", "--grid", "smoke", "--max-cells", "1", "--protocol", "none"]

    done = mmbench_command("run", *selection, "--cache", str(cache), "--cache-limit", "1MiB", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "cache: 1 entry removed (1 MiB), the longest unused ones, to stay within cache_limit = 1 MiB" in done.stdout
    assert not (cache / "features").exists()
    assert (cache / "index").exists()


def test_a_text_is_kept_as_arrays_are_and_none_is_read_of_a_damaged_entry(tmp_path):
    cache = ArrayCache(tmp_path)
    cache.put_text("card/1/ä", "naïve\n" * 3)
    cache.put("card/1/numbers", {"text": np.arange(3)})

    assert cache.get_text("card/1/ä") == "naïve\n" * 3
    assert [cache.get_text(key) for key in ("card/1/numbers", "card/1/none")] == [None, None]
    file = tmp_path / "card" / "1" / "ä" / "0.npy"
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole + b" ", whole[:-1] + b"x", b""):
        file.write_bytes(damaged)
        assert cache.get_text("card/1/ä") is None
