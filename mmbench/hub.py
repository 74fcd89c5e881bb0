"""Repositories of the Hugging Face hub: whether they are in its cache, whole, and how they get there."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from filelock import FileLock

from mmbench.errors import DataError, DownloadError, Unavailable
from mmbench.weights import hub_cache

_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository and the files wanted of it.

    Attributes:
        name: ``NAME`` or ``ORGANISATION/NAME``.
        revision: Branch, tag or commit.
        kind: Whose it is on the hub.
        files: Glob patterns; empty for all.
    """

    name: str
    revision: str = "main"
    kind: Literal["model", "dataset"] = "model"
    files: tuple[str, ...] = ()

    @property
    def folder_name(self) -> str:
        """Its folder in the hub's cache."""
        return f"{self.kind}s--{self.name.replace('/', '--')}"


def parse(url: str, kind: Literal["model", "dataset"], files: Sequence[str] = ()) -> Repository:
    """Read ``hf:ORGANISATION/NAME[@REVISION]``.

    Raises:
        DataError: it does not read so.
    """
    name, _, revision = url.removeprefix("hf:").partition("@")
    if not _NAME.fullmatch(name) or ".." in url or revision.startswith(("/", "-")):
        raise DataError(f"{url!r} names no repository; write hf:ORGANISATION/NAME or hf:ORGANISATION/NAME@REVISION")
    return Repository(name=name, revision=revision or "main", kind=kind, files=tuple(files))


def missing(repository: Repository, notes: Path) -> str:
    """Return why a repository must be fetched, or "" when it is in the hub's cache and whole; uses no network.

    Files are compared with the hashes by which the cache names them.

    Args:
        repository: Which.
        notes: Folder where `fetch` notes what it has begun.
    """
    if _note(repository, notes).exists():
        return "fetching it was interrupted"
    snapshot = _snapshot(repository)
    if snapshot is None:
        return "it is not in the hub's cache"
    files = [
        file for file in sorted(snapshot.rglob("*")) if not file.is_dir() and _is_wanted(file, snapshot, repository)
    ]
    if not files:
        return (
            f"its snapshot has none of the files {', '.join(repository.files)}" if repository.files else "it is empty"
        )
    bad = [file for file in files if not _is_whole(file)]
    return f"{bad[0].relative_to(snapshot)} is damaged" if bad else ""


def fetch(repository: Repository, notes: Path, *, source: Path | None = None) -> None:
    """Bring a repository into the hub's cache.

    Args:
        repository: Which.
        notes: Folder for a note while this is going on.
        source: A copy of a hub's cache to take it from, instead of the network.

    Raises:
        Unavailable: huggingface_hub is not installed.
        DownloadError: the hub does not give it.
    """
    notes.mkdir(parents=True, exist_ok=True)
    note = _note(repository, notes)
    with FileLock(note.with_suffix(".lock")):
        note.touch()
        _drop_damaged(repository)
        if source is None:
            _download(repository)
        else:
            _copy(repository, source)
        note.unlink()


def _download(repository: Repository) -> None:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise Unavailable("files of the Hugging Face hub need its library: pip install huggingface_hub") from None
    try:
        snapshot_download(
            repository.name,
            repo_type=repository.kind,
            revision=repository.revision,
            allow_patterns=list(repository.files) or None,
        )
    except Exception as error:
        # It has some thirty kinds of errors, some of them of the HTTP library that it uses in this version.
        said = " ".join(str(error).split()) or type(error).__name__
        raise DownloadError(
            f"the hub does not give {repository.name}@{repository.revision}: {said[:400].rstrip('.')}. $HF_ENDPOINT "
            "names a mirror, $HF_TOKEN your account where the publisher asks for one"
        ) from error


def _copy(repository: Repository, source: Path) -> None:
    """Copy a repository from a copy of a hub's cache, link by link; none may lead out of it."""
    folder = source / repository.folder_name
    if not folder.is_dir():
        raise DownloadError(
            f"{source} has no folder {repository.folder_name}; copy it there from the hub's cache of a machine "
            f"that has the repository (here that is {hub_cache()})"
        )
    for file in folder.rglob("*"):
        if file.is_symlink() and not file.resolve().is_relative_to(folder.resolve()):
            raise DownloadError(f"{file} is a link that leads out of {folder}; it is not copied")
    shutil.copytree(
        folder,
        hub_cache() / repository.folder_name,
        symlinks=True,
        dirs_exist_ok=True,
        copy_function=_copy_new,
        ignore=shutil.ignore_patterns("*.incomplete", "*.lock"),
    )


def _copy_new(source: str, target: str) -> None:
    """Copy a file or a link, in place of what is there."""
    Path(target).unlink(missing_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)


def _snapshot(repository: Repository) -> Path | None:
    folder = hub_cache() / repository.folder_name
    commit = repository.revision if _COMMIT.fullmatch(repository.revision) else ""
    if not commit:
        with suppress(OSError, UnicodeDecodeError):
            commit = (folder / "refs" / repository.revision).read_text(encoding="utf-8").strip()
    snapshot = folder / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None


def _drop_damaged(repository: Repository) -> None:
    """Remove files that are not what their names promise: the hub's library takes what is there for whole."""
    snapshot = _snapshot(repository)
    for file in sorted(snapshot.rglob("*")) if snapshot is not None else ():
        if not file.is_dir() and not _is_whole(file):
            with suppress(OSError):
                file.resolve().unlink(missing_ok=True)
            file.unlink(missing_ok=True)


def _is_wanted(file: Path, snapshot: Path, repository: Repository) -> bool:
    name = file.relative_to(snapshot).as_posix()
    return not repository.files or any(fnmatchcase(name, pattern) for pattern in repository.files)


def _is_whole(file: Path) -> bool:
    """Whether a file of a snapshot has the hash that names it in the cache: a sha256, or git's sha1 of small files."""
    try:
        blob = file.resolve(strict=True)
        if not file.is_symlink():  # where the system has no links, the cache keeps no hash
            return True
        with blob.open("rb") as stream:
            if _SHA256.fullmatch(blob.name):
                return hashlib.file_digest(stream, "sha256").hexdigest() == blob.name
            if _COMMIT.fullmatch(blob.name):
                made = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
                made.update(stream.read())
                return made.hexdigest() == blob.name
    except OSError:
        return False
    return True


def _note(repository: Repository, notes: Path) -> Path:
    revision = re.sub(r"[^\w.-]", "-", repository.revision)
    return notes / f"{repository.folder_name}@{revision}.fetching"
