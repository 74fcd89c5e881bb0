"""The progress of a run as people see it: a live table on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mmbench.heartbeat import Heartbeat
from mmbench.reasons import Reasons
from mmbench.record import DONE, Metric, Record
from mmbench.report.outcomes import style_of
from mmbench.report.text import duration, number, size_bytes, visible
from mmbench.runner import Event
from mmbench.standing import RunningCell, Standing, describe
from mmbench.trackers import Trackers
from mmbench.utilisation import Utilisation

#: Without a terminal each finished cell is logged; in runs of more cells, one every `LINE_EVERY_S`.
MAX_LINES = 2_000
LINE_EVERY_S = 10.0
#: Cells of the bar.
BAR_WIDTH = 20
#: Datasets whose best score is shown.
MAX_BEST = 3
#: Running cells that the table shows.
MAX_ROWS = 16


class Progress:
    """Shows a run of this process while it lasts, and passes on to trackers what happens.

    Args:
        out: Where to.
        standing: Kept up by what the runner says; it knows the plan already.
        heart: Measures the machine; None leaves that out.
        trackers: Told what happens.
        reasons: Why cells have no result, of earlier stages too.
        ranked_by: Task and metric that rank the rows of each dataset.
    """

    def __init__(
        self,
        out: Console,
        standing: Standing,
        heart: Heartbeat | None = None,
        trackers: Trackers | None = None,
        reasons: Reasons | None = None,
        ranked_by: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    ) -> None:
        self.out = out
        self.standing = standing
        self._heart = heart
        self._trackers = trackers
        self._reasons = reasons if reasons is not None else Reasons()
        self._last_line = time.monotonic()
        self._live: Live | None = None
        self._ranked_by = ranked_by
        self._best = BestSoFar()

    def __enter__(self) -> Progress:
        if self.out.is_terminal:
            self._live = Live(get_renderable=self.render, console=self.out, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def on_event(self, event: Event) -> None:
        """Take note of what the runner says."""
        if self._trackers is not None:
            self._trackers.on_event(event)
            for warning in self._trackers.warnings():
                self._say(Text(warning, style="magenta"))
        if event.kind == "stopped":
            self._say(Text(event.reason, style="magenta"))
        if event.cell is None:
            return
        row = event.cell.row()
        if event.kind == "started":
            self.standing.begin(row, event.folder)
        elif event.kind == "again":
            self.standing.leave(row["cell_id"])
        elif event.record is not None:
            record = event.record
            ranked_by = self._ranked_by.get(str(row.get("dataset", "")))
            self._best.take(row, clean_score(record, "val", ranked_by))
            self.standing.end(record.cell_id, record.status, record.duration_s, self.standing.kind_of(row))
            line_of_reason = self._reasons.add(record, describe(row))
            if line_of_reason:
                self._say(Text(line_of_reason, style_of(record.status)))
            if self._live is None and record.status in DONE and self._is_line_due():
                score = clean_score(record, "test", ranked_by) or clean_score(record, "val", ranked_by)
                self.out.print(Text(finished_line(self.standing, row, score)), soft_wrap=True)

    def render(self) -> RenderableType:
        """Return the live table."""
        utilisation = self._heart.utilisation if self._heart is not None else None
        return live_table(self.standing, utilisation, best=self._best.lines())

    def _is_line_due(self) -> bool:
        """Whether to log the cell that just finished."""
        now = time.monotonic()
        if self.standing.num_planned > MAX_LINES and now - self._last_line < LINE_EVERY_S:
            return False
        self._last_line = now
        return True

    def _say(self, text: Text) -> None:
        (self._live.console if self._live is not None else self.out).print(text)


def clean_score(record: Record, split: str, ranked_by: tuple[str, str] | None = None) -> Metric | None:
    """Return the score of a cell on a split by a task and metric, or by its first metric; None where it has none."""
    for item in record.metrics:
        is_ranking = ranked_by in (None, (item.task, item.name))
        is_clean = item.phase == "evaluate" and item.split == split and item.condition == "clean"
        if is_ranking and is_clean and item.value is not None:
            return item
    return None


class BestSoFar:
    """The best score of the cells that finished, by dataset."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Metric, str]] = {}

    def take(self, row: Mapping[str, Any], score: Metric | None) -> None:
        """Take note of a cell's score on val; not of that on test, which must choose nothing."""
        if score is None or score.value is None or not row.get("encoders"):
            return
        dataset = str(row.get("dataset", ""))
        known = self._found.get(dataset)
        if known is not None and known[0].name == score.name and known[0].value is not None:
            gain = score.value - known[0].value
            if (gain if score.direction == "max" else -gain) <= 0:
                return
        self._found.pop(dataset, None)  # the one that changed last stands last
        self._found[dataset] = (score, visible(describe(row)))

    def lines(self) -> list[str]:
        """Return the best of the datasets that changed last."""
        found = list(self._found.values())[-MAX_BEST:]
        return [f"best on val so far: {score.name} {number(score.value)}  {label}" for score, label in found]


def finished_line(standing: Standing, row: Mapping[str, Any], score: Metric | None) -> str:
    """Return the line of the log for a finished cell: how far the run is, the cell and its score."""
    words = f": {score.name} {number(score.value)} on {score.split}" if score is not None else ""
    left = standing.remaining_s()
    rest = f", about {duration(left)} left" if left is not None and standing.num_left else ""
    return f"{standing.num_settled}/{standing.num_planned}  {visible(describe(row))}{words}{rest}"


def line(standing: Standing) -> str:
    """Return how far a run is in one line."""
    parts = [f"{standing.num_settled}/{standing.num_planned} cells"]
    planned_so = ("ok", "incompatible")
    parts += [f"{count} {status}" for status, count in standing.counts.most_common() if status not in planned_so]
    left = standing.remaining_s()
    if left is not None and standing.num_left:
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)


def bar(num_done: int, num_planned: int) -> str:
    """Return how much of a run is done as a bar.

    >>> bar(3, 4)
    '███████████████░░░░░'
    """
    filled = BAR_WIDTH * num_done // max(num_planned, 1)
    return "█" * filled + "░" * (BAR_WIDTH - filled)


def live_table(
    standing: Standing,
    utilisation: Utilisation | None = None,
    *,
    num_running: int | None = None,
    best: Sequence[str] = (),
) -> RenderableType:
    """Return everything that is known of a run under way.

    Args:
        standing: How far it is.
        utilisation: How busy the machine is where its cells run, where that is known.
        num_running: How many cells run, where `standing` does not know of each.
        best: The best score on val so far, a line for each dataset.
    """
    counts = Text("  ").join(
        Text(f"{count} {status}", style_of(status)) for status, count in standing.counts.most_common()
    )
    lines: list[RenderableType] = [Text(f"{bar(standing.num_settled, standing.num_planned)} {line(standing)}", "bold")]
    if standing.counts:
        lines.append(counts)
    lines += [Text(text) for text in best]
    if utilisation is not None:
        lines += [Text(text, style="dim") for text in devices(utilisation)]
    cells = sorted(standing.running.values(), key=lambda cell: cell.began)
    if cells:
        lines.append(_running_table(cells))
    hidden = (num_running or len(cells)) - min(len(cells), MAX_ROWS)
    if hidden > 0:
        lines.append(Text(f"… {hidden} more running", style="dim"))
    return Group(*lines)


def devices(utilisation: Utilisation) -> Iterator[str]:
    """Yield a line for the processors and the memory, and one for each GPU.

    >>> list(devices(Utilisation(cpu_percent=87.4, num_cpus=2, used_bytes=3 * 2**30, total_bytes=8 * 2**30)))
    ['CPU 87 % of 2 cores, memory 3.00 GiB of 8.00 GiB']
    """
    memory = f"memory {size_bytes(utilisation.used_bytes)} of {size_bytes(utilisation.total_bytes)}"
    yield f"CPU {utilisation.cpu_percent:.0f} % of {utilisation.num_cpus} cores, {memory}"
    for gpu in utilisation.gpus:
        parts = [] if gpu.percent is None else [f"{gpu.percent:.0f} %"]
        if gpu.used_bytes is not None:
            parts.append(f"memory {size_bytes(gpu.used_bytes)} of {size_bytes(gpu.total_bytes)}")
        yield f"{gpu.name} {', '.join(parts)}"


def _running_table(cells: list[RunningCell]) -> Table:
    made = Table.grid(padding=(0, 2))
    made.add_column(justify="right", style="bold", no_wrap=True)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    now = time.monotonic()
    for cell in cells[:MAX_ROWS]:
        num_epochs = cell.num_epochs()
        most = f"/{cell.max_epochs}" if cell.max_epochs else ""
        epochs = f"epoch {num_epochs}{most}" if num_epochs else ""
        made.add_row(f"{now - cell.began:.1f} s", epochs, Text(visible(cell.label)))
    return made
