"""One call of `mmbench status --watch`: look on, from anywhere that sees the run's files, until the run ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from mmbench.durable import identity
from mmbench.encoding import json_text
from mmbench.heartbeat import SILENCE_S, again, who, why_gone
from mmbench.journal import CellState, Follower, note
from mmbench.progress import LINE_EVERY_S, devices, line, live_table
from mmbench.record import DONE, STATUSES
from mmbench.standing import RunningCell, Standing
from mmbench.store import PLAN_FILE, RunStore
from mmbench.utilisation import Utilisation
from mmbench.views import console, print_status

LOOK_EVERY_S = 1.0
#: What settles no cell: it is tried again at once where it had to share a GPU, else by a later command.
_RUNS_AGAIN = ("interrupted",)


class Watched:
    """A run of another process, read again and again from its files; nothing is written and no lock is taken.

    Args:
        store: Open for reading.

    Attributes:
        standing: How far the run is.
        utilisation: How busy the machine is where the cells run, where the writer says so.
        num_running: How many cells run.
        phase: What the writer is at.
    """

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self.standing = Standing()
        self.utilisation: Utilisation | None = None
        self.num_running = 0
        self.phase = ""
        self._follower = Follower(store.journal.path)
        self._states: dict[str, CellState] = {}
        self._kinds: dict[str, int] = {}  # of cells that are waited for
        self._plan: tuple[int, ...] | None = (0,)  # none is like this
        self._beat: Any = None
        self._beat_at = time.monotonic()

    def look(self) -> str:
        """Read what is new; return why there is nothing more to wait for, or "" while somebody writes."""
        writer = self.store.writer()
        self._read_journal(str(writer.get("since", "")) if writer else "")
        if writer is None:
            return "the run has ended" if self._beat is not None else "nobody is writing this run"
        self._take_news(writer)
        gone = why_gone(self.store, writer)
        beat = writer.get("beat")
        if gone or beat is None:
            return gone
        if beat != self._beat:
            self._beat, self._beat_at = beat, time.monotonic()
        elif time.monotonic() - self._beat_at > SILENCE_S:
            return f"{who(writer)} has given no sign of life for {SILENCE_S:.0f} s; {again(self.store)}"
        return ""

    def to_json(self) -> dict[str, Any]:
        """Return what is known as plain JSON."""
        standing, now = self.standing, time.monotonic()
        return {
            "run": self.store.name,
            "counts": dict(standing.counts),
            "num_planned": standing.num_planned,
            "num_settled": standing.num_settled,
            "remaining_s": standing.remaining_s(),
            "num_running": self.num_running,
            "running": [
                {
                    "cell_id": cell_id,
                    "label": cell.label,
                    "elapsed_s": round(now - cell.began, 1),
                    "num_epochs": cell.num_epochs(),
                    "max_epochs": cell.max_epochs,
                }
                for cell_id, cell in standing.running.items()
            ],
            "utilisation": self.utilisation.to_json() if self.utilisation is not None else None,
        }

    def _read_journal(self, since: str) -> None:
        plan = identity(self.store.folder / PLAN_FILE)
        if plan != self._plan or self._follower.was_replaced():
            self._plan = plan
            self._begin_anew(since)
            return
        for data in self._new_records():
            state = note(self._states, data)
            if state.status in _RUNS_AGAIN:
                continue
            kind = self._kinds.pop(data["cell_id"], None)
            if kind is not None:
                self.standing.end(data["cell_id"], state.status, state.duration_s, kind)

    def _begin_anew(self, since: str) -> None:
        """Read the plan and the whole journal: at first, and when somebody widened the selection."""
        self._follower = Follower(self.store.journal.path)
        self._states = {}
        tried = set()
        for data in self._new_records():
            state = note(self._states, data)
            if since and str(data.get("started_at", "")) >= since and state.status not in (*DONE, *_RUNS_AGAIN):
                tried.add(data["cell_id"])  # by the process that writes now: it tries nothing twice
        about = self.store.read_run().get("config", {})
        epochs = {label: facts.get("train", {}).get("epochs") for label, facts in self.store.datasets().items()}
        standing = Standing(retry=frozenset(about.get("retry", ())), epochs=epochs)
        self._kinds = {}
        for row in self.store.planned():
            cell_id, left = row["cell_id"], standing.num_left
            found = self._states.get(cell_id)
            kind = standing.expect(row, found)
            if standing.num_left == left:
                continue
            if found is not None and cell_id in tried:
                standing.end(cell_id, found.status, found.duration_s, kind)
            else:
                self._kinds[cell_id] = kind
        self.standing = standing

    def _new_records(self) -> Iterator[dict[str, Any]]:
        return (data for data in self._follower.new_records() if data.get("status") in STATUSES)

    def _take_news(self, writer: dict[str, Any]) -> None:
        """Take what the writer says of running cells and of its machine; what cannot be read is no news."""
        try:
            self.phase = str(writer.get("phase", ""))
            self.standing.at_once = int(writer.get("at_once", 1))
            busy = writer.get("utilisation")
            self.utilisation = None if busy is None else Utilisation.from_json(busy)
            running = {cell["cell_id"]: cell for cell in writer.get("running", ())}
            for cell_id in self.standing.running.keys() - running.keys():
                self.standing.leave(cell_id)
            for cell_id in running.keys() & self._kinds.keys():
                cell, known = self._running_cell(cell_id, running[cell_id]), self.standing.running.get(cell_id)
                if known is None or known.folder != cell.folder:
                    self.standing.enter(cell_id, cell)
            # Of more cells than the file names it says the number; a beat may be older than the journal.
            self.num_running = len(self.standing.running) + int(writer.get("num_running", 0)) - len(running)
        except (TypeError, KeyError, ValueError, AttributeError):
            self.utilisation = None

    def _running_cell(self, cell_id: str, news: dict[str, Any]) -> RunningCell:
        place = Path(str(news["folder"]))
        inside = place.parts and not place.anchor and ".." not in place.parts
        return RunningCell(
            label=str(news["label"]),
            kind=self._kinds[cell_id],
            began=time.monotonic() - float(news["elapsed_s"]),
            folder=self.store.folder / place if inside else None,
            max_epochs=news["max_epochs"] if isinstance(news["max_epochs"], int) else None,
        )


def watch(store: RunStore, *, as_json: bool = False) -> int:
    """Show how a run goes until nobody writes it any more; return the exit code: 0, or 130 after Ctrl-C."""
    try:
        with store:
            watched = Watched(store)
            ended = _show_json(watched) if as_json else _show(watched)
            if not as_json:
                print_status(store)
                console().print(Text(ended))
    except KeyboardInterrupt:
        return 130
    return 0


def _show(watched: Watched) -> str:
    out = console()
    if not out.is_terminal:
        return _show_lines(watched)
    with Live(console=out, auto_refresh=False, transient=True) as live:
        while not (ended := watched.look()):
            title = f"run {watched.store.name}" + (", writing its report" if watched.phase == "reporting" else "")
            table = live_table(watched.standing, watched.utilisation, num_running=watched.num_running)
            live.update(Group(Text(title), table), refresh=True)
            time.sleep(LOOK_EVERY_S)
    return ended


def _show_lines(watched: Watched) -> str:
    out = console()
    said, said_at = "", -LINE_EVERY_S
    while not (ended := watched.look()):
        now = time.monotonic()
        if now - said_at >= LINE_EVERY_S and line(watched.standing) != said:
            said, said_at = line(watched.standing), now
            busy = "" if watched.utilisation is None else f"; {'; '.join(devices(watched.utilisation))}"
            out.print(f"{said}{busy}")
        time.sleep(LOOK_EVERY_S)
    return ended


def _show_json(watched: Watched) -> str:
    """Write a line whenever somebody might want one; the last says why there are no more."""
    ended = ""
    while not ended:
        ended = watched.look()
        sys.stdout.write(json_text({**watched.to_json(), "ended": ended}, indent=None) + "\n")
        sys.stdout.flush()
        if not ended:
            time.sleep(LOOK_EVERY_S)
    return ended
