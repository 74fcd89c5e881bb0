"""The package as mmbench sees it: light descriptors, none in the grid `all`, each saying what its files are."""

from __future__ import annotations

import subprocess
import sys

import pytest
from mmbench_benchmarks import mmbench_datasets

from mmbench.errors import Unavailable
from mmbench.part_code import load_attribute
from mmbench.testing import check

SPECS = {spec.name: spec for spec in mmbench_datasets()}


def test_all_sets_of_the_readme_are_there_and_none_is_in_the_grid_all():
    assert list(SPECS) == [
        "mosi", "mosei", "ur-funny", "mustard", "av-mnist", "crema-d", "speech-commands", "esc-50", "mm-imdb",
        "hateful-memes", "food-101", "flickr8k", "vqa", "tuxpaint", "hf",
    ]  # fmt: skip
    assert not any(spec.in_all for spec in SPECS.values())


def test_a_name_that_no_file_system_takes_is_nothing_at_that_path(tmp_path):
    spec = SPECS["mosi"]

    with pytest.raises(Unavailable, match="there is nothing at that path"):
        load_attribute(spec.describe)("x" * 5_000, **spec.defaults)


def test_listing_them_imports_no_numpy_and_no_torch():
    code = (
        "import sys; import mmbench_benchmarks; mmbench_benchmarks.mmbench_datasets()\n"
        "print(sorted({'torch', 'pandas', 'numpy', 'PIL', 'soundfile', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", SPECS)
def test_where_files_lack_planning_and_opening_say_where_to_get_them(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    if name == "tuxpaint":
        monkeypatch.setattr("mmbench_benchmarks.tuxpaint._DEBIAN", tmp_path / "nowhere")
    spec = SPECS[name]
    options = dict(spec.defaults)
    target = str(tmp_path / "nothing")

    with pytest.raises(Unavailable, match=r"Get it from .*(into that folder|hf:PATH)"):
        load_attribute(spec.describe)(target, **options)
    with pytest.raises(Unavailable, match="Get it from"):
        load_attribute(spec.factory)(tmp_path, target=target, **options)
    if spec.target == "optional":
        with pytest.raises(Unavailable, match=f"is not at {tmp_path}/mmbench-benchmarks--{name}: "):
            load_attribute(spec.describe)("", **options)


def test_a_set_whose_files_are_not_here_is_not_checked_rather_than_failed(tmp_path, monkeypatch):
    monkeypatch.setenv("MMBENCH_DATA", str(tmp_path))

    results = {result.check: result for result in check("dataset:mmbench-benchmarks/esc-50", level="smoke")}
    assert [name for name, result in results.items() if result.status == "fail"] == []
    assert "ESC-50 is not at" in results["dataset.opens"].found
    assert "ESC-50 is not at" in results["dataset.describe-is-light"].found
