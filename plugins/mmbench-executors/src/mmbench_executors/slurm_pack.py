"""What runs inside a job of SLURM: several cells one after the other, each result a file of its own.

A job that SLURM puts back into its queue, after a preemption say, begins with its first cell that has no result.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from mmbench.executors.local import PRELOAD
from mmbench_executors.slurm_folder import CELLS, REQUESTS, RESULTS
from mmbench_executors.worker import HOST_LOST, Worker, run_to_file

#: What a job exits with that cannot tell otherwise what is wrong with its host.
EXIT_FULL, EXIT_LOST = errno.ENOSPC, errno.EIO
EXIT_WORDS = {EXIT_FULL: "the host's disk is full", EXIT_LOST: "the host lost the file system"}
#: A further cell is begun only if so many times the longest so far is left of the walltime.
SPARE = 1.2
#: What a cell may hold of its job's memory.
MEMORY_SHARE = 0.9
#: How far apart two processes of a job may see the signal that ends them.
LULL_S = 1.0


def run_pack(folder: str, keys: Sequence[str], walltime_s: float | None) -> int:
    """Run cells one after the other and return how many ended; those that no time is left for are not begun.

    Args:
        folder: The executor's.
        keys: The cells, in order.
        walltime_s: What the job may take, where that is known.

    Raises:
        SystemExit: this host can run nothing, the code says why; or SLURM ends the job, and the cell under way has
            no result.
    """
    signal.signal(signal.SIGTERM, _end)
    began = time.monotonic()
    place = Path(folder)
    num_ended = 0
    longest = 0.0
    worker: Worker | None = None
    try:
        for key in keys:
            result = place / RESULTS / f"{key}.json"
            request = None if result.exists() else _read_request(place, key)
            if request is None:
                continue
            # Importing torch takes seconds, and only mmbench's own cells are known to need it.
            worker = worker or Worker(preload=PRELOAD if request["function"].startswith("mmbench.") else ())
            cell_began = time.monotonic()
            if num_ended and walltime_s is not None and walltime_s - (cell_began - began) < SPARE * longest:
                break
            request["folder"] = str(make_folder(place / CELLS / key))
            request["memory_bytes"] = request["memory_bytes"] or _allocated_bytes()
            outcome = run_to_file(worker, request, result, before_writing=_wait_for_own_end)
            if outcome[HOST_LOST]:
                sys.exit(EXIT_LOST)
            num_ended += 1
            longest = max(longest, time.monotonic() - cell_began)
    except OSError as error:
        _leave(error)
    finally:
        if worker is not None:
            worker.close()
    return num_ended


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    """End the job, the cell under way with it: SLURM sends SIGTERM before it cancels, preempts or times out."""
    sys.exit(128 + signum)


def _wait_for_own_end(outcome: Mapping[str, Any]) -> None:
    """Let a signal arrive here that has already ended the cell: whoever ends a job signals all its processes."""
    if outcome["status"] == "killed":
        time.sleep(LULL_S)


def _read_request(place: Path, key: str) -> dict[str, Any] | None:
    """Return what to run, or None where that was done and collected before the job was put back into the queue."""
    try:
        request: dict[str, Any] = json.loads((place / REQUESTS / f"{key}.json").read_bytes())
    except FileNotFoundError:
        if (place / REQUESTS).is_dir():
            return None
        raise
    return request


def job_id() -> str:
    """Return what SLURM calls this job, as squeue prints it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _allocated_bytes() -> int | None:
    """Return what SLURM gives the job of the host's memory, less what the job itself needs; None where it does not say.

    A cell that is ended for using more than that can be told so; one that SLURM ends takes its job with it.
    """
    given = os.environ.get("SLURM_MEM_PER_NODE", "")  # MiB
    return int(MEMORY_SHARE * int(given) * 2**20) if given.isdigit() and int(given) else None


def make_folder(cell: Path) -> Path:
    """Make a new folder for this job's try at a cell."""
    name = f"{job_id()}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    folder = cell / name
    cell.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        folder = cell / f"{name}.{secrets.token_hex(4)}"
        folder.mkdir()
    return folder


def _leave(error: OSError) -> NoReturn:
    """End the job because its host cannot write what it must; the log and the exit code say so.

    Raises:
        SystemExit: always.
    """
    code = EXIT_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else EXIT_LOST
    print(f"{EXIT_WORDS[code]}: {error}", file=sys.stderr, flush=True)  # noqa: T201  (the job's log)
    sys.exit(code)
