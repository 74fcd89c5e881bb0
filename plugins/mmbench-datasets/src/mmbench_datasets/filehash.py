"""Hashes of many files, remembered by what `os.stat` says so that planning again reads none of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mmbench.config import cache_dir
from mmbench.errors import DataError, error_list

#: A file changed less than this ago may change again within the clock's resolution: it is not remembered.
_SETTLED_NS = 2_000_000_000


def hash_files(
    root: Path, files: Mapping[str, os.stat_result], check: Callable[[str], None] = lambda name: None
) -> str:
    """Return one SHA-256 over the paths and contents of files below `root`, in order of path: hex.

    Args:
        root: The folder that the paths start from.
        files: What `os.stat` said, by relative path.
        check: As in `file_digests`.

    Raises:
        DataError: a check failed.
    """
    total = hashlib.sha256()
    for name, digest in file_digests(root, files, check).items():
        total.update(f"{name}\0{digest}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def file_digests(
    root: Path, files: Mapping[str, os.stat_result], check: Callable[[str], None] = lambda name: None
) -> dict[str, str]:
    """Return the SHA-256 of every file below `root`, by path in order: hex.

    Args:
        root: The folder that the paths start from.
        files: What `os.stat` said, by relative path.
        check: Called with every file that is not remembered; what it raises keeps the file from being remembered.

    Raises:
        DataError: checks failed; the message lists the first of them.
    """
    root_hash = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:24]
    memo_path = cache_dir() / "manifest-hashes" / f"{root_hash}.json"
    remembered = _read(memo_path)
    digests: dict[str, str] = {}
    errors: list[str] = []
    settled_before = time.time_ns() - _SETTLED_NS
    new: dict[str, list[int | str]] = {}
    for name in sorted(files):
        status = files[name]
        known = remembered.get(name)
        # Archives and copies set the modification time; the time of change and the inode they cannot choose.
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        if known and known[:-1] == stamp:
            digest = str(known[-1])
        else:
            try:
                check(name)
            except DataError as error:
                errors.append(str(error))
                continue
            with (root / name).open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            if max(status.st_mtime_ns, status.st_ctime_ns) < settled_before:
                new[name] = [*stamp, digest]
        digests[name] = digest
    if new:
        _write(memo_path, {**remembered, **new})
    if errors:
        raise DataError(error_list(f"{len(errors):,} files cannot be used", errors))
    return digests


def _read(path: Path) -> dict[str, list[int | str]]:
    try:
        memo = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return (
        {key: value for key, value in memo.items() if isinstance(value, list) and len(value) == 5}
        if isinstance(memo, dict)
        else {}
    )


def _write(path: Path, memo: Mapping[str, list[int | str]]) -> None:
    """Write the memo whole or not at all; a cache folder that cannot be written costs time only."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
        try:
            with os.fdopen(handle, "w") as stream:
                json.dump(memo, stream)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
