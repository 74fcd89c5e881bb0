"""What the kept predictions prove: intervals over seeds and test samples, paired tests, groups that differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import scipy.special
from numpy.typing import NDArray

from mmbench.influence import Shape
from mmbench.report.choice import with_choice
from mmbench.report.intervals import Interval, mean_interval, own_seeds
from mmbench.report.packed_scores import SampleScores
from mmbench.report.pairwise import (
    ALPHA,
    Pairs,
    compare_pairs,
    detectable_difference,
    interval_of_pair,
    is_share,
    limit_of,
)
from mmbench.report.score_reader import ScoredTask, ScoreReader
from mmbench.report.tables import Board, Gain, Report, Row
from mmbench.report.variance import SeedVariance, seed_variance
from mmbench.sample_intervals import cluster_sums, skewness_of_mean

Floats: TypeAlias = NDArray[np.float64]

#: Rows that get an interval over seeds and samples, and rows that are compared in pairs; the rest is further down.
MAX_ROWS = 1000
MAX_TESTED = 150
#: Numbers held at once: rows x seeds x samples.
MAX_NUMBERS = 20_000_000
#: Metrics that are means of errors.
NOT_NEGATIVE = ("mae", "rmse", "log_loss", "calibration_error", "median_rank")


@dataclass(frozen=True)
class Scored:
    """Scores of rows on the same test samples.

    Attributes:
        places: Positions of the rows in the board.
        scores: (M, S, N), what each sample adds to the metric under each seed: its score where the metric is a mean
            over samples, else the metric plus the sample's influence.
        clusters: (N,) the number of each sample's group; None where samples are independent.
        shape: How a metric that is no mean over samples spreads; None where it is a mean.
        bias, least_variance: (M,) as in `mmbench.influence.Influence`, mean over seeds; None for means over samples.
        fewest: Test samples of the rarest class, for metrics over classes; None for others.
    """

    places: tuple[int, ...]
    scores: Floats
    clusters: NDArray[np.int64] | None = None
    shape: Shape | None = None
    bias: Floats | None = None
    least_variance: Floats | None = None
    fewest: int | None = None


@dataclass(frozen=True)
class Paired:
    """What a paired test says of the difference of two scores.

    Attributes:
        low, high: 95 % interval of the difference; None where there is none.
        p_value: Two-sided, of no difference; None where nothing tests it.
        test: What tests it, or why nothing does.
    """

    low: float | None
    high: float | None
    p_value: float | None
    test: str


def with_evidence(report: Report, folder: Path) -> Report:
    """Return the report with intervals, gains and groups that rest on the scores of single test samples.

    A board keeps what it has, and says why, where neither predictions nor packed scores are there, or where they say
    nothing about its metric.
    """
    reader = ScoreReader(folder)
    return replace(report, boards=tuple(_weigh(board, reader) for board in report.boards))


def paired(one: Floats, other: Floats, clusters: NDArray[np.int64] | None = None) -> Paired:
    """Test the difference "other minus one" on the same samples: over seeds too, where there are several.

    With one seed of right and wrong answers the p-value is McNemar's, exact.

    Shapes: (S, N) each, or (1, N) for what has no seeds; clusters (N,) the number of each sample's group.
    """
    limit = 1.0 if is_share(one) and is_share(other) else math.inf
    if len(one) == len(other) == 1:
        pairs = compare_pairs(np.stack([other, one]), clusters)
        if np.isnan(pairs.p_values[0, 1]):
            return Paired(None, None, None, pairs.test)
        low, high = interval_of_pair(pairs, 0, 1, limit)
        return Paired(low, high, float(pairs.p_values[0, 1]), pairs.test)
    return _paired_over_seeds(other - one, clusters, limit)


def _paired_over_seeds(differences: Floats, clusters: NDArray[np.int64] | None, limit: float) -> Paired:
    """As `paired`, from the differences under each seed, (S, N)."""
    # Two rows, one of which is zero, differ by the differences themselves.
    scores = np.stack([differences, np.zeros_like(differences)])
    pairs = compare_pairs(scores, clusters, seeds=SeedVariance.stack([own_seeds(differences, clusters), None]))
    if np.isnan(pairs.p_values[0, 1]):
        return Paired(None, None, None, pairs.test)
    low, high = interval_of_pair(pairs, 0, 1, limit)
    return Paired(low, high, float(pairs.p_values[0, 1]), pairs.test)


def _weigh(board: Board, reader: ScoreReader) -> Board:
    if not any(row.rank is not None for row in board.rows):
        return board
    scored, reason = read_scores(board, lambda row: reader)
    if scored is None:
        return with_choice(replace(board, untested=reason))
    weighed = with_scores(board, scored)
    return replace(weighed, untested=reason, val_excess=_val_excess(board, scored, reader))


def with_scores(board: Board, scored: Scored) -> Board:
    """Return the board with what scores of single test samples say: intervals, gains, groups.

    The scores may come from predictions or from wherever else they were kept.
    """
    ranked = [place for place, row in enumerate(board.rows) if row.rank is not None]
    seeds = seed_variance(scored.scores, scored.clusters) if len(board.seeds) > 1 else None
    shape = scored.shape or shape_of_mean(board.metric, scored.scores)
    rows = list(board.rows)
    for at, place in enumerate(scored.places):
        found = mean_interval(
            scored.scores[at],
            shape=shape,
            clusters=scored.clusters,
            seeds=None if seeds is None else seeds.of_row(at),
            bias=0.0 if scored.bias is None else float(scored.bias[at]),
            least_variance=0.0 if scored.least_variance is None else float(scored.least_variance[at]),
        )
        score = rows[place].score
        if isinstance(found, Interval) and score is not None:
            low, high = (max(0.0, found.low), found.high) if board.metric in NOT_NEGATIVE else (found.low, found.high)
            score = replace(score, ci_low=low, ci_high=high, ci_over=found.over, sample_error=found.sample_error)
            rows[place] = replace(rows[place], score=score)
    pairs = compare_pairs(scored.scores, scored.clusters, seeds=seeds)
    for place, gain in _gains(board, scored, pairs, limit_of(shape)).items():
        rows[place] = replace(rows[place], gain=gain)
    named = {id(row) for row in (board.chosen, board.chosen_fusion, board.chosen_unimodal)}
    first = set(ranked[:MAX_TESTED])
    tested = [at for at, place in enumerate(scored.places) if place in first or id(board.rows[place]) in named]
    among = pairs.take(tested)
    places = [scored.places[at] for at in tested]
    by_sample = scored.scores[tested].mean(axis=(1, 2))
    for at, (group, out_of_order) in enumerate(_groups(among, by_sample, board.direction)):
        rows[places[at]] = replace(rows[places[at]], group=group, out_of_order=out_of_order)
    chosen = next((at for at, place in enumerate(places) if board.rows[place] is board.chosen), None)
    skewness = None
    if chosen is not None:
        if shape == "mean":
            skewness = _skewness(scored.scores[tested[chosen]], scored.clusters)
        for at, differs in enumerate(among.differs[chosen]):
            rows[places[at]] = replace(rows[places[at]], differs=bool(differs))
    board = replace(
        board,
        rows=tuple(rows),
        num_tested=len(tested),
        fewest_positives=scored.fewest,
        skewness=skewness,
        least_gap=detectable_difference(among, 0, 1) if len(tested) > 1 and among.num_pairs else None,
    )
    return with_choice(board, limit_of(shape))


# Scores of single samples


def read_scores(board: Board, reader_of: Callable[[Row], ScoreReader]) -> tuple[Scored | None, str]:
    """Return the scores of the first rows and of those that val chooses; and why some or all ranked rows have none.

    Args:
        board: Whose rows.
        reader_of: Reads the cells of a row.
    """
    ranked = [place for place, row in enumerate(board.rows) if row.rank is not None]
    chosen = list(ranked[:MAX_ROWS])
    needed = [
        place
        for place in ranked
        if any(board.rows[place] is row for row in (board.chosen, board.chosen_fusion, board.chosen_unimodal))
    ]
    chosen += [place for place in needed if place not in chosen]
    first: _RowScores | None = None
    places: list[int] = []
    found: list[_RowScores] = []
    reason, room = "", MAX_NUMBERS
    for place in chosen:
        if room <= 0 and place not in needed:
            continue
        row = board.rows[place]
        scored = _row_scores(board, row, reader_of(row))
        if isinstance(scored, _RowScores) and first is not None and scored.samples != first.samples:
            scored = "cells were tested on different samples"
        if isinstance(scored, str):
            reason = reason or scored
            continue
        first = first or scored
        places.append(place)
        found.append(scored)
        room -= scored.scores.size
    if first is None:
        return None, reason
    return Scored(
        tuple(places),
        np.stack([row.scores for row in found]),
        first.clusters,
        first.shape,
        np.array([row.bias for row in found]),
        np.array([row.least_variance for row in found]),
        _fewest(row.fewest for row in found),
    ), reason


def shape_of_mean(metric: str, scores: Floats) -> Shape:
    """Return how a mean over samples spreads: recall is a chance where candidates tie."""
    if is_share(scores):
        return "share"
    return "unit" if metric.startswith("recall_at_") else "mean"


@dataclass(frozen=True)
class _RowScores:
    """Scores (S, N) of a row, the digest of its samples, the number of each sample's group, and what else is known of
    the influences, mean over seeds.
    """

    scores: Floats
    samples: str
    clusters: NDArray[np.int64] | None
    shape: Shape | None
    bias: float
    least_variance: float
    fewest: int | None


def _row_scores(board: Board, row: Row, reader: ScoreReader, split: str = "test") -> _RowScores | str:
    """Scores of a row under the board's seeds; or in words why there are none."""
    recorded = row.score.by_seed if split == "test" and row.score is not None else row.val_by_seed
    task = ScoredTask(board.task, board.kind, board.num_outputs, board.metric, split)
    by_seed: list[SampleScores] = []
    for seed in board.seeds:
        cell = row.cell_ids[seed]
        found = reader.read(cell, task)
        if isinstance(found, str):
            return found.format(cell=cell)
        if abs(float(found.scores.mean()) - recorded[seed]) > 1e-4 * max(1.0, abs(recorded[seed])):
            return f"the predictions of cell {cell} do not give its recorded {board.metric}"
        if by_seed and found.samples != by_seed[0].samples:
            return "cells were tested on different samples"
        by_seed.append(found)
    return _RowScores(
        np.stack([one.scores for one in by_seed]),
        by_seed[0].samples,
        by_seed[0].groups,
        by_seed[0].shape,
        float(np.mean([one.bias for one in by_seed])),
        float(np.mean([one.least_variance for one in by_seed])),
        _fewest(one.fewest for one in by_seed),
    )


# Statistics


def _gains(board: Board, scored: Scored, pairs: Pairs, limit: float) -> Mapping[int, Gain]:
    """Gains whose interval is over seeds and samples, by place, for rows whose rival was scored too."""
    rivals = {
        (board.rows[place].encoders, board.rows[place].objective): at
        for at, place in enumerate(scored.places)
        if board.rows[place].unimodal
    }
    found = {}
    for at, place in enumerate(scored.places):
        gain = board.rows[place].gain
        rival = rivals.get((gain.over, gain.over_objective)) if gain else None
        if gain is None or rival is None or np.isnan(pairs.p_values[at, rival]):
            continue
        low, high = interval_of_pair(pairs, at, rival, limit)
        if board.direction == "min":
            low, high = -high, -low
        found[place] = replace(gain, ci_low=low, ci_high=high)
    return found


def _groups(pairs: Pairs, means: Floats, direction: str) -> list[tuple[int, bool]]:
    """Group of each row, and whether a row above it stands in a worse one.

    Group 1 is the row that is best on test and all that are not told apart from it; then again for the rest. Every pair
    was tested and adjusted for all pairs: which row is best on test is chance's choice too, so that comparisons with it
    alone are not the ones to count.

    Shapes: means (M,) -> M pairs.
    """
    order = [int(at) for at in np.argsort(means if direction == "min" else -means, kind="stable")]
    groups: dict[int, int] = {}
    left, number = order, 0
    while left:
        number += 1
        different = [other for other in left[1:] if pairs.differs[left[0], other]]
        groups |= dict.fromkeys(set(left) - set(different), number)
        left = different
    worst = np.maximum.accumulate([groups[at] for at in order])
    behind = {at: bool(groups[at] < least) for at, least in zip(order, worst)}
    return [(groups[at], behind[at]) for at in range(len(means))]


def _val_excess(board: Board, scored: Scored, reader: ScoreReader) -> float | None:
    """By how much val exceeds test beyond chance, for the row that val chooses: the lower bound of the difference.

    Two independent sets of samples under the same seeds. The row was chosen for its val score among all ranked rows, so
    the bound holds for all of them at once (Bonferroni).
    """
    chosen = board.chosen
    at = next((at for at, place in enumerate(scored.places) if board.rows[place] is chosen), None)
    if chosen is None or at is None:
        return None
    found = _row_scores(board, chosen, reader, split="val")
    if isinstance(found, str) or found.scores.shape[1] < 2:
        return None
    val = found.scores
    test = scored.scores[at]
    error = math.hypot(_mean_error(val, found.clusters), _mean_error(test, scored.clusters))
    num_ranked = sum(1 for row in board.rows if row.rank is not None)
    student = float(scipy.special.stdtrit(min(val.shape[1], test.shape[1]) - 1, 1 - ALPHA / 2 / num_ranked))
    excess = board.better(float(val.mean()), float(test.mean())) - student * error
    return excess if excess > 0 else None


def _skewness(scores: Floats, clusters: NDArray[np.int64] | None) -> float:
    """Skewness of the mean over samples of the mean over seeds: (S, N) -> a number."""
    by_sample = scores.mean(axis=0)
    return skewness_of_mean(cluster_sums(by_sample - by_sample.mean(), clusters))


def _fewest(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return min(known, default=None)


def _mean_error(scores: Floats, clusters: NDArray[np.int64] | None) -> float:
    """Standard error of the mean over samples of the mean over seeds: (S, N) -> a number."""
    by_sample = scores.mean(axis=0)
    sums = cluster_sums(by_sample - by_sample.mean(), clusters)
    squared = float(np.square(sums).sum()) + (0.5 if is_share(scores) else 0.0)
    return math.sqrt(squared * len(sums) / max(1, len(sums) - 1)) / len(by_sample)
