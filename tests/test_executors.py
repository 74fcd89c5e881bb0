"""A cell may do anything to its process; it costs that cell only, and the status says what happened."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mmbench.executors import Executor, Job, Outcome
from mmbench.executors.child import classify, one_line
from mmbench.executors.inline import InlineExecutor
from mmbench.executors.launch import ForkLauncher
from mmbench.executors.local import LocalExecutor
from mmbench.executors.watch import CappedLog, gib

HERE = Path(__file__).parent
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: fork server, /proc")


@pytest.fixture(autouse=True)
def _cells_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture
def local() -> Iterator[LocalExecutor]:
    with LocalExecutor(2, preload=(), grace_s=0.3) as executor:
        yield executor


_numbers = iter(range(10**6))


def job(
    tmp_path: Path, function: str, *, timeout_s: float | None = 120, memory_bytes: int | None = None, **payload: Any
) -> Job:
    number = next(_numbers)
    folder = tmp_path / str(number) / "attempt"
    folder.mkdir(parents=True)
    return Job(
        cell_id=f"{number:016x}",
        function=f"hostile_cells:{function}",
        payload=payload,
        folder=folder,
        timeout_s=timeout_s,
        memory_bytes=memory_bytes,
    )


def outcome_of(executor: Executor, *jobs: Job, within_s: float = 200) -> list[Outcome]:
    for item in jobs:
        executor.submit(item)
    found: dict[str, Outcome] = {}
    until = time.monotonic() + within_s
    while len(found) < len(jobs):
        assert time.monotonic() < until, f"still running: {executor.running()}"
        for item, outcome in executor.wait(0.2):
            assert item.cell_id not in found
            found[item.cell_id] = outcome
    return [found[item.cell_id] for item in jobs]


def is_gone(pid: int, within_s: float = 30.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def runs_into_its_limit(
    executor: Executor, tmp_path: Path, function: str, *, once_there_is: str, **payload: Any
) -> tuple[Job, Outcome]:
    """Run a cell that does not end; the busier the machine, the longer it may take until it has left a file."""
    for timeout_s in (1.0, 4.0, 16.0, 50.0):
        item = job(tmp_path, function, timeout_s=timeout_s, **payload)
        [outcome] = outcome_of(executor, item)
        if (item.folder.parent / once_there_is).exists():
            break
    return item, outcome


def pids_of(item: Job) -> list[int]:
    return [int(word) for word in (item.folder.parent / "pids").read_text().split()]


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_cell_that_returns_its_numbers_is_ok(tmp_path: Path, start_method: Any) -> None:
    with LocalExecutor(preload=(), start_method=start_method) as executor:
        item = job(tmp_path, "square", n=7)
        [outcome] = outcome_of(executor, item)

    assert (outcome.status, outcome.reason, outcome.metrics[0].value) == ("ok", "", 49)
    assert outcome.duration_s > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", outcome.started_at)
    assert sorted(path.name for path in item.folder.iterdir()) == ["predictions.txt"]


HOSTILE = [
    ("raises", "failed", r"ValueError: 5 heads do not divide 96; choose another number"),
    ("raises_without_words", "failed", r"MuteError: \(its message cannot be shown: RuntimeError\)"),
    ("misses_weights", "unavailable", r"resnet18\.bin is not here; run `mmbench prepare`"),
    ("diverges", "diverged", r"the loss became nan in epoch 3"),
    ("interrupts", "interrupted", r"interrupted while it ran"),
    ("runs_out_of_gpu_memory", "oom_gpu", r"CUDA out of memory: tried to allocate 20\.00 MiB with 12\.50 MiB of 139\.80 GiB free"),
    ("wraps_gpu_memory_error", "oom_gpu", r"CUDA out of memory: tried to allocate 20\.00 MiB with 12\.50 MiB of 139\.80 GiB free"),
    ("asks_for_a_petabyte", "oom_host", r"Unable to allocate 1\.00 PiB .*"),
    ("calls_sys_exit", "failed", r"SystemExit: the cell called sys\.exit\(3\)"),
    ("calls_os_exit", "failed", r"the process ended with exit code 0 before the cell was finished; its last line of output: about to leave"),
    ("kills_itself", "killed", r"SIGKILL \(Killed\) ended the process"),
    ("segfaults", "killed", r"SIGSEGV \(Segmentation fault\) ended the process"),
    ("returns_nothing", "failed", r"ContractError: the cell must return metrics and info, got NoneType"),
    ("returns_what_is_not_json", "failed", r"ContractError: the cell returned info\['best'\]\['model'\] that is not JSON: object"),
    ("returns_a_metric_without_name", "failed", r"ContractError: the cell returned a metric that cannot be read: .*a metric needs name.*"),
    ("returns_a_metric_that_is_text", "failed", r"ContractError: the cell returned a metric that cannot be read: .*value cannot be str.*"),
    ("returns_a_huge_answer", "failed", r"the cell returned 32 MiB of metrics and info; large results belong into files"),
    ("returns_nested_without_end", "failed", r"RecursionError: .*"),
    ("no_such_function", "failed", r"AttributeError: module 'hostile_cells' has no attribute 'no_such_function'"),
    ("prints_100_mb", "ok", ""),
    ("leaves_a_thread_running", "ok", ""),
    ("changes_the_process", "ok", ""),
    ("forks_itself", "ok", ""),
    ("closes_every_file", "ok", ""),
]  # fmt: skip


#: Ways to end that depend on how the process was started.
SPAWNED = [row for row in HOSTILE if row[0] in ("raises", "kills_itself", "calls_os_exit", "forks_itself")]


@pytest.mark.parametrize(
    ("start_method", "function", "status", "reason"),
    [pytest.param("fork", *row, id=row[0], marks=linux_only) for row in HOSTILE]
    + [pytest.param("spawn", *row, id=f"{row[0]}-spawned") for row in SPAWNED],
)
def test_every_way_to_end_has_its_status_and_reason_and_the_next_cell_is_untouched(
    tmp_path: Path, start_method: Any, function: str, status: str, reason: str
) -> None:
    with LocalExecutor(2, preload=(), start_method=start_method) as executor:
        hostile, innocent = outcome_of(executor, job(tmp_path, function), job(tmp_path, "square", n=3))
        [later] = outcome_of(executor, job(tmp_path, "where_it_stands"))

    assert hostile.status == status
    assert re.fullmatch(reason, hostile.reason), hostile.reason
    assert (innocent.status, innocent.metrics[0].value) == ("ok", 9)
    assert (later.status, later.info["cwd"], later.info["marker"]) == ("ok", str(Path.cwd()), None)


def test_a_failure_leaves_its_traceback(tmp_path: Path, local: LocalExecutor) -> None:
    item = job(tmp_path, "raises")

    outcome_of(local, item)

    text = (item.folder / "traceback.txt").read_text()
    assert text.startswith("Traceback (most recent call last):")
    assert 'raise ValueError("5 heads do not divide 96' in text


def test_a_crash_leaves_where_it_happened_in_the_log(tmp_path: Path, local: LocalExecutor) -> None:
    item = job(tmp_path, "segfaults")

    outcome_of(local, item)

    log = (item.folder / "log.txt").read_text()
    assert "Fatal Python error: Segmentation fault" in log
    assert "in segfaults" in log


def test_numbers_that_are_not_finite_become_null_with_a_note(tmp_path: Path, local: LocalExecutor) -> None:
    [outcome] = outcome_of(local, job(tmp_path, "returns_nan"))

    assert (outcome.status, outcome.reason) == ("ok", "")
    assert (outcome.metrics[0].value, outcome.metrics[0].note) == (None, "the value was nan")
    assert outcome.metrics[0].ci_low is None
    assert outcome.info == {"losses": [1.0, None, None]}


@linux_only
def test_a_cell_stands_alone_in_its_session_with_no_input_and_told_threads(tmp_path: Path) -> None:
    with LocalExecutor(preload=(), threads=3) as executor:
        [outcome] = outcome_of(executor, job(tmp_path, "where_it_stands"))

    expected = {
        "leader": True,
        "omp": "3",
        "torch": False,
        "main": None,
        "stdin": "",
        "hash_seed": os.environ.get("PYTHONHASHSEED", "0"),
    }
    assert {name: outcome.info[name] for name in expected} == expected


@pytest.mark.parametrize("how", [pytest.param("fork", marks=linux_only), "spawn", "inline"])
def test_every_cell_is_told_to_stay_off_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Any) -> None:
    names = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with InlineExecutor() if how == "inline" else LocalExecutor(preload=(), start_method=how) as executor:
        [outcome] = outcome_of(executor, job(tmp_path, "says_whether_it_is_offline", names=names))

    assert outcome.info == dict.fromkeys(names, "1")
    assert os.environ["HF_HUB_OFFLINE"] == "0"


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_a_cell_that_hangs_ends_at_its_time_limit_and_says_where_it_stood(tmp_path: Path, start_method: Any) -> None:
    with LocalExecutor(preload=(), start_method=start_method) as executor:
        item, outcome = runs_into_its_limit(executor, tmp_path, "hangs", once_there_is="began", marker="began")

    assert outcome.status == "timeout"
    limit_s = item.timeout_s
    assert outcome.reason == f"ran longer than the {limit_s:g} s it may take; the end of log.txt shows where it stood"
    assert limit_s is not None
    assert limit_s <= outcome.duration_s < 60
    assert "in hangs" in (item.folder / "log.txt").read_text()


def test_a_cell_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path, local: LocalExecutor) -> None:
    item, outcome = runs_into_its_limit(local, tmp_path, "hangs_and_ignores_sigterm", once_there_is="pids")

    assert outcome.status == "timeout"
    assert 1.0 <= outcome.duration_s < 60
    assert len(pids_of(item)) == 2
    assert all(is_gone(pid) for pid in pids_of(item))


@linux_only
@pytest.mark.parametrize("then_hang", [False, True])
def test_no_process_of_a_cell_outlives_it_not_even_a_daemon(
    tmp_path: Path, local: LocalExecutor, then_hang: bool
) -> None:
    if then_hang:
        item, outcome = runs_into_its_limit(
            local, tmp_path, "leaves_processes_behind", once_there_is="pids", then_hang=True
        )
    else:
        item = job(tmp_path, "leaves_processes_behind")
        [outcome] = outcome_of(local, item)

    assert outcome.status == ("timeout" if then_hang else "ok")
    assert len(pids_of(item)) == 3
    assert all(is_gone(pid) for pid in pids_of(item))


@pytest.mark.parametrize("function", ["allocates_without_end", "allocates_in_subprocesses"])
def test_a_cell_that_allocates_too_much_is_ended_with_figures(
    tmp_path: Path, local: LocalExecutor, function: str
) -> None:
    greedy, innocent = outcome_of(
        local, job(tmp_path, function, memory_bytes=200 * 2**20), job(tmp_path, "square", n=3, memory_bytes=200 * 2**20)
    )

    assert greedy.status == "oom_host"
    found = re.fullmatch(
        r"used ([\d.]+) (MiB|GiB) of host memory where 0\.2 GiB are allowed for one cell", greedy.reason
    )
    assert found, greedy.reason
    assert innocent.status == "ok"


def test_the_log_keeps_both_ends_of_a_hundred_megabytes(tmp_path: Path, local: LocalExecutor) -> None:
    item = job(tmp_path, "prints_100_mb")

    [outcome] = outcome_of(local, item)

    log = (item.folder / "log.txt").read_text()
    assert outcome.status == "ok"
    assert len(log) < 1.1 * 2**20
    assert log.startswith("the first line\n")
    assert log.endswith("the last line\n")
    assert "bytes left out" in log


def test_a_log_that_grows_without_end_is_cut_while_it_grows(tmp_path: Path, local: LocalExecutor) -> None:
    item = job(tmp_path, "prints_endlessly", timeout_s=3.0)
    local.submit(item)
    largest = 0
    outcome = None
    while outcome is None:
        if (item.folder / "log.txt").exists():
            largest = max(largest, (item.folder / "log.txt").stat().st_size)
        outcome = next((found for _, found in local.wait(0.05)), None)

    assert outcome.status == "timeout"
    assert largest < 2**30
    assert (item.folder / "log.txt").stat().st_size < 1.1 * 2**20


def test_a_cell_that_removes_its_folder_fails_alone(tmp_path: Path, local: LocalExecutor) -> None:
    hostile, innocent = outcome_of(local, job(tmp_path, "removes_its_folder"), job(tmp_path, "square", n=3))

    assert (hostile.status, innocent.status) == ("failed", "ok")
    assert hostile.reason == "its result could not be written: its folder is gone"


@linux_only
def test_a_fork_server_that_dies_is_started_again_and_its_cells_with_it(tmp_path: Path, local: LocalExecutor) -> None:
    hostile, innocent = outcome_of(
        local,
        job(tmp_path, "kills_the_fork_server_once", marker=str(tmp_path / "marker")),
        job(tmp_path, "square", n=3, sleep_s=0.5),
    )

    assert (hostile.status, innocent.status) == ("ok", "ok")
    assert "half.txt" not in hostile.info["files"]


@linux_only
def test_a_cell_under_which_the_fork_server_dies_twice_is_killed(tmp_path: Path, local: LocalExecutor) -> None:
    [hostile] = outcome_of(local, job(tmp_path, "kills_the_fork_server"))
    [later] = outcome_of(local, job(tmp_path, "square", n=3))

    assert hostile.status == "killed"
    assert hostile.reason == "the fork server ended with SIGKILL (Killed), twice"
    assert later.status == "ok"


@linux_only
def test_a_fork_server_that_answers_no_more_is_replaced(
    tmp_path: Path, local: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmbench.executors.local.STUCK_S", 0.5)

    [hostile] = outcome_of(local, job(tmp_path, "stops_the_fork_server"))
    [later] = outcome_of(local, job(tmp_path, "square", n=3))

    assert (hostile.status, later.status) == ("ok", "ok")


@linux_only
def test_a_preload_that_raises_does_not_stop_the_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_library.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))

    with LocalExecutor(preload=("broken_library", "no.such.module")) as executor:
        [outcome] = outcome_of(executor, job(tmp_path, "square", n=2))

    assert outcome.status == "ok"


@linux_only
def test_a_preload_that_ends_the_server_gives_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deadly_library.py").write_text("import os\nos.write(2, b'libfoo: fatal\\n')\nos._exit(9)")
    monkeypatch.syspath_prepend(str(tmp_path))

    with LocalExecutor(preload=("deadly_library",)) as executor:
        [outcome] = outcome_of(executor, job(tmp_path, "square", n=2))

    assert outcome.status == "interrupted"  # the cell never began
    assert outcome.reason == "the fork server ended with exit code 9; its last words: libfoo: fatal, twice"


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_cancel_ends_every_cell_as_interrupted(tmp_path: Path, start_method: Any) -> None:
    with LocalExecutor(2, preload=(), start_method=start_method, grace_s=0.3) as executor:
        items = [job(tmp_path, "hangs"), job(tmp_path, "hangs_and_ignores_sigterm")]
        for item in items:
            executor.submit(item)
        until = time.monotonic() + 120
        while not (items[1].folder.parent / "pids").exists():
            executor.wait(0.05)
            assert time.monotonic() < until

        executor.cancel()
        outcomes: list[Outcome] = []
        while len(outcomes) < 2:
            outcomes += [outcome for _, outcome in executor.wait(0.2)]
            assert time.monotonic() < until

    assert [(outcome.status, outcome.reason) for outcome in outcomes] == [
        ("interrupted", "interrupted while it ran")
    ] * 2
    assert all(is_gone(pid) for pid in pids_of(items[1]))


def test_closing_leaves_no_process_behind(tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with LocalExecutor(2, preload=(), grace_s=0.3) as executor:
        item = job(tmp_path, "leaves_processes_behind", then_hang=True)
        executor.submit(item)
        until = time.monotonic() + 120
        while not (item.folder.parent / "pids").exists():
            executor.wait(0.05)
            assert time.monotonic() < until

    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    if sys.platform == "linux":
        assert len(pids_of(item)) == 3
        assert all(is_gone(pid) for pid in pids_of(item))


@linux_only
@pytest.mark.parametrize("victim", ["parent", "server"])
def test_cells_and_their_processes_die_with_a_killed_parent(tmp_path: Path, victim: str) -> None:
    script = (
        "import sys; from pathlib import Path; from mmbench.executors import Job; "
        "from mmbench.executors.local import LocalExecutor; "
        f"sys.path.insert(0, {str(HERE)!r}); folder = Path({str(tmp_path / 'attempt')!r}); folder.mkdir(); "
        "executor = LocalExecutor(preload=()); "
        "executor.submit(Job(cell_id='0' * 16, function='hostile_cells:leaves_processes_behind', "
        "payload={'then_hang': True}, folder=folder)); print(executor._launcher.server_pid, flush=True); "
        "executor.wait(600); executor.close()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server_pid = int(parent.stdout.readline())
    until = time.monotonic() + 120
    while not (tmp_path / "pids").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    family = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert len(family) == 3
    [cell] = [child.pid for child in psutil.Process(server_pid).children()]

    os.kill(parent.pid if victim == "parent" else server_pid, signal.SIGKILL)

    if victim == "parent":
        assert all(is_gone(pid) for pid in (server_pid, cell, *family))
    else:
        # The cell goes with the server; what it started goes when the executor finds out.
        assert all(is_gone(pid) for pid in (server_pid, cell, family[0]))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for pid in family:  # the second try of the other half may be under way
        if psutil.pid_exists(pid) and victim == "server":
            os.kill(pid, signal.SIGKILL)


def test_the_live_table_can_see_time_and_memory(tmp_path: Path, local: LocalExecutor) -> None:
    local.submit(job(tmp_path, "hangs"))

    until = time.monotonic() + 120
    while (running := local.running()[0]).memory_bytes is None or running.elapsed_s < 0.3:
        assert local.wait(0.1) == []
        assert time.monotonic() < until

    assert 2**20 < running.memory_bytes < 2**30


def test_waiting_for_nothing_returns_at_once(local: LocalExecutor) -> None:
    began = time.monotonic()

    assert local.wait(120) == []

    assert time.monotonic() - began < 60


@linux_only
def test_nothing_is_started_before_the_first_job() -> None:
    with LocalExecutor() as executor:
        launcher = executor._launcher
        assert isinstance(launcher, ForkLauncher)

        assert launcher.server_pid is None


def test_the_parent_imports_neither_torch_nor_pandas(tmp_path: Path) -> None:
    code = (
        "import sys; import mmbench.runner, mmbench.store, mmbench.executors.local, mmbench.executors.inline; "
        "print([name for name in ('torch', 'pandas', 'numpy', 'timm', 'transformers') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert said == "[]\n"


def test_the_inline_executor_runs_in_this_process_and_puts_back_folder_and_environment(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    before = Path.cwd(), dict(os.environ)
    seen: list[BaseException] = []
    import hostile_cells

    def moves(payload: dict[str, Any], folder: Path) -> dict[str, Any]:
        os.chdir(tmp_path / "elsewhere")
        os.environ["MMBENCH_TEST_MARKER"] = str(os.getpid())
        return {"metrics": [], "info": {"pid": os.getpid()}}

    hostile_cells.moves = moves  # type: ignore[attr-defined]
    with InlineExecutor(on_error=seen.append) as executor:
        [moved] = outcome_of(executor, job(tmp_path, "moves"))
        [failed] = outcome_of(executor, job(tmp_path, "raises"))
        [left] = outcome_of(executor, job(tmp_path, "calls_sys_exit"))

    assert moved.info["pid"] == os.getpid()
    assert (Path.cwd(), dict(os.environ)) == before
    assert (failed.status, left.status) == ("failed", "failed")
    assert [type(error) for error in seen] == [ValueError, SystemExit]


def test_a_signal_ends_an_inline_cell_and_reaches_who_handled_it_before(tmp_path: Path) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda signum, frame: received.append(signum))
    marker = tmp_path / "began"

    def interrupt() -> None:
        until = time.monotonic() + 120
        while not marker.exists() and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        [outcome] = outcome_of(InlineExecutor(), job(tmp_path, "hangs", marker=str(marker)))
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)

    assert outcome.status == "interrupted"
    assert received == [signal.SIGINT]


def test_torch_errors_of_memory_are_told_apart() -> None:
    gpu = RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")
    cublas = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    host = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
    )
    other = RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    assert [classify(error)[0] for error in (gpu, cublas, host, other)] == ["oom_gpu", "oom_gpu", "oom_host", "failed"]


def test_torch_really_says_so_when_the_host_has_no_memory() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)

    assert classify(caught.value)[0] == "oom_host"


def test_a_reason_is_one_printable_line_of_at_most_500_characters() -> None:
    assert one_line("a\r\nb\tc\x07\x1b]0;title\x07d\x1b[2Je\ud800f\u200b") == "a b cdef"
    assert len(one_line("word " * 10_000)) == 500
    assert one_line("Zürich 数字 🙂") == "Zürich 数字 🙂"


def test_a_short_log_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"0123456789")

    CappedLog(path, keep_bytes=10, limit_bytes=100).finish()

    assert path.read_bytes() == b"0123456789"


def test_a_log_cut_several_times_keeps_the_first_and_the_last_bytes(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    log = CappedLog(path, keep_bytes=20, limit_bytes=30)
    with path.open("ab", buffering=0) as stream:
        for start in range(0, 200, 20):
            stream.write(b"".join(b"%03d." % number for number in range(start, start + 20)))
            log.check()
    log.finish()

    text = path.read_text()
    assert text.startswith("000.001.00\n")
    assert text.endswith("]\n\n7.198.199.")
    assert "[… 780 bytes left out …]" in text


def test_sizes_read_well() -> None:
    assert (gib(139.8 * 2**30), gib(50 * 2**20)) == ("139.8 GiB", "50 MiB")


def test_an_outcome_file_that_is_garbled_counts_as_none(tmp_path: Path) -> None:
    from mmbench.executors.local import _read_outcome

    path = tmp_path / "outcome.json"
    good = {"status": "ok", "reason": "", "metrics": [], "info": {}}
    found = []
    for text in (
        json.dumps({**good, "nonce": "mine"}),
        json.dumps({**good, "nonce": "another's"}),
        json.dumps(good),
        json.dumps({**good, "nonce": "mine"})[:-1],
        "[]",
        "null",
        '{"status": "fine"}',
        "[" * 10**5,
        json.dumps({**good, "nonce": "mine", "metrics": [1]}),
    ):
        path.write_text(text)
        found.append(_read_outcome(path, "mine"))

    assert found == [good, None, None, None, None, None, None, None, None]


@linux_only
def test_memory_that_a_cell_frees_is_kept_for_its_next_tensor(local: LocalExecutor, tmp_path: Path) -> None:
    (outcome,) = outcome_of(local, job(tmp_path, "faults_of_a_second_large_tensor"))

    assert outcome.status == "ok", outcome.reason
    assert outcome.info["first"] >= 64 * 2**20 / 2**21  # even with huge pages
    assert outcome.metrics[0].value < outcome.info["first"] / 10
