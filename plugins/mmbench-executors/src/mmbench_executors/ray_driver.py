"""The process between the runner and Ray: it hands jobs to Ray as tasks and writes down the files that come back.

It reads JSON lines from a socket and answers with JSON lines; when the other end closes, it cancels all and ends:

    {"op": "submit", "job": 1, "request": …, "cwd": …}   {"op": "cancel"}
    {"event": "failed", "reason": …}   {"event": "cluster", "slots": {NODE: 2}, "why": …}
    {"event": "started", "job": 1}   {"event": "ended", "job": 1, "outcome": …}
"""

from __future__ import annotations

import json
import math
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mmbench.durable import empty
from mmbench.executors import Outcome
from mmbench.executors.child import one_line
from mmbench.record import Status
from mmbench_executors.request import outcome_to_json

#: Told to Ray before it is imported: no usage statistics.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
import ray.exceptions as lost
from ray.util.scheduling_strategies import NodeLabelSchedulingStrategy, NotIn

#: A cell is not run for ever on nodes that go away.
MAX_TRIES = 3
#: Nor is it sent for ever to nodes that are gone before it begins. Until Ray has noticed, it may send it there again.
MAX_MISSES = 10
#: How long a cell waits after a loss, times the losses in a row.
AGAIN_S = 2.0
#: What results need of a local Ray's memory: files come in pieces of 16 MiB.
OBJECT_STORE_BYTES = 128 * 2**20
#: How often the cluster is asked for its nodes.
LOOK_S = 2.0
#: How long a piece that a node has announced may take to arrive.
FETCH_S = 20.0
#: How long a cell that is to end may take to do so before its worker is killed.
GRACE_S = 5.0
_WAIT_S = 0.1


@dataclass
class _Task:
    """A job that Ray has."""

    number: int
    request: Mapping[str, Any]
    cwd: str
    stream: Any = None
    node: str = ""
    started: float = 0.0
    lost: list[str] = field(default_factory=list)
    num_missed: int = 0
    launch_at: float = 0.0
    cancelled: float | None = None
    forced: bool = False


def main(fd: int, options: Mapping[str, Any]) -> None:
    """Join Ray, or start it, and serve on an inherited socket until it closes.

    Args:
        fd: The socket.
        options: ``address``, ``cpus``, ``gpus``; ``num_cpus`` for a local Ray.
    """
    connection = socket.socket(fileno=fd)
    requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_read, args=(connection, requests), daemon=True).start()

    def tell(**message: Any) -> None:
        connection.sendall(json.dumps(message).encode() + b"\n")

    with suppress(BrokenPipeError, ConnectionResetError):  # the runner is gone
        try:
            _join(options)
        except (Exception, SystemExit) as error:  # Ray gives up in many ways, one of which is to exit
            tell(event="failed", reason=one_line(f"{error}" or type(error).__name__))
            return
        Driver(tell, requests, cpus=options["cpus"], gpus=options["gpus"], address=options["address"]).serve()
    ray.shutdown()


class Driver:
    """The loop between the runner and Ray.

    Args:
        tell: Sends a message to the runner.
        requests: What it says; None once it is gone.
        cpus: For each cell.
        gpus: For each cell.
        address: As the user wrote it.
    """

    def __init__(
        self,
        tell: Callable[..., None],
        requests: queue.Queue[dict[str, Any] | None],
        *,
        cpus: float,
        gpus: float,
        address: str,
    ) -> None:
        self._tell, self._requests = tell, requests
        self._cpus, self._gpus, self._address = cpus, gpus, address
        self._tasks: dict[int, _Task] = {}
        self._unfit: dict[str, str] = {}  # node -> why no more cells go there
        self._slots: dict[str, int] | None = None
        self._looked_at = 0.0
        self._run = ray.remote(make_task())

    def serve(self) -> None:
        """Serve until the runner is gone."""
        while True:
            self._look()
            while True:
                try:
                    # Results are waited for below; where there are none to come, requests are.
                    request = self._requests.get(timeout=0.01 if self._tasks else LOOK_S / 2)
                except queue.Empty:
                    break
                if request is None:
                    return
                self._obey(request)
            now = time.monotonic()
            for task in self._tasks.values():
                if task.stream is None and now >= task.launch_at:
                    self._launch(task)
            self._collect()

    def _obey(self, request: Mapping[str, Any]) -> None:
        if request["op"] == "submit":
            self._tasks[request["job"]] = _Task(request["job"], request["request"], request["cwd"])
        elif request["op"] == "cancel":
            for task in list(self._tasks.values()):
                self._cancel(task)

    def _cancel(self, task: _Task) -> None:
        """Interrupt a task; the second time, kill its Ray worker."""
        if task.stream is None:
            self._end(task, "interrupted", "interrupted before it began")
            return
        task.forced = task.cancelled is not None
        task.cancelled = task.cancelled or time.monotonic()
        ray.cancel(task.stream, force=task.forced)

    def _launch(self, task: _Task) -> None:
        apart: Any = "SPREAD"
        if self._unfit:
            apart = NodeLabelSchedulingStrategy(hard={"ray.io/node-id": NotIn(*self._unfit)})
        task.node = ""
        task.started = time.monotonic()
        # Ray's own retries would hide which node was lost, and would not empty the folder.
        options: dict[str, Any] = {"max_retries": 0, "num_returns": "streaming", "scheduling_strategy": apart}
        options |= {"num_cpus": self._cpus, "num_gpus": self._gpus, "name": f"mmbench {task.request['cell_id']}"}
        task.stream = self._run.options(**options).remote(
            dict(task.request), cwd=task.cwd, gpus=self._gpus, slots=dict(self._slots or {})
        )

    def _collect(self) -> None:
        """Take what tasks have handed back."""
        now = time.monotonic()
        for task in self._tasks.values():
            if task.cancelled and not task.forced and now - task.cancelled > GRACE_S:
                self._cancel(task)
        of_stream = {task.stream: task for task in self._tasks.values() if task.stream is not None}
        if not of_stream:
            return
        ready, _ = ray.wait(list(of_stream), num_returns=len(of_stream), timeout=_WAIT_S, fetch_local=False)
        for stream in ready:
            task = of_stream[stream]
            try:
                self._take(task, ray.get(next(stream), timeout=FETCH_S))
            except lost.TaskCancelledError:
                self._end(task, "interrupted", "interrupted while it ran")
            except lost.OutOfMemoryError as error:
                self._end(task, "oom_host", f"Ray ended it on {self._named(task)}, which ran out of memory: {error}")
            except (lost.RayTaskError, lost.TaskUnschedulableError, StopIteration) as error:
                self._end(task, "failed", f"{self._named(task)}: {error}")
            except (lost.RayError, lost.GetTimeoutError) as error:
                self._again(task, error)
            except OSError as error:
                self._end(task, "killed", f"the cell's files cannot be written here: {error}")

    def _take(self, task: _Task, item: Mapping[str, Any]) -> None:
        """Take one piece of what a task hands back: where it runs, bytes of a file, how it ended."""
        if "node" in item:
            task.node, task.started, task.num_missed = item["node"], time.monotonic(), 0
            self._tell(event="started", job=task.number)
        elif "file" in item:
            place = inside(Path(task.request["folder"]), item["file"])
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("ab") as stream:
                stream.write(item["data"])
        else:
            outcome = json.loads(item["outcome"])
            # A cell that failed without being started met other versions, or a plugin file that is not there.
            unfit = outcome.pop("host_lost", False) or (outcome["status"] == "failed" and not outcome["started_at"])
            if unfit:
                self._unfit[task.node] = outcome["reason"]
                self._looked_at = 0.0
            self._finish(task, outcome)

    def _again(self, task: _Task, error: Exception) -> None:
        """Run a task again whose node or worker is lost."""
        if task.cancelled:
            self._end(task, "interrupted", "interrupted while it ran")
            return
        if task.node:
            what = "the Ray worker process on" if isinstance(error, lost.WorkerCrashedError) else "Ray node"
            task.lost.append(f"{what} {self._named(task)} was lost while the cell ran")
            if len(task.lost) >= MAX_TRIES:
                self._end(task, "killed", f"{task.lost[-1]}; it was tried {MAX_TRIES} times")
                return
        task.num_missed += 1
        if task.num_missed > MAX_MISSES:
            self._end(task, "killed", f"the cell was sent to nodes that were gone before it began: {error}")
            return
        with suppress(OSError):
            empty(Path(task.request["folder"]))
        task.stream, task.node = None, ""
        task.launch_at = time.monotonic() + AGAIN_S * task.num_missed
        self._looked_at = 0.0

    def _end(self, task: _Task, status: Status, reason: str) -> None:
        duration_s = time.monotonic() - task.started
        self._finish(task, outcome_to_json(Outcome(status=status, reason=one_line(reason), duration_s=duration_s)))

    def _finish(self, task: _Task, outcome: dict[str, Any]) -> None:
        del self._tasks[task.number]
        if task.lost:
            outcome["info"] = {**outcome["info"], "lost": task.lost}
        self._tell(event="ended", job=task.number, outcome=outcome)

    def _look(self) -> None:
        """Ask for the nodes, and tell how many cells fit on each when that has changed."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        nodes = [node for node in ray.nodes() if node["Alive"]]
        fit = (node for node in nodes if node["NodeID"] not in self._unfit)
        slots = {
            node["NodeID"]: number
            for node in fit
            if (number := num_fitting(node["Resources"], cpus=self._cpus, gpus=self._gpus))
        }
        if slots != self._slots:
            self._slots = slots
            self._tell(event="cluster", slots=slots, why="" if slots else self._why_none(nodes))

    def _why_none(self, nodes: list[Mapping[str, Any]]) -> str:
        """Say why no node can run cells."""
        asked = {"CPU": self._cpus, "GPU": self._gpus}
        ask = " and ".join(f"{amount:g} {kind}" for kind, amount in asked.items() if amount)
        whole = f"no node of Ray at address {self._address!r}"
        if not nodes:
            return f"{whole} is alive"
        for node in nodes:
            if node["NodeID"] in self._unfit:
                return f"{whole} can run cells any more: {self._unfit[node['NodeID']]}"
        most = {kind: max(node["Resources"].get(kind, 0) for node in nodes) for kind in asked}
        return (
            f"{whole} has the {ask} that each cell asks for; its nodes have up to {most['CPU']:g} CPU and "
            f"{most['GPU']:g} GPU. Ask for less, as in --executor 'ray[cpus=1,gpus=0.5]'"
        )

    def _named(self, task: _Task) -> str:
        """Name a task's node for people."""
        for node in ray.nodes():
            if node["NodeID"] == task.node:
                return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {task.node[:8]})"
        return task.node[:8] or "(not yet known)"


def num_fitting(resources: Mapping[str, float], *, cpus: float, gpus: float) -> int:
    """Return how many cells fit at once on a node of such resources."""
    bounds = [resources.get("CPU", 0) / cpus] if cpus else []
    if 0 < gpus < 1:  # a share never comes from two GPUs
        bounds.append(resources.get("GPU", 0) * math.floor(1 / gpus + 1e-6))
    elif gpus:
        bounds.append(resources.get("GPU", 0) / gpus)
    return math.floor(min(bounds) + 1e-6)


def make_task() -> Callable[..., Iterator[dict[str, Any]]]:
    """Return what Ray runs on a node.

    A function inside a function travels by value: a node that cannot import this package can still say so.
    """

    def run_cell(request: dict[str, Any], **options: Any) -> Iterator[dict[str, Any]]:
        import sys

        for folder in reversed(request["path"]):
            if folder not in sys.path:
                sys.path.insert(0, folder)
        try:
            from mmbench_executors.ray_node import run
        except ImportError as error:
            import json
            import socket

            import ray

            yield {"node": ray.get_runtime_context().get_node_id()}
            host = socket.gethostname()
            reason = f"host {host} cannot import mmbench-executors ({error}): install there what is installed here"
            outcome = {"status": "killed", "reason": reason, "metrics": [], "info": {}, "duration_s": 0.0}
            yield {"outcome": json.dumps({**outcome, "started_at": "", "host_lost": True})}
            return
        yield from run(request, **options)

    return run_cell


def _join(options: Mapping[str, Any]) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "WARNING"}
    if options["address"] != "local":
        ray.init(address=options["address"], **quiet)
        return
    quiet |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    ray.init(address="local", num_cpus=options["num_cpus"], **quiet)


def _read(connection: socket.socket, requests: queue.Queue[dict[str, Any] | None]) -> None:
    """Read requests until the runner is gone, and see to it that this process then ends."""
    with suppress(OSError), connection.makefile("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):  # else the runner died while it wrote
                requests.put(json.loads(line))
    requests.put(None)
    time.sleep(10)  # for the main thread to leave Ray in order
    os._exit(1)


def inside(folder: Path, name: str) -> Path:
    """Return a file's place in a folder.

    Raises:
        OSError: it would lie elsewhere.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise OSError(f"the node named a file {name!r} outside of the cell's folder")
    return folder / path
