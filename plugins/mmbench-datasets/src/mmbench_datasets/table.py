"""A table of samples: cells as text, exactly as written, beside lists and media that a file holds as such."""

from __future__ import annotations

import fnmatch
import json
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmbench.errors import UsageError, did_you_mean
from mmbench_datasets.lazy_sequence import LazySequence


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive rows that come from one file.

    Attributes:
        name: Of the file.
        word: What a row is called there: "line" or "row".
        numbers: The number of each row in the file.
    """

    name: str
    word: str
    numbers: Sequence[int]

    def where(self, position: int) -> str:
        """Return the place of a row, for messages: "train.csv line 12"."""
        return f"{self.name} {self.word} {self.numbers[position]}" if self.word else self.name


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of samples.

    Attributes:
        path: The file or folder.
        root: The folder that paths in cells start from.
        digest: SHA-256 of everything that was read: hex.
        columns: Cells by column name, in the file's order; all of one length, at least 1.
        values: By column, the lists and media of the columns that hold such; their `columns` show them as text.
        parts: The files that the rows come from.
        class_names: By column of class numbers, the names that the file gives the classes.
        kinds: By column, the kind of modality that the file declares.
        ids: Of each row, where no column is to be asked for.
        splits: The split of each row, where the names of files say it.
        row_faults: What is wrong with whole rows.
        notes: What was guessed in reading.
    """

    path: Path
    root: Path
    digest: str
    columns: Mapping[str, Sequence[str]]
    parts: Sequence[Part]
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    ids: Sequence[str] = ()
    splits: Sequence[str] = ()
    row_faults: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(len(part.numbers) for part in self.parts)

    def where(self, row: int) -> str:
        """Return the place of a row, for messages: "train.csv line 12"."""
        part, position = self._place(row)
        return part.where(position)

    def _place(self, row: int) -> tuple[Part, int]:
        begins = [0]
        for part in self.parts:
            begins.append(begins[-1] + len(part.numbers))
        index = bisect_right(begins, row) - 1
        return self.parts[index], row - begins[index]

    def column(self, name: str, purpose: str) -> Sequence[str]:
        """Return the cells of a column.

        Raises:
            UsageError: there is none of that name.
        """
        if name not in self.columns:
            raise UsageError(
                f"{self.path.name} has no column {name!r} for {purpose}; it has {self.listed()}."
                f"{did_you_mean(name, self.columns)}"
            )
        return self.columns[name]

    def listed(self, most: int = 40) -> str:
        """Return the names of the columns, for messages."""
        names = list(self.columns)
        return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")

    def same_name(self, name: str) -> str:
        """Return the column that is called so; else one that differs in case and blanks only; else "".

        >>> from pathlib import Path
        >>> parts = [Part(name="a.csv", word="line", numbers=[2])]
        >>> table = Table(path=Path("a.csv"), root=Path(), digest="", parts=parts, columns={"Split ": ["x"]})
        >>> table.same_name("split")
        'Split '
        """
        if name in self.columns:
            return name
        return next((column for column in self.columns if column.strip().casefold() == name), "")

    def names(self, value: str, leave_out: Collection[str] = ()) -> list[str]:
        """Return the columns that "a+b" and globs such as "gene_*" name.

        Args:
            value: One name or several; a column that is called just that goes before all else.
            leave_out: Columns that a glob does not match.
        """
        if value in self.columns:
            return [value]
        found: list[str] = []
        for part in value.split("+"):
            if part not in self.columns and any(letter in part for letter in "*?["):
                matching = [name for name in self.columns if fnmatch.fnmatchcase(name, part) and name not in leave_out]
                found += matching or [part]
            else:
                found.append(self._without_blanks(part))
        return list(dict.fromkeys(found))

    def _without_blanks(self, name: str) -> str:
        """Return the only column that is called so but for blanks around, where none is called just so."""
        same = [] if name in self.columns else [column for column in self.columns if column.strip() == name]
        return same[0] if len(same) == 1 else name

    def with_kind(self, value: str, kinds: Sequence[str], purpose: str) -> tuple[str, str]:
        """Read "column:kind" as a column and a kind, unless a column is called just that; "" is no kind.

        Raises:
            UsageError: the kind is not one of `kinds`.
        """
        if value in self.columns or ":" not in value:
            return value, ""
        column, _, kind = value.rpartition(":")
        if kind not in kinds:
            raise UsageError(
                f"{purpose} {value!r}: {kind!r} is not one of {', '.join(kinds)}.{did_you_mean(kind, kinds)}"
            )
        return column, kind

    def without(self, rows: Collection[int]) -> Table:
        """Return the table without some rows."""
        kept = [row for row in range(len(self)) if row not in rows]
        number_of = {row: number for number, row in enumerate(kept)}
        parts, begin = [], 0
        for part in self.parts:
            numbers = [number for row, number in enumerate(part.numbers, start=begin) if row not in rows]
            parts.append(replace(part, numbers=numbers))
            begin += len(part.numbers)
        return replace(
            self,
            columns={name: Selected(cells, kept) for name, cells in self.columns.items()},
            values={name: Selected(cells, kept) for name, cells in self.values.items()},
            parts=parts,
            ids=[self.ids[row] for row in kept] if self.ids else (),
            splits=[self.splits[row] for row in kept] if self.splits else (),
            row_faults={number_of[row]: reason for row, reason in self.row_faults.items() if row in number_of},
        )


class Selected(LazySequence[Any]):
    """Some items of a sequence, in the order given."""

    def __init__(self, items: Sequence[Any], positions: Sequence[int]) -> None:
        self._items = items
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    def item(self, position: int) -> Any:
        """Return the item at a position of the selection."""
        return self._items[self._positions[position]]

    def __iter__(self) -> Iterator[Any]:
        return (self._items[position] for position in self._positions)


class Shown(LazySequence[str]):
    """Lists or media as text: what a cell of such a column is in messages."""

    def __init__(self, items: Sequence[Any], text: Callable[[Any], str] | None = None) -> None:
        self._items = items
        self._text = text or list_text

    def __len__(self) -> int:
        return len(self._items)

    def item(self, position: int) -> str:
        """Return an item as text."""
        return self._text(self._items[position])


def list_text(value: Any) -> str:
    """Return a list as JSON; "" for none and for an empty one."""
    return "" if value is None or value == [] else json.dumps(value, default=_shown)


def _shown(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


def part_name(column: str) -> str:
    """Return a column's name in the letters that a task's or a modality's name may have."""
    cleaned = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in column.strip())[:64]
    return cleaned if cleaned[:1].isalnum() or cleaned[:1] == "_" else f"_{cleaned}"[:64]
