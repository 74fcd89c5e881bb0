"""Scores of subgroups of the test samples, the worst one, and how far it is below the rest, from kept predictions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import scipy.special
from numpy.typing import NDArray

from mmbench.influence import Influence, Shape, influence_of
from mmbench.kept_predictions import Predictions, load_predictions
from mmbench.metric_catalog import METRICS
from mmbench.record import Metric, Record
from mmbench.report.by_class import Estimate
from mmbench.report.intervals import Interval, drawn_anew, mean_interval
from mmbench.report.predictions import clusters_of, row_predictions
from mmbench.report.statistics import holm
from mmbench.report.variance import RowSeeds, moderated, residual_variance
from mmbench.run_subgroups import Subgroups, read_subgroups

if TYPE_CHECKING:
    from mmbench.report.tables import Board, Report
    from mmbench.store import RunStore

Floats: TypeAlias = NDArray[np.float64]
Clusters: TypeAlias = "NDArray[np.int64] | None"

#: A subgroup with fewer test samples is shown, but not tested and not named as the worst.
MIN_SAMPLES = 10
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class SubgroupScore:
    """One subgroup under one row.

    Attributes:
        column: Of the table, or several joined by "*".
        name: The column's value.
        num_samples: Test samples of the subgroup.
        score: The board's metric on them, mean over seeds, with its 95 % interval.
        gap: By how much all other samples of the column do better; negative where the subgroup does better.
        p_value: Of no gap, adjusted over the row's subgroups by Holm's method; None where nothing tests it.
    """

    column: str
    name: str
    num_samples: int
    score: Estimate
    gap: Estimate
    p_value: float | None = None

    @property
    def differs(self) -> bool:
        """Whether chance is an unlikely explanation of the gap."""
        return self.p_value is not None and self.p_value < ALPHA


@dataclass(frozen=True, kw_only=True)
class SubgroupTable:
    """The subgroups under one row of a board.

    Attributes:
        place: Of the row.
        groups: By column, then by name.
        worst: Position in `groups` of the subgroup with the worst score, of those with enough samples; None without.
        over: What the intervals are over, as in `Score`.
    """

    place: int
    groups: tuple[SubgroupScore, ...]
    worst: int | None
    over: str


def with_subgroups(report: Report, folder: Path) -> Report:
    """Return the report with the subgroup tables of its boards; a board without subgroups or predictions has none."""
    known = read_subgroups(folder)
    return replace(
        report,
        boards=tuple(
            replace(board, subgroups=subgroup_tables(board, known[board.dataset], folder))
            if board.dataset in known
            else board
            for board in report.boards
        ),
    )


def subgroup_tables(board: Board, subgroups: Subgroups, folder: Path) -> tuple[SubgroupTable, ...]:
    """Return tables for the row that is best on val, then for that of each single modality."""
    modalities = dict.fromkeys(row.modalities for row in board.rows if row.unimodal)
    best = [board.best_on_val(row for row in board.rows if row.modalities == names) for names in modalities]
    rows = [row for row in (board.chosen, *best) if row is not None]
    places = dict.fromkeys(place for row in rows for place, other in enumerate(board.rows) if other is row)
    found = (_table(board, place, subgroups, folder) for place in places)
    return tuple(table for table in found if table is not None)


def _table(board: Board, place: int, subgroups: Subgroups, folder: Path) -> SubgroupTable | None:
    by_seed = list(row_predictions(board.rows[place], board.task, folder))
    kept = [one for one in by_seed if one is not None]
    if not kept or len(kept) < len(by_seed):
        return None
    clusters = clusters_of(kept[0], board.kind)
    groups: list[SubgroupScore] = []
    tests: list[tuple[int, ...]] = []  # positions; the two values of a column have one test in common
    for column, values in subgroups.items():
        named = np.array([values.get(sample, "") for sample in kept[0].ids], dtype=object)
        found = _column(board, kept, column, named, clusters)
        first = len(groups)
        groups += found
        tested = [at for at, group in enumerate(groups) if at >= first and group.p_value is not None]
        tests += [tuple(tested)] if len(found) == 2 and tested else [(at,) for at in tested]
    if not groups or all(group.score.value is None for group in groups):
        return None
    adjusted = holm([float(groups[places[0]].p_value or 0.0) for places in tests]) if tests else np.empty(0)
    for places, p_value in zip(tests, adjusted.tolist()):
        for at in places:
            groups[at] = replace(groups[at], p_value=p_value)
    return SubgroupTable(
        place=place,
        groups=tuple(groups),
        worst=_worst(groups, board),
        over=drawn_anew(len(kept), clustered=clusters is not None),
    )


def _column(
    board: Board, kept: Sequence[Predictions], column: str, named: NDArray[Any], clusters: Clusters
) -> list[SubgroupScore]:
    """Return the subgroups of one column, with p-values that are not adjusted yet."""
    known = named != ""
    names = sorted(set(named[known].tolist()))
    parts = [(known & (named == name), known & (named != name)) for name in names]
    scores = _with_seeds([_scored(board, kept, inside, clusters) for inside, _ in parts])
    gaps = _with_seeds([_gap(board, kept, inside, rest, clusters) for inside, rest in parts])
    return [
        SubgroupScore(
            column=column,
            name=name,
            num_samples=int(inside.sum()),
            score=_estimate(score)[0],
            gap=_estimate(gap)[0],
            p_value=_estimate(gap)[1] if min(int(inside.sum()), int(rest.sum())) >= MIN_SAMPLES else None,
        )
        for name, (inside, rest), score, gap in zip(names, parts, scores, gaps)
    ]


def _worst(groups: Sequence[SubgroupScore], board: Board) -> int | None:
    known = [
        (at, group.score.value)
        for at, group in enumerate(groups)
        if group.score.value is not None and group.num_samples >= MIN_SAMPLES
    ]
    if not known:
        return None
    return (max if board.direction == "min" else min)(known, key=lambda item: item[1])[0]


def _influences(
    kind: str, metric: str, num_outputs: int, kept: Iterable[Predictions], mask: NDArray[np.bool_]
) -> list[Influence] | None:
    """Return the influences of some samples under every seed; None where the metric is not defined on them."""
    found: list[Influence] = []
    for one in kept:
        try:
            influence = influence_of(kind, metric, *one.of_samples(mask), num_outputs) if mask.any() else None
        except (IndexError, ValueError, TypeError, ZeroDivisionError):  # what was kept does not fit the task
            influence = None
        if influence is None or not np.isfinite(influence.each).all():
            return None
        found.append(influence)
    return found


@dataclass(frozen=True)
class _Scores:
    """The arguments of `mean_interval`, of which `each`, (S, N), is the first."""

    each: Floats
    shape: Shape
    clusters: Clusters
    bias: float
    least_variance: float
    seeds: RowSeeds | None = None


def _scored(board: Board, kept: Sequence[Predictions], mask: NDArray[np.bool_], clusters: Clusters) -> _Scores | None:
    """Return the scores of a subgroup; None where the metric is not defined on it."""
    found = _influences(board.kind, board.metric, board.num_outputs, kept, mask)
    if found is None:
        return None
    return _Scores(
        np.stack([item.value + item.each for item in found]),
        found[0].shape,
        None if clusters is None else clusters[mask],
        float(np.mean([item.bias for item in found])),
        float(np.mean([item.least_variance for item in found])),
    )


def _gap(
    board: Board,
    kept: Sequence[Predictions],
    inside: NDArray[np.bool_],
    rest: NDArray[np.bool_],
    clusters: Clusters,
) -> _Scores | None:
    """Return by how much the rest is better, as scores whose mean is the gap.

    Both parts are independent samples: a sample's influence on the gap is that on its own part's score. Shares of 0
    and 1 show no variance of their own and are given that with one more right and one more wrong sample.
    """
    own = _influences(board.kind, board.metric, board.num_outputs, kept, inside)
    others = _influences(board.kind, board.metric, board.num_outputs, kept, rest)
    if own is None or others is None:
        return None
    sign = -1.0 if board.direction == "min" else 1.0
    num = int(inside.sum() + rest.sum())
    both = inside | rest
    scores = np.empty((len(own), num))
    for seed, (one, other) in enumerate(zip(own, others)):
        each = np.empty(len(inside))
        each[inside] = -sign * one.each * num / inside.sum()
        each[rest] = sign * other.each * num / rest.sum()
        scores[seed] = sign * (other.value - one.value) + each[both]
    least_variance = _least_variance(own, int(inside.sum())) + _least_variance(others, int(rest.sum()))
    return _Scores(scores, "mean", None if clusters is None else clusters[both], 0.0, least_variance)


def _with_seeds(found: Sequence[_Scores | None]) -> list[_Scores | None]:
    """Return scores with their variance over seeds, pooled over the subgroups of a column.

    Few seeds say little of one subgroup's own variance over seeds. Larger subgroups vary less: variances are pooled as
    those of subgroups of one size. None is below what other test samples would change (`RowSeeds.residual`).
    """
    known = [item for item in found if item is not None and item.each.shape[1] > 1]
    if not known or len(known[0].each) < 2:
        return list(found)
    sizes = np.array([1 / _sample_variance(item) for item in known])
    scale = sizes / sizes.mean()
    own = np.array([item.each.mean(axis=1).var(ddof=1) for item in known])
    residual = np.array([float(residual_variance(item.each[None], item.clusters)[0]) for item in known])
    pooled = moderated(own * scale, residual * scale, len(known[0].each) - 1)
    seeds = {
        id(item): RowSeeds(
            max(float(pooled.variance[at] / scale[at]), float(residual[at])),
            float(pooled.degrees[at]),
            float(residual[at]),
        )
        for at, item in enumerate(known)
    }
    return [item if item is None else replace(item, seeds=seeds.get(id(item))) for item in found]


def _sample_variance(item: _Scores) -> float:
    """Return the variance of one seed's score from its samples, mean over seeds; above 0."""
    spread = float(np.square(item.each - item.each.mean(axis=1, keepdims=True)).mean()) / item.each.shape[1]
    return max(spread + item.least_variance, 1e-12)


def _estimate(scores: _Scores | None) -> tuple[Estimate, float | None]:
    """Return the mean over seeds and samples with its interval, and the p-value of its being 0."""
    if scores is None:
        return Estimate(value=None), None
    interval = mean_interval(
        scores.each,
        shape=scores.shape,
        clusters=scores.clusters,
        seeds=scores.seeds,
        bias=scores.bias,
        least_variance=scores.least_variance,
    )
    value = float(scores.each.mean())
    if not isinstance(interval, Interval):
        return Estimate(value=value), None
    # The interval reaches a Student's quantile of standard errors to either side.
    degrees = (scores.each.shape[1] if scores.clusters is None else len(np.unique(scores.clusters))) - 1
    error = (interval.high - interval.low) / 2 / float(scipy.special.stdtrit(degrees, 0.975))
    p_value = 2 * float(scipy.special.stdtr(degrees, -abs(value) / error)) if error > 0 else float(value == 0)
    return Estimate(value=value, low=interval.low, high=interval.high), p_value


def _least_variance(found: Sequence[Influence], num: int) -> float:
    """Return the variance to add to that of a score: a share's as Agresti and Coull smooth it, else what it says."""
    if found[0].shape != "share":
        return float(np.mean([item.least_variance for item in found]))
    share = float(np.mean([item.value for item in found]))
    smooth = (share * num + 1) / (num + 2)
    return max(smooth * (1 - smooth) - share * (1 - share), 0.0) / num


def significant_worst(table: SubgroupTable) -> SubgroupScore | None:
    """Return the worst subgroup if a test tells it apart from the rest, else None."""
    worst = None if table.worst is None else table.groups[table.worst]
    return worst if worst is not None and worst.differs and (worst.gap.value or 0.0) > 0 else None


def with_subgroup_metrics(
    records: Mapping[str, Record],
    store: RunStore,
) -> dict[str, Record]:
    """Return records with every metric of each subgroup, as conditions such as "subgroup:sex=F", for the export.

    Cells without kept predictions keep what they have; calibration error and median rank are not given by subgroup.
    """
    known = read_subgroups(store.folder)
    found = dict(records)
    datasets = store.datasets() if known else {}
    for row in store.planned() if known else ():
        record = found.get(row["cell_id"])
        subgroups = known.get(row["dataset"])
        if record is None or not subgroups:
            continue
        more = [
            metric
            for task in datasets.get(row["dataset"], {}).get("tasks", ())
            for metric in _cell_metrics(row["cell_id"], task, subgroups, store.folder)
        ]
        found[row["cell_id"]] = replace(record, metrics=(*record.metrics, *more))
    return found


def _cell_metrics(cell_id: str, task: Mapping[str, Any], subgroups: Subgroups, folder: Path) -> Iterator[Metric]:
    kept = load_predictions(folder / "cells" / cell_id, str(task.get("name", "")))
    if kept is None or not kept.is_whole:
        return
    for column, values in subgroups.items():
        named = np.array([values.get(sample, "") for sample in kept.ids], dtype=object)
        for name in sorted(set(named.tolist()) - {""}):
            mask = named == name
            for spec in METRICS.get(task.get("kind", ""), ()):
                found = _influences(str(task.get("kind", "")), spec.name, int(task.get("num_outputs", 0)), [kept], mask)
                if found is not None and math.isfinite(found[0].value):
                    yield Metric(
                        phase="evaluate",
                        name=spec.name,
                        value=found[0].value,
                        split="test",
                        condition=f"subgroup:{column}={name}",
                        task=str(task.get("name", "")),
                        unit=spec.unit,
                        direction=spec.direction,
                        n=int(mask.sum()),
                    )
