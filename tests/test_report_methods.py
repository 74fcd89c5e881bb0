"""Fusions over datasets, on scores made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from mmbench.record import Metric, Record
from mmbench.report.assembly import assemble
from mmbench.report.intervals import Undefined
from mmbench.report.markdown import critical_words, render_markdown
from mmbench.report.methods import ONE_MODALITY, Across, across_datasets
from mmbench.report.outcomes import outcomes

DUO = "image:cnn+text:lstm"


class Run:
    def __init__(self) -> None:
        self.planned: list[dict[str, Any]] = []
        self.records: dict[str, Record] = {}
        self.tasks: dict[str, dict[str, Any]] = {}

    def add(
        self,
        dataset: str,
        fusion: str,
        score: float | None,
        *,
        encoders: str = DUO,
        val: float | None = None,
        seed: int = 0,
        direction: str = "max",
    ) -> None:
        cell_id = f"{len(self.planned):016x}"
        kind, name = ("regression", "mae") if direction == "min" else ("multiclass", "accuracy")
        self.tasks[dataset] = {"name": "t", "kind": kind, "num_outputs": 2, "primary": ""}
        self.planned.append(
            {
                "cell_id": cell_id,
                "dataset": dataset,
                "encoders": "" if fusion == "majority" else encoders,
                "fusion": fusion,
                "objective": "" if fusion == "majority" else "supervised",
                "seed": seed,
                "role": "cell",
                "status": "run",
                "reason": "",
            }
        )
        if score is None:
            self.records[cell_id] = Record(cell_id=cell_id, status="failed", reason="no")
            return
        common: dict[str, Any] = {"phase": "evaluate", "task": "t", "name": name, "direction": direction}
        metrics = (
            Metric(split="test", value=score, **common),
            Metric(split="val", value=score if val is None else val, **common),
        )
        self.records[cell_id] = Record(cell_id=cell_id, status="ok", metrics=metrics)

    def across(self) -> Across | None:
        return across_datasets(self.report())

    def report(self) -> Any:
        datasets = {name: {"tasks": [task]} for name, task in self.tasks.items()}
        return assemble("r1", outcomes(self.planned, self.records), datasets, {})


def test_scores_run_from_the_floor_to_the_best_in_both_directions() -> None:
    run = Run()
    for name, floor, gated, single, direction in (("a", 0.2, 0.7, 0.45, "max"), ("b", 4.0, 2.0, 3.5, "min")):
        run.add(name, "majority", floor, direction=direction)
        run.add(name, "gated", gated, direction=direction)
        run.add(name, "single", single, encoders="image:cnn", direction=direction)

    found = run.across()

    assert found is not None
    assert found.datasets == ("a", "b")
    assert [(item.name, item.mean_rank, item.win_rate) for item in found.methods] == [
        ("gated", 1.0, 1.0),
        (ONE_MODALITY, 2.0, 0.0),
    ]
    assert found.methods[0].scores == (1.0, 1.0)
    assert found.methods[1].scores == (pytest.approx(0.5), pytest.approx(0.25))


def test_a_method_stands_for_the_row_that_val_would_choose() -> None:
    run = Run()
    for name in ("a", "b"):
        run.add(name, "majority", 0.0)
        run.add(name, "gated", 0.9, encoders="image:cnn+text:x", val=0.5)
        run.add(name, "gated", 0.6, encoders="image:cnn+text:y", val=0.8)
        run.add(name, "concat", 0.8)

    found = run.across()

    assert found is not None
    scores = {item.name: item.scores[0] for item in found.methods}
    assert scores == {"gated": pytest.approx(0.6 / 0.9), "concat": pytest.approx(0.8 / 0.9)}
    assert found.methods[0].name == "concat"


def test_a_missing_cell_takes_a_method_out_of_the_ranks_and_moves_nobody_elses() -> None:
    def made(*, broken: bool) -> Across:
        run = Run()
        for name in ("a", "b"):
            run.add(name, "majority", 0.0)
            run.add(name, "gated", 0.9)
            run.add(name, "concat", 0.8)
            if broken:
                run.add(name, "lucky", None if name == "a" else 0.85)
        found = run.across()
        assert found is not None
        return found

    whole, broken = made(broken=False), made(broken=True)

    assert broken.methods[:2] == whole.methods
    lucky = broken.methods[2]
    assert (lucky.name, lucky.scores[0], lucky.mean_rank, lucky.win_rate, lucky.iqm) == (
        "lucky",
        None,
        None,
        None,
        None,
    )
    assert lucky.num_datasets == 1


def test_few_datasets_have_no_critical_difference_and_one_has_no_comparison() -> None:
    run = Run()
    run.add("a", "majority", 0.0)
    run.add("a", "gated", 0.9)
    assert run.across() is None

    run.add("b", "majority", 0.0)
    run.add("b", "gated", 0.9)
    run.add("c", "gated", 0.9)
    found = run.across()

    assert found is not None
    assert found.left_out == ("c",)
    assert isinstance(found.critical, Undefined)
    assert critical_words(found).startswith("No critical-difference diagram: ")


def test_six_complete_datasets_have_ranks_with_a_critical_difference() -> None:
    run = Run()
    for at in range(6):
        name = f"d{at}"
        run.add(name, "majority", 0.0)
        for place, fusion in enumerate(("gated", "concat", "sum", "max")):
            for seed in range(2):
                run.add(name, fusion, 0.9 - 0.1 * place + seed / 1000, seed=seed)

    found = run.across()

    assert found is not None
    assert not isinstance(found.critical, Undefined)
    assert [item.mean_rank for item in found.methods] == [1.0, 2.0, 3.0, 4.0]
    # Demšar 2006, table 5: q = 2.569 for four methods; CD = q sqrt(k (k + 1) / (6 N)).
    assert found.critical.critical_difference == pytest.approx(2.569 * (4 * 5 / 36) ** 0.5, abs=1e-3)
    text = render_markdown(run.report())
    assert "## Across datasets" in text
    assert "| gated | 1.00 | 1.00 |" in text
    assert "are not told apart (Nemenyi, 5 %): gated, concat; concat, sum; sum, max." in text
