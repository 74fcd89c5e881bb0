"""What is wrong with the installed plugins, and what each of them needs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from mmbench.executors import Executor
from mmbench.executors.inline import InlineExecutor
from mmbench.loading import PluginInfo
from mmbench.pairs import COMPANIONS, explain_pair, installed_version
from mmbench.part_code import install_command, missing_packages
from mmbench.preflight import check_components, import_packages
from mmbench.registry import Entry, Registry
from mmbench.report.text import counted
from mmbench.spec import SPEC_OF_ROLE, DatasetSpec, Kind, Role, role_of
from mmbench.views import console

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_MISSING_MODULE = re.compile(r"No module named '([\w.]+)'")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that a person may want to mend.

    Attributes:
        severity: "error" where something cannot be used, "warning" where it can.
        subject: The plugin, part or package.
        problem: What is wrong.
        mend: What to do.
        traceback: Of what failed, or "".
    """

    severity: Literal["error", "warning"]
    subject: str
    problem: str
    mend: str = ""
    traceback: str = ""


def examine(registry: Registry, executor: Executor | None = None) -> list[Finding]:
    """Look at versions, name clashes, plugins that failed, components whose code or packages are not there.

    Args:
        registry: What is installed.
        executor: Where components are imported; None is this process, which a crash of theirs would end.
    """
    return [
        *_failed(registry),
        *_unmet_requirements(registry),
        *_empty_roles(registry),
        *_clashes(registry),
        *_lacking(registry),
        *_broken(registry, executor),
        *_unused_companions(registry, executor),
        *_warned(registry),
    ]


def findings_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return findings as plain JSON."""
    return [asdict(finding) for finding in findings]


def print_findings(findings: Sequence[Finding]) -> None:
    """Print every finding with what to do, errors first."""
    out = console()
    for finding in sorted(findings, key=lambda item: item.severity):
        style = "red" if finding.severity == "error" else "magenta"
        out.print(Text(f"{finding.severity}: {finding.subject}: {finding.problem}", style))
        if finding.mend:
            out.print(Text(f"  {finding.mend}"))
        if finding.traceback:
            out.print(Text("  " + finding.traceback.rstrip().replace("\n", "\n  "), "dim"))
    errors = sum(finding.severity == "error" for finding in findings)
    out.print(f"{counted(errors, 'error')}, {counted(len(findings) - errors, 'warning')}")


def _failed(registry: Registry) -> Iterable[Finding]:
    for plugin in registry.failed:
        yield Finding(
            severity="error",
            subject=f"{plugin.name} ({plugin.dist} {plugin.dist_version})",
            problem=plugin.reason,
            mend=_cure(plugin),
            traceback=plugin.traceback,
        )


def _cure(plugin: PluginInfo) -> str:
    """Say what a plugin that failed to load needs."""
    missing = _MISSING_MODULE.search(plugin.reason)
    if missing:
        top = missing[1].partition(".")[0]
        if top == plugin.dist.replace("-", "_"):
            return f"its installation is incomplete: pip install --force-reinstall --no-deps {plugin.dist}"
        return f"install what it needs: pip install {top.replace('_', '-')}"
    if "upgrade mmbench" in plugin.reason:
        return f"pip install --upgrade mmbench, or an older version of {plugin.dist}"
    return f"it is left out; mend it (`mmbench check {plugin.dist} --level api`), or pip uninstall {plugin.dist}"


def _unmet_requirements(registry: Registry) -> Iterable[Finding]:
    """Compare what each plugin's distribution asks for, with the extras that it names, with what is installed."""
    for dist in sorted({"mmbench", *(plugin.dist for plugin in registry.plugins)}):
        for requirement in _requirements(dist, ""):
            said = f"{requirement.name}{requirement.specifier}"
            try:
                version = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                problem = f"needs {said}, which is not installed"
            else:
                if requirement.specifier.contains(version, prereleases=True):
                    continue
                problem = f"needs {said}, but {requirement.name} {version} is installed"
            yield Finding(severity="error", subject=dist, problem=problem, mend=f"pip install '{said}'")


def _requirements(dist: str, extra: str) -> Iterator[Requirement]:
    """Yield what a distribution asks for, or what one of its extras adds, and what the extras in there stand for."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = metadata.requires(dist) or []
    except metadata.PackageNotFoundError:  # a local file
        return
    for text in wanted:
        try:
            requirement = Requirement(text)
            marker = requirement.marker
            always = marker is None or marker.evaluate({"extra": ""})
            applies = always if not extra else not always and marker is not None and marker.evaluate({"extra": extra})
        except InvalidRequirement:
            continue
        if not applies:
            continue
        yield requirement
        for name in sorted(requirement.extras):
            if (requirement.name, name) != (dist, extra):
                yield from _requirements(requirement.name, name)


def _empty_roles(registry: Registry) -> Iterable[Finding]:
    """Roles without a component: no cell can run without a dataset, an encoder of its kinds, a fusion, an objective."""
    kinds = {
        modality.kind
        for entry in registry.entries("dataset")
        if isinstance(entry.spec, DatasetSpec)
        for modality in entry.spec.modalities
    }
    needs: list[tuple[Role, Kind | None]] = [("dataset", None), ("fusion", None), ("objective", None)]
    encoders: list[tuple[Role, Kind | None]] = [("encoder", kind) for kind in sorted(kinds)]
    if not registry.entries("encoder"):
        encoders = [("encoder", None)]
    for role, kind in [*needs, *encoders]:
        problem, _, mend = registry.lacks(role, kind).partition(": ")
        if problem:
            yield Finding(severity="warning", subject=f"{role}s", problem=problem, mend=mend)


def _clashes(registry: Registry) -> Iterable[Finding]:
    for role in SPEC_OF_ROLE:
        by_name = defaultdict(list)
        for entry in registry.entries(role):
            if not registry.is_unique(entry):
                by_name[entry.spec.name].append(entry.ref)
        for name, refs in by_name.items():
            yield Finding(
                severity="warning",
                subject=f"{role} {name!r}",
                problem=f"{len(refs)} packages offer it",
                mend=f"write {' or '.join(refs)}",
            )


def _lacking(registry: Registry) -> Iterable[Finding]:
    for entry in _everything(registry):
        absent = missing_packages(entry.spec)
        if absent:
            yield Finding(
                severity="warning",
                subject=f"{role_of(entry.spec)} {entry.ref}",
                problem=f"needs {', '.join(absent)}, which cannot be imported here",
                mend=install_command(entry),
            )


def _broken(registry: Registry, executor: Executor | None) -> Iterable[Finding]:
    """What the preflight of a run would find broken, were everything selected."""
    report = check_components(
        _everything(registry), InlineExecutor() if executor is None else executor, plugin_files=registry.plugin_files
    )
    for item in report.broken:
        others = f" (used by {', '.join(item.refs)})" if item.refs[0] not in item.subject else ""
        yield Finding(
            severity="error",
            subject=item.subject,
            problem=item.problem + others,
            mend=item.hint,
            traceback=item.traceback,
        )
    if report.skipped:
        yield Finding(severity="warning", subject="components", problem=f"were not all imported: {report.skipped}")


def _unused_companions(registry: Registry, executor: Executor | None) -> Iterable[Finding]:
    """A torchvision or torchaudio that does not load breaks what is built on it, whether or not a component says so."""
    needed = {package for entry in _everything(registry) for package in entry.spec.requires}
    names = [name for name in COMPANIONS if name not in needed and installed_version(name)]
    for name, error in import_packages(names, InlineExecutor() if executor is None else executor).items():
        pair = explain_pair(name, error, sorted({plugin.dist for plugin in registry.plugins}))
        yield Finding(severity="error", subject=pair.subject, problem=pair.problem, mend=pair.hint)


def _everything(registry: Registry) -> list[Entry]:
    return [entry for role in SPEC_OF_ROLE for entry in registry.entries(role)]


def _warned(registry: Registry) -> Iterable[Finding]:
    for plugin in registry.plugins:
        for warning in plugin.warnings:
            yield Finding(severity="warning", subject=f"{plugin.name} ({plugin.dist})", problem=warning)
