"""Which plugins are installed: the entry points of every distribution, whatever state its metadata are in."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from pathlib import Path
from typing import Any

from mmbench.errors import PluginError

GROUP = "mmbench"
_POINT = re.compile(r"\s*[A-Za-z_][\w.]*(\s*:\s*[A-Za-z_][\w.]*)?\s*(\[.*\])?\s*")


def installed_points() -> list[tuple[str, str, EntryPoint]]:
    """Return (distribution, version, entry point) of every installed plugin, in a fixed order."""
    try:
        points = list(entry_points(group=GROUP))
    except Exception:  # one unreadable entry_points.txt, of whatever package, breaks the call for all
        points = _readable_points()
    found = [(*name_and_version(point.dist), point) for point in points]
    return sorted(found, key=lambda item: (item[0], item[2].name, item[2].value))


def _readable_points() -> list[EntryPoint]:
    """Return the entry points of each distribution whose own can be read; the first of a name on the path counts."""
    found: dict[str, list[EntryPoint]] = {}
    for dist in distributions():
        with suppress(Exception):  # whatever a broken file makes its reader raise
            points = list(dist.entry_points.select(group=GROUP))
            found.setdefault(name_and_version(dist)[0], points)
    return [point for points in found.values() for point in points]


def installed_distributions() -> dict[str, Distribution]:
    """Return every installed distribution by its normalised name; the first of a name on the path counts.

    setuptools, once imported, adds the folder of its private copies to the path: what lies there is not installed.
    """
    found: dict[str, Distribution] = {}
    for dist in distributions():
        name, _ = name_and_version(dist)
        if name != "unknown" and not _is_private_copy(dist):
            found.setdefault(name, dist)
    return {name: found[name] for name in sorted(found)}


def _is_private_copy(dist: Distribution) -> bool:
    return Path(str(dist.locate_file(""))).name == "_vendor"


def import_point(point: EntryPoint) -> Any:
    """Import what an entry point names.

    Raises:
        PluginError: it names nothing that could be imported; importing may raise anything else.
    """
    if not _POINT.fullmatch(point.value):
        raise PluginError(
            f"its entry point reads {point.value!r}; it must name a module, as in {point.name} = 'my_module'"
        )
    return point.load()


def name_and_version(dist: Distribution | None) -> tuple[str, str]:
    """Return a distribution's normalised name and its version, "unknown" where its metadata are broken."""
    name = version = text = ""
    with suppress(ValueError):  # not UTF-8
        text = ((dist.read_text("METADATA") or dist.read_text("PKG-INFO")) if dist else None) or ""
    # Reading two headers by hand: the full parse takes longer than everything else here together.
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if not colon or (name and version):
            break
        if key.lower() == "name":
            name = value.strip()
        elif key.lower() == "version":
            version = value.strip()
    return normalised(name or "unknown"), version or "unknown"


def normalised(dist: str) -> str:
    """Return a distribution's name as all spellings of it are written.

    >>> normalised("MMBench_Extra.Fusion")
    'mmbench-extra-fusion'
    """
    return re.sub(r"[-_.]+", "-", dist).lower()
