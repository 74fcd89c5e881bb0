"""What every benchmark needs one of, and the package that brings it."""

from __future__ import annotations

from collections.abc import Mapping

from mmbench.spec import Kind, Role

#: Roles without which no cell can run, each with a package that brings components of it.
PACKAGE_OF_ROLE: Mapping[Role, str] = {
    "dataset": "mmbench-datasets",
    "fusion": "mmbench-fusion",
    "objective": "mmbench-objectives",
}
PACKAGE_OF_KIND: Mapping[Kind, str] = {
    "image": "mmbench-vision",
    "audio": "mmbench-audio",
    "text": "mmbench-text",
    "video": "mmbench-video",
    "tabular": "mmbench-tabular",
    "sequence": "mmbench-sequence",
}
#: Components that mmbench takes unless told otherwise.
PACKAGE_OF_DEFAULT: Mapping[tuple[Role, str], str] = {
    ("objective", "supervised"): "mmbench-objectives",
    ("fusion", "single"): "mmbench-fusion",
}


def lacking(role: Role, kind: Kind | None = None) -> str:
    """Return what to say where nothing of a role is installed, or no encoder of a kind.

    >>> lacking("dataset")
    "no dataset plugin is installed: pip install mmbench-datasets, or 'mmbench[base]'"
    >>> lacking("encoder", "image")
    'no encoder of image is installed: pip install mmbench-vision'
    """
    if role == "encoder":
        if kind is None:
            return "no encoder plugin is installed: pip install mmbench-tabular, mmbench-vision, … or 'mmbench[all]'"
        return f"no encoder of {kind} is installed: pip install {PACKAGE_OF_KIND[kind]}"
    if role in PACKAGE_OF_ROLE:
        return f"no {role} plugin is installed: pip install {PACKAGE_OF_ROLE[role]}, or 'mmbench[base]'"
    return f"no {role} plugin is installed"
