"""The report on modalities: other conditions never move a score, and what is shown equals its definition."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from rich.console import Console
from safetensors.numpy import save_file

from mmbench.record import Metric, Record
from mmbench.report import build_report
from mmbench.report.html import render_html
from mmbench.report.markdown import render_markdown
from mmbench.report.portrait import Solved
from mmbench.report.tables import Row
from mmbench.report.terminal import print_tables
from mmbench.store import RunStore

SEVERITIES = (0.1, 0.25, 0.5, 0.75, 1.0)
TARGET = np.arange(40) % 2
#: Samples that each method gets right, by seed: the first 20 by image, 10 to 29 by text, others by the fusions.
RIGHT = {
    "image:cnn": [range(20), range(20)],
    "text:lstm": [range(10, 30), range(10, 30)],
    "concat": [range(4, 36), range(4, 36)],
    "gated": [range(38), range(2, 40)],
}
#: Accuracy under noise by fusion and severity; the clean score comes before it.
NOISE = {"concat": [0.8, 0.7, 0.6, 0.4, 0.2], "gated": [0.9, 0.9, 0.8, 0.7, 0.6]}


def write_run(folder: Path, *, diagnosed: bool = True, name: str = "image") -> Path:
    """Two fusions and two single modalities with two seeds; with diagnostics or without, all else equal."""
    rows: list[dict[str, Any]] = []
    records: list[Record] = []
    with RunStore.create(folder) as store:
        methods = [(f"{name}:cnn", "single", "image:cnn"), ("text:lstm", "single", "text:lstm")]
        methods += [(f"{name}:cnn+text:lstm", fusion, fusion) for fusion in ("concat", "gated")]
        for encoders, fusion, key in methods:
            for seed in range(2):
                cell_id = f"{len(rows):016x}"
                rows.append(
                    {"cell_id": cell_id, "dataset": "pairs", "encoders": encoders, "fusion": fusion, "seed": seed}
                    | {"objective": "supervised", "role": "cell", "status": "run", "reason": ""}
                )
                right = np.isin(np.arange(40), list(RIGHT[key][seed]))
                chosen = np.where(right, TARGET, 1 - TARGET)
                place = store.cell_folder(cell_id)
                place.mkdir()
                ids = json.dumps([f"s{at}" for at in range(40)]).encode()
                arrays = {
                    "test.label.prediction": np.eye(2)[chosen],
                    "test.label.target": TARGET,
                    "test.sample_ids": np.frombuffer(ids, dtype=np.uint8),
                }
                save_file(arrays, place / "predictions.safetensors")
                about: dict[str, Any] = {"task": "label", "split": "test", "direction": "max", "n": 40}
                score = {"phase": "evaluate", "name": "accuracy", **about}
                metrics = [Metric(value=right.mean(), **score)]
                metrics.append(Metric(value=right.mean(), **{**score, "split": "val"}))
                info: dict[str, Any] = {"history": [{"train_loss": 1.0, "val_loss": 1.0, "val_score": 0.5}] * 3}
                if diagnosed and fusion != "single":
                    metrics += diagnostics(fusion, name, score, about)
                    info["diagnostics"] = {
                        "depth": "full",
                        "errors": {"label": {"reliability": [[0, 0, 0]] * 14 + [[40, 1.0, float(right.mean())]]}},
                        "noise": {f"{name}.blur": f"unit of {name}"},
                    }
                    info["diagnostics"]["errors"]["label"]["confusion"] = [
                        [int(((true == TARGET) & (chosen == said)).sum()) for said in range(2)] for true in range(2)
                    ]
                    norms = {name: 1.0, "text": 0.1}
                    info["history"] = [{**item, "grad_norms": norms} for item in info["history"]]
                records.append(Record(cell_id=cell_id, status="ok", metrics=tuple(metrics), info=info))
        task = {"name": "label", "kind": "multiclass", "num_outputs": 2, "class_names": [name, "b"], "primary": ""}
        store.write_plan(rows, {"pairs": {"tasks": [task], "summary": "", "ceilings": {}}})
        store.write_run({"argv": ["run", "-d", "pairs"], "config": {}})
        for record in records:
            (store.cell_folder(record.cell_id) / "record.json").write_text(json.dumps(record.to_json()))
        store.journal.path.write_text("".join(json.dumps(record.to_json()) + "\n" for record in records))
    return folder


def diagnostics(fusion: str, name: str, score: dict[str, Any], about: dict[str, Any]) -> list[Metric]:
    derived = {"phase": "diagnose", **about}
    clean = 0.8 if fusion == "concat" else 0.95
    under = np.trapezoid([clean, *NOISE[fusion]], [0, *SEVERITIES])
    found = [
        Metric(value=0.4, condition=f"drop:{name}", **score),
        Metric(value=0.7, condition="drop:text", **score),
        Metric(value=0.75, condition="emap", **score),
        Metric(
            name="emap_gap", value=0.2 if fusion == "gated" else 0.05, **{**derived, "n": 64}, ci_low=-0.01, ci_high=0.3
        ),
        Metric(name=f"shapley:{name}", value=0.3, **derived),
        Metric(name="shapley:text", value=0.15, **derived),
        Metric(name=f"robustness:{name}.blur", value=float(under), **derived),
    ]
    for severity, value in zip(SEVERITIES, NOISE[fusion]):
        found.append(Metric(value=value, condition=f"noise:{name}.blur@{severity:g}", **score))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "pairs")


def without_diagnostics(row: Row) -> Row:
    return dataclasses.replace(row, conditions={}, diagnostics={}, emap_precision=None)


def test_scores_under_other_conditions_move_no_score_rank_gain_or_group(folder: Path, tmp_path: Path) -> None:
    plain = build_report(write_run(tmp_path / "pairs", diagnosed=False))

    found = build_report(folder)

    assert len(found.boards) == 1
    (board,), (bare,) = found.boards, plain.boards
    assert board.rows != bare.rows
    assert dataclasses.replace(board, rows=tuple(map(without_diagnostics, board.rows)), modalities=None) == bare
    assert [row.score.mean for row in board.rows if row.score] == [0.95, 0.8, 0.5, 0.5]
    assert set(board.rows[0].numbers) == set()
    assert board.other_metrics == frozenset()


def test_a_run_without_diagnostics_is_reported_as_before(tmp_path: Path) -> None:
    report = build_report(write_run(tmp_path / "pairs", diagnosed=False))

    assert report.boards[0].modalities is None
    assert "### Modalities" not in render_markdown(report)


def test_portraits_hold_shares_the_gap_and_who_gets_what_right(folder: Path) -> None:
    found = build_report(folder).boards[0].modalities

    assert found is not None
    gated, concat = found.portraits
    assert (gated.shares, gated.emap_gap, gated.emap) == ({"image": 0.3, "text": 0.15}, 0.2, 0.75)
    assert gated.subsets == {"drop:image": 0.4, "drop:text": 0.7}
    # Image or text alone are right on samples 0 to 29; concat on 4 to 35.
    assert concat.solved == Solved(only_fusion=6, only_single=4, both=26, neither=4, n=40, modalities=("image", "text"))
    # Seed 0: 30 to 37 only by fusion, nothing lost; seed 1: 30 to 39, and 0 and 1 lost.
    assert gated.solved is not None
    assert (gated.solved.only_fusion, gated.solved.only_single) == (9, 1)
    assert gated.gradients == {"image": (1.0, 1.0, 1.0), "text": (0.1, 0.1, 0.1)}


def test_robustness_is_multibench_s_against_the_run_s_own_late_fusion(folder: Path) -> None:
    board = build_report(folder).boards[0]

    assert board.modalities is not None
    curves = {board.rows[curve.place].fusion: curve for curve in board.modalities.curves}
    gated = curves["gated"]
    assert gated.severities == (0.0, *SEVERITIES)
    assert gated.scores == (0.95, *NOISE["gated"])
    fine = np.linspace(0, 1, 100_001)
    own, late = (np.interp(fine, gated.severities, curve) for curve in (gated.scores, (0.8, *NOISE["concat"])))
    assert gated.relative == pytest.approx(own.mean(), abs=1e-4)
    # MultiBench's formula, with the mean over the curve in place of a sum over ten levels.
    assert gated.effective == pytest.approx((own - (late + (own[0] - late[0]))).mean(), abs=1e-4)
    assert curves["concat"].effective == 0.0
    assert board.rows[gated.late or 0].fusion == "concat"


def test_errors_of_the_best_row_are_summed_over_its_seeds(folder: Path) -> None:
    board = build_report(folder).boards[0]

    assert board.modalities is not None
    errors = board.modalities.errors
    assert errors is not None
    assert board.rows[errors.place].rank == 1
    assert errors.bins[-1] == (80.0, 1.0, 0.95)
    # Seed 0 misses samples 38 and 39, seed 1 samples 0 and 1: one of each class in each.
    assert errors.confusion == ((38, 2), (2, 38))


def test_damaged_diagnostics_are_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "pairs")
    for place in (folder / "cells").iterdir():
        record = json.loads((place / "record.json").read_text())
        if "diagnostics" in record["info"]:
            record["info"]["diagnostics"] = {"errors": {"label": {"reliability": "x", "confusion": [[1], [2, 3]]}}}
            record["info"]["history"] = [{"grad_norms": {"image": None}}]
        (place / "record.json").write_text(json.dumps(record))
        (place / "predictions.safetensors").write_bytes(b"not a file")

    found = build_report(folder).boards[0].modalities

    assert found is not None
    assert found.errors is None
    assert [(portrait.solved, portrait.gradients) for portrait in found.portraits] == [(None, {}), (None, {})]


def test_markdown_and_terminal_say_what_the_portraits_say(folder: Path) -> None:
    report = build_report(folder)
    stream = io.StringIO()

    text = render_markdown(report)
    print_tables(report, Console(file=stream, width=400))

    assert (
        "| image:cnn + text:lstm | gated | 0.950 | +0.450 | +0.200 [-0.010, +0.300] | 64 | +0.300 | +0.150 | 0.400 | "
        "0.700 | 9 | 1 |"
    ) in text
    assert (
        "| gated fusion of image:cnn + text:lstm | image.blur | 0.950 | 0.900 | 0.900 | 0.800 | 0.700 | 0.600 |" in text
    )
    assert "It most often mistakes b for image (2), image for b (2)." in text
    assert (
        "modalities of gated fusion of image:cnn + text:lstm: Shapley shares image +0.300, text +0.150; interactions "
        "add +0.200 [-0.010, +0.300] (EMAP on 64 samples); without image 0.400; without text 0.700; 9 of 40 test samples "
        "right by fusion only"
    ) in stream.getvalue()


# In a browser


def opened(browser: Browser, folder: Path, **window: Any) -> None:
    browser.errors.clear()
    browser.requests.clear()
    page = folder / "report.html"
    page.write_text(render_html(build_report(folder), folder), encoding="utf-8")
    browser.open(page, **window)


def texts(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")
    return found


def test_the_page_shows_portraits_curves_reliability_and_confusion(browser: Browser, folder: Path) -> None:
    opened(browser, folder)

    heads = texts(browser, "article h3")
    start = heads.index("Modalities")
    assert heads[start : start + 5] == [
        "Modalities",
        "Missing modalities",
        "Robustness",
        "Each class",
        "Where the best row is wrong",
    ]
    assert "Which modality learns" in heads
    first = texts(browser, ".portraits tbody tr:first-child td")
    assert first == [
        "image:cnn + text:lstm, gated",
        "0.950 ± 0.000",
        "+0.450",
        "+0.200 [-0.010, +0.300], 64 samples",
        "+0.300",
        "+0.150",
        "9",
        "1",
    ]
    assert texts(browser, ".conditions thead th") == ["row", "clean", "drop:image", "drop:text"]
    assert len(texts(browser, ".robustness svg path")) == 2
    assert texts(browser, ".robustness tbody tr:first-child td")[1:] == ["0.950", "0.790", "+0.085"]
    assert texts(browser, ".confusion td") == ["38", "2", "2", "38"]
    assert len(texts(browser, ".errors svg rect")) == 1
    assert len(texts(browser, ".gradients svg path")) == 2
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize(
    "name",
    ["image", "<script>document.title='owned'</script>", "__proto__", "x" * 300, "a|b\u202e$x_y*", "\"'><img src=x>"],
)
def test_hostile_names_of_modalities_and_classes_are_text_on_a_phone_too(
    browser: Browser, tmp_path: Path, name: str
) -> None:
    run = write_run(tmp_path / "pairs", name=name)

    opened(browser, run, width=390, height=844)

    assert browser.errors == []
    assert browser.run("document.title") == "pairs · mmbench"
    assert browser.run("document.querySelectorAll('article img, article script').length") == 0
    assert browser.run("document.documentElement.scrollWidth") == 390
    assert len(texts(browser, ".portraits tbody tr")) == 2
    assert len(texts(browser, ".robustness svg path")) == 2
    lines = [line for line in render_markdown(build_report(run)).splitlines() if line.startswith("|")]
    assert not [line for line in lines if "<" in line]
    widths = {re.sub(r"\\.", "", line).count("|") for line in lines if "gated" in line}
    assert len(widths) <= 4


def test_the_curves_answer_to_the_mouse(browser: Browser, folder: Path) -> None:
    opened(browser, folder)
    at = browser.run(
        "(async () => { const dot = document.querySelector('.robustness svg circle');"
        " dot.scrollIntoView({block: 'center', behavior: 'instant'});"
        " await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));"
        " const b = dot.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2] })()"
    )

    browser.move(*at)

    assert texts(browser, "#tip:not([hidden])") == ["image:cnn + text:lstm, gated\nseverity s 0: 0.950"]
