"""What the kept predictions prove: intervals over seeds and test samples, paired tests, groups that differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmbench.kept_predictions import load_predictions
from mmbench.report.intervals import Interval, draws, interval_of_draws, is_share, mean_interval
from mmbench.report.predictions import checked_scores, order_of
from mmbench.report.statistics import holm, mcnemar, minimum_detectable_difference
from mmbench.report.tables import Board, Gain, Report, Row

Floats: TypeAlias = NDArray[np.float64]

#: Rows that get an interval over seeds and samples, and rows that are compared in pairs; the rest is further down.
MAX_ROWS = 1000
MAX_TESTED = 150
#: Numbers held at once: rows x seeds x samples.
MAX_NUMBERS = 20_000_000
RESAMPLES = 2000
#: Holm's method over 150 tests needs p-values that go well below 0.05 / 150.
TEST_RESAMPLES = 10_000
ALPHA = 0.05


@dataclass(frozen=True)
class _Scored:
    """Scores of rows on the same test samples.

    Attributes:
        places: Positions of the rows in the board.
        scores: (M, S, N), what each sample adds to the metric's mean under each seed.
    """

    places: tuple[int, ...]
    scores: Floats


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
    """Return the report with intervals, gains and groups that rest on the predictions of each test sample.

    A board keeps what it has, and says why, where its metric is no mean over samples or predictions are not there.
    """
    return replace(report, boards=tuple(_weigh(board, folder) for board in report.boards))


def paired(one: Floats, other: Floats) -> Paired:
    """Test the difference "other minus one" on the same samples: over seeds too, where there are several.

    The interval is `mean_interval`'s; with one seed of right and wrong answers the p-value is McNemar's, exact.

    Shapes: (S, N) each, or (1, N) for what has no seeds.
    """
    found = mean_interval(other - one)
    if not isinstance(found, Interval):
        return Paired(None, None, None, found.reason)
    p_value, test = found.p_value, f"paired bootstrap over {found.over}"
    if len(one) == len(other) == 1 and is_share(one) and is_share(other):
        p_value, test = mcnemar(one[0] > 0, other[0] > 0).p_value, "exact McNemar"
    return Paired(found.low, found.high, p_value, test)


def _weigh(board: Board, folder: Path) -> Board:
    ranked = [place for place, row in enumerate(board.rows) if row.rank is not None]
    if not ranked:
        return board
    scored, reason = _scored(board, ranked, folder)
    if scored is None:
        return replace(board, untested=reason)
    tested = [at for at, place in enumerate(scored.places) if place in set(ranked[:MAX_TESTED])]
    rows = list(board.rows)
    drawn = _draw(scored.scores, RESAMPLES)  # (R, M, S)
    by_seed = scored.scores.mean(axis=2)  # (M, S)
    for at, place in enumerate(scored.places):
        row = rows[place]
        assert row.score is not None
        answers = scored.scores.shape[2] if is_share(scored.scores[at]) else 0
        found = interval_of_draws(by_seed[at], drawn[:, at], num_answers=answers)
        if isinstance(found, Interval):
            rows[place] = replace(
                row, score=replace(row.score, ci_low=found.low, ci_high=found.high, ci_over=found.over)
            )
    for place, gain in _gains(board, scored, by_seed, drawn).items():
        rows[place] = replace(rows[place], gain=gain)
    for at, group in _groups(scored.scores[tested], board.direction).items():
        place = scored.places[tested[at]]
        rows[place] = replace(rows[place], group=group)
    return replace(
        board,
        rows=tuple(rows),
        num_tested=len(tested),
        untested=reason,
        least_gap=_least_gap(scored.scores[tested[:2]]),
    )


# Predictions


def _scored(board: Board, ranked: Sequence[int], folder: Path) -> tuple[_Scored | None, str]:
    """Scores of the first rows and of the best single modality; and why some or all ranked rows have none."""
    chosen = list(ranked[:MAX_ROWS])
    rival = next((place for place in ranked if board.rows[place].unimodal), None)
    if rival is not None and rival not in chosen:
        chosen.append(rival)
    reference: tuple[str, ...] | None = None
    places: list[int] = []
    found: list[Floats] = []
    reason, room = "", MAX_NUMBERS
    for place in chosen:
        if room <= 0 and place != rival:
            continue
        scores, ids, why = _row_scores(board, board.rows[place], folder, reference)
        if scores is None:
            reason = reason or why
            continue
        reference = reference or ids
        places.append(place)
        found.append(scores)
        room -= scores.size
    if not found:
        return None, reason
    return _Scored(tuple(places), np.stack(found)), reason


def _row_scores(
    board: Board, row: Row, folder: Path, reference: tuple[str, ...] | None
) -> tuple[Floats | None, tuple[str, ...], str]:
    """Scores (S, N) of a row under the board's seeds in the order of the reference's samples; or why there are none."""
    assert row.score is not None
    by_seed = []
    for seed in board.seeds:
        kept = load_predictions(folder / "cells" / row.cell_ids[seed], board.task)
        if kept is None:
            return None, (), f"the predictions of cell {row.cell_ids[seed]} are not there or cannot be read"
        scores = checked_scores(kept, board.kind, board.metric, board.num_outputs)
        if scores is None:
            return None, (), f"{board.metric} is no mean over samples, so single samples say nothing about it"
        if abs(float(scores.mean()) - row.score.by_seed[seed]) > 1e-4 * max(1.0, abs(row.score.by_seed[seed])):
            return None, (), f"the predictions of cell {row.cell_ids[seed]} do not give its recorded {board.metric}"
        reference = reference or kept.ids
        order = order_of(kept.ids, reference)
        if order is None:
            return None, (), "cells were tested on different samples"
        by_seed.append(scores[order])
    return np.stack(by_seed), reference or (), ""


# Statistics on one set of draws


def _draw(scores: Floats, resamples: int) -> Floats:
    """Means over resampled test samples, the same resamples for every row and seed: (M, S, N) -> (R, M, S)."""
    num_rows, num_seeds, num_samples = scores.shape
    flat = scores.reshape(num_rows * num_seeds, num_samples)
    parts = [times @ flat.T / num_samples for times in draws(num_samples, resamples)]
    drawn: Floats = np.concatenate(parts).reshape(-1, num_rows, num_seeds)
    return drawn


def _gains(board: Board, scored: _Scored, by_seed: Floats, drawn: Floats) -> Mapping[int, Gain]:
    """Gains whose interval is over seeds and samples, by place, for rows whose rival was scored too."""
    sign = -1.0 if board.direction == "min" else 1.0
    rivals = {
        (board.rows[place].encoders, board.rows[place].objective): at
        for at, place in enumerate(scored.places)
        if board.rows[place].unimodal
    }
    found = {}
    for at, place in enumerate(scored.places):
        gain = board.rows[place].gain
        rival = rivals.get((gain.over, gain.over_objective)) if gain else None
        if gain is None or rival is None:
            continue
        interval = interval_of_draws(sign * (by_seed[at] - by_seed[rival]), sign * (drawn[:, at] - drawn[:, rival]))
        if isinstance(interval, Interval):
            found[place] = replace(gain, ci_low=interval.low, ci_high=interval.high)
    return found


def _groups(scores: Floats, direction: str) -> dict[int, int]:
    """Group of each row: 1 for the best and all that do not differ from it significantly, then again for the rest.

    In each round every row is compared with the round's best on the same samples and seeds, adjusted by Holm's method
    for the number of comparisons (multiple comparisons with the best). With one seed and right-or-wrong answers the
    test is McNemar's, exact; else the interval of the paired difference.

    Shapes: (M, S, N) -> {row: group}.
    """
    by_seed = scores.mean(axis=2)
    means = by_seed.mean(axis=1)
    order = [int(at) for at in np.argsort(means if direction == "min" else -means, kind="stable")]
    binary = scores.shape[1] == 1 and set(np.unique(scores)) <= {0.0, 1.0}
    drawn = None if binary or len(order) < 2 or scores.shape[2] < 2 else _draw(scores, TEST_RESAMPLES)

    def p_value(one: int, other: int) -> float:
        if binary:
            return mcnemar(scores[one, 0], scores[other, 0]).p_value
        if drawn is None:
            return math.nan
        found = interval_of_draws(by_seed[one] - by_seed[other], drawn[:, one] - drawn[:, other])
        return found.p_value if isinstance(found, Interval) else math.nan

    groups: dict[int, int] = {}
    left = order
    number = 0
    while left:
        number += 1
        best, others = left[0], left[1:]
        adjusted = holm([p_value(best, other) for other in others]).tolist() if others else []
        # A comparison that could not be made tells nothing apart.
        different = [other for other, p in zip(others, adjusted) if p < ALPHA]
        groups |= dict.fromkeys(set(left) - set(different), number)
        left = different
    return groups


def _least_gap(scores: Floats) -> float | None:
    """Smallest difference between the first two rows that a paired test on these samples would probably find."""
    if len(scores) < 2 or scores.shape[2] < 2:
        return None
    differences = scores[0].mean(axis=0) - scores[1].mean(axis=0)
    std = float(differences.std(ddof=1))
    return minimum_detectable_difference(std, scores.shape[2]) if std > 0 else None
