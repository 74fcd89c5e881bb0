"""The code that a descriptor names: imported on first use, with what to install where a package is lacking."""

from __future__ import annotations

import importlib.util
from typing import Any

from mmbench.errors import Unavailable
from mmbench.imports import index_name
from mmbench.imports import load_attribute as load_attribute
from mmbench.loading import load_plugin_file
from mmbench.registry import FILE_DIST, Entry
from mmbench.spec import Spec, role_of


def load_factory(entry: Entry) -> Any:
    """Import the factory of an entry into this process, and before it the local file that it stands in, if any.

    Raises:
        Unavailable: a package that the code needs is missing or does not fit.
        PluginError: there is no such module or attribute, or the file cannot be run.
    """
    if entry.process is not None and entry.process.path is not None:
        load_plugin_file(entry.process.path)
    return load_attribute(entry.spec.factory)


def call_function(entry: Entry, function: str, *arguments: Any, **options: Any) -> Any:
    """Call a function that a descriptor names, such as its `describe`, where the entry's plugin was imported.

    Raises:
        MmbenchError: as the function raised it.
    """
    if entry.process is not None:
        return entry.process.call(function, *arguments, **options)
    return load_attribute(function)(*arguments, **options)


def missing_packages(spec: Spec) -> list[str]:
    """Return which of the packages that a descriptor requires cannot be imported here; nothing is imported."""
    return [package for package in spec.requires if not _is_importable(package)]


def lacking_packages(entry: Entry) -> str:
    """Say which packages an entry requires that cannot be imported here, and what to do, or ""; nothing is imported."""
    absent = missing_packages(entry.spec)
    return f"{entry.ref} needs {', '.join(absent)}: {install_command(entry)}" if absent else ""


def check_packages(entry: Entry) -> None:
    """Check that the packages are installed that an entry needs in this process.

    Raises:
        Unavailable: one is not; the message says what to install.
    """
    lacking = lacking_packages(entry)
    if lacking:
        raise Unavailable(lacking)


def install_command(entry: Entry) -> str:
    """Return what brings the packages that an entry lacks: a tracker or an executor names an extra of its package."""
    if role_of(entry.spec) in ("tracker", "executor") and entry.dist != FILE_DIST:
        return f"pip install '{entry.dist}[{entry.spec.name}]'"
    names = dict.fromkeys(index_name(package) for package in missing_packages(entry.spec))
    return f"pip install {' '.join(names)}"


def _is_importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
