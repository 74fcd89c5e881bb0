"""`mmbench plugins doctor`: versions, conflicts and tracebacks, and for each trouble what would end it."""

from __future__ import annotations

import importlib.metadata
import itertools
import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from mmbench.spec import API_VERSION, SPEC_OF_ROLE, EncoderSpec, Role

if TYPE_CHECKING:
    from mmbench.loading import PluginInfo
    from mmbench.registry import Entry, Registry

EXIT_ILL = 4
_LIBRARIES = (
    "mmbench",
    "torch",
    "torchvision",
    "torchaudio",
    "torchmetrics",
    "timm",
    "transformers",
    "numpy",
    "pandas",
)
_MISSING_MODULE = re.compile(r"No module named '([\w.]+)'")
#: torchvision 0.N belongs to torch 2.(N - 15); torchaudio has torch's own number.
_TORCHVISION_BEHIND = 15


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """One thing that is wrong.

    Attributes:
        grade: An "error" keeps something from working; a "warning" may surprise.
        subject: Plugin, distribution or part.
        problem: What is wrong.
        advice: What to do about it.
        traceback: Where there is one.
    """

    grade: Literal["error", "warning"]
    subject: str
    problem: str
    advice: str
    traceback: str = ""


def examine(registry: Registry) -> list[Trouble]:
    """Return everything that is wrong with the installed plugins, errors first; nothing heavy is imported."""
    found = [
        *_broken_plugins(registry),
        *_bad_manners(registry),
        *_clashes(registry),
        *_unmet_requirements(registry),
        *_missing_packages(registry),
        *_torch_family(),
    ]
    return sorted(found, key=lambda trouble: (trouble.grade != "error", trouble.subject))


def doctor_json(registry: Registry) -> dict[str, Any]:
    """Return versions, plugins and troubles as plain JSON."""
    return {
        "versions": versions(),
        "plugins": [
            {
                "name": plugin.name,
                "dist": plugin.dist,
                "version": plugin.dist_version,
                "origin": plugin.origin,
                "status": plugin.status,
                "offers": {role: count for role, count in plugin.counts.items() if count},
            }
            for plugin in registry.plugins
        ],
        "troubles": [asdict(trouble) for trouble in examine(registry)],
    }


def run_doctor(registry: Registry, *, as_json: bool = False) -> int:
    """Print what is wrong and what would end it; return the exit code: 4 when there is an error, else 0."""
    told = doctor_json(registry)
    if as_json:
        import json
        import sys

        sys.stdout.write(f"{json.dumps(told, indent=2, ensure_ascii=False)}\n")
    else:
        _print(told)
    return EXIT_ILL if any(trouble["grade"] == "error" for trouble in told["troubles"]) else 0


def versions() -> dict[str, str]:
    """Return the versions of Python, the plugin API and the libraries that plugins rest on."""
    found = {"python": platform.python_version(), "plugin API": str(API_VERSION)}
    for name in _LIBRARIES:
        version = _version(name)
        if version:
            found[name] = version
    return found


def _broken_plugins(registry: Registry) -> Iterator[Trouble]:
    for plugin in registry.failed:
        yield Trouble(
            grade="error",
            subject=f"{plugin.dist} ({plugin.name})",
            problem=plugin.reason,
            advice=_cure(plugin),
            traceback=plugin.traceback,
        )


def _cure(plugin: PluginInfo) -> str:
    """Say what a plugin that failed to load needs."""
    own = plugin.dist.replace("-", "_")
    missing = _MISSING_MODULE.search(plugin.reason)
    if missing:
        top = missing[1].partition(".")[0]
        if top == own or missing[1].startswith(f"{own}."):
            return f"its installation is incomplete: pip install --force-reinstall --no-deps {plugin.dist}"
        return f"install what it needs: pip install {top.replace('_', '-')}"
    if "upgrade mmbench" in plugin.reason:
        return f"pip install --upgrade mmbench, or an older version of {plugin.dist}"
    if "already offered" in plugin.reason:
        return f"one distribution names the same part twice: report it to the author of {plugin.dist}"
    check = f"mmbench check {plugin.dist} --level api"
    return f"its author can see the fault by `{check}`; until then it is left out: pip uninstall {plugin.dist}"


def _bad_manners(registry: Registry) -> Iterator[Trouble]:
    for plugin in registry.plugins:
        for warning in plugin.warnings:
            yield Trouble(
                grade="warning",
                subject=f"{plugin.dist} ({plugin.name})",
                problem=warning,
                advice=f"harmless here; its author can see it by `mmbench check {plugin.dist}`",
            )


def _clashes(registry: Registry) -> Iterator[Trouble]:
    for role in SPEC_OF_ROLE:
        by_name: dict[str, list[Entry]] = {}
        for entry in registry.entries(role):
            by_name.setdefault(entry.spec.name, []).append(entry)
        for name, entries in by_name.items():
            rivals = [entry for entry in entries if not registry.is_unique(entry)]
            if rivals:
                refs = " or ".join(sorted(entry.ref for entry in rivals))
                yield Trouble(
                    grade="warning",
                    subject=f"{role} {name!r}",
                    problem=f"{len(rivals)} distributions offer it{_kinds(role, rivals)}: its short name is ambiguous",
                    advice=f"write {refs}, or uninstall one",
                )


def _kinds(role: Role, entries: list[Entry]) -> str:
    if role != "encoder":
        return ""
    sets = [set(entry.spec.kinds) for entry in entries if isinstance(entry.spec, EncoderSpec)]
    shared = set().union(*(a & b for a, b in itertools.combinations(sets, 2)))
    return f" for {', '.join(sorted(shared))}"


def _unmet_requirements(registry: Registry) -> Iterator[Trouble]:
    """Compare what each plugin's distribution asks for with what is installed."""
    from packaging.requirements import InvalidRequirement, Requirement

    for dist in sorted({"mmbench", *(plugin.dist for plugin in registry.plugins)}):
        try:
            wanted = importlib.metadata.requires(dist) or []
        except importlib.metadata.PackageNotFoundError:  # a local file
            continue
        for text in wanted:
            try:
                requirement = Requirement(text)
                applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            except (InvalidRequirement, ValueError):
                continue
            if not applies:
                continue
            version = _version(requirement.name)
            said = f"{requirement.name}{requirement.specifier}"
            if version is None:
                yield Trouble(
                    grade="error",
                    subject=dist,
                    problem=f"it needs {said}, which is not installed",
                    advice=f"pip install '{said}'",
                )
            elif not requirement.specifier.contains(version, prereleases=True):
                yield Trouble(
                    grade="error",
                    subject=dist,
                    problem=f"it needs {said}, but {requirement.name} {version} is installed",
                    advice=f"pip install '{said}', or another version of {dist}",
                )


def _missing_packages(registry: Registry) -> Iterator[Trouble]:
    from mmbench.registry import missing_packages

    for role in SPEC_OF_ROLE:
        for entry in registry.entries(role):
            missing = missing_packages(entry.spec)
            if missing:
                yield Trouble(
                    grade="warning",
                    subject=f"{role} {entry.ref}",
                    problem=f"it is unavailable: its code needs {', '.join(missing)}",
                    advice=f"pip install {' '.join(name.replace('_', '-') for name in missing)}",
                )


def _torch_family() -> Iterator[Trouble]:
    """Compare the numbers of torch, torchvision and torchaudio: a pair that does not fit fails at import."""
    torch = _minor(_version("torch"))
    if torch is None:
        return
    for name, behind in (("torchaudio", 0), ("torchvision", _TORCHVISION_BEHIND)):
        other = _minor(_version(name))
        if other is None:
            continue
        expected = torch if not behind else (0, torch[1] + behind)
        if torch[0] == 2 and other != expected:
            yield Trouble(
                grade="error",
                subject=name,
                problem=f"{name} {_version(name)} was not made for torch {_version('torch')}: importing it may fail",
                advice=f"pip install '{name}=={expected[0]}.{expected[1]}.*', or the torch that it was made for",
            )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _minor(version: str | None) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", version or "")
    return (int(match[1]), int(match[2])) if match else None


def _print(told: Mapping[str, Any]) -> None:
    from rich.text import Text

    from mmbench.views import console

    out = console()
    out.print(", ".join(f"{name} {version}" for name, version in told["versions"].items()))
    for plugin in told["plugins"]:
        offers = ", ".join(f"{count} {role}{'s' * (count > 1)}" for role, count in plugin["offers"].items())
        style = "green" if plugin["status"] == "loaded" else "red"
        line = Text.assemble((plugin["status"], style), f"  {plugin['dist']} {plugin['version']}  ", (offers, "dim"))
        line.append(f"  {plugin['origin']}", style="dim")
        out.print(line)
    for trouble in told["troubles"]:
        style = "bold red" if trouble["grade"] == "error" else "yellow"
        out.print()
        out.print(Text.assemble((trouble["grade"], style), f"  {trouble['subject']}: {trouble['problem']}"))
        out.print(Text(f"       {trouble['advice']}"))
        if trouble["traceback"]:
            out.print(Text(trouble["traceback"].rstrip(), style="dim"))
    if not told["troubles"]:
        out.print("\nnothing is wrong")
