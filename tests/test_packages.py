"""The thirteen packages: their metadata, the versions that they allow, and the commands that install them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import mmbench

ROOT = Path(__file__).resolve().parent.parent
FILES = (ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml")))


def project(file):
    return tomllib.loads(file.read_text(encoding="utf-8"))["project"]


def requirements(file):
    """Return the requirements of a package and of its extras."""
    extras = project(file).get("optional-dependencies", {}).values()
    return [Requirement(text) for texts in (project(file)["dependencies"], *extras) for text in texts]


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


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_package_says_all_that_an_index_shows(file):
    said = project(file)

    assert said["version"] == mmbench.__version__
    assert said["license"] == "Apache-2.0"
    assert said["requires-python"] == ">=3.11"
    assert 20 < len(said["description"]) < 200
    assert (file.parent / said["readme"]).stat().st_size > 300
    assert said["keywords"]
    versions = [text.rpartition(" ")[2] for text in said["classifiers"] if text.startswith("Programming Language")]
    assert versions == ["3", "3.11", "3.12", "3.13", "3.14"]


def test_the_citation_names_the_version():
    assert f"version: {mmbench.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_one_extra_brings_what_a_run_needs_and_another_all_plugins():
    extras = project(FILES[0])["optional-dependencies"]

    assert [Requirement(text).name for text in extras["base"]] == [
        "mmbench-datasets",
        "mmbench-fusion",
        "mmbench-objectives",
    ]
    named = {Requirement(text).name for name in ("base", "all") for text in extras[name]}
    assert named == {name_of(file) for file in FILES}


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "mmbench", "--help"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m mmbench" in done.stdout


def dependencies_alone(folder):
    """Link what is installed here, but mmbench, into `folder`: in it pip finds all dependencies and no mmbench."""
    for place in filter(None, sys.path):
        if not Path(place).name.endswith("-packages"):
            continue
        for entry in Path(place).iterdir():
            ours = re.match(r"_*(editable_impl_)?mmbench", entry.name) or entry.suffix == ".pth"
            if not ours and not (folder / entry.name).exists():
                (folder / entry.name).symlink_to(entry)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of sdists and wheels that a release would have, and what its script says."""
    folder = tmp_path_factory.mktemp("built") / "dist"
    command = [sys.executable, ROOT / ".ci" / "release", "--out", folder, "--home", "https://example.org/mmbench"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_all_packages_are_built_as_sdist_and_wheel_at_one_version(built):
    folder, said = built

    assert f"13 packages of version {mmbench.__version__}" in said
    endings = [file.name.partition(f"-{mmbench.__version__}")[2] for file in folder.iterdir()]
    assert sorted(endings) == [*["-py3-none-any.whl"] * 13, *[".tar.gz"] * 13]


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_built_packages_install_by_one_name_and_run_outside_the_checkout(built, tmp_path):
    """The dependencies are those that are installed here."""
    apart, elsewhere = tmp_path / "dependencies", tmp_path / "elsewhere"
    apart.mkdir()
    elsewhere.mkdir()
    dependencies_alone(apart)
    venv.create(tmp_path / "venv", with_pip=False)  # pip is among the dependencies
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    (site / "dependencies.pth").write_text(f"{apart}\n", encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHONPATH"))}
    environ["PIP_CONFIG_FILE"] = os.devnull  # which may name more places to look for packages

    def run(*command):
        done = subprocess.run(command, cwd=elsewhere, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pip = (python, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", built[0])
    run(*pip, "mmbench[base]")
    base = run(python, "-m", "pip", "list", "--format", "json", "--path", site)
    run(*pip, "mmbench[all]")
    run(python, "-m", "mmbench", "run", "--grid", "smoke", "--run", "smoke")

    assert {each["name"] for each in json.loads(base)} == {
        "mmbench",
        "mmbench-datasets",
        "mmbench-fusion",
        "mmbench-objectives",
    }
    assert (elsewhere / "results" / "smoke" / "report" / "report.html").is_file()


def pins(file):
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def test_the_constraints_hold_what_the_packages_allow_and_no_local_versions():
    allowed = {}
    for file in FILES:
        for one in requirements(file):
            allowed.setdefault(one.name, []).append(one.specifier)
    constraints = {one.name: str(one.specifier).removeprefix("==") for one in pins("constraints.txt")}

    assert [f"{name} {version}" for name, version in constraints.items() if "+" in version or "*" in version] == []
    forbidden = [
        f"{name}=={constraints[name]}"
        for name, specifiers in allowed.items()
        if name in constraints and not all(constraints[name] in each for each in specifiers)
    ]
    assert forbidden == []
    for file in FILES:
        missing = [Requirement(text).name for text in project(file)["dependencies"]]
        assert [name for name in missing if name not in constraints and not name.startswith("mmbench")] == []


def test_ci_finds_the_command_of_the_readme_and_that_takes_the_constraints():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (pattern,) = re.findall(r"sed -n 's/(.*)/\\1/p' README.md", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    commands = [line for line in readme.splitlines() if line.startswith("pip install") and "&&" in line]

    assert [bool(re.match(pattern.replace("\\(", "(").replace("\\)", ")"), line)) for line in commands] == [True]
    assert all(line.startswith("pip install -c constraints.txt ") for line in commands)


def test_the_tests_that_other_versions_have_to_pass_exist():
    lines = (ROOT / ".ci" / "chosen.txt").read_text(encoding="utf-8").split()

    assert [line for line in lines if not (ROOT / line.partition("::")[0]).exists()] == []
