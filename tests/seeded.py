"""Plugin packages with one seeded fault each, written for the conformance checks to catch."""

from __future__ import annotations

import textwrap
from pathlib import Path

from mmbench.testing import CheckResult
from mmbench.testing.suite import Suite

PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.24"]
build-backend = "hatchling.build"
[project]
name = "{dist}"
version = "0.1.0"
license = "Apache-2.0"
requires-python = ">=3.11"
[project.entry-points.mmbench]
{package} = "{package}"
"""

HEAD = """\
import random, os, uuid, functools
from collections.abc import Mapping
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from mmbench import Features
"""


def write_package(folder: Path, name: str, *, light: str, code: str, pyproject: str = PYPROJECT) -> Path:
    """Write a package called `name` into `folder`: `light` is its entry point, `code` its module `parts`."""
    package = name.replace("-", "_")
    source = folder / name / "src" / package
    source.mkdir(parents=True)
    (folder / name / "pyproject.toml").write_text(pyproject.format(dist=name, package=package))
    (source / "__init__.py").write_text(textwrap.dedent(light).replace("PACKAGE", package))
    (source / "parts.py").write_text(HEAD + textwrap.dedent(code))
    return folder / name


def fusion_package(folder: Path, name: str, code: str, **facts: object) -> Path:
    """Write a package with one fusion, the class `Fusion` of `code`."""
    given = {"accepts": "vector", "missing": True, **facts}
    words = ", ".join(f"{key}={value!r}" for key, value in given.items())
    light = f"""
    from mmbench import FusionSpec, hookimpl

    @hookimpl
    def mmbench_fusions():
        return [FusionSpec(name="seeded", factory="PACKAGE.parts:Fusion", version="1", summary="A seeded fault", {words})]
    """
    return write_package(folder, name, light=light, code=code)


def encoder_package(folder: Path, name: str, code: str, **facts: object) -> Path:
    """Write a package with one encoder, the class `Encoder` of `code`."""
    given = {"kinds": ("sequence",), "layouts": ("vector",), **facts}
    words = ", ".join(f"{key}={value!r}" for key, value in given.items())
    light = f"""
    from mmbench import EncoderSpec, hookimpl

    @hookimpl
    def mmbench_encoders():
        return [EncoderSpec(name="seeded", factory="PACKAGE.parts:Encoder", version="1", summary="A seeded fault", {words})]
    """
    return write_package(folder, name, light=light, code=code)


def dataset_package(folder: Path, name: str, code: str, **facts: object) -> Path:
    """Write a package with one dataset, the function `open_set` of `code`."""
    words = ", ".join(f"{key}={value!r}" for key, value in facts.items())
    light = f"""
    from mmbench import DatasetSpec, Modality, TaskSpec, hookimpl

    @hookimpl
    def mmbench_datasets():
        return [
            DatasetSpec(
                name="seeded", factory="PACKAGE.parts:open_set", version="1", summary="A seeded fault",
                modalities=(Modality(name="table", kind="tabular"), Modality(name="words", kind="text")),
                tasks=(TaskSpec(name="label", kind="multiclass", num_outputs=3),), {words}
            )
        ]
    """
    return write_package(folder, name, light=light, code=code)


def failures(folder: Path, level: str = "smoke") -> dict[str, CheckResult]:
    """Check the parts of a package; return what failed, by the check's name."""
    suite = Suite(folder, level)  # type: ignore[arg-type]
    assert suite.target.parts, [loaded.info.reason for plugin in suite.target.plugins for loaded in plugin.loaded]
    results = [suite.result(item) for item in suite.items if item.check.owner != "plugin"]
    return {result.check: result for result in results if result.status == "fail"}
