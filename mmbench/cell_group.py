"""Several seeds of one combo as one job: trained in one vectorised pass, each then judged as a cell of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbench.build import guarded_globals
from mmbench.cell import judge, training_metrics
from mmbench.cell_subject import CellSubject, dataset_info, make_subject, open_dataset, settle, turn_on
from mmbench.errors import Diverged
from mmbench.together import TrainerOfSeveral


def run_cells(payload: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train and evaluate cells that differ in nothing but their seed.

    Args:
        payload: What their `Cell.payload()` have in common, and ``"cells": [what each has of its own, …]``.
        folder: Each cell's files go into the folder in it that is named by the cell's id.

    Returns:
        ``{"metrics": [], "info": {"cells": {cell id: {"status", "reason", "metrics", "info"}}}}``.
    """
    began = time.perf_counter()
    common = {name: value for name, value in payload.items() if name != "cells"}
    payloads = {own["cell_id"]: {**common, **own} for own in payload["cells"]}
    first = next(iter(payloads.values()))
    settle(first)
    source = open_dataset(first, dataset_info(first["dataset"]["info"]))
    with turn_on(first) as turn:
        made: dict[str, CellSubject] = {}
        for cell_id, item in payloads.items():
            (folder / cell_id).mkdir(exist_ok=True)
            made[cell_id] = make_subject(source, item, folder / cell_id, next(iter(made.values()), None), turn)
        ready = time.perf_counter()
        warnings: list[str] = []
        with guarded_globals(warnings):
            trained = TrainerOfSeveral([subject.trainer for subject in made.values()]).run()
        train_s = time.perf_counter() - ready
        count = len(made)
        told = {
            "num_cells": count,
            "train_s": round(train_s, 4),
            "attribution": "preparation and training: the time of all cells by their number; an epoch: the time of all "
            "cells that still trained by their number",
        }
        note = f"{count} seeds were trained together in {train_s:.1f} s; one alone was not timed"
        done: dict[str, dict[str, Any]] = {}
        for (cell_id, subject), result in zip(made.items(), trained):
            if isinstance(result, Diverged):
                done[cell_id] = {"status": "diverged", "reason": str(result), "metrics": [], "info": {}}
                continue
            subject.warnings.extend(warnings)
            about_training = training_metrics(result, shared=note)
            shares = {"prepare_s": (ready - began) / count, "train_s": train_s / count}
            judged = judge(subject, result, about_training, folder / cell_id, num_beside=count - 1, **shares)
            info = {**judged["info"], "trained_together": told}
            done[cell_id] = {"status": "ok", "reason": "", "metrics": judged["metrics"], "info": info}
    return {"metrics": [], "info": {"cells": done}}
