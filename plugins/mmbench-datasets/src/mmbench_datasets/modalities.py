"""The modalities of a manifest: which columns they come from, and of what kind their content is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbench.errors import DataError, UsageError
from mmbench.spec import Kind, Modality
from mmbench_datasets.media import format_of
from mmbench_datasets.moments import WIDTHS, Moment, moment_of
from mmbench_datasets.table import Table, is_nan, number, part_name

MEDIA_ENDINGS: Mapping[str, Kind] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"), "image"),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"), "audio"),
    **dict.fromkeys((".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".mpg", ".mpeg", ".ogv"), "video"),
}  # type: ignore[dict-item]
#: Endings of files that are no media that mmbench reads: a column of them is no text.
_OTHER_ENDINGS = (
    *(
        ".heic",
        ".heif",
        ".avif",
        ".jp2",
        ".j2k",
        ".jxl",
        ".svg",
        ".psd",
        ".raw",
        ".cr2",
        ".nef",
        ".dng",
        ".exr",
        ".dcm",
    ),
    *(".nii", ".m4a", ".aac", ".wma", ".amr", ".ac3", ".mid", ".midi", ".wmv", ".3gp", ".ts", ".npy", ".npz", ".pt"),
    *(".pkl", ".h5", ".hdf5", ".mat", ".bin", ".pdf", ".zip"),
)
#: So many cells of a column are looked at to tell whether they name files, and so many of these files are opened.
_PROBED_CELLS, _OPENED_FILES = 64, 8
_LONGEST_PATH = 1024
MEDIA_KINDS = ("image", "audio", "video")

_FORCED_KINDS = (*MEDIA_KINDS, "text", "tabular")
_TEXT_NAMES = ("text", "caption", "sentence", "transcript", "description", "title", "question", "utterance")
_MOST_CATEGORIES = 64


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column of a table modality.

    Attributes:
        column: Its name.
        categories: The words that training knows, one output each; empty for numbers, which give one output.
        moment: What dates and times are, or None.
    """

    column: str
    categories: tuple[str, ...] = ()
    moment: Moment | None = None

    @property
    def width(self) -> int:
        """How many numbers it gives."""
        return WIDTHS[self.moment] if self.moment else len(self.categories) or 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a modality comes from.

    Attributes:
        name: The modality.
        kind: Its kind.
        columns: The manifest's columns: one, or several for a table.
        features: For a table, how its columns become numbers.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    features: tuple[Feature, ...] = ()


def declared_source(table: Table, name: str, value: str) -> Source:
    """Return where a modality comes from, as an option declares it: "COLUMN", "COLUMN:KIND" or "A+B".

    Raises:
        UsageError: a column or a kind is not there, or several columns are to be no table.
        DataError: the column is empty, or holds media of several kinds.
    """
    value, forced = table.with_kind(value, _FORCED_KINDS, f"the modality {name!r}")
    columns = table.names(value)
    for column in columns:
        table.column(column, f"the modality {name!r}")
    if len(columns) > 1:
        if forced not in ("", "tabular"):
            raise UsageError(f"the modality {name!r} joins {len(columns)} columns, which makes a table, not {forced}")
        return Source(name=name, kind="tabular", columns=tuple(columns))
    cells = _filled(table.columns[columns[0]])
    if not cells:
        raise DataError(
            f"{table.path.name}: the column {columns[0]!r} is empty, so no sample has {name!r}; leave it out"
        )
    kind = forced or _kind_of(table, columns[0])
    return Source(name=name, kind=kind, columns=(columns[0],))  # type: ignore[arg-type]


def _filled(cells: Sequence[str]) -> list[str]:
    return [cell for cell in cells if cell.strip()]


def _ending(cell: str) -> str:
    """The ending of a path in lower case, fast: manifests have many cells."""
    return cell[cell.rfind(".") :].rstrip().lower() if "." in cell else ""


def _kind_of(table: Table, column: str) -> Kind:
    """Tell a column's kind by its content: files by theirs, numbers, dates and times are tabular, else text.

    Raises:
        DataError: the column names files of several kinds, or files that mmbench does not read.
    """
    cells = _filled(table.columns[column])
    kinds = Counter(MEDIA_ENDINGS.get(_ending(cell)) for cell in cells)
    media = [kind for kind in kinds if kind]
    if media and (None not in kinds or kinds[None] < len(cells) / 2):
        common = max(media, key=lambda kind: kinds[kind])
        if len(kinds) > 1:
            row, cell = next(
                (row, cell)
                for row, cell in enumerate(table.columns[column])
                if cell.strip() and MEDIA_ENDINGS.get(_ending(cell)) != common
            )
            raise DataError(
                f"{table.where(row)}: {cell!r} in column {column!r} is not {common}, as most of the column is; "
                f"mend it, leave the cell empty, or force a kind with {column}:KIND"
            )
        return _kind_of_content(table, column) or common
    found = _kind_of_content(table, column)
    if found:
        return found
    numeric = all(number(cell) is not None or is_nan(cell) for cell in cells)
    return "tabular" if cells and (numeric or _moment_of(cells)) else _text_if_no_paths(table, column)


def _kind_of_content(table: Table, column: str) -> Kind | None:
    """Return the kind of the files that a column names, None where most of its cells name no files that are there.

    Raises:
        DataError: the files are of no kind, or of several.
    """
    probed = _probed(table.columns[column])
    root = table.path.resolve().parent
    files = [(row, root / cell.strip()) for row, cell in probed if _may_be_path(cell) and _is_file(root, cell.strip())]
    if not files or len(files) * 2 < len(probed):
        return None
    step = max(1, len(files) // _OPENED_FILES)
    opened = [(row, file, format_of(file)) for row, file in files[::step]]
    kinds = Counter(known.kind for _, _, known in opened)
    if len(kinds) == 1 and "" not in kinds:
        return next(iter(kinds))  # type: ignore[return-value]
    if MEDIA_ENDINGS.get(_ending(files[0][1].name)):
        return None  # the check of each file says what is wrong with it
    common = kinds.most_common(1)[0][0]
    row, file, known = next(item for item in opened if not common or item[2].kind != common)
    if known.kind and common:
        raise DataError(
            f"{table.where(row)}: {file.name!r} in column {column!r} is {known.kind} ({known.name}), not {common}, as "
            f"most of the column is; mend it, leave the cell empty, or force a kind with {column}:KIND"
        )
    raise _no_media(table, column, row, f"{file.name!r} is {known.name or 'a file of an unknown format'}")


def _text_if_no_paths(table: Table, column: str) -> Kind:
    """Return "text", unless most cells look like the names of files: labels hide in such names.

    Raises:
        DataError: they do.
    """
    probed = _probed(table.columns[column])
    named = [(row, cell) for row, cell in probed if _ending(_bare(cell)) in (*MEDIA_ENDINGS, *_OTHER_ENDINGS)]
    if not named or len(named) * 2 < len(probed):
        return "text"
    row, cell = named[0]
    bare = _bare(cell)
    if bare != cell.strip() and _ending(bare) in MEDIA_ENDINGS:
        raise DataError(
            f"{table.where(row)}: {cell!r} in column {column!r} names no file; write {bare!r}, or read the words "
            f"themselves with {column}:text"
        )
    raise _no_media(table, column, row, f"{cell!r} is a file of a kind")


def _no_media(table: Table, column: str, row: int, what: str) -> DataError:
    return DataError(
        f"{table.where(row)}: {what}, which is none of the media that mmbench reads (column {column!r}); convert it to "
        f"PNG, JPEG, WAV, FLAC or MP4, or read the words themselves with {column}:text"
    )


def _probed(cells: Sequence[str]) -> list[tuple[int, str]]:
    """Return some filled cells, evenly spaced, and their rows."""
    filled = [(row, cell) for row, cell in enumerate(cells) if cell.strip()]
    return filled[:: max(1, len(filled) // _PROBED_CELLS)]


def _bare(cell: str) -> str:
    """Return a path without blanks, quotes, and what follows a "?" or "#"."""
    return cell.strip().strip("'\"`").split("?")[0].split("#")[0].strip()


def _may_be_path(cell: str) -> bool:
    return len(cell) <= _LONGEST_PATH and "\0" not in cell and ".." not in cell and not cell.startswith(("/", "~"))


def _is_file(root: Path, name: str) -> bool:
    try:
        return (root / name).is_file()
    except (OSError, ValueError):
        return False


def _moment_of(cells: Sequence[str]) -> Moment | None:
    return moment_of(cell for cell in cells if cell.strip() and not is_nan(cell))


def inferred_sources(table: Table, ids: Sequence[str], used: set[str]) -> list[Source]:
    """Take every column of media paths and every column of text; numbers and categories must be asked for."""
    sources = []
    for column, cells in table.columns.items():
        filled = _filled(cells)
        if column in used or len(set(filled)) < 2 or cells == ids:
            continue
        kind = _kind_of(table, column)
        if kind in MEDIA_KINDS or (kind == "text" and _reads_as_text(column, filled)):
            sources.append(Source(name=part_name(column), kind=kind, columns=(column,)))
    if not sources:
        raise DataError(
            f"{table.path.name}: no column holds paths of media or texts; name the modalities, as in "
            f"[meta={'+'.join(list(table.columns)[:2])}]. The columns are {', '.join(table.columns)}"
        )
    return sources


def _reads_as_text(column: str, cells: Sequence[str]) -> bool:
    """Whether a column is text by its name, or because at least half of its cells hold several words."""
    if any(column.lower() == name or column.lower().startswith(f"{name}_") for name in _TEXT_NAMES):
        return not column.lower().endswith(("_id", "_lang", "_language"))
    return sum(len(cell.split()) > 1 for cell in cells) * 2 >= len(cells)


def with_features(table: Table, source: Source, train: Sequence[int]) -> Source:
    """Return the source with how its columns become numbers, where it is a table; categories are those of `train`.

    Raises:
        DataError: a column of words has no category, or too many.
    """
    if source.kind != "tabular":
        return source
    features = []
    for column in source.columns:
        cells = table.columns[column]
        if all(not cell.strip() or number(cell) is not None or is_nan(cell) for cell in cells):
            features.append(Feature(column=column))
            continue
        moment = _moment_of(cells)
        if moment:
            features.append(Feature(column=column, moment=moment))
            continue
        categories = sorted({cells[row].strip() for row in train} - {""})
        if not 0 < len(categories) <= _MOST_CATEGORIES:
            raise DataError(
                f"{table.path.name}: the column {column!r} of {source.name!r} has {len(categories)} different words in "
                f"train; a table takes numbers, dates and times (2024-05-01, 13:45), or 1 to {_MOST_CATEGORIES} "
                f"categories. For text use {column}:text"
            )
        features.append(Feature(column=column, categories=tuple(categories)))
    return Source(name=source.name, kind="tabular", columns=source.columns, features=tuple(features))


def modality_of(source: Source) -> Modality:
    """Return what the core calls a modality."""
    facts = {"num_features": sum(feature.width for feature in source.features)} if source.kind == "tabular" else {}
    return Modality(name=source.name, kind=source.kind, facts=facts)
