"""Conditions on a comparison that a build may fail on: ``throughput<-5%``, ``accuracy<-0.01``, ``latency_p50>10%``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mmbench.errors import UsageError, did_you_mean
from mmbench.report.comparison import Comparison, Difference, words_of

_CONDITION = re.compile(r"\s*([A-Za-z][\w:.]*)\s*([<>])\s*([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*(%?)\s*")
#: What may be left out at the end of a metric's name.
_UNITS = ("_samples_per_s", "_per_sample_j", "_per_sample", "_bytes", "_s")


@dataclass(frozen=True)
class Condition:
    """One ``--fail-if``.

    Attributes:
        text: As it was written.
        metric: Name, with or without its unit.
        below: Whether it is crossed from above: "<".
        limit: Of the change: a share where `relative`, else in the metric's unit.
        relative: Whether it was written with "%".
    """

    text: str
    metric: str
    below: bool
    limit: float
    relative: bool

    def is_about(self, name: str) -> bool:
        """Whether a metric is meant."""
        return name == self.metric or any(name == self.metric + unit for unit in _UNITS)

    def is_crossed(self, row: Difference) -> bool:
        """Whether a row's change lies beyond the limit."""
        change = row.relative if self.relative else row.change
        if change is None:
            return False
        return change < self.limit if self.below else change > self.limit


def parse_condition(text: str) -> Condition:
    """Read a condition.

    Raises:
        UsageError: it is none.

    >>> parse_condition("throughput<-5%").limit, parse_condition("accuracy < -0.01").limit
    (-0.05, -0.01)
    """
    found = _CONDITION.fullmatch(text)
    if not found:
        raise UsageError(
            f"--fail-if {text!r}: write METRIC<CHANGE or METRIC>CHANGE, such as throughput<-5% or accuracy<-0.01"
        )
    metric, sign, number, percent = found.groups()
    return Condition(text, metric, sign == "<", float(number) / (100 if percent else 1), bool(percent))


def crossed(comparison: Comparison, conditions: Sequence[Condition], *, include_chance: bool = False) -> list[str]:
    """Return one line for every row that crosses a condition; differences that chance explains only where asked.

    Raises:
        UsageError: a condition names a metric that the runs do not share.
    """
    lines = []
    for condition in conditions:
        about = [row for row in comparison.rows if condition.is_about(row.metric)]
        if not about:
            known = sorted({row.metric for row in comparison.rows})
            raise UsageError(
                f"--fail-if {condition.text!r}: both runs have no {condition.metric!r}; "
                f"they share {', '.join(known)}.{did_you_mean(condition.metric, known)}"
            )
        for row in about:
            if condition.is_crossed(row) and (include_chance or row.significant):
                combo = words_of((row.dataset, row.encoders, row.fusion, row.objective, row.variant))
                lines.append(
                    f"{condition.text}: {combo}: {row.metric} {row.first:.6g} -> {row.second:.6g} ({change_of(row)})"
                )
    return lines


def change_of(row: Difference) -> str:
    """Return the change as it is shown: a cost in per cent, a score in its unit."""
    if row.phase == "profile" and row.relative is not None:
        return f"{row.relative:+.1%}"
    return f"{row.change:+.4g}"
