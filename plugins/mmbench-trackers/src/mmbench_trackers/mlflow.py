"""MLflow: an experiment for the run, an MLflow run for each cell."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbench.record import Record
from mmbench_trackers.numbers import cell_name, epoch_numbers, facts, scores_on_test

#: MLflow takes no longer values of parameters.
_MAX_VALUE = 500


class MlflowTracker:
    """Writes to MLflow through its client.

    Args:
        folder: Where the file store goes when no `uri` is given.
        uri: A tracking server or store, such as ``http://localhost:5000`` or ``sqlite:///runs.db``.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        # Newer versions of MLflow ask for consent to its oldest store; it needs no server and no database.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric, self._param = Metric, Param
        self.client = MlflowClient(tracking_uri=uri or folder.resolve().as_uri())
        self.experiment_id = ""
        self._run_ids: dict[str, str] = {}

    def on_run_start(self, info: Mapping[str, Any]) -> None:
        """Find or make the experiment of the run's name."""
        name = f"mmbench {info['run']}"
        found = self.client.get_experiment_by_name(name)
        self.experiment_id = found.experiment_id if found else self.client.create_experiment(name)

    def on_epoch(self, row: Mapping[str, Any], epoch: Mapping[str, Any]) -> None:
        """Log one more point of every curve."""
        self._log(row, epoch["epoch"], epoch_numbers(epoch))

    def on_cell_end(self, row: Mapping[str, Any], record: Record) -> None:
        """Log test scores and the status, and end the cell's MLflow run."""
        history = record.info.get("history")
        last = len(history) - 1 if isinstance(history, list) and history else 0
        self._log(row, last, dict(scores_on_test(record)))
        run_id = self._run_ids.pop(row["cell_id"])
        self.client.set_tag(run_id, "mmbench.status", record.status)
        if record.reason:
            self.client.set_tag(run_id, "mmbench.reason", record.reason[:_MAX_VALUE])
        self.client.set_terminated(run_id, "FINISHED" if record.status == "ok" else "FAILED")

    def on_run_end(self, summary: Any) -> None:
        """End what cells that never ended left open."""
        for run_id in self._run_ids.values():
            self.client.set_terminated(run_id, "KILLED")

    def _log(self, row: Mapping[str, Any], step: int, numbers: Mapping[str, float]) -> None:
        run_id = self._run_ids.get(row["cell_id"])
        if run_id is None:
            run_id = self.client.create_run(self.experiment_id, run_name=cell_name(row)).info.run_id
            self._run_ids[row["cell_id"]] = run_id
            params = [self._param(name, value[:_MAX_VALUE]) for name, value in facts(row).items() if value]
            self.client.log_batch(run_id, params=params)
        now = int(time.time() * 1000)
        self.client.log_batch(run_id, [self._metric(name, value, now, step) for name, value in numbers.items()])
