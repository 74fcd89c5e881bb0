"""Compiled pairs: which releases of torchvision and torchaudio load under the torch at hand, and what mends a pair."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

#: Packages with a library that is compiled against torch.
COMPANIONS = ("torchvision", "torchaudio")
_MISSING_MODULE = re.compile(r"No module named '(\w+)")


@dataclass(frozen=True, kw_only=True)
class BrokenPair:
    """A companion of torch that cannot be imported.

    Attributes:
        subject: Its name and version: "torchaudio 2.11.1".
        problem: One line: with which torch, and the error.
        hint: The command that mends it.
    """

    subject: str
    problem: str
    hint: str


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def explain_pair(companion: str, error: str, dists: Iterable[str] = ()) -> BrokenPair:
    """Return what is wrong with a companion that cannot be imported, and the command that mends it.

    Args:
        companion: One of `COMPANIONS`.
        error: What its import raised, in one line.
        dists: Distributions whose requirements a mended pair must still meet, such as plugins.
    """
    torch, version = installed_version("torch"), installed_version(companion)
    missing = _MISSING_MODULE.search(error)
    if missing and missing[1] not in ("torch", *COMPANIONS):
        return BrokenPair(
            subject=f"{companion} {version}" if version else companion,
            problem=f"cannot be imported: {error}",
            hint=f"install what brings the module {missing[1]!r}, or pip install --force-reinstall {companion}",
        )
    if torch is None or version is None:
        lacking = companion if version is None else "torch"
        return BrokenPair(subject=companion, problem=f"cannot be imported: {error}", hint=f"pip install {lacking}")
    return BrokenPair(
        subject=f"{companion} {version}",
        problem=f"does not load with torch {torch}: {error}",
        hint=install_line(companion, torch=torch, version=version, wanted=_wanted(companion, dists)),
    )


def install_line(companion: str, *, torch: str, version: str, wanted: SpecifierSet | None = None) -> str:
    """Return the `pip install` command that gives torch a companion that loads under it.

    Torch stays as it is, since everything else depends on it, unless no companion for it is allowed.

    >>> install_line("torchaudio", torch="2.12.1", version="2.11.1")
    "pip install 'torchaudio==2.11.0'"
    >>> install_line("torchvision", torch="2.12.1", version="0.26.0")
    "pip install 'torchvision==0.27.*'"
    >>> install_line("torchaudio", torch="2.14.1", version="2.11.1")
    "pip install --force-reinstall --no-deps 'torchaudio==2.11.1'"
    """
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    fitting = SpecifierSet(fitting_releases(companion, Version(torch)))
    if _different_builds(torch, version):
        build = Version(torch).local
        return f"pip install --force-reinstall '{companion}{fitting}' (from the index that has torch as +{build})"
    if fitting.contains(Version(version).public, prereleases=True):
        return f"pip install --force-reinstall --no-deps '{companion}=={version}'"
    if wanted is not None and not any(wanted.contains(release) for release in _examples(fitting)):
        others = " ".join(name for name in COMPANIONS if name == companion or installed_version(name))
        return f"pip install --upgrade torch {others}"
    return f"pip install '{companion}{fitting}'"


def fitting_releases(companion: str, torch: Version) -> str:
    """Return a specifier of the companion's releases that load under a torch.

    torchvision 0.N+15 belongs to torch 2.N, torchaudio has the number of its torch. Both stopped being bound to one
    torch: torchaudio with 2.11.0, after which 2.11.1 needs a function that torch has from 2.13 on, and torchvision
    with 0.29, which needs torch 2.14.
    """
    release = (torch.major, torch.minor)
    if companion == "torchaudio":
        bound = "==2.11.0" if release >= (2, 11) else f"=={torch.base_version}"
        return ">=2.11.1" if release >= (2, 13) else bound
    if release >= (2, 14):
        return ">=0.29"
    return f"==0.{torch.minor + 15}.*" if torch.major == 2 else ""


def companion_in(error: BaseException) -> str:
    """Return the companion of torch in whose code an exception arose, or ""."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            break
        for frame, _line in traceback.walk_tb(seen.__traceback__):
            top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
            if top in COMPANIONS:
                return top
        if isinstance(seen, ImportError) and (seen.name or "").partition(".")[0] in COMPANIONS:
            return (seen.name or "").partition(".")[0]
        seen = seen.__cause__ or seen.__context__
    return ""


def _different_builds(torch: str, version: str) -> bool:
    """Whether both name the build that they are of, such as "+cpu" and "+cu130", and not the same one."""
    from packaging.version import Version

    builds = {Version(torch).local, Version(version).local}
    return len(builds) == 2 and None not in builds


def _wanted(companion: str, dists: Iterable[str]) -> SpecifierSet:
    """Return what distributions together ask of a companion."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.specifiers import SpecifierSet

    wanted = SpecifierSet()
    for dist in dists:
        try:
            texts = metadata.requires(dist) or []
        except metadata.PackageNotFoundError:  # a local file
            continue
        for text in texts:
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if requirement.name == companion and applies:
                wanted &= requirement.specifier
    return wanted


def _examples(fitting: SpecifierSet) -> list[str]:
    """Return releases that a specifier names: its own numbers, a star as any of the first patches."""
    return [
        item.version.replace(".*", f".{patch}") for item in fitting for patch in range(3 if ".*" in item.version else 1)
    ]
