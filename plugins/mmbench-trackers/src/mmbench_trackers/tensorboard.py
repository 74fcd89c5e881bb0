"""TensorBoard: an event file for each cell, written by tensorboard's own writer, which imports no torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbench.record import Record
from mmbench_trackers.numbers import cell_name, epoch_numbers, scores_on_test


class TensorBoardTracker:
    """One TensorBoard run per cell.

    Args:
        folder: The log folder.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary, self._value = event_pb2.Event, summary_pb2.Summary, summary_pb2.Summary.Value
        self._open_writer = EventFileWriter
        self.folder = folder
        self._writers: dict[str, Any] = {}

    def on_epoch(self, row: Mapping[str, Any], epoch: Mapping[str, Any]) -> None:
        """Draw one more point of every curve."""
        numbers = {f"curve/{name}": value for name, value in epoch_numbers(epoch).items()}
        self._write(row, epoch["epoch"], numbers)
        self._writers[row["cell_id"]].flush()

    def on_cell_end(self, row: Mapping[str, Any], record: Record) -> None:
        """Write the test scores at the step of the last epoch, and close the cell's file."""
        history = record.info.get("history")
        last = len(history) - 1 if isinstance(history, list) and history else 0
        self._write(row, last, dict(scores_on_test(record)))
        self._writers.pop(row["cell_id"]).close()

    def on_run_end(self, summary: Any) -> None:
        """Close what cells that never ended left open."""
        for writer in self._writers.values():
            writer.close()

    def _write(self, row: Mapping[str, Any], step: int, numbers: Mapping[str, float]) -> None:
        writer = self._writers.get(row["cell_id"])
        if writer is None:
            writer = self._writers[row["cell_id"]] = self._open_writer(str(self.folder / cell_name(row)))
        values = [self._value(tag=name, simple_value=value) for name, value in numbers.items()]
        writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))
