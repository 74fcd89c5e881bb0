"""Subgroups of test samples: scores against scikit-learn, gaps against scipy, a planted one found and named."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from mmbench.record import Metric, Record
from mmbench.report import build_report
from mmbench.report.answer import cautions
from mmbench.report.by_subgroup import SubgroupTable
from mmbench.report.export import export_run
from mmbench.report.html import render_html
from mmbench.report.markdown import render_markdown
from mmbench.run_list import runs_to_remove
from mmbench.store import SUBGROUPS_FILE, RunStore

NUM = 400
TARGET = np.arange(NUM) % 2
SITE = np.array(["A", "B", "C", "D"])[np.arange(NUM) // 2 % 4]
IDS = [f"s{at}" for at in range(NUM)]


def write_run(
    folder: Path,
    right: dict[tuple[str, str], list[np.ndarray]],
    subgroups: dict[str, dict[str, str]] | None = None,
    *,
    primary: str = "",
    groups: list[str] | None = None,
) -> Path:
    """Rows by encoders and fusion, with which test samples each seed gets right."""
    rows, records = [], []
    with RunStore.create(folder) as store:
        for (encoders, fusion), seeds in right.items():
            for seed, is_right in enumerate(seeds):
                cell_id = f"{len(rows):016x}"
                rows.append(
                    {"cell_id": cell_id, "dataset": "clinic", "encoders": encoders, "fusion": fusion, "seed": seed}
                    | {"objective": "supervised", "role": "cell", "status": "run", "reason": ""}
                )
                said = np.where(is_right, TARGET, 1 - TARGET)
                place = store.cell_folder(cell_id)
                place.mkdir()
                arrays = {
                    "test.label.prediction": np.eye(2)[said],
                    "test.label.target": TARGET,
                    "test.sample_ids": np.frombuffer(json.dumps(IDS).encode(), dtype=np.uint8),
                }
                if groups:
                    arrays["test.groups"] = np.frombuffer(json.dumps(groups).encode(), dtype=np.uint8)
                save_file(arrays, place / "predictions.safetensors")
                name = primary or "accuracy"
                value = balanced_accuracy_score(TARGET, said) if primary else float(np.mean(is_right))
                about: dict[str, Any] = {"task": "label", "direction": "max", "n": NUM, "phase": "evaluate"}
                metrics = tuple(Metric(name=name, value=value, split=split, **about) for split in ("val", "test"))
                records.append(Record(cell_id=cell_id, status="ok", metrics=metrics))
        task = {"name": "label", "kind": "multiclass", "num_outputs": 2, "class_names": [], "primary": primary}
        store.write_plan(rows, {"clinic": {"tasks": [task], "summary": "", "ceilings": {}}})
        for record in records:
            store.journal.append(record)
    named = {"site": dict(zip(IDS, SITE.tolist()))} if subgroups is None else subgroups
    (folder / SUBGROUPS_FILE).write_text(json.dumps({"clinic": named}))
    return folder


def planted(seed: int) -> np.ndarray:
    """Right in 90 % of cases, at site C in 60 %."""
    return np.random.default_rng(seed).random(NUM) < np.where(SITE == "C", 0.6, 0.9)


def tables(folder: Path) -> tuple[SubgroupTable, ...]:
    return build_report(folder).boards[0].subgroups


def test_a_subgroup_has_the_mean_over_seeds_of_the_boards_metric_on_its_samples(tmp_path: Path) -> None:
    seeds = [planted(seed) for seed in range(3)]

    (table,) = tables(write_run(tmp_path / "r", {("a:m+b:m", "concat"): seeds}, primary="balanced_accuracy"))

    assert [(group.column, group.name, group.num_samples) for group in table.groups] == [
        ("site", site, NUM // 4) for site in "ABCD"
    ]
    for group in table.groups:
        inside = group.name == SITE
        said = [np.where(right, TARGET, 1 - TARGET) for right in seeds]
        own = [balanced_accuracy_score(TARGET[inside], one[inside]) for one in said]
        others = [balanced_accuracy_score(TARGET[~inside], one[~inside]) for one in said]
        assert group.score.value == pytest.approx(np.mean(own))
        assert group.gap.value == pytest.approx(np.mean(others) - np.mean(own))
        assert group.score.low is not None and group.score.high is not None
        assert group.score.low < np.mean(own) < group.score.high
    assert table.over == "seeds and samples"


def test_the_gap_of_one_seed_is_tested_as_two_independent_shares(tmp_path: Path) -> None:
    right = planted(1)
    expected = []
    for site in "ABCD":
        one, other = right[site == SITE].astype(float), right[site != SITE].astype(float)
        variance = sum(part.var() / len(part) for part in (one, other))
        expected.append((other.mean() - one.mean(), 2 * stats.norm.sf(abs(other.mean() - one.mean()) / variance**0.5)))

    (table,) = tables(write_run(tmp_path / "r", {("a:m+b:m", "concat"): [right]}))

    order = np.argsort([p for _, p in expected])
    adjusted = np.maximum.accumulate([(4 - at) * expected[place][1] for at, place in enumerate(order)]).clip(max=1)
    for at, place in enumerate(order):
        group = table.groups[place]
        gap, _ = expected[place]
        assert group.gap.value == pytest.approx(gap)
        assert group.p_value is not None  # from Student's t of skewed errors: a little larger than the normal one
        assert stats.norm.isf(group.p_value / 2) == pytest.approx(stats.norm.isf(adjusted[at] / 2), rel=0.1, abs=0.1)
        assert group.gap.low is not None and group.gap.high is not None
        width = 2 * 1.96 * (abs(gap) / stats.norm.isf(expected[place][1] / 2))
        assert group.gap.high - group.gap.low == pytest.approx(width, rel=0.05)


def test_a_planted_subgroup_that_one_modality_serves_badly_is_found_and_named_for_that_modality_alone(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    good = [rng.random(NUM) < 0.93 for _ in range(3)]
    bad = [planted(seed) for seed in range(3)]
    folder = write_run(tmp_path / "r", {("a:m+b:m", "concat"): good, ("a:m", "single"): bad, ("b:m", "single"): good})
    report = build_report(folder)
    board = report.boards[0]

    by_row = {board.rows[table.place].encoders: table for table in board.subgroups}

    assert set(by_row) == {"a:m+b:m", "a:m", "b:m"}
    found = by_row["a:m"]
    assert found.worst is not None
    worst = found.groups[found.worst]
    assert (worst.column, worst.name) == ("site", "C") and worst.differs
    assert worst.gap.low is not None and worst.gap.high is not None
    assert 0 < worst.gap.low < 0.3 < worst.gap.high
    assert not any(group.differs for name in ("a:m+b:m", "b:m") for group in by_row[name].groups)
    assert not [text for text in cautions(board) if "uneven" in text]
    text = render_markdown(report)
    assert "the worst subgroup is site=C" in text and "| **site=C** | 100 |" in text
    assert "the worst subgroup is site=C" in render_html(report, folder)


def test_the_row_that_val_chooses_is_cautioned_against_where_it_is_uneven(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", {("a:m+b:m", "concat"): [planted(seed) for seed in range(3)]})

    (caution,) = [text for text in cautions(build_report(folder).boards[0]) if "uneven" in text]

    assert "the row that val chooses is uneven: the worst subgroup is site=C with 0." in caution


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_where_no_subgroup_differs_few_are_told_apart(tmp_path: Path, num_seeds: int) -> None:
    """The chance that any of four equal subgroups is told apart is 5 % (Holm); more than 9 of 60 draws would be one in 1,000."""
    told = 0
    for draw in range(60):
        rng = np.random.default_rng(draw)
        values = {"site": dict(zip(IDS, rng.choice(list("ABCD"), NUM).tolist()))}
        seeds = [rng.random(NUM) < 0.85 for _ in range(num_seeds)]
        told += _any_differs(seeds, values)

    assert told <= 9


def _any_differs(seeds: list[np.ndarray], subgroups: dict[str, dict[str, str]]) -> bool:
    from mmbench.kept_predictions import Predictions
    from mmbench.report import by_subgroup

    kept = [
        Predictions(np.eye(2)[np.where(one, TARGET, 1 - TARGET)], TARGET.astype(float), tuple(IDS)) for one in seeds
    ]
    named = np.array([subgroups["site"][sample] for sample in IDS])
    board: Any = type("Board", (), {"kind": "multiclass", "metric": "accuracy", "num_outputs": 2, "direction": "max"})
    found = by_subgroup._column(board, kept, "site", named, None)
    p_values = [float(group.p_value or 0.0) for group in found]
    return bool((by_subgroup.holm(p_values) < 0.05).any())


def test_samples_of_unknown_value_and_small_subgroups_decide_nothing(tmp_path: Path) -> None:
    values = dict.fromkeys(IDS[:5], "few") | dict.fromkeys(IDS[5:200], "many")
    right = np.ones(NUM, bool)
    right[:5] = False
    right[200:] = False  # of samples whose value is not known

    (table,) = tables(write_run(tmp_path / "r", {("a:m+b:m", "concat"): [right]}, {"ward": values}))

    few, many = table.groups
    assert (few.num_samples, few.score.value, few.p_value) == (5, 0.0, None)
    assert (many.num_samples, many.score.value, many.p_value) == (195, 1.0, None)
    assert table.worst == 1


def test_groups_of_samples_count_once_in_the_intervals_of_subgroups(tmp_path: Path) -> None:
    """Ten samples of each patient are all right or all wrong: intervals are as wide as for a tenth of the samples."""
    patients = [f"p{at // 10}" for at in range(NUM)]
    right = np.repeat(np.random.default_rng(3).random(NUM // 10) < 0.7, 10)
    values = {"half": {sample: "first" if at < NUM // 2 else "second" for at, sample in enumerate(IDS)}}

    rows = {("a:m+b:m", "concat"): [right]}
    (alone,) = tables(write_run(tmp_path / "alone", rows, values))
    (grouped,) = tables(write_run(tmp_path / "grouped", rows, values, groups=patients))

    def width(table: SubgroupTable) -> float:
        gap = table.groups[0].gap
        assert gap.low is not None and gap.high is not None
        return gap.high - gap.low

    assert width(grouped) / width(alone) == pytest.approx(10**0.5, rel=0.15)
    assert grouped.over == "groups of samples"


def test_the_export_has_every_metric_of_each_subgroup(tmp_path: Path) -> None:
    seeds = [planted(seed) for seed in range(2)]
    folder = write_run(tmp_path / "r", {("a:m+b:m", "concat"): seeds})
    export_run(RunStore.open(folder), "csv", tmp_path / "out.csv")

    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))

    found = {(row["seed"], row["condition"]): float(row["value"]) for row in rows if row["metric"] == "accuracy"}
    for seed, right in enumerate(seeds):
        assert found[str(seed), "subgroup:site=C"] == pytest.approx(right[SITE == "C"].mean())
    assert {row["metric"] for row in rows if row["condition"] == "subgroup:site=A"} >= {"auroc", "f1_macro", "log_loss"}


def mmbench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mmbench", *arguments], cwd=cwd, capture_output=True, text=True)


def test_naming_subgroups_later_adds_them_to_the_run_without_training_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["label,a0,b0,sex,age"]
    lines += [
        f"{'xy'[at % 2]},{rng.normal() + at % 2:.3f},{rng.normal():.3f},{'FM'[at // 2 % 2]},{20 + at % 60}"
        for at in range(200)
    ]
    (tmp_path / "clinic.csv").write_text("\n".join(lines) + "\n")
    flags = [
        "-e", "mlp", "-f", "concat", "--no-baselines", "--epochs", "1", "--protocol", "none", "--diagnostics", "none",
        "--isolate", "none", "--run", "r",
    ]  # fmt: skip
    first = mmbench("run", "-d", "clinic.csv[a=a0,b=b0]", *flags, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    journal = (tmp_path / "results/r/journal.jsonl").read_text()

    again = mmbench("run", "-d", "clinic.csv[a=a0,b=b0,subgroups=sex+age]", *flags, cwd=tmp_path)

    assert again.returncode == 0, again.stderr
    assert (tmp_path / "results/r/journal.jsonl").read_text() == journal
    text = (tmp_path / "results/r/report/report.md").read_text()
    assert "### Subgroups" in text and "sex=F" in text
    assert len(set(re.findall(r"age=\d+ to \d+", text))) == 4  # its quarters
    assert runs_to_remove(tmp_path / "results", ["r"]) == [tmp_path / "results/r"]  # no file of it is foreign
