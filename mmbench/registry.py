"""Everything that the installed plugins and local plugin files offer, found by name."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from hashlib import sha256
from io import StringIO
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmbench.dataset_paths import reader_of_path
from mmbench.discovery import import_point, installed_points, normalised
from mmbench.errors import PluginError, SpecError, UsageError, did_you_mean
from mmbench.loading import (
    READ_FILES,
    LoadedPlugin,
    PluginInfo,
    Skip,
    in_words,
    load_plugin,
    load_plugin_file,
    read_plugin_file,
)
from mmbench.plugin_process import CAN_FORK, PluginProcess
from mmbench.reference import has_options, parse_reference
from mmbench.roles import PACKAGE_OF_DEFAULT, lacking
from mmbench.spec import (
    AUGMENTATIONS,
    MISSING_POLICIES,
    RESERVED_OPTIONS,
    SPEC_OF_ROLE,
    TUNING_NAMES,
    TUNING_OPTIONS,
    DatasetSpec,
    EncoderSpec,
    FusionSpec,
    Kind,
    MissingPolicy,
    Role,
    Spec,
    Tuning,
    role_of,
)
from mmbench.spec_values import check_options

FILE_DIST = "file"
#: Distributions whose descriptors are read in this process: they come with mmbench. All others are read in a child.
FIRST_PARTY = frozenset(
    f"mmbench-{name}"
    for name in (
        "audio", "benchmarks", "datasets", "executors", "fusion", "objectives", "sequence", "tabular", "text",
        "trackers", "video", "vision",
    )
)  # fmt: skip
_LONGEST_NAME = 64


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One encoder, fusion, objective, dataset, tracker or executor, and the plugin that offers it.

    Attributes:
        spec: Its descriptor.
        dist: Normalised name of the distribution, or "file" for a local file.
        dist_version: The distribution's version, or the start of the sha256 of the file's content.
        plugin: Name of the entry point or of the file.
        process: Where the plugin was imported, if not in this process.
    """

    spec: Spec
    dist: str
    dist_version: str
    plugin: str
    process: PluginProcess | None = field(default=None, compare=False, repr=False)

    @property
    def ref(self) -> str:
        """The unambiguous name, as "mmbench-vision/cnn"."""
        return f"{self.dist}/{self.spec.name}"

    @property
    def version(self) -> str:
        """What identifies its results: the spec's version, and for a local file also the file's content."""
        return f"{self.spec.version}+{self.dist_version}" if self.dist == FILE_DIST else self.spec.version

    def accepts(self, kind: Kind | None) -> bool:
        """Whether it serves a modality of this kind; only encoders are choosy."""
        return kind is None or not isinstance(self.spec, EncoderSpec) or kind in self.spec.kinds


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An entry as somebody asked for it.

    Attributes:
        entry: What was found.
        target: What followed the name, as "resnet18" in ``timm/resnet18``; "" when nothing did.
        options: Every option, the given ones merged into the defaults.
        tuning: How an encoder is trained; "" for everything else.
        tuning_options: What belongs to that tuning (`mmbench.spec.TUNING_OPTIONS`), merged into its defaults.
        name: What tables call a dataset, as the option `name` says; "" for its usual name.
        missing: What a fusion is given for missing modalities; "mask", which is nothing, for everything else.
        augment: What is done to an encoder's inputs in training (`mmbench.spec.AUGMENTATIONS`), in the order of doing.
        subgroups: Columns of a dataset by whose values the report divides test samples; no result depends on them.
    """

    entry: Entry
    target: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    tuning: str = ""
    tuning_options: Mapping[str, Any] = field(default_factory=dict)
    missing: MissingPolicy = "mask"
    augment: tuple[str, ...] = ()
    subgroups: tuple[str, ...] = ()


class Registry:
    """What can be named.

    Args:
        plugins: What became of each plugin.
        entries: All parts, in any order.
        skips: By plugin's name, functions that say why a combo should not run.
        plugin_files: Local files that were loaded; other processes load them again by `load_plugin_file`.
    """

    def __init__(
        self,
        plugins: Iterable[PluginInfo] = (),
        entries: Iterable[Entry] = (),
        skips: Iterable[tuple[str, Skip]] = (),
        plugin_files: Iterable[Path] = (),
    ) -> None:
        self.plugins = tuple(plugins)
        self.plugin_files = tuple(plugin_files)
        self._skips = tuple(skips)
        ordered = sorted(entries, key=lambda entry: (entry.spec.name, entry.dist))
        self._entries: dict[Role, tuple[Entry, ...]] = {
            role: tuple(entry for entry in ordered if role_of(entry.spec) == role) for role in SPEC_OF_ROLE
        }
        self._by_name: dict[Role, dict[str, tuple[Entry, ...]]] = {}
        self._by_ref: dict[Role, dict[str, Entry]] = {}
        for role, found in self._entries.items():
            names = {entry.spec.name for entry in found}
            self._by_name[role] = {name: tuple(entry for entry in found if entry.spec.name == name) for name in names}
            self._by_ref[role] = {entry.ref: entry for entry in found}

    @property
    def failed(self) -> tuple[PluginInfo, ...]:
        """The plugins that could not be loaded."""
        return tuple(plugin for plugin in self.plugins if plugin.status == "failed")

    @property
    def has_skip(self) -> bool:
        """Whether any plugin wants to be asked about combos."""
        return bool(self._skips)

    def entries(self, role: Role) -> tuple[Entry, ...]:
        """Return all entries of a role, sorted by name, then by distribution."""
        return self._entries[role]

    def lacks(self, role: Role, kind: Kind | None = None) -> str:
        """Return that nothing of a role is installed, or no encoder of a kind, and which package brings it; or ""."""
        if any(entry.accepts(kind) for entry in self._entries[role]):
            return ""
        return lacking(role, kind)

    def is_unique(self, entry: Entry) -> bool:
        """Whether the short name alone means this entry, given the kind of modality where it is an encoder."""
        rivals = self._by_name[role_of(entry.spec)][entry.spec.name]
        return all(rival is entry or not _clash(rival.spec, entry.spec) for rival in rivals)

    def resolve(self, role: Role, text: str, kind: Kind | None = None) -> Reference:
        """Find the one entry that a reference means.

        Args:
            role: What is asked for.
            text: ``name``, ``dist/name``, ``name:TARGET`` or ``name/TARGET``, each with ``[options]`` or without.
            kind: For encoders, the kind of the modality to be encoded.

        Raises:
            UsageError: nothing has that name, several have, or target or options do not fit.
        """
        head, options = parse_reference(text)
        found, target = self._find(role, head, kind)
        if len(found) > 1:
            raise self._clash_error(role, found)
        return self._refer(role, found[0], target, options, kind)

    def match(self, role: Role, pattern: str, kind: Kind | None = None) -> list[Reference]:
        """Find all entries that a reference or a glob over ``name`` and ``dist/name`` means; options go to each.

        Entries that cannot do without a target are left out of a glob's matches.

        Raises:
            UsageError: nothing matches, or target or options do not fit.
        """
        head, options = (pattern, {}) if _is_glob(pattern) and not has_options(pattern) else parse_reference(pattern)
        if _is_glob(head):
            matching = [
                entry
                for entry in self._entries[role]
                if entry.accepts(kind) and fnmatchcase(entry.ref if "/" in head else entry.spec.name, head)
            ]
            complete = [entry for entry in matching if getattr(entry.spec, "target", "none") != "required"]
            if matching:
                return [self._refer(role, entry, "", options, kind) for entry in complete or matching]
        found, target = self._find(role, head, kind)  # a glob's stars may stand in the target
        if any(_clash(entry.spec, rival.spec) for entry, rival in combinations(found, 2)):
            raise self._clash_error(role, found)
        return [self._refer(role, entry, target, options, kind) for entry in found]

    def skip_reasons(self, combo: Mapping[str, Any]) -> list[str]:
        """Ask every plugin why this combo should not run; a plugin that fails to answer is a reason too."""
        reasons = []
        for plugin, skip in self._skips:
            try:
                with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                    answer = skip(json.loads(json.dumps(combo)))  # a copy: plugins must not change each other's
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit too: one plugin must not end the planning of all
                reasons.append(f"mmbench_skip of plugin {plugin!r} failed: {in_words(error)}")
                continue
            if isinstance(answer, str) and answer:
                reasons.append(answer)
            elif answer is not None and answer != "":
                reasons.append(f"mmbench_skip of plugin {plugin!r} must return text or None, got {answer!r}")
        return reasons

    def _find(self, role: Role, head: str, kind: Kind | None) -> tuple[tuple[Entry, ...], str]:
        """Return the entries that a head may mean (at least one) and the target that it carries."""
        for name, separator, target in _readings(head):
            found = self._named(role, name)
            if separator == "/":  # dist/name looks like name/TARGET
                found = tuple(entry for entry in found if _takes_target(entry))
            if not found:
                continue
            accepting = tuple(entry for entry in found if entry.accepts(kind))
            if not accepting:
                raise self._wrong_kind(found, kind)
            return accepting, target
        if role == "dataset":
            found = self._accepting(head)
            if found:
                return found, head
        raise self._unknown(role, head, kind)

    def _accepting(self, path: str) -> tuple[Entry, ...]:
        """Return the dataset that reads a path which somebody gave in place of a name; () where it is no path."""
        entries = self._entries["dataset"]
        entry_of = {id(entry.spec): entry for entry in entries}

        def ask(spec: DatasetSpec, path: str) -> bool:
            process = entry_of[id(spec)].process
            if process is not None:
                return bool(process.call(spec.accepts, path))
            module, _, function = spec.accepts.partition(":")
            return bool(getattr(importlib.import_module(module), function)(path))

        reader = reader_of_path([entry.spec for entry in entries if isinstance(entry.spec, DatasetSpec)], path, ask)
        return tuple(entry for entry in entries if entry.spec is reader)

    def _named(self, role: Role, name: str) -> tuple[Entry, ...]:
        dist, slash, short = name.rpartition("/")
        if not slash:
            return self._by_name[role].get(name, ())
        entry = self._by_ref[role].get(f"{normalised(dist)}/{short}")
        return () if entry is None else (entry,)

    def _refer(self, role: Role, entry: Entry, target: str, given: Mapping[str, Any], kind: Kind | None) -> Reference:
        spec = entry.spec
        where = f"{role} {spec.name!r}"
        takes = getattr(spec, "target", "none")
        if target and takes == "none":
            raise UsageError(f"{where} takes nothing after its name, got {target!r}")
        if not target and takes == "required":
            raise UsageError(f"{where} needs a target: write {spec.name}:TARGET. See `mmbench show {spec.name}`.")
        options = dict(given)
        tuning, about_tuning = _tuning(where, spec, options) if isinstance(spec, EncoderSpec) else ("", {})
        augment = _augment(where, (kind,) if kind else spec.kinds, options) if isinstance(spec, EncoderSpec) else ()
        missing = _missing(where, options) if isinstance(spec, FusionSpec) else "mask"
        name = _name(where, spec, options) if isinstance(spec, DatasetSpec) else ""
        subgroups = _subgroups(where, spec, options) if isinstance(spec, DatasetSpec) else ()
        open_options = isinstance(spec, DatasetSpec) and spec.open_options
        # A factory with open options takes the folder by position, so that an option may be called "root".
        reserved = sorted(options.keys() & (set(RESERVED_OPTIONS[role]) - ({"root"} if open_options else set())))
        if reserved:
            raise UsageError(f"{where} cannot have an option {reserved[0]!r}: mmbench itself gives that")
        try:
            merged = check_options(where, options, spec.defaults, open_options=open_options)
        except SpecError as error:
            raise UsageError(str(error)) from None
        return Reference(
            entry=entry,
            target=target,
            options=MappingProxyType(merged),
            name=name,
            tuning=tuning,
            tuning_options=MappingProxyType(about_tuning),
            missing=missing,
            augment=augment,
            subgroups=subgroups,
        )

    def _clash_error(self, role: Role, found: Sequence[Entry]) -> UsageError:
        refs = " or ".join(repr(entry.ref) for entry in found)
        return UsageError(f"{len(found)} packages offer {_a(role)} named {found[0].spec.name!r}; write {refs}")

    def _wrong_kind(self, found: Sequence[Entry], kind: Kind | None) -> UsageError:
        entry = found[0]
        takes = ", ".join(sorted({kind for entry in found for kind in getattr(entry.spec, "kinds", ())}))
        others = sorted({other.spec.name for other in self._entries["encoder"] if other.accepts(kind)})
        there = f"Encoders of {kind}: {', '.join(others)}." if others else _sentence(self.lacks("encoder", kind))
        return UsageError(f"encoder {entry.spec.name!r} takes {takes}, not {kind}. {there}")

    def _unknown(self, role: Role, head: str, kind: Kind | None) -> UsageError:
        hint = self._near(head, [entry for entry in self._entries[role] if entry.accepts(kind)])
        elsewhere = [other for other in SPEC_OF_ROLE if other != role and self._named(other, head)]
        if elsewhere and not hint:
            hint = f" It is {_a(elsewhere[0])}."
        what = "matches" if _is_glob(head) else "is named"
        lacks = self.lacks(role, kind)
        default = PACKAGE_OF_DEFAULT.get((role, head))
        if default and not lacks:
            lacks = f"it comes with {default}: pip install {default}, or 'mmbench[base]'"
        see = _sentence(lacks) if lacks else f"See `mmbench list {role}s`."
        return UsageError(f"no {role} {what} {head!r}.{hint} {see}{self._what_failed(head)}")

    def _near(self, head: str, known: Sequence[Entry]) -> str:
        first, separator, _ = head.partition("/")
        dist = normalised(first)
        siblings = [entry.ref for entry in known if separator and entry.dist == dist]
        if siblings:
            return did_you_mean(head, siblings, prefix=f"{dist}/")
        with_target = {entry.spec.name for entry in known if _takes_target(entry)}
        meant = did_you_mean(re.split("[:/]", head)[0], with_target) if separator or ":" in head else ""
        return meant or did_you_mean(head, {entry.spec.name for entry in known})

    def _what_failed(self, head: str) -> str:
        """Say that a plugin which could not be loaded may be why a name is unknown."""
        for plugin in self.failed:
            if normalised(head.partition("/")[0]) == plugin.dist:
                return f" The plugin {plugin.name!r} of {plugin.dist} failed to load: {plugin.reason}"
        if not self.failed:
            return ""
        num_failed = len(self.failed)
        return f" {num_failed} {'plugin' if num_failed == 1 else 'plugins'} failed to load: see `mmbench plugins`."


def load_registry(plugin_files: Sequence[Path | str] = ()) -> Registry:
    """Load every installed plugin, each guarded, and the given local files.

    Plugins that did not come with mmbench are imported in a child process each, which only gives back descriptors.
    An installed plugin that fails is left out and listed in `Registry.plugins`.

    Raises:
        UsageError, PluginError: a file that the user asked for cannot be loaded.
    """
    loaded: list[tuple[LoadedPlugin, PluginProcess | None]] = []
    taken: dict[tuple[Role, str], str] = {}
    for dist, version, point in installed_points():
        plugin, process = _load(point.name, dist, version, point.value, partial(import_point, point))
        loaded.append((_unless_taken(taken, plugin), process))
    files = tuple(dict.fromkeys(Path(path).resolve() for path in plugin_files))
    READ_FILES.clear()
    READ_FILES.update(map(str, files))
    by_stem: dict[str, Path] = {}
    for path in files:
        version = sha256(read_plugin_file(path)).hexdigest()[:12]
        if by_stem.setdefault(path.stem, path) != path:
            raise UsageError(
                f"plugin file {path} would hide the module {path.stem!r} ({by_stem[path.stem]}); rename it"
            )
        plugin, process = _load(path.stem, FILE_DIST, version, str(path), partial(load_plugin_file, path), path=path)
        plugin = _unless_taken(taken, plugin)
        if plugin.error is not None:
            if isinstance(plugin.error, UsageError):
                raise plugin.error
            reason = plugin.info.reason
            named = reason if str(path) in reason else f"plugin file {path}: {reason}"
            raise PluginError(named) from plugin.error
        loaded.append((plugin, process))
    return Registry(
        plugins=[plugin.info for plugin, _ in loaded],
        entries=[
            Entry(
                spec=spec,
                dist=plugin.info.dist,
                dist_version=plugin.info.dist_version,
                plugin=plugin.info.name,
                process=process,
            )
            for plugin, process in loaded
            for specs in plugin.specs.values()
            for spec in specs
        ],
        skips=[(plugin.info.name, plugin.skip) for plugin, _ in loaded if plugin.skip is not None],
        plugin_files=files,
    )


def _load(
    name: str, dist: str, version: str, origin: str, import_plugin: Callable[[], Any], path: Path | None = None
) -> tuple[LoadedPlugin, PluginProcess | None]:
    """Load a plugin: in this process where it came with mmbench, else in a child, where processes can be forked."""
    if dist in FIRST_PARTY or not CAN_FORK:
        return load_plugin(name, dist, version, origin, import_plugin), None
    process = PluginProcess(name, import_plugin, path)
    return process.load(dist, version, origin), process


def _unless_taken(taken: dict[tuple[Role, str], str], plugin: LoadedPlugin) -> LoadedPlugin:
    """Leave a plugin out that offers what another plugin of the same distribution offers under the same name."""
    info = plugin.info
    names = [(role, f"{info.dist}/{spec.name}") for role, specs in plugin.specs.items() for spec in specs]
    for role, ref in names:
        if (role, ref) in taken:
            other = taken[role, ref]
            reason = f"{role} {ref!r} is already offered by the plugin {other!r} of the same distribution"
            failed = replace(info, status="failed", reason=reason, counts={})
            return LoadedPlugin(info=failed, error=PluginError(reason))
    taken.update(dict.fromkeys(names, info.name))
    return plugin


def _readings(head: str) -> Iterable[tuple[str, str, str]]:
    """Yield the ways to read a head as (name or dist/name, separator, target), in the order in which they are tried."""
    yield head, "", ""
    name, colon, target = head.partition(":")
    if colon:
        yield name, colon, target
    parts = head.split("/")
    for length in (2, 1):
        if len(parts) > length:
            yield "/".join(parts[:length]), "/", "/".join(parts[length:])


def _tuning(where: str, spec: EncoderSpec, options: dict[str, Any]) -> tuple[Tuning, dict[str, Any]]:
    """Take an encoder's tuning, and what belongs to it, out of the options that somebody gave."""
    tuning = options.pop("tuning", spec.tunings[0])
    if tuning not in spec.tunings:
        hint = did_you_mean(str(tuning), spec.tunings)
        raise UsageError(f"{where} has no tuning {tuning!r}; it has {', '.join(spec.tunings)}.{hint}")
    given = {name: options.pop(name) for name in list(options) if name in TUNING_NAMES}
    for name in given:
        if name not in TUNING_OPTIONS[tuning]:
            meant = " or ".join(word for word, known in TUNING_OPTIONS.items() if name in known)
            raise UsageError(f"{where}: {name} belongs to tuning={meant}, but the tuning here is {tuning}")
    try:
        return tuning, check_options(f"{where} with tuning={tuning}", given, TUNING_OPTIONS[tuning])
    except SpecError as error:
        raise UsageError(str(error)) from None


def _augment(where: str, kinds: Sequence[Kind], options: dict[str, Any]) -> tuple[str, ...]:
    """Take what is to be done to an encoder's inputs in training out of the options that somebody gave."""
    asked = options.pop("augment", "")
    if not isinstance(asked, str):
        raise UsageError(f'{where}: augment must be names joined by "+", as augment="crop+flip", got {asked!r}')
    known = tuple(dict.fromkeys(name for kind in kinds for name in AUGMENTATIONS[kind]))
    names = [name.strip() for name in asked.split("+")] if asked.strip() else []
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UsageError(
                f"{where}: augment={name} is nothing for {' or '.join(kinds)}; there are {', '.join(known)}.{hint}"
            )
    return tuple(name for name in known if name in names)


def _missing(where: str, options: dict[str, Any]) -> MissingPolicy:
    """Take a fusion's policy for missing modalities out of the options that somebody gave."""
    policy = options.pop("missing", MISSING_POLICIES[0])
    if policy not in MISSING_POLICIES:
        hint = did_you_mean(str(policy), MISSING_POLICIES)
        raise UsageError(f"{where}: missing={policy} is none of {', '.join(MISSING_POLICIES)}.{hint}")
    chosen: MissingPolicy = policy
    return chosen


def _name(where: str, spec: DatasetSpec, options: dict[str, Any]) -> str:
    """Take what tables are to call a dataset out of the options that somebody gave."""
    if "name" in spec.defaults:
        return ""
    name = options.pop("name", "")
    if not isinstance(name, str | int | float) or not str(name).isprintable() or len(str(name)) > _LONGEST_NAME:
        raise UsageError(f"{where}: name must be a short text, got {str(name)[:80]!r}")
    return str(name).strip()


def _subgroups(where: str, spec: DatasetSpec, options: dict[str, Any]) -> tuple[str, ...]:
    """Remove `subgroups` from the options of a reference and return the columns in it."""
    if "subgroups" not in options:
        return ()
    asked = str(options.pop("subgroups"))
    if not spec.subgroups:
        raise UsageError(f"{where} has no columns that subgroups={asked} could name; tables of your own have them")
    columns = tuple(dict.fromkeys(column.strip() for column in asked.split("+")))
    if not all(columns):
        raise UsageError(f"{where}: subgroups={asked}: write columns joined by +, such as [subgroups=sex+site]")
    return columns


def _takes_target(entry: Entry) -> bool:
    return getattr(entry.spec, "target", "none") != "none"


def _clash(a: Spec, b: Spec) -> bool:
    """Whether two parts of one name cannot be told apart: encoders of different kinds can."""
    if isinstance(a, EncoderSpec) and isinstance(b, EncoderSpec):
        return bool(set(a.kinds) & set(b.kinds))
    return True


def _is_glob(text: str) -> bool:
    return "*" in text or "?" in text or ("[" in text and "=" not in text)


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _a(role: Role) -> str:
    return f"an {role}" if role[0] in "eo" else f"a {role}"
