"""Cells on Ray: two nodes on this machine, one of which is killed, and all that else may be lost."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from mmbench_executors.ray import RayExecutor

from mmbench.errors import Unavailable
from mmbench.executors import Job, Outcome

pytestmark = pytest.mark.serial

HERE = Path(__file__).parent
STORE = {"object_store_memory": 80 * 2**20}

#: Concatenates, waits until there is a file "go", and says which process trains.
SLOW_FUSIONS = """
import os
import time
from pathlib import Path

import torch
from torch import nn
from mmbench import FusionSpec, hookimpl


class Slow(nn.Module):
    def __init__(self, dims, tasks):
        super().__init__()
        self.fused_dim = sum(dims.values())
        (Path(BEGAN) / str(os.getpid())).touch()
        end = time.monotonic() + 300
        while time.monotonic() < end and not (Path(BEGAN).parent / "go").exists():
            time.sleep(0.05)

    def forward(self, features):
        return torch.cat([features[name].tensor for name in sorted(features)], dim=-1)


@hookimpl
def mmbench_fusions():
    return [FusionSpec(name=f"slow{i}", accepts="vector", factory="slow:Slow", version="1") for i in range(4)]
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of one node of one CPU; tests add the second one that they kill."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **STORE})
    yield made
    made.shutdown()


@pytest.fixture(autouse=True)
def _cells_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


def raylet_pid(node: Any) -> int:
    [raylet] = node.all_processes["raylet"]
    return int(raylet.process.pid)


def until(condition: Callable[[], Any], within_s: float = 120) -> Any:
    """Wait for something to be true, and return it."""
    end = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
    return found


_numbers = iter(range(10**6))


def job(tmp_path: Path, function: str, *, timeout_s: float | None = 300, **payload: Any) -> Job:
    number = next(_numbers)
    folder = tmp_path / f"attempt{number}"
    folder.mkdir()
    cell_id = f"{number:016x}"
    return Job(cell_id=cell_id, function=f"ray_cells:{function}", payload=payload, folder=folder, timeout_s=timeout_s)


def outcomes(executor: RayExecutor, num: int, within_s: float = 180) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    end = time.monotonic() + within_s
    while len(found) < num:
        assert time.monotonic() < end, f"still running: {executor.running()}"
        for ended, outcome in executor.wait(0.2):
            assert ended.cell_id not in found
            found[ended.cell_id] = outcome
    return found


def ray_worker_of(pid: int) -> psutil.Process:
    """Return the Ray worker process that a cell's process descends from."""
    return next(parent for parent in psutil.Process(pid).parents() if parent.name().startswith("ray::"))


def is_on(node: Any, pid: int) -> bool:
    try:
        return raylet_pid(node) in [parent.pid for parent in psutil.Process(pid).parents()]
    except psutil.NoSuchProcess:
        return False


class Began:
    """The folder where cells leave the numbers of their processes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._seen: set[int] = set()

    def job(self, *, sleep_s: float, **facts: Any) -> Job:
        """Return a cell that leaves its number here and takes so long."""
        return job(self.folder.parent, "says_that_it_began", began=str(self.folder), sleep_s=sleep_s, **facts)

    def pids(self) -> list[int]:
        return [int(path.name) for path in self.folder.iterdir()]

    def new_pid(self) -> int:
        """Wait for a process that was not there before."""
        pid: int = until(lambda: next((pid for pid in self.pids() if pid not in self._seen), None))
        self._seen.add(pid)
        return pid


@pytest.fixture
def began(tmp_path: Path) -> Began:
    return Began(tmp_path / "began")


def slow_plugin(folder: Path, began: Began) -> None:
    (folder / "slow.py").write_text(f"BEGAN = {str(began.folder)!r}\n{SLOW_FUSIONS}")


def run_command(folder: Path, *words: str) -> list[str]:
    selection = ["-d", "xor", "-e", "mlp", "--epochs", "1", "--limit", "40"]
    little = ["--protocol", "none", "--diagnostics", "none", "--cache", str(folder / "cache")]
    return [sys.executable, "-m", "mmbench.cli", "run", *selection, *little, *words]


def test_an_address_where_nobody_listens_is_told(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    command = run_command(tmp_path, "-f", "concat", "--executor", "ray[address=127.0.0.1:1]")

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)

    assert done.returncode == 1
    assert "no Ray cluster answers at 127.0.0.1:1 (Connection refused). `ray start --head` begins one" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_files_and_numbers_come_back_from_a_node(tmp_path: Path, cluster: Any) -> None:
    with RayExecutor(tmp_path, address=cluster.address) as executor:
        assert executor.capacity == 1
        fine = job(tmp_path, "leaves_files", n=7, large_bytes=40 * 2**20)
        bad = job(tmp_path, "raises")
        long = job(tmp_path, "says_that_it_began", began=str(tmp_path), sleep_s=60, timeout_s=1)
        for item in (fine, bad, long):
            executor.submit(item)
        found = outcomes(executor, 3)

    outcome = found[fine.cell_id]
    assert (outcome.status, outcome.metrics[0].value, outcome.info["devices"]) == ("ok", 49, "")
    assert outcome.info["cwd"] == str(Path.cwd())
    names = [path.relative_to(fine.folder).as_posix() for path in fine.folder.rglob("*") if not path.is_dir()]
    assert sorted(names) == ["deep/er/small.txt", "empty.bin", "large.bin"]
    digest = hashlib.sha256((fine.folder / "large.bin").read_bytes()).hexdigest()
    assert digest == hashlib.sha256(bytes(range(256)) * (40 * 2**12)).hexdigest()
    assert (found[bad.cell_id].status, found[bad.cell_id].reason) == ("failed", "ValueError: 5 heads do not divide 96")
    assert (bad.folder / "log.txt").read_text() == "before it raised\n"
    assert found[long.cell_id].status == "timeout"


@pytest.mark.slow
def test_a_cell_whose_ray_worker_is_killed_is_tried_three_times(tmp_path: Path, began: Began, cluster: Any) -> None:
    with RayExecutor(tmp_path, address=cluster.address) as executor:
        go = tmp_path / "go"
        once = began.job(sleep_s=300, go=str(go))
        executor.submit(once)
        pid = began.new_pid()
        ray_worker_of(pid).kill()
        until(lambda: not psutil.pid_exists(pid))
        go.touch()
        survived = outcomes(executor, 1)[once.cell_id]

        thrice = began.job(sleep_s=60)
        began.new_pid()
        executor.submit(thrice)
        for _ in range(3):
            pid = began.new_pid()
            ray_worker_of(pid).kill()
            until(lambda pid=pid: not psutil.pid_exists(pid), within_s=60)
        lost = outcomes(executor, 1)[thrice.cell_id]

    assert survived.status == "ok"
    assert len(survived.info["lost"]) == 1
    assert lost.status == "killed"
    assert lost.reason.startswith("the Ray worker process on ")
    assert lost.reason.endswith("was lost while the cell ran; it was tried 3 times")


@pytest.mark.slow
def test_cells_that_are_cancelled_end_at_once(tmp_path: Path, began: Began, cluster: Any) -> None:
    with RayExecutor(tmp_path, address=cluster.address) as executor:
        runs = began.job(sleep_s=600)
        waits = began.job(sleep_s=600)
        executor.submit(runs)
        pid = began.new_pid()
        executor.submit(waits)
        executor.cancel()
        found = outcomes(executor, 2)

    assert {outcome.status for outcome in found.values()} == {"interrupted"}
    until(lambda: not psutil.pid_exists(pid), within_s=60)
    assert len(began.pids()) == 1


@pytest.mark.slow
def test_gpus_are_shared_where_there_are_some_and_missed_where_there_are_none(
    tmp_path: Path, began: Began, cluster: Any
) -> None:
    start = time.monotonic()
    with RayExecutor(tmp_path, address=cluster.address, gpus=0.5) as executor, pytest.raises(Unavailable) as error:
        executor.capacity  # noqa: B018  (asking for it joins the cluster)

    assert "has the 1 CPU and 0.5 GPU that each cell asks for; its nodes have up to 1 CPU and 0 GPU" in str(error.value)
    assert time.monotonic() - start < 90

    # Ray believes what it is told about GPUs: what is tested is who is given which.
    node = cluster.add_node(num_cpus=4, num_gpus=1, **STORE)
    try:
        with RayExecutor(tmp_path, address=cluster.address, gpus=0.5) as executor:
            assert executor.capacity == 2
            go = tmp_path / "go"
            jobs = [began.job(sleep_s=300, go=str(go)) for _ in range(2)]
            for item in jobs:
                executor.submit(item)
            pids = [began.new_pid(), began.new_pid()]
            assert all(is_on(node, pid) for pid in pids)
            go.touch()
            found = outcomes(executor, 2)
    finally:
        cluster.remove_node(node)

    assert [outcome.info["devices"] for outcome in found.values()] == ["0", "0"]


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


def quality(run: Path) -> dict[str, Sequence[dict[str, Any]]]:
    """Return every number of quality of every cell."""
    return {
        record["cell_id"]: [metric for metric in record["metrics"] if metric["phase"] == "evaluate"]
        for record in records(run)
    }


@pytest.mark.slow
def test_a_run_loses_a_node_and_no_cell(tmp_path: Path, began: Began, cluster: Any) -> None:
    slow_plugin(tmp_path, began)
    grid = ["-f", "slow*", "-f", "concat", "--plugin", "slow.py"]
    doomed = cluster.add_node(num_cpus=1, **STORE)
    command = run_command(tmp_path, *grid, "--run", "on-ray", "--executor", f"ray[address={cluster.address}]")

    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        try:
            lost = until(lambda: next((pid for pid in began.pids() if is_on(doomed, pid)), None))
            cluster.remove_node(doomed, allow_graceful=False)
            until(lambda: not psutil.pid_exists(lost))
            (tmp_path / "go").touch()
            said, _ = run.communicate(timeout=150)
        finally:
            run.kill()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150, check=False)
    here = run_command(tmp_path, *grid, "--run", "here", "-j", "2")
    subprocess.run(here, cwd=tmp_path, capture_output=True, timeout=150, check=True)

    assert run.returncode == 0, said
    assert "raylet" not in said
    assert again.returncode == 0
    assert "nothing left to do" in again.stdout
    done = records(tmp_path / "results" / "on-ray")
    planned = json.loads((tmp_path / "results" / "on-ray" / "plan.json").read_text())["cells"]
    assert sorted(record["cell_id"] for record in done) == sorted(cell["cell_id"] for cell in planned)
    assert {record["status"] for record in done} == {"ok"}
    assert any("was lost while the cell ran" in words for record in done for words in record["info"].get("lost", ()))
    assert quality(tmp_path / "results" / "on-ray") == quality(tmp_path / "results" / "here")


def _has_ray(process: psutil.Process) -> bool:
    return "raylet" in {child.name() for child in process.children(recursive=True)}


@pytest.mark.slow
def test_a_local_ray_ends_with_the_command_however_that_ends(tmp_path: Path, began: Began) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    slow_plugin(tmp_path, began)
    words = ["-f", "slow*", "--no-baselines", "--plugin", "slow.py", "--run", "r", "--executor", "ray", "-j", "1"]
    command = run_command(tmp_path, *words)

    for signum, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as run:
            pid = began.new_pid()
            # Beside Ray's driver there is the process that reads plugins.
            driver = until(lambda run=run: next(filter(_has_ray, psutil.Process(run.pid).children()), None))
            local_ray = driver.children(recursive=True)
            assert {"raylet", "gcs_server"} <= {process.name() for process in local_ray}
            run.send_signal(signum)
            assert run.wait(timeout=60) == code
        until(lambda pid=pid: not psutil.pid_exists(pid), within_s=60)
        until(lambda driver=driver, pids=local_ray: not any(item.is_running() for item in (driver, *pids)))
    (tmp_path / "go").touch()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=150, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    ended = records(tmp_path / "results" / "r")
    finished = [record["cell_id"] for record in ended if record["status"] == "ok"]
    assert len(finished) == len(set(finished)) == 4
    assert {record["status"] for record in ended} == {"ok", "interrupted"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        ("data_dir", "killed", "does not see {}, which the submitting host does"),
        ("plugin_files", "failed", "cannot read the plugin file {}"),
    ],
)
def test_a_node_that_lacks_something_gets_no_more_cells(
    tmp_path: Path, began: Began, cluster: Any, monkeypatch: pytest.MonkeyPatch, kind: str, status: str, words: str
) -> None:
    monkeypatch.setattr("mmbench_executors.ray.NO_NODE_S", 1.0)
    lacking = tmp_path / "lacking"
    if kind == "data_dir":
        lacking.mkdir()
        needs: dict[str, Any] = {"data_dir": str(lacking)}
    else:
        lacking.touch()
        needs = {"plugin_files": [str(lacking)]}
    with RayExecutor(tmp_path, address=cluster.address) as executor:
        first = began.job(sleep_s=2)
        second = began.job(sleep_s=0, **needs)
        third = began.job(sleep_s=0)
        executor.submit(first)
        executor.submit(second)
        lacking.rename(tmp_path / "elsewhere")
        found = outcomes(executor, 2)
        with pytest.raises(Unavailable) as error:
            executor.submit(third)
            outcomes(executor, 1, within_s=60)

    assert (found[first.cell_id].status, found[second.cell_id].status) == ("ok", status)
    assert words.format(lacking) in found[second.cell_id].reason
    assert f"can run cells any more: {found[second.cell_id].reason}" in str(error.value)


@pytest.mark.slow
def test_a_cluster_whose_head_is_lost_ends_its_cells_and_is_missed(
    tmp_path: Path, began: Began, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")  # instead of 60
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **STORE})
    try:
        with RayExecutor(tmp_path, address=cluster.address) as executor:
            item = began.job(sleep_s=300, timeout_s=None)
            executor.submit(item)
            began.new_pid()
            address = cluster.address
            cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)
            outcome = outcomes(executor, 1, within_s=150)[item.cell_id]
            with pytest.raises(Unavailable, match="no Ray cluster answers at"):
                executor.submit(item)
    finally:
        cluster.shutdown()

    assert outcome.status == "killed"
    assert outcome.reason.startswith(f"the connection to Ray at address {address!r} was lost: ")
