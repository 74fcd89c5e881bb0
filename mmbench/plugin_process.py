"""Reading a plugin's descriptors, and asking its functions, in a child process: nothing that it does reaches this one.

The child imports the plugin and answers over a pipe in lines of JSON, which is all that comes back. It may exit, crash,
hang or change what modules hold: that ends or changes the child alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mmbench import errors, loading
from mmbench.errors import MmbenchError, PluginError, UsageError
from mmbench.imports import load_attribute
from mmbench.isolation import WAITING_FACTOR
from mmbench.loading import LoadedPlugin, PluginInfo, in_words, load_plugin
from mmbench.spec import SPEC_OF_ROLE, AssetSpec, DatasetInfo, EncoderInfo, Modality, TaskSpec
from mmbench.spec_values import to_json

#: Where processes can be forked safely from one that has imported numpy; elsewhere plugins are read in this process.
CAN_FORK = sys.platform == "linux"
#: How long `mmbench_skip` may take over one combo, in seconds.
SKIP_LIMIT_S = 10.0
#: What a child may say at once; descriptors are a few KiB.
_LARGEST_ANSWER = 64 << 20
_MEMBERS: Mapping[str, type[Any]] = {
    "modalities": Modality,
    "tasks": TaskSpec,
    "weights": AssetSpec,
    "files": AssetSpec,
}
_ANSWERS: Mapping[str, type[Any]] = {item.__name__: item for item in (DatasetInfo, EncoderInfo, AssetSpec)}


class PluginProcess:
    """The child process in which one plugin was imported; ends with this object, or with this process.

    Args:
        name: The plugin's.
        import_plugin: Imports it; called in the child.
        path: Its file, where it is a local one.
    """

    def __init__(self, name: str, import_plugin: Callable[[], Any], path: Path | None = None) -> None:
        self.name, self.path = name, path
        self._import_plugin = import_plugin
        self._buffer = b""
        self._end: Callable[[], Any] = lambda: None
        self._pid = self._read = self._write = -1
        self._ending = ""

    def load(self, dist: str, dist_version: str, origin: str) -> LoadedPlugin:
        """Start the child, import the plugin there and return what it offers; see `load_plugin`."""
        info = PluginInfo(name=self.name, dist=dist, dist_version=dist_version, origin=origin, status="loaded")
        limit_s = loading.IMPORT_LIMIT_S
        try:
            self._start(limit_s, lambda: load_plugin(self.name, dist, dist_version, origin, self._import_plugin))
            # Time that passes while others have the processor does not count; time spent waiting does, one day.
            answer = self._answer(WAITING_FACTOR * limit_s + 10.0, "import")
            loaded = _loaded(info, answer)
        except (PluginError, OSError) as error:
            self.close()
            return loading.failed(info, error if isinstance(error, PluginError) else PluginError(str(error)))
        except BaseException:
            self.close()
            raise
        if not answer["stays"]:
            self.close()
            return loaded
        return replace(loaded, skip=self._skip if answer["skip"] else None)

    def call(self, function: str, *arguments: Any, **options: Any) -> Any:
        """Call a function of the plugin that returns `DatasetInfo`, `EncoderInfo` or assets.

        Raises:
            MmbenchError: as the function raised it.
            PluginError: it raised anything else, returned anything else, or ended the process.
        """
        request = {"call": function, "arguments": to_json(arguments), "options": to_json(options)}
        answer = self._ask(request, None, function)
        if "error" in answer:
            kind = getattr(errors, str(answer["kind"]), PluginError)
            if not (isinstance(kind, type) and issubclass(kind, MmbenchError)):
                kind = PluginError
            raise kind(str(answer["error"]))
        try:
            return _value(answer["value"])
        except (MmbenchError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise PluginError(f"{function} gave what cannot be used: {in_words(error)}") from None

    def close(self) -> None:
        """End the child."""
        self._end()

    def _skip(self, combo: Mapping[str, Any]) -> Any:
        answer = self._ask({"skip": dict(combo)}, SKIP_LIMIT_S, "mmbench_skip")
        if "error" in answer:
            raise PluginError(str(answer["error"]))
        return answer["value"]

    def _start(self, limit_s: float, load: Callable[[], LoadedPlugin]) -> None:
        request_read, self._write = os.pipe()
        self._read, answer_write = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which the child has not
            self._pid = os.fork()
        if self._pid == 0:
            try:
                _serve(request_read, answer_write, limit_s, load)
            finally:
                os._exit(0)
        os.close(request_read)
        os.close(answer_write)
        self._end = weakref.finalize(self, _end, self._pid, self._read, self._write)

    def _ask(self, request: Mapping[str, Any], limit_s: float | None, what: str) -> dict[str, Any]:
        if self._ending:
            raise PluginError(self._ending)
        with contextlib.suppress(OSError):  # that it is gone is said below
            _write_all(self._write, json.dumps(request).encode() + b"\n")
        return self._answer(limit_s, what)

    def _answer(self, limit_s: float | None, what: str) -> dict[str, Any]:
        until = None if limit_s is None else time.monotonic() + limit_s
        while b"\n" not in self._buffer:
            left = None if until is None else max(until - time.monotonic(), 0.0)
            ready, _, _ = select.select([self._read], [], [], left)
            data = os.read(self._read, 1 << 20) if ready else b""
            self._buffer += data
            if not data or len(self._buffer) > _LARGEST_ANSWER:
                self._give_up(what, limit_s if not ready else None, too_long=bool(data))
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            self._give_up(what, None, too_long=True)
        return answer  # type: ignore[no-any-return]

    def _give_up(self, what: str, limit_s: float | None, *, too_long: bool) -> None:
        if limit_s is not None:
            self._ending = f"{what} took more than {limit_s:g} s"
        elif too_long:
            self._ending = f"{what} gave what cannot be read"
        else:
            self._ending = f"{what} ended the process: {_how_it_ended(self._pid)}"
        self.close()
        raise PluginError(self._ending)


def _loaded(info: PluginInfo, answer: Mapping[str, Any]) -> LoadedPlugin:
    """Rebuild what a child read, checking it anew.

    Raises:
        PluginError: it is not what a child of ours says.
    """
    try:
        told = answer["info"]
        info = PluginInfo(
            name=info.name,
            dist=info.dist,
            dist_version=info.dist_version,
            origin=str(told["origin"]),
            status="failed" if answer["kind"] else "loaded",
            reason=str(told["reason"]),
            traceback=str(told["traceback"]),
            warnings=tuple(map(str, told["warnings"])),
            counts={role: int(told["counts"][role]) for role in SPEC_OF_ROLE if role in told["counts"]},
        )
        specs = {
            role: tuple(_rebuilt(kind, item) for item in answer["specs"][role])
            for role, kind in SPEC_OF_ROLE.items()
            if role in answer["specs"]
        }
    except (MmbenchError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise PluginError(f"its descriptors cannot be read: {in_words(error)}") from None
    if not answer["kind"]:
        return LoadedPlugin(info=info, specs=specs)
    cause = UsageError if answer["kind"] == "usage" else PluginError
    return LoadedPlugin(info=info, error=cause(str(answer["error"])))


def _rebuilt(kind: type[Any], data: Mapping[str, Any]) -> Any:
    """Make a descriptor of its JSON; fields of a plugin's own subclass are left out."""
    known = {item.name for item in fields(kind)}
    given = {name: value for name, value in data.items() if name in known}
    for name, member in _MEMBERS.items():
        if name in given and not all(isinstance(item, str) for item in given[name]):
            given[name] = tuple(_rebuilt(member, item) for item in given[name])
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def _value(answer: Any) -> Any:
    if isinstance(answer, list):
        return tuple(map(_value, answer))
    return _rebuilt(_ANSWERS[answer["type"]], answer["fields"])


def _end(pid: int, *descriptors: int) -> None:
    """Kill a child and whatever it started in its session; leave no zombie."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):  # it is gone, or has not made a group of its own yet
            kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.waitpid(pid, 0)


def _how_it_ended(pid: int) -> str:
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except OSError:
            break
        if ended:
            code = os.waitstatus_to_exitcode(status)
            if code >= 0:
                return f"exit code {code}"
            if -code == signal.SIGXCPU:
                return "it used more processor time than it may"
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return f"{name} ({signal.strsignal(-code)})"
        time.sleep(0.005)
    return "it closed its pipe"


# What follows runs in the child.


def _serve(requests: int, answers: int, limit_s: float, load: Callable[[], LoadedPlugin]) -> None:
    os.setsid()  # Ctrl-C on the terminal is for the parent to handle
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) not in (0, 1, 2, requests, answers):
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(int(entry.name))  # no lock, socket or pipe of the parent's stays open here
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww"))
    _limit_processor_time(limit_s)
    try:
        loaded = load()
    except KeyboardInterrupt as error:  # raised by the plugin itself: Ctrl-C does not reach this process group
        info = PluginInfo(name="", dist="", dist_version="", origin="", status="loaded")
        loaded = loading.failed(info, PluginError(in_words(error)))
    _limit_processor_time(None)
    described = any(
        getattr(spec, name, "") for specs in loaded.specs.values() for spec in specs for name in ("describe", "prepare")
    )
    stays = described or loaded.skip is not None
    kind = "" if loaded.error is None else "usage" if isinstance(loaded.error, UsageError) else "plugin"
    _say(
        answers,
        {
            "info": to_json(loaded.info),
            "specs": {role: to_json(specs) for role, specs in loaded.specs.items()},
            "skip": loaded.skip is not None,
            "stays": stays,
            "kind": kind,
            "error": _words_of(loaded.error),
        },
    )
    buffer = b""
    while stays:
        data = os.read(requests, 1 << 20)
        if not data:
            return
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            _say(answers, _reply(json.loads(line), loaded))


def _reply(request: Mapping[str, Any], loaded: LoadedPlugin) -> dict[str, Any]:
    try:
        if "skip" in request:
            assert loaded.skip is not None
            value = loaded.skip(request["skip"])
            return {"value": value if value is None or isinstance(value, str) else repr(value), "kind": ""}
        function = load_attribute(request["call"])
        return {"value": _told(function(*request["arguments"], **request["options"]), request["call"])}
    except BaseException as error:  # a plugin may raise anything, SystemExit too
        if isinstance(error, MmbenchError):
            return {"error": _words_of(error), "kind": type(error).__name__}
        prefix = f"{request['call']} failed: " if "call" in request else ""
        return {"error": f"{prefix}{in_words(error)}", "kind": "Unavailable"}


def _told(value: Any, function: str) -> Any:
    if isinstance(value, list | tuple):
        return [_told(item, function) for item in value]
    for name, kind in _ANSWERS.items():
        if isinstance(value, kind):
            return {"type": name, "fields": to_json(value)}
    raise PluginError(f"{function} must return {', '.join(_ANSWERS)}, got {type(value).__name__}")


def _words_of(error: BaseException | None) -> str:
    with contextlib.suppress(BaseException):
        return "" if error is None else str(error)
    return "its message cannot be shown"


def _limit_processor_time(limit_s: float | None) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if limit_s is None:
        resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
        return
    used = time.process_time()
    # Beyond the limit that `load_plugin` keeps itself: this one needs no word of the plugin's process.
    soft = int(used + limit_s) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _say(descriptor: int, message: Mapping[str, Any]) -> None:
    _write_all(descriptor, json.dumps(message, default=str).encode() + b"\n")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
