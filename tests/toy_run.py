"""A run of toy cells as a command, to be killed at any moment: ``python toy_run.py FOLDER NUM_CELLS JOBS SLEEP_S``."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from mmbench.executors.local import LocalExecutor
from mmbench.runner import run
from mmbench.store import RunStore


@dataclass(frozen=True)
class ToyCell:
    n: int
    do: str = "square"
    status: str = "run"
    reason: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cell_id(self) -> str:
        return hashlib.sha256(str(self.n).encode()).hexdigest()[:16]

    def row(self) -> dict[str, Any]:
        return {"cell_id": self.cell_id, "status": self.status, "reason": self.reason}

    def payload(self) -> dict[str, Any]:
        return {"n": self.n, "do": self.do, **self.more}


def toy_cells(num_cells: int, sleep_s: float = 0.0) -> Iterator[ToyCell]:
    """Cells of which every fifth fails."""
    for n in range(num_cells):
        yield ToyCell(n, "raises" if n % 5 == 4 else "square", more={"sleep_s": sleep_s})


def main(folder: str, num_cells: str, jobs: str, sleep_s: str) -> int:
    cells = list(toy_cells(int(num_cells), float(sleep_s)))
    with RunStore.create(Path(folder)) as store, LocalExecutor(int(jobs), preload=()) as executor:
        store.write_plan(cell.row() for cell in cells)
        summary = run(cells, store, executor, function="hostile_cells:by_number")
    sys.stdout.write(f"{summary.num_launched} launched, {dict(sorted(summary.counts.items()))}\n")
    return 128 + summary.signum if summary.signum else int(summary.num_failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
