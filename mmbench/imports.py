"""Importing what a descriptor names, with what to install where a package is lacking."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from mmbench.errors import ContractError, Unavailable, did_you_mean

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
            raise Unavailable(f"{needs}: pip install {index_name(package)}") from error
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


def index_name(module: str) -> str:
    """Return the name by which the index knows the package of a module."""
    package = module.partition(".")[0]
    return _INDEX_NAMES.get(package, package)


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
