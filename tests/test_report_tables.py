"""Leaderboards on hand-made records: every expected number is worked out by hand or by scipy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from mmbench.record import Metric, Record
from mmbench.report import build_report, report_json
from mmbench.report.answer import answer, board_answer, cautions, least_visible_gap
from mmbench.report.assembly import assemble
from mmbench.report.outcomes import outcomes
from mmbench.report.tables import Board, Report, Row
from mmbench.store import RunStore

TRIO = "audio:logmel-cnn+image:cnn+text:lstm"


class Made:
    """A run in the making: each call adds a planned cell, with or without its record."""

    def __init__(self, **task: Any) -> None:
        self.planned: list[dict[str, Any]] = []
        self.records: dict[str, Record] = {}
        self.task = {"name": "digit", "kind": "multiclass", "num_outputs": 10, "class_names": [], "primary": "", **task}
        self.direction = "max"
        self.metric = "accuracy"

    def cell(
        self,
        encoders: str,
        fusion: str,
        score: float | None,
        *,
        seed: int = 0,
        status: str = "ok",
        reason: str = "",
        dataset: str = "digits",
        objective: str | None = None,
        more: tuple[Metric, ...] = (),
        interval: float | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        cell_id = f"{len(self.planned):016x}"
        ran = status not in ("incompatible", "unavailable", "pending")
        self.planned.append(
            {
                "cell_id": cell_id,
                "dataset": dataset,
                "encoders": encoders,
                "fusion": fusion,
                "objective": ("" if fusion == "majority" else "supervised") if objective is None else objective,
                "seed": seed,
                "role": "cell",
                "status": "run" if ran or status == "pending" else status,
                "reason": "" if ran else reason,
            }
        )
        if not ran:
            return
        metrics: tuple[Metric, ...] = ()
        if status == "ok":
            common = {"phase": "evaluate", "task": self.task["name"], "name": self.metric, "direction": self.direction}
            bounds = (
                {} if interval is None or score is None else {"ci_low": score - interval, "ci_high": score + interval}
            )
            val = None if score is None else score + 0.01
            metrics = (
                Metric(split="val", value=val, n=100, **common),
                Metric(split="test", value=score, n=400, **common, **bounds),
                Metric(split="test", value=0.0, n=400, **{**common, "condition": "drop:audio"}),
                *more,
            )
        self.records[cell_id] = Record(cell_id=cell_id, status=status, reason=reason, metrics=metrics, info=info or {})

    def seeds(self, encoders: str, fusion: str, scores: list[float], **more: Any) -> None:
        for seed, score in enumerate(scores):
            self.cell(encoders, fusion, score, seed=seed, **more)

    def report(self, **about: Any) -> Report:
        datasets = {name: {"tasks": [self.task], **about} for name in {row["dataset"] for row in self.planned}}
        return assemble("r1", outcomes(self.planned, self.records), datasets, {})

    def board(self, **about: Any) -> Board:
        return self.report(**about).boards[0]


def row(board: Board, fusion: str, encoders: str = TRIO) -> Row:
    (found,) = [item for item in board.rows if (item.fusion, item.encoders) == (fusion, encoders)]
    return found


@pytest.fixture
def made() -> Made:
    run = Made()
    run.cell("", "majority", 0.1)
    run.seeds("image:cnn", "single", [0.80, 0.82, 0.81])
    run.seeds("text:lstm", "single", [0.60, 0.62, 0.64])
    run.seeds(TRIO, "gated", [0.96, 0.95, 0.97])
    run.seeds(TRIO, "concat", [0.90, 0.91, 0.89])
    return run


def test_a_score_is_mean_and_sample_deviation_over_seeds_with_students_interval(made: Made) -> None:
    score = row(made.board(), "gated").score

    assert score is not None
    assert score.mean == pytest.approx(0.96)
    assert score.std == pytest.approx(0.01)
    low, high = stats.t.interval(0.95, 2, loc=0.96, scale=0.01 / 3**0.5)
    assert (score.ci_low, score.ci_high) == (pytest.approx(low), pytest.approx(high))
    assert (score.ci_over, score.by_seed) == ("seeds", {0: 0.96, 1: 0.95, 2: 0.97})


def test_one_seed_has_no_deviation_and_the_interval_of_its_test_samples() -> None:
    run = Made()
    run.cell(TRIO, "gated", 0.9, interval=0.03)

    score = row(run.board(), "gated").score

    assert score is not None
    assert (score.mean, score.std, score.ci_over) == (0.9, None, "samples")
    assert (score.ci_low, score.ci_high) == (pytest.approx(0.87), pytest.approx(0.93))


def test_rows_rank_by_the_primary_metric_and_the_floor_is_no_row(made: Made) -> None:
    board = made.board()

    assert [(item.rank, item.fusion, item.encoders) for item in board.rows] == [
        (1, "gated", TRIO),
        (2, "concat", TRIO),
        (3, "single", "image:cnn"),
        (4, "single", "text:lstm"),
    ]
    assert board.floor is not None
    assert (board.floor.mean, board.metric, board.num_test, board.seeds) == (0.1, "accuracy", 400, (0, 1, 2))
    assert [item.val for item in board.rows] == pytest.approx([0.97, 0.91, 0.82, 0.63])


def test_where_less_is_better_the_least_ranks_first_and_gains_are_positive() -> None:
    run = Made(name="weight", kind="regression", num_outputs=1)
    run.metric, run.direction = "mae", "min"
    run.seeds("image:cnn", "single", [2.0, 2.2])
    run.seeds(TRIO, "gated", [1.5, 1.6])
    run.seeds(TRIO, "concat", [2.5, 2.6])

    board = run.board()

    assert [(item.rank, item.fusion) for item in board.rows] == [(1, "gated"), (2, "single"), (3, "concat")]
    gain = row(board, "gated").gain
    assert gain is not None
    assert gain.value == pytest.approx(0.55)
    worse = row(board, "concat").gain
    assert worse is not None
    assert worse.value == pytest.approx(-0.45)


def test_equal_means_share_a_rank() -> None:
    run = Made()
    run.seeds(TRIO, "a", [0.5, 0.5])
    run.seeds(TRIO, "b", [0.5, 0.5])
    run.seeds(TRIO, "c", [0.4, 0.4])

    assert [item.rank for item in run.board().rows] == [1, 1, 3]


def test_a_row_that_lacks_seeds_is_shown_and_not_ranked_however_high_its_mean(made: Made) -> None:
    made.cell(TRIO, "lucky", 0.99, seed=0)
    made.cell(TRIO, "lucky", None, seed=1, status="failed", reason="ValueError: bad")
    made.cell(TRIO, "lucky", None, seed=2, status="pending")

    board = made.board()

    assert [item.fusion for item in board.rows] == ["gated", "concat", "single", "single", "lucky"]
    lucky = row(board, "lucky")
    assert (lucky.rank, lucky.complete, lucky.done) == (None, False, (0,))
    assert lucky.statuses == {"ok": 1, "failed": 1, "pending": 1}
    assert [item.rank for item in board.rows] == [1, 2, 3, 4, None]
    assert any("1 row lacks seeds and is not ranked" in text for text in cautions(board))


def test_a_row_planned_with_fewer_seeds_than_others_counts_as_lacking_them(made: Made) -> None:
    made.cell(TRIO, "later", 0.99, seed=0)

    assert row(made.board(), "later").rank is None


def test_missing_cells_move_no_score_of_other_rows(made: Made) -> None:
    before = {item.fusion + item.encoders: item.score for item in made.board().rows}
    for seed in range(3):
        made.cell(TRIO, "broken", None, seed=seed, status="oom_host", reason="1 GiB of 1 GiB in use")

    board = made.board()

    assert {item.fusion + item.encoders: item.score for item in board.rows if item.score} == before
    assert row(board, "broken").score is None
    assert (board.num_done, board.num_planned) == (13, 16)


def test_gain_is_against_the_best_single_modality_on_the_same_seeds(made: Made) -> None:
    made.cell(TRIO, "partial", 0.90, seed=1)

    board = made.board()

    gain = row(board, "gated").gain
    assert gain is not None
    assert (gain.over, gain.num_compared, gain.num_planned) == ("image:cnn", 2, 2)
    assert gain.value == pytest.approx(0.15)
    differences = [0.96 - 0.80, 0.95 - 0.82, 0.97 - 0.81]
    low, high = stats.t.interval(0.95, 2, loc=0.15, scale=stats.sem(differences))
    assert (gain.ci_low, gain.ci_high) == (pytest.approx(low), pytest.approx(high))
    on_seed_1 = row(board, "partial").gain
    assert on_seed_1 is not None
    assert (on_seed_1.value, on_seed_1.ci_low) == (pytest.approx(0.90 - 0.82), None)
    assert row(board, "single", "image:cnn").gain is None


def test_a_single_modality_without_all_seeds_is_no_rival_and_the_gain_says_so() -> None:
    run = Made()
    run.seeds("image:cnn", "single", [0.95])
    run.cell("image:cnn", "single", None, seed=1, status="timeout", reason="after 10 s")
    run.seeds("text:lstm", "single", [0.60, 0.60])
    run.seeds(TRIO, "gated", [0.90, 0.90])

    board = run.board()

    gain = row(board, "gated").gain
    assert gain is not None
    assert (gain.over, gain.num_compared, gain.num_planned) == ("text:lstm", 1, 2)
    assert any("marked †" in text for text in cautions(board))


def test_a_cell_without_a_value_of_the_metric_does_not_count_as_a_score() -> None:
    run = Made()
    run.cell(TRIO, "gated", None, seed=0)
    run.cell(TRIO, "concat", 0.5, seed=0)

    board = run.board()

    assert [(item.fusion, item.rank) for item in board.rows] == [("concat", 1), ("gated", None)]


def test_incompatible_cells_are_no_rows_but_listed_with_their_reason(made: Made) -> None:
    for seed in range(3):
        made.cell(TRIO, "cross", None, seed=seed, status="incompatible", reason="cross needs tokens")
    made.cell(TRIO, "timm", None, status="unavailable", reason="pip install timm")

    report = made.report()

    assert "cross" not in {item.fusion for item in report.boards[0].rows}
    (impossible,) = report.impossible
    assert (impossible.count, impossible.reason, impossible.dataset) == (3, "cross needs tokens", "digits")
    (failure,) = report.failures
    assert (failure.status, failure.count, failure.examples) == ("unavailable", 1, (f"{TRIO}, timm, seed 0",))
    assert (report.num_done, report.num_planned) == (13, 14)


def test_failures_are_grouped_by_reason_with_examples(made: Made) -> None:
    for seed in range(5):
        made.cell(TRIO, "a", None, seed=seed, status="failed", reason="ValueError: x")
    made.cell(TRIO, "b", None, status="timeout", reason="after 10 s")

    failures = made.report().failures

    assert [(item.status, item.reason, item.count, len(item.examples)) for item in failures] == [
        ("failed", "ValueError: x", 5, 3),
        ("timeout", "after 10 s", 1, 1),
    ]


def test_costs_and_other_metrics_are_means_over_seeds_and_null_stays_null() -> None:
    run = Made()
    for seed, value in enumerate([100.0, 300.0]):
        speed = Metric(
            phase="profile", name="throughput_samples_per_s", value=value, direction="max", note="contended: others"
        )
        memory = Metric(phase="profile", name="energy_j", value=None, note="no counter")
        slow = Metric(phase="train", name="throughput_samples_per_s", value=7.0, direction="max")
        loss = Metric(
            phase="evaluate", split="test", task="digit", name="log_loss", value=value / 1000, direction="min"
        )
        run.cell(TRIO, "gated", 0.9, seed=seed, more=(speed, memory, slow, loss))

    found = row(run.board(), "gated")

    assert found.numbers == {
        "throughput_samples_per_s": 200.0,
        "energy_j": None,
        "train_throughput_samples_per_s": 7.0,
        "log_loss": pytest.approx(0.2),
    }
    assert found.contended


def test_several_tasks_have_a_board_each_ranked_by_their_own_metric() -> None:
    run = Made()
    other = {"phase": "evaluate", "split": "test", "task": "age", "name": "mae", "direction": "min", "unit": "target"}
    run.cell(TRIO, "a", 0.9, more=(Metric(value=5.0, **other),))
    run.cell(TRIO, "b", 0.8, more=(Metric(value=3.0, **other),))
    tasks = [run.task, {"name": "age", "kind": "regression", "num_outputs": 1, "primary": ""}]

    report = assemble("r1", outcomes(run.planned, run.records), {"digits": {"tasks": tasks}})

    assert [(board.task, board.metric, board.first) for board in report.boards] == [
        ("digit", "accuracy", True),
        ("age", "mae", False),
    ]
    assert [[item.fusion for item in board.rows] for board in report.boards] == [["a", "b"], ["b", "a"]]


def test_the_answer_says_who_wins_by_how_much_and_over_what(made: Made) -> None:
    assert answer(made.report()) == (
        "On digits (accuracy on 400 test samples, 3 seeds), gated fusion of audio:logmel-cnn + image:cnn + text:lstm "
        "is best on val and has 0.960 ± 0.010 on test, rank 1 of 4; the 95 % interval of no other row overlaps its own. "
        "The best single modality on val is image:cnn alone with 0.810 ± 0.010. "
        "Against it, fusion gains +0.150 (95 % CI +0.107 to +0.193). "
        "Predicting without looking at the sample gives 0.100."
    )


def test_the_answer_is_no_surer_than_the_intervals(made: Made) -> None:
    made.seeds(TRIO, "sum", [0.955, 0.95, 0.96])

    assert (
        "1 of the 4 other rows cannot be told apart from it by 95 % intervals, such as sum fusion of "
        "audio:logmel-cnn + image:cnn + text:lstm (0.955 ± 0.005)"
    ) in board_answer(made.board())


def test_the_answer_says_when_no_fusion_helps() -> None:
    run = Made()
    run.seeds("image:cnn", "single", [0.9, 0.9, 0.9])
    run.seeds(TRIO, "gated", [0.85, 0.86, 0.84])

    board = run.board()

    assert "image:cnn alone is best on val and has 0.900 ± 0.000 on test, rank 1 of 2" in board_answer(board)
    assert "Fusion does not beat it: the best fusion on val, gated fusion of" in board_answer(board)
    assert "the fusion that val chooses is no better than the single modality that it chooses." in cautions(board)


def test_the_answer_of_an_empty_run_says_what_is_missing() -> None:
    run = Made()
    run.cell(TRIO, "gated", None, status="pending")
    run.cell(TRIO, "concat", None, status="failed", reason="x")

    assert answer(run.report()) == (
        "On digits nothing can be ranked yet: 0 of 2 cells have a result (1 not run yet, 1 failed)."
    )
    assert answer(assemble("r1", [], {})) == "Nothing was planned, so there is nothing to report."


def test_few_seeds_are_a_caution() -> None:
    run = Made()
    run.cell(TRIO, "gated", 0.9)

    assert cautions(run.board())[0].startswith("1 seed only")


def test_a_test_set_too_small_for_the_gap_is_a_caution() -> None:
    run = Made()
    run.seeds(TRIO, "gated", [0.90, 0.90, 0.90])
    run.seeds(TRIO, "concat", [0.88, 0.88, 0.88])

    (found,) = [text for text in cautions(run.board()) if "test set is small" in text]

    assert "with 400 samples, differences of less than about 0.059" in found
    assert "the gap is 0.020" in found


def test_the_least_visible_gap_has_the_power_it_claims() -> None:
    gap = least_visible_gap(0.8, 500, "accuracy")

    assert gap is not None
    error = (2 * 0.8 * 0.2 / 500) ** 0.5
    assert stats.norm.sf(stats.norm.isf(0.025) - gap / error) == pytest.approx(0.8, abs=1e-4)
    assert least_visible_gap(0.8, 500, "auroc") is None


def test_accuracy_on_imbalanced_classes_is_a_caution() -> None:
    run = Made(num_outputs=3)
    run.cell("", "majority", 0.75)
    run.seeds(TRIO, "gated", [0.8, 0.8, 0.8])

    assert any(
        "the most frequent one has 75% of the test samples and alone gives accuracy 0.750; --metric balanced_accuracy"
        in text
        for text in cautions(run.board())
    )


def test_a_gain_whose_interval_holds_zero_is_a_caution() -> None:
    run = Made()
    run.seeds("image:cnn", "single", [0.80, 0.90, 0.85])
    run.seeds(TRIO, "gated", [0.90, 0.85, 0.86])

    board = run.board()

    assert any("fusion is not shown to be better" in text for text in cautions(board))
    assert "which may be chance" in board_answer(board)


def test_contended_times_are_a_caution() -> None:
    run = Made()
    speed = Metric(phase="profile", name="latency_p50_s", value=1.0, note="contended: others computed on the device")
    run.cell(TRIO, "gated", 0.9, more=(speed,))

    assert any("other cells ran on the same machine" in text for text in cautions(run.board()))


def epochs(num: int, best: int) -> tuple[Metric, ...]:
    return tuple(
        Metric(phase="train", name=name, value=float(value))
        for name, value in (("num_epochs", num), ("best_epoch", best))
    )


def test_a_chosen_row_that_was_best_in_its_last_epoch_is_a_caution() -> None:
    run = Made()
    run.cell(TRIO, "a", 0.9, more=epochs(8, 8))
    for fusion in "bcdefg":
        run.cell(TRIO, fusion, 0.8, more=epochs(8, 5))

    found = [text for text in cautions(run.board()) if "undertrained" in text]

    assert len(found) == 1
    assert found[0].startswith("1 of 7 rows, among them the one that val chooses, was best on val in the last epoch")


def test_early_stopping_and_few_late_rows_are_no_caution() -> None:
    run = Made()
    run.cell(TRIO, "a", 0.9, seed=0, more=epochs(8, 8))
    run.cell(TRIO, "a", 0.9, seed=1, more=epochs(8, 5))
    for fusion in "bcdefg":
        for seed in (0, 1):
            run.cell(TRIO, fusion, 0.8, seed=seed, more=epochs(8, 8 if fusion == "g" else 5))

    assert not any("undertrained" in text for text in cautions(run.board()))


@pytest.mark.parametrize(("metric", "better", "worse"), [("accuracy", 0.9, 0.2), ("mae", 0.2, 0.9)])
def test_rows_below_the_majority_baseline_are_a_caution(metric: str, better: float, worse: float) -> None:
    task = {"kind": "regression", "primary": metric} if metric == "mae" else {}
    run = Made(**task)
    run.metric, run.direction = metric, "min" if metric == "mae" else "max"
    run.cell("", "majority", 0.5)
    run.cell(TRIO, "good", better)
    run.cell(TRIO, "bad", worse)

    found = [text for text in cautions(run.board()) if "majority baseline" in text]

    assert len(found) == 1
    assert found[0].startswith("1 row stays below the majority baseline (0.500), such as bad fusion of audio")


def test_cells_with_other_numbers_of_threads_are_said() -> None:
    run = Made()
    run.cell(TRIO, "a", 0.9, info={"threads": 1})
    run.cell(TRIO, "b", 0.9, info={"threads": 2})

    assert any(text.startswith("cells differ in threads: 1 (1 cell), 2 (1 cell)") for text in cautions(run.board()))


def test_mixed_versions_and_splits_are_said() -> None:
    run = Made()
    run.cell(TRIO, "a", 0.9, info={"split_hash": "s1", "versions": {"torch": "2.10"}, "device": "A"})
    run.cell(TRIO, "b", 0.9, info={"split_hash": "s2", "versions": {"torch": "2.11"}, "device": "A"})

    found = cautions(run.board())

    assert any(text.startswith("cells differ in torch: 2.10 (1 cell), 2.11 (1 cell)") for text in found)
    assert any("over different samples and cannot be compared" in text for text in found)


def test_costs_of_different_measuring_code_in_one_table_are_said() -> None:
    run = Made()
    run.cell(TRIO, "a", 0.9, info={"perf_setup": {"measuring_version": 1}})
    run.cell(TRIO, "b", 0.9, info={"perf_setup": {"measuring_version": 2}})
    run.cell(TRIO, "c", 0.9, info={"perf_setup": {"torch": "2.11"}})  # of a mmbench before it had versions

    found = [text for text in cautions(run.board()) if "measuring version" in text]

    assert found == [
        "cells differ in measuring version: 1 (1 cell), 2 (1 cell), unknown (1 cell); their times and memory were "
        "measured in different ways and cannot be compared."
    ]


def test_the_report_as_json_has_the_answer_first_and_is_json(made: Made) -> None:
    data = report_json(made.report())

    assert next(iter(data)) == "answer"
    assert json.loads(json.dumps(data, allow_nan=False))["boards"][0]["rows"][0]["score"]["by_seed"] == {
        "0": 0.96,
        "1": 0.95,
        "2": 0.97,
    }


def test_a_report_is_built_from_a_folder(made: Made, tmp_path: Path) -> None:
    with RunStore.create(tmp_path / "r1") as store:
        store.write_plan(
            made.planned, {"digits": {"tasks": [made.task], "summary": "Digits", "ceilings": {"image": 0.5}}}
        )
        store.write_run({"argv": ["run", "--grid", "all"]})
        for record in made.records.values():
            store.journal.append(record)

    report = build_report(tmp_path / "r1")

    assert report.run == "r1"
    (board,) = report.boards
    assert (board.summary, board.ceilings) == ("Digits", {"image": 0.5})
    assert board.rows == made.board().rows
    assert report.provenance == {"argv": ["run", "--grid", "all"]}


def test_over_many_datasets_the_answer_is_what_they_share() -> None:
    run = Made()
    for name, gated, single in (("a", 0.9, 0.8), ("b", 0.9, 0.8), ("c", 0.8, 0.9)):
        run.cell("", "majority", 0.1, dataset=name)
        for seed in range(3):
            run.cell(TRIO, "gated", gated + seed / 1000, seed=seed, dataset=name)
            run.cell("image:cnn", "single", single, seed=seed, dataset=name)

    assert answer(run.report()) == (
        "Over 3 datasets, the fusion that is best on val beats the single modality that is best on val on 2 by its test "
        "scores (95 % interval of the gain above zero); on c it does not. Of the methods with a result on all 3 comparable datasets, gated has the best mean rank "
        "(1.33), then best single modality (1.67); whether that is more than chance cannot be tested: 3 complete "
        "datasets; ranks over datasets need at least 5."
    )


def with_val(run: Made, place: int, value: float) -> None:
    """Give a cell another score on val."""
    cell = run.planned[place]["cell_id"]
    val, *others = run.records[cell].metrics
    run.records[cell] = Record(cell_id=cell, status="ok", metrics=(Metric(**{**_fields(val), "value": value}), *others))


def test_the_headline_is_the_row_that_val_chooses_whatever_ranks_first_on_test() -> None:
    run = Made()
    for at in range(5):
        run.seeds(f"{TRIO}[k={at}]", "gated", [0.9 + at / 100] * 3)
    for seed in range(3):
        with_val(run, seed, 0.99)

    board = run.board()

    assert board.best is not None
    assert board.best.score is not None
    assert board.best.score.mean == pytest.approx(0.94)
    assert board.chosen is not None
    assert (board.chosen.encoders, board.chosen.rank) == (f"{TRIO}[k=0]", 5)
    assert board_answer(board).startswith(
        "On digits (accuracy on 400 test samples, 3 seeds), gated fusion of audio:logmel-cnn + image:cnn + text:lstm[k=0] "
        "is best on val and has 0.900 ± 0.000 on test, rank 5 of 5"
    )


def test_the_gain_is_of_the_fusion_and_over_the_single_modality_that_val_chooses() -> None:
    run = Made()
    run.seeds("image:cnn", "single", [0.80] * 3)  # first on test
    run.seeds("text:lstm", "single", [0.70] * 3)
    run.seeds(TRIO, "gated", [0.90] * 3)
    run.seeds(TRIO, "concat", [0.85] * 3)
    for seed in range(3):
        with_val(run, 3 + seed, 0.95)
        with_val(run, 9 + seed, 0.99)

    board = run.board()

    assert board.chosen_unimodal is not None
    assert board.chosen_unimodal.encoders == "text:lstm"
    gain = row(board, "concat").gain
    assert gain is not None
    assert (gain.over, gain.value) == ("text:lstm", pytest.approx(0.15))
    assert "Against it, fusion gains +0.150" in board_answer(board)


def test_of_equal_scores_on_val_the_smaller_model_is_chosen_and_test_decides_nothing() -> None:
    run = Made()
    for name, score, size in (("gated", 0.95, 900.0), ("concat", 0.90, 100.0)):
        size_of = Metric(phase="profile", name="num_parameters_trainable", value=size)
        run.cell(TRIO, name, score, more=(size_of,))
    with_val(run, 0, 0.92)
    with_val(run, 1, 0.92)

    board = run.board()

    assert board.chosen is not None
    assert (board.chosen.fusion, board.chosen.rank) == ("concat", 2)


def test_without_scores_on_val_the_first_on_test_is_named_with_a_caution() -> None:
    run = Made()
    for name, score in (("gated", 0.95), ("concat", 0.90)):
        run.cell(TRIO, name, score)
    for cell, record in list(run.records.items()):
        run.records[cell] = Record(cell_id=cell, status="ok", metrics=record.metrics[1:])

    board = run.board()

    assert board.chosen is not None
    assert board.chosen.fusion == "gated"
    assert "is best on val" not in board_answer(board)
    assert "no row has its scores on val, so the first on test is named, which is partly the luckiest." in cautions(
        board
    )


def _fields(metric: Metric) -> dict[str, Any]:
    return {name: getattr(metric, name) for name in Metric.__dataclass_fields__}
