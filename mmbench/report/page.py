"""What the HTML page shows, as plain JSON: rows as lists beside the names of their fields, texts cleaned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmbench.data_card import card_lines
from mmbench.record import DONE
from mmbench.report.answer import answer, board_answer, cautions, combo, metric_words, spread, worst_subgroup
from mmbench.report.by_class import ClassTable, class_rows
from mmbench.report.by_subgroup import SubgroupTable
from mmbench.report.decisions import tuned_words
from mmbench.report.intervals import Undefined
from mmbench.report.looked_at import MAX_PAGE_BYTES, looked_at
from mmbench.report.markdown import critical_words, told_apart
from mmbench.report.markdown_modalities import gap_words
from mmbench.report.methods import across_datasets
from mmbench.report.modalities import cell_info, is_subset
from mmbench.report.outcomes import split_encoders
from mmbench.report.portrait import Curve, Modalities, Portrait
from mmbench.report.provenance import provenance
from mmbench.report.reproduce import reproduce, row_command
from mmbench.report.tables import Board, Problem, Report, Row
from mmbench.report.text import MAX_NAME, clean, named, number, p_value, signed
from mmbench.report.timing_claims import footnotes, mark

#: Rows whose learning curves and stage times are drawn, besides the best of each single modality.
NUM_CURVES = 8
MAX_PROBLEMS = 200
MAX_LABEL = 500

ROW_FIELDS = (
    "rank", "group", "encoders", "fusion", "objective", "mean", "std", "low", "high", "val", "gain", "gainLow",
    "gainHigh", "over", "scores", "cells", "complete", "status", "reason", "command",
    "tuned", "outOfOrder", "chosen", "disturbed", "doubtful",
)  # fmt: skip

#: What a row may cost, in the order of the axes: name, words, kind of number, direction.
_COSTS: tuple[tuple[str, str, str, str], ...] = (
    ("latency_p50_s", "latency, batch of 1, median", "s", "min"),
    ("latency_p95_s", "latency, batch of 1, 95th percentile", "s", "min"),
    ("throughput_samples_per_s", "inference throughput (samples/s)", "count", "max"),
    ("step_time_s", "training step", "s", "min"),
    ("train_time_s", "training time", "s", "min"),
    ("train_throughput_samples_per_s", "training throughput (samples/s)", "count", "max"),
    ("num_parameters_trainable", "trainable parameters", "count", "min"),
    ("num_parameters_registered", "parameters, those that stand still included", "count", "min"),
    ("flops_per_sample", "FLOPs per sample", "count", "min"),
    ("inference_peak_memory_allocated_bytes", "GPU memory, inference", "bytes", "min"),
    ("training_peak_memory_allocated_bytes", "GPU memory, training", "bytes", "min"),
    ("model_memory_bytes", "memory of the model's weights", "bytes", "min"),
    ("energy_per_sample_j", "energy per sample (J)", "number", "min"),
)
_STAGE = "stage_time_s:"


def page_data(report: Report, folder: Path | None = None) -> dict[str, Any]:
    """Return everything the page shows.

    Args:
        report: What was found.
        folder: Of the run, for learning curves; without it there are none.
    """
    return {
        "run": named(report.run),
        "answer": answer(report),
        "numDone": report.num_done,
        "numPlanned": report.num_planned,
        "statuses": dict(report.statuses),
        "rowFields": list(ROW_FIELDS),
        "boards": [_board(board, report, folder) for board in report.boards],
        "overview": [_overview(board) for board in report.boards] if len(report.boards) > 1 else [],
        "across": _across(report),
        "failures": [_problem(item) for item in report.failures[:MAX_PROBLEMS]],
        "impossible": [_problem(item) for item in report.impossible[:MAX_PROBLEMS]],
        "numFailures": len(report.failures),
        "numImpossible": len(report.impossible),
        "data": [[named(line.strip(), 1000) for line in card_lines(card)] for card in report.cards],
        "provenance": [list(line) for line in provenance(report.provenance) if line[0] != "Command"],
        "command": clean(reproduce(report.provenance), 2000),
    }


def _board(board: Board, report: Report, folder: Path | None) -> dict[str, Any]:
    names: dict[str, int] = {}
    columns = _columns(board)
    shown = _highlighted(board)
    return {
        "dataset": named(board.dataset),
        "task": named(board.task),
        "first": board.first,
        "summary": clean(board.summary),
        "answer": board_answer(board),
        "cautions": cautions(board),
        "footnotes": footnotes(board),
        "metric": metric_words(board.metric),
        "direction": board.direction or "max",
        "numTest": board.num_test,
        "seeds": list(board.seeds),
        "floor": _rounded(board.floor.mean) if board.floor else None,
        "ceilings": [[named(name), _rounded(float(value))] for name, value in board.ceilings.items()],
        "numDone": board.num_done,
        "numPlanned": board.num_planned,
        "statuses": dict(board.statuses),
        "columns": [{"key": key, "words": words, "kind": kind, "direction": way} for key, words, kind, way in columns],
        "rows": [_row(board, row, names, report, columns) for row in board.rows],
        "names": list(names),
        "curves": _curves(board, shown, folder) if folder is not None else [],
        "stages": _stages(board, shown),
        "conditions": _conditions(board, shown),
        "modalities": _modalities(board.modalities, board) if board.modalities else None,
        "subgroups": [_subgroup_table(board, table) for table in board.subgroups],
        "classes": _classes(board.classes, board.kind) if board.classes else None,
        "lookedAt": looked_at(board, folder, MAX_PAGE_BYTES // len(report.boards)) if folder is not None else [],
    }


def _across(report: Report) -> dict[str, Any] | None:
    """Methods over datasets, with the critical difference or the reason why there is none."""
    found = across_datasets(report)
    if found is None:
        return None
    critical = found.critical
    return {
        "datasets": [named(name) for name in found.datasets],
        "leftOut": [named(name) for name in found.left_out],
        "methods": [
            {
                "name": named(method.name),
                "rank": _rounded(method.mean_rank),
                "wins": _rounded(method.win_rate),
                "iqm": [_rounded(value) for value in (method.iqm, method.iqm_low, method.iqm_high)],
                "scores": [_rounded(value) for value in method.scores],
            }
            for method in found.methods
        ],
        "words": critical_words(found),
        "critical": None
        if isinstance(critical, Undefined)
        else {
            "difference": _rounded(critical.critical_difference),
            "p": _rounded(critical.friedman.f_p_value),
            "groups": [list(group) for group in critical.groups],
        },
    }


def _overview(board: Board) -> dict[str, Any]:
    """A dataset and task in one line of text fields."""
    chosen, fusion, single = board.chosen, board.chosen_fusion, board.chosen_unimodal
    return {
        "name": named(board.dataset if board.first else f"{board.dataset}: {board.task}", 2 * MAX_NAME),
        "best": combo(chosen) if chosen else "nothing ranked yet",
        "metric": metric_words(board.metric),
        "score": spread(chosen.score) if chosen else "–",
        "single": number(single.score.mean if single and single.score else None),
        "floor": number(board.floor.mean if board.floor else None),
        "gain": signed(fusion.gain.value) if fusion and fusion.gain else "–",
        "level": told_apart(board),
        "cells": f"{board.num_done}/{board.num_planned}",
    }


def _row(
    board: Board, row: Row, names: dict[str, int], report: Report, columns: Sequence[tuple[str, str, str, str]]
) -> list[Any]:
    def name(text: str) -> int:
        return names.setdefault(named(text, MAX_LABEL), len(names))

    score, gain = row.score, row.gain
    encoders = [[name(modality), name(encoder)] for modality, encoder in split_encoders(row.encoders).items()]
    status = None if set(row.statuses) <= set(DONE) else [[key, count] for key, count in row.statuses.items()]
    fields: list[Any] = [
        row.rank,
        row.group,
        encoders,
        name(row.fusion),
        name(row.objective),
        *([_rounded(value) for value in (score.mean, score.std, score.ci_low, score.ci_high)] if score else [None] * 4),
        _rounded(row.val),
        *([_rounded(value) for value in (gain.value, gain.ci_low, gain.ci_high)] if gain else [None] * 3),
        [name(gain.over), gain.num_compared, gain.num_planned] if gain else None,
        [[seed, _rounded(value)] for seed, value in score.by_seed.items()] if score else [],
        list(row.cell_ids.values()),
        row.complete,
        status,
        clean(row.reason) if row.reason else None,
        row_command(row, board, report),
        tuned_words(row.tuned) or None,
        row.out_of_order,
        row is board.chosen,
        [key for key, *_ in columns if mark(row, key)],
        [key for key, *_ in columns if (timing := row.timings.get(key)) is not None and timing.doubtful],
    ]
    assert len(fields) == len(ROW_FIELDS)
    return [*fields, *(_rounded(row.numbers.get(key)) for key, *_ in columns)]


def _columns(board: Board) -> list[tuple[str, str, str, str]]:
    """What some row knows: costs, then the other metrics."""
    known: dict[str, None] = {}
    for row in board.rows:
        known.update(dict.fromkeys(key for key, value in row.numbers.items() if value is not None))
    costs = [column for column in _COSTS if column[0] in known]
    skipped = {column[0] for column in _COSTS}
    others = [
        (key, metric_words(key), "number", "min" if key in board.less_is_better else "max")
        for key in known
        if key in board.other_metrics and key not in skipped
    ]
    return [*costs, *others]


def _highlighted(board: Board) -> list[int]:
    """Positions of the first rows, of the one that val chooses and of the best row of each single modality."""
    chosen = [place for place, row in enumerate(board.rows[:NUM_CURVES]) if row.score is not None]
    chosen += [place for place, row in enumerate(board.rows) if row is board.chosen and place not in chosen]
    seen = {board.rows[place].modalities for place in chosen if board.rows[place].unimodal}
    for place, row in enumerate(board.rows):
        if row.unimodal and row.rank is not None and row.modalities not in seen:
            seen.add(row.modalities)
            if place not in chosen:
                chosen.append(place)
    return chosen


def _curves(board: Board, shown: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    """Learning curves of chosen rows: what chose the epoch on val, by epoch, for each seed."""
    found = []
    for place in shown:
        for seed, cell_id in board.rows[place].cell_ids.items():
            info = cell_info(folder, cell_id)
            history, by = info.get("history"), info.get("selected_by")
            if not isinstance(history, list) or not history or not all(isinstance(item, Mapping) for item in history):
                continue
            key = "val_loss" if by == "loss" else "val_score"
            sign = -1.0 if key == "val_score" and by in board.less_is_better else 1.0
            values = [_rounded(sign * float(item.get(key) or 0.0)) for item in history]
            train = [_rounded(float(item.get("train_loss") or 0.0)) for item in history]
            what = "loss on val" if by == "loss" else f"{metric_words(str(by))} on val"
            found.append({"row": place, "seed": seed, "what": what, "values": values, "train": train})
    return found


def _stages(board: Board, shown: Sequence[int]) -> dict[str, Any]:
    """Where the time of a training step goes, for chosen rows, in seconds."""
    names: dict[str, None] = {}
    for place in shown:
        names.update(dict.fromkeys(key for key in board.rows[place].numbers if key.startswith(_STAGE)))
    rows = [
        {"row": place, "values": [_rounded(board.rows[place].numbers.get(name)) for name in names]}
        for place in shown
        if any(board.rows[place].numbers.get(name) for name in names)
    ]
    return {"names": [named(name.removeprefix(_STAGE)) for name in names], "rows": rows}


def _conditions(board: Board, shown: Sequence[int]) -> dict[str, Any]:
    """Scores with modalities taken away, or under conditions of a plugin's own, for chosen rows."""
    found = dict.fromkeys(name for place in shown for name in board.rows[place].conditions)
    # Curves and the additive approximation have places of their own.
    names = [name for name in found if is_subset(name) or not name.startswith(("noise:", "emap"))]
    rows = [
        {"row": place, "values": [_rounded(board.rows[place].conditions.get(name)) for name in names]}
        for place in shown
        if any(name in board.rows[place].conditions for name in names)
    ]
    return {"names": [named(name) for name in names], "rows": rows}


def _modalities(found: Modalities, board: Board) -> dict[str, Any]:
    """Portraits, curves and errors; names stand in lists, for a name may be a word of JavaScript."""
    names = dict.fromkeys(name for portrait in found.portraits for name in portrait.shares)
    errors = found.errors
    return {
        "names": [named(name) for name in names],
        "portraits": [_portrait(portrait, list(names)) for portrait in found.portraits],
        "curves": [_curve(curve) for curve in found.curves],
        "units": [[named(name, MAX_LABEL), clean(unit)] for name, unit in found.units.items()],
        "errors": None
        if errors is None
        else {
            "row": errors.place,
            "bins": [[count, _rounded(mean), _rounded(share)] for count, mean, share in errors.bins],
            "confusion": [list(line) for line in errors.confusion],
            "classes": [named(name) for name in board.class_names]
            or [str(number) for number in range(len(errors.confusion))],
        },
    }


def _subgroup_table(board: Board, table: SubgroupTable) -> dict[str, Any]:
    """Names, sizes, scores and gaps of the subgroups under one row."""
    return {
        "row": table.place,
        "words": worst_subgroup(board, table),
        "worst": table.worst,
        "groups": [
            [
                f"{named(group.column)}={named(group.name)}",
                group.num_samples,
                *([_rounded(item.value), _rounded(item.low), _rounded(item.high)] for item in (group.score, group.gap)),
                None if group.p_value is None else p_value(group.p_value),
            ]
            for group in table.groups
        ],
    }


def _classes(table: ClassTable, kind: str) -> dict[str, Any]:
    """Names, support and scores of each class with their intervals, for the row that val chooses."""
    return {
        "row": table.place,
        "what": "label" if kind == "multilabel" else "class",
        "numClasses": table.num_classes,
        "over": table.over,
        "rows": [
            [named(name), support, *([_rounded(item.value), _rounded(item.low), _rounded(item.high)] for item in items)]
            for name, support, items in class_rows(table)
        ],
    }


def _portrait(portrait: Portrait, names: Sequence[str]) -> dict[str, Any]:
    solved = portrait.solved
    return {
        "row": portrait.place,
        "shares": [_rounded(portrait.shares.get(name)) for name in names],
        "gap": _rounded(portrait.emap_gap),
        "emap": _rounded(portrait.emap),
        "gapWords": gap_words(portrait),
        "gapSamples": portrait.emap_precision.n if portrait.emap_precision else None,
        "solved": None
        if solved is None
        else [_rounded(value) for value in (solved.only_fusion, solved.only_single, solved.both, solved.neither)],
        "gradients": [[named(name), list(map(_rounded, line))] for name, line in portrait.gradients.items()],
    }


def _curve(curve: Curve) -> dict[str, Any]:
    return {
        "row": curve.place,
        "what": named(curve.disturbance, MAX_LABEL),
        "points": [[x, _rounded(y)] for x, y in zip(curve.severities, curve.scores)],
        "relative": _rounded(curve.relative),
        "effective": _rounded(curve.effective),
        "late": curve.late,
    }


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "status": problem.status,
        "reason": clean(problem.reason),
        "dataset": named(problem.dataset) or "several",
        "count": problem.count,
        "examples": [clean(example, 300) for example in problem.examples],
    }


def _rounded(value: float | None) -> float | None:
    """Six significant digits: what a page can show, at half the size. What rounding left of a difference of 0 is 0."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}") if abs(value) > 1e-14 else 0.0
