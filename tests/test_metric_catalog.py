"""`--metric`: which metric ranks a task, what it changes in a plan, and what it leaves alone."""

import csv
import json
import subprocess
import sys

import pytest
from plan_cases import PARTS, registry

from mmbench.config import load_config
from mmbench.errors import UsageError
from mmbench.metric_catalog import METRICS, with_ranking_metrics
from mmbench.plan import make_plan
from mmbench.spec import DatasetSpec, Modality, TaskSpec

CLASSES = TaskSpec(name="label", kind="multiclass", num_outputs=3)
AGE = TaskSpec(name="age", kind="regression", num_outputs=1)


def planned(*tasks, **flags):
    data = DatasetSpec(
        name="pairs",
        factory="a:b",
        version="1",
        modalities=(Modality(name="image", kind="image"), Modality(name="audio", kind="audio")),
        tasks=tasks,
    )
    return make_plan(load_config({"dataset": "pairs", **flags}), registry(*PARTS[:-1], data))


def ids(*tasks, **flags):
    return [cell.cell_id for cell in planned(*tasks, **flags).cells()]


def floor(*tasks, **flags):
    return next(cell.cell_id for cell in planned(*tasks, **flags).cells() if cell.fusion is None)


def primaries(plan):
    return [task["primary"] for task in plan.datasets_json()["pairs"]["tasks"]]


def test_a_metric_that_names_its_task_goes_before_one_that_does_not():
    tasks = with_ranking_metrics((CLASSES, AGE), ["f1_macro", "label=auroc", "age=rmse"])

    assert [task.primary for task in tasks] == ["auroc", "rmse"]


def test_the_plan_ranks_by_the_chosen_metric_and_its_cells_train_by_it():
    plan = planned(CLASSES, metric="balanced_accuracy")

    assert primaries(plan) == ["balanced_accuracy"]
    cells = [cell for cell in plan.cells() if cell.status == "run"]
    assert {cell.payload()["dataset"]["info"]["tasks"][0]["primary"] for cell in cells} == {"balanced_accuracy"}
    assert {cell.identity()["train"]["metric"] for cell in cells} == {"balanced_accuracy"}


def test_a_metric_that_chooses_the_epoch_makes_other_cells():
    assert not set(ids(CLASSES)) & set(ids(CLASSES, metric="balanced_accuracy"))


def test_the_cached_arrays_of_a_dataset_serve_every_metric():
    def keys(**flags):
        return {part.key for part in planned(CLASSES, **flags).datasets}

    assert keys() == keys(metric="balanced_accuracy")


@pytest.mark.parametrize(
    ("tasks", "flags"),
    [
        ((CLASSES,), {"metric": "accuracy"}),  # the task's own
        ((CLASSES,), {"metric": "auroc", "train": {"select": "loss"}}),  # the loss chooses the epoch
        ((CLASSES, TaskSpec(name="b", kind="multiclass", num_outputs=2)), {"metric": "auroc"}),  # so it does of several
    ],
)
def test_a_metric_that_changes_no_training_changes_no_key(tasks, flags):
    usual = {key: value for key, value in flags.items() if key != "metric"}

    assert ids(*tasks, **flags) == ids(*tasks, **usual)


def test_the_metric_of_a_regression_is_in_the_key_of_its_majority_baseline_always():
    """Its constant is the median for the mean absolute error, and the mean for any other metric."""
    by_loss = {"train": {"select": "loss"}}

    assert floor(AGE, **by_loss) != floor(AGE, metric="rmse", **by_loss)
    assert floor(AGE, CLASSES) != floor(AGE, CLASSES, metric="rmse")


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["f1_makro"], "no metric is named 'f1_makro'. Did you mean 'f1_macro'"),
        (["lable=f1_macro"], "no selected dataset has a task 'lable'; there is label, age. Did you mean 'label'?"),
        (["age=f1_macro"], "no selected task can be ranked by it. regression tasks have mae, rmse,"),
        (["map", "auroc"], "--metric names map and auroc for the task 'label'.*--metric label=map"),
        (["median_rank"], "no selected task can be ranked by it. multiclass tasks have accuracy, balanced_accuracy"),
    ],
)
def test_a_metric_that_cannot_be_meant_is_refused_with_what_there_is(metrics, message):
    with pytest.raises(UsageError, match=message):
        planned(CLASSES, AGE, metric=metrics)


def test_a_task_whose_kind_has_no_such_metric_keeps_its_own_and_the_plan_says_so():
    plan = planned(CLASSES, AGE, metric="f1_macro")

    assert primaries(plan) == ["f1_macro", ""]
    assert plan.notes == ("pairs: task 'age' is ranked by mae: regression tasks do not have f1_macro",)


def test_every_metric_of_a_kind_can_rank_it():
    for kind, specs in METRICS.items():
        task = TaskSpec(name="t", kind=kind, num_outputs=2)
        for spec in specs:
            assert with_ranking_metrics((task,), [spec.name])[0].primary == spec.name


def mmbench(*arguments, cwd):
    return subprocess.run([sys.executable, "-m", "mmbench", *arguments], cwd=cwd, capture_output=True, text=True)


def test_a_run_chooses_the_epoch_and_ranks_by_the_metric_of_its_run_file(tmp_path):
    (tmp_path / "run.toml").write_text(
        'dataset = "xor"\nfusion = "concat"\nbaselines = false\nmetric = "log_loss"\nprotocol = "none"\n'
        'diagnostics = "none"\nexecutor = "inline"\n[train]\nepochs = 1\nlimit = 40\n'
    )
    done = mmbench("run", "-c", "run.toml", "--run", "r", "-e", "mlp", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "log_loss ↓" in done.stdout.replace("log loss", "log_loss")
    record = json.loads(next((tmp_path / "results/r/cells").glob("*/record.json")).read_text())
    assert record["info"]["selected_by"] == "log_loss"
    rows = list(csv.DictReader((tmp_path / "results/r/report/leaderboard.csv").open()))
    assert {(row["metric"], row["direction"]) for row in rows} == {("log_loss", "min")}
    refused = mmbench("run", "-c", "run.toml", "--run", "r", "-e", "mlp", "--metric", "accuracy", cwd=tmp_path)
    assert refused.returncode == 2
    assert "metric was 'log_loss' and is now \"the task's own\"" in refused.stderr
