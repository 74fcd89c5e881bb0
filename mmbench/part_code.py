"""The code that a descriptor names: imported on first use, with what to install where a package is lacking."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from typing import Any

from mmbench.errors import ContractError, Unavailable, did_you_mean
from mmbench.registry import FILE_DIST, Entry
from mmbench.spec import Spec, role_of

#: Packages whose name on the index differs from the name they are imported by.
_INDEX_NAMES = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
    "umap": "umap-learn",
}


def load_attribute(reference: str) -> Any:
    """Import what a descriptor names as ``"package.module:attribute"``.

    Raises:
        Unavailable: a package that the code needs is missing or does not fit.
        ContractError: there is no such module or attribute.
    """
    module_name, _, attribute = reference.partition(":")
    try:
        value: Any = importlib.import_module(module_name)
    except ImportError as error:
        missing = error.name or ""
        if missing == module_name or module_name.startswith(f"{missing}."):
            raise ContractError(f"{reference!r}: there is no module {missing!r}.{_near_modules(missing)}") from None
        package = missing.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and package != module_name.partition(".")[0]:
            needs = f"{reference!r} needs the package {package!r}"
            raise Unavailable(f"{needs}: pip install {_index_name(package)}") from error
        raise Unavailable(f"{reference!r} cannot be imported: {error}") from error
    except OSError as error:  # a shared library that does not fit the machine or another package
        raise Unavailable(f"{reference!r} cannot be imported: {error}") from error
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            public = [name for name in dir(value) if not name.startswith("_")]
            owner = getattr(value, "__name__", module_name)
            raise ContractError(f"{reference!r}: {owner!r} has no {part!r}.{did_you_mean(part, public)}") from None
    return value


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
    names = dict.fromkeys(_index_name(package) for package in missing_packages(entry.spec))
    return f"pip install {' '.join(names)}"


def _index_name(module: str) -> str:
    package = module.partition(".")[0]
    return _INDEX_NAMES.get(package, package)


def _is_importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _near_modules(missing: str) -> str:
    """Return a hint at modules beside the one that is missing."""
    parent, _, _ = missing.rpartition(".")
    if not parent:
        return ""
    try:
        path = importlib.import_module(parent).__path__
    except (ImportError, AttributeError):
        return ""
    siblings = [f"{parent}.{module.name}" for module in pkgutil.iter_modules(path)]
    return did_you_mean(missing, siblings, prefix=f"{parent}.")
