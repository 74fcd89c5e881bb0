"""`mmbench status --watch`: what it reads of a run that another process writes, and when it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mmbench import status_session
from mmbench.heartbeat import Heartbeat
from mmbench.journal import Journal
from mmbench.record import Record
from mmbench.standing import Standing
from mmbench.status_session import Watched
from mmbench.store import RunStore

pytestmark = pytest.mark.serial

SIX_CELLS = ("-d", "xor", "-f", "concat", "-f", "gated", "-f", "sum", "--protocol", "none")
DATASETS = {"digits": {"train": {"epochs": 8}}}


def row(number: int, **changes: Any) -> dict[str, Any]:
    about = {"dataset": "digits", "encoders": "image:cnn", "fusion": "concat", "seed": number, "role": "cell"}
    return {"cell_id": f"{number:016x}", **about, "status": "run", "reason": "", **changes}


def record(number: int, status: str = "ok", started_at: str = "", duration_s: float = 10.0) -> Record:
    return Record(
        cell_id=f"{number:016x}",
        status=status,  # type: ignore[arg-type]
        started_at=started_at,
        duration_s=duration_s,
    )


@pytest.fixture
def written(tmp_path: Path) -> Iterator[RunStore]:
    """A run of ten cells that this process writes."""
    with RunStore.create(tmp_path / "run") as store:
        store.write_plan((row(number) for number in range(10)), DATASETS)
        store.write_run({"config": {"retry": ["failed"]}})
        yield store


def reader(store: RunStore) -> Watched:
    return Watched(RunStore.open(store.folder))


def test_what_the_writer_appends_is_counted_as_it_comes_and_read_once(written: RunStore) -> None:
    journal = Journal(written.folder / "journal.jsonl")
    watched = reader(written)
    assert watched.look() == ""
    assert (watched.standing.num_planned, watched.standing.num_settled) == (10, 0)

    for number in range(4):
        journal.append(record(number))
    journal.append(record(4, "failed"))
    assert watched.look() == ""
    assert watched.standing.counts == {"ok": 4, "failed": 1}
    offset = watched._follower._offset
    assert watched.look() == ""
    assert watched._follower._offset == offset == (written.folder / "journal.jsonl").stat().st_size
    assert watched.standing.num_left == 5


def test_running_cells_their_epochs_and_the_rest_are_shown_as_the_run_shows_them(written: RunStore) -> None:
    journal = Journal(written.folder / "journal.jsonl")
    for number in range(4):
        journal.append(record(number))
    theirs = Standing(at_once=2)
    for number in range(10):
        theirs.expect(row(number))
    folder = written.begin(row(5)["cell_id"], 1)
    (folder / "history.jsonl").write_text("{}\n{}\n{}\n")
    theirs.begin(row(5), folder)
    theirs.epochs = {"digits": 8}
    heart = Heartbeat(written, theirs)
    written.tell_readers(heart._news())
    watched = reader(written)

    assert watched.look() == ""
    data = watched.to_json()

    assert [(cell["label"], cell["num_epochs"]) for cell in data["running"]] == [
        ("digits  image:cnn  concat  seed 5", 3)
    ]
    assert data["remaining_s"] == pytest.approx(30.0, abs=2.0)  # six of ten seconds, two at a time


def test_seeds_that_train_together_each_show_their_own_epochs(written: RunStore) -> None:
    theirs = Standing()
    folder = written.begin(row(5)["cell_id"], 1)  # of the job; each cell of it writes into a folder of its own
    for number, curve in ((5, "{}\n{}\n{}\n"), (6, "{}\n")):
        own = folder / row(number)["cell_id"]
        own.mkdir()
        (own / "history.jsonl").write_text(curve)
        theirs.begin(row(number), own)
    earlier = written.cell_folder(
        row(6)["cell_id"]
    )  # an attempt that failed, whose files are there until this one ends
    earlier.mkdir()
    (earlier / "history.jsonl").write_text("{}\n" * 50)
    written.tell_readers(Heartbeat(written, theirs)._news())
    watched = reader(written)

    watched.look()

    running = {cell["cell_id"]: cell["num_epochs"] for cell in watched.to_json()["running"]}
    assert running == {row(5)["cell_id"]: 3, row(6)["cell_id"]: 1}


def test_a_cell_that_no_longer_runs_is_waited_for_until_its_line_comes(written: RunStore) -> None:
    theirs = Standing()
    theirs.begin(row(5))
    heart = Heartbeat(written, theirs)
    written.tell_readers(heart._news())
    watched = reader(written)
    watched.look()
    assert set(watched.standing.running) == {row(5)["cell_id"]}

    theirs.running.clear()
    written.tell_readers(heart._news())
    watched.look()
    assert (set(watched.standing.running), watched.standing.num_left) == (set(), 10)
    Journal(written.folder / "journal.jsonl").append(record(5))
    watched.look()
    assert watched.standing.num_left == 9


def test_a_cell_that_starts_anew_shows_its_new_attempt(written: RunStore) -> None:
    theirs = Standing()
    heart = Heartbeat(written, theirs)
    watched = reader(written)
    shown = []
    for attempt, num_epochs in ((1, 7), (2, 3)):  # as when the seeds that trained together run one by one
        folder = written.begin(row(5)["cell_id"], attempt)
        (folder / "history.jsonl").write_text("{}\n" * num_epochs)
        theirs.begin(row(5), folder)
        written.tell_readers(heart._news())
        watched.look()
        shown += [cell["num_epochs"] for cell in watched.to_json()["running"]]

    assert shown == [7, 3]
    assert watched.standing.num_left == 10
    assert sum(watched.standing._waiting.values()) == 9


@pytest.mark.parametrize("before", [True, False])
def test_a_cell_that_was_interrupted_is_waited_for(written: RunStore, before: bool) -> None:
    journal = Journal(written.folder / "journal.jsonl")
    watched = reader(written)
    if not before:
        watched.look()
    journal.append(record(5, "interrupted", "2999-01-01T00:00:00.000+00:00"))  # beside others, for want of GPU memory
    watched.look()
    assert (watched.standing.num_settled, watched.standing.counts) == (0, {})
    journal.append(record(5))
    watched.look()

    assert (watched.standing.num_settled, watched.standing.counts) == (1, {"ok": 1})


def test_a_cell_that_ended_since_the_last_beat_is_not_counted_as_running(written: RunStore) -> None:
    theirs = Standing()
    for number in range(3):
        theirs.begin(row(number))
    written.tell_readers(Heartbeat(written, theirs)._news())
    watched = reader(written)
    watched.look()
    assert watched.num_running == 3

    Journal(written.folder / "journal.jsonl").append(record(0))
    watched.look()

    assert watched.num_running == 2


def test_what_an_earlier_command_left_is_tried_again_and_what_this_one_tried_is_not(written: RunStore) -> None:
    journal = Journal(written.folder / "journal.jsonl")
    journal.append(record(1, "failed", "2001-01-01T00:00:00.000+00:00"))
    journal.append(record(2, "failed", "2999-01-01T00:00:00.000+00:00"))
    journal.append(record(3, "killed", "2001-01-01T00:00:00.000+00:00"))

    watched = reader(written)
    watched.look()

    assert (watched.standing.num_settled, watched.standing.counts) == (1, {"failed": 1})


def test_a_selection_that_was_widened_meanwhile_is_read_anew(written: RunStore) -> None:
    watched = reader(written)
    watched.look()
    Journal(written.folder / "journal.jsonl").append(record(3))
    written.write_plan((row(number) for number in range(20)), DATASETS)

    assert watched.look() == ""

    assert (watched.standing.num_planned, watched.standing.num_settled) == (20, 1)


def test_a_run_that_ends_with_a_new_plan_is_known_to_have_been_written(written: RunStore) -> None:
    written.tell_readers({"beat": 1})
    watched = reader(written)
    watched.look()
    written.write_plan((row(number) for number in range(20)), DATASETS)
    written.close()

    assert watched.look() == "the run has ended"


def test_it_ends_when_the_writer_has_closed_the_run(written: RunStore) -> None:
    Heartbeat(written, Standing())
    written.tell_readers({"beat": 1})
    watched = reader(written)
    assert watched.look() == ""

    written.close()

    assert watched.look() == "the run has ended"
    assert reader(written).look() == "nobody is writing this run"


def pretend(store: RunStore, **writer: Any) -> None:
    """Leave the writer's file of another process."""
    told = {"pid": os.getpid(), "host": socket.gethostname(), "since": "2026-11-21T10:00:00+00:00", **writer}
    (store.folder / ".writer.json").write_text(json.dumps(told))


def test_a_dead_writer_on_this_machine_is_called_so_at_once(written: RunStore) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    pretend(written, pid=ended.pid)

    assert reader(written).look() == (
        f"the writer, process {ended.pid} on {socket.gethostname()} since 2026-11-21T10:00:00+00:00, has died without "
        "ending the run; `mmbench run --run run` with its selection continues it"
    )


def test_a_later_process_of_the_same_number_is_not_taken_for_the_writer(written: RunStore) -> None:
    pretend(written, since="2001-01-01T00:00:00+00:00")

    assert "has died" in reader(written).look()


def test_a_silent_writer_on_another_machine_is_given_up_after_a_while(
    written: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_session, "SILENCE_S", 0.2)
    pretend(written, host="elsewhere", pid=1, beat=1)
    watched = reader(written)
    assert watched.look() == ""
    pretend(written, host="elsewhere", pid=1, beat=2)
    time.sleep(0.3)
    assert watched.look() == ""  # it spoke
    time.sleep(0.3)

    assert "process 1 on elsewhere" in (ended := watched.look())
    assert "has given no sign of life for 0 s" in ended


@pytest.mark.parametrize("text", ["", "[]", "{", '{"beat": 1, "running": [{}], "utilisation": {"x": 1}}'])
def test_a_writers_file_that_cannot_be_read_breaks_nothing(written: RunStore, text: str) -> None:
    (written.folder / ".writer.json").write_text(text)

    watched = reader(written)
    watched.look()

    assert watched.standing.num_planned == 10


@pytest.mark.parametrize("folder", ["../../etc", "cells/../../other/cells/x", "/etc", ""])
def test_the_folder_of_an_attempt_cannot_lead_out_of_the_run(written: RunStore, folder: str) -> None:
    cell = {"cell_id": row(5)["cell_id"], "label": "x", "folder": folder, "max_epochs": 1, "elapsed_s": 1.0}
    written.tell_readers({"beat": 1, "running": [cell]})
    watched = reader(written)
    watched.look()

    assert watched.standing.running[row(5)["cell_id"]].folder is None


# --- the command ---


def mmbench(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mmbench.cli", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def begin_run(cwd: Path) -> subprocess.Popen[str]:
    """Start a run of six cells that takes its time, and wait until the first has ended."""
    selection = (*SIX_CELLS, "--epochs", "150", "--set", "patience=0")  # longer than several beats of the writer
    process = mmbench("run", *selection, "-j", "1", "--run", "seen", cwd=cwd)
    until = time.monotonic() + 120
    while not (cwd / "results/seen/journal.jsonl").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    return process


@pytest.mark.slow
def test_a_run_is_watched_to_its_end_from_another_process(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    plain = mmbench("status", "seen", "--watch", cwd=tmp_path)
    lines = mmbench("status", "seen", "--watch", "--json", cwd=tmp_path)
    run.communicate(timeout=300)

    text, _ = plain.communicate(timeout=60)
    told = [json.loads(line) for line in lines.communicate(timeout=60)[0].splitlines()]

    assert (run.returncode, plain.returncode, lines.returncode) == (0, 0, 0)
    assert "/6 cells" in text
    assert text.rstrip().endswith("the run has ended")
    settled = [found["num_settled"] for found in told]
    assert settled == sorted(settled)
    assert settled[-1] == 6
    assert any(cell["num_epochs"] for found in told for cell in found["running"])
    assert any(found["utilisation"] for found in told)
    assert [found["ended"] for found in told][-2:] == ["", "the run has ended"]


@pytest.mark.slow
def test_a_killed_run_is_called_dead_and_ctrl_c_ends_the_watching_alone(tmp_path: Path) -> None:
    run = begin_run(tmp_path)
    watcher = mmbench("status", "seen", "--watch", cwd=tmp_path)
    assert watcher.stdout is not None
    assert "/6 cells" in watcher.stdout.readline()
    watcher.send_signal(signal.SIGINT)
    _, said = watcher.communicate(timeout=60)
    assert (watcher.returncode, said) == (130, "")
    assert run.poll() is None

    run.kill()
    run.communicate()
    after = mmbench("status", "seen", "--watch", cwd=tmp_path)
    text, _ = after.communicate(timeout=60)

    assert after.returncode == 0
    assert f"the writer, process {run.pid} on" in text
    assert "has died without ending the run" in text


def on_a_terminal(*arguments: str, cwd: Path) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its exit code and all that it drew, without the drawing."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mmbench.cli", *arguments],
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"},
    )
    os.close(theirs)
    drawn = b""
    with suppress(OSError):  # what the kernel says when the other end is closed
        while part := os.read(ours, 65536):
            drawn += part
    os.close(ours)
    return process.wait(60), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode(errors="replace"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_epochs_devices_and_time_left_in_the_run_and_beside_it(tmp_path: Path) -> None:
    beside: list[tuple[int, str]] = []

    def look_on() -> None:
        while not (tmp_path / "results/seen/journal.jsonl").exists():
            time.sleep(0.1)
        beside.append(on_a_terminal("status", "seen", "--watch", cwd=tmp_path))

    watcher = threading.Thread(target=look_on)
    watcher.start()
    selection = (*SIX_CELLS, "--epochs", "150", "--set", "patience=0")  # longer than several beats of the writer
    code, drawn = on_a_terminal("run", *selection, "-j", "1", "--run", "seen", cwd=tmp_path)
    watcher.join(60)

    assert code == 0
    [(watched_code, watched)] = beside
    assert watched_code == 0
    for text in (drawn, watched):
        assert re.search(r"\d/6 cells", text)
        assert re.search(r"epoch \d+/150", text)
        assert re.search(r"CPU \d+ % of \d+ cores, memory [\d.]+ GiB of", text)
        assert re.search(r"xor  a:mlp \+ b:mlp  (concat|gated|sum)  seed 0", text)
    assert "about" in drawn
    assert "the run has ended" in watched
