"""A sweep: as many trials for every method, chosen on val alone, told beside each row that was trained with the choice."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import time
from collections import Counter

import pytest
from plan_cases import PARTS, encoder, fusion, plan, walk
from typed import command, mmbench

from mmbench.errors import UsageError
from mmbench.journal import Journal
from mmbench.planners import planner_of
from mmbench.stage import Result
from mmbench.sweep_space import Axis

MORE = (*PARTS, fusion("wide", defaults={"width": 8, "form": "a"}))
LR = {"lr": [1e-4, 1e-3, 1e-2]}


def sweep(table, fusions=("concat", "wide"), **flags):
    return planner_of(plan(MORE, dataset=["pairs"], fusion=list(fusions), encoder=["image=cnn"], sweep=table, **flags))


def scored(value):
    return Result(status="ok", settled=True, score=value, loss=0.0)


def by_lr(cell):
    """Best near 1e-3; the wider the better."""
    width = cell.fusion.reference.options.get("width", 0) if cell.fusion else 0
    return scored(-abs(math.log10(cell.dataset.train.lr) + 3) + width / 1000)


# What is tried


@pytest.mark.parametrize(
    "table",
    [
        {"method": "grid", "train": LR, "fusion": {"wide": {"width": [4, 8, 16]}}},
        {"method": "random", "trials": 7, "train": {"lr": {"low": 1e-5, "high": 1e-1, "log": True}}},
        {"method": "random", "trials": 7, "train": LR},
        {"method": "optuna", "trials": 7, "train": {"lr": {"low": 1e-5, "high": 1e-1, "log": True}}, "fusion": {"wide": {"width": {"low": 4, "high": 64}}}},
    ],
)  # fmt: skip
def test_every_method_gets_equally_many_trials_each_a_cell_of_its_own(table):
    if table["method"] == "optuna":
        pytest.importorskip("optuna")
    planner = sweep(table)
    stages = walk(planner, by_lr)
    trials = [cell for cells in stages[:-1] for cell in cells]
    counts = Counter((cell.encoders_label, cell.fusion.label) for cell in trials)

    assert set(counts) == {
        ("audio:logmel", "single"), ("image:cnn", "single"),
        ("audio:logmel+image:cnn", "concat"), ("audio:logmel+image:cnn", "wide"),
    }  # fmt: skip
    assert set(counts.values()) == {9 if table["method"] == "grid" else 7}
    assert {cell.role for cell in trials} == {"trial"}
    assert len({cell.cell_id for cell in trials}) == len(trials)
    assert not {cell.cell_id for cell in trials} & {cell.cell_id for cell in stages[-1]}
    assert {decision["num_trials"] for decision in planner.decisions()} == set(counts.values())


def test_a_grid_meets_every_point_and_repeats_the_few_of_others_with_further_seeds():
    planner = sweep({"method": "grid", "train": LR, "fusion": {"wide": {"width": [4, 16]}}})
    [trials, _] = walk(planner, by_lr)
    tried = {
        name: sorted((cell.dataset.train.lr, cell.fusion.reference.options.get("width"), cell.seed) for cell in trials if cell.fusion.label == name)
        for name in ("wide", "concat")
    }  # fmt: skip

    assert tried["wide"] == [(lr, width, 0) for lr in LR["lr"] for width in (4, 16)]
    assert tried["concat"] == [(lr, None, seed) for lr in LR["lr"] for seed in (0, 1)]


def test_random_draws_are_the_same_for_all_methods_and_every_time():
    table = {"method": "random", "trials": 5, "train": {"lr": {"low": 1e-5, "high": 1e-1, "log": True}}}

    def drawn(planner):
        [trials, _] = walk(planner, by_lr)
        return {
            name: [cell.dataset.train.lr for cell in trials if cell.fusion.label == name] for name in ("wide", "concat")
        }

    first = drawn(sweep(table))
    assert first["wide"] == first["concat"]
    assert first == drawn(sweep(table, fusions=("concat", "cross", "wide")))
    assert first != drawn(sweep({**table, "seed": 1}))


def test_a_logarithmic_range_is_drawn_evenly_in_its_logarithm_and_whole_numbers_stay_whole():
    generator = random.Random(0)
    lr = Axis(name="train.lr", role="train", ref="", target="", option="lr", low=1e-4, high=1e-2, log=True)
    drawn = [lr.draw(generator) for _ in range(4000)]

    assert 1e-4 <= min(drawn) <= max(drawn) <= 1e-2
    assert 0.46 < sum(value < 1e-3 for value in drawn) / 4000 < 0.54  # 5 standard errors of a half
    width = Axis(
        name="fusion.wide.width", role="fusion", ref="", target="", option="width", low=2, high=4, integer=True
    )
    assert {width.draw(generator) for _ in range(200)} == {2, 3, 4}


def test_optuna_is_asked_in_turn_and_finds_a_better_rate_than_its_first_draws():
    pytest.importorskip("optuna")
    table = {"method": "optuna", "trials": 20, "train": {"lr": {"low": 1e-6, "high": 1.0, "log": True}}}
    planner = sweep(table, fusions=("concat",))
    stages = walk(planner, by_lr)

    assert len(stages) == 21
    [decision] = [item for item in planner.decisions() if item["fusion"] == "concat"]
    rates = [abs(math.log10(trial["values"]["train.lr"]) + 3) for trial in decision["trials"]]
    assert min(rates[6:]) < min(rates[:6])
    assert abs(math.log10(decision["values"]["train.lr"]) + 3) == min(rates)
    again = sweep(table, fusions=("concat",))
    walk(again, by_lr)
    assert again.decisions() == planner.decisions()


# What is chosen


def test_the_final_rows_are_trained_with_what_is_best_on_val_over_all_seeds():
    planner = sweep({"method": "grid", "train": LR, "fusion": {"wide": {"width": [4, 16]}}}, seeds="2")
    [_, final] = walk(planner, by_lr)
    rows = [cell.row() for cell in final if cell.fusion and cell.fusion.spec.name == "wide"]

    assert [row["seed"] for row in rows] == [0, 1]
    assert rows[0]["fusion"] == "wide"
    assert rows[0]["tuned"] == {
        "values": {"train.lr": 1e-3, "fusion.wide.width": 16},
        "method": "grid",
        "num_trials": 6,
        "val_score": pytest.approx(0.016),
    }
    [first, _] = [cell for cell in final if cell.fusion and cell.fusion.spec.name == "wide"]
    assert first.identity()["fusion"]["options"] == {"width": 16, "form": "a"}
    assert first.identity()["train"]["lr"] == 1e-3
    assert {row["role"] for row in planner.rows()} == {"cell", "baseline", "trial"}


def test_a_repeated_point_is_judged_by_the_mean_of_its_seeds():
    def score(cell):
        if cell.fusion is None or cell.fusion.label != "concat" or cell.role != "trial":
            return scored(0.0)
        lucky = {(1e-4, 0): 0.9, (1e-4, 1): 0.1, (1e-3, 0): 0.6, (1e-3, 1): 0.6}
        return scored(lucky.get((cell.dataset.train.lr, cell.seed), 0.0))

    planner = sweep({"method": "grid", "train": LR, "fusion": {"wide": {"width": [4, 16]}}})
    walk(planner, score)
    [decision] = [item for item in planner.decisions() if item["fusion"] == "concat"]

    assert decision["values"] == {"train.lr": 1e-3}
    assert decision["val_score"] == pytest.approx(0.6)


def test_a_point_that_failed_with_one_seed_loses_to_one_that_never_did():
    def score(cell):
        if cell.fusion is None or cell.fusion.label != "concat" or cell.role != "trial":
            return scored(0.0)
        if (cell.dataset.train.lr, cell.seed) == (1e-2, 1):
            return Result(status="diverged", settled=True)
        return scored({1e-4: 0.5, 1e-3: 0.6, 1e-2: 0.9}[cell.dataset.train.lr])

    planner = sweep({"method": "grid", "train": LR, "fusion": {"wide": {"width": [4, 16]}}})
    walk(planner, score)
    [decision] = [item for item in planner.decisions() if item["fusion"] == "concat"]

    assert decision["values"] == {"train.lr": 1e-3}
    assert decision["val_score"] == pytest.approx(0.6)


def test_trials_that_fail_lose_and_a_combo_of_failures_is_stopped_and_one_that_did_not_end_waits():
    def score(cell):
        if cell.role == "trial" and cell.fusion.label == "wide":
            return Result(status="diverged", settled=True)
        if cell.role == "trial" and cell.encoders_label == "image:cnn":
            return Result(status="killed", settled=False)
        if cell.role == "trial" and cell.dataset.train.lr == 1e-3:
            return Result(status="oom_host", settled=True)
        return by_lr(cell)

    planner = sweep({"method": "grid", "train": {"lr": [1e-3, 1e-2]}})
    [_, final] = walk(planner, score)
    by_name = {(cell.encoders_label, cell.fusion.label): cell for cell in final if cell.fusion}

    wide = by_name["audio:logmel+image:cnn", "wide"]
    assert (wide.status, wide.reason) == ("stopped", "not tuned: no trial of it had a result")
    assert by_name["audio:logmel+image:cnn", "concat"].dataset.train.lr == 1e-2
    waits = by_name["image:cnn", "single"]
    assert (waits.status, waits.reason) == ("pending", "not tuned yet: 2 of its trials did not end")


# What cannot be meant


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"metod": "grid"}, r"\[sweep\]: there is no key 'metod'.*Did you mean 'method'\?"),
        ({"method": "grid"}, r"\[sweep\] sweeps nothing; add a table such as \[sweep.train\]"),
        ({"train": {"rl": [1]}}, r"\[sweep.train\]: 'rl' cannot be swept; there is epochs"),
        ({"train": {"limit": [10, 20]}}, r"'limit' cannot be swept"),
        ({"train": {"lr": [1e-3, -1]}}, r"\[sweep.train\]: lr = -1: must be greater than 0"),
        ({"train": {"lr": 1e-3}}, r"\[sweep\] train.lr = 0.001: write a list such as"),
        ({"train": {"lr": {"low": 0, "high": 1, "log": True}}}, r"a range needs numbers with 0 < low < high"),
        ({"train": {"lr": {"low": 2, "high": 1}}}, r"a range needs numbers with low < high"),
        ({"fusion": {"wied": {"width": [1]}}}, r"no fusion is named 'wied'\. Did you mean 'wide'\?"),
        ({"fusion": {"wide": {"witdh": [1]}}}, r"wide has no option 'witdh'; there is width, form\. Did you mean 'width'\?"),
        ({"method": "grid", "train": {"lr": {"low": 1e-3, "high": 1e-2}}}, r"takes lists, and train.lr is a range"),
        ({"method": "grid", "trials": 3, "train": LR}, r"tries every point: leave trials out"),
        ({"train": LR, "encoder": {"mlp": {"x": [1]}}}, r"mlp has no option 'x'; it has none"),
        ({"fusion": {"wide": {"width": [4, 8]}}}, r"gives concat on pairs nothing to tune.*such as \[sweep.train\] lr"),
    ],
)  # fmt: skip
def test_a_sweep_that_cannot_be_meant_is_refused(table, message):
    with pytest.raises(UsageError, match=message):
        sweep(table)


def test_what_is_swept_must_be_in_the_selection():
    with pytest.raises(UsageError, match=r"fusion.wide.width: nothing that can run in the selection has it"):
        sweep({"train": LR, "fusion": {"wide": {"width": [4, 8]}}}, fusions=("concat",))


def test_an_encoder_option_is_tuned_where_the_encoder_is():
    parts = (*PARTS, encoder("big", "audio", defaults={"depth": 1}))
    made = planner_of(
        plan(parts, dataset=["pairs"], fusion=["concat"], encoder=["big", "image=cnn"], sweep={"method": "grid", "encoder": {"big": {"depth": [1, 2]}, "cnn": {"width": [4, 8]}}})
    )  # fmt: skip
    [trials, _] = walk(
        made,
        lambda cell: scored(cell.encoders["audio"].reference.options["depth"] if "audio" in cell.encoders else 0.0),
    )
    [decision] = [item for item in made.decisions() if item["fusion"] == "concat"]

    assert decision["values"]["encoder.big.depth"] == 2
    assert len(trials) == 3 * 4


def test_a_race_and_a_sweep_exclude_each_other():
    with pytest.raises(UsageError, match="run the race first"):
        sweep({"train": LR}, race={"eta": 3})


# As people run it

RUN_FILE = """
dataset = ["xor"]
fusion = ["concat", "gated"]
seeds = 2
protocol = "none"
diagnostics = "none"
[train]
epochs = 6
limit = 300
patience = 0
[sweep]
method = "grid"
[sweep.train]
lr = [1e-6, 3e-3]
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "sweep.toml").write_text(RUN_FILE)
    return folder


@pytest.fixture(scope="module")
def swept(home):
    done = mmbench(home, "run", "-c", "sweep.toml", "--run", "swept")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_sweep_finds_the_rate_that_learns_and_the_report_tells_it(swept, home):
    report = json.loads(mmbench(home, "report", "swept", "--json").stdout)
    [board] = report["boards"]
    tuned = {row["fusion"]: row["tuned"] for row in board["rows"]}

    assert tuned["concat"]["values"] == tuned["gated"]["values"] == {"train.lr": 3e-3}
    assert {row["num_trials"] for row in tuned.values()} == {2}
    assert (
        "Hyperparameters were tuned on validation scores (grid over train.lr): 4 combos, 2 trials each"
        in report["answer"]
    )
    assert "lr=0.003" in swept
    for file in ("report.md", "report.html", "leaderboard.csv"):
        assert "lr=0.003" in (home / "results/swept/report" / file).read_text()
    assert board["num_planned"] == board["num_done"] == 2 * 2 + 2 * 2 + 1


def test_trials_never_touch_test_and_final_records_hold_what_was_chosen(swept, home):
    rows = json.loads((home / "results/swept/plan.json").read_text())["cells"]
    roles = {row["cell_id"]: row["role"] for row in rows}
    records = list(Journal(home / "results/swept/journal.jsonl"))
    splits = {
        role: {item.split for record in records if roles[record.cell_id] == role for item in record.metrics}
        for role in ("trial", "cell")
    }

    assert Counter(roles.values()) == {"trial": 8, "cell": 4, "baseline": 5}
    assert splits == {"trial": {"val", ""}, "cell": {"val", "test", ""}}
    final = [record.info for record in records if roles[record.cell_id] == "cell"]
    assert {(info["tuned"]["num_trials"], info["tuned"]["values"]["train.lr"]) for info in final} == {(2, 3e-3)}
    assert {info["identity"]["train"]["lr"] for info in final} == {3e-3}
    exported = mmbench(home, "export", "swept").stdout
    assert not any(cell_id in exported for cell_id, role in roles.items() if role == "trial")


def test_the_same_command_again_has_nothing_to_do_and_another_sweep_needs_another_name(swept, home):
    before = (home / "results/swept/plan.json").read_text()
    again = mmbench(home, "run", "-c", "sweep.toml", "--run", "swept")
    selection = ("-d", "xor", "-f", "concat", "--epochs", "6", "--limit", "300", "--set", "patience=0")
    untuned = mmbench(home, "run", *selection, "--run", "swept")

    assert "nothing left to do" in again.stdout
    assert (home / "results/swept/plan.json").read_text() == before
    assert untuned.returncode == 2
    assert "the run 'swept' was tuned by another [sweep]" in untuned.stderr


def test_the_plan_shows_the_trials_and_a_mistake_is_one_line(home):
    shown = mmbench(home, "plan", "-c", "sweep.toml")
    (home / "wrong.toml").write_text(RUN_FILE.replace("[sweep.train]\nlr", "[sweep.train]\nlearning_rate"))
    wrong = mmbench(home, "plan", "-c", "wrong.toml")

    assert shown.stdout.startswith("17 cells in 2 stages\n")
    assert "\n  2 trials of each of 4 combos (grid), on val alone: 8 cells\n" in shown.stdout
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    assert "[sweep.train]: 'learning_rate' cannot be swept" in wrong.stderr


@pytest.mark.slow
def test_a_wider_selection_adds_its_combos_to_a_swept_run(swept, home):
    before = {item["fusion"]: item for item in json.loads((home / "results/swept/decisions.json").read_text())}
    shutil.copytree(home / "results/swept", home / "results/wider")
    done = mmbench(home, "run", "-c", "sweep.toml", "-f", "sum", "--run", "wider")
    assert done.returncode == 0, done.stdout + done.stderr
    after = {item["fusion"]: item for item in json.loads((home / "results/wider/decisions.json").read_text())}
    [board] = json.loads(mmbench(home, "report", "wider", "--json").stdout)["boards"]

    assert after == {**before, "sum": after["sum"]}
    ranked = {row["fusion"]: row["tuned"]["num_trials"] for row in board["rows"] if row["rank"] is not None}
    assert ranked == {"concat": 2, "gated": 2, "sum": 2, "single": 2}


@pytest.mark.full
def test_an_optuna_sweep_that_is_killed_asks_for_the_same_trials_again(home):
    pytest.importorskip("optuna")
    text = RUN_FILE.replace('"grid"', '"optuna"\ntrials = 4').replace(
        "[1e-6, 3e-3]", "{low = 1e-5, high = 1e-2, log = true}"
    )
    (home / "optuna.toml").write_text(text)
    whole = mmbench(home, "run", "-c", "optuna.toml", "--run", "whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "trial 4 of 4: 4 cells to run" in whole.stdout

    arguments = ("run", "-c", "optuna.toml", "--run", "killed")
    process = subprocess.Popen(**command(home, *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = home / "results/killed/journal.jsonl"
    until = time.monotonic() + 200
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 6):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    again = mmbench(home, *arguments)

    assert again.returncode == 0, again.stdout + again.stderr
    for file in ("decisions.json", "plan.json"):
        assert (home / "results/killed" / file).read_text() == (home / "results/whole" / file).read_text()
    ids = [record.cell_id for record in Journal(journal) if record.status == "ok"]
    assert sorted(ids) == sorted(record.cell_id for record in Journal(home / "results/whole/journal.jsonl"))
