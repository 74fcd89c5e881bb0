"""Tables on a terminal of any width: names stay whole, numbers make room by priority, narrow rows take two lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

from mmbench.encoding import ascii_text

#: From this width on, columns are dropped before rows take two lines.
WIDE = 100
#: Width of a console that is no terminal; rows are never wrapped there.
PIPE_WIDTH = 240
#: Least width of a text where no other column can make room for it.
MIN_TEXT_WIDTH = 16
_GAP = "  "

Kind = Literal["lead", "name", "number", "text"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        heading: Stands above it.
        kind: "lead" (rank, status: short and left of the name), "name" (shown whole, wrapped if longer than a line),
            "number" (shown whole on one line, or not at all), or "text" (takes the width that is left).
        priority: Columns with 0 are always shown; of the others the highest number is dropped first.
        cut: Whether a text that does not fit ends in "…"; else it is wrapped.
        min_width: Width of a text below which other columns make room for it.
    """

    heading: str
    kind: Kind = "number"
    priority: int = 0
    cut: bool = False
    min_width: int = 24

    @property
    def right(self) -> bool:
        """Whether its cells are right-aligned."""
        return self.kind == "number" or (self.kind == "lead" and self.heading in ("#", "group", "seed"))


@dataclass
class TerminalTable:
    """Rows of text under headings, laid out for the width of the console that prints them.

    Args:
        columns: From left to right; "lead" columns first, then "name", then the others.
        title: A line above the headings.
    """

    columns: Sequence[Column]
    title: str = ""
    rows: list[tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)

    def add_row(self, *cells: str | Text, style: str = "") -> None:
        """Add a row; the style of a `Text` cell adds to the row's style."""
        assert len(cells) == len(self.columns), f"{len(cells)} cells for {len(self.columns)} columns"
        texts = tuple(cell.plain if isinstance(cell, Text) else cell for cell in cells)
        styles = tuple(f"{style} {cell.style if isinstance(cell, Text) else ''}".strip() for cell in cells)
        self.rows.append((tuple(text.replace("\n", " ") for text in texts), styles))

    def print(self, out: Console) -> None:
        """Print the table; in a pipe each row is one line, however long."""
        unlimited = not out.is_terminal and out.width >= PIPE_WIDTH
        out.print(_AtWidth(self, None) if unlimited else self, crop=False, no_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.segments(console, options.max_width, ascii_only=options.ascii_only)

    def segments(self, console: Console, width: int | None, *, ascii_only: bool = False) -> Iterator[Segment]:
        """Yield the table line by line.

        Args:
            console: Resolves styles.
            width: No line is longer; None for any length.
            ascii_only: Whether the stream shows ASCII only.
        """
        layout = _Layout(self, width, ascii_only=ascii_only)
        if self.title:
            for line in wrap(layout.text(self.title), width):
                yield from (Segment(line, console.get_style("bold")), Segment.line())
        for line in layout.headings():
            yield from (Segment(line, console.get_style("bold")), Segment.line())
        yield from (Segment(("-" if ascii_only else "─") * layout.rule_width), Segment.line())
        for cells, styles in self.rows:
            for pieces in layout.lines(cells):
                for text, column in _without_trailing_space(pieces):
                    style = styles[column] if column >= 0 else ""
                    yield Segment(text, console.get_style(style) if style else None)
                yield Segment.line()


@dataclass(frozen=True)
class _AtWidth:
    """A table at a width that is not the console's."""

    table: TerminalTable
    width: int | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.table.segments(console, self.width, ascii_only=options.ascii_only)


#: A piece of a line, and the number of its column; -1 for what is between columns.
_Piece = tuple[str, int]


class _Layout:
    """Which columns are shown, how wide they are, and whether a row takes one line or two."""

    def __init__(self, table: TerminalTable, width: int | None, *, ascii_only: bool) -> None:
        self.columns = table.columns
        self.width = width
        self.ascii_only = ascii_only
        every = range(len(self.columns))
        self.natural = [
            max(
                cell_len(self.text(self.columns[at].heading)),
                *(cell_len(self.text(cells[at])) for cells, _ in table.rows),
                0,
            )
            for at in every
        ]
        self.widths = list(self.natural)
        self.second: list[int] = []
        shown = self._fit(list(every), width)
        if shown is None:  # names on the first line, the rest below them
            lead = [at for at in every if self.columns[at].kind == "lead"]
            while lead and self._total(lead) > (width or 0) // 2:
                lead = _without_last(self.columns, lead) or lead[:-1]
            self.shown = [*lead, *(at for at in every if self.columns[at].kind == "name")]
            self.indent = self._total(lead) + len(_GAP) if lead else len(_GAP)
            rest = [at for at in every if self.columns[at].kind in ("number", "text")]
            self.widths = list(self.natural)
            self.second = self._fit_second(rest, (width or PIPE_WIDTH) - self.indent)
            self.one_line = False
            self.rule_width = width or PIPE_WIDTH
        else:
            self.one_line, self.shown = True, shown
            self.rule_width = self._total(shown)

    def text(self, text: str) -> str:
        return ascii_text(text) if self.ascii_only else text

    def headings(self) -> Iterator[str]:
        cells = [column.heading for column in self.columns]
        for pieces in self.lines(cells):
            yield "".join(text for text, _ in pieces).rstrip()

    def lines(self, cells: Sequence[str]) -> Iterator[list[_Piece]]:
        """Yield the lines of one row as pieces."""
        cells = [self.text(cell) for cell in cells]
        if self.one_line:
            yield from self._row(self.shown, cells, 0)
            return
        lead = [at for at in self.shown if self.columns[at].kind == "lead"]
        names = [at for at in self.shown if self.columns[at].kind == "name" and cells[at]]
        first: list[_Piece] = []
        for at in lead:
            first += [(self._aligned(at, cells[at]), at), (_GAP, -1)]
        at_name = names[0] if names else -1
        margin = self.indent if lead else 0
        top, *more = wrap(", ".join(cells[at] for at in names), (self.width or PIPE_WIDTH) - margin)
        yield [*first, (top, at_name)]
        for line in more:
            yield [(" " * margin, -1), (line, at_name)]
        if self.second and any(cells[at] for at in self.second):
            yield from self._row(self.second, cells, self.indent)

    def _row(self, shown: Sequence[int], cells: Sequence[str], indent: int) -> Iterator[list[_Piece]]:
        """Yield the lines of cells side by side; only a wrapped text takes more than one."""
        wrapped = {
            at: wrap(cells[at], self.widths[at])
            for at in shown
            if self.columns[at].kind == "text" and not self.columns[at].cut and cell_len(cells[at]) > self.widths[at]
        }
        for number in range(max([len(lines) for lines in wrapped.values()], default=1)):
            pieces: list[_Piece] = [(" " * indent, -1)] if indent else []
            for place, at in enumerate(shown):
                if place:
                    pieces.append((_GAP, -1))
                lines = wrapped.get(at, [cells[at]])
                pieces.append((self._aligned(at, lines[number] if number < len(lines) else ""), at))
            yield pieces

    def _aligned(self, at: int, text: str) -> str:
        width = self.widths[at]
        if cell_len(text) > width:
            mark = self.text("…")
            text = set_cell_size(text, max(width - len(mark), 0)).rstrip() + mark
        blank = " " * (width - cell_len(text))
        return blank + text if self.columns[at].right else text + blank

    def _total(self, shown: Sequence[int]) -> int:
        return sum(self.widths[at] for at in shown) + len(_GAP) * max(len(shown) - 1, 0)

    def _fit(self, every: list[int], width: int | None) -> list[int] | None:
        """Return the columns that stand side by side in `width`, or None where rows need two lines."""
        shown: list[int] | None = every
        texts = [at for at in every if self.columns[at].kind == "text"]
        while shown:
            if width is None or self._total(shown) <= width:
                return shown
            drops = width >= WIDE or bool(texts) or not any(self.columns[at].kind == "number" for at in shown)
            fewer = _without_last(self.columns, shown) if drops else None
            if self._squeeze(shown, width, last_try=fewer is None):
                return shown
            shown = fewer
        return None

    def _squeeze(self, shown: Sequence[int], width: int, *, last_try: bool) -> bool:
        """Give texts the width that other columns leave, the shorter ones first; return whether that is enough."""
        texts = sorted((at for at in shown if self.columns[at].kind == "text"), key=lambda at: self.natural[at])
        room = width - self._total(shown) + sum(self.widths[at] for at in texts)
        for number, at in enumerate(texts):
            share = min(self.natural[at], room // (len(texts) - number))
            least = MIN_TEXT_WIDTH if last_try else self.columns[at].min_width
            if share < min(self.natural[at], least):
                return False
            self.widths[at] = share
            room -= share
        return bool(texts)

    def _fit_second(self, rest: list[int], width: int) -> list[int]:
        shown = rest
        while shown:
            if self._total(shown) <= width:
                return shown
            fewer = _without_last(self.columns, shown)
            if self._squeeze(shown, width, last_try=fewer is None):
                return shown
            shown = fewer or shown[:-1]
        return []


def wrap(text: str, width: int | None) -> list[str]:
    """Return a text in lines of at most `width` cells, broken at spaces, else after a sign that joins names.

    >>> wrap("image:cnn + text:gru, concat", 14)
    ['image:cnn +', 'text:gru,', 'concat']
    >>> wrap("a" * 5, 2)
    ['aa', 'aa', 'a']
    """
    if width is None or cell_len(text) <= width:
        return [text]
    width = max(width, 1)
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cell_len(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        line = word
        while cell_len(line) > width:
            head = chop_cells(line, width)[0]
            cut = max(head.rfind(sign) + 1 for sign in ",]+:=/")
            head = head[:cut] if cut > width // 2 else head
            lines.append(head)
            line = line[len(head) :]
    return [*lines, line]


def _without_last(columns: Sequence[Column], shown: Sequence[int]) -> list[int] | None:
    """Return the columns without the one that is dropped first, or None where all of them must be shown."""
    droppable = [at for at in shown if columns[at].priority]
    if not droppable:
        return None
    last = max(droppable, key=lambda at: (columns[at].priority, at))
    return [at for at in shown if at != last]


def _without_trailing_space(pieces: Iterable[_Piece]) -> list[_Piece]:
    kept = list(pieces)
    while kept and not kept[-1][0].strip():
        kept.pop()
    if kept:
        text, at = kept[-1]
        kept[-1] = (text.rstrip(), at)
    return kept
