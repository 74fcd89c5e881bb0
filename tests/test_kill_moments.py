"""Processes of a run are killed at random moments: the same command completes it, and its export is the same.

`kill_moments.py` does it two hundred times.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from kill_moments import kill_at_random
from own_disk import mounted


@pytest.mark.slow
def test_a_run_killed_at_10_random_moments_exports_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))

    tally = kill_at_random(tmp_path / "runs", 10, seed=2)

    assert tally.kills.total() == 10
    assert tally.num_runs >= 1


@pytest.mark.slow
def test_a_run_killed_at_10_random_moments_while_its_disk_fills_exports_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMBENCH_CACHE", str(tmp_path / "cache"))

    with mounted(tmp_path / "disk", "3m") as disk:
        tally = kill_at_random(tmp_path / "runs", 10, seed=3, disk=disk)

    assert tally.kills.total() == 10
    assert tally.num_refused >= 1
