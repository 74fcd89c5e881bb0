"""A race: few epochs choose on val what is trained in full, the same records decide the same, test is never read."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import signal
import subprocess
import time
from collections import Counter

import pytest
from plan_cases import PARTS, dataset, fusion, plan, walk
from typed import command, mmbench

from mmbench.errors import UsageError
from mmbench.journal import Journal
from mmbench.planners import planner_of
from mmbench.race import RaceConfig, num_kept, rungs
from mmbench.record import Record
from mmbench.stage import AtOnce, Result, result_of

#: Twelve fusions of xor in three rungs would be slow; these are eight, of which two cannot learn it.
SELECTION = ("-d", "xor", "--grid", "race", "--seeds", "2", "--limit", "200")
QUIET = ("--protocol", "none", "--diagnostics", "none", "--set", "patience=0")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("race")


def rows_of(home, name):
    return json.loads((home / f"results/{name}/plan.json").read_text())["cells"]


def decisions_of(home, name):
    return json.loads((home / f"results/{name}/decisions.json").read_text())


@pytest.fixture(scope="module")
def raced(home):
    done = mmbench(home, "run", *SELECTION, *QUIET, "--epochs", "12", "--race", "min_epochs=2", "--run", "raced")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# What is decided


@pytest.mark.parametrize(
    ("epochs", "num_combos", "settings", "expected"),
    [
        (27, 1000, {}, [1, 3, 9]),
        (27, 1000, {"min_epochs": 3}, [3, 9]),
        (16, 16, {"eta": 2, "finalists": 1}, [1, 2, 4, 8]),
        (16, 4, {"eta": 2, "finalists": 1}, [4, 8]),
        (10, 3, {}, []),  # no more than the finalists
        (1, 100, {}, []),  # nothing is shorter than one epoch
    ],
)
def test_rungs_are_as_many_as_are_needed_and_as_fit(epochs, num_combos, settings, expected):
    assert rungs(epochs, num_combos, RaceConfig(**settings)) == expected


def test_about_one_in_eta_goes_on_and_never_fewer_than_the_finalists():
    assert [num_kept(n, RaceConfig(eta=3, finalists=2)) for n in (27, 10, 4, 2, 1)] == [9, 4, 2, 2, 1]


def wide(epochs=9, **flags):
    parts = (*PARTS, *(fusion(f"f{n}") for n in range(6)), dataset("more"))
    return planner_of(plan(parts, grid="race", dataset=["pairs", "more"], train={"epochs": epochs}, **flags))


def raced_fusions(race, scores):
    """Drive a race by made-up scores; return the fusions whose combos each stage trains."""
    return [
        sorted({cell.fusion.label for cell in cells if cell.status == "run" and cell.role in ("cell", "rung")})
        for cells in walk(race, scores)
    ]


def by_name(cell):
    """f5 is best, f0 the worst of its kind; what is not called f is worse still."""
    name = cell.fusion.label if cell.fusion else ""
    return Result(status="ok", settled=True, score=float(name[1:]) if name[1:].isdigit() else -1.0, loss=0.0)


def test_the_best_on_val_go_on_and_all_seeds_of_them_are_trained_in_full():
    race = wide(race={"eta": 2, "finalists": 2}, seeds="2")

    assert raced_fusions(race, by_name) == [
        ["concat", "cross", "f0", "f1", "f2", "f3", "f4", "f5"],
        ["f2", "f3", "f4", "f5"],  # 15 combos a dataset (cross has one encoder pair only), 8 go on
        ["f4", "f5"],
        ["f5"],
    ]
    final = [cell for cell in race._final() if cell.status == "run" and cell.role == "cell"]
    assert {(cell.dataset.label, cell.fusion.label, cell.seed) for cell in final} == {
        (name, "f5", seed) for name in ("pairs", "more") for seed in (0, 1)
    }


def test_rungs_have_keys_of_their_own_and_finalists_those_of_an_ordinary_grid():
    race = wide()
    stages = race.stages()
    first = [cell for cell in next(stages).cells() if cell.role == "rung"]
    ordinary = {cell.cell_id for cell in race.plan.cells()}
    same_epochs = {cell.cell_id for cell in wide(epochs=1).plan.cells()}

    assert {cell.identity()["train"]["epochs"] for cell in first} == {1}
    assert not {cell.cell_id for cell in first} & (ordinary | same_epochs)
    stages.send({cell.cell_id: by_name(cell) for cell in first})
    assert {cell.cell_id for cell in race._rest()} < ordinary


def test_a_failure_loses_and_equal_scores_are_decided_by_the_loss():
    def scores(cell):
        if cell.fusion and cell.fusion.label == "f5":
            return Result(status="diverged", settled=True)
        loss = 0.1 if cell.fusion and cell.fusion.label == "f0" else 0.2
        return Result(status="ok", settled=True, score=0.5, loss=loss)

    race = wide(race={"eta": 9, "finalists": 1})

    assert raced_fusions(race, scores)[-1] == ["f0"]
    reasons = {cell.fusion.label: cell.reason for cell in race._final() if cell.status == "stopped"}
    assert reasons["f5"] == "stopped at rung 1 of 1 (1 epoch): diverged there"
    assert reasons["f1"].startswith("stopped at rung 1 of 1 (1 epoch): place ")


def test_a_dataset_whose_rung_did_not_end_waits_and_the_other_goes_on():
    def scores(cell):
        killed = cell.dataset.label == "more" and cell.fusion and cell.fusion.label == "f3"
        return Result(status="killed", settled=False) if killed else by_name(cell)

    race = wide(race={"eta": 3})
    walk(race, scores)
    statuses = {(row["dataset"], row["status"]) for row in race.rows() if row["role"] == "cell"}

    assert {status for name, status in statuses if name == "pairs"} == {"run", "stopped", "incompatible"}
    assert {status for name, status in statuses if name == "more"} == {"pending", "incompatible"}
    assert {decision["dataset"] for decision in race.decisions()} == {"pairs"}


def test_an_ordinary_grid_has_one_stage():
    made = plan(dataset=["pairs"])

    assert isinstance(planner_of(made), AtOnce)
    assert [cell.cell_id for cell in next(planner_of(made).stages()).cells()] == [cell.cell_id for cell in made.cells()]


def test_the_chosen_epoch_speaks_for_a_cell_and_a_score_that_is_not_defined_loses():
    history = [
        {"val_score": 0.5, "val_loss": 0.3},
        {"val_score": 0.7, "val_loss": 0.9},
        {"val_score": 0.7, "val_loss": 0.8},
        {"val_score": None, "val_loss": 0.1},
    ]
    record = Record(cell_id="0" * 16, status="ok", info={"history": history})
    result = result_of(record, num_killed=0, max_killed=3)

    assert (result.score, result.loss) == (0.7, 0.8)
    assert Result(status="ok", settled=True, score=None, loss=0.1).order < result.order


@pytest.mark.parametrize(
    ("race", "message"),
    [
        ({"etta": 3}, r"\[race\]: there is no key 'etta'.*Did you mean 'eta'\?"),
        ({"eta": 1}, r"\[race\]: eta = 1: must be greater than 1"),
        ({"finalists": 0}, r"\[race\]: finalists = 0"),
    ],
)
def test_a_race_that_cannot_be_meant_is_refused(race, message):
    with pytest.raises(UsageError, match=message):
        planner_of(plan(dataset=["pairs"], race=race))


# As people run it


def test_the_plan_shows_the_first_rung_and_how_much_may_follow(home):
    done = mmbench(home, "plan", *SELECTION, "--epochs", "12", "--race", "min_epochs=2")

    assert "rung 1 of 1 (4 epochs) and baselines: 11 cells" in done.stdout
    assert "finalists in full: at most 8 cells" in done.stdout
    told = json.loads(mmbench(home, "plan", *SELECTION, "--epochs", "12", "--race", "min_epochs=2", "--json").stdout)
    assert [(stage["num_cells"], stage["exact"]) for stage in told["stages"]] == [(11, True), (8, False)]
    assert Counter((row["role"], row["status"]) for row in told["cells"]) == {
        ("baseline", "run"): 5, ("rung", "run"): 8, ("cell", "pending"): 16, ("cell", "incompatible"): 2,
    }  # fmt: skip


def test_the_combos_that_learn_the_set_win_and_those_that_cannot_are_stopped(raced, home):
    rows = [row for row in rows_of(home, "raced") if row["role"] == "cell" and row["status"] != "incompatible"]
    finalists = {row["fusion"] for row in rows if row["status"] == "run"}
    [decision] = decisions_of(home, "raced")

    assert len(finalists) == 3
    assert "decision-average" not in finalists  # the sign of g(a) + h(b) is right in three corners of four
    assert finalists == {score["fusion"] for score in decision["scores"] if score["kept"]}
    best = sorted(decision["scores"], key=lambda score: (-score["val_score"], score["val_loss"]))
    assert [score["fusion"] for score in best[:3]] == [score["fusion"] for score in decision["scores"] if score["kept"]]


def test_rungs_never_touch_test_and_are_in_no_table_of_results(raced, home):
    records = {record.cell_id: record for record in Journal(home / "results/raced/journal.jsonl")}
    rung_ids = {row["cell_id"] for row in rows_of(home, "raced") if row["role"] == "rung"}
    table = list(csv.DictReader(io.StringIO(mmbench(home, "export", "raced").stdout)))

    assert len(rung_ids) == 8
    assert {item.split for cell_id in rung_ids for item in records[cell_id].metrics} == {"val", ""}
    assert not rung_ids & {row["cell_id"] for row in table}
    assert {row["status"] for row in table} == {"ok", "stopped", "incompatible"}


def test_stopped_combos_have_no_rank_and_say_how_far_they_came(raced, home):
    report = json.loads(mmbench(home, "report", "raced", "--json").stdout)
    [board] = report["boards"]
    stopped = [row for row in board["rows"] if row["statuses"] == {"stopped": 2}]

    assert len(stopped) == 5
    assert {row["rank"] for row in stopped} == {row["group"] for row in stopped} == {None}
    assert all(row["reason"].startswith("stopped at rung 1 of 1 (4 epochs): place ") for row in stopped)
    assert board["num_planned"] == board["num_done"] == 2 * 3 + 2 * 2 + 1
    sentence = "A race chose what was trained in full: successive halving on validation scores of seed 0"
    assert report["answer"].count(sentence) == 1
    for text in (
        raced,
        (home / "results/raced/report/report.md").read_text(),
        (home / "results/raced/report/report.html").read_text(),
    ):
        assert sentence in text
    assert "stopped at rung 1 of 1" in raced
    status = mmbench(home, "status", "raced").stdout
    assert re.search(r"^stopped +10$", status, re.MULTILINE)
    assert "xor: 3 of 8 combos go on from rung 1 of 1 (4 epochs) to the full training" in status


@pytest.mark.slow
def test_finalists_equal_the_rows_of_an_ordinary_grid(raced, home):
    [best, *_] = [row for row in rows_of(home, "raced") if row["role"] == "cell" and row["status"] == "run"]
    ordinary = mmbench(
        home, "run", "-d", "xor", "-f", best["fusion"], "--seeds", "2", "--limit", "200", *QUIET, "--epochs", "12", "--run", "grid"
    )  # fmt: skip
    assert ordinary.returncode == 0, ordinary.stdout + ordinary.stderr

    def scores(name):
        table = csv.DictReader(io.StringIO(mmbench(home, "export", name).stdout))
        return {
            (row["cell_id"], row["split"], row["metric"]): row["value"]
            for row in table
            if row["fusion"] == best["fusion"] and row["phase"] == "evaluate"
        }

    assert scores("grid")
    assert scores("grid") == scores("raced")


def test_poisoned_test_scores_change_no_decision(raced, home):
    shutil.copytree(home / "results/raced", home / "results/poisoned")
    path = home / "results/poisoned/journal.jsonl"
    poisoned = []
    for number, line in enumerate(path.read_text().splitlines()):
        record = json.loads(line)
        kept = [item for item in record["metrics"] if item.get("split") != "test"]
        lie = {
            "phase": "evaluate",
            "split": "test",
            "task": "label",
            "name": "accuracy",
            "value": float(number),
            "direction": "max",
        }
        record["metrics"] = [*kept, lie]
        poisoned.append(json.dumps(record))
    path.write_text("\n".join(poisoned) + "\n")
    (home / "results/poisoned/decisions.json").unlink()
    (home / "results/poisoned/plan.json").unlink()

    again = mmbench(home, "run", *SELECTION, *QUIET, "--epochs", "12", "--race", "min_epochs=2", "--run", "poisoned")

    assert again.returncode == 0, again.stdout + again.stderr
    assert "nothing left to do" in again.stdout
    assert decisions_of(home, "poisoned") == decisions_of(home, "raced")
    assert rows_of(home, "poisoned") == rows_of(home, "raced")


def test_a_merged_race_still_says_that_it_was_one(raced, home):
    shutil.copytree(home / "results/raced", home / "results/elsewhere")
    merged = mmbench(home, "merge", "raced", "elsewhere", "--into", "both")
    assert merged.returncode == 0, merged.stderr
    report = json.loads(mmbench(home, "report", "both", "--json").stdout)

    assert decisions_of(home, "both") == decisions_of(home, "raced")
    assert report["answer"].count("A race chose what was trained in full") == 1
    assert report["statuses"]["stopped"] == 10


@pytest.mark.slow
def test_every_finalist_reaches_the_ceiling_and_the_best_of_the_whole_grid_is_among_them(home):
    selection = ("run", "-d", "xor", "--grid", "all", "--epochs", "12", *QUIET)
    for name, race in (("whole", ()), ("halved", ("--race", "min_epochs=2", "--race", "finalists=3"))):
        done = mmbench(home, *selection, *race, "--run", name)
        assert done.returncode == 0, done.stdout + done.stderr

    def scores(name):
        [board] = json.loads(mmbench(home, "report", name, "--json").stdout)["boards"]
        return {
            row["fusion"]: row["score"]["mean"] for row in board["rows"] if row["score"] and len(row["modalities"]) > 1
        }

    whole, halved = scores("whole"), scores("halved")
    assert len(whole) == 8
    assert min(whole.values()) < 0.8  # there is something to lose by
    assert len(halved) == 3
    assert min(halved.values()) >= 0.95
    assert max(halved.values()) == max(whole.values())
    assert halved.items() <= whole.items()


@pytest.mark.slow
def test_a_race_that_is_killed_goes_on_to_the_same_finalists(raced, home):
    arguments = ("run", *SELECTION, *QUIET, "--epochs", "12", "--race", "min_epochs=2", "--run", "killed")
    journal = home / "results/killed/journal.jsonl"
    for lines in (5, 14):  # in the rung, and among the finalists
        process = subprocess.Popen(**command(home, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        until = time.monotonic() + 200
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if lines == 5:
            assert {row["status"] for row in rows_of(home, "killed") if row["role"] == "cell"} == {
                "pending",
                "incompatible",
            }
    done = mmbench(home, *arguments)

    assert done.returncode == 0, done.stdout + done.stderr
    assert decisions_of(home, "killed") == decisions_of(home, "raced")
    assert rows_of(home, "killed") == rows_of(home, "raced")
    ids = [record.cell_id for record in Journal(journal) if record.status == "ok"]
    assert sorted(ids) == sorted(record.cell_id for record in Journal(home / "results/raced/journal.jsonl"))
