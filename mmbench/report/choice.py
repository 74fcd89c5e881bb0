"""The rows that val chooses, with intervals that allow for the luck of seeds that val and test share."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmbench.report.tables import Board, Row

Floats: TypeAlias = NDArray[np.float64]


def with_choice(board: Board, limit: float = math.inf) -> Board:
    """Return the board with wider intervals for the rows that val chooses and for the chosen fusion's gain.

    Samples of test know nothing of the choice on val, but seeds do: a row that val prefers for its lucky seeds has the
    same luck on test. By as much as that luck is estimated (`luck_of_choice`) the interval reaches further towards
    worse. With one seed the score is that one model's, and nothing is shared.

    Args:
        board: Whose rows.
        limit: Largest gain that there can be, such as 1 for shares.
    """
    if len(board.seeds) < 2:
        return board
    chosen = {id(row): row for row in (board.chosen_fusion, board.chosen_unimodal) if row is not None}
    luck = {key: _luck(board, row) for key, row in chosen.items()}
    fusion, rival = board.chosen_fusion, board.chosen_unimodal
    rows = [_widened(row, board, luck[id(row)]) if id(row) in chosen else row for row in board.rows]
    if fusion is not None and rival is not None:
        rows = [_gain_widened(row, fusion, luck[id(fusion)], luck[id(rival)], limit) for row in rows]
    return replace(board, rows=tuple(rows))


def luck_of_choice(val: Floats, test: Floats, chosen: int) -> float:
    """Return by how much the chosen row's test mean is expected to exceed its mean over all seeds; not below 0.

    Rows that nothing tells apart differ on val by their samples and by the luck of their seeds. Of the chosen row's
    lead on val the seeds' share is the covariance of val and test over the seeds of a row, pooled over rows, against
    the variance of the rows' means on val: a regression to the mean.

    Shapes: val (M, S), test (M, S), larger is better, of the rows that are not told apart from the chosen one.
    """
    num_rows, num_seeds = val.shape
    if num_rows < 2 or num_seeds < 2:
        return 0.0
    inner = (val - val.mean(axis=1, keepdims=True)) * (test - test.mean(axis=1, keepdims=True))
    shared = float(inner.sum()) / (num_rows * (num_seeds - 1)) / num_seeds  # of a mean over seeds
    means = val.mean(axis=1)
    spread = float(means.var(ddof=1))
    if shared <= 0 or spread <= 0:
        return 0.0
    return min(shared / spread, 1.0) * max(0.0, float(means[chosen] - means.mean()))


def _luck(board: Board, chosen: Row) -> float:
    """As `luck_of_choice`, among the rows with as many modalities that are not told apart from the chosen one."""
    assert chosen.score is not None
    seeds = board.seeds
    rivals = [
        row
        for row in board.rows
        if row.rank is not None
        and row.unimodal == chosen.unimodal
        and set(seeds) <= set(row.val_by_seed)
        and (row is chosen or _close(row, chosen))
    ]
    if not any(row is chosen for row in rivals):
        return 0.0  # chosen on test, for want of val
    sign = -1.0 if board.direction == "min" else 1.0
    val = sign * np.array([[row.val_by_seed[seed] for seed in seeds] for row in rivals])
    test = sign * np.array([[row.score.by_seed[seed] for seed in seeds] for row in rivals if row.score is not None])
    return luck_of_choice(val, test, next(at for at, row in enumerate(rivals) if row is chosen))


def _close(row: Row, chosen: Row) -> bool:
    """Whether nothing tells two rows apart on test: neither their groups nor, without any, their intervals."""
    if row.group is not None and chosen.group is not None:
        return row.group == chosen.group
    one, other = row.score, chosen.score
    if one is None or other is None or None in (one.ci_low, one.ci_high, other.ci_low, other.ci_high):
        return True
    assert one.ci_low is not None and one.ci_high is not None and other.ci_low is not None and other.ci_high is not None
    return one.ci_low <= other.ci_high and other.ci_low <= one.ci_high


def _widened(row: Row, board: Board, luck: float) -> Row:
    score = row.score
    if score is None or score.ci_low is None or score.ci_high is None:
        return row
    if board.direction == "min":
        return replace(row, score=replace(score, ci_high=score.ci_high + luck))
    low = score.ci_low - luck
    low = max(low, 0.0) if score.ci_low >= 0 else low
    return replace(row, score=replace(score, ci_low=low))


def _gain_widened(row: Row, fusion: Row, own: float, rivals: float, limit: float) -> Row:
    """A gain is a difference: the fusion's luck makes it too large, the rival's too small."""
    gain = row.gain
    if gain is None or gain.ci_low is None or gain.ci_high is None:
        return row
    is_chosen = (row.encoders, row.fusion, row.objective) == (fusion.encoders, fusion.fusion, fusion.objective)
    low = gain.ci_low - (own if is_chosen else 0.0)
    return replace(row, gain=replace(gain, ci_low=max(low, -limit), ci_high=min(gain.ci_high + rivals, limit)))
