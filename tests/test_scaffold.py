"""`mmbench new`: each kind of package is complete, correct as generated, and refuses names that cannot work."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mmbench.errors import UsageError
from mmbench.scaffold import PARTS, new

KINDS = ("plugin", "encoder", "fusion", "objective", "dataset")


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=500, env={**os.environ, **environment}
    )


def test_a_fusion_package_has_these_files(tmp_path: Path) -> None:
    written = new("fusion", "low-rank", tmp_path)

    assert [str(path.relative_to(tmp_path)) for path in written] == [
        "mmbench-low-rank",
        "mmbench-low-rank/.github/workflows/ci.yml",
        "mmbench-low-rank/.gitignore",
        "mmbench-low-rank/README.md",
        "mmbench-low-rank/pyproject.toml",
        "mmbench-low-rank/src/mmbench_low_rank/__init__.py",
        "mmbench-low-rank/src/mmbench_low_rank/fusion.py",
        "mmbench-low-rank/src/mmbench_low_rank/py.typed",
        "mmbench-low-rank/tests/test_mmbench_low_rank_conformance.py",
        "mmbench-low-rank/tests/test_mmbench_low_rank_fusion.py",
    ]
    assert sorted(path for path in written[0].rglob("*") if path.is_file()) == sorted(written[1:])


def test_a_package_declares_entry_point_version_and_licence(tmp_path: Path) -> None:
    new("dataset", "mmbench-street", tmp_path)

    project = tomllib.loads((tmp_path / "mmbench-street" / "pyproject.toml").read_text())["project"]
    assert project["name"] == "mmbench-street"
    assert project["entry-points"] == {"mmbench": {"street": "mmbench_street"}}
    assert (project["version"], project["license"], project["requires-python"]) == ("0.1.0", "Apache-2.0", ">=3.11")
    assert project["dependencies"] == ["mmbench[base]>=0.1", "mmbench-tabular>=0.1", "numpy>=1.26"]


@pytest.mark.parametrize(
    "kind", [kind if kind == "plugin" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_the_tests_of_a_new_package_pass_as_generated(kind: str, tmp_path: Path) -> None:
    package = new(kind, "fresh-part", tmp_path)[0]
    folder = str(Path(__file__).parents[1])

    done = run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        package,
        OMP_NUM_THREADS="1",
        PYTHONPATH=folder,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "failed" not in done.stdout


@pytest.mark.slow
def test_a_new_package_conforms_at_level_full(tmp_path: Path) -> None:
    package = new("plugin", "whole", tmp_path)[0]
    code = f"import sys; from mmbench.testing.command import run_check; sys.exit(run_check({str(package)!r}, 'full'))"

    done = run([sys.executable, "-c", code], tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "conforms:" in done.stdout
    assert "warn" not in done.stdout


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff is not installed")
def test_generated_code_is_formatted_and_free_of_lint(tmp_path: Path) -> None:
    options = ["--isolated", "--no-cache", "--line-length", "120"]
    for kind in KINDS:
        package = new(kind, f"tidy-{kind}", tmp_path)[0]

        linted = run([sys.executable, "-m", "ruff", "check", *options, "--select", "E,F,W,I,N,UP,B,SIM", "."], package)
        formatted = run([sys.executable, "-m", "ruff", "format", *options, "--check", "."], package)

        assert linted.returncode == 0, linted.stdout
        assert formatted.returncode == 0, formatted.stdout


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("LowRank", "Did you mean 'low-rank'?"),
        ("low_rank", "Did you mean 'low-rank'?"),
        ("2fast", "Did you mean 'fast'?"),
        ("low--rank", "Did you mean 'low-rank'?"),
        ("mmbench-", "starting with a letter"),
        ("../escape", "Did you mean 'escape'?"),
        ("a/b", "Did you mean 'a-b'?"),
        ("", "starting with a letter"),
        ("x" * 41, "at most 40"),
        ('x"; import os', "Did you mean 'x-import-os'?"),
    ],
)
def test_a_name_that_cannot_work_is_refused_with_a_better_one(name: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        new("fusion", name, tmp_path)

    assert hint in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mmbench-gate").mkdir()
    (tmp_path / "mmbench-gate" / "mine.txt").write_text("keep")

    with pytest.raises(UsageError, match="is there already; choose another name or remove it first"):
        new("fusion", "gate", tmp_path)

    assert [path.name for path in (tmp_path / "mmbench-gate").iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "mmbench-gate").mkdir()

    assert (new("fusion", "gate", tmp_path)[0] / "pyproject.toml").is_file()


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no template 'fussion'.* Did you mean 'fusion'\?"):
        new("fussion", "gate", tmp_path)


def test_a_name_of_an_installed_package_is_refused(tmp_path: Path) -> None:
    installed = importlib.util.find_spec("mmbench_fusion")
    if installed is None:
        pytest.skip("mmbench-fusion is not installed")

    with pytest.raises(UsageError, match="a distribution mmbench-fusion is installed already"):
        new("fusion", "fusion", tmp_path)


def test_kinds_are_the_four_parts_and_all_of_them_together() -> None:
    assert set(PARTS) == set(KINDS)
    assert PARTS["plugin"] == ("encoder", "fusion", "objective", "dataset")
