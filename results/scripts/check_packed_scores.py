"""Compare a run with itself once by its predictions and once by the report's packed scores: the p-values must agree.

``python results/scripts/check_packed_scores.py RUN ...``, for runs that still have their predictions under ``cells/``.
Each row of RUN is tested against the row of its copy that is best on val, as `mmbench compare RUN --against` does.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from mmbench.report.published import PublishedComparison, compare_with_published
from mmbench.store import RunStore


def main(folders: list[Path]) -> int:
    print("| run | tasks | rows tested | p-values below 0.05 | largest difference of p-values | equal groups |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    worst = 0.0
    for folder in folders:
        with tempfile.TemporaryDirectory() as temporary:
            whole, packed = Path(temporary) / "whole", Path(temporary) / "packed"
            shutil.copytree(folder, whole)
            shutil.copytree(folder, packed, ignore=shutil.ignore_patterns("cells", "models"))
            by_predictions, by_packed = (
                compare_with_published(RunStore.open(folder), RunStore.open(other)) for other in (whole, packed)
            )
        one, other = p_values(by_predictions), p_values(by_packed)
        if not one or one.keys() != other.keys():
            raise SystemExit(f"{folder}: the two comparisons test different rows, or none")
        difference = max(abs(one[row] - other[row]) for row in one)
        same = groups(by_predictions) == groups(by_packed)
        significant = sum(value < 0.05 for value in other.values())
        print(
            f"| {folder.name} | {len(by_packed.boards)} | {len(one)} | {significant} | {difference:.1e} | "
            f"{'yes' if same else 'no'} |"
        )
        worst = max(worst, difference if same else 1.0)
    return int(worst > 1e-6)


def p_values(made: PublishedComparison) -> dict[tuple[str, str, int], float]:
    return {
        (joint.board.dataset, joint.board.task, place): compared.p_value
        for joint in made.boards
        for place, compared in joint.against.items()
    }


def groups(made: PublishedComparison) -> list[list[int | None]]:
    return [[row.group for row in joint.board.rows] for joint in made.boards]


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[1:]]))
