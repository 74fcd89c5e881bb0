"""What `mmbench check` is asked to check: reference, distribution, folder or file -> plugins and parts."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mmbench.discovery import GROUP, import_point, normalised
from mmbench.errors import UsageError, did_you_mean
from mmbench.loading import LoadedPlugin, load_plugin, load_plugin_file
from mmbench.registry import Reference, load_registry
from mmbench.spec import SPEC_OF_ROLE, EncoderSpec, Role, Spec, role_of


@dataclass(frozen=True, kw_only=True)
class PluginTarget:
    """One distribution, folder or file whose plugins are checked.

    Attributes:
        name: Of the distribution or of the file.
        form: How it was found.
        points: Entry points in group `mmbench`: what each names, by its name.
        loaded: What became of each.
        path: Folders that imports need beside what is installed.
        licence, version: As the distribution declares them; "" when it does not.
    """

    name: str
    form: Literal["distribution", "folder", "file"]
    points: Mapping[str, str]
    loaded: tuple[LoadedPlugin, ...]
    path: tuple[str, ...] = ()
    licence: str = ""
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One encoder, fusion, objective or dataset to check.

    Attributes:
        ref: As reports name it.
        asked: What followed the name and every option.
    """

    ref: str
    spec: Spec
    plugin: PluginTarget
    target: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def role(self) -> Role:
        """Which kind of part this is."""
        return role_of(self.spec)

    @property
    def told(self) -> dict[str, str]:
        """What mmbench itself tells the factory beside the options: the target, and how it will be trained.

        Fresh weights are asked for where there are any, so that a check needs no file and everything can train.
        """
        told = {"target": self.target} if getattr(self.spec, "target", "none") != "none" else {}
        if isinstance(self.spec, EncoderSpec) and self.spec.takes_tuning:
            told["tuning"] = "scratch" if "scratch" in self.spec.tunings else self.spec.tunings[0]
        return told


@dataclass(frozen=True, kw_only=True)
class Target:
    """Everything that one target names."""

    text: str
    plugins: tuple[PluginTarget, ...]
    parts: tuple[Part, ...]


def find_target(text: str | os.PathLike[str]) -> Target:
    """Find what is to be checked.

    Args:
        text: A path to a package's folder or to a .py file; the name of an installed distribution; or a reference, as
            "gated", "mmbench-fusion/gated[fused_dim=32]" or "encoder:mmbench-vision/cnn".

    Raises:
        UsageError: nothing is meant by it.
    """
    asked = os.fspath(text)
    path = Path(asked)
    if path.suffix == ".py" or (path.is_dir() and (os.sep in asked or asked in (".", ".."))):
        return _whole(asked, _file(path) if path.suffix == ".py" else _folder(path))
    distribution = _distribution(asked)
    if distribution is not None:
        return _whole(asked, distribution)
    if path.is_dir() and (path / "pyproject.toml").is_file():
        return _whole(asked, _folder(path))
    return _reference(asked)


def _whole(text: str, plugin: PluginTarget) -> Target:
    parts = tuple(
        Part(ref=f"{plugin.name}/{spec.name}", spec=spec, plugin=plugin, options=spec.defaults)
        for loaded in plugin.loaded
        for specs in loaded.specs.values()
        for spec in specs
    )
    return Target(text=text, plugins=(plugin,), parts=parts)


def _file(path: Path) -> PluginTarget:
    loaded = load_plugin(path.stem, "file", "", str(path), partial(load_plugin_file, path))
    if isinstance(loaded.error, UsageError):
        raise loaded.error
    return PluginTarget(name=path.stem, form="file", points={}, loaded=(loaded,), path=(str(path.resolve().parent),))


def _folder(folder: Path) -> PluginTarget:
    folder = folder.resolve()
    project = _project(folder)
    name = project.get("name") or folder.name
    points = dict(project.get("entry-points", {}).get(GROUP, {}))
    source = folder / "src" if (folder / "src").is_dir() else folder
    if str(source) not in sys.path:
        sys.path.insert(0, str(source))
    loaded = tuple(
        load_plugin(point.name, name, str(project.get("version", "")), point.value, partial(import_point, point))
        for point in (importlib.metadata.EntryPoint(*point, GROUP) for point in sorted(points.items()))
    )
    licence = project.get("license", "")
    return PluginTarget(
        name=name,
        form="folder",
        points=points,
        loaded=loaded,
        path=(str(source),),
        licence=licence if isinstance(licence, str) else licence.get("text", "") or licence.get("file", ""),
        version=str(project.get("version", "") or ("dynamic" if "version" in project.get("dynamic", []) else "")),
    )


def _project(folder: Path) -> dict[str, Any]:
    file = folder / "pyproject.toml"
    if not file.is_file():
        if (folder / "__init__.py").is_file():
            raise UsageError(f"{folder} is a bare module; give the folder that holds its pyproject.toml")
        raise UsageError(f"{folder} has no pyproject.toml; give a package's folder, or write one by `mmbench new`")
    try:
        project: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    return project


def _distribution(name: str) -> PluginTarget | None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        return None
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    found = list(distribution.entry_points.select(group=GROUP))
    metadata = distribution.metadata
    named = normalised(metadata["Name"] or name)
    version = metadata["Version"] or ""
    classifiers = [item for item in metadata.get_all("Classifier") or [] if item.startswith("License ::")]
    return PluginTarget(
        name=named,
        form="distribution",
        points={point.name: point.value for point in found},
        loaded=tuple(
            load_plugin(point.name, named, version, point.value, partial(import_point, point)) for point in found
        ),
        licence=metadata["License-Expression"] or metadata["License"] or "; ".join(classifiers),
        version=version,
    )


def _reference(text: str) -> Target:
    role, colon, rest = text.partition(":")
    roles = [role] if colon and role in SPEC_OF_ROLE else list(SPEC_OF_ROLE)
    wanted = rest if colon and role in SPEC_OF_ROLE else text
    registry = load_registry()
    found: list[Reference] = []
    errors: list[UsageError] = []
    for candidate in roles:
        try:
            found += registry.match(candidate, wanted)  # type: ignore[arg-type]
        except UsageError as error:
            errors.append(error)
    if not found:
        if len(roles) == 1:
            raise errors[0]
        known = [entry.spec.name for role in SPEC_OF_ROLE for entry in registry.entries(role)]
        dists = {plugin.dist for plugin in registry.plugins}
        path_hint = "" if "/" in text else f", or write a path as ./{text}"
        raise UsageError(
            f"{text!r} is no part's name, no installed distribution and no path."
            f"{did_you_mean(text, [*known, *dists])} See `mmbench list`{path_hint}"
        )
    plugins: dict[str, PluginTarget] = {}
    parts = []
    for reference in found:
        entry = reference.entry
        if entry.dist not in plugins:
            plugin = _distribution(entry.dist)
            assert plugin is not None  # the registry found it by its distribution
            plugins[entry.dist] = plugin
        parts.append(
            Part(
                ref=entry.ref,
                spec=entry.spec,
                plugin=plugins[entry.dist],
                target=reference.target,
                options=reference.options,
            )
        )
    return Target(text=text, plugins=tuple(plugins.values()), parts=tuple(parts))
