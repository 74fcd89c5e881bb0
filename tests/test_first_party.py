"""The plugins that come with mmbench keep the promises that it asks of everybody's."""

from __future__ import annotations

import pytest

from mmbench.testing import check

FULL = ("audio", "datasets", "objectives", "sequence", "tabular", "text", "vision")


def broken(target, level):
    return [f"{result.subject}: {result.check}" for result in check(target, level=level) if result.status == "fail"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_a_first_party_package_conforms_at_level_full(name):
    assert broken(f"mmbench-{name}", "full") == []


@pytest.mark.slow
def test_the_fusions_conform_at_level_smoke():
    """Level full trains each of thirty fusions on every set that it claims to solve: minutes, by hand."""
    assert broken("mmbench-fusion", "smoke") == []
