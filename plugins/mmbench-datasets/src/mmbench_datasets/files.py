"""The files that a manifest names: each must be there, be a file, and lie under the manifest's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mmbench.errors import DataError
from mmbench_datasets.modalities import MEDIA_KINDS, Source
from mmbench_datasets.paths import SafeFolder
from mmbench_datasets.table import Table


def find_files(table: Table, root: Path, sources: Sequence[Source]) -> dict[str, os.stat_result]:
    """Look at every file that a row names: it must be a file under the manifest's folder."""
    folder = SafeFolder(root, "the manifest's folder")
    files: dict[str, os.stat_result] = {}
    absent: dict[str, int] = {}
    for source in sources:
        if source.kind not in MEDIA_KINDS:
            continue
        for row, cell in enumerate(table.columns[source.columns[0]]):
            if not cell.strip() or cell in files:
                continue
            status = folder.status(cell, table.where(row))
            if status is None:
                absent.setdefault(cell, row)
            else:
                files[cell] = status
    if absent:
        first = ", ".join(f"{cell!r} ({table.where(row)})" for cell, row in list(absent.items())[:3])
        raise DataError(
            f"{table.path.name} names {len(absent)} files that are not there: {first}"
            f"{', …' if len(absent) > 3 else ''}; paths start from the manifest's folder, {root}"
        )
    return files
