"""What a run says of its machine is enough to set the same one up again."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mmbench.environment import constraints, environment, libraries, sources
from mmbench.library_facts import _cudnn_words

FOUND = {
    "python": "3.12.1",
    "system": "Linux 6.1 x86_64",
    "hardware": {
        "cpu": "Xeon",
        "num_cpus": 2,
        "gpus": [{"name": "H200", "memory": "143771 MiB", "driver": "580.1"}],
    },
    "libraries": {"cuda": "13.0", "cudnn": "9.24.0"},
    "packages": {"torch": "2.14.1+cpu"},
    "distributions": {"broken": "unknown", "mine": "0.1", "numpy": "2.4.6", "theirs": "1.0", "torch": "2.14.1+cpu"},
    "sources": {"mine": "local", "theirs": "git+https://example.org/theirs.git@0123abc"},
}


def test_every_installed_distribution_is_named_as_pip_names_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=True,
    )
    installed = {
        item["name"].lower().replace("_", "-").replace(".", "-"): item["version"] for item in json.loads(done.stdout)
    }

    assert environment()["distributions"] == installed


def test_private_copies_inside_an_imported_package_are_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "tool" / "_vendor" / "private_copy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: private-copy\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(info.parent)

    assert "private-copy" not in environment()["distributions"]


def test_processor_features_are_those_of_the_kernel() -> None:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        pytest.skip("this system has no /proc/cpuinfo")
    line = next(line for line in path.read_text().splitlines() if line.startswith(("flags", "Features")))

    assert environment()["hardware"]["cpu_flags"] == sorted(line.partition(":")[2].split())


def test_libraries_are_those_that_torch_and_numpy_name() -> None:
    torch = pytest.importorskip("torch")

    facts = libraries()

    assert facts["torch_commit"] == torch.version.git_version
    assert facts.get("cuda") == torch.version.cuda
    assert facts["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert facts["torch_blas"].split()[0] in torch.__config__.show()
    assert facts["numpy_blas"]


@pytest.mark.parametrize(("number", "words"), [(91002, "9.10.2"), (92400, "9.24.0"), (8905, "8.9.5"), (None, None)])
def test_cudnn_is_written_as_its_makers_write_it(number: int | None, words: str | None) -> None:
    assert _cudnn_words(number) == words


def test_constraints_name_a_release_a_repository_or_say_that_there_is_none() -> None:
    assert constraints(FOUND) == [
        "# Python 3.12.1, Linux 6.1 x86_64",
        "# Xeon, 2 CPUs usable",
        "# H200, 143771 MiB, driver 580.1",
        "# cuda 13.0",
        "# cudnn 9.24.0",
        "# broken==unknown was installed from a folder or a file",
        "# mine==0.1 was installed from a folder or a file",
        "numpy==2.4.6",
        "theirs @ git+https://example.org/theirs.git@0123abc",
        "torch==2.14.1+cpu  # from the index that has builds +cpu",
    ]


def test_a_run_of_an_earlier_version_gives_what_it_kept() -> None:
    kept = {name: FOUND[name] for name in ("python", "system", "hardware", "packages")}

    assert constraints(kept)[-1].startswith("torch==2.14.1+cpu")


def test_passwords_in_addresses_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, origin in {
        "git-one": {
            "url": "https://user:secret@example.org:8443/one.git?token=secret",
            "vcs_info": {"vcs": "git", "commit_id": "0123abc"},
        },
        "file-one": {"url": "file:///home/somebody/one", "dir_info": {"editable": True}},
        "wheel-one": {"url": "https://secret@example.org/one-1.0-py3-none-any.whl", "archive_info": {}},
        "odd-one": {"dir_info": {}},
    }.items():
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(tmp_path)

    found = {name: source for name, source in sources().items() if name.endswith("-one")}

    assert found == {
        "file-one": "local",
        "git-one": "git+https://example.org:8443/one.git@0123abc",
        "wheel-one": "https://example.org/one-1.0-py3-none-any.whl",
    }


def test_freeze_prints_a_file_that_pip_takes_and_that_is_this_environment(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmbench.cli", "env", "--freeze"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    (tmp_path / "constraints.txt").write_text(done.stdout)

    lines = [line.partition("  #")[0] for line in done.stdout.splitlines() if not line.startswith("#")]
    requirements = [Requirement(line) for line in lines]
    assert len(requirements) > 20
    assert all(
        item.url or item.specifier.contains(metadata.version(item.name), prereleases=True) for item in requirements
    )
    # What is installed meets it: pip has nothing to do, and needs no index to know that.
    pip = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pip",
                "install",
                "--no-index",
                "--no-deps",
                "--dry-run",
                "--disable-pip-version-check",
            ),
            *("-c", "constraints.txt", "numpy", "torch"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert pip.returncode == 0, pip.stderr
    assert "Would install" not in pip.stdout


def test_env_of_a_run_is_that_of_its_run_json(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "one"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"environment": FOUND}))
    (folder / "plan.json").write_text('{"datasets": {}, "cells": []}')

    done = subprocess.run(
        [sys.executable, "-m", "mmbench.cli", "env", "one", "--freeze"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.splitlines() == constraints(FOUND), done.stderr
