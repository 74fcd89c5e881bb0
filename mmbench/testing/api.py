"""Checks of a plugin and its descriptors that need no torch: entry point, import, names, version, licence."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

from mmbench.errors import did_you_mean
from mmbench.spec import DatasetSpec, EncoderSpec
from mmbench.spec_values import to_json
from mmbench.testing.checks import Fault, NotChecked, Remark, check
from mmbench.testing.probe import probe
from mmbench.testing.target import Part, PluginTarget

_COMBO = {
    "dataset": {"ref": "mmbench-datasets/digits", "options": {}},
    "encoders": {
        "image": {"ref": "mmbench-vision/cnn", "options": {}},
        "text": {"ref": "mmbench-text/x", "options": {}},
    },
    "fusion": {"ref": "mmbench-fusion/concat", "options": {}},
    "objective": {"ref": "mmbench-objectives/supervised", "options": {}},
}


@check(
    "has-entry-point",
    "plugin",
    level="api",
    promise="The distribution names its plugin in the entry-point group `mmbench`.",
    mend='Add to pyproject.toml:  [project.entry-points.mmbench]  NAME = "your_package"',
)
def has_entry_point(plugin: PluginTarget) -> None:
    if plugin.form == "file":
        raise NotChecked("a local file has no entry point; it is loaded by --plugin")
    if not plugin.points:
        raise Fault(f"{plugin.name} has no entry point in the group 'mmbench', so mmbench never sees it")


@check(
    "loads",
    "plugin",
    level="api",
    promise="The plugin can be imported, and every hook gives valid descriptors.",
    mend="Run `mmbench plugins doctor`; it shows the traceback. Hooks and descriptors: plugins/README.md.",
    needs=("has-entry-point",),
)
def loads(plugin: PluginTarget) -> None:
    for loaded in plugin.loaded:
        if loaded.error is not None:
            raise Fault(f"{loaded.info.name}: {loaded.info.reason}")


@check(
    "offers-something",
    "plugin",
    level="api",
    promise="The plugin offers at least one encoder, fusion, objective or dataset.",
    mend="Put @hookimpl above a function such as mmbench_fusions() that returns a list of FusionSpec.",
    needs=("loads",),
)
def offers_something(plugin: PluginTarget) -> None:
    if not any(specs for loaded in plugin.loaded for specs in loaded.specs.values()):
        raise Fault(f"no hook of {plugin.name} returned a descriptor")


@check(
    "import-is-light",
    "plugin",
    level="api",
    promise="Importing the plugin's entry point takes neither torch nor anything else that is heavy.",
    mend="Keep descriptors and hooks in a module of their own; name the code as 'package.module:Class' in `factory`.",
    needs=("loads",),
)
def import_is_light(plugin: PluginTarget) -> None:
    for module in _modules(plugin):
        told = _probe_import(module, plugin.path)
        if told["error"]:
            raise Fault(f"in a fresh interpreter, importing {module} fails: {told['error']}")
        if told["heavy"]:
            said = f"importing {module} also imports {', '.join(told['heavy'])}"
            if plugin.form == "file":
                raise Remark(f"{said}; fair for a file of your own, but a package must keep them apart")
            raise Fault(said, expected="none of torch, pandas, timm, transformers and the like in sys.modules")


@check(
    "import-changes-nothing",
    "plugin",
    level="api",
    promise="Importing the plugin changes no seed, folder, default dtype, TF32 flag, thread count, filter or variable.",
    mend="Remove the call from module level; a setting that your code needs belongs around the code that needs it.",
    needs=("loads",),
)
def import_changes_nothing(plugin: PluginTarget) -> None:
    for module in _modules(plugin):
        told = _probe_import(module, plugin.path)
        if told["heavy"]:  # torch itself sets variables and filters as it is imported
            told = probe(module, path=plugin.path, first=told["heavy"])
        changed = told["changed"]
        if changed:
            raise Fault(f"importing {module} changed {'; '.join(changed)}")


@check(
    "says-its-version",
    "plugin",
    level="api",
    promise="The distribution declares a version, so that a result can say what made it.",
    mend='Write `version = "0.1.0"` under [project] in pyproject.toml.',
)
def says_its_version(plugin: PluginTarget) -> None:
    if plugin.form == "file":
        raise NotChecked("a local file's version is the hash of its content")
    if not plugin.version or plugin.version == "0":
        raise Fault(f"{plugin.name} declares no version")


@check(
    "says-its-licence",
    "plugin",
    level="api",
    promise="The distribution, or else every part of it, declares a licence.",
    mend='Write `license = "Apache-2.0"` (an SPDX name) under [project] in pyproject.toml, or licence= in descriptors.',
)
def says_its_licence(plugin: PluginTarget) -> None:
    specs = [spec for loaded in plugin.loaded for found in loaded.specs.values() for spec in found]
    silent = [spec.name for spec in specs if not spec.licence]
    if plugin.licence or (specs and not silent):
        return
    if plugin.form == "file":
        raise NotChecked("a local file need not declare one; a package must")
    raise Fault(f"{plugin.name} declares no licence, nor do its parts {', '.join(silent)}".removesuffix(" "))


@check(
    "skip-hook-answers",
    "plugin",
    level="api",
    promise="mmbench_skip answers with a reason or None for a combo it has never seen, and draws or changes nothing.",
    mend="Return None for every combo that you do not know; read options by `.get`.",
    needs=("loads",),
)
def skip_hook_answers(plugin: PluginTarget) -> None:
    hooks = [loaded for loaded in plugin.loaded if loaded.skip is not None]
    if not hooks:
        raise NotChecked("it has no mmbench_skip")
    for loaded in hooks:
        assert loaded.skip is not None
        combo = json.loads(json.dumps(_COMBO))
        try:
            answer = loaded.skip(combo)
        except Exception as error:  # a skip hook may raise anything; it must not
            raise Fault(f"for an unknown combo it raised {type(error).__name__}: {error}") from None
        if answer is not None and not isinstance(answer, str):
            raise Fault(f"it returned {answer!r}", expected="text or None")
        if combo != _COMBO:
            raise Fault("it changed the combo that it was given")


@check(
    "factory-is-there",
    "encoder",
    "fusion",
    "objective",
    "dataset",
    level="api",
    promise="The module that `factory` names exists and defines the attribute.",
    mend="Correct `factory`: 'package.module:Class', as it would be imported.",
)
def factory_is_there(part: Part) -> None:
    references = [part.spec.factory]
    if isinstance(part.spec, DatasetSpec) and part.spec.describe:
        references.append(part.spec.describe)
    for reference in references:
        _check_reference(reference)


@check(
    "descriptor-is-json",
    "encoder",
    "fusion",
    "objective",
    "dataset",
    level="api",
    promise="The descriptor and every default option can be written as JSON and read back equal.",
    mend="Use numbers, text, true, false, None, lists and dicts with text keys in `defaults`.",
)
def descriptor_is_json(part: Part) -> None:
    plain = to_json(part.spec)
    if json.loads(json.dumps(plain, allow_nan=False)) != plain:
        raise Fault("writing it as JSON and reading it back gives something else")


@check(
    "says-what-it-is",
    "encoder",
    "fusion",
    "objective",
    "dataset",
    level="api",
    promise="The descriptor has a one-line summary, and weights have a licence and a source.",
    mend="Fill `summary`, and `licence` and `url` of each AssetSpec: people read them in `mmbench show`.",
)
def says_what_it_is(part: Part) -> None:
    if isinstance(part.spec, EncoderSpec):
        bare = [weights.name for weights in part.spec.weights if not (weights.licence and weights.url)]
        if bare:
            raise Fault(f"weights without licence or source: {', '.join(bare)}")
    if not part.spec.summary.strip():
        raise Remark("summary is empty")
    if "\n" in part.spec.summary:
        raise Remark("summary has more than one line")


@check(
    "describe-is-light",
    "dataset",
    level="api",
    promise="`describe` imports neither torch nor pandas, and says the same each time.",
    mend="Read what planning needs with the standard library, or keep it in a small file beside the data.",
    needs=("factory-is-there",),
)
def describe_is_light(part: Part) -> None:
    spec = part.spec
    assert isinstance(spec, DatasetSpec)
    if not spec.describe:
        raise NotChecked("it has no `describe`: its descriptor says everything")
    if spec.target == "required" and not part.target:
        raise NotChecked(f"it needs a target: check dataset:{part.ref}:TARGET")
    module = spec.describe.partition(":")[0]
    target = [part.target] if spec.target != "none" else []
    told = [
        probe(module, path=part.plugin.path, call=spec.describe, arguments=target, options=part.options)
        for _ in range(2)
    ]
    unavailable = (told[0]["error"] or "").startswith("Unavailable: ")
    if told[0]["error"] and not unavailable:
        raise Fault(f"{spec.describe} fails: {told[0]['error']}")
    if told[0]["heavy"]:
        raise Fault(f"calling {spec.describe} imports {', '.join(told[0]['heavy'])}")
    if unavailable:
        raise NotChecked(f"unavailable here: {told[0]['error'].removeprefix('Unavailable: ')}")
    if told[0]["answer"] != told[1]["answer"]:
        raise Fault(f"two calls in two processes gave {told[0]['answer']} and {told[1]['answer']}")


@functools.lru_cache(maxsize=8)
def _probe_import(module: str, path: tuple[str, ...]) -> dict[str, Any]:
    return probe(module, path=path)


def _modules(plugin: PluginTarget) -> list[str]:
    if plugin.form == "file":
        return [plugin.name]
    return [value.partition(":")[0].strip() for value in plugin.points.values()]


def _check_reference(reference: str) -> None:
    module, _, attribute = reference.partition(":")
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise Fault(f"{reference!r}: {module!r} cannot be found: {error}") from None
    if found is None:
        raise Fault(f"{reference!r}: there is no module {module!r}")
    if not (found.origin and Path(found.origin).suffix == ".py"):
        return  # compiled: only an import can tell
    names = _names_in(Path(found.origin))
    first = attribute.partition(".")[0]
    if names is not None and first not in names:
        raise Fault(f"{reference!r}: {module} defines no {first!r}.{did_you_mean(first, names)}")


def _names_in(file: Path) -> set[str] | None:
    """Return the names that a module binds at top level; None where a star import hides some."""
    names: set[str] = set()
    todo: list[Any] = list(ast.parse(file.read_text(encoding="utf-8")).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if any(alias.name == "*" for alias in node.names):
                return None
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        else:
            todo += list(ast.iter_child_nodes(node))
    return None if "__getattr__" in names else names
