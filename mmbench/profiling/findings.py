"""Metrics as they are found, times marked where the device was shared."""

from __future__ import annotations

from mmbench.record import Direction, Metric


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
    ) -> None:
        if timed and self.contended and value is not None:
            note = "; ".join(filter(None, ["contended: others computed on the device", note]))
        self.metrics.append(
            Metric(phase="profile", name=name, value=value, unit=unit, direction=direction, n=n, note=note)
        )
