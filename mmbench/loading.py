"""Loading one plugin so that nothing it does at import can harm another plugin or the process."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import keyword
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pluggy

from mmbench import hookspecs
from mmbench.errors import PluginError, SpecError, UsageError, did_you_mean
from mmbench.isolation import TooSlow, isolated, shortened, time_limit
from mmbench.spec import API_VERSION, SPEC_OF_ROLE, Role, Spec

Skip: TypeAlias = Callable[[Mapping[str, Any]], Any]

HOOK_OF_ROLE: Mapping[Role, str] = {
    "encoder": "mmbench_encoders",
    "fusion": "mmbench_fusions",
    "objective": "mmbench_objectives",
    "dataset": "mmbench_datasets",
    "tracker": "mmbench_trackers",
    "executor": "mmbench_executors",
}
SKIP_HOOK = "mmbench_skip"
IMPORT_LIMIT_S = 10.0

_HOOKS: Mapping[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(function).parameters)
    for name, function in vars(hookspecs).items()
    if hasattr(function, "mmbench_spec")
}
_HEAVY = ("torch", "pandas", "timm", "transformers")
_MAX_REASON_CHARACTERS = 500
#: Local plugin files of the latest registry, whose descriptors were read without importing them into this process.
READ_FILES: set[str] = set()


@dataclass(frozen=True, kw_only=True)
class PluginInfo:
    """What became of one plugin.

    Attributes:
        name: Of its entry point, or of its file.
        dist, dist_version: The distribution that brings it; "file" and the start of the content's sha256 for a file.
        origin: The file it was loaded from, or what the entry point names where nothing could be loaded.
        status: "failed" plugins offer nothing and stop nobody else.
        reason: Why it failed, in one line; "" when loaded.
        traceback: Of the failure; "" when loaded.
        warnings: What it did at import that plugins should not do; it was undone.
        counts: How many parts it offers, by role.
    """

    name: str
    dist: str
    dist_version: str
    origin: str
    status: Literal["loaded", "failed"]
    reason: str = ""
    traceback: str = ""
    warnings: tuple[str, ...] = ()
    counts: Mapping[Role, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LoadedPlugin:
    """A plugin and what it offers; empty when it failed.

    Attributes:
        specs: Its descriptors by role.
        skip: Calls its `mmbench_skip`; None when it has none.
        error: What stopped it.
    """

    info: PluginInfo
    specs: Mapping[Role, tuple[Spec, ...]] = field(default_factory=dict)
    skip: Skip | None = None
    error: BaseException | None = None


def load_plugin(name: str, dist: str, dist_version: str, origin: str, import_plugin: Callable[[], Any]) -> LoadedPlugin:
    """Import a plugin and call its hooks, guarded; whatever it raises becomes the reason of its failure.

    Only `KeyboardInterrupt` passes through.

    What the plugin changes in modules stays changed: `mmbench.plugin_process` does this in a child process.
    """
    notes: list[str] = []
    info = PluginInfo(name=name, dist=dist, dist_version=dist_version, origin=origin, status="loaded")
    heavy_before = {module for module in _HEAVY if module in sys.modules}
    try:
        with isolated(notes), time_limit(IMPORT_LIMIT_S):
            plugin = import_plugin()
            info = replace(info, origin=str(getattr(plugin, "__file__", None) or origin))
            specs, skip = _read_plugin(name, plugin)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise or exit as it likes: nobody else is to feel it
        trace = "".join(traceback.format_exception(error))
        failed = replace(info, status="failed", reason=_reason(error), traceback=trace, warnings=tuple(notes))
        return LoadedPlugin(info=failed, error=error)
    heavy = [module for module in _HEAVY if module in sys.modules and module not in heavy_before]
    if heavy and dist != "file":
        notes.append(f"imports {' and '.join(heavy)} when it is listed: import it in the factories' modules only")
    if not specs and skip is None:
        notes.append("offers nothing: none of its functions carries @hookimpl")
    info = replace(info, warnings=tuple(notes), counts={role: len(found) for role, found in specs.items()})
    return LoadedPlugin(info=info, specs=specs, skip=skip)


def failed(info: PluginInfo, error: PluginError | UsageError) -> LoadedPlugin:
    """Return a plugin that offers nothing, and why."""
    reason = " ".join(str(error).split())
    return LoadedPlugin(info=replace(info, status="failed", reason=reason, counts={}), error=error)


def known_plugin_files() -> tuple[str, ...]:
    """Return the local plugin files that this process, or a child for it, has loaded."""
    # Some modules answer to any attribute; what is noted stands in a module's own namespace.
    namespaces = [getattr(module, "__dict__", {}) for module in list(sys.modules.values())]
    imported = {names["__mmbench_file__"][0] for names in namespaces if "__mmbench_file__" in names}
    return tuple(sorted(imported | READ_FILES))


def load_plugin_file(path: Path | str) -> types.ModuleType:
    """Load a local file as the module of its stem, so that factories such as ``my_fusion:Class`` resolve.

    A second call for the same content gives the same module.

    Raises:
        UsageError: there is no such file, or its name cannot serve as a module's.
        PluginError: running it failed; the message names the line.
    """
    path = Path(path).resolve()
    name = path.stem
    content = read_plugin_file(path)
    digest = hashlib.sha256(content).hexdigest()
    known = sys.modules.get(name)
    ours = getattr(known, "__mmbench_file__", None)
    if known is not None and ours == (str(path), digest):
        return known
    if ours is None or ours[0] != str(path):
        _check_module_name(path, name)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise UsageError(f"{path} cannot be a plugin: a plugin file ends with .py")
    module = importlib.util.module_from_spec(spec)
    module.__mmbench_file__ = (str(path), digest)  # type: ignore[attr-defined]
    sys.modules[name] = module
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)  # what was hashed is what runs
    except BaseException as error:
        sys.modules.pop(name, None)
        if not isinstance(error, Exception | SystemExit):
            raise
        words = f"SyntaxError: {error.msg}" if isinstance(error, SyntaxError) else in_words(error)
        raise PluginError(f"plugin file {path}{_line_in(path, error)}: {words}") from error
    return module


def read_plugin_file(path: Path) -> bytes:
    """Return the content of a plugin file.

    Raises:
        UsageError: it is not a readable .py file whose stem is a Python name.
    """
    if path.suffix != ".py":
        raise UsageError(f"{path} cannot be a plugin: --plugin takes a Python file that ends with .py")
    if not path.stem.isidentifier() or keyword.iskeyword(path.stem):
        raise UsageError(f"{path} cannot be a plugin: {path.stem!r} is no Python name; rename it, say to my_fusion.py")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        near = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UsageError(f"there is no plugin file {path}.{did_you_mean(path.name, near)}") from None
    except OSError as error:
        raise UsageError(f"plugin file {path} cannot be read: {error.strerror}") from None


def _check_module_name(path: Path, name: str) -> None:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: a module in sys.modules that has no spec, such as __main__
        raise UsageError(f"plugin file {path} would hide the module {name!r}; rename it") from None
    # A namespace package (no origin) is any folder that happens to have the name.
    if found is not None and found.origin is not None and Path(found.origin).resolve() != path:
        raise UsageError(f"plugin file {path} would hide the module {name!r} ({found.origin}); rename it")


def _read_plugin(name: str, plugin: Any) -> tuple[dict[Role, tuple[Spec, ...]], Skip | None]:
    """Check what a plugin declares and call its hooks."""
    if isinstance(plugin, type):
        raise PluginError(f"the entry point names the class {plugin.__name__}; it must name a module or an instance")
    _check_api(plugin)
    # One manager per plugin: pluggy's results do not say whose they are, and one bad plugin would spoil them all.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    implemented = _check_hooks(manager, plugin)
    manager.register(plugin, name)
    manager.check_pending()
    specs: dict[Role, tuple[Spec, ...]] = {}
    for role, hook in HOOK_OF_ROLE.items():
        if hook in implemented:
            specs[role] = _check_specs(role, hook, getattr(manager.hook, hook)())
    if SKIP_HOOK not in implemented:
        return specs, None

    def skip(combo: Mapping[str, Any]) -> Any:
        answers = manager.hook.mmbench_skip(combo=combo)
        return answers[0] if answers else None  # pluggy leaves None out

    return specs, skip


def _check_api(plugin: Any) -> None:
    api = getattr(plugin, "MMBENCH_API", 1)
    if not isinstance(api, int) or isinstance(api, bool) or api < 1:
        raise PluginError(f"MMBENCH_API must be a whole number of at least 1, got {api!r}")
    if api > API_VERSION:
        raise PluginError(
            f"it needs plugin API {api}, but this mmbench offers {API_VERSION}: upgrade mmbench, or install an older "
            "version of the plugin"
        )


def _check_hooks(manager: pluggy.PluginManager, plugin: Any) -> set[str]:
    """Return the hooks that a plugin implements.

    Raises:
        PluginError: a hook is unknown, is not marked, or takes what it is not given.
    """
    implemented = set()
    for attribute in dir(plugin):
        if attribute.startswith("__"):
            continue
        function = getattr(plugin, attribute)
        options = manager.parse_hookimpl_opts(plugin, attribute) if inspect.isroutine(function) else None
        if options is None:
            _check_not_a_hook(attribute, function)
            continue
        hook = options["specname"] or attribute
        if hook not in _HOOKS:
            raise _unknown_hook(hook)
        if options["hookwrapper"] or options["wrapper"]:
            raise PluginError(
                f"{attribute} is a hook wrapper, but each plugin's hooks are called apart; remove `wrapper`"
            )
        if hook in implemented:
            raise PluginError(f"hook {hook!r} is implemented twice")
        implemented.add(hook)
        _check_arguments(attribute, hook, function)
    return implemented


def _check_not_a_hook(attribute: str, function: Any) -> None:
    if not attribute.startswith("mmbench_") or not inspect.isroutine(function) or hasattr(function, "mmbench_spec"):
        return
    if attribute in _HOOKS:
        raise PluginError(f"{attribute} lacks @hookimpl; `from mmbench import hookimpl` and put it above the function")
    raise _unknown_hook(attribute)


def _check_arguments(attribute: str, hook: str, function: Any) -> None:
    given = _HOOKS[hook]
    hint = f"it is called with ({', '.join(given)})"
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise PluginError(f"{attribute} takes *{parameter.name}, which hooks may not; {hint}")
        if parameter.name not in given:
            raise PluginError(f"{attribute} takes {parameter.name!r}, which hook {hook!r} does not give; {hint}")


def _unknown_hook(name: str) -> PluginError:
    there = f" Hooks are {', '.join(sorted(_HOOKS))}; other functions must not start with 'mmbench_'."
    return PluginError(f"no hook is named {name!r}.{did_you_mean(name, _HOOKS, prefix='mmbench_') or there}")


def _check_specs(role: Role, hook: str, answers: list[Any]) -> tuple[Spec, ...]:
    expected = SPEC_OF_ROLE[role].__name__
    found = answers[0] if answers else None  # pluggy leaves None out
    if not isinstance(found, list | tuple):
        hint = "; wrap it in a list" if isinstance(found, SPEC_OF_ROLE[role]) else ""
        raise PluginError(f"{hook} must return a list of {expected}, got {type(found).__name__}{hint}")
    names = set()
    for spec in found:
        if not isinstance(spec, SPEC_OF_ROLE[role]):
            got = f"{type(spec).__name__} {spec.name!r}" if isinstance(spec, Spec) else shortened(repr(spec), 80)
            raise PluginError(f"{hook} must return a list of {expected}, but one item is {got}")
        if spec.name in names:
            raise PluginError(f"{hook} returns two {role}s named {spec.name!r}")
        names.add(spec.name)
    return tuple(found)


# What went wrong, in one line.


def _reason(error: BaseException) -> str:
    if isinstance(error, TooSlow):
        return str(error)
    if isinstance(error, PluginError | UsageError) and not isinstance(error, SpecError):
        return " ".join(str(error).split())
    if isinstance(error, pluggy.PluginValidationError):
        return " ".join(str(error).split())
    return in_words(error)


def in_words(error: BaseException) -> str:
    """Return "Kind: message" on one line, whatever the exception's own `__str__` does."""
    if isinstance(error, SystemExit):
        return "it tried to end the process (SystemExit)"
    if isinstance(error, SpecError):
        return str(error)
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error}"  # names file and line; the usual form quotes the code as well
    words = " ".join("".join(traceback.format_exception_only(error)).split()).removeprefix("mmbench.errors.")
    return shortened(words, _MAX_REASON_CHARACTERS)


def _line_in(path: Path, error: BaseException) -> str:
    """Return ", line N" for the innermost place in the file that the error went through."""
    if isinstance(error, SyntaxError) and error.filename == str(path) and error.lineno:
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""
