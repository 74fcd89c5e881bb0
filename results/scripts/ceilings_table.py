"""Write the runs of ceilings.sh as one table: every fusion on every set, beside what the best possible model reaches.

    python results/scripts/ceilings_table.py results/ceilings results/ceilings-long > results/ceilings/table.md

A cell is the mean over seeds, with the lowest seed where it lies more than 0.02 below. "+" marks one of the second run,
which trains longer what the first has no time for. "!" marks a fusion that declares to solve the set and whose mean
stays below 0.95 of the ceiling, "x" one that declares that it cannot; exit code 1 when any has a "!".
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import TypeAlias

from mmbench.registry import load_registry
from mmbench.store import RunStore

ENOUGH = 0.95


Scores: TypeAlias = dict[tuple[str, str], dict[str, list[float]]]


def main(folder: Path, longer: Path) -> int:
    registry = load_registry()
    scores, trained_longer = scores_of(folder), scores_of(longer)
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
            seeds, plus = max(found.values(), key=statistics.mean), ""
            if (fusion, name) in trained_longer:
                seeds, plus = max(trained_longer[fusion, name].values(), key=statistics.mean), " +"
            mean, lowest = statistics.mean(seeds), min(seeds)
            short = name in spec.solves and mean < ENOUGH * best[name]
            failed += short
            mark = " !" if short else " x" if name in spec.cannot_solve else ""
            low = f" ({lowest:.3f})" if mean - lowest > 0.02 else ""
            cells.append(f"{mean:.3f}{low}{plus}{mark}")
        print(f"| {fusion} | " + " | ".join(cells) + " |")
    print(f"\n{failed} of the fusions that should solve a set stay below {ENOUGH} of its ceiling.")
    print("+ trained for 60 epochs without stopping early, where the set's 20 find the way from some starts only:")
    print(
        "; ".join(
            f"{fusion} {short_of(scores[fusion, name])} of {name} in 20" for fusion, name in sorted(trained_longer)
        )
    )
    return int(failed > 0)


def scores_of(folder: Path) -> Scores:
    """Return test accuracy by (fusion, set), encoders and seed; -1 where a cell has none."""
    store = RunStore.open(folder)
    records = store.records()
    scores: Scores = defaultdict(lambda: defaultdict(list))
    for row in store.planned():
        record = records.get(row["cell_id"])
        if record is None or row["fusion"] in ("", "single", "majority"):
            continue
        wanted = ("evaluate", "test", "clean", "accuracy")
        named = (m.value for m in record.metrics if (m.phase, m.split, m.condition, m.name) == wanted)
        value = next(named, None)
        scores[row["fusion"], row["dataset"]][row["encoders"]].append(-1.0 if value is None else value)
    return scores


def short_of(found: dict[str, list[float]]) -> str:
    seeds = max(found.values(), key=statistics.mean)
    return f"{statistics.mean(seeds):.3f}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
