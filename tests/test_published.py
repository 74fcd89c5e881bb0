"""A run beside a published one that left its predictions out: the same tests and groups as with them, or a reason."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from comparison_cases import DATASETS, NUM_TEST, make_run
from simulated import board_of
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from mmbench.compare_session import compare_published
from mmbench.errors import UsageError
from mmbench.report import build_report, write_report
from mmbench.report.comparison import compare_runs
from mmbench.report.packed_scores import PackedScores, ScoreKey
from mmbench.report.published import compare_with_published
from mmbench.store import RunStore

BY_F1 = {"digits": {"tasks": [{**DATASETS["digits"]["tasks"][0], "primary": "f1_macro"}]}}
WRONG = {"concat": range(20), "sum": range(10, 60), "gated": range(5, 25), "mine": range(8)}


def published(folder, fusions=("concat", "sum", "gated"), **about):
    """A run whose report was written, and whose cells were then removed, as the reference runs are committed."""
    store = make_run(folder, fusions, wrong=WRONG, **about)
    write_report(folder)
    store.close()
    shutil.rmtree(folder / "cells")
    return RunStore.open(folder)


def own_rows(made):
    (joint,) = made.boards
    return {joint.board.rows[at].fusion: compared for at, compared in joint.against.items()}


def test_the_p_values_are_those_of_mcnemar_and_holm(tmp_path):
    theirs = published(tmp_path / "theirs", val={"concat": 0.9, "sum": 0.5, "gated": 0.8})
    mine = make_run(tmp_path / "mine", ("mine", "sum"), wrong=WRONG)

    found = own_rows(compare_with_published(mine, theirs))

    def exact(one, other):
        right = [[n not in WRONG[name] for n in range(NUM_TEST)] for name in (one, other)]
        table = [[sum(a == x and b == y for a, b in zip(*right)) for y in (True, False)] for x in (True, False)]
        return mcnemar(table, exact=True).pvalue

    expected = multipletests([exact("mine", "concat"), exact("sum", "concat")], method="holm")[1]
    assert found["mine"].p_value == pytest.approx(expected[0])
    assert found["sum"].p_value == pytest.approx(expected[1])
    assert found["mine"].difference == pytest.approx(0.12)


def test_packed_scores_give_what_predictions_give(tmp_path):
    with_predictions = make_run(tmp_path / "whole", ("concat", "sum", "gated"), seeds=(0, 1), wrong=WRONG)
    without = published(tmp_path / "theirs", seeds=(0, 1))
    mine = make_run(tmp_path / "mine", ("mine",), seeds=(0, 1), wrong=WRONG)

    one, other = (own_rows(compare_with_published(mine, run)) for run in (with_predictions, without))

    assert one == other


def test_a_report_made_again_without_predictions_has_the_same_groups(tmp_path):
    store = make_run(tmp_path / "run", ("concat", "sum", "gated"), wrong=WRONG)
    write_report(tmp_path / "run")
    store.close()
    whole = build_report(tmp_path / "run")

    shutil.rmtree(tmp_path / "run" / "cells")
    again = build_report(tmp_path / "run")
    write_report(tmp_path / "run", again)

    assert [(row.fusion, row.group, row.score) for row in again.boards[0].rows] == [
        (row.fusion, row.group, row.score) for row in whole.boards[0].rows
    ]
    assert build_report(tmp_path / "run").boards[0].rows == again.boards[0].rows


def test_two_runs_are_compared_by_packed_scores_as_by_predictions(tmp_path):
    first = published(tmp_path / "a", ("concat",))
    second = make_run(tmp_path / "b", ("concat",), wrong=range(40))

    row = next(row for row in compare_runs(first, second).rows if row.metric == "accuracy")

    assert (row.test, row.change) == ("exact McNemar", pytest.approx(-0.2))
    assert row.p_value == pytest.approx(2 * 0.5**20)


def test_the_published_row_is_chosen_on_val_and_not_on_test(tmp_path):
    theirs = published(tmp_path / "theirs", val={"concat": 0.7, "sum": 0.95, "gated": 0.8})
    mine = make_run(tmp_path / "mine", ("mine",), wrong=WRONG)

    (joint,) = compare_with_published(mine, theirs).boards

    assert joint.reference is not None and joint.reference.fusion == "sum"


def test_only_common_seeds_are_compared(tmp_path):
    theirs = published(tmp_path / "theirs", seeds=(0, 1, 2))
    mine = make_run(tmp_path / "mine", ("mine",), seeds=(1, 2, 3), wrong=WRONG)

    (joint,) = compare_with_published(mine, theirs).boards

    assert joint.board.seeds == (1, 2)
    assert {tuple(row.score.by_seed) for row in joint.board.rows} == {(1, 2)}


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"identity": {"ref": "a/digits", "version": "2"}}, "the runs stand on different data"),
        ({"seeds": (7,)}, "no seed in common"),
        ({"metric": "f1_macro", "datasets": BY_F1}, "theirs ranks it by accuracy over 10 outputs, mine by f1_macro"),
    ],
)
def test_runs_that_cannot_be_compared_say_why(tmp_path, about, reason):
    theirs = published(tmp_path / "theirs")
    mine = make_run(tmp_path / "mine", ("mine",), wrong=WRONG, **about)

    with pytest.raises(UsageError, match=reason):
        compare_with_published(mine, theirs)


def test_a_metric_that_is_no_mean_has_no_packed_scores_and_says_so(tmp_path):
    theirs = published(tmp_path / "theirs", metric="f1_macro", datasets=BY_F1)
    mine = make_run(tmp_path / "mine", ("mine",), wrong=WRONG, metric="f1_macro", datasets=BY_F1)

    (joint,) = compare_with_published(mine, theirs).boards

    assert joint.against == {} and "no per-sample scores" in joint.test


def test_other_test_samples_are_not_paired(tmp_path):
    theirs = published(tmp_path / "theirs")
    mine = make_run(tmp_path / "mine", ("mine",), wrong=WRONG, ids=[f"t{n}" for n in range(NUM_TEST)])

    (joint,) = compare_with_published(mine, theirs).boards

    assert joint.against == {}


def test_the_command_shows_both_runs_and_gives_json(tmp_path, capsys):
    theirs = published(tmp_path / "theirs")
    mine = make_run(tmp_path / "mine", ("mine",), wrong=WRONG)

    compare_published(mine, theirs)
    shown = capsys.readouterr().out
    compare_published(mine, theirs, as_json=True)
    data = json.loads(capsys.readouterr().out)

    assert "mine against theirs" in shown and "exact McNemar" in shown
    assert [row["run"] for row in data["boards"][0]["rows"]].count("mine") == 1


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_the_published_run_of_few_seeds_keeps_chance_from_certainty_and_intervals_in_range(seeds):
    """`sum` of two modalities answers `xor` by chance; on `redundant` all rows are right in 0.9 at most."""
    run = Path(__file__).parents[1] / "results" / "few-seeds"
    plan = json.loads((run / "plan.json").read_text())["cells"]
    packed = PackedScores(run / "report" / "scores.safetensors")
    for dataset in ("xor", "redundant"):
        rows: dict[tuple[str, str], list[np.ndarray]] = {}
        for cell in sorted(plan, key=lambda cell: cell["seed"]):
            scored = packed.get(ScoreKey(cell["cell_id"], "label", "accuracy"))
            if cell["dataset"] == dataset and cell["seed"] < seeds and scored is not None and cell["fusion"]:
                rows.setdefault((cell["encoders"], cell["fusion"]), []).append(scored.scores)
        scores = np.array(list(rows.values()))
        fusions = [fusion for _, fusion in rows]

        board = board_of(scores, scores, 0)

        assert all(0 <= row.score.ci_low <= row.score.mean <= row.score.ci_high <= 1 for row in board.rows)
        if dataset == "xor":
            groups = {fusions[int(row.encoders.partition("+")[0].removeprefix("image:e"))]: row for row in board.rows}
            assert groups["sum"].score.mean < 0.55
            assert {groups[name].group for name in ("concat", "max", "gated")} == {1}
            assert groups["sum"].group == 2
