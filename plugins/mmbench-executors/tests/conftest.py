"""What tests of executors need of the machine: a SLURM, a small disk, another version of a plugin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster
from mmbench_executors import slurm as slurm_module
from own_disk import mounted
from slurm_bench import CELLS, Bench


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Return the variables that make the commands of a SLURM talk to one that runs for these tests."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'mmbench-executors[slurm]'")
    if slurm_cluster.why_not():
        pytest.skip(slurm_cluster.why_not())
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm") / "cluster") as variables:
        yield variables


@pytest.fixture
def bench(slurm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "slurm_cells.py").write_text(CELLS)
    monkeypatch.syspath_prepend(tmp_path / "code")
    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    monkeypatch.setattr(slurm_module, "LAG_S", 2.0)
    return Bench(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of one MiB."""
    with mounted(tmp_path / "disk", "1m") as disk:
        yield disk


@pytest.fixture
def fusions_9_9(tmp_path: Path) -> Path:
    """Return a folder that makes mmbench-fusion of version 9.9 of what is installed when it is on the path."""
    made = tmp_path / "elsewhere" / "mmbench_fusion-9.9.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: mmbench-fusion\nVersion: 9.9\n")
    (made / "entry_points.txt").write_text("[mmbench]\nfusion = mmbench_fusion\n")
    return made.parent
