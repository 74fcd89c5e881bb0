"""Portraits of the best fusions: what each modality is worth, what interactions add, what noise and gaps cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.encoding import parse_json
from mmbench.kept_predictions import load_predictions
from mmbench.report.portrait import Curve, Errors, Modalities, Portrait, Solved
from mmbench.report.predictions import checked_scores
from mmbench.report.tables import Board, Report, Row
from mmbench.store import RECORD_FILE

NUM_PORTRAITS = 8
#: Fusions that stand for late fusion, the first that a run has: MultiBench's own joins vectors, then one hidden layer.
LATE_FUSIONS = ("concat", "decision-average")
_RIGHT = {"multiclass": "accuracy", "multilabel": "exact_match"}
_NOISE = "noise:"


def with_modalities(report: Report, folder: Path) -> Report:
    """Return the report with what the diagnostics of its cells say; a board without any keeps None."""
    return replace(
        report, boards=tuple(replace(board, modalities=modalities(board, folder)) for board in report.boards)
    )


def modalities(board: Board, folder: Path) -> Modalities | None:
    """Return what a board's diagnostics say, or None where its cells have none."""
    places = [
        place
        for place, row in enumerate(board.rows)
        if row.rank is not None and not row.unimodal and (row.diagnostics or row.conditions)
    ][:NUM_PORTRAITS]
    portraits = tuple(_portrait(board, place, folder) for place in places)
    curves = tuple(_curves(board, places))
    errors, units = _errors_and_units(board, folder, {curve.place for curve in curves})
    if not portraits and not curves and errors is None:
        return None
    return Modalities(portraits=portraits, curves=curves, units=units, errors=errors)


def is_subset(condition: str) -> bool:
    """Whether a condition takes whole modalities away."""
    return condition.startswith(("drop:", "only:"))


def cell_info(folder: Path, cell_id: str) -> Mapping[str, Any]:
    """Return the info of a cell's record, or nothing where it cannot be read."""
    try:
        data = parse_json((folder / "cells" / cell_id / RECORD_FILE).read_text(encoding="utf-8"))
        info = data["info"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return info if isinstance(info, Mapping) else {}


def _portrait(board: Board, place: int, folder: Path) -> Portrait:
    row = board.rows[place]
    history = cell_info(folder, next(iter(row.cell_ids.values()))).get("history")
    return Portrait(
        place=place,
        shares={name: row.diagnostics.get(f"shapley:{name}") for name in row.modalities}
        if any(name.startswith("shapley:") for name in row.diagnostics)
        else {},
        emap_gap=row.diagnostics.get("emap_gap"),
        emap=row.conditions.get("emap"),
        emap_precision=row.emap_precision,
        subsets={name: value for name, value in row.conditions.items() if is_subset(name)},
        solved=_solved(board, row, folder),
        gradients=_gradients(history, row.modalities),
    )


def _gradients(history: Any, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    if not isinstance(history, list) or not all(isinstance(item, Mapping) for item in history):
        return {}
    by_epoch = [item.get("grad_norms") for item in history]
    if not by_epoch or not all(isinstance(norms, Mapping) for norms in by_epoch):
        return {}
    found = {}
    for name in names:
        values = [norms.get(name) for norms in by_epoch]  # type: ignore[union-attr]
        if all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            found[name] = tuple(float(value) for value in values)  # type: ignore[arg-type]
    return found if len(found) > 1 else {}


def _solved(board: Board, row: Row, folder: Path) -> Solved | None:
    """Compare with the best row of each of its modalities alone, on the same samples and seeds."""
    metric = _RIGHT.get(board.kind)
    if metric is None:
        return None
    rivals = [
        rival
        for name in row.modalities
        if (rival := next((one for one in board.rows if one.rank is not None and one.modalities == (name,)), None))
    ]
    counts = []
    for seed, cell_id in row.cell_ids.items():
        own = _right(folder, cell_id, board, metric)
        others = [right for rival in rivals if (right := _right(folder, rival.cell_ids.get(seed, ""), board, metric))]
        if own is None or not others or any(set(other) != set(own) for other in others):
            continue
        any_alone = {name: any(other[name] for other in others) for name in own}
        pairs = [(own[name], any_alone[name]) for name in own]
        counts.append([pairs.count(pair) for pair in ((True, False), (False, True), (True, True), (False, False))])
    if not counts:
        return None
    only_fusion, only_single, both, neither = np.mean(counts, axis=0).tolist()
    return Solved(
        only_fusion=only_fusion,
        only_single=only_single,
        both=both,
        neither=neither,
        n=sum(counts[0]),
        modalities=tuple(rival.modalities[0] for rival in rivals),
    )


def _right(folder: Path, cell_id: str, board: Board, metric: str) -> dict[str, bool] | None:
    """Whether each test sample is right, by its id."""
    kept = load_predictions(folder / "cells" / cell_id, board.task) if cell_id else None
    scores = checked_scores(kept, board.kind, metric, board.num_outputs) if kept is not None else None
    return None if kept is None or scores is None else dict(zip(kept.ids, (scores > 0.5).tolist()))


# Curves under noise


def _curves(board: Board, places: Sequence[int]) -> Iterable[Curve]:
    chosen = list(places)
    seen: set[str] = set()
    for place, row in enumerate(board.rows):
        if row.rank is not None and row.unimodal and row.modalities[0] not in seen:
            seen.add(row.modalities[0])
            chosen.append(place)
    late = {place: _late_fusion(board, board.rows[place]) for place in chosen}
    chosen += [place for place in late.values() if place is not None and place not in chosen]
    for place in dict.fromkeys(chosen):
        row = board.rows[place]
        for disturbance, points in _points(row).items():
            severities, scores = zip(*points)
            rival = late.get(place, place if row.fusion in LATE_FUSIONS else None)
            yield Curve(
                place=place,
                disturbance=disturbance,
                severities=severities,
                scores=scores,
                relative=row.diagnostics.get(f"robustness:{disturbance}"),
                effective=None if rival is None else _effective(board, row, board.rows[rival], disturbance),
                late=rival,
            )


def _points(row: Row) -> dict[str, list[tuple[float, float | None]]]:
    """By disturbance: severity and score, the clean one first."""
    found: dict[str, list[tuple[float, float | None]]] = {}
    for name, value in row.conditions.items():
        disturbance, _, severity = name.removeprefix(_NOISE).rpartition("@")
        if name.startswith(_NOISE) and disturbance and (number := _number(severity)) is not None:
            found.setdefault(disturbance, []).append((number, value))
    clean = row.score.mean if row.score else None
    return {name: [(0.0, clean), *sorted(points, key=lambda point: point[0])] for name, points in found.items()}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _late_fusion(board: Board, row: Row) -> int | None:
    """The late fusion of the same encoders under the same objective that was disturbed too."""
    if row.unimodal:
        return None
    for fusion in LATE_FUSIONS:
        for place, other in enumerate(board.rows):
            same = (other.encoders, other.objective) == (row.encoders, row.objective)
            if same and other.fusion == fusion and other.rank is not None and _points(other):
                return place
    return None


def _effective(board: Board, row: Row, late: Row, disturbance: str) -> float | None:
    """Area between a row's curve and its late fusion's, both shifted to start at 0.

    Source: Liang et al. 2021, MultiBench, arXiv:2107.07502; theirs is a sum over levels, ours an area, so that it
    does not depend on how many levels there are.
    """
    lost = []
    for one in (row, late):
        under = one.diagnostics.get(f"robustness:{disturbance}")
        if under is None or one.score is None:
            return None
        lost.append(board.better(under, one.score.mean))
    return lost[0] - lost[1]


# Errors of the row that val chooses


def _errors_and_units(board: Board, folder: Path, disturbed: set[int]) -> tuple[Errors | None, dict[str, str]]:
    best = next((place for place, row in enumerate(board.rows) if row is board.chosen), None)
    errors = None
    if best is not None:
        kept = [_errors_of(cell_info(folder, cell_id), board.task) for cell_id in board.rows[best].cell_ids.values()]
        bins = _joined_bins([item["reliability"] for item in kept if "reliability" in item])
        table = _joined_confusion([item["confusion"] for item in kept if "confusion" in item], board.num_outputs)
        errors = Errors(place=best, bins=bins, confusion=table) if bins else None
    units: dict[str, str] = {}
    for place in disturbed:
        noise = _diagnostics(cell_info(folder, next(iter(board.rows[place].cell_ids.values())))).get("noise")
        if isinstance(noise, Mapping):
            units.update({str(name): str(unit) for name, unit in noise.items()})
    return errors, units


def _joined_bins(cells: Sequence[Any]) -> tuple[tuple[float, float, float], ...]:
    """Bins of all seeds together; () where they are not what `mmbench.diagnostics.calibration` writes."""
    try:
        stacked = np.array(cells, dtype=np.float64)
    except (TypeError, ValueError):
        return ()
    if stacked.ndim != 3 or stacked.shape[2] != 3 or not np.isfinite(stacked).all():
        return ()
    count = stacked[:, :, 0].sum(axis=0)
    weighted = (stacked[:, :, :1] * stacked[:, :, 1:]).sum(axis=0) / np.maximum(count, 1)[:, None]
    return tuple((float(n), float(mean), float(share)) for n, (mean, share) in zip(count, weighted))


def _joined_confusion(cells: Sequence[Any], num_classes: int) -> tuple[tuple[int, ...], ...]:
    try:
        stacked = np.array(cells, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        return ()
    if stacked.ndim != 3 or stacked.shape[1:] != (num_classes, num_classes):
        return ()
    return tuple(tuple(map(int, line)) for line in stacked.sum(axis=0))


def _errors_of(info: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    errors = _diagnostics(info).get("errors")
    found = errors.get(task) if isinstance(errors, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _diagnostics(info: Mapping[str, Any]) -> Mapping[str, Any]:
    found = info.get("diagnostics")
    return found if isinstance(found, Mapping) else {}
