"""Hostile tables: whatever a file holds and whatever is asked of it, it is read or refused with a message."""

from __future__ import annotations

import io
import json
import resource
import string
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmbench_datasets.arrays import read_array
from mmbench_datasets.cells import exact_number, parse_list, parse_numbers
from mmbench_datasets.folders import accepts
from mmbench_datasets.manifest import read_manifest
from mmbench_datasets.numbers import read_number_column
from mmbench_datasets.records import open_records

from mmbench.data import SPLITS, check_canonical
from mmbench.errors import MmbenchError

_LIGHT, _THOROUGH = 40, 1500
_MOST_SECONDS = 20

NASTY = st.sampled_from(
    ["", " ", "NA", "nan", "inf", "1e999", "-0", "1_0", "0x1", "1,5", "1.5", "12%", "$1,000", "[1, 0]", "[[1], [2, 3]]",
     "[]", "(1,)", "['a']", "[" * 300, "{}", "null", "True", "TRUE", "2024-01-01", "2024-99-99", "25:00", "a.png",
     "/etc/passwd", "../x.png", "a;b", "1;0;1", "1 0", "é", "e\u0301", "\ufeff", "\u2028", "\0", "\ud800", "=1+1",
     "9" * 400, "1e-400", "x" * 3000, "C:\\a.png", "~/.ssh", "a\tb", 'say "hi"', "train", "val", "test", "-1",
     "0", "1", "1.0", "2"]
)  # fmt: skip
CELLS = st.one_of(NASTY, st.text(max_size=8), st.integers(-5, 5).map(str), st.floats(width=16).map(str))
NAMES = st.sampled_from(
    ["label", "Label", "split", " Split", "id", "ID", "group", "text", "v", "w", "", "label ", "a+b", "x*", "photo"]
)
OPTIONS = st.dictionaries(
    st.sampled_from(["label", "split", "id", "group", "seed", "drop", "root", "encoding", "m", "image", "v", "lable"]),
    st.sampled_from(
        ["label", "v", "v+w", "*", "x*", "[", "v:tabular", "v:sequence", "v:category", "text:text", "photo:image",
         "auto", "bad", "", ":", "label:regression", "label:multilabel", "label+v", "utf-16", "latin-1", ".",
         "-1", "nosuch"]
    ),
    max_size=4,
)  # fmt: skip


@st.composite
def tables(draw):
    """Return a header and rows, most of them even, with columns that tend to be of one sort."""
    header = draw(st.one_of(st.just([]), st.just(["label", "text"]), st.just(["label", "split", "v"])))
    header = header + draw(st.lists(NAMES.filter(lambda name: name not in header), max_size=4, unique=True))
    header = header or ["label"]
    num_rows = draw(st.integers(0, 30))
    columns = []
    for _ in header:
        usual = draw(st.lists(CELLS, min_size=1, max_size=4))
        odd = draw(st.lists(CELLS, max_size=2))
        columns.append([usual[row % len(usual)] if row >= len(odd) else odd[row] for row in range(num_rows)])
    rows = [list(cells) for cells in zip(*columns, strict=True)]
    if rows and draw(st.booleans()):
        rows[draw(st.integers(0, len(rows) - 1))].append("more")
    return header, rows


def written(header, rows, separator, quote):
    def cell(text):
        text = text.replace("\ud800", "?")
        return '"' + text.replace('"', '""') + '"' if quote else text

    return "\n".join(separator.join(map(cell, row)) for row in [header, *rows])


def read(path, options):
    """Read a manifest and every input of it; refusals are fine, anything else is not."""
    began = time.process_time()
    try:
        manifest = read_manifest(str(path), options, check_headers=True)
        splits = open_records(manifest)
        for split in SPLITS:
            for sample in splits[split]:
                for source in manifest.sources:
                    value = sample.inputs[source.name]
                    if value is not None:
                        check_canonical(source.name, source.kind, value)
    except MmbenchError as error:
        assert len(str(error)) < 100_000
    assert time.process_time() - began < _MOST_SECONDS


def fuzzed(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def table_of_cells(folder: Path, drawn, options, separator, quote, ending, encoding):
    header, rows = drawn
    path = folder / f"data{ending}"
    path.write_bytes(written(header, rows, separator, quote).encode(encoding, "replace"))
    read(path, options)


ARGUMENTS = {
    "drawn": tables(),
    "options": OPTIONS,
    "separator": st.sampled_from([",", ";", "\t", "|"]),
    "quote": st.booleans(),
    "ending": st.sampled_from([".csv", ".tsv"]),
    "encoding": st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
}


@given(**ARGUMENTS)
@fuzzed(_LIGHT)
def test_tables_of_hostile_cells(tmp_path, **arguments):
    table_of_cells(tmp_path, **arguments)


@pytest.mark.full
@given(**ARGUMENTS)
@fuzzed(_THOROUGH)
def test_many_tables_of_hostile_cells(tmp_path, **arguments):
    table_of_cells(tmp_path, **arguments)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["a", "b", "NA", "1", "a.png", "train", "test"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["bytes", "path", "a"]), inner, max_size=2)
    ),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(NAMES, JSON_VALUES, max_size=5), max_size=20)


def json_table(folder: Path, objects, options, cut):
    content = "\n".join(json.dumps(item) for item in objects).encode()
    path = folder / "data.jsonl"
    path.write_bytes(content[: len(content) - cut])
    read(path, options)
    path = folder / "data.json"
    path.write_bytes(json.dumps(objects).encode()[: len(content) + 2 - cut])
    read(path, options)


@given(objects=OBJECTS, options=OPTIONS, cut=st.sampled_from([0, 0, 0, 1, 7]))
@fuzzed(_LIGHT)
def test_hostile_json(tmp_path, objects, options, cut):
    json_table(tmp_path, objects, options, cut)


@pytest.mark.full
@given(objects=OBJECTS, options=OPTIONS, cut=st.sampled_from([0, 0, 0, 1, 7]))
@fuzzed(_THOROUGH)
def test_much_hostile_json(tmp_path, objects, options, cut):
    json_table(tmp_path, objects, options, cut)


def parquet_table(folder: Path, objects, options, damage):
    import pyarrow
    import pyarrow.parquet

    stream = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(objects or [{"label": "a"}]), stream)
    except (pyarrow.ArrowException, OverflowError):
        return
    content = bytearray(stream.getvalue())
    for place, value in damage:
        content[place % len(content)] = value
    path = folder / "data.parquet"
    path.write_bytes(bytes(content))
    read(path, options)


DAMAGE = st.one_of(st.just([]), st.lists(st.tuples(st.integers(4, 5000), st.integers(0, 255)), max_size=4))


@given(objects=OBJECTS, options=OPTIONS, damage=DAMAGE)
@fuzzed(_LIGHT)
def test_hostile_parquet(tmp_path, objects, options, damage):
    pytest.importorskip("pyarrow.parquet", reason="pyarrow with Parquet is not installed")
    parquet_table(tmp_path, objects, options, damage)


@pytest.mark.full
@given(objects=OBJECTS, options=OPTIONS, damage=DAMAGE)
@fuzzed(_THOROUGH)
def test_much_hostile_parquet(tmp_path, objects, options, damage):
    pytest.importorskip("pyarrow.parquet", reason="pyarrow with Parquet is not installed")
    parquet_table(tmp_path, objects, options, damage)


@given(content=st.binary(max_size=300), ending=st.sampled_from([".csv", ".tsv", ".json", ".jsonl", ".parquet"]))
@fuzzed(_LIGHT)
def test_bytes_that_are_no_table(tmp_path, content, ending):
    path = tmp_path / f"data{ending}"
    path.write_bytes(content)

    assert accepts(str(path))
    read(path, {})


@given(cell=st.one_of(NASTY, st.text(alphabet="[](){},;|'\"0123456789.eE+- \n", max_size=40)))
@fuzzed(200)
def test_single_cells(cell):
    parse_list(cell)
    parse_numbers(cell)
    exact_number(cell)


@given(cells=st.lists(st.text(alphabet="0123456789.,-+ %$€'eE\u00a0", max_size=12), max_size=12))
@fuzzed(200)
def test_what_a_column_reads_as_numbers_python_reads_too_without_its_separators(cells):
    found = read_number_column(cells)
    if found is None:
        return
    for row, cell in enumerate(cells):
        value = found.format.parse(cell)
        if value is not None and row not in found.faults:
            digits = [letter for letter in cell if letter in string.digits]
            assert digits
            assert np.isfinite(value)
            if cell.strip().isdigit() and cell.isascii():
                assert value == float(cell)


@given(content=st.binary(max_size=200), damage=DAMAGE, header=st.booleans())
@fuzzed(_LIGHT)
def test_hostile_arrays(tmp_path, content, damage, header):
    stream = io.BytesIO()
    np.save(stream, np.arange(6.0).reshape(2, 3))
    whole = bytearray(stream.getvalue() if header else content or b"x")
    for place, value in damage:
        whole[place % len(whole)] = value
    path = tmp_path / "x.npy"
    path.write_bytes(bytes(whole))

    try:
        assert read_array(path, "line 2").dtype == np.float32
    except MmbenchError as error:
        assert "x.npy" in str(error)


LARGE = {
    "brackets": b"[" * 100_000,
    "a cell of brackets": b"label,text\n" + b"a," + b"[" * 100_000 + b"\n",
    "an open quote": b'label,text\na,"' + b"x\n" * 50_000,
    "columns": b"label," + b",".join(b"c%d" % number for number in range(20_000)) + b"\n",
    "equal rows": b"label,text\n" + b"1e308,1\n" * 5_000,
    "lists": b"label,text\n" + b"".join(b"%d,[%d]\n" % (row, row) for row in range(2_000)),
    "uneven rows": b"label;text\n" + b"a,b\n" * 20_000,
    "ragged rows": b"label,text\n" + b"a,b,c\na\n" * 20_000,
}


@pytest.mark.parametrize("content", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json"])
def test_large_hostile_files_end_in_bounded_time_and_memory(tmp_path, content, ending):
    path = tmp_path / f"data{ending}"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    read(path, {})

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000
