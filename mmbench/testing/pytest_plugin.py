"""The pytest plugin: one test for each check of each part; imports nothing heavy before a test file asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mmbench.testing.suite import Item, Suite

_MARKER = "mmbench_conformance"
_FIXTURE = "mmbench_check"


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(target, level='smoke', device='cpu'): run once for each conformance check of a plugin; "
        f"the test takes the fixture {_FIXTURE} and calls it",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a marked test one instance for each check."""
    marker = metafunc.definition.get_closest_marker(_MARKER)
    if marker is not None and _FIXTURE in metafunc.fixturenames:
        from mmbench.testing.suite import Suite

        metafunc.parametrize(_FIXTURE, _parameters(Suite(*marker.args, **marker.kwargs)))


def conformance_tests(target: str | os.PathLike[str], level: str, device: str) -> Callable[..., Any]:
    """See `mmbench.testing.conformance_tests`."""
    from mmbench.testing.suite import Suite

    suite = Suite(target, level, device)  # type: ignore[arg-type]

    @pytest.mark.parametrize(_FIXTURE, _parameters(suite))
    def test_conformance(mmbench_check: Callable[[], None]) -> None:
        mmbench_check()

    return test_conformance  # type: ignore[no-any-return]


class Checker:
    """What a test calls: fails with the check's finding, skips with its reason."""

    def __init__(self, suite: Suite, item: Item) -> None:
        self.suite, self.item = suite, item

    def __call__(self) -> None:
        result = self.suite.result(self.item)
        if result.status == "fail":
            pytest.fail(str(result), pytrace=False)
        if result.status == "skip":
            pytest.skip(result.found)


def _parameters(suite: Suite) -> list[Any]:
    return [
        pytest.param(Checker(suite, item), id=f"{item.name.rpartition('/')[2]}-{item.check.name}")
        for item in suite.items
    ]
