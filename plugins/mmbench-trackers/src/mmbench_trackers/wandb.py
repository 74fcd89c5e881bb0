"""Weights & Biases: a W&B run for each cell, grouped by the run of mmbench."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbench.record import Record
from mmbench_trackers.numbers import cell_name, epoch_numbers, facts, scores_on_test


class WandbTracker:
    """Opens a W&B run when a cell ends, and logs its curve and its scores.

    Args:
        folder: Where W&B keeps its files.
        project, entity: Where runs belong; the account's default entity when "".
        mode: "offline" (`wandb sync` sends it later), "online" or "disabled".
    """

    def __init__(self, folder: Path, project: str, entity: str, mode: str) -> None:
        import wandb

        self._wandb = wandb
        self.folder, self.project, self.entity, self.mode = folder, project, entity, mode
        self.group = ""

    def on_run_start(self, info: Mapping[str, Any]) -> None:
        """Take the run's name as the group's."""
        self.group = str(info["run"])

    def on_cell_end(self, row: Mapping[str, Any], record: Record) -> None:
        """Write a W&B run."""
        run = self._wandb.init(
            dir=str(self.folder),
            project=self.project,
            entity=self.entity or None,
            mode=self.mode,
            group=self.group,
            name=cell_name(row),
            config={**facts(row), "status": record.status},
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )
        history = record.info.get("history")
        for epoch in history if isinstance(history, list) else ():
            run.log({f"curve/{name}": value for name, value in epoch_numbers(epoch).items()})
        run.summary.update(dict(scores_on_test(record)))
        run.finish(exit_code=0 if record.status == "ok" else 1)
