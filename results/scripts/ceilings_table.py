"""Write the run `ceilings` as one table: every fusion on every set, beside what the best possible model reaches.

    python results/scripts/ceilings_table.py results/ceilings > results/ceilings/table.md

A cell is the mean over seeds, with the lowest seed where it lies more than 0.02 below. "!" marks a fusion that declares
to solve the set and whose mean stays below 0.95 of the ceiling, "x" one that declares that it cannot; exit code 1 when
any has a "!".
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from pathlib import Path

from mmbench.registry import load_registry
from mmbench.store import RunStore

ENOUGH = 0.95


def main(folder: Path) -> int:
    store = RunStore.open(folder)
    records = store.records()
    registry = load_registry()
    scores: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in store.planned():
        record = records.get(row["cell_id"])
        if record is None or row["fusion"] in ("", "single", "majority"):
            continue
        wanted = ("evaluate", "test", "clean", "accuracy")
        named = (m.value for m in record.metrics if (m.phase, m.split, m.condition, m.name) == wanted)
        value = next(named, None)
        scores[row["fusion"], row["dataset"]][row["encoders"]].append(-1.0 if value is None else value)
    sets = sorted({name for _, name in scores})
    ceilings = {name: registry.resolve("dataset", name).entry.spec.ceilings for name in sets}
    best = {name: max(known.values()) for name, known in ceilings.items()}
    print("| fusion | " + " | ".join(sets) + " |")
    print("| --- |" + " ---: |" * len(sets))
    print("| **ceiling** | " + " | ".join(f"**{best[name]:.3f}**" for name in sets) + " |")
    failed = 0
    for fusion in sorted({fusion for fusion, _ in scores}):
        spec = registry.resolve("fusion", fusion).entry.spec
        cells = []
        for name in sets:
            found = scores.get((fusion, name))
            if not found:
                cells.append("–")
                continue
            # The encoders that serve this fusion best on average: tables as one vector, or as columns.
            seeds = max(found.values(), key=statistics.mean)
            mean, lowest = statistics.mean(seeds), min(seeds)
            short = name in spec.solves and mean < ENOUGH * best[name]
            failed += short
            mark = " !" if short else " x" if name in spec.cannot_solve else ""
            low = f" ({lowest:.3f})" if mean - lowest > 0.02 else ""
            cells.append(f"{mean:.3f}{low}{mark}")
        print(f"| {fusion} | " + " | ".join(cells) + " |")
    print(f"\n{failed} of the fusions that should solve a set stay below {ENOUGH} of its ceiling.")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
