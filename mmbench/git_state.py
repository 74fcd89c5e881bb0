"""Commit and changes of the git repository around a folder, without running anything that the repository configures."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

#: Settings of a repository that name no program: only with these alone is `git status` run in it.
_HARMLESS = re.compile(
    r"core\.(repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|precomposeunicode|symlinks|autocrlf|eol"
    r"|safecrlf|quotepath|abbrev|compression)"
    r"|user\.(name|email|signingkey)"
    r"|remote\..*\.(url|pushurl|fetch|tagopt|prune)"
    r"|branch\..*\.(remote|pushremote|merge|rebase|description|vscode-merge-base)"
    r"|(pull|push|fetch|rebase|init|color|advice|gc|commit|merge)\.[a-z]+"
    r"|submodule\.(active|.*\.(url|active))",
    re.DOTALL,
)
#: Given to each command, so that nothing of a setting that slips through is run.
_SAFE = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}", "--no-optional-locks", "--no-pager")


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit and whether tracked files differ from it, or None outside a repository.

    ``dirty`` is None if the repository configures anything that `git status` might run: a filter, a file system
    monitor, a partial clone. Such a setting may have come with somebody else's data.
    """
    try:
        commit = _git(folder, "rev-parse", "--verify", "HEAD").strip()
        return {"commit": commit, "dirty": _is_dirty(folder)}
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None


def _is_dirty(folder: Path) -> bool | None:
    settings = _git(folder, "config", "--list", "--show-scope", "--includes", "--name-only", "-z").split("\0")
    for scope, name in zip(settings[::2], settings[1::2]):
        if scope in ("local", "worktree") and not _HARMLESS.fullmatch(name):
            return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    return bool(changes.strip())


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *_SAFE, *arguments],
        cwd=folder,
        env={**os.environ, "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"},
        capture_output=True,
        text=True,
        timeout=5,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout
