"""Processes that take turns on a device: many train at once, one measures alone, none waits for the dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import pytest

from mmbench.device_turn import DeviceTurn, gpu_name

#: ``python -c TRAIN FOLDER LOG EPOCH_S``: each epoch is written down with its beginning and its end; the last is the one
#: that finds a file ``stop``.
TRAIN = """
import sys, time, json
from pathlib import Path
from mmbench.device_turn import DeviceTurn
folder, log, epoch_s = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
print("here", flush=True)
with DeviceTurn("GPU-1", folder) as turn:
    last = False
    while not last:
        last = (folder / "stop").exists()
        began = time.monotonic()
        time.sleep(epoch_s)
        with log.open("a") as stream:
            stream.write(json.dumps([began, time.monotonic()]) + "\\n")
        turn.pause()
"""
#: ``python -c MEASURE FOLDER SECONDS``: waits to be alone, says so, and stays for a while.
MEASURE = """
import sys, time
from itertools import pairwise
from pathlib import Path
from mmbench.device_turn import DeviceTurn, gpu_name
with DeviceTurn("GPU-1", Path(sys.argv[1])) as turn:
    with turn.alone(60.0) as alone:
        began = time.monotonic()
        print(alone, flush=True)
        time.sleep(float(sys.argv[2]))
        print(began, time.monotonic(), flush=True)
"""


def start(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def wait_until(condition, timeout_s=120.0):
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, "it never came to it"
        time.sleep(0.01)


def epochs(log: Path):
    return [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []


def test_who_measures_is_alone_and_those_who_train_go_on_afterwards(tmp_path):
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    trainings = [start(TRAIN, tmp_path, log, 0.03) for log in logs]
    wait_until(lambda: all(epochs(log) for log in logs))

    said, window = start(MEASURE, tmp_path, 0.3).communicate(timeout=120)[0].splitlines()
    began, ended = map(float, window.split())
    wait_until(lambda: all(epochs(log)[-1][0] >= ended for log in logs))
    (tmp_path / "stop").touch()
    for training in trainings:
        assert training.wait(timeout=120) == 0

    assert said == "True"
    assert ended - began >= 0.3
    for log in logs:
        assert any(span[1] <= began for span in epochs(log))
        assert [span for span in epochs(log) if span[0] < ended and span[1] > began] == []


def test_those_who_train_do_so_at_the_same_time(tmp_path):
    logs = [tmp_path / "one.log", tmp_path / "two.log"]
    trainings = [start(TRAIN, tmp_path, log, 0.05) for log in logs]
    wait_until(lambda: all(len(epochs(log)) > 5 for log in logs))
    (tmp_path / "stop").touch()
    for training in trainings:
        assert training.wait(timeout=120) == 0

    first, second = (epochs(log) for log in logs)
    assert any(one[0] < other[1] and other[0] < one[1] for one in first for other in second)


def test_two_who_want_to_be_alone_are_so_one_after_the_other(tmp_path):
    measuring = [start(MEASURE, tmp_path, 0.2) for _ in range(3)]
    said = [process.communicate(timeout=120)[0].splitlines() for process in measuring]

    windows = sorted(tuple(map(float, window.split())) for _, window in said)
    assert [alone for alone, _ in said] == ["True"] * 3
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(windows))


def test_one_that_is_killed_while_it_measures_holds_nobody_back(tmp_path):
    measuring = start(MEASURE, tmp_path, 60)
    assert measuring.stdout.readline() == "True\n"
    os.kill(measuring.pid, signal.SIGKILL)
    measuring.wait()

    with DeviceTurn("GPU-1", tmp_path) as turn, turn.alone(60.0) as alone:
        assert alone is True
        assert turn.num_others() == 0


def test_where_an_epoch_takes_too_long_the_measurement_knows_that_it_was_not_alone(tmp_path):
    (tmp_path / "stop").touch()
    training = start(TRAIN, tmp_path, tmp_path / "log", 4.0)
    wait_until(lambda: (tmp_path / "mmbench-GPU-1.present" / str(training.pid)).exists())
    with DeviceTurn("GPU-1", tmp_path) as turn:
        time.sleep(0.1)
        began = time.monotonic()
        with turn.alone(0.2) as alone:
            waited = time.monotonic() - began
            assert turn.num_others() == 1
        turn.pause()  # nobody is locked out by the attempt

    assert alone is False
    assert 0.2 <= waited < 3.5
    assert training.wait(timeout=120) == 0


@pytest.mark.parametrize(
    ("index", "visible", "expected"),
    [
        (0, None, "gpu-0"),
        (2, "", "gpu-2"),
        (0, "3, 5", "gpu-3"),
        (1, "3, 5", "gpu-5"),
        (0, "GPU-8932f937", "gpu-GPU-8932f937"),
    ],
)
def test_a_gpu_has_one_name_for_all_processes_whichever_they_see(index, visible, expected):
    assert gpu_name(index, visible) == expected


def test_who_waits_at_the_gate_is_not_taken_for_one_that_holds_the_device(tmp_path):
    with DeviceTurn("GPU-1", tmp_path) as turn, turn.alone() as alone:
        (tmp_path / "stop").touch()
        waiting = start(TRAIN, tmp_path, tmp_path / "log", 0.0)
        assert waiting.stdout.readline() == "here\n"
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(timeout=0.5)
        assert alone is True
        assert turn.num_others() == 0
    assert waiting.wait(timeout=120) == 0


def test_others_on_another_device_do_not_matter(tmp_path):
    with (
        DeviceTurn("GPU-1", tmp_path) as one,
        DeviceTurn("GPU-2", tmp_path) as other,
        one.alone(60.0) as first,
        other.alone(60.0) as second,
    ):
        assert (first, second) == (True, True)


def test_a_device_that_is_not_shared_by_turns_never_waits_and_says_nothing(tmp_path):
    with DeviceTurn(None, tmp_path) as turn, turn.alone() as alone:
        turn.pause()

    assert alone is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_where_locks_cannot_be_written_nobody_claims_to_be_alone(tmp_path):
    tmp_path.chmod(0o500)
    with DeviceTurn("GPU-1", tmp_path) as turn, turn.alone() as alone:
        assert alone is None


def test_where_the_folder_of_locks_is_gone_nobody_claims_to_be_alone(tmp_path):
    with DeviceTurn("GPU-1", tmp_path / "nowhere") as turn, turn.alone() as alone:
        assert alone is None


def test_a_process_of_another_container_with_the_same_number_is_not_waited_for_and_keeps_its_place(tmp_path):
    """Containers may share a folder for temporary files and no numbers of processes."""
    code = """
import fcntl, os, sys
from pathlib import Path
from mmbench.device_turn import DeviceTurn
present = Path(sys.argv[1]) / "mmbench-GPU-1.present"
present.mkdir()
other = (present / str(os.getpid())).open("w")
fcntl.flock(other, fcntl.LOCK_EX)
with DeviceTurn("GPU-1", Path(sys.argv[1])) as turn, turn.alone(60.0) as alone:
    print(alone)
print(len(list(present.iterdir())))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)

    assert done.stdout == "True\n1\n", done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_users_of_one_machine_take_turns_with_each_other():
    code = """
import fcntl, os, sys  # fcntl at once: afterwards Python's own folder may be out of reach
from pathlib import Path
from mmbench.device_turn import DeviceTurn
os.setuid(int(sys.argv[1]))
os.umask(0o077)
with DeviceTurn("GPU-1", Path(sys.argv[2])) as turn:
    print(turn.num_others(), flush=True)
    if len(sys.argv) > 3:
        sys.stdin.readline()
        turn.pause()
    with turn.alone(60.0) as alone:
        print(alone)
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o1777)
        command = [sys.executable, "-c", code]
        first = subprocess.Popen(
            [*command, "12345", folder, "stays"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert first.stdout.readline() == "0\n"
        second = subprocess.Popen([*command, "12346", folder], stdout=subprocess.PIPE, text=True)
        assert second.stdout.readline() == "1\n"
        said, _ = first.communicate("\n", timeout=120)

        assert (said, second.communicate(timeout=120)[0]) == ("True\n", "True\n")
