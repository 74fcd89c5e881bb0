"""Conformance checks for authors of plugins: `mmbench check` as functions, and tests that write themselves.

>>> from mmbench.testing import assert_conforms
>>> assert_conforms("mmbench-fusion/concat", level="api")
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from mmbench.spec import Role
from mmbench.testing.checks import CheckResult, Level

__all__ = [
    "CheckResult",
    "assert_conforms",
    "check",
    "check_dataset",
    "check_encoder",
    "check_fusion",
    "check_objective",
    "conformance_tests",
]


def check(
    target: str | os.PathLike[str], level: Level = "smoke", device: str = "cpu", *, only: tuple[Role, ...] = ()
) -> list[CheckResult]:
    """Run every check on everything that a target names.

    Args:
        target: A path to a package's folder or a .py file, an installed distribution, or a reference such as
            "gated", "mmbench-fusion/gated[fused_dim=32]" or "encoder:mmbench-vision/cnn".
        level: "api" imports no torch; "smoke" takes seconds; "full" adds variants, learning and torch.compile.
        device: Where modules are checked: "cpu", "cuda".
        only: Roles to look at; all by default.

    Raises:
        UsageError: the target or the level is unknown.
    """
    from mmbench.testing.suite import Suite

    return list(Suite(target, level, device, only).run())


def check_encoder(target: str | os.PathLike[str], level: Level = "smoke", device: str = "cpu") -> list[CheckResult]:
    """Check the encoders of a target; see `check`."""
    return check(target, level, device, only=("encoder",))


def check_fusion(target: str | os.PathLike[str], level: Level = "smoke", device: str = "cpu") -> list[CheckResult]:
    """Check the fusions of a target; see `check`."""
    return check(target, level, device, only=("fusion",))


def check_dataset(target: str | os.PathLike[str], level: Level = "smoke", device: str = "cpu") -> list[CheckResult]:
    """Check the datasets of a target; see `check`."""
    return check(target, level, device, only=("dataset",))


def check_objective(target: str | os.PathLike[str], level: Level = "smoke", device: str = "cpu") -> list[CheckResult]:
    """Check the objectives of a target; see `check`."""
    return check(target, level, device, only=("objective",))


def assert_conforms(target: str | os.PathLike[str], level: Level = "smoke", device: str = "cpu") -> None:
    """Raise an AssertionError that names every broken promise of a target, how it is broken and how to mend it."""
    failed = [result for result in check(target, level, device) if result.status == "fail"]
    if failed:
        raise AssertionError("\n\n".join(map(str, failed)))


def conformance_tests(
    target: str | os.PathLike[str], level: Level = "smoke", device: str = "cpu"
) -> Callable[..., Any]:
    """Return a pytest test that is one test for each check of each part of a target.

    ``test_conformance = conformance_tests("mmbench-gated")`` is the whole test file.
    """
    from mmbench.testing.pytest_plugin import conformance_tests as make

    return make(target, level, device)
