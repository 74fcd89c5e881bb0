"""Before the first cell: import each selected component's code once, where it can hurt nobody, and say what is broken.

The imports run as a job of the executor that will run the cells: for `local` in a child of the fork server, so that
neither the server nor a cell feels what they do to the process. What crashes, hangs or prints without end costs its own
component only. Executors of plugins run cells on other machines, after a wait in a queue: nothing is imported there
beforehand, and each cell says for itself what it cannot import.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmbench.encoding import parse_json
from mmbench.errors import MmbenchError, Unavailable
from mmbench.executors import Executor, Job, Outcome
from mmbench.executors.child import one_line
from mmbench.executors.inline import InlineExecutor
from mmbench.loading import in_words, load_plugin_file
from mmbench.pairs import COMPANIONS, companion_in, explain_pair, installed_version
from mmbench.part_code import load_attribute, missing_packages
from mmbench.registry import FILE_DIST, Entry
from mmbench.report.text import counted
from mmbench.spec import role_of

IMPORT_FUNCTION = "mmbench.preflight:import_all"
#: How long one import may take; the largest libraries need seconds, on a slow network drive a minute.
IMPORT_LIMIT_S = 120.0
#: Imports that may crash or hang before preflight gives up.
MAX_CRASHES = 20
_PROGRESS_FILE = "progress.jsonl"
_WAIT_S = 0.2
#: What an import says where the machine has no memory, files or room left: nothing is wrong with what is imported.
_LACKS = re.compile(
    r"(?i)failed to map segment|cannot allocate memory|MemoryError|too many open files|no space left|"
    r"resource temporarily unavailable|can't start new thread"
)


@dataclass(frozen=True, kw_only=True)
class Broken:
    """Something installed that cannot be imported.

    Attributes:
        subject: What people call it: "torchaudio 2.11.1", "encoder mmbench-audio/logmel-cnn".
        problem: Why, in one line.
        hint: What to do, or "".
        refs: Components that cannot be used for it.
        traceback: Of the import, or "".
    """

    subject: str
    problem: str
    hint: str
    refs: tuple[str, ...]
    traceback: str = ""

    @property
    def reason(self) -> str:
        """Return the one line that a cell says."""
        return f"{self.subject} {self.problem}" + (f"; {self.hint}" if self.hint else "")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What preflight found.

    Attributes:
        broken: What cannot be imported, each once.
        device: Why the device that was asked for cannot be used, or "".
        skipped: Why nothing was imported, or "".
        libraries: Facts about torch and numpy there, where they were asked for.
    """

    broken: tuple[Broken, ...] = ()
    device: str = ""
    skipped: str = ""
    libraries: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reasons(self) -> Mapping[str, str]:
        """Return why each component that cannot be used cannot."""
        return {ref: item.reason for item in self.broken for ref in item.refs}


@dataclass(frozen=True)
class _Item:
    """One import: a package that components require, or the code of one component, which needs such packages."""

    name: str
    package: bool = False
    needs: tuple[str, ...] = ()


def check_components(
    entries: Iterable[Entry],
    executor: Executor,
    *,
    plugin_files: Sequence[Path] = (),
    device: str = "",
    memory_bytes: int | None = None,
    limit_s: float = IMPORT_LIMIT_S,
    facts: bool = False,
) -> Report:
    """Import each component's code, and the packages that it requires, each once.

    What fails after other imports is tried again in a process without them: one component's side effects must not be
    another's fault. Components whose required packages are not installed are left out.

    Args:
        entries: The components.
        executor: Where; its jobs are done when this returns.
        plugin_files: Local plugins to load first.
        device: "cuda" checks that there is one.
        memory_bytes, limit_s: Limits of the imports; the time is for each.
        facts: Whether to find out `Report.libraries` as well.
    """
    chosen = {entry.ref: entry for entry in entries if not missing_packages(entry.spec)}
    by_item: dict[_Item, list[Entry]] = {}
    for entry in chosen.values():
        for package in entry.spec.requires:
            by_item.setdefault(_Item(package, package=True), []).append(entry)
    for entry in chosen.values():
        by_item.setdefault(_Item(entry.spec.factory, needs=entry.spec.requires), []).append(entry)
    items = sorted(by_item, key=lambda item: not item.package)
    imports = _Imports(executor, plugin_files, device, memory_bytes, limit_s, facts)
    errors = imports.of(items)
    return Report(
        broken=tuple(_explained(errors, by_item)),
        device=imports.device_error,
        skipped=imports.given_up,
        libraries=imports.libraries,
    )


def import_packages(names: Sequence[str], executor: Executor, *, limit_s: float = IMPORT_LIMIT_S) -> dict[str, str]:
    """Import packages, and return in one line what each that failed raised."""
    errors = _Imports(executor, (), "", None, limit_s).of([_Item(name, package=True) for name in names])
    return {item.name: error["cause"] for item, error in errors.items()}


def import_all(payload: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Import what the payload names, one after the other; a line of `progress.jsonl` says how each went.

    This is the function of a job: it runs where cells do.
    """
    progress = folder / _PROGRESS_FILE
    pid = os.getpid()
    failed: set[str] = set()
    for file in payload["plugin_files"]:
        load_plugin_file(Path(file))
    if payload["device"]:
        _note(progress, {"device": _device_error(payload["device"])})
    for item in payload["items"]:
        _note(progress, {"began": item["name"], "at": time.time()})
        error = {"left_out": True} if failed.intersection(item["needs"]) else _import_error(item, payload["limit_s"])
        if os.getpid() != pid:  # the import forked, and this is the copy
            os._exit(0)
        if error and item["package"]:
            failed.add(item["name"])
        _note(progress, {"ended": item["name"], "error": error})
    from mmbench.library_facts import library_facts

    return {"metrics": [], "info": {"libraries": library_facts() if payload["facts"] else {}}}


def _import_error(item: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
    """Import one thing and return what that raised, {} for nothing."""
    if limit_s:
        # Neither a signal nor a thread of Python's would end an import that hangs in compiled code.
        faulthandler.dump_traceback_later(limit_s, exit=True)
    try:
        importlib.import_module(item["name"]) if item["package"] else load_attribute(item["name"])
    except BaseException as error:  # SystemExit and KeyboardInterrupt too
        cause = error.__cause__ or error
        words = str(error) if isinstance(error, MmbenchError) else in_words(error)
        return {
            "words": one_line(words),
            "cause": one_line(in_words(cause)),
            "companion": companion_in(error),
            "traceback": _traceback(cause),
        }
    finally:
        if limit_s:
            faulthandler.cancel_dump_traceback_later()
    return {}


def _traceback(error: BaseException) -> str:
    import traceback

    with suppress(Exception):  # an exception's own words may raise
        return "".join(traceback.format_exception(error, limit=-8))[-4000:]
    return ""


def _device_error(device: str) -> str:
    """Return why a device cannot be used, or ""."""
    try:
        from mmbench.cell_subject import pick_device

        pick_device(device)
    except Exception as error:
        return one_line(str(error) if isinstance(error, Unavailable) else f"--device {device}: {in_words(error)}")
    return ""


def _note(progress: Path, line: Mapping[str, Any]) -> None:
    with progress.open("a", encoding="utf-8") as file:  # opened each time: an import may close what it finds open
        file.write(json.dumps(line) + "\n")


@dataclass
class _Imports:
    """Jobs that import, as many as crashes make necessary."""

    executor: Executor
    plugin_files: Sequence[Path]
    device: str
    memory_bytes: int | None
    limit_s: float
    facts: bool = False
    libraries: Mapping[str, Any] = field(default_factory=dict)
    device_error: str = ""
    given_up: str = ""
    _num_jobs: int = 0
    _num_crashes: int = 0

    def of(self, items: Sequence[_Item]) -> dict[_Item, dict[str, Any]]:
        """Return what each import that failed raised."""
        errors: dict[_Item, dict[str, Any]] = {}
        again: list[_Item] = []
        left = list(items)
        while left and not self.given_up:
            first = left[0]
            ended, crash = self._run(left)
            for item in left[: len(ended)]:
                if ended[item] and item is first:
                    errors[item] = ended[item]
                elif ended[item]:
                    again.append(item)
            left = left[len(ended) :]
            if crash and left and not ended:
                errors[left.pop(0)] = crash
            # One that crashed after others is the first of the next process, without them.
        for item in again:
            if self.given_up or any(_Item(name, package=True) in errors for name in item.needs):
                continue
            ended, crash = self._run([item])
            error = crash or ended.get(item)
            if error:
                errors[item] = error
        return errors

    def _run(self, items: Sequence[_Item]) -> tuple[dict[_Item, dict[str, Any]], dict[str, Any] | None]:
        """Import in one process; return how those went that it came to an end with, and how the next one ended it."""
        with tempfile.TemporaryDirectory(prefix="mmbench-preflight-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            job = self._job(items, folder)
            self.executor.submit(job)
            outcome = self._outcome()
            lines = list(_progress(folder))
        by_name = {item.name: item for item in items}
        self.device_error = next((line["device"] for line in lines if "device" in line), self.device_error)
        ended = {by_name[line["ended"]]: line["error"] for line in lines if "ended" in line}
        if outcome.status == "ok":
            self.libraries = outcome.info.get("libraries") or self.libraries
            return ended, None
        began = [line for line in lines if "began" in line]
        if outcome.status == "interrupted" or len(began) <= len(ended):
            self.given_up = f"the imports came to no end: {outcome.reason}"
            return ended, None
        self._num_crashes += 1
        if self._num_crashes >= MAX_CRASHES:
            self.given_up = f"{self._num_crashes} imports crashed"
        slow = self.limit_s and time.time() - began[-1]["at"] >= self.limit_s
        words = f"it took longer than {self.limit_s:g} s to import" if slow else outcome.reason
        return ended, {"words": words, "cause": words, "companion": "", "traceback": ""}

    def _job(self, items: Sequence[_Item], folder: Path) -> Job:
        self._num_jobs += 1
        inline = isinstance(self.executor, InlineExecutor)
        return Job(
            cell_id=f"preflight{self._num_jobs:07d}",
            function=IMPORT_FUNCTION,
            payload={
                "items": [{"name": item.name, "package": item.package, "needs": item.needs} for item in items],
                "plugin_files": [str(path) for path in self.plugin_files],
                "device": self.device,
                "facts": self.facts and not self.libraries,
                "limit_s": 0 if inline else self.limit_s,  # whose end would be that of this process
            },
            folder=folder,
            timeout_s=len(items) * self.limit_s,
            memory_bytes=self.memory_bytes,
        )

    def _outcome(self) -> Outcome:
        while True:
            for _job, outcome in self.executor.wait(_WAIT_S):
                return outcome


def _progress(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of what a job noted."""
    with suppress(OSError):
        for text in (folder / _PROGRESS_FILE).read_text(encoding="utf-8", errors="replace").split("\n"):
            with suppress(ValueError):
                line = parse_json(text)
                if isinstance(line, dict):
                    yield line


def _explained(errors: Mapping[_Item, dict[str, Any]], by_item: Mapping[_Item, Sequence[Entry]]) -> Iterator[Broken]:
    """Yield each thing that is broken once, with all components that it takes along."""
    groups: dict[tuple[str, str], list[_Item]] = {}
    for item, error in errors.items():
        companion = item.name if item.package and item.name in COMPANIONS else error["companion"]
        # The same error of several components is one fault, of what they all import.
        key = ("pair", companion) if companion else ("package", item.name) if item.package else ("code", error["cause"])
        groups.setdefault(key, []).append(item)
    settled: set[str] = set()
    for kind, name in sorted(groups, key=lambda key: ("pair", "package", "code").index(key[0])):
        items = groups[kind, name]
        entries = {entry.ref: entry for item in items for entry in by_item[item] if entry.ref not in settled}
        if not entries:
            continue
        settled.update(entries)
        error, refs = errors[items[0]], tuple(sorted(entries))
        if kind == "pair":
            pair = explain_pair(name, error["cause"], sorted({entry.dist for entry in entries.values()}))
            subject, problem, hint = pair.subject, pair.problem, pair.hint
        elif kind == "package":
            version = installed_version(name)
            subject, problem = f"{name} {version}" if version else name, f"cannot be imported: {error['words']}"
            hint = f"pip install --force-reinstall '{name}=={version}'" if version else f"reinstall what brings {name}"
        else:
            entry = entries[refs[0]]
            more = f" and {counted(len(refs) - 1, 'other component')}" if len(refs) > 1 else ""
            subject, problem = f"{role_of(entry.spec)} {entry.ref}{more}", f"cannot be loaded: {error['words']}"
            hint = f"reinstall {entry.dist}, or tell its author" if entry.dist != FILE_DIST else "correct the file"
            hint = "" if "pip install" in problem else hint
        if _LACKS.search(problem):
            hint = (
                "make room, or raise the limits of memory, processes and files (ulimit -a), then type the command again"
            )
        yield Broken(subject=subject, problem=problem, hint=hint, refs=refs, traceback=error["traceback"])
