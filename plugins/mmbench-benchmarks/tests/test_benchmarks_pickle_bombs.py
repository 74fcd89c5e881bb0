"""A small pickle that makes much of the same bytes is refused before it takes memory or time."""

from __future__ import annotations

import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmbench_benchmarks.affect import _ids, _labels
from mmbench_benchmarks.restricted_pickle import load_pickle

from mmbench.errors import DataError


def again(call: bytes, count: int, base: bytes) -> bytes:
    """Return a pickle that puts `base` into the memo and calls a global with it `count` times."""
    return b"\x80\x02" + base + b"q\x000](" + (b"c" + call + b"h\x00\x85R") * count + b"e."


def byte_string(size: int) -> bytes:
    return b"\x8e" + size.to_bytes(8, "little") + b"x" * size


def numbers(count: int) -> bytes:
    return b"](" + b"".join(b"J" + number.to_bytes(4, "little") for number in range(count)) + b"e"


TEXT = b"X" + (1 << 20).to_bytes(4, "little") + b"x" * (1 << 20)
BOMBS = {
    "bytearray": lambda: again(b"builtins\nbytearray\n", 4000, byte_string(1 << 20)),
    "encode": lambda: again(b"_codecs\nencode\n", 4000, TEXT),
    "frozenset": lambda: again(b"builtins\nfrozenset\n", 400, numbers(100_000)),
    "set": lambda: again(b"builtins\nset\n", 400, numbers(100_000)),
    "object arrays": lambda: object_arrays(3000, 100_000),
}


def object_arrays(count: int, size: int) -> bytes:
    items = b"](" + b"N" * size + b"eq\x000"
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R"
    dtype += b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tbq\x010"
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    one = empty + b"(K\x01J" + size.to_bytes(4, "little") + b"\x85h\x01\x89h\x00tb"
    return b"\x80\x03" + items + dtype + b"](" + one * count + b"e."


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_is_made_of_the_memo_is_counted(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(BOMBS[bomb]())
    script = f"""
import resource, pathlib
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from mmbench_benchmarks.restricted_pickle import load_pickle
try:
    load_pickle(pathlib.Path({str(path)!r}))
except Exception as error:
    print(type(error).__name__, error)
"""
    begun = time.monotonic()

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)

    assert done.stdout.startswith("DataError data.pkl is refused: it makes much more of its bytes than it has"), done
    assert time.monotonic() - begun < 60


def test_keys_of_one_hash_are_counted_before_they_are_hashed(tmp_path: Path) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps({(number, number + 1): 0 for number in range(5000)}))

    with pytest.raises(DataError, match="keys are tuples"):
        load_pickle(path)


def test_sound_pickles_are_read_as_before(tmp_path: Path) -> None:
    content: dict[Any, Any] = {
        "vision": np.arange(60_000.0).reshape(100, 20, 30),
        "labels": np.array([[1.0], [2.0]]),
        ("a", 1): {"x", "y"},
        "ragged": np.array([np.zeros((2, 3)), np.ones((4, 3))], dtype=object),
    }
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(content))

    read = load_pickle(path)

    np.testing.assert_array_equal(read["vision"], content["vision"])
    assert read[("a", 1)] == {"x", "y"}
    assert [row.shape for row in read["ragged"]] == [(2, 3), (4, 3)]


def doubled(depth: int) -> list[Any]:
    value: list[Any] = [1.0]
    for _ in range(depth):
        value = [value, value]
    return value


def test_labels_and_ids_that_double_are_refused_at_once() -> None:
    begun = time.monotonic()

    with pytest.raises(DataError, match="must be numbers, one row per utterance"):
        _labels(doubled(60), "labels")
    assert _ids({"id": [doubled(60), "b"], "labels": [1, 2]}) == ["1.0", "b"]

    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2.5], [1.0, 2.5]),
        ([[1, 0], [2, 1]], [1.0, 2.0]),
        (np.array([[[3.0]], [[4.0]]]), [3.0, 4.0]),
        ([np.array([5.0]), np.array([6.0])], [5.0, 6.0]),
    ],
)
def test_labels_of_every_sound_shape_are_read(value: Any, expected: list[float]) -> None:
    assert _labels(value, "labels").tolist() == expected


def test_ids_of_every_sound_shape_are_read() -> None:
    given = ["a", b"b", ["c", 0.0], np.array(["d", "e"]), []]

    assert _ids({"id": given, "labels": [0] * 5}) == ["a", "b", "c", "d", ""]


def test_the_limit_of_memory_in_these_tests_is_not_this_processs() -> None:
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.getrlimit(resource.RLIMIT_AS)[1]
