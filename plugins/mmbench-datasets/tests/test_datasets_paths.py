"""Data given by their path: tables, folders of tables, of class folders, and what tables call them."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import soundfile
from manifest_cases import labelled, opened, refuse, rows_of, texts, understood
from mmbench_datasets.folders import accepts
from PIL import Image

from mmbench.config import RunConfig
from mmbench.data import SPLITS
from mmbench.errors import UsageError
from mmbench.plan import make_plan
from mmbench.registry import load_registry
from mmbench.session import default_name

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def registry():
    return load_registry()


def pictures(folder, names):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(path)
    return str(folder)


def dataset(registry, pattern):
    (found,) = registry.match("dataset", pattern)
    return found.entry.spec.name, found.target, dict(found.options), found.name


@pytest.mark.parametrize("name", ["data.csv", "data.tsv", "my data, [x].csv"])
def test_the_path_of_a_table_is_a_dataset(tmp_path, registry, name):
    target = labelled(tmp_path, ["a", "b"], name)

    assert dataset(registry, f"{target}[label=label]") == ("manifest", target, {"label": "label"}, "")


def test_a_path_without_options_may_be_relative(tmp_path, registry, monkeypatch):
    labelled(tmp_path, ["a", "b"])
    monkeypatch.chdir(tmp_path)

    assert dataset(registry, "data.csv")[:2] == ("manifest", "data.csv")
    assert dataset(registry, ".")[:2] == ("manifest", ".")


def test_the_name_of_a_dataset_goes_before_a_folder_of_that_name(tmp_path, registry, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()

    assert dataset(registry, "digits")[0] == "digits"


def test_a_path_that_is_not_there_suggests_what_is(tmp_path, registry):
    labelled(tmp_path, ["a", "b"])

    with pytest.raises(
        UsageError, match=r"there is no file or folder '.*dat.csv', and no dataset.* Did you mean 'data.csv'"
    ):
        registry.match("dataset", str(tmp_path / "dat.csv"))
    with pytest.raises(UsageError, match=r"There is no folder '.*nowhere' either"):
        registry.match("dataset", str(tmp_path / "nowhere" / "x.csv"))
    with pytest.raises(UsageError, match=r"no dataset is named 'digitz'. Did you mean 'digits'"):
        registry.match("dataset", "digitz")


@pytest.mark.parametrize("name", ["book.xlsx", "notes.txt", "empty"])
def test_a_path_that_no_dataset_reads_says_what_is_read(tmp_path, registry, name):
    (tmp_path / name).mkdir() if name == "empty" else (tmp_path / name).write_text("x")

    with pytest.raises(UsageError, match=r"is there, but no installed dataset reads it .*Give a table \(.csv"):
        registry.match("dataset", str(tmp_path / name))


def plan_of(registry, *datasets, **options):
    return make_plan(RunConfig(dataset=datasets, fusion=["concat"], **options), registry)


def test_tables_and_runs_are_named_after_the_file_or_as_asked(tmp_path, registry):
    target = labelled(tmp_path, ["a", "b"], "birds.csv")

    plan = plan_of(registry, target)
    assert [part.label for part in plan.datasets] == ["birds"]
    assert default_name(plan) == "birds"
    named = plan_of(registry, f"{target}[name=my birds]")
    assert [part.label for part in named.datasets] == ["my birds"]
    assert default_name(named) == "my-birds"
    assert named.datasets[0].key == plan.datasets[0].key
    assert named.datasets[0].digest == plan.datasets[0].digest


def test_the_full_reference_selects_the_same_data_again(tmp_path, registry):
    target = labelled(tmp_path, ["a", "b"], "my [birds].csv")

    (part,) = plan_of(registry, f"{target}[name=x, words=text]").datasets
    (again,) = plan_of(registry, part.full_reference).datasets
    assert (again.label, again.key, again.digest) == ("x", part.key, part.digest)


def test_two_datasets_of_one_name_show_their_references(tmp_path, registry):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        labelled(tmp_path / folder, ["x", "y", folder])

    labels = [
        part.label
        for part in plan_of(registry, str(tmp_path / "a" / "data.csv"), str(tmp_path / "b" / "data.csv")).datasets
    ]
    assert labels == [f"manifest:{tmp_path / folder / 'data.csv'}" for folder in ("a", "b")]


def test_many_guessed_modalities_are_asked_about_at_once(tmp_path, registry):
    pictures(tmp_path, [f"{row}.png" for row in range(20)])
    cells = [("ab"[row % 2], *(f"{(row + column) % 20}.png" for column in range(17))) for row in range(20)]
    target = rows_of(tmp_path, ["label", *(f"c{column}" for column in range(17))], cells, "wide.csv")

    began = time.process_time()
    with pytest.raises(UsageError) as caught:
        plan_of(registry, target)
    assert time.process_time() - began < 2
    assert "17 columns of wide look like modalities, which makes 129,140,163 cells: c0 (image), c1" in str(caught.value)
    assert "as in -d '" in str(caught.value)
    assert "[c0=c0,c1=c1]'" in str(caught.value)
    assert plan_of(registry, f"{target}[c0=c0,c1=c1]").count()["cells"] > 0
    assert plan_of(registry, target, modality=["c0", "c1"]).count()["cells"] > 0
    assert plan_of(registry, target, encoder=["cnn"]).count()["cells"] == 1 + 17 + 1


def test_what_was_understood_is_among_the_notes(tmp_path):
    from mmbench_datasets.manifest import describe

    info = describe(texts(tmp_path), words="text")
    assert info.title == "data"
    assert info.notes[0] == "data.csv: 12 rows; words (text) from 'text'; label 'label' (multiclass, 2)"
    assert info.notes[1] == "split: by column 'split': 8 train, 2 val, 2 test"
    assert not info.inferred
    assert describe(texts(tmp_path)).inferred


# Folders


def test_a_folder_with_one_table_is_that_table(tmp_path):
    labelled(tmp_path, ["a", "b"])
    (tmp_path / "notes.txt").write_text("x")

    assert accepts(str(tmp_path))
    assert len(understood(str(tmp_path)).table) == 60


def test_a_folder_with_several_tables_lists_them(tmp_path):
    labelled(tmp_path, ["a", "b"], "one.csv")
    labelled(tmp_path, ["a", "b"], "two.csv")

    assert "holds 2 tables (one.csv, two.csv); name one of them" in refuse(str(tmp_path), UsageError)


@pytest.mark.parametrize(
    "names",
    [
        ("train.csv", "val.csv", "test.csv"),
        ("train_1.csv", "validation.csv", "test.csv"),
        ("data/train-00000-of-00001.csv", "data/dev-00000-of-00001.csv", "data/test.csv"),
    ],
)
def test_tables_named_after_splits_are_one_dataset(tmp_path, names):
    for name, count in zip(names, (20, 8, 10), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        rows_of(tmp_path, ["text", "label"], [(f"{name} {row} z", "ab"[row % 2]) for row in range(count)], name)

    splits = opened(str(tmp_path))
    assert {split: len(splits[split]) for split in SPLITS} == {"train": 20, "val": 8, "test": 10}
    assert splits["test"][3].inputs["text"] == f"{names[2]} 3 z"
    assert "split: by the names of files: 20 train, 8 val, 10 test" in understood(str(tmp_path)).notes


def test_tables_of_splits_with_other_columns_are_refused(tmp_path):
    rows_of(tmp_path, ["text", "label"], [("a b", "a")] * 5, "train.csv")
    rows_of(tmp_path, ["text"], [("a b",)] * 5, "test.csv")

    assert "test.csv has no column 'label', which train.csv has" in refuse(str(tmp_path))


def test_shards_of_one_split_are_divided(tmp_path):
    for shard in range(2):
        rows_of(
            tmp_path,
            ["text", "label"],
            [(f"{shard} {row} z", "ab"[row % 2]) for row in range(30)],
            f"train-{shard}.csv",
        )

    assert sum(len(rows) for rows in opened(str(tmp_path)).values()) == 60


def test_places_in_joined_tables_name_the_file(tmp_path):
    rows_of(tmp_path, ["text", "label"], [(f"a {row}", "ab"[row % 2]) for row in range(20)], "train.csv")
    rows_of(
        tmp_path, ["text", "label"], [(f"a {row}", "" if row == 3 else "ab"[row % 2]) for row in range(20)], "test.csv"
    )

    assert refuse(str(tmp_path)).startswith("test.csv line 5: the label (column 'label') is empty")


def test_class_folders_are_labels(tmp_path):
    target = pictures(tmp_path, [f"{['owl', 'red fox'][row % 2]}/{row}.png" for row in range(30)])
    (tmp_path / "owl" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "readme.md").write_text("x")

    assert accepts(target)
    manifest = understood(target)
    assert manifest.targets[0].task.class_names == ("owl", "red fox")
    splits = opened(target)
    labels = {sample.sample_id: sample.targets["label"] for split in SPLITS for sample in splits[split]}
    assert labels["owl/4"] == 0
    assert labels["red fox/5"] == 1
    reds = {s.sample_id: int(s.inputs["image"][0, 0, 0]) for split in SPLITS for s in splits[split]}
    assert reds["red fox/5"] == 5
    assert "files of other kinds are not used: 1 .md" in manifest.notes


def test_folders_of_splits_stand_above_class_folders(tmp_path):
    names = [f"{['train', 'valid', 'test'][row % 3]}/{'ab'[row // 3 % 2]}/deep/{row}.png" for row in range(36)]

    splits = opened(pictures(tmp_path, names))
    assert {split: len(splits[split]) for split in SPLITS} == dict.fromkeys(SPLITS, 12)
    assert {sample.sample_id for sample in splits["val"]} == {name[:-4] for name in names if name.startswith("valid")}


def test_folders_of_splits_are_called_as_cells_of_a_column_of_splits_are(tmp_path):
    names = [f"{part}/{label}/{row}.png" for part in ("training_set", "test_set") for label in "ab" for row in range(9)]

    splits = opened(pictures(tmp_path, names))
    assert {sample.sample_id for sample in splits["test"]} == {name[:-4] for name in names if name.startswith("test")}
    assert {sample.targets["label"] for sample in splits["test"]} == {0, 1}


def test_a_folder_beside_those_of_splits_is_no_class(tmp_path):
    names = [f"{part}/{label}/{row}.png" for part in ("train", "test") for label in "ab" for row in range(4)]

    target = pictures(tmp_path, [*names, "unlabeled/1.png"])
    assert "the folders test, train are splits, and unlabeled is none" in refuse(target)


def test_sounds_and_pictures_of_one_name_are_one_sample(tmp_path):
    target = pictures(tmp_path, [f"{'ab'[row % 2]}/{row}.png" for row in range(30)])
    for row in range(0, 30, 3):
        soundfile.write(tmp_path / "ab"[row % 2] / f"{row}.wav", np.full(80, row / 64), 8_000)

    manifest = understood(target)
    assert {source.name: source.kind for source in manifest.sources} == {"audio": "audio", "image": "image"}
    assert manifest.missing == ("audio",)
    assert len(manifest.table) == 30


def test_a_file_beside_class_folders_is_named_and_can_be_left_out(tmp_path):
    target = pictures(tmp_path, [f"{'ab'[row % 2]}/{row}.png" for row in range(30)] + ["stray.png"])

    assert "/stray lies in no class folder" in refuse(target)
    assert len(understood(target, drop="bad").table) == 30


def test_a_folder_that_holds_nothing_is_not_taken(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.bin").write_bytes(b"")

    assert not accepts(str(tmp_path))
    assert "holds neither a table" in refuse(str(tmp_path))


def test_jsonl_files_of_a_hub_repository_keep_their_lists(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("---\nconfigs: []\n---\n")
    (tmp_path / "dataset_infos.json").write_text("{}")
    for name, count in (("train", 20), ("test", 10)):
        lines = [json.dumps({"emb": [row, 0.5], "label": "ab"[row % 2]}) for row in range(count)]
        (tmp_path / "data" / f"{name}.jsonl").write_text("\n".join(lines))

    splits = opened(str(tmp_path))
    assert {split: len(splits[split]) for split in SPLITS}["test"] == 10
    assert splits["test"][3].inputs["emb"].tolist() == [3, 0.5]
