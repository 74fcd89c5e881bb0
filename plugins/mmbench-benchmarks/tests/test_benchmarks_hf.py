"""Datasets that the `datasets` library itself saves to disk or puts into its cache, read without it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import soundfile
from mmbench_benchmarks.hf import describe_hf, open_hf, read_hf_subgroups
from mmbench_datasets.manifest import describe, open_manifest
from PIL import Image

from mmbench.data import SPLITS
from mmbench.errors import DataError, Unavailable, UsageError
from mmbench.registry import load_registry

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'mmbench-benchmarks[hf]'")
datasets = pytest.importorskip(
    "datasets", reason="datasets, Hugging Face's own library, which makes the files, is not installed"
)
datasets.disable_progress_bars()


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)


def wav(value):
    stream = io.BytesIO()
    soundfile.write(stream, np.full(80, value), 8_000, format="WAV", subtype="PCM_16")
    return stream.getvalue()


def rows(begin, count, **changed):
    columns = {
        "img": [Image.fromarray(np.full((4, 6, 3), row, dtype=np.uint8)) for row in range(begin, begin + count)],
        "sound": [{"bytes": wav(row / 64), "path": None} for row in range(begin, begin + count)],
        "caption": [f"caption {row}" for row in range(begin, begin + count)],
        "age": [float(row) for row in range(begin, begin + count)],
        "steps": [[[row, 1.0], [2.0, 3.0]] for row in range(begin, begin + count)],
        "label": [row % 2 for row in range(begin, begin + count)],
        **changed,
    }
    features = {
        "img": datasets.Image(),
        "sound": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
        "caption": datasets.Value("string"),
        "age": datasets.Value("float32"),
        "steps": datasets.List(datasets.List(datasets.Value("float32"))),
        "label": datasets.ClassLabel(names=["dog", "cat"]),
    }
    made = {
        name: datasets.Value("int64" if isinstance(cells[0], int) else "string")
        for name, cells in changed.items()
        if name not in features
    }
    plain = datasets.Dataset.from_dict(columns, features=datasets.Features({**features, **made}))
    return plain.cast_column("sound", datasets.Audio(decode=False))


def saved(folder, **splits):
    datasets.DatasetDict(**splits).save_to_disk(folder)
    return str(folder)


def opened(folder, target, **options):
    return open_hf(folder, target=target, **options)


def test_a_saved_dataset_is_understood_without_options(tmp_path):
    target = saved(tmp_path / "set", train=rows(0, 8), validation=rows(8, 4), test=rows(12, 4))

    info = describe_hf(target)
    splits = opened(tmp_path, target)

    assert [(modality.name, modality.kind) for modality in info.modalities] == [
        ("caption", "text"), ("img", "image"), ("sound", "audio"), ("steps", "sequence"),
    ]  # fmt: skip
    assert [(task.name, task.kind, task.class_names) for task in info.tasks] == [
        ("label", "multiclass", ("dog", "cat"))
    ]
    assert {split: len(splits[split]) for split in SPLITS} == {"train": 8, "val": 4, "test": 4}
    sample = splits["test"][1]
    assert (sample.sample_id, sample.targets) == ("test-000001", {"label": 1})
    assert sample.inputs["caption"] == "caption 13"
    np.testing.assert_array_equal(sample.inputs["img"], np.full((3, 4, 6), 13, dtype=np.uint8))
    assert (sample.inputs["sound"].rate, float(sample.inputs["sound"].values[0])) == (8_000, 13 / 64)


def test_options_name_columns_and_force_kinds(tmp_path):
    target = saved(tmp_path / "set", train=rows(0, 8), validation=rows(8, 4), test=rows(12, 4))

    info = describe_hf(target, photo="img", meta="age", trace="steps", words="age:text")
    inputs = opened(tmp_path, target, photo="img", meta="age", trace="steps", words="age:text")["val"][0].inputs

    assert {modality.name: modality.kind for modality in info.modalities} == {
        "photo": "image", "meta": "tabular", "trace": "sequence", "words": "text",
    }  # fmt: skip
    assert inputs["meta"].tolist() == [8.0]
    assert inputs["trace"].tolist() == [[8.0, 1.0], [2.0, 3.0]]
    assert inputs["words"] == "8.0"


@pytest.mark.parametrize(
    ("names", "sizes", "test_ids"),
    [
        (("train", "test"), {"train": 34, "val": 6, "test": 40}, "test-"),
        (("train", "validation"), {"train": 34, "val": 6, "test": 40}, "validation-"),
        (("train",), {"train": 28, "val": 6, "test": 6}, "train-"),
    ],
)
def test_val_is_carved_from_train_where_there_is_none(tmp_path, names, sizes, test_ids):
    target = saved(tmp_path / "set", **{name: rows(40 * place, 40) for place, name in enumerate(names)})

    splits = opened(tmp_path, target)
    assert {split: len(splits[split]) for split in SPLITS} == sizes
    assert all(sample.sample_id.startswith("train-") for sample in splits["val"])
    assert all(sample.sample_id.startswith(test_ids) for sample in splits["test"])


def test_val_that_is_carved_from_train_holds_labels_and_quantiles_in_proportion(tmp_path):
    made = rows(0, 120, label=[int(row % 4 == 0) for row in range(120)])
    target = saved(tmp_path / "set", train=made, test=rows(200, 8))

    by_label = opened(tmp_path, target)["val"]
    by_age = opened(tmp_path, target, label="age:regression")["val"]

    assert Counter(sample.targets["label"] for sample in by_label) == {0: 14, 1: 4}  # 15 % of 90, rounded up, and of 30
    thirds = Counter(int(sample.targets["age"] // 40) for sample in by_age)  # by six quantiles of 20 rows, 3 of each
    assert all(5 <= thirds[third] <= 7 for third in range(3))


def test_a_dataset_of_one_split_without_a_dict_is_divided(tmp_path):
    rows(0, 40).save_to_disk(tmp_path / "set")

    splits = opened(tmp_path, str(tmp_path / "set"))
    assert {split: len(splits[split]) for split in SPLITS} == {"train": 28, "val": 6, "test": 6}


def test_splits_may_be_named(tmp_path):
    target = saved(tmp_path / "set", a=rows(0, 8), b=rows(8, 4), c=rows(12, 4))

    with pytest.raises(UsageError, match=r"has the splits a, b, c; say which is train by \[train=NAME\]"):
        describe_hf(target)
    splits = opened(tmp_path, target, train="c", val="a", test="b")
    assert {split: len(splits[split]) for split in SPLITS} == {"train": 4, "val": 8, "test": 4}
    with pytest.raises(UsageError, match=r"\[train=d\]: the dataset has the splits a, b, c"):
        describe_hf(target, train="d")


def test_labels_that_are_words_numbers_or_lists_are_understood(tmp_path):
    made = rows(0, 40, word=["red", "blue"] * 20, grade=[row % 3 for row in range(40)])
    target = saved(tmp_path / "set", train=made, test=made)

    word = describe_hf(target, label="word").tasks[0]
    grade = describe_hf(target, label="grade").tasks[0]
    age = describe_hf(target, label="age:regression").tasks[0]

    assert (word.kind, word.class_names) == ("multiclass", ("blue", "red"))
    assert (grade.kind, grade.class_names) == ("multiclass", ("0", "1", "2"))
    assert age.kind == "regression"
    assert opened(tmp_path, target, label="age:regression")["test"][3].targets == {"age": 3.0}


def test_a_list_of_classes_is_multilabel(tmp_path):
    tags = datasets.List(datasets.ClassLabel(names=["x", "y", "z"]))
    made = datasets.Dataset.from_dict(
        {"text": [f"some words {row}" for row in range(8)], "tags": [[0], [1, 2], [], [0, 1]] * 2},
        features=datasets.Features({"text": datasets.Value("string"), "tags": tags}),
    )
    target = saved(tmp_path / "set", train=made, validation=made, test=made)

    assert describe_hf(target, label="tags").tasks[0].kind == "multilabel"
    assert [sample.targets["tags"] for sample in opened(tmp_path, target, label="tags")["test"]][:3] == [
        (1, 0, 0), (0, 1, 1), (0, 0, 0),
    ]  # fmt: skip


def test_what_is_null_is_missing(tmp_path):
    made = rows(0, 4, caption=["a", None, "b", "c"])
    target = saved(tmp_path / "set", train=made, validation=made, test=made)

    assert describe_hf(target).missing == ("caption",)
    assert opened(tmp_path, target)["train"][1].inputs["caption"] is None


def test_hidden_labels_are_refused_with_what_to_do(tmp_path):
    hidden = rows(12, 4, label=[-1] * 4)
    target = saved(tmp_path / "set", train=rows(0, 8), validation=rows(8, 4), test=hidden)

    with pytest.raises(DataError, match=r"has the label -1, and 'label' knows 0 to 1: .*\[test=validation\]"):
        describe_hf(target)
    assert len(opened(tmp_path, target, test="validation")["test"]) == 4


def cached(folder, monkeypatch):
    for name in ("train", "test"):
        lines = [json.dumps({"text": f"{name} {row}", "label": row % 2}) for row in range(40)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    files = {name: str(folder / f"{name}.jsonl") for name in ("train", "test")}
    datasets.load_dataset("json", data_files=files, cache_dir=str(folder / "hub" / "datasets"))


def test_a_dataset_is_found_in_the_librarys_cache_by_its_name(tmp_path, monkeypatch):
    cached(tmp_path, monkeypatch)
    entry = tmp_path / "hub" / "datasets" / "json"
    entry.rename(entry.with_name("my_lab___two_words"))

    splits = opened(tmp_path, "My-Lab/two_words")
    assert {split: len(splits[split]) for split in SPLITS} == {"train": 34, "val": 6, "test": 40}
    assert splits["test"][2].inputs["text"] == "test 2"


def test_what_is_not_there_is_said_at_once_and_without_network(tmp_path):
    with pytest.raises(Unavailable, match=r"no folder 'lab/none', and the cache .*/hub/datasets holds no dataset"):
        describe_hf("lab/none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Unavailable, match=r"it holds neither dataset_dict.json nor state.json"):
        describe_hf(str(tmp_path / "empty"))


def test_the_fingerprint_follows_the_content_and_not_the_folder(tmp_path):
    def told(name, begin):
        return describe_hf(saved(tmp_path / name, train=rows(begin, 8), test=rows(8, 4))).fingerprint

    assert told("a", 0) == told("b", 0)
    assert told("c", 2) != told("a", 0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"image": "imgs"}, r"no column 'imgs' for the modality 'image'; it has .* Did you mean 'img'"),
        ({"lable": "age"}, r"hf has no option 'lable'. Did you mean 'label'"),
        (
            {"label": "lab"},
            r"no column 'lab' for labels; it has img, sound, caption, age, steps, label. Did you mean 'label'",
        ),
        (
            {"x": "label"},
            r"the modality 'x' would read the column 'label', which holds the labels of 'label'; take it out",
        ),
        ({"x": "age:picture"}, r"the modality 'x' 'age:picture': 'picture' is not one of image, audio, video, text"),
        ({"id": "none"}, r"no column 'none' for ids"),
        ({"seed": "first"}, r"seed must be a whole number, got 'first'"),
        ({"max_seconds": "-1"}, r"max_seconds must be a number above 0, got '-1'"),
        ({"train": "test", "val": "test"}, r"two of train, val and test would be the same split"),
    ],
)
def test_a_mistaken_option_is_answered(tmp_path, options, reason):
    target = saved(tmp_path / "set", train=rows(0, 8), test=rows(8, 4))

    with pytest.raises(UsageError, match=reason):
        describe_hf(target, **options)


def test_broken_files_are_refused(tmp_path):
    target = saved(tmp_path / "set", train=rows(0, 8), test=rows(8, 4))
    arrow = next((tmp_path / "set" / "train").glob("*.arrow"))
    whole = arrow.read_bytes()

    for content in (b"", b"PK\x03\x04", whole[: len(whole) // 2], whole[:-8], whole[:9] + b"\xff" * 50 + whole[59:]):
        arrow.write_bytes(content)
        with pytest.raises(DataError, match=r"train/data-00000-of-00001.arrow (cannot be read as an Arrow|lacks)"):
            describe_hf(target)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("dataset_dict.json", '{"splits": ["../../x"]}', "leaves the folder of the Hugging Face dataset by '..'"),
        ("dataset_dict.json", "[]", "names no splits"),
        ("train/state.json", '{"_data_files": [{"filename": "../../../x.arrow"}]}', "leaves the folder of the Hugging"),
        ("train/state.json", '{"_data_files": [{"filename": "/etc/passwd"}]}', "'train//etc/passwd'"),
        ("train/state.json", "{}", "names no data files"),
        ("train/dataset_info.json", "{", "is no readable JSON"),
        ("train/dataset_info.json", '{"features": {}}', "describes no columns"),
    ],
)
def test_descriptions_that_lead_elsewhere_are_refused(tmp_path, file, content, reason):
    target = saved(tmp_path / "set", train=rows(0, 8), test=rows(8, 4))
    (tmp_path / "set" / file).write_text(content)

    with pytest.raises(DataError) as raised:
        describe_hf(target)
    assert reason in str(raised.value)


def test_a_picture_that_is_only_a_path_is_never_opened(tmp_path):
    made = rows(0, 4).cast_column("img", datasets.Image(decode=False))
    made = made.map(lambda row: {"img": {"bytes": None, "path": "/etc/hostname"}})
    target = saved(tmp_path / "set", train=rows(0, 4), validation=rows(0, 4), test=rows(0, 4))
    for split in ("train", "validation", "test"):
        arrow = next((tmp_path / "set" / split).glob("*.arrow"))
        with pyarrow.ipc.new_stream(str(arrow), made.data.table.schema) as writer:
            writer.write_table(made.data.table)

    with pytest.raises(
        DataError, match=r"train row 0: 'photo' \(column 'img'\) is kept outside the dataset \('/etc/hostname'\); save"
    ):
        describe_hf(target, photo="img")


def test_without_pyarrow_what_to_install_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(Unavailable, match=r"read by pyarrow: pip install 'mmbench-benchmarks\[hf\]'"):
        describe_hf(str(tmp_path))


def test_describing_imports_neither_the_library_nor_torch_nor_pandas(tmp_path):
    target = saved(tmp_path / "set", train=rows(0, 8), test=rows(8, 4))
    code = (
        f"import sys; from mmbench_benchmarks.hf import describe_hf; describe_hf({target!r})\n"
        "print(sorted({'torch', 'pandas', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "I;16", "I", "F", "LA"])
def test_pictures_that_the_library_keeps_as_tiff_are_decoded(tmp_path, mode):
    shades = [Image.fromarray(np.full((4, 6), 10 * row, dtype=np.uint8)) for row in range(20)]
    deep = mode in ("I;16", "I", "F")
    pictures = [
        Image.fromarray(np.asarray(shade).astype({"I;16": "uint16", "I": "int32", "F": "float32"}[mode])) if deep
        else shade.convert(mode) if mode != "CMYK" else shade.convert("RGB").convert("CMYK")
        for shade in shades
    ]  # fmt: skip
    target = saved(tmp_path / "set", train=rows(0, 20, img=pictures), validation=rows(0, 4), test=rows(0, 4))

    train = opened(tmp_path, target, img="img")["train"]
    for row, sample in enumerate(train):
        value = sample.inputs["img"]
        assert (value.dtype, value.shape) == (np.uint8, (3, 4, 6))
        if mode == "1":
            continue  # dithered by Pillow
        expected = 10 * row * 255 / 190 if deep else 10 * row
        assert abs(float(value.mean()) - expected) <= 1
        assert sample.inputs.summary("img").facts["size"] == [4, 6]


def test_a_broken_picture_is_named_once_and_without_an_address(tmp_path):
    pictures = [{"bytes": b"\x00broken", "path": None}, *rows(0, 7)["img"]]
    target = saved(tmp_path / "set", train=rows(0, 8, img=pictures), validation=rows(8, 4), test=rows(12, 4))

    with pytest.raises(DataError) as caught:
        opened(tmp_path, target)["train"][0].inputs["img"]

    message = str(caught.value)
    assert message.startswith("train row 0 of 'img' cannot be read as an image (its format is unknown); ")
    assert "0x" not in message


def test_a_modality_that_no_row_of_train_has_is_refused(tmp_path):
    target = saved(tmp_path / "set", train=rows(0, 8, caption=[None] * 8), validation=rows(8, 4), test=rows(12, 4))

    with pytest.raises(DataError, match=r"no row of train has 'words' \(8 rows\)"):
        describe_hf(target, words="caption", img="img")


def test_the_path_of_a_saved_dataset_is_a_dataset(tmp_path):
    target = saved(tmp_path / "set", train=rows(0, 8), validation=rows(8, 4), test=rows(12, 4))

    (found,) = load_registry().match("dataset", f"{target}[words=caption]")
    assert (found.entry.spec.name, found.target) == ("hf", target)
    assert describe_hf(target, words="caption").title == "set"


def test_a_repository_of_parquet_files_keeps_class_names_pictures_and_splits(tmp_path):
    folder = tmp_path / "repo"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    for name, begin, count in (("train", 0, 12), ("validation", 12, 4), ("test", 16, 4)):
        rows(begin, count).to_parquet(str(folder / "data" / f"{name}-00000-of-00001.parquet"))

    (found,) = load_registry().match("dataset", str(folder))
    assert found.entry.spec.name == "manifest"
    info = describe(str(folder))
    assert {modality.name: modality.kind for modality in info.modalities} == {
        "caption": "text", "img": "image", "sound": "audio", "steps": "sequence",
    }  # fmt: skip
    assert info.tasks[0].class_names == ("dog", "cat")
    splits = open_manifest(tmp_path, target=str(folder))
    assert {split: len(splits[split]) for split in SPLITS} == {"train": 12, "val": 4, "test": 4}
    sample = splits["test"][1]
    assert sample.targets == {"label": 1}
    np.testing.assert_array_equal(sample.inputs["img"], np.full((3, 4, 6), 17, dtype=np.uint8))
    assert float(sample.inputs["sound"].values[0]) == 17 / 64


def test_multi_hot_lists_ragged_lists_and_empty_lists_are_told_apart(tmp_path):
    plain = datasets.Dataset.from_dict(
        {
            "text": [f"some words {row}" for row in range(40)],
            "hot": [[row % 2, 1 - row % 2, 1] for row in range(40)],
            "tags": [[] if row % 5 == 0 else ["x", "y", "z"][row % 3 :][:2] for row in range(40)],
            "ragged": [[1.0] * (2 + row % 3) for row in range(40)],
            "steps": [[] if row == 7 else [[float(row), 1.0]] * (1 + row % 2) for row in range(40)],
        }
    )
    plain.save_to_disk(tmp_path / "set")
    target = str(tmp_path / "set")

    assert (describe_hf(target, label="hot").tasks[0].kind, describe_hf(target, label="hot").tasks[0].num_outputs) == (
        "multilabel",
        3,
    )
    assert describe_hf(target, label="tags").tasks[0].class_names == ("x", "y", "z")
    with pytest.raises(DataError, match=r"train row 1: 's' \(column 'ragged'\) has 3 numbers, and most rows have 2"):
        describe_hf(target, label="hot", s="ragged")
    assert describe_hf(target, label="hot", s="ragged:sequence").modalities[0].kind == "sequence"
    assert describe_hf(target, label="hot", s="steps").missing == ("s",)


def test_columns_divide_test_samples_into_subgroups(tmp_path):
    test = rows(12, 4, site=["A", "B", "A", "B"])
    train, val = rows(0, 8, site=["A"] * 8), rows(8, 4, site=["B"] * 4)
    target = saved(tmp_path / "set", train=train, validation=val, test=test)
    ids = [sample.sample_id for sample in opened(tmp_path, target)["test"]]

    assert read_hf_subgroups(target, ["site"]) == {"site": dict(zip(ids, "ABAB"))}
