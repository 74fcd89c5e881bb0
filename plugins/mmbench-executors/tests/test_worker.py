"""A cell on a host that was lent: how it went, and what the host itself can do wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from mmbench_executors.request import make_request, outcome_from_json, read_result, search_path
from mmbench_executors.worker import Worker, run_to_file

from mmbench.executors import Job

CELLS = """
import shutil, time

def quick(payload, folder):
    (folder / "made.txt").write_text("by the cell")
    return {"metrics": [{"phase": "evaluate", "name": "accuracy", "value": payload["value"]}], "info": {"a": 1}}

def fill(payload, folder):
    with open(folder / "large.bin", "wb") as stream:
        while True:
            stream.write(b"x" * 65536)

def give_much(payload, folder):
    with open(folder / "large.bin", "wb") as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
                stream.flush()
        except OSError:
            pass
    return {"info": {"text": "x" * 200_000}}

def lose(payload, folder):
    shutil.rmtree(folder)
    time.sleep(60)

def wrong(payload, folder):
    raise ValueError("the cell's own mistake")
"""


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for cells, with a module of their functions beside it."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "worker_cells.py").write_text(CELLS)
    monkeypatch.syspath_prepend(tmp_path / "code")
    return tmp_path


def job(folder: Path, function: str, **payload: Any) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    return Job(cell_id="0" * 16, function=f"worker_cells:{function}", payload=payload, folder=folder)


def run(request: dict[str, Any]) -> dict[str, Any]:
    with Worker(preload=()) as worker:
        return worker.run(request)


def run_to_result(request: dict[str, Any]) -> dict[str, Any]:
    """Run a request and read what is left in its folder."""
    result = Path(request["folder"]) / "result.json"
    with Worker(preload=()) as worker:
        run_to_file(worker, request, result)
    told = read_result(result)
    assert told is not None
    return told


def run_elsewhere(request: dict[str, Any], **variables: str) -> dict[str, Any]:
    """Run a request in another interpreter, as a host would."""
    code = """
        import json, sys
        from mmbench_executors.worker import Worker
        with Worker(preload=()) as worker:
            print(json.dumps(worker.run(json.load(sys.stdin))))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        input=json.dumps(request), capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, **variables},
    )  # fmt: skip
    return json.loads(done.stdout)


def test_a_cell_leaves_its_result_and_its_files(cells: Path) -> None:
    told = run_to_result(json.loads(json.dumps(make_request(job(cells / "a", "quick", value=0.5), threads=1))))

    outcome = outcome_from_json(told)
    assert (outcome.status, outcome.reason, outcome.metrics[0].value, outcome.info["a"]) == ("ok", "", 0.5, 1)
    assert sorted(path.name for path in (cells / "a").iterdir()) == ["made.txt", "result.json"]


def test_a_cell_that_is_wrong_says_only_that(cells: Path) -> None:
    told = run(make_request(job(cells / "a", "wrong"), threads=1))

    assert (told["status"], told["reason"]) == ("failed", "ValueError: the cell's own mistake")
    assert not told["host_lost"]


def test_one_worker_runs_the_next_cell_after_each(cells: Path) -> None:
    with Worker(preload=()) as worker:
        statuses = [
            worker.run(make_request(job(cells / name, name, value=1), threads=1))["status"]
            for name in ("quick", "wrong", "quick")
        ]

    assert statuses == ["ok", "failed", "ok"]


def test_a_cell_that_fills_the_disk_says_so(cells: Path, small_disk: Path) -> None:
    told = run_to_result(make_request(job(small_disk / "a", "fill"), threads=1))

    assert told["status"] == "killed"
    assert f"is full at {small_disk / 'a'} (0 MiB free of 1 MiB)" in told["reason"]


def test_a_result_that_no_longer_fits_keeps_its_reason(cells: Path, small_disk: Path) -> None:
    told = run_to_result(make_request(job(small_disk / "a", "give_much"), threads=1))

    assert told["status"] == "killed"
    assert "is full at" in told["reason"]


def test_nothing_starts_where_the_disk_is_full_already(cells: Path, small_disk: Path) -> None:
    request = make_request(job(small_disk / "a", "quick", value=1), threads=1)
    with pytest.raises(OSError, match="No space"), (small_disk / "other").open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)

    told = run(request)

    assert told["status"] == "killed"
    assert told["host_lost"]
    assert "is full at" in told["reason"]
    assert not (small_disk / "a" / "made.txt").exists()


def test_a_folder_that_goes_while_the_cell_runs_ends_it(cells: Path) -> None:
    told = run(make_request(job(cells / "a", "lose"), threads=1))

    assert told["status"] == "killed"
    assert f"does not see the cell's folder {cells / 'a'}: it was removed, or its file system is lost" in told["reason"]
    assert told["duration_s"] < 30


def test_a_host_without_the_data_says_which_folder(cells: Path) -> None:
    (cells / "data").mkdir()
    request = make_request(job(cells / "a", "quick", value=1, data_dir=str(cells / "data")), threads=1)
    shutil.rmtree(cells / "data")

    told = run(request)

    assert told["status"] == "killed"
    assert f"does not see {cells / 'data'}, which the submitting host does: is it mounted there?" in told["reason"]


def test_another_version_of_a_plugin_fails_its_cells_alone(cells: Path, fusions_9_9: Path) -> None:
    using = make_request(job(cells / "a", "quick", value=1, fusion={"ref": "mmbench-fusion/concat"}), threads=1)
    other = make_request(job(cells / "b", "quick", value=1, fusion={"ref": "mmbench-vision/cnn"}), threads=1)
    path = os.pathsep.join([str(fusions_9_9), os.environ.get("PYTHONPATH", "")])

    told = run_elsewhere(using, PYTHONPATH=path)
    told_other = run_elsewhere(other, PYTHONPATH=path)

    assert using["packages"]["mmbench-fusion"] != "9.9"
    assert told["status"] == "failed"
    planned = using["packages"]["mmbench-fusion"]
    assert f"has mmbench-fusion 9.9 where the run was planned with {planned}: install the same" in told["reason"]
    assert told_other["status"] == "ok"


def test_another_version_of_mmbench_is_told(cells: Path) -> None:
    request = make_request(job(cells / "a", "quick", value=1), threads=1)
    request["packages"] = {**request["packages"], "mmbench": "0.0.1", "mmbench-extra": "2.0"}

    told = run(request)

    assert "has mmbench 0.1.0 where the run was planned with 0.0.1; no mmbench-extra, and" in told["reason"]
    assert not (cells / "a" / "made.txt").exists()


def test_a_plugin_file_must_be_the_same_there(cells: Path) -> None:
    file = cells / "my_plugin.py"
    file.write_text("first = 1\n")
    request = make_request(job(cells / "a", "quick", value=1, plugin_files=[str(file)]), threads=1)
    file.write_text("second = 2\n")

    changed = run(request)
    file.unlink()
    gone = run(request)

    assert f"the plugin file {file} has another content on host" in changed["reason"]
    assert f"cannot read the plugin file {file}: put it where all hosts see it" in gone["reason"]


def test_a_request_carries_no_folder_of_the_installation(cells: Path) -> None:
    path = search_path()

    assert str(cells / "code") in path
    assert not [entry for entry in path if "site-packages" in entry or entry.endswith((".zip", "lib-dynload"))]
