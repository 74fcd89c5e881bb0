"""Functions of cells that do everything a plugin might do, for the tests of executors and runner."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mmbench.errors import Diverged, Unavailable
from mmbench.record import Metric

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def _result(value: float, **info: Any) -> dict[str, Any]:
    return {"metrics": [Metric(phase="evaluate", split="test", name="accuracy", value=value).to_json()], "info": info}


def square(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    time.sleep(payload.get("sleep_s", 0.0))
    (folder / "predictions.txt").write_text(str(payload["n"]))
    return _result(payload["n"] ** 2)


def by_number(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Behave as the payload's `do` says."""
    return globals()[payload.get("do", "square")](payload, folder)  # type: ignore[no-any-return]


def where_it_stands(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    return _result(
        0,
        cwd=str(Path.cwd()),
        leader=os.getsid(0) == os.getpid() == os.getpgrp(),
        omp=os.environ.get("OMP_NUM_THREADS"),
        hash_seed=os.environ.get("PYTHONHASHSEED"),
        marker=os.environ.get("MMBENCH_TEST_MARKER"),
        torch="torch" in sys.modules,
        main=getattr(sys.modules["__main__"], "__file__", None),
        stdin=sys.stdin.read(),
    )


def faults_of_a_second_large_tensor(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Allocate, touch and free 64 MiB twice; count the fresh pages of the second time."""
    import resource

    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    size, faults = 64 * 2**20, []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        place = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
        ctypes.memset(place, 1, size)
        libc.free(place)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return _result(faults[1], first=faults[0])


def says_whether_it_is_offline(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    return _result(0, **{name: os.environ.get(name) for name in payload["names"]})


def fills_the_disk(payload: dict[str, Any], folder: Path) -> None:
    """Write until there is no room, into its own folder."""
    with (folder / "ballast.bin").open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)


def fills_the_disk_and_returns(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    try:
        fills_the_disk(payload, folder)
    except OSError:
        return _result(1)
    raise AssertionError


def lacks(payload: dict[str, Any], folder: Path) -> None:
    """Fail as the operating system does when it lacks something."""
    raise OSError(payload["errno"], os.strerror(payload["errno"]))


def cannot_start_a_thread(payload: dict[str, Any], folder: Path) -> None:
    raise RuntimeError("can't start new thread")


def has_no_cache(payload: dict[str, Any], folder: Path) -> None:
    from mmbench.errors import DiskError

    raise DiskError("the cache cannot keep it: No space left on device")


def raises(payload: dict[str, Any], folder: Path) -> None:
    raise ValueError("5 heads do not divide 96;\n\x1b[31mchoose\x1b[0m \x00another\u202e number")


def raises_without_words(payload: dict[str, Any], folder: Path) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even this")

    raise MuteError


def misses_weights(payload: dict[str, Any], folder: Path) -> None:
    raise Unavailable("resnet18.bin is not here; run `mmbench prepare`")


def diverges(payload: dict[str, Any], folder: Path) -> None:
    raise Diverged("the loss became nan in epoch 3")


def interrupts(payload: dict[str, Any], folder: Path) -> None:
    raise KeyboardInterrupt


def runs_out_of_gpu_memory(payload: dict[str, Any], folder: Path) -> None:
    kind = type("OutOfMemoryError", (RuntimeError,), {})
    raise kind(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.80 GiB of which 12.50 MiB "
        "is free. Including non-PyTorch memory, this process has 139.70 GiB memory in use."
    )


def shares_a_gpu(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Holds some GiB of a pretended GPU of 80: a file with that number in a folder that all cells share."""
    gpu = Path(payload["gpu"])
    own = gpu / folder.name
    own.write_text(str(payload["peak"]))
    try:
        time.sleep(payload["sleep_s"])
        held = 0
        for path in gpu.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another cell may end at any time
                held += int(path.read_text() or 0)
        if held > 80:
            runs_out_of_gpu_memory(payload, folder)
        free = 80 - held + payload["peak"]
        memory = {"peak_bytes": payload["peak"] * 2**30, "available_bytes": free * 2**30}
        return {"metrics": [], "info": {"device_memory": memory}}
    finally:
        own.unlink()


def wraps_gpu_memory_error(payload: dict[str, Any], folder: Path) -> None:
    try:
        runs_out_of_gpu_memory(payload, folder)
    except RuntimeError as error:
        raise ValueError("the encoder failed") from error


def asks_for_a_petabyte(payload: dict[str, Any], folder: Path) -> None:
    import numpy as np

    np.zeros(2**50, dtype=np.uint8)


def calls_sys_exit(payload: dict[str, Any], folder: Path) -> None:
    sys.exit(3)


def calls_os_exit(payload: dict[str, Any], folder: Path) -> None:
    os.write(1, b"about to leave\n")
    os._exit(0)


def kills_itself(payload: dict[str, Any], folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfaults(payload: dict[str, Any], folder: Path) -> None:
    ctypes.string_at(0)


def hangs(payload: dict[str, Any], folder: Path) -> None:
    if "marker" in payload:
        (folder.parent / payload["marker"]).touch()
    time.sleep(60)


def _leave_pids(folder: Path, *pids: int) -> None:
    """Tell the test which processes to look for; it finds all of them or no file."""
    beside = folder.parent / "pids.part"
    beside.write_text(" ".join(map(str, pids)))
    beside.rename(folder.parent / "pids")


def hangs_and_ignores_sigterm(payload: dict[str, Any], folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(SLEEP)
    _leave_pids(folder, os.getpid(), child.pid)
    time.sleep(60)


def allocates_without_end(payload: dict[str, Any], folder: Path) -> None:
    hoard = []
    while True:
        hoard.append(bytearray(os.urandom(1)) * 2**23)
        time.sleep(0.005)


def allocates_in_subprocesses(payload: dict[str, Any], folder: Path) -> None:
    code = "import time; x = bytearray(b'x') * 80_000_000; time.sleep(60)"
    for _ in range(3):
        subprocess.Popen([sys.executable, "-c", code])
    time.sleep(60)


def prints_100_mb(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    sys.stdout.write("the first line\n")
    line = "x" * 1023 + "\n"
    for _ in range(100):
        sys.stdout.write(line * 1024)
    sys.stderr.write("the last line\n")
    return _result(1)


def prints_endlessly(payload: dict[str, Any], folder: Path) -> None:
    line = b"y" * 2**20 + b"\n"
    while True:
        os.write(1, line)
        time.sleep(0.001)  # at most a GiB in a second, whatever the disk: whoever watches may be held up for as long


def leaves_processes_behind(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    same_group = subprocess.Popen(SLEEP)
    other_session = subprocess.Popen(SLEEP, start_new_session=True)
    # A daemon as in the book: its parent is gone at once.
    code = f"import subprocess; print(subprocess.Popen({SLEEP!r}, start_new_session=True, stdout=-3, stderr=-3).pid)"
    daemon = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    _leave_pids(folder, same_group.pid, other_session.pid, daemon)
    if payload.get("then_hang"):
        time.sleep(60)
    return _result(1)


def leaves_a_thread_running(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    threading.Thread(target=time.sleep, args=(60,)).start()
    return _result(1)


def forks_itself(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    copy = os.fork()
    if copy == 0:
        time.sleep(0.3)
        raise RuntimeError("this is the copy speaking")
    return _result(1)


def returns_nothing(payload: dict[str, Any], folder: Path) -> None:
    return None


def returns_what_is_not_json(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {"metrics": [], "info": {"best": {"model": object()}}}


def returns_a_metric_without_name(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {"metrics": [{"phase": "evaluate", "value": 1.0}], "info": {}}


def returns_a_metric_that_is_text(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {"metrics": [{"phase": "evaluate", "name": "accuracy", "value": "high"}], "info": {}}


def returns_nan(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    nan = float("nan")
    metric = {"phase": "evaluate", "name": "accuracy", "value": nan, "ci_low": nan}
    return {"metrics": [metric], "info": {"losses": [1.0, nan, float("inf")]}}


def returns_a_huge_answer(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    return _result(1, predictions="p" * 2**25)


def returns_nested_without_end(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    nested["again"] = nested
    return _result(1, nested=nested)


def changes_the_process(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    os.chdir("/")
    os.environ["MMBENCH_TEST_MARKER"] = "changed"
    os.umask(0o777)
    sys.path.clear()
    sys.stdout = None  # type: ignore[assignment]
    return _result(1)


def closes_every_file(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    os.closerange(0, 1024)
    return _result(1)


def removes_its_folder(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    return _result(1)


def replaces_its_folder_by_a_link(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    folder.rename(folder.with_name(folder.name + "-moved"))
    folder.symlink_to(payload["target"])
    return _result(1)


def links_out_of_its_folder(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    (folder / "record.json").symlink_to(payload["target"])
    return _result(1)


def kills_the_fork_server_once(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    marker = Path(payload["marker"])
    if not marker.exists():
        marker.touch()
        (folder / "half.txt").write_text("of the first try")
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return _result(1, files=sorted(path.name for path in folder.iterdir()))


def kills_the_fork_server(payload: dict[str, Any], folder: Path) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def stops_the_fork_server(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
    os.kill(os.getppid(), signal.SIGSTOP)
    return _result(1)
