"""Ensembles from kept predictions: means, greedy choice on val and paired tests, on numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.stats import binomtest
from typer.testing import CliRunner

from mmbench.cli import app
from mmbench.record import Metric, Record
from mmbench.report import ensemble as module
from mmbench.report.assembly import build_report
from mmbench.report.ensemble import Ensembles, choose_greedily, ensembles_of
from mmbench.report.tables import Board
from mmbench.store import RunStore

Floats = NDArray[np.float64]
TASK = {"name": "digit", "kind": "multiclass", "num_outputs": 2, "class_names": [], "primary": ""}


class Folder:
    """A run of a two-class task whose rows are given by the probability of class 1 on val and test."""

    def __init__(self, path: Path, val: list[int], test: list[int], task: dict[str, Any] | None = None) -> None:
        self.path = path
        self.target = {"val": np.array(val), "test": np.array(test)}
        self.task = task or TASK
        self.rows: list[dict[str, Any]] = []
        self.records: list[Record] = []

    def add(self, fusion: str, val: Any, test: Any, *, seed: int = 0, turned: bool = False, keep: bool = True) -> None:
        cell_id = f"{len(self.rows):016x}"
        names = {"cell_id": cell_id, "dataset": "digits", "encoders": "image:cnn+text:gru", "fusion": fusion}
        facts = {"objective": "supervised", "seed": seed, "role": "cell", "status": "run", "reason": ""}
        self.rows.append({**names, **facts})
        folder = self.path / "cells" / cell_id
        folder.mkdir(parents=True)
        kept: dict[str, Any] = {}
        for split, given in (("val", val), ("test", test)):
            ids = [f"{split}{at}" for at in range(len(given))]
            order = np.arange(len(given))[:: -1 if turned else 1]
            ones = np.asarray(given, dtype=np.float32)
            kept[f"{split}.digit.prediction"] = np.ascontiguousarray(np.stack([1 - ones, ones], axis=1)[order])
            kept[f"{split}.digit.target"] = np.ascontiguousarray(self.target[split][order])
            kept[f"{split}.sample_ids"] = np.frombuffer(json.dumps([ids[at] for at in order]).encode(), dtype=np.uint8)
        if keep:
            save_file(kept, folder / "predictions.safetensors")
        score = float(np.mean((np.asarray(test) > 0.5) == self.target["test"]))
        metric = Metric(
            phase="evaluate", split="test", task="digit", name="accuracy", value=score, n=len(test), direction="max"
        )
        self.records.append(Record(cell_id=cell_id, status="ok", metrics=(metric,)))

    def write(self) -> Path:
        with RunStore.create(self.path) as store:
            store.write_plan(self.rows, {"digits": {"tasks": [self.task]}})
            for record in self.records:
                store.journal.append(record)
        return self.path

    def made(self) -> Ensembles:
        return ensembles_of(self.write())[0]

    def board(self) -> Board:
        return build_report(self.write()).boards[0]


def test_the_ensemble_of_a_combos_seeds_is_the_mean_of_their_predictions(tmp_path: Path) -> None:
    run = Folder(tmp_path / "r", val=[1, 0, 1, 0], test=[1, 1, 0, 0])
    # Right on 3, 2 and 1 of 4; the means 0.57, 0.63, 0.47 and 0.43 are right on all four.
    run.add("concat", [0.9, 0.1, 0.9, 0.1], [0.9, 0.9, 0.6, 0.2], seed=0)
    run.add("concat", [0.9, 0.1, 0.9, 0.1], [0.4, 0.6, 0.6, 0.3], seed=1)
    run.add("concat", [0.9, 0.1, 0.9, 0.1], [0.4, 0.4, 0.2, 0.8], seed=2, turned=True)

    made = run.made()

    (seeds,) = made.seeds
    assert seeds.seeds == (0, 1, 2)
    assert seeds.single == pytest.approx((0.75 + 0.5 + 0.25) / 3)
    assert seeds.tested.score == 1.0
    assert seeds.tested.change == pytest.approx(0.5)
    assert made.best_score == pytest.approx(0.5)
    scores = np.array([[1, 1, 0, 1], [0, 1, 0, 1], [0, 0, 1, 0]], dtype=float)
    by_sample = (1.0 - scores).mean(axis=0)
    alone = scipy.stats.ttest_1samp(by_sample, 0.0)  # the samples' part; three seeds can only add to it
    assert seeds.tested.low is not None
    assert seeds.tested.low <= alone.confidence_interval(0.95).low + 1e-9
    assert seeds.tested.p_value is not None
    assert seeds.tested.p_value >= alone.pvalue


def test_greedy_selection_starts_with_the_best_adds_what_helps_most_and_takes_the_shortest(tmp_path: Path) -> None:
    run = Folder(tmp_path / "r", val=[1, 1, 1, 1, 0, 0], test=[1, 0])
    run.add("a", [0.9, 0.9, 0.9, 0.4, 0.6, 0.1], [0.9, 0.1])  # 4 of 6
    run.add("b", [0.4, 0.4, 0.4, 0.9, 0.1, 0.1], [0.9, 0.1])  # 3 of 6, but mends what a gets wrong
    run.add("c", [0.9, 0.9, 0.4, 0.4, 0.6, 0.6], [0.9, 0.1])  # 2 of 6

    made = run.made()

    # (a + b) / 2 = 0.65, 0.65, 0.65, 0.65, 0.35, 0.1: all right, and no third cell could do better.
    assert made.greedy is not None
    assert made.greedy.val == 1.0
    assert [(member.fusion, member.weight) for member in made.greedy.members] == [("a", 0.5), ("b", 0.5)]
    assert made.greedy.num_candidates == 3


def test_greedy_selection_may_count_a_cell_twice(tmp_path: Path) -> None:
    board = Folder(tmp_path / "r", val=[1], test=[1])
    board.add("a", [0.9], [0.9])
    strong = np.array([[0.45, 0.55], [0.45, 0.55], [0.52, 0.48], [0.9, 0.1]])
    weak = np.array([[0.55, 0.45], [0.56, 0.44], [0.46, 0.54], [0.9, 0.1]])
    target = np.array([1.0, 1.0, 1.0, 0.0])

    # strong: 3 of 4; strong + weak: the third is 0.51 for class 1, the first two tie at 0.5 and 0.495: 2 of 4.
    # Twice strong + weak: 0.517, 0.513, 0.5: exactly between, argmax takes class 0. Three of 4 stays the best.
    chosen, val = choose_greedily([strong, weak], target, board.board())
    assert (chosen, val) == ([0], 0.75)
    # Where the third leans further, two of strong and one of weak are right everywhere.
    weak[2] = [0.4, 0.6]
    chosen, val = choose_greedily([strong, weak], target, board.board())
    assert (sorted(chosen), val) == ([0, 0, 1], 1.0)


def by_hand(candidates: list[Floats], target: Floats, rounds: int) -> tuple[list[int], float]:
    """Greedy selection again, in plain loops over samples."""
    chosen: list[int] = []
    best: tuple[list[int], float] = ([], -1.0)
    for _ in range(rounds):
        scores = []
        for added in range(len(candidates)):
            right = 0
            for sample in range(len(target)):
                votes = [candidates[place][sample] for place in [*chosen, added]]
                mean = [sum(vote[k] for vote in votes) / len(votes) for k in range(len(votes[0]))]
                right += mean.index(max(mean)) == target[sample]
            scores.append(right / len(target))
        chosen.append(scores.index(max(scores)))
        if max(scores) > best[1]:
            best = (list(chosen), max(scores))
    return best


def test_greedy_selection_equals_plain_loops_on_random_predictions(tmp_path: Path) -> None:
    run = Folder(tmp_path / "r", val=[1], test=[1])
    run.add("a", [0.9], [0.9])
    board = run.board()
    for seed in range(5):
        rng = np.random.default_rng(seed)
        target = rng.integers(0, 3, size=30).astype(float)
        candidates = [rng.dirichlet(np.ones(3), size=30) for _ in range(6)]

        chosen, val = choose_greedily(candidates, target, board, max_rounds=8)

        expected, score = by_hand(candidates, target, 8)
        assert chosen == expected
        assert val == pytest.approx(score)


def test_test_is_scored_once_with_what_val_chose_and_tested_by_mcnemar_against_the_best_row(tmp_path: Path) -> None:
    target = [1] * 20
    run = Folder(tmp_path / "r", val=[1, 1, 1, 1], test=target)
    one = np.full(20, 0.9)
    one[:9] = 0.4  # 11 of 20
    other = np.full(20, 0.9)
    other[9:19] = 0.2  # 10 of 20; the mean is 0.65 on the first nine and 0.55 on the others
    run.add("a", [0.9, 0.9, 0.9, 0.4], one)
    run.add("b", [0.4, 0.4, 0.4, 0.9], other)

    made = run.made()

    assert made.best == "image:cnn+text:gru a supervised"
    assert made.greedy is not None
    tested = made.greedy.tested
    assert (tested.score, tested.change) == (1.0, pytest.approx(0.45))
    assert tested.test == "exact McNemar"
    assert tested.p_value == pytest.approx(binomtest(9, 9).pvalue)


def test_holm_counts_all_ensembles_of_a_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Folder(tmp_path / "r", val=[1, 0], test=[1, 0])
    for fusion in ("a", "b"):
        for seed in (0, 1):
            run.add(fusion, [0.9, 0.1], [0.9, 0.1], seed=seed)
    seen: list[list[float]] = []

    def adjusted(values: list[float]) -> Floats:
        seen.append(values)
        return np.array([0.1, 0.2, 0.3])

    monkeypatch.setattr(module, "holm", adjusted)

    made = run.made()

    assert len(seen[0]) == 3
    assert made.greedy is not None
    assert [item.tested.p_value for item in (*made.seeds, made.greedy)] == [0.1, 0.2, 0.3]


def test_cells_without_predictions_or_with_other_samples_are_left_out_with_the_reason(tmp_path: Path) -> None:
    run = Folder(tmp_path / "r", val=[1, 0], test=[1, 0])
    run.add("a", [0.9, 0.1], [0.9, 0.1])
    run.add("b", [0.9, 0.1], [0.9, 0.9], keep=False)
    run.target = {"val": np.array([1, 0, 1]), "test": np.array([1, 0])}
    run.add("c", [0.9, 0.1, 0.9], [0.1, 0.9])

    made = run.made()

    assert made.greedy is not None
    assert made.greedy.num_candidates == 1
    assert made.left_out == (
        "the predictions of cell 0000000000000001 are not there or cannot be read",
        "cell 0000000000000002 was evaluated on other samples or targets",
    )


def test_a_cell_that_is_left_out_does_not_say_which_samples_others_must_have(tmp_path: Path) -> None:
    run = Folder(tmp_path / "r", val=[1, 0, 1], test=[1, 0])
    run.add("a", [0.9, 0.1, 0.9], [0.9, np.nan], seed=0)
    run.target["val"] = np.array([1, 0])
    run.add("a", [0.9, 0.1], [0.9, 0.1], seed=1)

    made = run.made()

    assert made.greedy is not None
    assert [member.seed for member in made.greedy.members] == [1]
    assert made.left_out == ("the predictions of cell 0000000000000000 are not finite",)


def test_the_command_prints_a_table_and_json_has_a_section_of_its_own(tmp_path: Path) -> None:
    run = Folder(tmp_path / "r", val=[1, 0, 1, 0], test=[1, 0, 1, 0])
    run.add("concat", [0.9, 0.1, 0.9, 0.1], [0.9, 0.1, 0.9, 0.6], seed=0)
    run.add("concat", [0.9, 0.1, 0.9, 0.1], [0.9, 0.1, 0.4, 0.1], seed=1)
    run.write()

    shown = CliRunner().invoke(app, ["ensemble", "r", "--results", str(tmp_path)])
    given = CliRunner().invoke(app, ["ensemble", "r", "--results", str(tmp_path), "--json"])

    assert shown.exit_code == given.exit_code == 0
    assert "2 seeds" in shown.stdout
    assert "chosen on val, one by one" in shown.stdout
    data = json.loads(given.stdout)
    assert data["run"] == "r"
    (section,) = data["ensembles"]
    assert section["seeds"][0]["single"] == 0.75
    assert section["seeds"][0]["tested"]["score"] == 1.0
    assert section["greedy"]["members"][0]["fusion"] == "concat"
