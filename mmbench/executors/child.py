"""What happens in the process of one cell: call its function and put what came of it into words and into a file."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import importlib
import json
import math
import os
import re
import shutil
import signal
import sys
import traceback
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmbench.errors import ContractError, DiskError, Diverged, Unavailable
from mmbench.record import Metric, Status

OUTCOME_FILE = "outcome.json"
LOG_FILE = "log.txt"
TRACEBACK_FILE = "traceback.txt"
#: Key of a record's info that says where in a plugin its cell failed.
RAISED_AT = "raised_at"
#: Code that a plugin calls: that an exception comes from there does not say which line of the plugin is wrong.
_LIBRARIES = frozenset(
    {"mmbench", "torch", "torchvision", "torchaudio", "numpy", "pandas", "scipy", "sklearn", "transformers", "timm",
     "PIL", "einops", "safetensors", "tokenizers", "soundfile", "av", "pyarrow"}
)  # fmt: skip
#: How a cell's process ends that could not write its outcome.
UNWRITTEN_EXIT = 74

#: An outcome larger than this belongs into a file of the cell, not into the journal.
MAX_OUTCOME_BYTES = 16 * 2**20
_MAX_REASON = 500
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)", re.DOTALL)
_GPU_OOM = re.compile(r"(?:CUDA|HIP) out of memory|CUDA error: out of memory|(?:CUBLAS|CUDNN)_STATUS_ALLOC_FAILED")
_GPU_FIGURES = re.compile(
    r"Tried to allocate (?P<tried>[\d.]+ \w+).*?"
    r"total capacity of (?P<total>[\d.]+ \w+) of which (?P<free>[\d.]+ \w+) is free",
    re.DOTALL,
)
_HOST_OOM = re.compile(r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)|alloc_cpu\.cpp")

#: Key of an outcome's info: the cell ended by what the machine lacks, and is "interrupted".
MACHINE_FAULT = "machine_fault"
_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EAGAIN)
_NO_ROOM = re.compile(r"No space left on device|Disk quota exceeded|can't start new thread")
_NO_FILES = re.compile(r"Too many open files")
#: A limit of open files below this is the user's; above it a cell leaks.
_MIN_OPEN_FILES = 256
#: Files of a cell that are so large, and such a share of the disk, are what fills it.
_MIN_FILLING_BYTES, _FILLING_SHARE = 2**20, 0.05

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def execute(
    function: str,
    payload: Mapping[str, Any],
    folder: Path,
    *,
    on_error: Callable[[BaseException], None] | None = None,
) -> dict[str, Any]:
    """Call a cell's function and return its outcome as plain JSON; raises nothing, whatever the function does.

    Args:
        function: ``"package.module:function"``.
        payload: Its first argument.
        folder: Its second argument; ``traceback.txt`` is written into it when the function raises.
        on_error: Told the exception before it becomes words, for a debugger.

    Returns:
        ``status``, ``reason``, ``metrics`` and ``info``.
    """
    try:
        metrics, info = _checked(_resolve(function)(dict(payload), folder))
    except BaseException as error:  # a plugin may raise anything, SystemExit too
        if on_error is not None:
            on_error(error)
        status, reason = classify(error)
        fault: dict[str, Any] = {}
        if status in ("failed", "diverged") and (place := plugin_frame(error)):
            fault[RAISED_AT] = place
        if status == "failed" and is_machine_fault(error) and not fills_disk(folder):
            status, fault = "interrupted", {**fault, MACHINE_FAULT: True}
        with suppress(BaseException):  # the folder may be gone, the error's own text may raise
            (folder / TRACEBACK_FILE).write_text("".join(traceback.format_exception(error)), errors="backslashreplace")
        return {"status": status, "reason": reason, "metrics": [], "info": fault}
    return {"status": "ok", "reason": "", "metrics": metrics, "info": info}


def plugin_frame(error: BaseException) -> str:
    """Return where in a plugin an exception was raised, as "bad.py:12 in forward"; "" where no plugin had part in it.

    That is the innermost frame that is of neither mmbench, nor the standard library, nor a library that plugins call.
    """
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if module and module not in _LIBRARIES and module not in sys.stdlib_module_names:
            found = one_line(f"{Path(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name}")
    return found


def classify(error: BaseException) -> tuple[Status, str]:
    """Return the status that an exception stands for, and the reason in one line."""
    for cause in _causes(error):
        if _is_gpu_oom(cause):
            return "oom_gpu", _gpu_oom_reason(cause)
        if isinstance(cause, MemoryError) or _HOST_OOM.search(_text(cause)):
            return "oom_host", one_line(_text(cause)) or "the host has no memory left to allocate"
    if isinstance(error, Unavailable):
        return "unavailable", one_line(_text(error)) or "the plugin did not say what is missing"
    if isinstance(error, Diverged):
        return "diverged", one_line(_text(error)) or "the loss is not finite"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "interrupted while it ran"
    if isinstance(error, SystemExit):
        return "failed", one_line(f"SystemExit: the cell called sys.exit({error.code!r})")
    name = type(error).__name__
    return "failed", one_line(f"{name}: {_text(error)}" if _text(error) else name)


def is_machine_fault(error: BaseException) -> bool:
    """Return whether an exception says that the machine lacks room, files or processes, rather than of the cell."""
    for cause in _causes(error):
        number = cause.errno if isinstance(cause, OSError) else None
        if number in (errno.EMFILE, errno.ENFILE) or _NO_FILES.search(_text(cause)):
            return _max_open_files() < _MIN_OPEN_FILES  # else it is the cell that opened too many
        if number in _FAULTS or isinstance(cause, DiskError) or _NO_ROOM.search(_text(cause)):
            return True
    return False


def fills_disk(folder: Path) -> bool:
    """Return whether the files below a folder are a large part of its disk."""
    try:
        total = shutil.disk_usage(folder).total
    except OSError:
        return False
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += Path(parent, name).lstat().st_blocks * 512
    return size >= max(_MIN_FILLING_BYTES, _FILLING_SHARE * total)


def _max_open_files() -> float:
    try:
        import resource
    except ImportError:  # another system than POSIX
        return math.inf
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def one_line(text: str) -> str:
    """Return text as one printable line of at most 500 characters: no control characters, no escape sequences.

    >>> one_line("red:\\x1b[31m alert\\nsecond line")
    'red: alert second line'
    """
    words = " ".join(_ESCAPE.sub("", text[: 16 * _MAX_REASON]).split())
    words = "".join(char for char in words if unicodedata.category(char) not in ("Cc", "Cf", "Cs"))
    return words if len(words) <= _MAX_REASON else words[: _MAX_REASON - 1] + "…"


def run_and_leave(job: Mapping[str, Any], *, parent_pid: int) -> None:
    """Be the process of one cell from beginning to end; never returns.

    The process gets its own session, dies with its parent, writes stdout and stderr into ``log.txt`` and leaves
    ``outcome.json``, which is there whole or not at all.

    Args:
        job: ``function``, ``payload``, ``folder``, ``threads`` and ``nonce``, which the function is not told.
        parent_pid: The process whose death ends this one.
    """
    pid = os.getpid()
    code = 1
    try:
        folder = Path(job["folder"])
        _enter(folder, parent_pid)
        limit_threads(job["threads"])
        outcome = execute(job["function"], job["payload"], folder)
        # A plugin may have forked; its copy of this process must not write a second outcome.
        if os.getpid() == pid:
            write_outcome(folder, outcome, job["nonce"])
        code = 0
    except BaseException as error:  # whatever it is, the process ends below
        # What the cell itself raises is in its outcome: the operating system only fails around it.
        code = UNWRITTEN_EXIT if isinstance(error, OSError) else 1
        with suppress(BaseException):  # a plugin may have closed or replaced the streams
            traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(BaseException):  # likewise
                stream.flush()
        if sys.platform != "win32":
            with suppress(BaseException):  # a C library without it
                ctypes.CDLL(None).fflush(None)
        # Neither atexit handlers nor threads of a plugin may hold the process back: what counts is written.
        os._exit(code)


def write_outcome(folder: Path, outcome: Mapping[str, Any], nonce: str) -> None:
    """Write ``outcome.json`` whole, through a file beside it."""
    text = json.dumps({**outcome, "nonce": nonce}, allow_nan=False)
    if len(text) > MAX_OUTCOME_BYTES:
        reason = f"the cell returned {len(text) / 2**20:.0f} MiB of metrics and info; large results belong into files"
        text = json.dumps({"status": "failed", "reason": reason, "metrics": [], "info": {}, "nonce": nonce})
    beside = folder / f".{OUTCOME_FILE}"
    beside.unlink(missing_ok=True)
    beside.write_text(text)
    beside.replace(folder / OUTCOME_FILE)


def limit_threads(threads: int) -> None:
    """Hold torch to so many threads, where torch is loaded; the rest is told by the environment."""
    torch = sys.modules.get("torch")
    if torch is not None:
        with suppress(AttributeError, RuntimeError):  # half imported, or threads that cannot be changed any more
            torch.set_num_threads(threads)


def die_with_parent(parent_pid: int) -> None:
    """Make the kernel end this process when its parent ends, where the kernel can (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # The parent may have ended before the line above.
        if os.getppid() != parent_pid:
            os._exit(1)


def outlive_parent() -> None:
    """Undo `die_with_parent`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none slips away (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def keep_freed_memory() -> None:
    """Let malloc keep what is freed for the next tensor, where malloc is glibc's.

    By default every large tensor is mapped anew, and touching its fresh pages takes longer than many an operation on
    them: a convolutional network over 64 images of 224 pixels ran 2 to 6 times faster with this. A cell's process is
    short, so what it keeps is soon given back.
    """
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # another C library
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
            libc.mallopt(_M_TOP_PAD, 64 * 2**20)


def main(job_file: str, parent_pid: int) -> None:
    """Run the job described in a file: how a cell starts where processes cannot be forked."""
    keep_freed_memory()
    job = json.loads(Path(job_file).read_text())
    Path(job_file).unlink()  # its nonce is nobody else's business
    run_and_leave(job, parent_pid=parent_pid)


def _enter(folder: Path, parent_pid: int) -> None:
    if sys.platform != "win32":
        if os.getsid(0) != os.getpid():
            os.setsid()
        die_with_parent(parent_pid)
        adopt_orphans()
    null = os.open(os.devnull, os.O_RDONLY)
    # Appending, so that the parent may cut the file short while it grows.
    log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    if sys.platform != "win32":
        # A cell that is told to end (by its time limit, say) first writes into its log where it stood.
        faulthandler.register(signal.SIGTERM, chain=True)
    if sys.platform == "linux":
        # When the machine runs out of memory, the kernel should take a cell rather than the process with the journal.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")


def _resolve(function: str) -> Callable[[dict[str, Any], Path], Any]:
    module, _, attribute = function.partition(":")
    found: Any = importlib.import_module(module)
    for name in attribute.split("."):
        found = getattr(found, name)
    return found  # type: ignore[no-any-return]


def _checked(result: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return metrics and info as JSON that any reader takes.

    Raises:
        ContractError: the function returned something else than it promised.
    """
    if not isinstance(result, Mapping):
        raise ContractError(f"the cell must return metrics and info, got {type(result).__name__}")
    metrics = [_checked_metric(item) for item in result.get("metrics", ())]
    info = result.get("info", {})
    if not isinstance(info, Mapping):
        raise ContractError(f"the cell must return info as a mapping, got {type(info).__name__}")
    return metrics, _plain(info)


def _checked_metric(item: Any) -> dict[str, Any]:
    try:
        metric = Metric.from_json(item)
    except (TypeError, AttributeError, ValueError) as error:
        raise ContractError(f"the cell returned a metric that cannot be read: {item!r} ({error})") from None
    value = metric.value
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ContractError(f"the cell returned a metric whose value is no number: {item!r}")
    if not (isinstance(metric.name, str) and isinstance(metric.phase, str)):
        raise ContractError(f"the cell returned a metric whose name or phase is no text: {item!r}")
    plain = _plain(metric.to_json(), "metric")
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any, where: str = "info") -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{position}]") for position, item in enumerate(value)]
    raise ContractError(f"the cell returned {where} that is not JSON: {type(value).__name__}")


def _causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes and len(causes) < 10:
        causes.append(cause)
        cause = cause.__cause__
    return causes


def _is_gpu_oom(error: BaseException) -> bool:
    # By name: asking torch for the class would import it here, and a cell need not use torch.
    names = {kind.__name__ for kind in type(error).__mro__}
    if "OutOfMemoryError" in names and not isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_GPU_OOM.search(_text(error)))


def _gpu_oom_reason(error: BaseException) -> str:
    text = _text(error)
    figures = _GPU_FIGURES.search(text)
    if figures:
        return "CUDA out of memory: tried to allocate {tried} with {free} of {total} free".format(**figures.groupdict())
    return one_line(text) or "CUDA out of memory"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:  # of a plugin's __str__
        return f"(its message cannot be shown: {type(broken).__name__})"
