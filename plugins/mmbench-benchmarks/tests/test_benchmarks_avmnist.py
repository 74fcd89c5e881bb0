"""AV-MNIST in MultiBench's layout, in files that numpy writes."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from mmbench_benchmarks.avmnist import describe_av_mnist, open_av_mnist

from mmbench.errors import DataError, Unavailable


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMBENCH_DATA", str(tmp_path / "data"))


def written(folder, train=24, test=5, top=255.0):
    """Row r of an image is r everywhere but its first pixel, which is `top`."""
    for part, count in (("train", train), ("test", test)):
        rows = np.arange(count, dtype=np.float64)
        image = np.repeat(rows[:, None] * top / 255, 784, axis=1)
        image[:, 0] = top
        (folder / "image").mkdir(parents=True, exist_ok=True)
        (folder / "audio").mkdir(parents=True, exist_ok=True)
        np.save(folder / "image" / f"{part}_data.npy", image)
        np.save(folder / "audio" / f"{part}_data.npy", np.full((count, 112, 112), 100.4 * top / 255))
        np.save(folder / f"{part}_labels.npy", rows % 10)
    return str(folder)


def test_the_last_twelfth_of_train_is_val_and_test_is_as_published(tmp_path):
    splits = open_av_mnist(tmp_path, target=written(tmp_path / "av"))

    assert [sample.sample_id for sample in splits["val"]] == ["train-00022", "train-00023"]
    assert len(splits["train"]) == 22
    assert [sample.targets["digit"] for sample in splits["test"]] == [0, 1, 2, 3, 4]


def test_images_are_28_by_28_and_spectrograms_112_by_112(tmp_path):
    inputs = open_av_mnist(tmp_path, target=written(tmp_path / "av"))["train"][7].inputs

    assert (inputs["image"].shape, inputs["image"].dtype) == ((1, 28, 28), np.uint8)
    assert inputs["image"][0, 0, 0] == 255
    assert inputs["image"][0, 27, 27] == 7
    assert (inputs["audio"].shape, int(inputs["audio"].max())) == ((1, 112, 112), 100)


def test_files_of_values_from_0_to_1_are_scaled_to_the_same_pixels(tmp_path):
    ordinary = open_av_mnist(tmp_path, target=written(tmp_path / "a"))["test"][4].inputs["image"]
    scaled = open_av_mnist(tmp_path, target=written(tmp_path / "b", top=1.0))["test"][4].inputs["image"]

    np.testing.assert_array_equal(ordinary, scaled)


def test_planning_knows_shapes_and_classes(tmp_path):
    info = describe_av_mnist(written(tmp_path / "av"))

    assert [(modality.name, dict(modality.facts)) for modality in info.modalities] == [
        ("image", {"channels": 1, "size": [28, 28]}),
        ("audio", {"channels": 1, "size": [112, 112]}),
    ]
    assert info.tasks[0].num_outputs == 10
    assert info.fingerprint == describe_av_mnist(written(tmp_path / "copy")).fingerprint


def test_lacking_files_are_named(tmp_path):
    target = written(tmp_path / "av")
    (tmp_path / "av" / "train_labels.npy").unlink()

    with pytest.raises(Unavailable, match=r"AV-MNIST is not at .*: train_labels.npy is not there. Get it from Multi"):
        describe_av_mnist(target)


def zip_bomb():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", b"\0" * 50_000_000)
    return stream.getvalue()


def claims(shape, descr="<f8", data=b""):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("image/train_data.npy", zip_bomb(), "image/train_data.npy cannot be read as npy"),
        (
            "image/train_data.npy",
            claims((10**13, 784)),
            "cannot be read as npy (mmap length is greater",
        ),
        (
            "image/train_data.npy",
            claims((24, 784), "|O"),
            "cannot be read as npy (Array can't be memory-m",
        ),
        ("image/train_data.npy", claims((24, 9), data=bytes(24 * 72)), "where numbers (N, 784) or (N, 28, 28) are due"),
        ("image/train_data.npy", claims((24, 784))[:40], "cannot be read as npy"),
        ("image/train_data.npy", b"", "cannot be read as npy"),
        ("image/train_data.npy", claims((3, 784), data=bytes(3 * 784 * 8)), "has 3 rows and train_labels.npy 24"),
        ("train_labels.npy", claims((1,), data=np.float64(10).tobytes()), "labels that are not 0 to 9"),
        ("train_labels.npy", claims((1,), data=np.float64(np.nan).tobytes()), "labels that are not 0 to 9"),
    ],
    ids=range(9),
)
def test_files_that_are_no_such_arrays_are_refused(tmp_path, file, content, reason):
    target = written(tmp_path / "av")
    (tmp_path / "av" / file).write_bytes(content)

    with pytest.raises(DataError) as raised:
        describe_av_mnist(target)
        open_av_mnist(tmp_path, target=target)
    assert reason in str(raised.value)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    target = written(tmp_path / "av")
    (tmp_path / "av" / "train_labels.npy").rename(tmp_path / "labels.npy")
    (tmp_path / "av" / "train_labels.npy").symlink_to(tmp_path / "labels.npy")

    with pytest.raises(DataError, match=r"'train_labels.npy' leads out of the folder of AV-MNIST by a link"):
        describe_av_mnist(target)
