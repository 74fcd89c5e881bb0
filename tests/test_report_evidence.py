"""What predictions prove, on predictions made by hand: intervals, gains and groups against independent computations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.special import expit
from simulated import board_of
from sklearn.metrics import average_precision_score, log_loss, mean_absolute_error

from mmbench.kept_predictions import kept_arrays
from mmbench.record import Metric, Record
from mmbench.report import build_report
from mmbench.report.answer import board_answer, cautions
from mmbench.report.evidence import Scored, with_scores
from mmbench.report.intervals import Interval, mean_interval
from mmbench.report.predictions import sample_scores
from mmbench.report.tables import Board, Row
from mmbench.store import RunStore

DUO = "image:cnn+text:lstm"


class Folder:
    """A run with predictions: right or wrong answers of made-up rows on the same 200 test samples."""

    def __init__(self, path: Path, *, num_samples: int = 200) -> None:
        self.path, self.num_samples = path, num_samples
        self.ids = [f"s{at}" for at in range(num_samples)]
        self.target = np.arange(num_samples) % 4
        self.rows: list[dict[str, Any]] = []
        self.records: list[Record] = []

    def add(
        self,
        encoders: str,
        fusion: str,
        right: NDArray[np.bool_],
        *,
        seed: int = 0,
        ids: list[str] | None = None,
        recorded: float | None = None,
        keep: bool = True,
        raw: bytes | None = None,
        val: NDArray[np.bool_] | None = None,
        groups: list[str] | None = None,
    ) -> None:
        cell_id = f"{len(self.rows):016x}"
        self.rows.append(
            {
                "cell_id": cell_id,
                "dataset": "digits",
                "encoders": encoders,
                "fusion": fusion,
                "objective": "supervised",
                "seed": seed,
                "role": "cell",
                "status": "run",
                "reason": "",
            }
        )
        score = float(np.mean(right)) if recorded is None else recorded
        metric = Metric(
            phase="evaluate", split="test", task="digit", name="accuracy", value=score, n=len(right), direction="max"
        )
        metrics = [metric]
        if val is not None:
            on_val = {**dataclasses.asdict(metric), "split": "val", "value": float(val.mean()), "n": len(val)}
            metrics.append(Metric(**on_val))
        self.records.append(Record(cell_id=cell_id, status="ok", metrics=tuple(metrics)))
        folder = self.path / "cells" / cell_id
        folder.mkdir(parents=True)
        target = self.target
        if ids is not None:
            order = [self.ids.index(name) if name in self.ids else at for at, name in enumerate(ids)]
            right, target = right[order], target[order]
        prediction = self.predicted(right, target)
        if raw is not None:
            (folder / "predictions.safetensors").write_bytes(raw)
        elif keep:
            arrays = kept_arrays("test", {"digit": prediction}, {"digit": target}, ids or self.ids, groups or ())
            if val is not None:
                truth = np.zeros(len(val), dtype=np.int64)
                names = [f"v{at}" for at in range(len(val))]
                arrays |= kept_arrays("val", {"digit": self.predicted(val, truth)}, {"digit": truth}, names)
            save_file(arrays, folder / "predictions.safetensors")

    @staticmethod
    def predicted(right: NDArray[np.bool_], target: NDArray[np.int64]) -> NDArray[np.float32]:
        prediction = np.full((len(target), 4), 0.1, dtype=np.float32)
        prediction[np.arange(len(target)), np.where(right, target, (target + 1) % 4)] = 0.7
        return prediction

    def board(self) -> Board:
        task = {"name": "digit", "kind": "multiclass", "num_outputs": 4, "class_names": [], "primary": ""}
        with RunStore.create(self.path) as store:
            store.write_plan(self.rows, {"digits": {"tasks": [task]}})
            for record in self.records:
                store.journal.append(record)
        return build_report(self.path).boards[0]


@pytest.fixture
def made(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "r1")


def right(num_right: int, *, num: int = 200, start: int = 0) -> NDArray[np.bool_]:
    """Right on `num_right` samples from `start` on, around the end."""
    return (np.arange(num) - start) % num < num_right


def row(board: Board, fusion: str) -> Row:
    return next(item for item in board.rows if item.fusion == fusion)


def mcnemar(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """The exact test by scipy: two-sided binomial test of the samples that only one of the two gets right."""
    only_one, only_other = int((one & ~other).sum()), int((~one & other).sum())
    return float(scipy.stats.binomtest(only_one, only_one + only_other).pvalue)


def test_one_seed_is_judged_by_mcnemar(made: Folder) -> None:
    # concat and gated disagree on 8 + 1 samples: p = 0.039; sum differs from gated on 2 + 1.
    best = right(180)
    worse = best.copy()
    worse[:8] = False
    worse[190] = True
    close = best.copy()
    close[:2] = False
    close[191] = True
    made.add(DUO, "gated", best)
    made.add(DUO, "concat", worse)
    made.add(DUO, "sum", close)

    board = made.board()

    assert mcnemar(best, worse) == pytest.approx(0.0390625)
    # Holm trebles the smallest of three p-values: 0.117 tells nothing apart.
    assert {item.fusion: item.group for item in board.rows} == {"gated": 1, "concat": 1, "sum": 1}
    assert board.num_tested == 3


def test_rows_that_are_significantly_worse_form_the_next_group(made: Folder) -> None:
    best = right(180)
    worse = best.copy()
    worse[:12] = False
    also = best.copy()
    also[3:15] = False
    made.add(DUO, "gated", best)
    made.add(DUO, "concat", worse)
    made.add(DUO, "sum", also)
    made.add("image:cnn", "single", right(100))

    board = made.board()

    assert mcnemar(best, worse) < 0.001
    assert {item.fusion: item.group for item in board.rows} == {"gated": 1, "concat": 2, "sum": 2, "single": 3}
    assert "paired tests on the same samples find every other row worse" in board_answer(board)


def test_intervals_cover_seeds_and_samples(made: Folder) -> None:
    scores = np.stack([right(count, start=start) for count, start in ((180, 0), (170, 5), (176, 9))])
    for seed, values in enumerate(scores):
        made.add(DUO, "gated", values, seed=seed)

    score = row(made.board(), "gated").score

    expected = mean_interval(scores.astype(float), shape="share")
    assert isinstance(expected, Interval)
    assert score is not None
    assert (score.ci_low, score.ci_high, score.ci_over) == (
        pytest.approx(expected.low),
        pytest.approx(expected.high),
        "seeds and samples",
    )


def test_the_interval_of_a_gain_is_paired(made: Folder) -> None:
    fusion = np.stack([right(180), right(178), right(182)])
    single = np.stack([right(150), right(152), right(149)])
    for seed in range(3):
        made.add(DUO, "gated", fusion[seed], seed=seed)
        made.add("image:cnn", "single", single[seed], seed=seed)

    gain = row(made.board(), "gated").gain

    difference = (fusion.astype(float) - single).mean(axis=0)
    assert gain is not None
    assert gain.value == pytest.approx(difference.mean())
    # Seeds agree within what samples add, so that the interval is that of the paired samples: 29 of 200 differ.
    assert gain.ci_low is not None
    assert gain.ci_high is not None
    samples = scipy.stats.ttest_1samp(difference, 0.0).confidence_interval(0.95)
    assert gain.ci_low == pytest.approx(samples.low, abs=0.01)
    assert gain.ci_high == pytest.approx(samples.high, abs=0.01)


def test_a_lucky_seed_is_no_discovery(made: Folder) -> None:
    for seed, (one, other) in enumerate([(190, 150), (150, 160), (160, 150)]):
        made.add(DUO, "gated", right(one), seed=seed)
        made.add(DUO, "concat", right(other), seed=seed)

    assert {item.fusion: item.group for item in made.board().rows} == {"gated": 1, "concat": 1}


def test_samples_in_another_order_are_matched_by_their_ids(made: Folder) -> None:
    best, worse = right(180), right(120, start=100)
    made.add(DUO, "gated", best)
    made.add(DUO, "concat", worse, ids=made.ids[::-1])
    board = made.board()

    # In file order the rows would agree on other samples than they do.
    assert (int((best & ~worse).sum()), int((worse & ~best).sum())) == (80, 20)
    assert row(board, "concat").group == 2
    assert board.untested == ""


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"keep": False}, "are not there or cannot be read"),
        ({"raw": b"not safetensors"}, "are not there or cannot be read"),
        ({"raw": b"\xff" * 64}, "are not there or cannot be read"),
        ({"recorded": 0.6}, "do not give its recorded accuracy"),
        ({"ids": [f"other{at}" for at in range(200)]}, "tested on different samples"),
    ],
)
def test_a_row_whose_predictions_cannot_be_trusted_is_left_out_of_the_tests_with_the_reason(
    fault: dict[str, Any], reason: str, made: Folder
) -> None:
    made.add(DUO, "gated", right(180))
    made.add(DUO, "concat", right(100), **fault)

    board = made.board()

    assert (row(board, "gated").group, row(board, "concat").group) == (1, None)
    assert any("not every row could be compared" in text for text in cautions(board))
    assert reason in board.untested
    assert row(board, "concat").rank == 2


def test_a_metric_that_is_no_mean_over_samples_keeps_its_interval_over_seeds() -> None:
    assert sample_scores(np.zeros((2, 3)), np.zeros((2, 3)), "multilabel", "map") is None


def test_sample_scores_average_to_the_metric() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), 50)
    target = rng.integers(0, 3, 50)
    values, truth = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))

    found = sample_scores(probabilities, target.astype(float), "multiclass", "log_loss")
    errors = sample_scores(values, truth, "regression", "mae")

    assert found is not None
    assert errors is not None
    assert found.mean() == pytest.approx(log_loss(target, probabilities))
    assert errors.mean() == pytest.approx(mean_absolute_error(truth, values))


def test_nothing_but_right_answers_still_leave_room_for_doubt(made: Folder) -> None:
    for seed in range(3):
        made.add(DUO, "gated", right(200), seed=seed)

    score = row(made.board(), "gated").score

    assert score is not None
    # Wilson's interval of 200 out of 200, as statsmodels gives it.
    assert (score.ci_low, score.ci_high) == (pytest.approx(0.981154673), 1.0)


# Val against test


def test_a_gap_between_val_and_test_beyond_chance_is_a_warning(made: Folder) -> None:
    made.add(DUO, "gated", right(150), val=right(200))
    made.add(DUO, "concat", right(140), val=right(150))

    (text,) = (text for text in cautions(made.board()) if "on val and" in text)

    assert text.startswith("the row that val chooses has 1.000 on val and 0.750 on test, a larger gap than chance")


@pytest.mark.parametrize("num_val", [40, 200])
def test_a_gap_between_val_and_test_by_chance_is_no_warning(made: Folder, num_val: int) -> None:
    """Five points: an interval of the difference of two shares of 200 each side reaches seven points."""
    made.add(DUO, "gated", right(180), val=right(round(0.95 * num_val), num=num_val))
    made.add(DUO, "concat", right(140), val=right(round(0.75 * num_val), num=num_val))

    assert not any("on val and" in text for text in cautions(made.board()))


# Groups of samples


def test_samples_of_one_group_are_one_observation_of_intervals_and_tests(made: Folder) -> None:
    """Ten groups of twenty samples that are right or wrong together."""
    names = [f"speaker{at // 20}" for at in range(200)]
    best, worse = right(160), right(120)
    made.add(DUO, "gated", best, groups=names)
    made.add(DUO, "concat", worse, groups=names)

    board = made.board()

    # As single samples: 40 against 0, p = 2e-12. As groups: 2 against 0 of 10.
    assert mcnemar(best, worse) < 1e-9
    assert {item.group for item in board.rows} == {1}
    score = row(board, "gated").score
    assert score is not None
    # Wilson's interval of 8 of 10 with Student's quantile for 9 degrees of freedom in the place of 1.96 and the
    # variance of a sample of groups, 10/9 of the share's.
    squared = float(scipy.stats.t.ppf(0.975, 9)) ** 2 * 0.16 / 9 / 0.16
    center, half = (0.8 + squared / 2) / (1 + squared), np.sqrt(squared * (0.16 + squared / 4)) / (1 + squared)
    assert (score.ci_low, score.ci_high) == (pytest.approx(center - half), pytest.approx(center + half))
    assert score.ci_over == "groups of samples"


def test_groups_that_are_single_samples_change_nothing(made: Folder) -> None:
    made.add(DUO, "gated", right(160), groups=made.ids)

    score = row(made.board(), "gated").score

    assert score is not None
    assert score.ci_over == "samples"


# Metrics that are no mean over samples


def test_average_precision_over_seeds_has_intervals_within_0_and_1_tests_and_groups(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    target = (rng.random((200, 4)) < 0.3).astype(np.int64)
    rows, records = [], []
    for number, (fusion, noise, seed) in enumerate(
        [
            (fusion, noise, seed)
            for fusion, noise in (("gated", 0.2), ("concat", 0.25), ("sum", 3.0))
            for seed in range(3)
        ]
    ):
        cell_id, preds = f"{number:016x}", expit(target + noise * rng.normal(size=target.shape))
        rows.append(
            {"cell_id": cell_id, "dataset": "d", "encoders": DUO, "fusion": fusion, "objective": "supervised", "seed": seed,
             "role": "cell", "status": "run", "reason": ""}
        )  # fmt: skip
        score = float(average_precision_score(target, preds))
        common = {"phase": "evaluate", "task": "tags", "name": "map", "value": score, "n": 200, "direction": "max"}
        records.append(Record(cell_id=cell_id, status="ok", metrics=(Metric(split="test", **common),)))
        (tmp_path / "r" / "cells" / cell_id).mkdir(parents=True)
        names = [f"s{at}" for at in range(200)]
        arrays = kept_arrays("test", {"tags": preds}, {"tags": target}, names)
        save_file(arrays, tmp_path / "r" / "cells" / cell_id / "predictions.safetensors")
    with RunStore.create(tmp_path / "r") as store:
        store.write_plan(rows, {"d": {"tasks": [{"name": "tags", "kind": "multilabel", "num_outputs": 4}]}})
        for record in records:
            store.journal.append(record)

    board = build_report(tmp_path / "r").boards[0]

    assert {item.fusion: item.group for item in board.rows} == {"gated": 1, "concat": 1, "sum": 2}
    scores = [item.score for item in board.rows]
    assert all(score is not None and score.ci_over == "seeds and samples" for score in scores)
    assert all(
        score is not None and 0 <= (score.ci_low or 0) < score.mean <= (score.ci_high or 0) <= 1 for score in scores
    )
    assert board.untested == ""


def test_a_class_with_few_test_samples_is_a_caution(made: Folder) -> None:
    made.add(DUO, "gated", right(150))
    board = dataclasses.replace(made.board(), fewest_positives=4, metric="f1_macro")

    assert any(text.startswith("the rarest class has 4 test samples, fewer than 10") for text in cautions(board))
    assert not any("rarest" in text for text in cautions(dataclasses.replace(board, fewest_positives=40)))
    absent = cautions(dataclasses.replace(board, fewest_positives=0))
    assert any(text.startswith("some class has no test sample at all: macro F1 leaves it out") for text in absent)


def board_of_errors(errors: NDArray[np.float64]) -> Board:
    """A board ranked by mean absolute error, with one row."""
    scores = errors[None, None]
    board = dataclasses.replace(board_of(scores, scores, 0), metric="mae", direction="min", kind="regression")
    return with_scores(board, Scored((0,), scores))


def test_a_few_large_errors_that_decide_the_mean_are_a_caution() -> None:
    rng = np.random.default_rng(0)
    normal, lognormal = np.abs(rng.normal(size=300)), np.exp(2.5 * rng.normal(size=300))

    assert board_of_errors(lognormal).skewness == pytest.approx(scipy.stats.skew(lognormal) / np.sqrt(300))
    assert any(text.startswith("a few test samples with large errors") for text in cautions(board_of_errors(lognormal)))
    assert not any("large errors" in text for text in cautions(board_of_errors(normal)))
