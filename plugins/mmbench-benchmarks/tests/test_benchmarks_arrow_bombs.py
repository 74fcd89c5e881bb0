"""An Arrow file whose rows share a few bytes, or have none, is refused before it is unpacked."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'mmbench-benchmarks[hf]'")
pytest.importorskip("pyarrow.ipc")


def hf_file(folder, table, features, times=1):
    """Save a table, repeated, as the library does, with what it says of the columns."""
    folder.mkdir()
    with pyarrow.OSFile(str(folder / "data.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        for _ in range(times):
            writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


VALUE = {"dtype": "string", "_type": "Value"}
LONG = "x" * 20_000_000
PLACES = [0] * 1000
SHARING = {
    "rows of nothing": lambda: pyarrow.Array.from_buffers(pyarrow.null(), 2_000_000_000, [None]),
    "a dictionary": lambda: pyarrow.DictionaryArray.from_arrays(pyarrow.array(PLACES, "int32"), pyarrow.array([LONG])),
    "a dictionary in lists": lambda: pyarrow.ListArray.from_arrays(
        pyarrow.array(range(1001), "int32"), SHARING["a dictionary"]()
    ),
    "run ends": lambda: pyarrow.RunEndEncodedArray.from_arrays([1000], pyarrow.array([LONG])),
    "overlapping lists": lambda: pyarrow.ListViewArray.from_arrays(
        pyarrow.array(PLACES, "int32"), pyarrow.array([1] * 1000, "int32"), pyarrow.array([LONG])
    ),
    "views of one text": lambda: pyarrow.array([LONG] + ["a"] * 999, pyarrow.string_view()),
}


@pytest.mark.parametrize("kind", SHARING)
def test_an_arrow_file_whose_rows_share_a_few_bytes_is_refused_within_a_gigabyte(tmp_path, kind):
    column, many = SHARING[kind](), kind == "rows of nothing"
    table = pyarrow.table({"t": column, "label": column if many else pyarrow.array(["a", "b"] * 500)})
    folder = hf_file(tmp_path / "set", table, {"t": VALUE, "label": VALUE}, 20 if many else 1)
    assert (folder / "data.arrow").stat().st_size < 25_000_000
    script = f"""
import resource
from mmbench_benchmarks.hf import describe_hf
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    describe_hf({str(folder)!r}, t="t", label="label")
except Exception as error:
    print(type(error).__name__, error)
    print(int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) < 1 << 20)
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)

    words = "claims 40,000,000,000 rows" if many else "which the library never writes"
    assert done.stdout.startswith("DataError data.arrow"), done
    assert words in done.stdout
    assert done.stdout.endswith("\nTrue\n")
