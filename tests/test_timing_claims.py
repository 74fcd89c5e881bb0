"""What is said of measured times: nothing from few or disturbed calls, and no row is faster without its interval."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_report_tables import TRIO, Made

from mmbench.record import Metric
from mmbench.report.answer import board_answer, cautions
from mmbench.report.markdown import render_markdown
from mmbench.report.page import page_data
from mmbench.report.timing_claims import MIN_CALLS, disturbance_of, footnotes, timing_of
from mmbench.samples import block_interval


def latency(value: float, *, n: int = 200, note: str = "", half: float = 0.02) -> Metric:
    return Metric(
        phase="profile", name="latency_p50_s", value=value, unit="s", direction="min", n=n, note=note,
        ci_low=value * (1 - half), ci_high=value * (1 + half),
    )  # fmt: skip


def board_of(*rows: tuple[str, float, Metric]) -> Any:
    run = Made()
    for fusion, score, metric in rows:
        run.cell(TRIO, fusion, score, more=(metric,))
    return run.board()


def test_a_row_is_called_the_fastest_where_its_interval_lies_below_the_best_rows() -> None:
    words = board_answer(board_of(("slow", 0.900, latency(700e-6)), ("fast", 0.895, latency(300e-6))))

    assert "The fastest within 1 % of it is fast fusion" in words
    assert "at 300 µs a sample instead of 700 µs" in words


@pytest.mark.parametrize(
    "fast",
    [
        latency(300e-6, n=MIN_CALLS - 1),
        latency(300e-6, note="contended: others computed on the device"),
        latency(300e-6, note="contended: others kept 1.0 of 2 CPUs busy"),
        latency(300e-6, half=1.5),
        Metric(phase="profile", name="latency_p50_s", value=300e-6, unit="s", direction="min", n=200),  # no interval
    ],
    ids=["few calls", "beside cells", "beside programs", "wide interval", "no interval"],
)
def test_nothing_is_called_the_fastest_on_a_doubtful_time(fast: Metric) -> None:
    assert "fastest" not in board_answer(board_of(("slow", 0.900, latency(700e-6)), ("fast", 0.895, fast)))
    # The other way round: the row that ranks first is the doubtful one.
    bounds = {name: None if (bound := getattr(fast, name)) is None else bound * 7 / 3 for name in ("ci_low", "ci_high")}
    best = replace(fast, value=700e-6, **bounds)
    assert "fastest" not in board_answer(board_of(("slow", 0.900, best), ("fast", 0.895, latency(300e-6))))


def test_equally_fast_rows_are_seldom_called_faster() -> None:
    """Thirty rows with one true latency, of a machine whose moods last for a tenth of a measurement."""
    calls = {3: 0, 200: 0}
    for count in calls:
        for trial in range(40):
            rng = np.random.default_rng([trial, count])
            rows = []
            for number in range(30):
                mood = np.repeat(rng.normal(1.0, 0.05, 10), math.ceil(count / 10))[:count]
                times = 500e-6 * mood * rng.lognormal(0, 0.05, count)
                low, high = block_interval(times, float(np.median(times))) or (None, None)
                item = Metric(
                    phase="profile", name="latency_p50_s", value=float(np.median(times)), unit="s", direction="min",
                    n=count, ci_low=low, ci_high=high,
                )  # fmt: skip
                rows.append((f"f{number}", 0.9 + number * 1e-5, item))
            calls[count] += "fastest within" in board_answer(board_of(*rows))

    assert calls[3] == 0
    assert calls[200] <= 0.15 * 40


def test_who_disturbed_a_time_is_told_from_its_note() -> None:
    assert disturbance_of("inference at batch size 64") == ""
    assert disturbance_of("contended: others computed on the device; inference at batch size 64") == "cells"
    assert disturbance_of("contended: cells ran side by side") == "cells"
    assert disturbance_of("contended: others kept 1.0 of 2 CPUs busy; of 8") == "programs"


def test_the_caution_names_who_disturbed_the_times() -> None:
    beside_cells = cautions(board_of(("a", 0.9, latency(1e-3, note="contended: others computed on the device"))))
    beside_programs = cautions(board_of(("a", 0.9, latency(1e-3, note="contended: others kept 1.0 of 2 CPUs busy"))))

    assert any("other cells ran on the same machine" in text and "-j 1" in text for text in beside_cells)
    assert any("other programs kept the machine's processors busy" in text for text in beside_programs)
    assert not any("-j 1" in text for text in beside_programs)


def test_a_disturbed_training_time_is_marked_in_every_table() -> None:
    run = Made()
    note = "contended: others kept 1.0 of 2 CPUs busy"
    slow = Metric(phase="train", name="train_time_s", value=12.0, unit="s", direction="min", note=note)
    run.cell(TRIO, "a", 0.9, more=(slow, latency(1e-3)))

    text = render_markdown(run.report())
    page = page_data(run.report())
    fields = dict(zip(page["rowFields"], page["boards"][0]["rows"][0]))

    assert "| 12.0 s\\* |" in text
    assert "1.00 ms |" in text
    assert "marks a time or rate that was measured while others computed" in text
    assert fields["disturbed"] == fields["doubtful"] == ["train_time_s"]


def test_the_number_of_calls_stands_under_the_table_where_it_is_small() -> None:
    few = footnotes(board_of(("a", 0.9, latency(1e-3, n=3)), ("b", 0.8, latency(1e-3, n=10))))
    enough = footnotes(board_of(("a", 0.9, latency(1e-3, n=200))))

    assert any("the median of 3 to 10 calls" in text for text in few)
    assert enough == []


def test_times_of_several_seeds_have_the_interval_of_processes_and_the_fewest_calls() -> None:
    timing = timing_of(
        [latency(1.0, n=200), latency(1.1, n=150), latency(1.2, n=300, note="contended: others held it")]
    )

    assert timing is not None
    assert (timing.calls, timing.disturbed_by) == (150, "programs")
    assert timing.low is not None and timing.high is not None
    half = math.hypot(4.302653 * 0.1 / math.sqrt(3), 0.02 * 1.1)  # Student's with 2 degrees of freedom
    assert (timing.low, timing.high) == pytest.approx((1.1 - half, 1.1 + half))


def test_parameters_that_stand_still_are_shown_beside_the_trained_ones() -> None:
    def counted(trainable: float, registered: float) -> tuple[Metric, ...]:
        return tuple(
            Metric(phase="profile", name=f"num_parameters_{name}", value=value, direction="min")
            for name, value in (("trainable", trainable), ("registered", registered))
        )

    run = Made()
    run.cell(TRIO, "a", 0.9, more=counted(7_690.0, 3_380_000.0))
    run.cell(TRIO, "b", 0.8, more=counted(5_000.0, 5_000.0))

    text = render_markdown(run.report())

    assert "| 7.69 k of 3.38 M |" in text
    assert "| 5.00 k |" in text
