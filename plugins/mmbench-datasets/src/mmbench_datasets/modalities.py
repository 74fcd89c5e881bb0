"""The modalities of a manifest: which columns they come from, and of what kind their content is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmbench.errors import DataError, UsageError
from mmbench.spec import Kind, Modality
from mmbench_datasets.moments import WIDTHS, Moment, moment_of
from mmbench_datasets.table import Table, is_nan, number, part_name

MEDIA_ENDINGS: Mapping[str, Kind] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"), "image"),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"), "audio"),
    **dict.fromkeys((".mp4", ".mkv", ".webm", ".mov", ".avi"), "video"),
}  # type: ignore[dict-item]
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
    return cell[cell.rfind(".") :].lower() if "." in cell else ""


def _kind_of(table: Table, column: str) -> Kind:
    """Tell a column's kind by its content: media by their endings, numbers, dates and times are tabular, else text."""
    cells = _filled(table.columns[column])
    kinds = Counter(MEDIA_ENDINGS.get(_ending(cell)) for cell in cells)
    media = [kind for kind in kinds if kind]
    if media and (None not in kinds or kinds[None] < len(cells) / 2):
        if len(kinds) > 1:
            common = max(media, key=lambda kind: kinds[kind])
            row, cell = next(
                (row, cell)
                for row, cell in enumerate(table.columns[column])
                if cell.strip() and MEDIA_ENDINGS.get(_ending(cell)) != common
            )
            raise DataError(
                f"{table.where(row)}: {cell!r} in column {column!r} is not {common}, as most of the column is; "
                f"mend it, leave the cell empty, or force a kind with {column}:KIND"
            )
        return media[0]
    numeric = all(number(cell) is not None or is_nan(cell) for cell in cells)
    return "tabular" if cells and (numeric or _moment_of(cells)) else "text"


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
