"""The restricted unpickler: what pickle and numpy write is read back, and nothing else is, at bounded cost."""

from __future__ import annotations

import argparse
import collections
import copyreg
import datetime
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmbench_benchmarks.restricted_pickle import load_pickle

from mmbench.errors import DataError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def stored(folder, content):
    path = folder / "data.pkl"
    path.write_bytes(content)
    return path


def refuse(folder, content):
    with pytest.raises(DataError) as raised:
        load_pickle(stored(folder, content))
    return str(raised.value)


# What is read.


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2),
        np.arange(4, dtype=">i4"),
        np.array([[True, False]]),
        np.array(["a word", "ein Wört"]),
        np.array([b"ab", b"c"]),
        np.array([1 + 2j]),
        np.array(7, dtype=np.uint8),
        np.zeros((0, 74), dtype=np.float64),
        np.array([-np.inf, np.nan], dtype=np.float16),
        np.array([np.arange(2), "text", None], dtype=object),
    ],
    ids=lambda array: f"{array.dtype.str}-{'x'.join(map(str, array.shape))}",
)
def test_arrays_are_read_as_numpy_wrote_them(tmp_path, array, protocol):
    (read,) = load_pickle(stored(tmp_path, pickle.dumps([array], protocol)))

    assert type(read) is np.ndarray
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    assert pickle.dumps(read.tolist()) == pickle.dumps(array.tolist())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_containers_and_scalars_are_read_as_pickle_wrote_them(tmp_path, protocol):
    value = {
        "none": None, "flags": [True, False], "whole": [0, -1, 255, 70_000, -(2**40), 2**70], "real": [1.5, -0.0],
        "texts": ["", "a", "Wört", "\U0001f600", "x" * 300], "bytes": [b"", b"ab", bytes(range(256))],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)], "sets": [set(), {1, "a"}, frozenset({(1, 2)})],
        "complex": 1 + 2j, "array": bytearray(b"ab"), 3: {"nested": {"deep": [[[]]]}}, (1, "k"): 0,
        "numpy": [np.float64(2.5), np.int8(-3), np.str_("word"), np.bool_(True)], "type": np.dtype(">f4"),
    }  # fmt: skip

    assert load_pickle(stored(tmp_path, pickle.dumps(value, protocol))) == value


def test_what_is_shared_stays_shared(tmp_path):
    array = np.arange(3)
    read = load_pickle(stored(tmp_path, pickle.dumps([array, array, array.dtype, np.zeros(1, ">i8")])))

    assert read[0] is read[1]
    assert read[2].str == "<i8"
    assert read[3].dtype.str == ">i8"


def test_the_older_names_of_numpys_modules_are_known(tmp_path):
    content = pickle.dumps(np.arange(3), 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")

    assert load_pickle(stored(tmp_path, content)).tolist() == [0, 1, 2]


def test_an_ordered_dict_becomes_a_dict(tmp_path):
    content = pickle.dumps(collections.OrderedDict(b=1, a=2))

    read = load_pickle(stored(tmp_path, content))
    assert type(read) is dict
    assert list(read.items()) == [("b", 1), ("a", 2)]


def test_bytes_and_arrays_of_python_2_are_read(tmp_path):
    # numpy.array([1, 2], dtype='<i2') as Python 2.7 and numpy 1.16 wrote it, protocol 2: data as a byte string
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85U\x01b\x87Rq\x02(K\x01K\x02"
        b"\x85cnumpy\ndtype\nq\x03U\x02i2K\x00K\x01\x87Rq\x04(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x04\x01\x00\x02\x00tb."
    )

    assert load_pickle(stored(tmp_path, content)).tolist() == [1, 2]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(0, 99), inner),
    max_leaves=20,
)


@given(value=PLAIN, protocol=st.sampled_from(PROTOCOLS))
def test_whatever_is_plain_comes_back(tmp_path_factory, value, protocol):
    folder = tmp_path_factory.mktemp("plain")

    assert load_pickle(stored(folder, pickle.dumps(value, protocol))) == value


# What is refused.


class Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Calls(os.system, "touch ran"), "posix.system"),
        (Calls(eval, "open('ran', 'w')"), "eval"),
        (Calls(exec, "open('ran', 'w')"), "exec"),
        (Calls(getattr, "x", "format"), "getattr"),
        (Calls(open, "ran", "w"), "open"),
        (Calls(subprocess.Popen, ["touch", "ran"]), "Popen"),
        (Calls(__import__, "os"), "__import__"),
        (Calls(np.load, "ran"), "load"),
        (Calls(np.memmap, "ran", "u1", "w+", 0, (1,)), "memmap"),
        (Calls(copyreg._reconstructor, object, object, None), "copyreg"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pickle_with_code_is_refused_by_its_name_and_runs_nothing(tmp_path, monkeypatch, call, name, protocol):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"train": [call]}, protocol)

    message = refuse(tmp_path, content)
    assert message.startswith("data.pkl is refused: it asks for ")
    assert name in message.replace("_reg", "reg")
    assert "only arrays and plain containers may be built" in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "value", [argparse.Namespace(a=1), datetime.date(2020, 1, 1), collections.Counter("ab"), Path("x"), range(3), len]
)
def test_an_object_of_any_class_is_refused(tmp_path, value):
    assert "and only arrays and plain containers may be built" in refuse(tmp_path, pickle.dumps(value))


def test_a_call_nested_in_the_arguments_of_an_array_is_refused(tmp_path):
    content = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(cposix\nsystem\n(S'touch ran'\ntRtS'b'\ntR."

    assert "it asks for posix.system" in refuse(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x02\x82\x01.", "it refers to the extension registry (code 1)"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "it refers to the extension registry (code 1)"),
        (b"Pname\n.", "it refers to an object outside the file (a persistent id)"),
        (b"\x80\x02K\x01Q.", "it refers to an object outside the file (a persistent id)"),
        (b"(S'touch ran'\nios\nsystem\n.", "it asks for os.system"),
        (b"\x80\x05\x97.", "its arrays lie outside the file"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "it would make an instance of numpy.ndarray"),
        (b"\x80\x04\x8c\x05numpy\x8c\x07ndarray\x93)}\x92.", "it would make an instance of numpy.ndarray"),
        (b"(cnumpy\nndarray\no.", "it would make an instance of numpy.ndarray"),
        (b"cnumpy\nndarray\n.", "it keeps a class where data should be"),
        (b"(lcnumpy\nndarray\na.", "it keeps a class where data should be"),
        (b"(lcnumpy\nndarray\n)\x86a.", "it keeps a class where data should be"),
        (b"cnumpy\nndarray\n)R.", "it would call numpy.ndarray"),
        (b"K\x01)R.", "it would call int"),
        (b"]}b.", "it would set the state of list"),
        (b"cnumpy\ndtype\n}b.", "it would set the state of _Name"),
        (b"cbuiltins\nbytearray\n(I1000000000000\ntR.", "it would call bytearray with 1 arguments"),
        (b"cbuiltins\nbytes\n(I1000000000000\ntR.", "it would call bytes with 1 arguments"),
        (b"h\x05.", "it uses entry 5 of its memo, which it never wrote"),
        (b"K\x01K\x02.", "it ends with 2 objects on its stack"),
        (b"a.", "its stack does not add up"),
        (b"\x86.", "its stack does not add up"),
        (b"(\x85.", "its stack does not add up"),
        (b"e.", "its stack does not add up"),
        (b"(.", "its stack does not add up"),
        (b"}]K\x01s.", "a key is list"),
        (b"\x80\x04\x8f(]\x90.", "a key is list"),
        (b"K\x01K\x02a.", "it appends to int"),
    ],
)  # fmt: skip
def test_opcodes_beyond_plain_data_are_refused(tmp_path, content, reason):
    assert reason in refuse(tmp_path, content)


DTYPE = b"cnumpy\ndtype\n(S'%b'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(%btDTYPEI00\n%btb."


def array_pickle(shape, dtype, data):
    return (ARRAY % (shape, data)).replace(b"DTYPE", DTYPE % dtype)


@pytest.mark.parametrize(
    ("shape", "dtype", "data", "reason"),
    [
        (b"I1000000000000\n", b"f8", b"S'ab'\n", "it asks for an array (1000000000000,) of float64"),
        (b"I4611686018427387904\nI4\n", b"f8", b"S''\n", "and holds 0 bytes"),
        (b"I-1\n", b"f8", b"S''\n", "it asks for an array of shape (-1,)"),
        (b"I3\n", b"u1", b"S'ab'\n", "3 bytes, and holds 2 bytes"),
        (b"I1000000000000\n", b"O8", b"(l", "of objects and does not give as many"),
        (b"I1000000000000\n", b"S0", b"S''\n", "it asks for an array (1000000000000,)"),
        (b"I1\n", b"V8", b"S'abcdefgh'\n", "it asks for the dtype 'V8'"),
        (b"I1\n", b"M8", b"S'abcdefgh'\n", "it asks for the dtype 'M8'"),
        (b"I1\n", b"f8,f8", b"S'ab'\n", "it asks for the dtype 'f8,f8'"),
        (b"I1\n", b"f3", b"S'abc'\n", "cannot be read as a pickle (data type 'f3' not understood)"),
        (b"I1\n" * 70, b"u1", b"S'a'\n", "cannot be read as a pickle"),
        (b"I0\nI9223372036854775807\nI4\n", b"f8", b"S''\n", "cannot be read as a pickle"),
    ],
)  # fmt: skip
def test_an_array_that_claims_more_than_its_bytes_is_refused(tmp_path, shape, dtype, data, reason):
    assert reason in refuse(tmp_path, array_pickle(shape, dtype, data))


def test_such_an_array_is_read_when_it_is_sound(tmp_path):
    assert load_pickle(stored(tmp_path, array_pickle(b"I2\n", b"u1", b"S'ab'\n"))).tolist() == [97, 98]


def test_a_byte_order_never_reaches_numpys_own_dtypes(tmp_path):
    swapped = DTYPE.replace(b"S'<'", b"S'>'") % b"f8"
    load_pickle(stored(tmp_path, swapped + b"."))

    assert np.dtype("f8").str == "<f8"


# What it costs.


def spent(folder, content):
    """Seconds, and the peak of memory in MiB beyond the file, in a process of its own."""
    code = (
        "import resource, sys, time\nfrom pathlib import Path\n"
        "from mmbench_benchmarks.restricted_pickle import load_pickle\n"
        "before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()\n"
        "try:\n    load_pickle(Path(sys.argv[1])); print('read')\nexcept Exception as error:\n    print(error)\n"
        "print(time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    path = stored(folder, content)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    message, figures = done.stdout.splitlines()
    seconds, kibibytes = map(float, figures.split())
    return message, seconds, kibibytes / 1024


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x04K\x01r\xff\xff\xff\xff.", "read"),
        (b"K\x01p4000000000\n.", "read"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"ab", "1,099,511,627,776 bytes are due, 2 are left"),
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"ab", "is cut short"),
        (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"ab", "is cut short"),
        (b"\x80\x02\x8b" + struct.pack("<i", 2_000_000_000) + b"ab", "is cut short"),
        (b"\x80\x02T" + struct.pack("<i", 2_000_000_000) + b"ab", "is cut short"),
        (b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.", "read"),
        (b"(" + b"}" * 5_000_000 + b"l.", "more than 2,000,000 containers"),
        (b"I" + b"9" * 1_000_000 + b"\n.", "cannot be read as a pickle"),
        (b"N" + b"\x85" * 100_000 + b"r\x00\x00\x00\x00.", "read"),
        (b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b"}q\x01h\x00N" + b"s.", "a key is tuple"),
    ],
    ids=["memo", "put", "bytes", "bytes5", "text", "number", "string", "frame", "objects", "digits", "deep", "hash"],
)  # fmt: skip
def test_bombs_cost_neither_time_nor_memory(tmp_path, content, reason):
    message, seconds, mebibytes = spent(tmp_path, content)

    assert reason in message
    assert seconds < 20
    assert mebibytes < 400


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_cut_at_any_byte_is_an_error(tmp_path, protocol):
    content = pickle.dumps({"train": {"vision": np.arange(6.0).reshape(1, 2, 3), "id": ["a[0]"]}}, protocol)

    for end in range(len(content)):
        assert refuse(tmp_path, content[:end]).startswith("data.pkl ")


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255), protocol=st.sampled_from(PROTOCOLS))
def test_a_changed_byte_gives_other_data_or_a_clear_error(tmp_path_factory, position, byte, protocol):
    content = bytearray(pickle.dumps({"a": np.arange(5), "b": [("x", 1.5), {2}]}, protocol))
    content[position % len(content)] = byte

    try:
        load_pickle(stored(tmp_path_factory.mktemp("changed"), bytes(content)))
    except DataError as error:
        assert "data.pkl" in str(error)


def test_other_files_are_no_pickles(tmp_path):
    assert "cannot be read as a pickle" in refuse(tmp_path, b"PK\x03\x04 a zip file")
    assert "cut short" in refuse(tmp_path, b"")


def test_forty_megabytes_of_features_are_read_and_not_copied(tmp_path):
    buffer = io.BytesIO()
    pickle.dump({"vision": np.zeros((1000, 50, 100)), "id": [f"video_{row}" for row in range(20_000)]}, buffer)
    assert sum(1 for _ in pickletools.genops(buffer.getvalue())) > 40_000
    path = stored(tmp_path, buffer.getvalue())

    read = load_pickle(path)

    assert not read["vision"].flags.owndata
