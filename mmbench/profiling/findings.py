"""Metrics as they are found, times marked where the device was shared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mmbench.record import Direction, Metric

#: Units of figures that others on the device change.
_TIMED_UNITS = ("s", "samples/s", "flop/s")


class Findings:
    """Metrics as they are found."""

    def __init__(self, contended: bool) -> None:
        self.metrics: list[Metric] = []
        self.contended = contended

    def add(
        self,
        name: str,
        value: float | None,
        unit: str,
        direction: Direction = "",
        *,
        n: int | None = None,
        note: str = "",
        timed: bool = False,
        interval: tuple[float, float] | None = None,
    ) -> None:
        if timed and self.contended and value is not None:
            note = "; ".join(filter(None, ["contended: others computed on the device", note]))
        low, high = interval or (None, None)
        self.metrics.append(
            Metric(
                phase="profile",
                name=name,
                value=value,
                unit=unit,
                direction=direction,
                n=n,
                ci_low=low,
                ci_high=high,
                note=note,
            )
        )


def mark_contended(metrics: Sequence[Metric], reason: str) -> list[Metric]:
    """Return profiled metrics, every time and rate among them marked with why it is not the device's own.

    Args:
        metrics: Some.
        reason: What the note says, from "contended: …" on; "" leaves all as they are.
    """
    return [
        dataclasses.replace(item, note="; ".join(filter(None, [reason, item.note])))
        if reason and item.value is not None and item.unit in _TIMED_UNITS and "contended: " not in item.note
        else item
        for item in metrics
    ]
