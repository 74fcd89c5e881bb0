"""The commit of a repository is read without running anything that the repository configures."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mmbench.git_state import git_state


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "data.txt").write_text("a")
    (folder / ".gitattributes").write_text("*.txt filter=x\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


def test_a_clean_and_a_changed_repository(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    git(repository, "remote", "add", "origin", "https://example.org/x.git")

    assert git_state(repository) == {"commit": commit, "dirty": False}

    (repository / "data.txt").write_text("changed")
    (repository / "below").mkdir()
    assert git_state(repository / "below") == {"commit": commit, "dirty": True}


def test_a_folder_outside_a_repository_has_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    assert git_state(tmp_path) is None


def hook(file: Path, canary: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\ntouch '{canary}'\ncat\n")
    file.chmod(0o755)
    return file


SETTINGS = {
    "file system monitor": [("core.fsmonitor", "{program}")],
    "clean filter": [("filter.x.clean", "{program}")],
    "process filter": [("filter.x.process", "{program}"), ("filter.x.required", "true")],
    "extension of git-lfs": [("lfs.extension.x.clean", "{program}")],
    "attributes file": [("core.attributesFile", "{program}"), ("filter.x.clean", "{program}")],
    "diff driver": [("diff.external", "{program}"), ("diff.x.command", "{program}"), ("diff.x.textconv", "{program}")],
    "partial clone": [
        ("remote.origin.promisor", "true"),
        ("remote.origin.url", "ext::{program}"),
        ("protocol.ext.allow", "always"),
    ],
    "pager": [("core.pager", "{program}"), ("pager.config", "{program}"), ("pager.status", "{program}")],
    "alias": [("alias.status", "!{program}"), ("alias.config", "!{program}"), ("alias.rev-parse", "!{program}")],
    "ssh": [("core.sshCommand", "{program}"), ("core.gitProxy", "{program}")],
    "credential helper": [("credential.helper", "!{program}")],
    "gpg": [("gpg.program", "{program}"), ("log.showSignature", "true")],
}


@pytest.mark.parametrize("attack", SETTINGS)
def test_programs_that_a_repository_configures_are_never_run(repository: Path, tmp_path: Path, attack: str) -> None:
    canary = tmp_path / "canary"
    program = hook(tmp_path / "program", canary)
    for name, value in SETTINGS[attack]:
        git(repository, "config", name, value.format(program=program))
    (repository / "data.txt").write_text("b")
    os.utime(repository / "data.txt", (1, 1))

    state = git_state(repository)

    assert not canary.exists()
    assert state is not None
    assert state["dirty"] is None


def test_settings_of_an_included_file_and_of_a_worktree_count(repository: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (repository / ".git" / "more").write_text(f'[filter "x"]\n\tclean = touch {canary}\n')
    git(repository, "config", "include.path", "more")
    (repository / "data.txt").write_text("b")

    state = git_state(repository)

    assert not canary.exists()
    assert state is not None
    assert state["dirty"] is None


@pytest.mark.parametrize("name", ["post-index-change", "fsmonitor-watchman", "pre-auto-gc", "reference-transaction"])
def test_hooks_are_never_run(repository: Path, tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    hook(repository / ".git" / "hooks" / name, canary)
    (repository / "data.txt").touch()

    state = git_state(repository)

    assert not canary.exists()
    assert state is not None
    assert state["dirty"] is False


def test_a_submodule_that_configures_a_program_is_not_looked_into(repository: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    inner = repository / "inner"
    inner.mkdir()
    git(inner, "init", "-q")
    git(inner, "commit", "-q", "--allow-empty", "-m", "x")
    git(repository, "-c", "advice.addEmbeddedRepo=false", "add", "inner")
    git(repository, "commit", "-qm", "with a submodule")
    git(inner, "config", "core.fsmonitor", str(hook(tmp_path / "program", canary)))

    state = git_state(repository)

    assert not canary.exists()
    assert state is not None
    assert state["dirty"] is False


def test_a_damaged_repository_has_no_state(repository: Path) -> None:
    (repository / ".git" / "config").write_text("[broken\n")

    assert git_state(repository) is None
