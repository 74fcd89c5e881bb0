"""The thirteen packages: their metadata, the versions that they allow, and the commands that install them."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FILES = (ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml")))


def project(file):
    return tomllib.loads(file.read_text(encoding="utf-8"))["project"]


def requirements(file, *, lint=True):
    """Return the requirements of a package and of its extras."""
    extras = project(file).get("optional-dependencies", {})
    texts = [text for name, texts in extras.items() if lint or name != "lint" for text in texts]
    return [Requirement(text) for text in (*project(file)["dependencies"], *texts)]


def name_of(file):
    return project(file)["name"]


def test_the_oldest_versions_that_ci_tests_are_those_that_the_packages_allow():
    command = [sys.executable, str(ROOT / ".ci" / "floors")]

    written = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert written == (ROOT / ".ci" / "oldest.txt").read_text(encoding="utf-8"), "run .ci/floors > .ci/oldest.txt"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_package_caps_a_dependency(file):
    operators = {str(one): one.specifier for one in requirements(file)}
    capped = [text for text, each in operators.items() if any(one.operator in ("<", "<=", "~=", "==") for one in each)]

    assert capped == []


def test_torchaudio_is_asked_for_by_the_audio_package_alone():
    assert [name_of(file) for file in FILES if any(one.name == "torchaudio" for one in requirements(file))] == [
        "mmbench-audio"
    ]


@pytest.mark.parametrize(
    ("torch", "torchaudio", "loads"),
    [
        ("2.9.0", "2.9.0", True),
        ("2.10.0", "2.10.0", True),
        ("2.11.0", "2.11.1", False),  # undefined symbol: torch_exception_get_what_without_backtrace
        ("2.12.1", "2.11.1", False),  # its library lacks the function too
        ("2.10.0", "2.11.0", False),  # which asks for no torch at all
        ("2.13.0", "2.11.1", True),
        ("2.14.1", "2.11.1", True),
    ],
)
def test_the_audio_package_allows_only_pairs_of_torch_and_torchaudio_that_load(torch, torchaudio, loads):
    bounds = {one.name: one.specifier for one in requirements(ROOT / "plugins" / "mmbench-audio" / "pyproject.toml")}

    assert (torch in bounds["torch"] and torchaudio in bounds["torchaudio"]) is loads
