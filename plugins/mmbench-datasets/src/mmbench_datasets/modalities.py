"""The modalities of a table: which columns they come from, and of what kind their content is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from mmbench.errors import DataError, UsageError
from mmbench.reference import format_reference
from mmbench.spec import Kind, Modality
from mmbench_datasets.arrays import array_shape
from mmbench_datasets.cells import is_unknown, number
from mmbench_datasets.features import MOST_CATEGORIES, Feature, check_moments, is_boolean_column, read_moment_column
from mmbench_datasets.files import TableFiles
from mmbench_datasets.numbers import read_number_column
from mmbench_datasets.sniff import HEAD_BYTES, sniff
from mmbench_datasets.table import Table, part_name
from mmbench_datasets.vectors import check_cut_lists, is_ragged, vector_column

MEDIA_ENDINGS: Mapping[str, Kind] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"), "image"),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"), "audio"),
    **dict.fromkeys((".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".mpg", ".mpeg", ".ogv"), "video"),
}  # type: ignore[dict-item]
ARRAY_ENDINGS = (".npy", ".npz")
MEDIA_KINDS = ("image", "audio", "video")

#: Where a row's input is: in cells, in a file that a cell names, in the table itself as a medium or as a list.
Form: TypeAlias = Literal["cells", "files", "arrays", "embedded", "vectors"]

_FORCED_KINDS = (*MEDIA_KINDS, "text", "tabular", "sequence")
_CATEGORY = "category"
_TEXT_NAMES = ("text", "caption", "sentence", "transcript", "description", "title", "question", "utterance")
#: Endings of files that are no text, and none of the media that are read by their ending.
_FILE_ENDING = re.compile(
    r"\.(heic|heif|avif|jp2|j2k|jxl|svg|psd|raw|dng|cr2|nef|exr|dcm|nii|m4a|aac|wma|amr|ac3|midi?|wmv|flv|3gp|ts|pdf|"
    r"bin|pt|pth|h5|hdf5|mat|pkl|pickle|parquet|zip|gz|tar|"
    rf"{'|'.join(ending[1:] for ending in (*MEDIA_ENDINGS, *ARRAY_ENDINGS))})(\?.*)?['\"\])}}]*$",
    re.IGNORECASE,
)
_LOOKED_AT = 20
#: Columns that a hint joins.
_MOST_JOINED = 3


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a modality comes from.

    Attributes:
        name: The modality.
        kind: Its kind.
        columns: The table's columns: one, or several for a table.
        form: Where a row's input is.
        features: For a table, how its columns become numbers.
        categories: Columns of a table that are to be read as categories.
        paths: For files, the relative path of each row; "" where a row lacks it.
        forced: Whether an option forces the kind of files, whatever their endings say.
        width: Of vectors and arrays: how many numbers a row, or a step of a sequence, has.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    form: Form = "cells"
    features: tuple[Feature, ...] = ()
    categories: tuple[str, ...] = ()
    paths: Sequence[str] = ()
    forced: bool = False
    width: int = 0


def declared_source(table: Table, files: TableFiles, name: str, value: str, leave_out: Collection[str] = ()) -> Source:
    """Return where a modality comes from, as an option declares it: "COLUMN", "COLUMN:KIND", "A+B" or "gene_*".

    Args:
        table: The rows.
        files: Finds the files that cells name.
        name: The modality.
        value: As declared.
        leave_out: Columns that a glob does not match: labels, splits, ids and groups.

    Raises:
        UsageError: a column or a kind is not there, or several columns are to be no table.
        DataError: the column is empty, holds media of several kinds, or files that cannot be read.
    """
    columns, kinds = _columns_of(table, name, value, leave_out)
    categories = tuple(column for column in columns if kinds[column] == _CATEGORY)
    forced = {kind for kind in kinds.values() if kind and kind != _CATEGORY}
    if len(columns) > 1:
        if forced - {"tabular"}:
            raise UsageError(
                f"the modality {name!r} joins {len(columns)} columns, which makes a table, not {', '.join(forced)}"
            )
        return Source(name=name, kind="tabular", columns=tuple(columns), categories=categories)
    column = columns[0]
    if not any(cell.strip() for cell in table.columns[column]):
        raise DataError(f"{table.path.name}: the column {column!r} is empty, so no sample has {name!r}; leave it out")
    if "text" not in forced and not categories and all(is_unknown(cell) for cell in table.columns[column]):
        mark = next(cell for cell in table.columns[column] if cell.strip())
        raise DataError(
            f"{table.path.name}: the column {column!r} holds marks of unknown values only, such as {mark!r}, so no "
            f"sample has {name!r}; leave it out, or take the cells as text by {column}:text"
        )
    if categories:
        return Source(name=name, kind="tabular", columns=(column,), categories=categories)
    return replace(_source_of(table, files, column, next(iter(forced), "")), name=name)


def _columns_of(table: Table, name: str, value: str, leave_out: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """Return the columns that a modality is declared to come from, and the kind that each is forced to, or ""."""
    kinds: dict[str, str] = {}
    for part in [value] if value in table.columns else value.split("+"):
        bare, kind = table.with_kind(part, (*_FORCED_KINDS, _CATEGORY), f"the modality {name!r}")
        for column in table.names(bare, leave_out):
            table.column(column, f"the modality {name!r}")
            kinds[column] = kind
    return list(kinds), kinds


def _source_of(table: Table, files: TableFiles, column: str, forced: str) -> Source:
    """Return the source of one column by its content, or as forced."""
    source = Source(name=part_name(column), kind="text", columns=(column,))
    if column in table.values:
        return _nested_source(table, files, source, forced)
    cells = [cell.strip() for cell in table.columns[column] if cell.strip()]
    if forced == "text":
        return source
    if forced in MEDIA_KINDS:
        return replace(source, kind=forced, form="files", forced=True)  # type: ignore[arg-type]
    endings = Counter(ending_of(cell) for cell in cells)
    if sum(count for ending, count in endings.items() if ending in ARRAY_ENDINGS) * 2 > len(cells):
        return _array_source(table, files, source, forced)
    if not forced:
        kind = _media_kind(cells) or _kind_of_files(table, files, column, cells)
        if kind == "array":
            return _array_source(table, files, source, forced)
        if kind:
            return replace(source, kind=kind, form="files")  # type: ignore[arg-type]
    vectors = vector_column(table, column)
    if vectors and (forced == "sequence" or not read_number_column(cells)):
        kind = forced or ("tabular" if vectors.depth == 1 else "sequence")
        return replace(source, kind=kind, form="vectors")  # type: ignore[arg-type]
    if forced == "sequence":
        raise UsageError(
            f"the column {column!r} holds no lists of numbers, as a sequence needs: write [1, 2, 3] in each cell, or "
            "paths of .npy files"
        )
    if forced == "tabular" or is_boolean_column(cells) or read_number_column(cells) or read_moment_column(cells):
        return replace(source, kind="tabular")
    check_moments(table, column)
    check_cut_lists(table, column)
    return source


def _names_files(items: Sequence[Any]) -> bool:
    """Whether all media of a column are paths without bytes."""
    known = [item for item in items if item not in (None, {}) and item != {"bytes": None, "path": None}]
    return bool(known) and all(
        isinstance(item, dict) and item.get("bytes") is None and isinstance(item.get("path"), str) for item in known
    )


def _nested_source(table: Table, files: TableFiles, source: Source, forced: str) -> Source:
    """Return the source of a column that holds lists or media."""
    (column,) = source.columns
    first = next((item for item in table.values[column] if item not in (None, [], {}, b"")), None)
    declared = table.kinds.get(column, "")
    is_medium = isinstance(first, bytes) or (isinstance(first, dict) and {"bytes", "path"} & first.keys())
    if is_medium and not declared and _names_files(table.values[column]):
        cells = [cell.strip() for cell in table.columns[column] if cell.strip()]
        kind = forced or _media_kind(cells) or _kind_of_files(table, files, column, cells)
        if kind in MEDIA_KINDS:
            return replace(source, kind=kind, form="files", forced=bool(forced))  # type: ignore[arg-type]
    if is_medium:
        content = first if isinstance(first, bytes) else first.get("bytes")
        kind = forced or declared or (sniff(content[:HEAD_BYTES]).kind if isinstance(content, bytes) else "")
        if kind not in MEDIA_KINDS:
            raise DataError(
                f"{table.path.name}: the column {column!r} holds bytes that are no image, sound or video that mmbench "
                f"knows; force a kind with {column}:KIND, or leave the column out"
            )
        return replace(source, kind=kind, form="embedded")  # type: ignore[arg-type]
    if forced == "text":
        return source
    vectors = vector_column(table, column)
    if vectors and forced in ("", "tabular", "sequence"):
        kind = forced or ("tabular" if vectors.depth == 1 else "sequence")
        return replace(source, kind=kind, form="vectors")  # type: ignore[arg-type]
    raise UsageError(
        f"the column {column!r} holds {table.columns[column][_first_row(table, column)][:60]}, which is no list of "
        f"numbers; take it as text by {column}:text, or leave it out"
    )


def _first_row(table: Table, column: str) -> int:
    return next((row for row, cell in enumerate(table.columns[column]) if cell.strip()), 0)


def _array_source(table: Table, files: TableFiles, source: Source, forced: str) -> Source:
    """Return a source of arrays: a table where the first that can be read has one axis, a sequence where it has two."""
    (column,) = source.columns
    first = _first_row(table, column)
    problem = (
        f"{table.where(first)}: none of the files that the column {column!r} names is there, such as "
        f"{table.columns[column][first]!r}; paths start from {files.root}"
    )
    for row, cell in enumerate(table.columns[column]):
        try:
            path = files.find(cell, table.where(row)) if cell.strip() else None
            shape = array_shape(files.root / path, table.where(row)) if path else ()
        except DataError as error:
            problem = str(error)
            continue
        if shape:
            kind = forced or ("tabular" if len(shape) == 1 else "sequence")
            return replace(source, kind=kind, form="arrays")  # type: ignore[arg-type]
    raise DataError(f"{problem}. Take the cells as text by {column}:text, or leave the column out")


def ending_of(cell: str) -> str:
    """Return the ending of a path in lower case, without quotes or a query after it."""
    cell = cell.rstrip(" '\"`")
    dot = cell.rfind(".")
    return cell[dot:].split("?", 1)[0].lower() if dot >= 0 else ""


def _media_kind(cells: Sequence[str]) -> str:
    """Return the kind of media that most cells of a column name by their endings, or ""."""
    kinds = Counter(MEDIA_ENDINGS.get(ending_of(cell), "") for cell in cells)
    media = [kind for kind in kinds if kind]
    if not media or kinds[""] * 2 >= len(cells):
        return ""
    return max(media, key=lambda kind: kinds[kind])


def _kind_of_files(table: Table, files: TableFiles, column: str, cells: Sequence[str]) -> str:
    """Return the kind of the files that cells name under endings that say nothing, by content; "" for no files.

    Raises:
        DataError: the cells name files, or look as if they did, and mmbench can read none of them.
    """
    step = max(1, len(cells) // _LOOKED_AT)
    some = list(dict.fromkeys(cells))[::step][:_LOOKED_AT]
    paths = [path for cell in some if len(cell) < 1024 and (path := _find_quietly(files, cell))]
    advice = f"convert the files (to PNG, WAV or MP4, say), or take the cells as text by {column}:text"
    if len(paths) * 2 >= len(some):
        kinds = Counter(files.kind(path) for path in paths)
        kind = kinds.most_common(1)[0][0]
        if not kind:
            row = next(row for row, cell in enumerate(table.columns[column]) if cell.strip())
            name = files.format_name(_find_quietly(files, table.columns[column][row]) or paths[0])
            raise DataError(
                f"{table.where(row)}: the column {column!r} names files that are none of the media that mmbench reads: "
                f"{table.columns[column][row]!r} is {name or 'of an unknown format'}; {advice}"
            )
        return kind
    whole = {
        cell: path for cell in some if len(cell) < 1024 and number(cell) is None and (path := files.with_ending(cell))
    }
    if len(whole) * 2 > len(some):
        cell, path = next(iter(whole.items()))
        row = next(row for row, other in enumerate(table.columns[column]) if other.strip() == cell)
        kind = MEDIA_ENDINGS.get(ending_of(path), "image")
        raise DataError(
            f"{table.where(row)}: the column {column!r} seems to name files without their endings: {cell!r} may be "
            f"{path!r}; say so by {column}:{kind}, write the endings, or take the cells as text by "
            f"{column}:text"
        )
    looks = sum(1 for cell in some if _FILE_ENDING.search(cell))
    if looks * 2 > len(some):
        where = table.where(_first_row(table, column))
        raise DataError(
            f"{where}: the column {column!r} looks like names of files, such as {some[0]!r}, but no such file is below "
            f"{files.root}; put the files there, name their folder by [root=FOLDER], or take the cells as text by "
            f"{column}:text"
        )
    return ""


def _find_quietly(files: TableFiles, cell: str) -> str | None:
    try:
        return files.find(cell, "")
    except DataError:
        return None


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What columns hold that no option names.

    Attributes:
        sources: The columns of media, of arrays and of text.
        others: The other columns that hold something.
        joinable: Those of them that a table modality can join: numbers, dates, times and few different words.
        notes: On columns of media, arrays or text that cannot be read.
    """

    sources: Sequence[Source]
    others: Sequence[str]
    joinable: Sequence[str]
    notes: Sequence[str]


def infer_columns(
    table: Table, files: TableFiles, ids: Sequence[str], used: Collection[str], names: Collection[str] = ()
) -> Inference:
    """Return what the columns of a table hold.

    Args:
        table: The rows.
        files: Finds the files that cells name.
        ids: Of the rows; a column that repeats them is left out.
        used: Columns to leave out.
        names: Names of modalities that are taken.
    """
    sources: list[Source] = []
    notes: list[str] = []
    left: list[str] = []
    joinable: list[str] = []
    for column, cells in table.columns.items():
        if column in used or _is_constant(table, column) or cells == ids:
            continue
        try:
            source = _source_of(table, files, column, "")
        except (DataError, UsageError) as error:
            notes.append(f"column {column!r} is left out: {error}")
            continue
        vectors = vector_column(table, column) if source.form == "vectors" else None
        if vectors and is_ragged(vectors):
            notes.append(
                f"column {column!r} is left out: its lists differ in length; take it by {column}={column}:sequence"
            )
            continue
        if source.form in ("files", "embedded", "arrays", "vectors") or (
            source.kind == "text" and _reads_as_text(column, cells)
        ):
            taken = {*names, *(other.name for other in sources)}
            sources.append(replace(source, name=_free_name(source.name, taken)))
            continue
        left.append(column)
        if source.kind == "tabular" or len({cell.strip() for cell in cells}) <= MOST_CATEGORIES:
            joinable.append(column)
    return Inference(sources=sources, others=left, joinable=joinable, notes=notes)


def inferred_sources(
    table: Table, files: TableFiles, ids: Sequence[str], used: Collection[str]
) -> tuple[list[Source], list[str]]:
    """Return a source for every column of media, of arrays and of text, and notes on columns left out.

    Numbers and categories must be asked for.

    Raises:
        DataError: no column is such.
    """
    found = infer_columns(table, files, ids, used)
    notes = list(found.notes)
    if not found.sources:
        reasons = "".join(f"\n  {note}" for note in notes[:5])
        unused = [column for column in table.columns if column not in used]
        others = list(found.joinable or found.others or unused)[:2]
        advice = (
            f"name the modalities, as in [meta={'+'.join(others)}]"
            if others
            else f"there is nothing beside {', '.join(map(repr, table.columns))} to learn from; add a column"
        )
        raise DataError(
            f"{table.path.name}: no column holds paths of media or texts; {advice}. The columns are "
            f"{table.listed()}{reasons}"
        )
    if found.others:
        left = found.others
        listed = ", ".join(left[:10]) + (f", … ({len(left)} in all)" if len(left) > 10 else "")
        joined = {**options_of(found.sources), **join_option(found.joinable, found.sources)}
        as_in = f", as in {format_reference('', joined)}" if found.joinable else ""
        notes.append(f"not used: {listed}; numbers, dates and categories are read where they are named{as_in}")
    return list(found.sources), notes


def options_of(sources: Sequence[Source]) -> dict[str, str]:
    """Return the options that name these modalities: their columns by name."""
    return {source.name: "+".join(source.columns) for source in sources}


def join_option(columns: Sequence[str], sources: Collection[Source]) -> dict[str, str]:
    """Return the option that joins columns as one table of a name that no source has; {} for no columns."""
    if not columns:
        return {}
    return {_free_name("meta", {source.name for source in sources}): "+".join(columns[:_MOST_JOINED])}


def _is_constant(table: Table, column: str) -> bool:
    if column in table.values:
        return False
    seen = ""
    for cell in table.columns[column]:
        if cell.strip():
            if seen and cell != seen:
                return False
            seen = cell
    return True


def _free_name(name: str, taken: Collection[str]) -> str:
    number, free = 2, name
    while free in taken:
        free = f"{name[:58]}_{number}"
        number += 1
    return free


def _reads_as_text(column: str, cells: Sequence[str]) -> bool:
    """Whether a column is text by its name, or because at least half of its cells hold several words."""
    lowered = column.strip().lower()
    if any(lowered == name or lowered.startswith(f"{name}_") for name in _TEXT_NAMES):
        return not lowered.endswith(("_id", "_lang", "_language"))
    filled = [cell for cell in cells if cell.strip() and not is_unknown(cell)]
    return sum(len(cell.split()) > 1 for cell in filled) * 2 >= len(filled)


def modality_of(source: Source) -> Modality:
    """Return what the core calls a modality."""
    facts: dict[str, int] = {}
    if source.form == "embedded" and source.kind == "image":
        facts["channels"] = 3  # whether all of them are grey is not known without opening each
    elif source.features:
        facts["num_features"] = sum(feature.width for feature in source.features)
    elif source.width:
        facts["num_features"] = source.width
    return Modality(name=source.name, kind=source.kind, facts=facts)
