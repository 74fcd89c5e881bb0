"""Metrics as they are found, times marked where the device was shared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mmbench.record import Direction, Metric

#: Units of figures that others on the device change; names of those whose unit says nothing.
_TIMED_UNITS, _TIMED_NAMES = ("s", "samples/s", "flop/s"), ("share_of_measured_peak",)
#: What the note of a time says that was taken while other cells of the run computed.
SHARED_DEVICE = "contended: others computed on the device"
#: Why there is no energy where others were on the device.
SHARED_ENERGY = "others computed on the device, and the counter cannot tell them apart"


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
            note = "; ".join(filter(None, [SHARED_DEVICE, note]))
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
    """Return profiled metrics, every time and rate among them marked with why it is not the device's own, no energy.

    Args:
        metrics: Some.
        reason: What the note says, from "contended: …" on; "" leaves all as they are.
    """
    return [_marked(item, reason) if reason and item.value is not None else item for item in metrics]


def _marked(item: Metric, reason: str) -> Metric:
    if item.unit == "J":
        return dataclasses.replace(item, value=None, note=SHARED_ENERGY)
    if "contended: " in item.note or not (item.unit in _TIMED_UNITS or item.name in _TIMED_NAMES):
        return item
    return dataclasses.replace(item, note="; ".join(filter(None, [reason, item.note])))
