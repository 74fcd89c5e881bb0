"""What planning a manifest imports, and the shared data sets read as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from manifest_cases import media, opened
from mmbench_datasets.manifest import describe

from mmbench.data import SPLITS, check_canonical

pytestmark = pytest.mark.usefixtures("own_cache")
SHARED = Path(__file__).parents[4] / "shared" / "data"


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
        pytest.skip(f"shared/data/{name}/manifest.csv is not beside this repository")
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
