"""Telling trackers how a run goes: each on a thread of its own, so that none can hold up or break the run."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mmbench.errors import MmbenchError
from mmbench.loading import in_words
from mmbench.part_code import load_factory
from mmbench.record import HISTORY_FILE, Record
from mmbench.registry import Reference
from mmbench.runner import Event, Summary
from mmbench.tail import Tail

FOLDER = "trackers"
#: A tracker that takes longer over one call is left out; opening it may take longer, for that imports libraries.
CALL_LIMIT_S = 10.0
OPEN_LIMIT_S = 60.0
#: How often learning curves of running cells are looked at, where a tracker wants them.
POLL_S = 0.5


class Tracker(Protocol):
    """What a tracker's factory returns; it may leave out any of these, and add `on_epoch`.

    ``on_epoch(row, epoch)`` is called for every epoch of a cell, while it trains where that is possible, and before its
    `on_cell_end`: `epoch` is an `mmbench.train.Epoch` as plain JSON, with its number from 0 as "epoch".
    """

    def on_run_start(self, info: Mapping[str, Any]) -> None:
        """Take note of a run: ``run``, ``folder``, ``num_cells`` to run, and what ``run.json`` holds."""

    def on_cell_end(self, row: Mapping[str, Any], record: Record) -> None:
        """Take note of a cell, as a line of the plan, and of how it went; `record.info["history"]` has its curve."""

    def on_run_end(self, summary: Summary) -> None:
        """Take note of the end, when the report is written; flush and close."""


@dataclass
class _Curve:
    """How much of a running cell's learning curve was passed on."""

    row: Mapping[str, Any]
    lines: Tail
    num_epochs: int = 0


class TrackerThread:
    """One tracker and the thread that calls it, in the order of events.

    Args:
        name: As warnings call it.
        tracker: What the factory returned.
        limit_s: How long a call may take.
    """

    def __init__(self, name: str, tracker: Any, *, limit_s: float = CALL_LIMIT_S) -> None:
        self.name = name
        self.tracker = tracker
        self.limit_s = limit_s
        self.failure = ""
        self._wants_epochs = callable(getattr(tracker, "on_epoch", None))
        self._events: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._curves: dict[str, _Curve] = {}
        self._busy: tuple[str, float] | None = None
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def on_run_start(self, info: Mapping[str, Any]) -> None:
        """Pass on the start of the run."""
        self._events.put(lambda: self._call("on_run_start", info))

    def on_event(self, event: Event, row: Mapping[str, Any]) -> None:
        """Pass on what the runner says of one cell; `row` is its line of the plan."""
        if event.kind == "started" and event.folder is not None and self._wants_epochs:
            curve = _Curve(row, Tail(event.folder / HISTORY_FILE))
            self._events.put(lambda: self._curves.__setitem__(row["cell_id"], curve))
        elif event.kind == "finished" and event.record is not None:
            record = event.record
            self._events.put(lambda: self._end_cell(row, record))

    def on_run_end(self, summary: Summary) -> None:
        """Pass on the end of the run, and wait until the tracker has dealt with everything, or is stuck."""
        self._events.put(lambda: self._call("on_run_end", summary))
        self._events.put(None)
        while self._thread.is_alive() and not self.check():
            self._thread.join(0.05)

    def check(self) -> str:
        """Return why the tracker was left out, or ""; leaves it out when it takes too long."""
        busy = self._busy
        if not self.failure and busy is not None and time.monotonic() - busy[1] > self.limit_s:
            self.failure = f"{busy[0]} took longer than {self.limit_s:g} s"
        return self.failure

    def _work(self) -> None:
        wait_s = POLL_S if self._wants_epochs else None
        while not self.failure:
            try:
                step = self._events.get(timeout=wait_s)
            except queue.Empty:
                for curve in list(self._curves.values()):
                    self._look_on(curve)
                continue
            if step is None:
                return
            step()

    def _call(self, hook: str, *arguments: Any) -> None:
        function = getattr(self.tracker, hook, None)
        if self.failure or function is None:
            return
        self._busy = (hook, time.monotonic())
        try:
            function(*arguments)
        except BaseException as error:  # nothing that a tracker raises may end the run
            self.failure = self.failure or f"{hook} raised {in_words(error)}"
        finally:
            self._busy = None

    def _look_on(self, curve: _Curve) -> None:
        """Pass on the epochs that a running cell has written since; of one that has ended the record has them all."""
        for line in list(curve.lines.new_lines()):
            try:
                epoch = json.loads(line)
            except (ValueError, RecursionError):  # a cell can write what it likes
                continue
            self._pass_on(curve, epoch)

    def _end_cell(self, row: Mapping[str, Any], record: Record) -> None:
        if self._wants_epochs:
            curve = self._curves.pop(row["cell_id"], None) or _Curve(row, Tail(Path()))
            history = record.info.get("history")
            for epoch in (history if isinstance(history, list) else [])[curve.num_epochs :]:
                self._pass_on(curve, epoch)
        self._call("on_cell_end", row, record)

    def _pass_on(self, curve: _Curve, epoch: Any) -> None:
        if isinstance(epoch, Mapping):
            self._call("on_epoch", curve.row, {"epoch": curve.num_epochs, **epoch})
            curve.num_epochs += 1


class Trackers:
    """All trackers of a run.

    Args:
        folder: Of the run.
        threads: One for each tracker.
    """

    def __init__(self, folder: Path, threads: Sequence[TrackerThread] = ()) -> None:
        self.folder = folder
        self._threads = list(threads)
        self._told: set[str] = set()

    def start(self, about: Mapping[str, Any], num_cells: int) -> None:
        """Tell that a run starts.

        Args:
            about: ``run.json``.
            num_cells: How many cells are to be run.
        """
        info = {**about, "run": self.folder.name, "folder": str(self.folder), "num_cells": num_cells}
        for thread in self._threads:
            thread.on_run_start(info)

    def on_event(self, event: Event) -> None:
        """Tell what the runner says; returns at once."""
        if not self._threads or event.cell is None:
            return
        row = event.cell.row()
        for thread in self._threads:
            thread.on_event(event, dict(row))

    def end(self, summary: Summary) -> None:
        """Tell that the run is over, and wait until every tracker is done or stuck."""
        for thread in self._threads:
            thread.on_run_end(summary)

    def warnings(self) -> list[str]:
        """Return, once for each, what trackers were left out and why."""
        found = []
        for thread in self._threads:
            failure = thread.check()
            if failure and thread.name not in self._told:
                self._told.add(thread.name)
                found.append(f"tracker {thread.name!r} is left out from here on: {failure}")
        return found


def open_tracker(folder: Path, reference: Reference, *, limit_s: float = OPEN_LIMIT_S) -> TrackerThread:
    """Make the tracker that a reference means and the thread that calls it.

    A factory that fails in any other way than `Unavailable` gives a thread that has failed already.

    Args:
        folder: Of the run.
        reference: To a tracker.
        limit_s: How long its factory may take.

    Raises:
        Unavailable: it cannot work here, and says why.
        PluginError: there is no such factory.
    """
    spec = reference.entry.spec
    found: list[Any] = []

    def make() -> None:
        try:
            place = folder / FOLDER / spec.name
            place.mkdir(parents=True, exist_ok=True)
            found.append(load_factory(reference.entry)(place, **reference.options))
        except BaseException as error:  # raised or noted by the thread that waits
            found.append(error)

    maker = threading.Thread(target=make, name=f"tracker {spec.name} opening", daemon=True)
    maker.start()
    maker.join(limit_s)
    made = found[0] if found else TimeoutError(f"its factory took longer than {limit_s:g} s")
    if isinstance(made, MmbenchError):
        raise made
    thread = TrackerThread(spec.name, None if isinstance(made, BaseException) else made)
    if isinstance(made, BaseException):
        thread.failure = in_words(made)
    return thread
