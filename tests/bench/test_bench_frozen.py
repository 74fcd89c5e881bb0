"""A grid over frozen encoders against the naive way, in which each cell encodes for itself; same machine, same run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from mmbench.config import load_config
from mmbench.executors.local import LocalExecutor
from mmbench.plan import Plan, local_runtime, make_plan
from mmbench.registry import load_registry
from mmbench.runner import Summary, run
from mmbench.store import RunStore

WEIGHTS = Path(__file__).parents[2].parent / "shared" / "weights" / "tf_efficientnet_lite0"
NUM_SEEDS = 5
#: Naive cells that are measured; the whole naive grid takes as much time for each of its cells.
NUM_NAIVE = 2
FUSIONS = (
    "concat", "sum", "mean", "product", "max", "gated", "attention", "film", "low-rank-tensor", "decision-average",
)  # fmt: skip
#: What one more doubling may add while encoding is most of the work.
MAX_GROWTH = 0.15
DOUBLINGS = 4


def planned(folder: Path, fusions: tuple[str, ...], seeds: str) -> Plan:
    config = load_config(
        {
            "dataset": ["digits"],
            "modality": ["image", "text"],
            "encoder": [f"image=timm/local-dir:{WEIGHTS}[tuning=frozen]", "text=bag-of-embeddings"],
            "fusion": list(fusions),
            "seeds": seeds,
            "device": "cpu",
            "baselines": False,
        }
    )
    runtime = local_runtime(config, cache=folder / "cache", data=folder / "data", jobs=1)
    return make_plan(config, load_registry(), runtime=runtime)


class Started:
    """The cells of a plan, each told to keep what it makes in a folder of its own."""

    def __init__(self, plan: Plan, cache: Path) -> None:
        self.plan, self.cache = plan, cache

    def __iter__(self) -> Iterator[Any]:
        for number, cell in enumerate(self.plan.cells()):
            payload = {**cell.payload(), "cache_dir": str(self.cache / str(number))}
            yield _Cell(cell.cell_id, cell.status, cell.reason, payload)


class _Cell:
    def __init__(self, cell_id: str, status: str, reason: str, payload: Mapping[str, Any]) -> None:
        self.cell_id, self.status, self.reason, self._payload = cell_id, status, reason, payload

    def payload(self) -> Mapping[str, Any]:
        return self._payload


def timed_run(cells: Any, folder: Path) -> tuple[float, dict[str, float]]:
    """Run cells one after another; return seconds, and the loss on test by cell."""
    with RunStore.create(folder) as store, LocalExecutor(1) as executor:
        began = time.perf_counter()
        summary: Summary = run(cells, store, executor)
        taken = time.perf_counter() - began
        records = store.records()
    assert summary.counts == {"ok": len(records)}, summary
    found = {}
    for cell_id, record in records.items():
        for metric in record.metrics:
            if metric.name == "log_loss" and metric.split == "test" and metric.condition == "clean":
                found[cell_id] = metric.value
    return taken, found


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason=f"the weights {WEIGHTS} are not there")
def test_a_grid_over_a_frozen_encoder_takes_a_tenth_of_the_naive_time(benchmark: Any, tmp_path: Path) -> None:
    if not benchmark.enabled:
        pytest.skip("takes minutes; runs with --benchmark-enable")
    grid = planned(tmp_path / "shared", FUSIONS, str(NUM_SEEDS))
    num_cells = grid.count()["cells"]
    assert num_cells == len(FUSIONS) * NUM_SEEDS
    # Digits are synthesised once for everybody: what is compared is encoding.
    warm = planned(tmp_path / "shared", ("concat",), "1")
    naive = planned(tmp_path / "shared", FUSIONS[:NUM_NAIVE], "1")
    data = tmp_path / "shared" / "data"
    timed_run(Started(warm, tmp_path / "warm"), tmp_path / "warm-run")
    assert data.is_dir()

    naive_s, naive_losses = timed_run(Started(naive, tmp_path / "naive"), tmp_path / "naive-run")

    def whole_grid() -> tuple[float, dict[str, float]]:
        return timed_run(grid.cells(), tmp_path / "grid-run")

    grid_s, losses = benchmark.pedantic(whole_grid, rounds=1)
    ratio = naive_s / NUM_NAIVE * num_cells / grid_s
    benchmark.extra_info.update(
        num_cells=num_cells, grid_s=grid_s, naive_cell_s=naive_s / NUM_NAIVE, naive_over_grid=ratio
    )
    print(f"\n{num_cells} cells in {grid_s:.1f} s; naive {naive_s / NUM_NAIVE:.1f} s a cell: {ratio:.1f} times")  # noqa: T201
    for cell_id, loss in naive_losses.items():
        assert losses[cell_id] == pytest.approx(loss, abs=1e-5)
    assert ratio >= 10


def processor_time_of_cells() -> float:
    """Processor time of all cells that have ended, which the fork server (the one child of this process) has reaped."""
    total = 0.0
    for server in psutil.Process().children():
        times = server.cpu_times()
        total += times.children_user + times.children_system
    return total


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason=f"the weights {WEIGHTS} are not there")
@pytest.mark.parametrize("axis", ["fusions", "seeds"])
def test_twice_as_many_cells_over_a_frozen_encoder_cost_little_more_while_it_encodes(
    benchmark: Any, tmp_path: Path, axis: str
) -> None:
    if not benchmark.enabled:
        pytest.skip("takes a minute; runs with --benchmark-enable")
    most = 2 ** (DOUBLINGS - 1)
    fusions, seeds = (FUSIONS[:most], "1") if axis == "fusions" else (("concat",), str(most))
    cells = list(planned(tmp_path, fusions, seeds).cells())
    assert len(cells) == most
    # The speech is synthesised and the text transformed beforehand: what is shared here is encoding alone.
    other = planned(tmp_path, (FUSIONS[-1],), "1")
    timed_run(Started(other, tmp_path / "other"), tmp_path / "other-run")

    totals = []
    began = time.perf_counter()
    with RunStore.create(tmp_path / "run") as store, LocalExecutor(1) as executor:
        for step in range(DOUBLINGS):
            assert run(cells[: 2**step], store, executor).counts == {"ok": 2**step}
            totals.append(processor_time_of_cells())
        records = store.records().values()
    wall = time.perf_counter() - began
    training = sum(record.info["times_s"]["train_and_evaluate"] for record in records)

    growths = [later / earlier - 1 for earlier, later in itertools.pairwise(totals)]
    words = ", ".join(f"{2**step} to {2 ** (step + 1)} {axis} {growth:+.1%}" for step, growth in enumerate(growths))
    print(f"\nprocessor time: {words}; of {wall:.1f} s on the wall, training took {training:.1f} s")  # noqa: T201
    benchmark.extra_info.update(totals_s=totals[1:], growths=growths, wall_s=wall)
    benchmark.pedantic(lambda: None, rounds=1)
    assert max(growths) < MAX_GROWTH
