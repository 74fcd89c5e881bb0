"""Manifests: what is inferred, what is decoded, and what every mistake is told."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from mmbench_datasets.lazy import LazyInputs
from mmbench_datasets.manifest import describe, open_manifest
from PIL import Image

from mmbench.data import SPLITS, Waveform, check_canonical
from mmbench.errors import DataError, Unavailable, UsageError

SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))


def write(folder, text, name="data.csv"):
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def table(folder, header, rows, name="data.csv"):
    return write(folder, "\n".join([header, *rows]) + "\n", name)


def texts(folder, rows=12, **replaced):
    """A sound manifest of texts in two classes, with some rows replaced by their number."""
    lines = [
        f"s{row},{('train', 'train', 'val', 'test')[row // 2 % 4]},{('cat', 'dog')[row % 2]},a text {row}"
        for row in range(rows)
    ]
    for position, line in replaced.items():
        lines[int(position.removeprefix("row"))] = line
    return table(folder, "id,split,label,text", lines)


def opened(target, **options):
    return open_manifest(Path("nowhere"), target=target, **options)


def column(target, modality, **options):
    splits = opened(target, **options)
    return {sample.sample_id: sample.inputs[modality] for split in SPLITS for sample in splits[split]}


# What is understood.


def test_a_manifest_of_texts_needs_no_options(tmp_path):
    info = describe(texts(tmp_path))

    assert [(modality.name, modality.kind) for modality in info.modalities] == [("text", "text")]
    assert [(task.name, task.kind, task.class_names) for task in info.tasks] == [
        ("label", "multiclass", ("cat", "dog"))
    ]
    assert info.missing == ()
    assert len(info.fingerprint) == 64


def test_rows_keep_their_order_within_the_split_that_they_name(tmp_path):
    splits = opened(texts(tmp_path))

    assert [sample.sample_id for sample in splits["val"]] == ["s4", "s5"]
    assert [sample.sample_id for sample in splits["train"]] == ["s0", "s1", "s2", "s3", "s8", "s9", "s10", "s11"]
    assert [dict(sample.targets) for sample in splits["test"]] == [{"label": 0}, {"label": 1}]


@pytest.mark.parametrize(
    ("word", "split"), [("valid", "val"), ("Validation", "val"), ("dev", "val"), ("TEST ", "test")]
)
def test_other_words_for_a_split_are_understood(tmp_path, word, split):
    target = texts(tmp_path, row0=f"s0,{word},cat,a text 0")

    assert "s0" in [sample.sample_id for sample in opened(target)[split]]


def test_the_word_null_is_text_and_an_empty_cell_is_missing(tmp_path):
    target = texts(
        tmp_path, row0="s0,train,cat,null", row1="s1,train,dog,NaN", row2="s2,train,cat,", row3="s3,train,dog,NA"
    )

    assert describe(target).missing == ("text",)
    values = column(target, "text")
    assert [values[name] for name in ("s0", "s1", "s2", "s3")] == ["null", "NaN", None, "NA"]


def test_a_byte_order_mark_and_quoted_line_breaks_are_no_trouble(tmp_path):
    target = texts(tmp_path, row0='s0,train,cat,"one, two\nthree"')
    Path(target).write_bytes(b"\xef\xbb\xbf" + Path(target).read_bytes())

    assert column(target, "text")["s0"] == "one, two\nthree"


def test_a_tsv_file_is_read_by_tabs(tmp_path):
    path = texts(tmp_path)
    target = write(tmp_path, Path(path).read_text().replace(",", "\t"), "data.tsv")

    assert column(target, "text")["s7"] == "a text 7"


def test_without_a_column_of_ids_rows_are_counted(tmp_path):
    target = table(tmp_path, "label,text", [f"{'ab'[row % 2]},some text {row}" for row in range(20)])

    assert min(column(target, "text")) == "row-000001"


def media(folder, rows=12):
    """PNG, WAV, numbers and categories in one manifest; row 1 lacks audio, row 2 image and age."""
    rng = np.random.default_rng(0)
    lines = []
    for row in range(rows):
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(folder / f"i{row}.png")
        soundfile.write(folder / f"a{row}.wav", rng.uniform(-0.5, 0.5, (400, 2)), 8_000, subtype="FLOAT")
        split = ("train", "train", "val", "test")[row // 2 % 4]
        image, audio, age = f"i{row}.png", f"a{row}.wav", str(20 + row)
        audio = "" if row == 1 else audio
        image, age = ("", "") if row == 2 else (image, age)
        lines.append(f"s{row},{split},{'ab'[row % 2]},{image},{audio},{age},{('red', 'blue')[row % 3 == 0]}")
    return table(folder, "id,split,label,photo,sound,age,colour", lines)


def test_media_are_inferred_by_the_endings_of_their_paths(tmp_path):
    info = describe(media(tmp_path))

    assert {modality.name: modality.kind for modality in info.modalities} == {"photo": "image", "sound": "audio"}
    assert info.missing == ("photo", "sound")


def test_options_name_modalities_and_join_columns_into_tables(tmp_path):
    info = describe(media(tmp_path), picture="photo", meta="age+colour")

    assert {modality.name: modality.kind for modality in info.modalities} == {"meta": "tabular", "picture": "image"}
    assert info.modalities[0].facts == {"num_features": 3}


def test_a_table_holds_numbers_and_one_output_per_category(tmp_path):
    values = column(media(tmp_path), "meta", meta="age+colour")

    np.testing.assert_array_equal(values["s0"], np.array([20, 1, 0], dtype=np.float32))  # blue
    np.testing.assert_array_equal(values["s4"], np.array([24, 0, 1], dtype=np.float32))  # red
    np.testing.assert_array_equal(values["s2"], np.array([np.nan, 0, 1], dtype=np.float32))  # age not known


def test_a_category_that_training_never_saw_is_all_zero(tmp_path):
    target = media(tmp_path)
    Path(target).write_text(Path(target).read_text().replace("a7.wav,27,red", "a7.wav,27,green"))

    np.testing.assert_array_equal(column(target, "meta", meta="colour:tabular")["s7"], np.zeros(2, dtype=np.float32))


def test_a_table_is_missing_only_where_all_its_cells_are_empty(tmp_path):
    target = media(tmp_path)

    assert describe(target, meta="age").missing == ("meta",)
    assert describe(target, meta="age+colour").missing == ()
    assert column(target, "meta", meta="age")["s2"] is None


def test_numbers_are_a_table_unless_text_is_forced(tmp_path):
    target = media(tmp_path)

    assert [modality.kind for modality in describe(target, years="age").modalities] == ["tabular"]
    assert [modality.kind for modality in describe(target, years="age:text").modalities] == ["text"]
    assert column(target, "years", years="age:text")["s3"] == "23"


def test_numbers_and_categories_are_taken_only_when_asked_for(tmp_path):
    assert "age" not in [modality.name for modality in describe(media(tmp_path)).modalities]


def test_constant_and_id_like_columns_are_not_inferred(tmp_path):
    rows = [f"{'ab'[row % 2]},some words {row},same for all,x{row:03}" for row in range(20)]
    target = table(tmp_path, "label,note,source,key", rows)

    assert [modality.name for modality in describe(target).modalities] == ["note"]


@pytest.mark.parametrize(
    ("cells", "kind", "names"),
    [
        (["b", "a"], "multiclass", ("a", "b")),
        (["10", "9"], "multiclass", ("9", "10")),
        (["1.0", "0.0"], "multiclass", ("0.0", "1.0")),
        (["x;y", "y"], "multilabel", ("x", "y")),
        (["x|z", "y"], "multilabel", ("x", "y", "z")),
        (["0.5", "2"], "regression", ()),
        (["-1e-3", "2"], "regression", ()),
    ],
)
def test_the_kind_of_task_follows_from_the_labels(tmp_path, cells, kind, names):
    target = table(tmp_path, "label,text", [f"{cells[row % 2]},some text {row}" for row in range(20)])

    task = describe(target).tasks[0]
    assert (task.kind, task.class_names) == (kind, names)


def test_many_different_whole_numbers_are_values_and_not_classes(tmp_path):
    target = table(tmp_path, "label,text", [f"{row},some text {row}" for row in range(60)])

    assert describe(target).tasks[0].kind == "regression"


def test_several_labels_give_several_tasks_and_a_kind_can_be_forced(tmp_path):
    rows = [f"{'ab'[row % 2]},{row % 5},{('x', 'x;y', '')[row % 3]},some text {row}" for row in range(30)]
    target = table(tmp_path, "kind,stars,tags,text", rows)

    info = describe(target, label="kind+stars:regression+tags:multilabel")
    assert [(task.name, task.kind, task.num_outputs) for task in info.tasks] == [
        ("kind", "multiclass", 2), ("stars", "regression", 1), ("tags", "multilabel", 2),
    ]  # fmt: skip
    splits = opened(target, label="kind+stars:regression+tags:multilabel")
    targets = {sample.sample_id: sample.targets for split in SPLITS for sample in splits[split]}
    assert targets["row-000002"] == {"kind": 1, "stars": 1.0, "tags": (1, 1)}
    assert targets["row-000003"]["tags"] == (0, 0)


def test_without_a_split_rows_are_split_70_15_15_in_every_class(tmp_path):
    target = table(tmp_path, "label,text", [f"{'aab'[row % 3]},some text {row}" for row in range(300)])

    splits = opened(target)
    counts = {split: Counter(sample.targets["label"] for sample in splits[split]) for split in SPLITS}
    assert counts == {"train": {0: 140, 1: 70}, "val": {0: 30, 1: 15}, "test": {0: 30, 1: 15}}


def test_the_split_depends_on_the_seed_and_on_ids_and_not_on_the_order_of_rows(tmp_path):
    rows = [f"id{row},{'ab'[row % 2]},some text {row}" for row in range(100)]
    first = table(tmp_path, "id,label,text", rows, "first.csv")
    random.Random(0).shuffle(rows)
    second = table(tmp_path, "id,label,text", rows, "second.csv")

    def test_ids(target, **options):
        return {sample.sample_id for sample in opened(target, **options)["test"]}

    assert test_ids(first) == test_ids(second)
    assert test_ids(first) != test_ids(first, seed=1)


def test_groups_stay_together_in_the_split(tmp_path):
    rows = [f"{'ab'[row // 4 % 2]},some text {row},person{row // 4}" for row in range(200)]
    target = table(tmp_path, "label,text,who", rows)

    splits = opened(target, group="who", note="text")
    people = {split: {sample.inputs["note"].split()[-1] for sample in splits[split]} for split in SPLITS}
    groups = {split: {int(number) // 4 for number in people[split]} for split in SPLITS}
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["val"]
    assert not groups["val"] & groups["test"]
    assert 20 <= len(splits["test"]) <= 40


def test_split_auto_overrules_the_column(tmp_path):
    target = table(tmp_path, "split,label,text", [f"train,{'ab'[row % 2]},some text {row}" for row in range(40)])

    assert len(opened(target, split="auto")["test"]) == 6


def test_parquet_gives_the_same_as_csv(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    csv_target = texts(tmp_path)
    rows = [line.split(",") for line in Path(csv_target).read_text().splitlines()]
    columns = {name: list(cells) for name, cells in zip(rows[0], zip(*rows[1:], strict=True), strict=True)}
    columns["text"][3] = None
    columns["size"] = [1.5, float("nan"), *range(10)]
    parquet.write_table(pyarrow.table(columns), tmp_path / "data.parquet")

    values = column(str(tmp_path / "data.parquet"), "text")
    assert values["s0"] == "a text 0"
    assert values["s3"] is None
    assert describe(str(tmp_path / "data.parquet"), size="size").missing == ("size",)


# What is decoded.


def test_inputs_are_decoded_one_modality_at_a_time_and_only_when_asked_for(tmp_path):
    target = media(tmp_path)
    sample = opened(target)["train"][0]
    (tmp_path / "a0.wav").unlink()

    assert isinstance(sample.inputs, LazyInputs)
    assert list(sample.inputs) == ["photo", "sound"]
    assert sample.inputs.get("photo").shape == (3, 9, 7)
    with pytest.raises(DataError):
        sample.inputs.get("sound")
    assert sample.inputs.get("nothing") is None


def test_an_image_is_decoded_to_the_pixels_that_were_written(tmp_path):
    rng = np.random.default_rng(0)

    values = column(media(tmp_path), "photo")["s0"]
    np.testing.assert_array_equal(values, rng.integers(0, 256, (9, 7, 3), dtype=np.uint8).transpose(2, 0, 1))
    assert values.flags.c_contiguous


def test_audio_is_mixed_to_mono_at_its_own_rate(tmp_path):
    value = column(media(tmp_path), "sound")["s3"]

    stereo, _ = soundfile.read(tmp_path / "a3.wav", dtype="float32")
    assert isinstance(value, Waveform)
    assert value.rate == 8_000
    np.testing.assert_allclose(value.values, stereo.mean(axis=1), atol=1e-7)
    check_canonical("sound", "audio", value)


@pytest.mark.parametrize(("ending", "subtype"), [("flac", "PCM_16"), ("ogg", "VORBIS"), ("opus", "OPUS")])
def test_flac_vorbis_and_opus_are_read(tmp_path, ending, subtype):
    tone = 0.5 * np.sin(np.arange(16_000) / 8)
    container = {"flac": "FLAC", "ogg": "OGG", "opus": "OGG"}[ending]
    soundfile.write(tmp_path / f"tone.{ending}", tone, 16_000, format=container, subtype=subtype)
    target = table(tmp_path, "label,sound", [f"{'ab'[row % 2]},tone.{ending}" for row in range(20)])

    value = column(target, "sound", sound="sound")["row-000001"]
    assert value.rate == 16_000
    assert np.corrcoef(value.values[2000:14000], tone[2000:14000])[0, 1] > 0.95


def one_image(folder, name, image, **options):
    image.save(folder / name, **options)
    target = table(folder, "label,image", [f"{'ab'[row % 2]},{name}" for row in range(20)])
    return column(target, "image", image="image")["row-000001"]


def test_grey_images_have_one_channel(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)

    np.testing.assert_array_equal(one_image(tmp_path, "grey.png", Image.fromarray(pixels)), pixels[None])


def test_a_column_that_holds_any_colour_gives_three_channels_throughout(tmp_path):
    target = media(tmp_path)
    Image.fromarray(np.full((4, 4), 7, dtype=np.uint8)).save(tmp_path / "i0.png")

    np.testing.assert_array_equal(column(target, "photo")["s0"], np.full((3, 4, 4), 7))


def test_sixteen_bit_grey_keeps_its_upper_byte(tmp_path):
    pixels = np.array([[0xABCD, 0x00FF], [0xFFFF, 0x0100]], dtype=np.uint16)

    value = one_image(tmp_path, "deep.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(value[0], [[0xAB, 0x00], [0xFF, 0x01]])


def test_an_image_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:, :16] = 255

    value = one_image(tmp_path, "turned.jpg", Image.fromarray(pixels), exif=exif, quality=95)
    assert value.shape == (3, 32, 16)
    assert value[:, :12].min() > 200
    assert value[:, 20:].max() < 50


def test_transparent_parts_are_white(tmp_path):
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0, 0] = (255, 0, 0, 255)

    value = one_image(tmp_path, "clear.png", Image.fromarray(pixels))
    assert value[:, 0, 0].tolist() == [255, 0, 0]
    assert value[:, 1, 1].tolist() == [255, 255, 255]


def test_a_video_is_decoded_to_its_frames(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for level in (0, 100, 200):
            frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), level, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    target = table(tmp_path, "label,clip", [f"{'ab'[row % 2]},v.mp4" for row in range(20)])

    value = column(target, "clip", clip="clip")["row-000001"]
    assert value.shape == (3, 3, 16, 32)
    assert value.mean(axis=(1, 2, 3)) == pytest.approx([0, 100, 200], abs=6)
    with pytest.raises(DataError, match=r"v.mp4 claims 0.3 s, more than max_seconds=0\.05; cut it, or allow it"):
        column(target, "clip", clip="clip", max_seconds=0.05)


def test_without_pyav_a_video_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "v.mp4").write_bytes(b"x")
    target = table(tmp_path, "label,clip", [f"{'ab'[row % 2]},v.mp4" for row in range(20)])

    assert describe(target, clip="clip").modalities[0].kind == "video"
    with pytest.raises(Unavailable, match=r"PyAV: pip install 'mmbench-datasets\[video\]'"):
        opened(target, clip="clip")


def test_an_unreadable_image_names_the_file_and_the_row(tmp_path):
    target = media(tmp_path)
    (tmp_path / "i3.png").write_bytes(b"not a picture")

    with pytest.raises(DataError, match=r"data.csv line 5: i3.png cannot be read as an image .*leave the cell empty"):
        column(target, "photo")


def test_a_cut_off_image_is_an_error_and_not_a_grey_half(tmp_path):
    target = media(tmp_path)
    whole = (tmp_path / "i3.png").read_bytes()
    (tmp_path / "i3.png").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(DataError, match=r"i3\.png cannot be read as an image"):
        column(target, "photo")


def test_an_image_that_claims_billions_of_pixels_costs_no_memory(tmp_path):
    target = media(tmp_path)
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path = tmp_path / "i3.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])

    with pytest.raises(DataError, match=r"i3.png (claims 60000 x 60000 pixels|cannot be read)"):
        column(target, "photo")


def test_unreadable_audio_names_the_file_and_the_row(tmp_path):
    target = media(tmp_path)
    (tmp_path / "a3.wav").write_bytes(b"RIFF....")

    with pytest.raises(DataError, match=r"data.csv line 5: a3.wav cannot be read as audio"):
        column(target, "sound")


def test_audio_whose_header_claims_more_than_is_there_is_refused(tmp_path):
    target = media(tmp_path)
    soundfile.write(tmp_path / "a3.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 40_000), 8_000, format="FLAC")
    whole = (tmp_path / "a3.wav").read_bytes()
    (tmp_path / "a3.wav").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(DataError, match=r"a3.wav (is cut short|cannot be read)"):
        column(target, "sound")


@pytest.mark.parametrize("seconds", [0.1, 36_000])
def test_a_wav_header_that_claims_more_sound_than_the_file_holds_is_refused_when_planning(tmp_path, seconds):
    target = media(tmp_path)
    soundfile.write(tmp_path / "a3.wav", np.zeros(400), 8_000, subtype="PCM_16")
    content = bytearray((tmp_path / "a3.wav").read_bytes())
    content[40:44] = struct.pack("<I", int(seconds * 16_000))
    (tmp_path / "a3.wav").write_bytes(content)

    message = f"a3.wav is cut short: its header claims {int(seconds * 16_000):,} bytes of sound, and 800 are there"
    assert message in refuse(target)
    with pytest.raises(DataError, match=message):
        column(target, "sound")


def test_a_wav_that_was_streamed_has_no_length_in_its_header_and_is_read(tmp_path):
    target = media(tmp_path)
    soundfile.write(tmp_path / "a3.wav", np.zeros(400), 8_000, subtype="PCM_16")
    content = bytearray((tmp_path / "a3.wav").read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "a3.wav").write_bytes(content)

    assert column(target, "sound")["s3"].values.shape == (400,)


def test_audio_beyond_max_seconds_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"claims 0.1 s, more than max_seconds=0.01.*\[max_seconds="):
        column(media(tmp_path), "sound", max_seconds=0.01)


def test_audio_without_samples_is_refused(tmp_path):
    target = media(tmp_path)
    soundfile.write(tmp_path / "a3.wav", np.zeros(0), 8_000)

    with pytest.raises(DataError, match=r"a3\.wav holds no sound"):
        column(target, "sound")


# What every mistake is told, at planning.


def refuse(target, error=DataError, **options):
    with pytest.raises(error) as caught:
        describe(target, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_manifest_that_is_not_there(tmp_path):
    assert "there is no manifest" in refuse(str(tmp_path / "none.csv"))


def test_a_manifest_of_another_kind(tmp_path):
    assert "must end in .csv, .tsv or .parquet" in refuse(str(tmp_path / "data.xlsx"), UsageError)


def test_a_folder_instead_of_a_manifest(tmp_path):
    (tmp_path / "folder.csv").mkdir()

    assert "cannot be read" in refuse(str(tmp_path / "folder.csv"))


def test_bytes_that_are_not_utf_8_are_located(tmp_path):
    target = texts(tmp_path)
    content = Path(target).read_bytes().replace(b"a text 2", "a téxt 2".encode("latin-1"))
    Path(target).write_bytes(content)

    message = refuse(target)
    assert f"byte 0xe9 at offset {content.index(0xE9)}, line 4; save it again as UTF-8" in message


def test_a_ragged_row(tmp_path):
    assert "line 3 has 5 cells, but the header has 4" in refuse(texts(tmp_path, row1="s1,train,dog,one,two"))
    assert "line 2 has 3 cells, but the header has 4" in refuse(texts(tmp_path, row0="s0,train,dog"))


def test_a_quote_that_is_never_closed(tmp_path):
    assert "is not well-formed CSV" in refuse(texts(tmp_path, row5='s5,val,dog,"open'))


def test_semicolons_instead_of_commas(tmp_path):
    target = write(tmp_path, "id;label;text\n1;a;b\n")

    assert "seems to separate cells by ';'" in refuse(target)


def test_an_empty_file_and_a_file_without_rows(tmp_path):
    assert "is empty; its first line must name the columns" in refuse(write(tmp_path, ""))
    assert "has a header and no rows" in refuse(write(tmp_path, "id,label,text\n"))


def test_a_column_named_twice(tmp_path):
    assert "names the column 'text' more than once" in refuse(write(tmp_path, "label,text,text\na,b,c\n"))


def test_a_column_that_is_not_there(tmp_path):
    target = texts(tmp_path)

    assert "no column 'txt' for the modality 'words'; it has id, split, label, text. Did you mean 'text'?" in refuse(
        target, UsageError, words="txt"
    )
    assert "no column 'lable' for labels" in refuse(target, UsageError, label="lable")
    assert "no column 'x' for splits" in refuse(target, UsageError, split="x")
    assert "no column 'x' for ids" in refuse(target, UsageError, id="x")
    assert "no column 'x' for groups" in refuse(target, UsageError, group="x")


def test_no_labels_at_all(tmp_path):
    target = table(tmp_path, "class,text", [f"{'ab'[row % 2]},some text {row}" for row in range(20)])

    assert "no column 'label'; name the labels' column with [label=COLUMN]. It has class, text" in refuse(target)


def test_an_unknown_kind(tmp_path):
    target = texts(tmp_path)

    assert "'txt' is not one of image, audio, video, text, tabular. Did you mean 'text'?" in refuse(
        target, UsageError, words="text:txt"
    )
    assert "'classes' is not one of multiclass, multilabel, regression" in refuse(
        target, UsageError, label="label:classes"
    )


def test_a_misspelt_option_is_not_taken_for_a_modality(tmp_path):
    assert "no option 'lable'. Did you mean 'label'?" in refuse(texts(tmp_path), UsageError, lable="label")


def test_the_labels_cannot_be_an_input(tmp_path):
    assert "reads" not in refuse(texts(tmp_path), UsageError, words="label")
    assert "which holds the labels of 'label'" in refuse(texts(tmp_path), UsageError, words="label")
    assert "which holds the splits" in refuse(texts(tmp_path), UsageError, words="text+split")


def test_a_modality_with_an_impossible_name(tmp_path):
    assert "name modalities as in [image=COLUMN]" in refuse(texts(tmp_path), UsageError, **{"my text!": "text"})


def test_duplicate_and_empty_ids(tmp_path):
    assert "data.csv line 3: the id 's0' is that of data.csv line 2 too" in refuse(
        texts(tmp_path, row1="s0,train,dog,x")
    )
    assert "line 3: the id (column 'id') is empty" in refuse(texts(tmp_path, row1=",train,dog,x"))


def test_one_class_only(tmp_path):
    target = table(tmp_path, "label,text", [f"cat,some text {row}" for row in range(20)])

    assert "holds one class only ('cat'); there is nothing to learn" in refuse(target)


def test_one_class_in_train_only(tmp_path):
    rows = [
        f"{'train' if row < 10 else 'val' if row < 15 else 'test'},{'a' if row < 10 else 'b'},t {row}"
        for row in range(20)
    ]

    assert "train holds one class only of 'label' ('a')" in refuse(table(tmp_path, "split,label,text", rows))


def test_an_empty_split(tmp_path):
    rows = [f"{'train' if row < 10 else 'test'},{'ab'[row % 2]},some text {row}" for row in range(20)]

    message = refuse(table(tmp_path, "split,label,text", rows))
    assert "no row has the split 'val' (column 'split' has train, test)" in message
    assert "[split=auto]" in message


def test_too_few_rows_to_split(tmp_path):
    assert "do not fill train, val and test" in refuse(table(tmp_path, "label,text", ["a,one two", "b,two three"]))


def test_a_split_that_is_no_split(tmp_path):
    assert "line 2: the split (column 'split') is 'holdout'; write train, val or test" in refuse(
        texts(tmp_path, row0="s0,holdout,cat,x y")
    )


def test_empty_and_nan_labels(tmp_path):
    assert "line 2: the label (column 'label') is empty" in refuse(texts(tmp_path, row0="s0,train,,x y"))
    rows = [f"{('nan', '1.5', '2')[row % 3]},some text {row}" for row in range(20)]
    assert "line 2: the label (column 'label') is NaN" in refuse(table(tmp_path, "label,text", rows))
    rows = [f"{('1.5', 'inf')[row % 2]},some text {row}" for row in range(20)]
    assert "line 3: the label (column 'label') must be a finite number, got 'inf'" in refuse(
        table(tmp_path, "label,text", rows), label="label:regression"
    )


def test_a_class_that_is_never_in_train(tmp_path):
    message = refuse(texts(tmp_path, row6="s6,test,bird,x y"))

    assert "line 8: the class 'bird' of 'label' occurs in test and never in train" in message
    assert "cannot be learned" in message


def test_a_group_in_two_splits(tmp_path):
    rows = [f"{('train', 'val', 'test')[row % 3]},{'ab'[row % 2]},some text {row},g{row % 4}" for row in range(24)]

    assert "keep a group in one split" in refuse(table(tmp_path, "split,label,text,who", rows), group="who")


def test_missing_files_are_counted_and_the_first_few_named(tmp_path):
    target = media(tmp_path)
    for row in (3, 5, 6, 8):
        (tmp_path / f"i{row}.png").unlink()

    message = refuse(target)
    assert "names 4 files that are not there: 'i3.png' (data.csv line 5), 'i5.png' (data.csv line 7)" in message
    assert ", …;" in message


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/etc/hostname.png", "is an absolute path"),
        ("C:\\pictures\\a.png", "is an absolute path"),
        ("~/a.png", "is an absolute path"),
        ("../a.png", "leaves the manifest's folder by '..'"),
        ("x/../../a.png", "leaves the manifest's folder by '..'"),
        ("x\\..\\a.png", "leaves the manifest's folder by '..'"),
    ],
)
def test_paths_that_leave_the_folder(tmp_path, path, reason):
    target = media(tmp_path)
    Path(target).write_text(Path(target).read_text().replace("i3.png", path))

    message = refuse(target)
    assert "data.csv line 5" in message
    assert reason in message


def test_links_that_leave_the_folder(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    target = media(inside)
    (inside / "i3.png").rename(tmp_path / "outside.png")
    (inside / "i3.png").symlink_to(tmp_path / "outside.png")
    assert "line 5: 'i3.png' leads out of the manifest's folder by a link" in refuse(target)

    (inside / "i3.png").unlink()
    (inside / "linked").symlink_to(tmp_path)
    Path(target).write_text(Path(target).read_text().replace("i3.png", "linked/outside.png"))
    assert "leads out of the manifest's folder by a link" in refuse(target)


def test_links_within_the_folder_are_followed(tmp_path):
    target = media(tmp_path)
    (tmp_path / "i3.png").unlink()
    (tmp_path / "i3.png").symlink_to("i4.png")

    values = column(target, "photo")
    np.testing.assert_array_equal(values["s3"], values["s4"])


def test_a_column_of_mixed_media(tmp_path):
    target = media(tmp_path)
    Path(target).write_text(Path(target).read_text().replace("i3.png", "a3.wav"))

    assert "line 5: 'a3.wav' in column 'photo' is not image, as most of the column is" in refuse(target)


def test_an_empty_column_named_as_a_modality(tmp_path):
    target = table(tmp_path, "label,text,none", [f"{'ab'[row % 2]},some text {row}," for row in range(20)])

    assert "the column 'none' is empty, so no sample has 'x'; leave it out" in refuse(target, x="none")


def test_nothing_to_learn_from(tmp_path):
    target = table(tmp_path, "label,age", [f"{'ab'[row % 2]},{row}" for row in range(20)])

    assert "no column holds paths of media or texts; name the modalities" in refuse(target)


def test_a_table_of_too_many_categories(tmp_path):
    target = table(tmp_path, "label,word", [f"{'ab'[row % 2]},w{row}" for row in range(200)])

    assert "For text use word:text" in refuse(target, meta="word:tabular")


@pytest.mark.parametrize("options", [{"seed": "x"}, {"max_seconds": "long"}, {"max_seconds": 0}])
def test_numbers_that_are_none(tmp_path, options):
    assert "must be a" in refuse(texts(tmp_path), UsageError, **options)


def test_broken_parquet(tmp_path):
    pytest.importorskip("pyarrow")

    assert "cannot be read as Parquet" in refuse(write(tmp_path, b"PAR1 nonsense", "data.parquet"))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    target = write(tmp_path, b"PAR1", "data.parquet")

    with pytest.raises(Unavailable, match=r"pip install 'mmbench-datasets\[parquet\]'"):
        describe(target)


# The fingerprint.


def age(folder, seconds=10):
    """Make files older than the clock's resolution, so that their hashes are remembered."""
    past = time.time() - seconds
    for path in folder.iterdir():
        if path.is_file():
            os.utime(path, (past, past))


def test_the_fingerprint_follows_content_options_and_nothing_else(tmp_path):
    target = media(tmp_path)
    first = describe(target).fingerprint

    assert describe(target).fingerprint == first
    assert describe(target, photo="photo").fingerprint != first
    (tmp_path / "unused.png").write_bytes(b"x")
    age(tmp_path)
    assert describe(target).fingerprint == first
    (tmp_path / "i3.png").write_bytes((tmp_path / "i4.png").read_bytes())
    assert describe(target).fingerprint != first


def test_the_same_data_in_another_folder_have_the_same_fingerprint(tmp_path):
    (tmp_path / "one").mkdir()
    target = media(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")

    assert describe(target).fingerprint == describe(str(tmp_path / "two" / "data.csv")).fingerprint


def test_planning_again_reads_no_file_twice(tmp_path, monkeypatch):
    target = media(tmp_path)
    age(tmp_path)
    first = describe(target).fingerprint
    monkeypatch.setattr("hashlib.file_digest", None)  # calling it would raise

    assert describe(target).fingerprint == first


def test_a_damaged_memo_is_ignored(tmp_path):
    target = media(tmp_path)
    age(tmp_path)
    first = describe(target).fingerprint
    (memo,) = (tmp_path / "cache" / "manifest-hashes").glob("*.json")

    for damage in ("{", "[]", json.dumps({"i0.png": "x"})):
        memo.write_text(damage)
        assert describe(target).fingerprint == first


def test_a_cache_folder_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "file" / "below"))

    assert len(describe(media(tmp_path)).fingerprint) == 64


@pytest.mark.parametrize("name", ["broken.png", "broken.flac"])
def test_a_file_that_is_no_medium_is_refused_before_anything_runs(tmp_path, name):
    target = media(tmp_path)
    manifest = Path(target)
    lines = manifest.read_text().splitlines()
    kind = ".png" if name.endswith("png") else ".flac"
    old = next(cell for cell in lines[1].split(",") if cell.endswith((kind, ".wav") if kind == ".flac" else kind))
    (manifest.parent / name).write_bytes(b"no medium at all")
    manifest.write_text("\n".join([lines[0], lines[1].replace(old, name), *lines[2:]]) + "\n")

    with pytest.raises(DataError, match=rf"line 2: {name} cannot be read as (an image|audio)"):
        describe(target)


# What planning imports, and real data.


def test_neither_the_specs_nor_describe_import_torch_or_pandas(tmp_path):
    code = (
        "import sys, mmbench_datasets as package; package.mmbench_datasets();"
        "from mmbench_datasets.manifest import describe; describe(sys.argv[1]);"
        "from mmbench_datasets.digits import describe; describe(difficulty='default', seed=0);"
        "print([name for name in ('torch', 'pandas', 'sklearn', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, media(tmp_path)], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def shared(name):
    path = SHARED / name / "manifest.csv"
    if not path.is_file():
        pytest.skip(f"the shared data set {name} is not beside this repository")
    return str(path)


def test_avt_digits_is_understood_without_options():
    info = describe(shared("avt_digits"))

    assert {modality.name: modality.kind for modality in info.modalities} == {
        "audio": "audio", "image": "image", "text": "text",
    }  # fmt: skip
    assert info.tasks[0].class_names == tuple("0123456789")
    assert info.missing == ()


def test_avt_digits_has_the_sizes_of_its_readme_and_its_null_is_text():
    splits = opened(shared("avt_digits"))

    assert {split: len(splits[split]) for split in SPLITS} == {"train": 2000, "val": 500, "test": 500}
    words = {sample.inputs["text"] for split in SPLITS for sample in splits[split]}
    assert "null" in words
    sample = splits["test"][0]
    assert sample.inputs["image"].shape == (1, 28, 28)
    assert sample.inputs["audio"].rate == 8_000


def test_planning_avt_digits_again_takes_less_than_a_fifth_of_a_second_of_work():
    target = shared("avt_digits")
    describe(target)
    times = []
    for _ in range(3):
        start = time.process_time()  # other work on the machine does not count
        describe(target)
        times.append(time.process_time() - start)

    assert min(times) < 0.2


def test_tuxstamps_declares_its_missing_modalities():
    options = {"image": "image", "text": "text", "audio": "audio", "sfx": "sfx"}
    target = shared("tuxstamps")

    info = describe(target, **options)
    splits = opened(target, **options)
    assert info.missing == ("audio", "sfx", "text")
    assert info.tasks[0].num_outputs == 12
    assert sum(len(splits[split]) for split in SPLITS) == 909
    samples = [sample for split in SPLITS for sample in splits[split]]
    assert sum(sample.inputs["text"] is not None for sample in samples) == 899
    for sample in samples[:20]:
        for name, kind in (("image", "image"), ("audio", "audio"), ("sfx", "audio")):
            value = sample.inputs[name]
            if value is not None:
                check_canonical(name, kind, value)
