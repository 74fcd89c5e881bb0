"""Figures of a profile joined over rounds."""

from __future__ import annotations

import math
import statistics

import pytest
import scipy.stats

from mmbench.record import Metric
from mmbench.report.costs import Cost, _figure, remarks


def measured(*values, unit="s", **bounds):
    return [Metric(phase="profile", name="x", value=value, unit=unit, n=1, **bounds) for value in values]


@pytest.mark.parametrize("values", [[1.0, 1.2, 1.1], [1.1, 1.1, 1.1]])
def test_rounds_are_joined_by_their_mean_and_students_interval_with_one_percent_between_runs(values):

    figure = _figure(measured(*values))

    error = statistics.stdev(values) / math.sqrt(3)
    half = math.hypot(scipy.stats.t.ppf(0.975, 2) * error, 0.02 * 1.1)
    assert (figure.value, figure.low, figure.high) == pytest.approx((1.1, 1.1 - half, 1.1 + half))


def test_a_single_round_keeps_the_interval_of_its_process():
    figure = _figure([*measured(None), *measured(2.0, ci_low=1.9, ci_high=2.1)])

    assert (figure.value, figure.low, figure.high) == (2.0, 1.9, 2.1)


def test_what_is_counted_is_no_mean():
    figure = _figure(measured(64.0, 128.0, 64.0, unit="samples"))

    assert (figure.value, figure.low, figure.high) == (64.0, 64.0, 128.0)


def test_rounds_of_different_measuring_code_are_a_caution():
    def cost(*versions):
        return Cost(
            dataset="d", encoders="a:mlp", fusion="concat", objective="supervised", variant="clean", num_rounds=1,
            status="ok", reason="", contended=0, measuring=versions, figures={},
        )  # fmt: skip

    assert remarks([cost("1"), cost("1")]) == []
    (caution,) = remarks([cost("1"), cost("1", "2")])
    assert caution.startswith("warning: figures were measured by versions 1 and 2 of the measuring code")


def test_no_round_with_a_value_gives_none():
    figure = _figure(measured(None, None))

    assert (figure.value, figure.low, figure.high) == (None, None, None)
