"""The plugins that come with mmbench keep the promises that it asks of everybody's."""

from __future__ import annotations

import pytest

from mmbench.testing import check

PACKAGES = ("audio", "benchmarks", "datasets", "objectives", "sequence", "tabular", "text", "video", "vision")


def broken(target, level):
    return [
        f"{result.subject}: {result.check}: {result.found}"
        for result in check(target, level=level)
        if result.status == "fail"
    ]


# Objectives train longest, and .ci/versions has all packages at level smoke.
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.full if name == "objectives" else pytest.mark.slow) for name in PACKAGES],
)
def test_a_first_party_package_conforms_at_level_full(name):
    assert broken(f"mmbench-{name}", "full") == []


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two minutes of one core; several times that where others compute beside it
def test_every_fusion_conforms_and_learns_what_it_claims():
    """Thirty fusions, each trained on every set that it says it solves or cannot solve: minutes."""
    assert broken("mmbench-fusion", "full") == []
