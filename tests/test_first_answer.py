"""The first answer that a new user gets: a true one in a minute, none from a smoke test, scores as cells finish."""

from __future__ import annotations

import io
import signal
from pathlib import Path
from typing import Any

import pytest
from comparison_cases import DATASETS, make_run
from rich.console import Console

from mmbench.config import load_config, resolve_train
from mmbench.errors import EmptySelection
from mmbench.executors.child import plugin_frame
from mmbench.plan import local_runtime, make_plan
from mmbench.progress import BestSoFar, Progress, clean_score, finished_line
from mmbench.reasons import Reasons
from mmbench.record import Metric, Record
from mmbench.registry import load_registry
from mmbench.report import build_report
from mmbench.report.answer import answer, board_answer, cautions
from mmbench.report.html import render_html
from mmbench.report.markdown import render_markdown
from mmbench.report.terminal import print_tables
from mmbench.runner import Event, Summary
from mmbench.session import continuation, default_name
from mmbench.standing import Standing
from mmbench.store import RunStore


def test_the_grid_quick_is_a_comparison_with_real_training_on_digits() -> None:
    config = load_config({"grid": "quick"})
    made = make_plan(config, load_registry(), runtime=local_runtime(config, cache=Path(), data=Path(), jobs=2))

    assert made.count() == {"cells": 19, "run": 9, "baselines": 10, "incompatible": 0, "unavailable": 0}
    assert resolve_train(config).limit == 0
    assert resolve_train(config).epochs == 10
    assert default_name(made) == "quick"


def test_flags_go_before_what_the_grid_quick_selects() -> None:
    config = load_config({"grid": "quick", "dataset": ["xor"], "fusion": ["max"], "seeds": "1"})

    assert (config.dataset, config.fusion, config.seeds) == (("xor",), ("max",), (0,))


@pytest.fixture
def smoke(tmp_path: Path) -> Path:
    about = {"digits": {**DATASETS["digits"], "train": {"limit": 64, "epochs": 1}}}
    store = make_run(tmp_path / "smoke", ("concat", "sum", "gated"), datasets=about)
    with RunStore.create(store.folder) as writer:
        writer.write_run({**writer.read_run(), "config": {"grid": "smoke"}})
    return tmp_path / "smoke"


def test_a_smoke_test_ranks_nothing_and_says_so(smoke: Path) -> None:
    report = build_report(smoke)
    [board] = report.boards
    out = Console(file=io.StringIO(), width=120)
    print_tables(report, out)
    printed = out.file.getvalue()  # type: ignore[attr-defined]

    said = "Smoke test, no ranking: at most 64 samples of each split, 1 epoch."
    assert answer(report).startswith(said)
    assert board_answer(board).startswith(said)
    assert cautions(board) == []
    assert {row.rank for row in board.rows} == {row.group for row in board.rows} == {None}
    assert [row.fusion for row in board.rows] == ["concat", "gated", "sum"]
    for text in (printed, render_markdown(report), render_html(report)):
        assert said in " ".join(text.split())
        assert "is best on val and has" not in text


def test_the_same_settings_by_another_grid_are_ranked(smoke: Path) -> None:
    with RunStore.create(smoke) as writer:
        writer.write_run({**writer.read_run(), "config": {"grid": "all"}})

    assert [row.rank for row in build_report(smoke).boards[0].rows] == [1, 1, 1]


ROW = {
    "cell_id": "0" * 16,
    "dataset": "digits",
    "encoders": "image:cnn",
    "fusion": "concat",
    "seed": 0,
    "status": "run",
}


def score(value: float, **about: str) -> Metric:
    facts = {"split": "test", "condition": "clean", "task": "digit", "name": "accuracy", **about}
    return Metric(phase="evaluate", value=value, direction="max", **facts)


def test_a_finished_cell_is_logged_with_its_name_and_test_score() -> None:
    standing = Standing()
    standing.expect(ROW)
    standing.end(ROW["cell_id"], "ok", 2.0, standing.kind_of(ROW))
    metrics = (score(0.5, split="val"), score(0.25, condition="drop:audio"), score(0.8125), score(0.7, name="f1_macro"))

    record = Record(cell_id=ROW["cell_id"], status="ok", metrics=metrics)
    line = finished_line(standing, ROW, clean_score(record, "test"))

    assert line == "1/1  digits  image:cnn  concat  seed 0: accuracy 0.812 on test"


class Planned:
    """A cell as the runner knows it."""

    cell_id, group = ROW["cell_id"], ""

    def row(self) -> dict[str, object]:
        return ROW


def test_a_pipe_gets_one_line_for_each_finished_cell() -> None:
    standing = Standing()
    standing.expect(ROW)
    out = Console(file=io.StringIO(), width=60)
    record = Record(cell_id=ROW["cell_id"], status="ok", metrics=(score(0.75),))
    with Progress(out, standing) as progress:
        progress.on_event(Event(kind="started", cell=Planned()))
        progress.on_event(Event(kind="finished", cell=Planned(), record=record))

    assert out.file.getvalue() == (  # type: ignore[attr-defined]
        "1/1  digits  image:cnn  concat  seed 0: accuracy 0.750 on test\n"
    )


def test_scores_under_way_are_those_of_the_metric_that_ranks_the_rows() -> None:
    standing = Standing()
    standing.expect(ROW)
    metrics = [
        score(value, split=split, task=task, name=name)
        for split, value in (("val", 0.25), ("test", 0.5))
        for task, name in (("parity", "f1_macro"), ("digit", "accuracy"), ("digit", "f1_macro"))
    ]
    metrics[2] = score(0.75, split="val", name="f1_macro")
    out = Console(file=io.StringIO(), width=60)
    with Progress(out, standing, ranked_by={"digits": ("digit", "f1_macro")}) as progress:
        progress.on_event(Event(kind="started", cell=Planned()))
        record = Record(cell_id=ROW["cell_id"], status="ok", metrics=tuple(metrics))
        progress.on_event(Event(kind="finished", cell=Planned(), record=record))
        out.print(progress.render())

    printed = out.file.getvalue()  # type: ignore[attr-defined]
    assert "seed 0: f1_macro 0.500 on test\n" in printed
    assert "best on val so far: f1_macro 0.750" in printed


def summary(signum: int | None = None, cause: str = "", **counts: int) -> Summary:
    return Summary(counts=counts, num_launched=1, cause=cause, signum=signum)  # type: ignore[arg-type]


def test_a_run_that_was_stopped_names_the_command_that_continues_it_as_a_shell_takes_it() -> None:
    argv = ["run", "-d", "xor", "-e", "a=mlp[width=3]"]

    stopped = list(continuation(summary(signal.SIGINT, "signal", ok=3, interrupted=1), argv))
    out_of_time = list(continuation(summary(None, "budget", ok=1), argv))
    ended = list(continuation(summary(ok=3), argv))

    assert stopped == ["stopped with 3 cells done; to continue: mmbench run -d xor -e 'a=mlp[width=3]'"]
    assert out_of_time == ["stopped with 1 cell done; to continue: mmbench run -d xor -e 'a=mlp[width=3]'"]
    assert ended == []


def test_failures_of_an_earlier_command_are_named_with_the_option_that_tries_them_again() -> None:
    again = list(continuation(summary(ok=3, failed=2, timeout=1), ["run", "xor"]))
    new = list(continuation(summary(ok=3, failed=2), ["run", "xor"], num_new=2))

    assert again == [
        "cells of earlier commands stay without a result (2 failed, 1 timeout); to try them again: "
        "mmbench run xor --retry failed --retry timeout"
    ]
    assert new == []


PLUGIN = """
import torch

def forward(size):
    return helper(size)

def helper(size):
    return torch.zeros(2, 3) @ torch.zeros(size, 3)
"""


def test_a_failure_names_the_last_line_of_the_plugin_and_not_of_a_library(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text(PLUGIN)
    namespace: dict[str, Any] = {"__name__": "bad"}
    exec(compile(PLUGIN, str(file), "exec"), namespace)
    with pytest.raises(RuntimeError) as raised:
        namespace["forward"](5)
    with pytest.raises(ValueError, match="no plugin") as own:
        exec("raise ValueError('no plugin')", {"__name__": "mmbench.model"})
    own.value.__traceback__ = own.value.__traceback__.tb_next  # type: ignore[union-attr]

    reasons = Reasons()
    record = Record(
        cell_id="0" * 16, status="failed", reason="RuntimeError: x", info={"raised_at": "bad.py:8 in helper"}
    )

    assert plugin_frame(raised.value) == "bad.py:8 in helper"
    assert plugin_frame(own.value) == ""
    assert reasons.add(record, "xor sum") == "failed: xor sum: RuntimeError: x (bad.py:8 in helper)"
    assert [text for text, _ in reasons.summary(tmp_path)] == ["failed (1 cell): RuntimeError: x (bad.py:8 in helper)"]


def test_the_best_score_so_far_is_that_of_val_in_the_direction_of_the_metric() -> None:
    best = BestSoFar()
    for number, (accuracy, test) in enumerate([(0.5, 0.9), (0.75, 0.1), (0.625, 1.0)]):
        metrics = (score(test), score(accuracy, split="val"))
        record = Record(cell_id=ROW["cell_id"], status="ok", metrics=metrics)
        best.take({**ROW, "seed": number}, clean_score(record, "val"))
    for number, error in enumerate([2.0, 1.0, 3.0]):
        metric = Metric(phase="evaluate", name="mae", value=error, split="val", task="price", direction="min")
        row = {**ROW, "dataset": "houses", "seed": number}
        best.take(row, metric)

    assert best.lines() == [
        "best on val so far: accuracy 0.750  digits  image:cnn  concat  seed 1",
        "best on val so far: mae 1.000  houses  image:cnn  concat  seed 1",
    ]


def test_the_grid_quick_takes_data_without_one_of_its_kinds(tmp_path: Path) -> None:
    rows = [f"{'good' if i % 2 else 'bad'} words {i},{'yes' if i % 2 else 'no'}" for i in range(40)]
    (tmp_path / "data.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")

    config = load_config({"grid": "quick", "dataset": [str(tmp_path / "data.csv")]})
    made = make_plan(config, load_registry(), runtime=local_runtime(config, cache=tmp_path, data=tmp_path, jobs=2))

    assert made.count()["baselines"] == 4  # one encoder with three seeds, and the majority floor

    mistyped = load_config({"grid": "quick", "dataset": [str(tmp_path / "data.csv")], "encoder": ["image=mlp"]})
    with pytest.raises(EmptySelection, match="no selected dataset has a modality or kind 'image'"):
        make_plan(mistyped, load_registry(), runtime=local_runtime(config, cache=tmp_path, data=tmp_path, jobs=2))
