"""`mmbench new`: writes a small, complete, installable plugin package from templates."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mmbench.errors import UsageError, did_you_mean

#: By kind, the parts that a new package brings.
PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "plugin": ("encoder", "fusion", "objective", "dataset"),
        "encoder": ("encoder",),
        "fusion": ("fusion",),
        "objective": ("objective",),
        "dataset": ("dataset",),
    }
)
_PREFIX = "mmbench-"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MAX_NAME = 40
_SPECS = {"encoder": "EncoderSpec", "fusion": "FusionSpec", "objective": "ObjectiveSpec", "dataset": "DatasetSpec"}
_WHAT = {"encoder": "An encoder", "fusion": "A fusion", "objective": "An objective", "dataset": "A dataset"}


def new(kind: str, name: str, folder: Path) -> list[Path]:
    """Write a package.

    Args:
        kind: "encoder", "fusion", "objective" or "dataset" for a package with one part, "plugin" for one of each.
        name: Of the part, as "low-rank"; the package is called "mmbench-low-rank", and a name given so means the same.
        folder: Where the package's folder is made.

    Returns:
        The files written, the package's folder first.

    Raises:
        UsageError: the kind is unknown, the name cannot be used, or there is something in the way.
    """
    if kind not in PARTS:
        raise UsageError(f"there is no template {kind!r}; there are {', '.join(PARTS)}.{did_you_mean(kind, PARTS)}")
    words = _words(kind, name)
    target = Path(folder) / words["dist"]
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{target} is there already; choose another name or remove it first")
    files = _render(words)
    _write(target, files)
    return [target, *(target / file for file in sorted(files))]


def _words(kind: str, name: str) -> dict[str, Any]:
    """Return everything that the templates fill in."""
    short = name.removeprefix(_PREFIX)
    if not _NAME.fullmatch(short) or len(short) > _MAX_NAME:
        better = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", short).lower()
        better = re.sub(r"[^a-z0-9]+", "-", better).strip("-0123456789")[:_MAX_NAME]
        hint = f" Did you mean {better!r}?" if better != short and _NAME.fullmatch(better) else ""
        raise UsageError(
            f"{name!r} cannot name a package: use at most {_MAX_NAME} lower-case letters, digits and single hyphens, "
            f"starting with a letter.{hint}"
        )
    dist = f"{_PREFIX}{short}"
    try:
        importlib.metadata.distribution(dist)
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        raise UsageError(f"a distribution {dist} is installed already; choose another name than {name!r}")
    parts = PARTS[kind]
    specs = {_SPECS[part] for part in parts} | ({"Modality", "TaskSpec"} if "dataset" in parts else set())
    heavy = any(part != "dataset" for part in parts)
    # `base` has no encoders: a package that brings none needs one for its README's commands to run.
    runs_with = ["mmbench[base]>=0.1", *([] if "encoder" in parts else ["mmbench-tabular>=0.1"])]
    return {
        "name": short,
        "dist": dist,
        "package": dist.replace("-", "_"),
        "identifier": short.replace("-", "_"),
        "stem": "".join(word.capitalize() for word in short.split("-")),
        "parts": parts,
        "imports": [*sorted(specs), "hookimpl"],
        "dependencies": [*runs_with, "numpy>=1.26", *(["torch>=2.9"] if heavy else [])],
        "what": "An encoder, a fusion, an objective and a dataset" if kind == "plugin" else f"{_WHAT[kind]}, {short},",
    }


def _render(words: Mapping[str, Any]) -> dict[str, str]:
    """Return the files of a package: content by path."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mmbench", "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the templates are Python, TOML and Markdown; every word was checked above
    )
    package = words["package"]
    templates = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".gitignore": "gitignore",
        ".github/workflows/ci.yml": "ci.yml",
        f"src/{package}/__init__.py": "init.py",
        f"tests/test_{package}_conformance.py": "test_conformance.py",
    }
    for part in words["parts"]:
        templates[f"src/{package}/{part}.py"] = f"{part}.py"
        templates[f"tests/test_{package}_{part}.py"] = f"test_{part}.py"
    files = {path: environment.get_template(f"{template}.j2").render(words) for path, template in templates.items()}
    return {**files, f"src/{package}/py.typed": ""}


def _write(target: Path, files: Mapping[str, str]) -> None:
    """Write all files or none: beside the target first, then moved there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        temporary.chmod(0o755)
        for path, content in files.items():
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            (temporary / path).write_text(content, encoding="utf-8")
        if target.exists():
            target.rmdir()  # an empty folder
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
