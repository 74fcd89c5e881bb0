"""CMU-MOSI, CMU-MOSEI, UR-FUNNY and MUStARD: both layouts of their pickles, as pickle and numpy write them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmbench_benchmarks import affect

from mmbench.data import SPLITS, check_canonical
from mmbench.errors import DataError, Unavailable, UsageError
from mmbench.testing import check


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMBENCH_DATA", str(tmp_path / "data"))


def multibench_part(name, labels, *, steps=5, filled=3):
    """Padded in front with zeros: `filled` of `steps` rows are real."""
    count = len(labels)
    part = {
        "vision": np.zeros((count, steps, 4)),
        "audio": np.zeros((count, steps, 2)),
        "text": np.zeros((count, steps, 3)),
        "labels": np.asarray(labels, dtype=np.float64).reshape(count, 1, 1),
        "id": np.array([f"{name}[{row}]" for row in range(count)]),
    }
    for row in range(count):
        part["vision"][row, -filled:] = row + np.arange(filled * 4).reshape(filled, 4) + 1
        part["audio"][row, -filled:] = 0.5
        part["text"][row, -filled:] = row + 1
    return part


def multibench(**parts):
    return {
        "train": multibench_part("tr", [-2.0, 0.0, 1.5, 3.0]),
        "valid": multibench_part("va", [0.5, -1.0]),
        "test": multibench_part("te", [-0.2, 2.0, 0.0]),
        **parts,
    }


def mmsa_part(name, labels):
    """Unaligned: text of 4 steps, audio of 6, vision of 8, each padded at the end; lengths are given."""
    count = len(labels)
    return {
        "raw_text": np.array([f"sentence {row} of {name}" for row in range(count)]),
        "audio": np.ones((count, 6, 5)),
        "vision": np.full((count, 8, 20), 2.0),
        "id": [f"{name}$_${row}" for row in range(count)],
        "text": np.ones((count, 4, 768), dtype=np.float32),
        "text_bert": np.ones((count, 3, 4), dtype=np.float32),
        "audio_lengths": [row % 6 + 1 for row in range(count)],
        "vision_lengths": [row % 8 + 1 for row in range(count)],
        "annotations": np.array(["Positive"] * count),
        "classification_labels": np.zeros(count),
        "regression_labels": np.array(labels, dtype=np.float32),
    }


def mmsa():
    return {"train": mmsa_part("a", [1.0, -1.0, 0.0]), "valid": mmsa_part("b", [0.4]), "test": mmsa_part("c", [-3, 3])}


def stored(folder, content, name="mosi_raw.pkl", protocol=4):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(pickle.dumps(content, protocol))
    return str(path)


def opened(target, task="sentiment", name="mosi", **options):
    named = {"task": task} if name in ("mosi", "mosei") else {}
    return affect._open(name, Path("nowhere"), target, **named, **options)


def test_multibenchs_file_gives_its_own_splits_and_sentiments(tmp_path):
    target = stored(tmp_path / "mosi", multibench())

    info = affect.describe_mosi(target, task="sentiment", raw_text=False)
    splits = opened(target)

    assert [(modality.name, modality.kind) for modality in info.modalities] == [
        ("vision", "sequence"), ("audio", "sequence"), ("text", "sequence"),
    ]  # fmt: skip
    assert [(task.name, task.kind, task.primary) for task in info.tasks] == [("sentiment", "regression", "mae")]
    assert [sample.sample_id for sample in splits["test"]] == ["te[0]", "te[1]", "te[2]"]
    assert [sample.targets["sentiment"] for sample in splits["train"]] == [-2.0, 0.0, 1.5, 3.0]
    assert {split: len(splits[split]) for split in SPLITS} == {"train": 4, "val": 2, "test": 3}


def test_padding_in_front_is_taken_off_all_aligned_modalities(tmp_path):
    content = multibench()
    content["train"]["vision"][1, -3:] = 0.0  # a face that nobody saw, beside words: no padding

    sample = opened(stored(tmp_path / "mosi", content))["train"][1]

    assert sample.inputs["text"].tolist() == [[2.0] * 3] * 3
    assert sample.inputs["vision"].tolist() == [[0.0] * 4] * 3
    assert sample.inputs["audio"].dtype == np.float32


def test_values_that_are_not_finite_become_zero(tmp_path):
    content = multibench()
    content["train"]["audio"][0, -3:] = [[-np.inf, 1.0], [np.nan, 2.0], [np.inf, 3.0]]

    sample = opened(stored(tmp_path / "mosi", content))["train"][0]

    assert sample.inputs["audio"].tolist() == [[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]
    check_canonical("audio", "sequence", sample.inputs["audio"])


def test_an_utterance_without_text_is_left_out_as_multibench_does(tmp_path):
    content = multibench()
    content["test"]["text"][1] = 0.0

    assert [sample.sample_id for sample in opened(stored(tmp_path / "mosi", content))["test"]] == ["te[0]", "te[2]"]


def test_polarity_is_whether_the_sentiment_is_above_zero(tmp_path):
    target = stored(tmp_path / "mosi", multibench())

    splits = opened(target, task="polarity")
    assert [sample.targets["polarity"] for sample in splits["train"]] == [0, 0, 1, 1]

    without = opened(target, task="polarity-without-neutral")
    assert [sample.targets["polarity"] for sample in without["train"]] == [0, 1, 1]
    assert [sample.sample_id for sample in without["test"]] == ["te[0]", "te[1]"]

    both = opened(target, task="both")["train"][2].targets
    assert both == {"sentiment": 1.5, "polarity": 1}


def test_an_unknown_task_says_which_there_are(tmp_path):
    with pytest.raises(UsageError, match=r"mosi has no task 'polarty'; .*polarity-without-neutral.*Did you mean"):
        opened(stored(tmp_path / "mosi", multibench()), task="polarty")


def test_mmsas_unaligned_file_is_cut_to_its_lengths(tmp_path):
    target = stored(tmp_path / "mosei", mmsa(), "unaligned_50.pkl")

    sample = opened(target, name="mosei")["train"][2]

    assert sample.sample_id == "a$_$2"
    assert {name: sample.inputs[name].shape for name in sample.inputs} == {
        "vision": (3, 20), "audio": (3, 5), "text": (4, 768),
    }  # fmt: skip


def test_mmsas_raw_text_is_a_modality_when_asked_for(tmp_path):
    target = stored(tmp_path / "mosi", mmsa(), "unaligned_50.pkl")

    info = affect.describe_mosi(target, task="sentiment", raw_text=True)
    assert info.modalities[3].name == "raw_text"
    assert info.modalities[3].kind == "text"
    assert opened(target, raw_text=True)["test"][1].inputs["raw_text"] == "sentence 1 of c"

    with pytest.raises(DataError, match=r"mosi_raw.pkl, train has no 'raw_text', which MMSA's files have"):
        opened(stored(tmp_path / "other", multibench()), raw_text=True)


@pytest.mark.parametrize(
    ("name", "file", "labels", "task"),
    [("ur-funny", "humor.pkl", [0, 1, 1, 0], "humour"), ("mustard", "sarcasm.pkl", [-1.0, 1.0, 1.0, -1.0], "sarcasm")],
)
def test_humour_and_sarcasm_are_two_classes_however_they_are_written(tmp_path, name, file, labels, task):
    content = multibench(train=multibench_part("tr", labels))
    content["train"]["id"] = np.arange(4).reshape(4, 1)  # UR-FUNNY's ids are numbers

    target = stored(tmp_path / name, content, file)

    assert [sample.targets[task] for sample in opened(target, name=name)["train"]] == [0, 1, 1, 0]
    assert [sample.sample_id for sample in opened(target, name=name)["train"]] == ["0", "1", "2", "3"]


def test_utterances_of_one_video_are_one_group(tmp_path):
    splits = opened(stored(tmp_path / "mosi", multibench()))
    assert [sample.group for sample in splits["test"]] == ["te"] * 3

    splits = opened(stored(tmp_path / "mmsa", mmsa(), "aligned_50.pkl"))
    assert {sample.group for sample in splits["train"]} == {"a"}


def test_names_that_say_no_video_leave_utterances_alone(tmp_path):
    content = multibench()
    content["test"]["id"] = content["train"]["id"][:3]

    assert {sample.group for sample in opened(stored(tmp_path / "mosi", content))["test"]} == {""}


def test_ids_that_repeat_are_replaced_by_the_row(tmp_path):
    content = multibench()
    content["test"]["id"] = content["train"]["id"][:3]

    assert [sample.sample_id for sample in opened(stored(tmp_path / "mosi", content))["test"]] == [
        "test-00000", "test-00001", "test-00002",
    ]  # fmt: skip


def test_emotions_after_the_sentiment_are_not_taken_for_it(tmp_path):
    content = multibench()
    content["test"]["labels"] = np.arange(21.0).reshape(3, 1, 7) / 10

    assert [sample.targets["sentiment"] for sample in opened(stored(tmp_path / "mosi", content))["test"]] == [
        0.0, 0.7, 1.4,
    ]  # fmt: skip


def test_sequences_of_different_lengths_in_an_array_of_arrays_are_read(tmp_path):
    content = multibench()
    ragged = np.empty(3, dtype=object)
    ragged[:] = [np.full((steps, 4), 1.0) for steps in (2, 7, 4)]
    content["test"]["vision"] = ragged

    splits = opened(stored(tmp_path / "mosi", content))
    assert [sample.inputs["vision"].shape for sample in splits["test"]] == [(2, 4), (7, 4), (4, 4)]


def test_without_a_target_the_cores_folder_is_looked_into(tmp_path):
    root = tmp_path / "data" / "mmbench-benchmarks--mosi"
    root.parent.mkdir()
    stored(root, multibench())

    info = affect.describe_mosi("", task="sentiment", raw_text=False)
    splits = affect.open_mosi(root, target="", task="sentiment", raw_text=False)

    assert len(info.fingerprint) == 64
    assert len(splits["test"]) == 3


def test_what_is_lacking_is_said_with_where_to_get_it(tmp_path):
    with pytest.raises(Unavailable) as raised:
        affect.describe_mosi("", task="sentiment", raw_text=False)

    message = str(raised.value)
    assert message.startswith(f"CMU-MOSI is not at {tmp_path}/data/mmbench-benchmarks--mosi: none of mosi_raw.pkl, ")
    assert "Get it from MultiBench's page" in message
    assert "put mosi_raw.pkl or aligned_50.pkl or unaligned_50.pkl into that folder" in message
    assert message.endswith("or name another with mosi:PATH")
    with pytest.raises(Unavailable, match="there is nothing at that path"):
        opened(str(tmp_path / "no.pkl"))


def test_a_folder_with_two_files_asks_which(tmp_path):
    stored(tmp_path / "mosi", mmsa(), "aligned_50.pkl")
    stored(tmp_path / "mosi", mmsa(), "unaligned_50.pkl")

    with pytest.raises(UsageError, match=r"holds aligned_50.pkl and unaligned_50.pkl; say which, as in mosi:/"):
        affect.describe_mosi(str(tmp_path / "mosi"), task="sentiment", raw_text=False)


def test_the_fingerprint_follows_the_content_and_not_the_folder(tmp_path):
    def told(folder, content):
        return affect.describe_mosi(stored(folder, content), task="sentiment", raw_text=False).fingerprint

    other = multibench()
    other["test"]["audio"][0, -1, 0] += 1.0

    assert told(tmp_path / "a", multibench()) == told(tmp_path / "b", multibench())
    assert told(tmp_path / "c", other) != told(tmp_path / "a", multibench())


class Runs:
    def __reduce__(self):
        return (open, ("ran", "w"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([1, 2], "mosi_raw.pkl holds list, not a dict of train, valid and test"),
        ({"train": {}, "test": {}}, "mosi_raw.pkl, train: 'vision' must be an array"),
        ({"trn": {}}, "mosi_raw.pkl has no dict 'train'; it holds trn"),
        (multibench(train={**multibench_part("a", [1, 2]), "vision": np.zeros((2, 5))}), "must be an array (N, T, F)"),
        (multibench(train={**multibench_part("a", [1, 2]), "labels": [1.0]}), "'labels' has 1 rows, 'vision' 2"),
        (multibench(train=multibench_part("a", [1, np.nan])), "mosi_raw.pkl, train: labels: row 1 is not finite"),
        (multibench(train={**multibench_part("a", [1, 2]), "labels": ["x", "y"]}), "labels must be numbers"),
        (multibench(train={**multibench_part("a", [1, 2]), "text": np.array([["a"]])}), "must be an array (N, T, F)"),
        (multibench(valid=Runs()), "mosi_raw.pkl is refused: it asks for "),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_refused_when_planning(tmp_path, monkeypatch, content, reason):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(DataError) as raised:
        affect.describe_mosi(stored(tmp_path / "mosi", content), task="sentiment", raw_text=False)
    assert reason in str(raised.value)
    assert not (tmp_path / "ran").exists()


def test_describing_imports_neither_torch_nor_pandas(tmp_path):
    target = stored(tmp_path / "mosi", multibench())
    code = (
        "import sys; from mmbench_benchmarks.affect import describe_mosi\n"
        f"describe_mosi({target!r}, task='sentiment', raw_text=False)\n"
        "print(sorted({'torch', 'pandas', 'timm', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"


def distinct():
    """Features that differ between all utterances, so that no two splits share one."""
    rng = np.random.default_rng(0)
    content = multibench()
    for part in content.values():
        for name in ("vision", "audio", "text"):
            part[name][:, -3:] = rng.normal(size=part[name][:, -3:].shape)
    return content


def test_the_loader_keeps_what_mmbench_asks_of_datasets(tmp_path):
    target = stored(tmp_path / "mosi", distinct())

    results = check(f"dataset:mosi:{target}", level="smoke")
    assert [f"{result.check}: {result.found}" for result in results if result.status == "fail"] == []
    assert {result.check for result in results if result.status == "pass"} >= {
        "dataset.samples-are-canonical", "dataset.splits-share-no-content", "dataset.ids-are-stable",
    }  # fmt: skip


def test_a_plan_of_one_cell_works(tmp_path):
    target = stored(tmp_path / "mosi", multibench())
    arguments = ["plan", "-d", f"mosi:{target}", "-f", "concat", "-e", "gru", "--no-baselines"]
    code = "from mmbench.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert "1 cell: 1 to run" in done.stdout


def test_a_plan_without_the_file_says_what_to_do(tmp_path):
    code = "from mmbench.cli import main; main()"
    arguments = ["plan", "-d", "mosi", "-f", "concat"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)

    assert done.returncode == 2
    assert "CMU-MOSI is not at" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
