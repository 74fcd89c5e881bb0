"""Whether every row's input can be read: files that are there and of their kind, lists of one shape."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmbench.errors import DataError
from mmbench_datasets.arrays import array_shape
from mmbench_datasets.audio import check_audio
from mmbench_datasets.faults import Faults
from mmbench_datasets.filehash import file_digests
from mmbench_datasets.files import TableFiles
from mmbench_datasets.image import check_image
from mmbench_datasets.media import Embedded
from mmbench_datasets.modalities import MEDIA_ENDINGS, Source, ending_of
from mmbench_datasets.table import Table
from mmbench_datasets.vectors import common_width, vector_column, vector_fault
from mmbench_datasets.video import check_video

_LOOKED_AT = 50


def find_paths(table: Table, files: TableFiles, source: Source, faults: Faults) -> Source:
    """Return a source of files with the relative path of each row."""
    (column,) = source.columns
    paths: list[str] = []
    lost: dict[int, str] = {}
    for row, cell in enumerate(table.columns[column]):
        path: str | None = ""
        if cell.strip():
            try:
                path = files.find(cell, table.where(row))
            except DataError as error:
                lost[row] = str(error)
                path = ""
        if path is None and source.forced:
            whole = files.with_ending(cell)
            path = files.find(whole, table.where(row)) if whole else None
            if path:
                files.respelt[cell] = path
        if path is None:
            lost[row] = _lost_file(table, files, column, row)
        elif path and not source.forced and _is_other_medium(files, path, source.kind):
            faults.add(
                row,
                f"{table.where(row)}: {cell!r} in column {column!r} is not {source.kind}, as most of the column is; "
                f"correct it, leave the cell empty, or force a kind with {column}:KIND",
            )
        paths.append(path or "")
    if lost and not any(paths) and len(lost) > 1:
        raise DataError(f"{next(iter(lost.values()))}. None of the other {len(lost) - 1} files of the column is there")
    for row, message in lost.items():
        faults.add(row, message)
    width = _array_width(table, files, paths, source) if source.form == "arrays" else 0
    return replace(source, paths=paths, width=width)


def _lost_file(table: Table, files: TableFiles, column: str, row: int) -> str:
    """Return why the file of a row is not found, and what may be meant."""
    cell = table.columns[column][row]
    similar = files.similar(cell)
    if similar and similar == cell.strip():
        hint = " as a regular file"
    elif similar and similar.endswith(f"/{cell.strip()}"):
        folder = similar.removesuffix(cell.strip()).rstrip("/")
        hint = f" (there is {similar!r}: [root={folder}] starts paths there)"
    else:
        hint = f" (there is {similar!r})" if similar else ""
    advice = "Download the files, and name them by relative paths" if "://" in cell else "Correct it"
    return (
        f"{table.where(row)}: column {column!r} names the file {cell!r}, which is not there{hint}; paths start "
        f"from {files.root}. {advice}, or take the cells as text by {column}:text"
    )


def _is_other_medium(files: TableFiles, path: str, kind: str) -> bool:
    """Whether a file is of another kind by its ending, and not of this one by its content."""
    return MEDIA_ENDINGS.get(ending_of(path), kind) != kind and files.kind(path) != kind


def _array_width(table: Table, files: TableFiles, paths: Sequence[str], source: Source) -> int:
    """Return the most frequent width of a column's first arrays."""
    widths: Counter[int] = Counter()
    for row, path in enumerate(paths):
        if path and len(widths) < _LOOKED_AT and widths.total() < _LOOKED_AT:
            try:
                shape = array_shape(files.root / path, table.where(row))
            except DataError:
                continue  # named when headers are checked
            widths[_width_of(shape, source.kind)] += 1
    return widths.most_common(1)[0][0] if widths else 1


def _width_of(shape: tuple[int, ...], kind: str) -> int:
    """Return the width of an array: of all its numbers as a table, of a step as a sequence."""
    if kind == "tabular":
        return shape[0] * (shape[1] if len(shape) == 2 else 1)
    return shape[1] if len(shape) == 2 else 1


def check_items(table: Table, source: Source, faults: Faults) -> Source:
    """Check every list or medium that a table itself holds, and return the source with the width of its lists."""
    (column,) = source.columns
    if source.form == "embedded":
        _check_embedded(table, source, faults)
        return source
    vectors = vector_column(table, column)
    if vectors is None:
        raise DataError(f"{table.path.name}: the column {column!r} holds no lists of numbers; leave it out")
    width = common_width(vectors)
    for row, item in enumerate(vectors.items):
        if item in (None, []):
            continue
        reason = vector_fault(item, depth=vectors.depth, width=width, kind=source.kind)
        if reason:
            hint = (
                f"; read it as {source.name}={column}:sequence, or correct the row"
                if "numbers, and most rows" in reason and vectors.depth == 1
                else "; correct the row"
            )
            faults.add(row, f"{table.where(row)}: {source.name!r} (column {column!r}) {reason}{hint}")
    if vectors.depth == 1 and source.kind == "sequence":
        width = 1
    return replace(source, width=width)


def _check_embedded(table: Table, source: Source, faults: Faults) -> None:
    (column,) = source.columns
    for row, item in enumerate(table.values[column]):
        if item is None or item in ({}, b"") or item == {"bytes": None, "path": None}:
            continue
        try:
            embedded(item, f"{table.where(row)}: {source.name!r} (column {column!r})")
        except DataError as error:
            faults.add(row, str(error))


def embedded(item: Any, where: str) -> Embedded:
    """Return a medium that a table holds as bytes, or as bytes with a path.

    Raises:
        DataError: it holds a path alone, or something else.
    """
    content = item.get("bytes") if isinstance(item, dict) else item
    path = str(item.get("path") or "") if isinstance(item, dict) else ""
    if not isinstance(content, bytes):
        raise DataError(
            f"{where} is kept outside the dataset ({path[:80]!r}); save it again with the bytes of its files: "
            "save_to_disk() of Hugging Face's library takes files in"
        )
    return Embedded(path.replace("\\", "/").rsplit("/", 1)[-1], content)


def check_file(table: Table, files: TableFiles, source: Source, row: int, *, max_seconds: float) -> None:
    """Check that a row's file is of its kind.

    Raises:
        DataError: its header cannot be read, or an array has another width.
    """
    path, where = files.root / source.paths[row], table.where(row)
    if source.form == "arrays":
        width = _width_of(array_shape(path, where), source.kind)
        if width != source.width:
            raise DataError(f"{where}: {path.name} has {width} numbers, and most have {source.width}; leave it out")
    elif source.kind == "video":
        check_video(path, where, max_seconds=max_seconds)
    elif source.kind == "image":
        check_image(path, where)
    else:
        check_audio(path, where, max_seconds=max_seconds)


def check_files(
    table: Table, files: TableFiles, sources: Sequence[Source], faults: Faults, *, max_seconds: float
) -> None:
    """Look into every file that was not seen before; those that cannot be read are faults of all rows with them."""
    rows_of: dict[str, list[tuple[Source, int]]] = {}
    for source in sources:
        for row, path in enumerate(source.paths):
            if path:
                rows_of.setdefault(path, []).append((source, row))

    def check(path: str) -> None:
        checked: set[str] = set()
        sound = True
        for source, row in rows_of[path]:
            try:
                if source.kind not in checked:
                    check_file(table, files, source, row, max_seconds=max_seconds)
                    checked.add(source.kind)
            except DataError as error:
                faults.add(row, str(error))
                sound = False
        if not sound:
            raise DataError("not to be remembered")

    # Each error is among the faults already.
    with contextlib.suppress(DataError):
        file_digests(files.root, files.named_by(sources), check)
