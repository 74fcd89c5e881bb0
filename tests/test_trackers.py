"""Trackers: told everything in order, and unable to hold up or break a run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mmbench.errors import Unavailable
from mmbench.part_code import check_packages
from mmbench.record import Record
from mmbench.registry import Entry, Reference
from mmbench.runner import Event, Summary
from mmbench.spec import TrackerSpec
from mmbench.trackers import Trackers, TrackerThread, open_tracker

CELL = "0123456789abcdef"
ROW = {"cell_id": CELL, "dataset": "digits"}
EPOCHS = [{"train_loss": 2.0}, {"train_loss": 1.0}]
DONE = Summary(counts={"ok": 1})


class ToyCell:
    """A planned cell, as the runner's events hold it."""

    cell_id, status, reason = CELL, "run", ""

    def row(self) -> dict[str, Any]:
        return dict(ROW)

    def payload(self) -> Mapping[str, Any]:
        return {}


def finished(**changes: Any) -> Event:
    given = {"cell_id": CELL, "status": "ok", "info": {"history": EPOCHS}, **changes}
    return Event(kind="finished", cell=ToyCell(), record=Record(**given))


def started(folder: Path) -> Event:
    return Event(kind="started", cell=ToyCell(), folder=folder)


class Notebook:
    """A tracker that writes down what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def on_run_start(self, info: Mapping[str, Any]) -> None:
        self.seen.append(("start", info["run"], info["num_cells"], info["argv"]))

    def on_cell_end(self, row: Mapping[str, Any], record: Record) -> None:
        self.seen.append(("cell", row["cell_id"], record.status))

    def on_run_end(self, summary: Summary) -> None:
        self.seen.append(("end", dict(summary.counts)))


class Watcher(Notebook):
    """One that wants to see cells train."""

    def on_epoch(self, row: Mapping[str, Any], epoch: Mapping[str, Any]) -> None:
        self.seen.append(("epoch", row["cell_id"], epoch["epoch"], epoch["train_loss"]))


def until(condition: Callable[[], bool], limit_s: float = 120.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def tell(tracker: Any, folder: Path, *, limit_s: float = 60.0) -> tuple[TrackerThread, list[str]]:
    """Tell a tracker of a run with one cell; return its thread and the warnings."""
    thread = TrackerThread("toy", tracker, limit_s=limit_s)
    trackers = Trackers(folder / "run1", [thread])
    trackers.start({"argv": ["run"]}, 1)
    trackers.on_event(started(folder))
    trackers.on_event(finished())
    trackers.end(DONE)
    return thread, [*trackers.warnings(), *trackers.warnings()]


def test_a_tracker_is_told_the_start_every_cell_and_the_end(tmp_path: Path) -> None:
    notebook = Notebook()

    _, warnings = tell(notebook, tmp_path)

    assert notebook.seen == [("start", "run1", 1, ["run"]), ("cell", CELL, "ok"), ("end", {"ok": 1})]
    assert warnings == []


def test_epochs_come_once_each_before_the_end_of_their_cell(tmp_path: Path) -> None:
    watcher = Watcher()

    tell(watcher, tmp_path)

    assert watcher.seen[1:] == [
        ("epoch", CELL, 0, 2.0), ("epoch", CELL, 1, 1.0), ("cell", CELL, "ok"), ("end", {"ok": 1}),
    ]  # fmt: skip


def test_epochs_are_passed_on_while_the_cell_still_trains(tmp_path: Path) -> None:
    watcher = Watcher()
    thread = TrackerThread("toy", watcher)
    thread.on_event(started(tmp_path), ROW)
    history = tmp_path / "history.jsonl"

    history.write_text(json.dumps(EPOCHS[0]) + "\n" + json.dumps(EPOCHS[1])[:5])
    assert until(lambda: watcher.seen == [("epoch", CELL, 0, 2.0)])
    with history.open("a") as stream:
        stream.write(json.dumps(EPOCHS[1])[5:] + "\n")
    assert until(lambda: len(watcher.seen) == 2)
    thread.on_event(finished(), ROW)
    thread.on_run_end(DONE)

    assert [line[0] for line in watcher.seen] == ["epoch", "epoch", "cell", "end"]


@pytest.mark.parametrize("line", ["not JSON", "5", "[" * 100_000])
def test_a_line_of_a_learning_curve_that_is_no_epoch_costs_no_tracker(tmp_path: Path, line: str) -> None:
    watcher = Watcher()
    thread = TrackerThread("toy", watcher)
    thread.on_event(started(tmp_path), ROW)

    (tmp_path / "history.jsonl").write_text(f"{line}\n{json.dumps(EPOCHS[0])}\n")

    assert until(lambda: watcher.seen == [("epoch", CELL, 0, 2.0)])
    thread.on_run_end(DONE)
    assert watcher.seen[1:] == [("end", {"ok": 1})]


@pytest.mark.parametrize("error", [ValueError("no such luck"), SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("hook", ["on_run_start", "on_epoch", "on_cell_end", "on_run_end"])
def test_a_tracker_that_raises_is_left_out_with_a_warning(tmp_path: Path, hook: str, error: BaseException) -> None:
    class Raises(Watcher):
        pass

    def fail(self: Any, *arguments: Any) -> None:
        raise error

    setattr(Raises, hook, fail)

    thread, warnings = tell(Raises(), tmp_path)

    assert len(warnings) == 1
    assert warnings[0].startswith(f"tracker 'toy' is left out from here on: {hook} raised ")
    if isinstance(error, ValueError):
        assert warnings[0].endswith("ValueError: no such luck")
    assert thread.failure


def test_a_tracker_that_hangs_is_left_out_and_the_others_are_told(tmp_path: Path) -> None:
    class Hangs(Notebook):
        def on_cell_end(self, row: Mapping[str, Any], record: Record) -> None:
            time.sleep(600)

    notebook = Notebook()
    threads = [TrackerThread("stuck", Hangs(), limit_s=2.0), TrackerThread("fine", notebook)]
    trackers = Trackers(tmp_path, threads)
    began = time.monotonic()

    trackers.start({"argv": []}, 1)
    trackers.on_event(finished())
    trackers.end(DONE)

    assert time.monotonic() - began < 60
    assert trackers.warnings() == ["tracker 'stuck' is left out from here on: on_cell_end took longer than 2 s"]
    assert [line[0] for line in notebook.seen] == ["start", "cell", "end"]


def test_a_tracker_may_leave_out_what_it_does_not_need(tmp_path: Path) -> None:
    assert tell(object(), tmp_path)[1] == []


def reference(factory: str, **facts: Any) -> Reference:
    spec = TrackerSpec(name="toy", factory=factory, version="1", **facts)
    return Reference(entry=Entry(spec=spec, dist="mmbench-toy", dist_version="1", plugin="toy"))


def test_a_tracker_has_a_folder_of_its_own_and_a_failing_factory_costs_no_run(tmp_path: Path) -> None:
    opened = open_tracker(tmp_path, reference("pathlib:Path"))
    failing = open_tracker(tmp_path, reference("json:loads"))

    assert opened.tracker == tmp_path / "trackers" / "toy"
    assert opened.tracker.is_dir()
    (warning,) = Trackers(tmp_path, [failing]).warnings()
    assert "TypeError: the JSON object must be str" in warning


def test_what_a_tracker_lacks_is_named_with_what_to_install() -> None:
    with pytest.raises(Unavailable) as caught:
        check_packages(reference("x:Y", requires=("no_such_package",)).entry)

    assert str(caught.value) == "mmbench-toy/toy needs no_such_package: pip install 'mmbench-toy[toy]'"


PLUGIN = """
from mmbench import TrackerSpec, hookimpl


class Lines:
    def __init__(self, folder, stamp):
        self.path = folder / "lines.txt"
        self.stamp = stamp

    def write(self, *words):
        with self.path.open("a") as stream:
            print(self.stamp, *words, file=stream)

    def on_run_start(self, info):
        self.write("start", info["run"], info["num_cells"])

    def on_epoch(self, row, epoch):
        self.write("epoch", epoch["epoch"], sorted(epoch))

    def on_cell_end(self, row, record):
        self.write("cell", row["fusion"], record.status)

    def on_run_end(self, summary):
        self.write("end", summary.counts)


class Raises:
    def __init__(self, folder):
        raise RuntimeError("no such luck")


@hookimpl
def mmbench_trackers():
    return [
        TrackerSpec(name="lines", factory="my_tracker:Lines", version="1", defaults={"stamp": "-"}),
        TrackerSpec(name="raises", factory="my_tracker:Raises", version="1"),
    ]
"""


def test_a_run_tells_its_trackers_and_needs_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "my_tracker.py").write_text(PLUGIN)
    command = [
        sys.executable, "-m", "mmbench.cli", "run", "-d", "xor", "-f", "concat", "--epochs", "2", "--limit", "40",
        "--protocol", "none", "--diagnostics", "none", "--no-baselines",
        "--plugin", "my_tracker.py", "--tracker", "lines[stamp=x]", "--tracker", "raises", "--cache", "cache",
        "-e", "mlp", "--run", "r",
    ]  # fmt: skip

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    assert "tracker 'raises' is left out from here on: RuntimeError: no such luck" in done.stdout
    names = "['epoch', 'grad_norms', 'lr', 'time_s', 'train_loss', 'val_loss', 'val_score']"
    assert (tmp_path / "results" / "r" / "trackers" / "lines" / "lines.txt").read_text().splitlines() == [
        "x start r 1", f"x epoch 0 {names}", f"x epoch 1 {names}", "x cell concat ok", "x end {'ok': 1}",
    ]  # fmt: skip
    (folder,) = (tmp_path / "results" / "r" / "cells").iterdir()
    record = json.loads((folder / "record.json").read_text())
    lines = (folder / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == record["info"]["history"]
