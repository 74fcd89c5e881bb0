"""Files made to run code, to fill memory, to hang or to reach other files: refused, in bounded time and memory.

Each case plans with a dataset, opens it and reads every input of every sample; the slow tests do it in a process of
their own, whose memory is measured.
"""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmbench.data import SPLITS
from mmbench.errors import MmbenchError
from mmbench.part_code import load_attribute

READ_ALL = """
import json, resource, sys, time
from pathlib import Path
from mmbench.errors import MmbenchError
from mmbench.part_code import load_attribute

describe, factory, target, root = sys.argv[1:]
import numpy, soundfile, PIL.Image, pyarrow.parquet
from mmbench.data import SPLITS
describe, factory = load_attribute(describe), load_attribute(factory)
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
error = ""
try:
    describe(target)
    splits = factory(Path(root), target=target)
    for split in SPLITS:
        for sample in splits[split]:
            dict(sample.inputs)
except MmbenchError as raised:
    error = f"{type(raised).__name__}: {raised}"
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([error, time.process_time() - start, peak / 1024]))
"""
LOADERS = {
    "manifest": ("mmbench_datasets.manifest:describe", "mmbench_datasets.manifest:open_manifest"),
    "hateful-memes": (
        "mmbench_benchmarks.pictures:describe_hateful_memes",
        "mmbench_benchmarks.pictures:open_hateful_memes",
    ),
    "esc-50": ("mmbench_benchmarks.sounds:describe_esc_50", "mmbench_benchmarks.sounds:open_esc_50"),
    "hf": ("mmbench_benchmarks.hf:describe_hf", "mmbench_benchmarks.hf:open_hf"),
}


def read_here(loader, target, folder):
    """Plan, open and read in this process: quick, and nothing but time is measured."""
    describe, factory = map(load_attribute, LOADERS[loader])
    start = time.process_time()
    error = ""
    try:
        describe(str(target))
        splits = factory(folder, target=str(target))
        for split in SPLITS:
            for sample in splits[split]:
                dict(sample.inputs)
    except MmbenchError as raised:
        error = f"{type(raised).__name__}: {raised}"
    return error, time.process_time() - start, 0.0


def read_measured(loader, target, folder):
    """The same in a process of its own, whose memory is measured."""
    command = [sys.executable, "-c", READ_ALL, *LOADERS[loader], str(target), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(params=[read_here, pytest.param(read_measured, marks=pytest.mark.slow)], ids=["here", "measured"])
def told(request, tmp_path, monkeypatch):
    """What a dataset says to its files, after checking what it cost."""
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def tell(loader, target):
        error, seconds, mebibytes = request.param(loader, target, tmp_path)
        assert seconds < 20
        assert mebibytes < 400
        assert not (tmp_path / "ran").exists()
        return error

    return tell


class RunsCode:
    def __reduce__(self):
        return (open, ("ran", "w"))


@functools.cache
def pickled():
    return pickle.dumps(RunsCode())


@functools.cache
def zipped():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("zeros", bytes(200_000_000))
    return stream.getvalue()


@functools.cache
def png_of(side):
    """A sound grey PNG of side x side black pixels: a thousandth of what it decodes to."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@functools.cache
def png_with_text_bomb():
    """A sound small PNG whose compressed comment unpacks to 300 MB."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(stream, "PNG")
    data = b"Comment\0\0" + zlib.compress(bytes(300_000_000), 9)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    whole = stream.getvalue()
    return whole[:33] + chunk + whole[33:]


@functools.cache
def sound(seconds, kind):
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", 8_000, 1, format=kind) as opened:
        for _ in range(max(1, int(seconds) // 60)):
            opened.write(np.zeros(min(int(seconds * 8_000), 480_000), dtype=np.int16))
    return stream.getvalue()


@functools.cache
def wav_of_ten_hours():
    content = bytearray(sound(1, "WAV"))
    content[40:44] = struct.pack("<I", 8_000 * 2 * 36_000)
    return bytes(content)


@functools.cache
def flac_of_ten_hours():
    """A second of FLAC whose header claims ten hours: 36 bits of its first block count samples."""
    content = bytearray(sound(1, "FLAC"))
    claimed = 8_000 * 36_000
    content[21] = (content[21] & 0xF0) | (claimed >> 32)
    content[22:26] = struct.pack(">I", claimed & 0xFFFFFFFF)
    return bytes(content)


IMAGES = {
    "pickle": (pickled, "cannot be read as an image"),
    "zip-bomb": (zipped, "cannot be read as an image"),
    "huge": (lambda: png_of(16_000), "claims 16000 x 16000 pixels, more than 64,000,000|cannot be read as an image"),
    "text-bomb": (png_with_text_bomb, "cannot be read as an image"),
    "cut-short": (lambda: png_of(300)[:90], "cannot be read as an image"),
}
SOUNDS = {
    "pickle": (pickled, "cannot be read as audio"),
    "zip-bomb": (zipped, "cannot be read as audio"),
    "wav-of-ten-hours": (wav_of_ten_hours, "claims 576,000,000 bytes of sound, and 16,000 are there"),
    "flac-of-ten-hours": (flac_of_ten_hours, "claims 36000.0 s, more than max_seconds="),
    "silence-of-two-hours": (lambda: sound(7_200, "FLAC"), "claims 7200.0 s, more than max_seconds="),
    "wav-cut-short": (lambda: sound(5, "WAV")[:4_000], "is cut short"),
    "flac-cut-short": (lambda: noise_cut_short(), "is cut short|cannot be read as audio"),
}


@functools.cache
def noise_cut_short():
    stream = io.BytesIO()
    soundfile.write(stream, np.random.default_rng(0).uniform(-0.5, 0.5, 40_000), 8_000, format="FLAC")
    return stream.getvalue()[:20_000]


def manifest_with(folder, name, content):
    lines = ["id,split,label,file"]
    for row in range(12):
        split = ("train", "train", "val", "test")[row // 2 % 4]
        file = f"{row}{name}"
        if name.endswith(".png"):
            Image.fromarray(np.full((4, 4, 3), row, dtype=np.uint8)).save(folder / file)
        else:
            soundfile.write(folder / file, np.full(80, row / 16), 8_000)
        lines.append(f"s{row},{split},{'ab'[row % 2]},{file}")
    (folder / f"5{name}").write_bytes(content)
    (folder / "data.csv").write_text("\n".join(lines) + "\n")
    return folder / "data.csv"


@pytest.mark.parametrize("case", IMAGES)
def test_a_manifest_refuses_such_a_picture(tmp_path, told, case):
    make, reason = IMAGES[case]

    said = told("manifest", manifest_with(tmp_path, ".png", make()))
    assert said.startswith("DataError: data.csv line 7: 5.png ")
    assert any(each in said for each in reason.split("|"))


@pytest.mark.parametrize("case", SOUNDS)
def test_a_manifest_refuses_such_a_sound(tmp_path, told, case):
    make, reason = SOUNDS[case]

    said = told("manifest", manifest_with(tmp_path, ".wav", make()))
    assert said.startswith("DataError: data.csv line 7: 5.wav ")
    assert any(each in said for each in reason.split("|"))


@pytest.mark.parametrize("case", IMAGES)
def test_a_published_set_of_pictures_refuses_such_a_picture(tmp_path, told, case):
    make, reason = IMAGES[case]
    folder = tmp_path / "memes"
    (folder / "img").mkdir(parents=True)
    for row, name in enumerate(("train", "train", "dev_seen", "test_seen")):
        Image.fromarray(np.full((4, 4, 3), row, dtype=np.uint8)).save(folder / "img" / f"{row}.png")
        with (folder / f"{name}.jsonl").open("a") as stream:
            stream.write(json.dumps({"id": row, "img": f"img/{row}.png", "label": row % 2, "text": "words"}) + "\n")
    (folder / "img" / "3.png").write_bytes(make())

    said = told("hateful-memes", folder)
    assert said.startswith("DataError: img/3.png ")
    assert any(each in said for each in reason.split("|"))


@pytest.mark.parametrize("case", SOUNDS)
def test_a_published_set_of_sounds_refuses_such_a_sound(tmp_path, told, case):
    make, reason = SOUNDS[case]
    folder = tmp_path / "esc"
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    lines = ["filename,fold,target,category,esc10"]
    for row in range(10):
        soundfile.write(folder / "audio" / f"{row}.wav", np.full(80, row / 16), 8_000)
        lines.append(f"{row}.wav,{row // 2 + 1},0,{('dog', 'rain')[row % 2]},True")
    (folder / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    (folder / "audio" / "9.wav").write_bytes(make())

    said = told("esc-50", folder)
    assert said.startswith("DataError: audio/9.wav ")
    assert any(each in said for each in reason.split("|"))


@functools.cache
def parquet_bomb():
    """A hundred million equal rows, which Parquet packs into some kilobytes."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'mmbench-benchmarks[hf]'")
    pytest.importorskip("pyarrow.parquet", reason="this pyarrow was built without Parquet")
    word = pyarrow.array(["a text that is repeated very often"])
    column = pyarrow.DictionaryArray.from_arrays(np.zeros(1_000_000, dtype=np.int32), word)
    table = pyarrow.table({"text": column, "label": column})
    stream = io.BytesIO()
    with pyarrow.parquet.ParquetWriter(stream, table.schema) as writer:
        for _ in range(100):
            writer.write_table(table)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("data.csv", pickled, "data.csv"),
        ("data.csv", zipped, "data.csv is ZIP, no table of text"),
        ("data.parquet", pickled, "data.parquet cannot be read as Parquet"),
        ("data.parquet", zipped, "data.parquet cannot be read as Parquet"),
        ("data.parquet", parquet_bomb, "data.parquet holds 100,000,000 rows of 2 columns"),
    ],
    ids=["pickle-csv", "zip-csv", "pickle-parquet", "zip-parquet", "parquet-bomb"],
)
def test_a_manifest_that_is_none_is_refused(tmp_path, told, name, make, reason):
    (tmp_path / name).write_bytes(make())

    said = told("manifest", tmp_path / name)
    assert said.startswith("DataError: ")
    assert reason in said


def arrow_set(folder, pictures, compression=None, text="words"):
    """A dataset as `save_to_disk` lays it out, each split of the same pictures."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'mmbench-benchmarks[hf]'")
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["a", "b"]},
        "text": {"_type": "Value", "dtype": "large_string"},
    }
    cells = [{"bytes": content, "path": None} for content in pictures * 4]
    labels = pyarrow.array([0, 1, 0, 1], pyarrow.int64())
    texts = pyarrow.array([text] * 4, pyarrow.large_string())
    table = pyarrow.table({"image": pyarrow.array(cells, image), "label": labels, "text": texts})
    for split in ("train", "validation", "test"):
        (folder / split).mkdir(parents=True)
        options = pyarrow.ipc.IpcWriteOptions(compression=compression)
        with pyarrow.ipc.new_stream(str(folder / split / "data.arrow"), table.schema, options=options) as writer:
            writer.write_table(table)
        (folder / split / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
        (folder / split / "dataset_info.json").write_text(json.dumps({"features": features}))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation", "test"]}))
    return folder


@pytest.mark.parametrize("case", IMAGES)
def test_a_picture_within_an_arrow_file_is_held_to_the_same_limits(tmp_path, told, case):
    make, reason = IMAGES[case]

    said = told("hf", arrow_set(tmp_path / "set", [make()]))
    assert said.startswith("DataError: train row 0 of 'image'")
    assert any(each in said for each in reason.split("|"))


@pytest.mark.parametrize(("compression", "size"), [("zstd", 5_000_000), ("lz4", 110_000_000)])
def test_an_arrow_file_that_unpacks_to_a_hundred_times_its_size_is_refused(tmp_path, told, compression, size):
    folder = arrow_set(tmp_path / "set", [png_of(4)], compression, text="x" * size)
    assert (folder / "train" / "data.arrow").stat().st_size < 4 * size // 100

    said = told("hf", folder)
    assert said.startswith("DataError: train/data.arrow is compressed, which the library never does")


def test_an_arrow_file_that_is_sound_is_read(tmp_path, told):
    assert told("hf", arrow_set(tmp_path / "set", [png_of(4)])) == ""


def test_a_fifo_in_place_of_a_file_does_not_hang(tmp_path, told):
    target = manifest_with(tmp_path, ".png", b"")
    (tmp_path / "5.png").unlink()
    os.mkfifo(tmp_path / "5.png")

    assert "names the file '5.png', which is not there as a regular file" in told("manifest", target)
