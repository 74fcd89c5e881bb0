"""Merging runs: what is taken from where, what is refused, and that nothing is ever half there."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mmbench.data_card import DataCard
from mmbench.errors import UsageError
from mmbench.journal import CellState
from mmbench.merge import merge_runs
from mmbench.record import Metric, Record
from mmbench.report import build_report
from mmbench.report.export import export_run
from mmbench.report.markdown import render_markdown
from mmbench.run_cards import read_cards, write_cards
from mmbench.run_subgroups import read_subgroups, write_subgroups
from mmbench.store import RunStore

A, B, C, D = (letter * 16 for letter in "abcd")
ABOUT = {
    "argv": ["run", "-d", "digits"],
    "started_at": "2026-11-21T05:00:00+00:00",
    "config": {"grid": "", "master_seed": 7, "seeds": [0]},
    "environment": {
        "hardware": {"cpu": "one", "num_cpus": 2},
        "packages": {"torch": "2.11.0"},
        "git": {"commit": "c0"},
    },
}
TASKS = [{"name": "digit", "kind": "multiclass", "num_outputs": 10, "class_names": [], "primary": "", "weight": 1.0}]


def about_dataset(**changes: Any) -> dict[str, Any]:
    return {"ref": "d/digits", "summary": "", "tasks": TASKS, "train": {"epochs": 8}, "key": "k1", **changes}


def row(cell_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "cell_id": cell_id,
        "dataset": "digits",
        "encoders": f"image:cnn[width={ord(cell_id[0])}]",
        "fusion": "single",
        "objective": "supervised",
        "seed": 0,
        "role": "cell",
        "status": "run",
        "reason": "",
        **changes,
    }


def record(cell_id: str, accuracy: float | None = None, status: str = "ok", **changes: Any) -> Record:
    metric = Metric(
        phase="evaluate", split="test", task="digit", name="accuracy", value=accuracy, direction="max", n=100
    )
    given: dict[str, Any] = {
        "reason": "" if status == "ok" else "it broke",
        "started_at": "2026-11-21T06:00:00+00:00",
        "metrics": (metric,) if accuracy is not None else (),
        "info": {"split_hash": "s1", "identity": {"dataset": {"version": "1", "options": {}}}},
    }
    return Record(cell_id=cell_id, status=status, **{**given, **changes})  # type: ignore[arg-type]


def make(
    folder: Path,
    rows: Iterable[Mapping[str, Any]],
    records: Iterable[Record],
    *,
    datasets: Mapping[str, Any] | None = None,
    **about: Any,
) -> Path:
    with RunStore.create(folder) as store:
        store.write_run({**ABOUT, **about})
        store.write_plan(rows, {"digits": about_dataset()} if datasets is None else datasets)
        for item in records:
            place = store.begin(item.cell_id, item.attempt)
            (place / "raw").mkdir()
            (place / "predictions.safetensors").write_text(f"{folder.name} {item.cell_id} {item.attempt}")
            (place / "raw" / "timings.npy").write_bytes(b"\0" * 10)
            store.finish(item, place)
    return folder


def exported(folder: Path, to: Path) -> bytes:
    export_run(RunStore.open(folder), "csv", to)
    return to.read_bytes().replace(folder.name.encode() + b",", b"RUN,")


def test_two_machines_runs_merged_equal_one_run_of_the_whole(tmp_path: Path) -> None:
    rows = [row(A, role="baseline"), row(B), row(C, seed=1, role="baseline"), row(D, seed=1, status="incompatible")]
    records = [record(A, 0.5), record(B, None, "failed"), record(C, 0.7)]
    make(tmp_path / "whole", rows, records)
    make(tmp_path / "left", rows[1:2] + rows[3:], records[1:2])
    make(tmp_path / "right", [rows[0], rows[2]], [records[0], records[2]])

    made = merge_runs([tmp_path / "left", tmp_path / "right"], tmp_path / "both")

    assert exported(tmp_path / "both", tmp_path / "1.csv") == exported(tmp_path / "whole", tmp_path / "2.csv")
    merged, whole = RunStore.open(tmp_path / "both"), RunStore.open(tmp_path / "whole")
    assert list(merged.planned()) == list(whole.planned()) == rows
    assert merged.records() == whole.records()
    assert merged.datasets() == whole.datasets()
    assert (made.num_cells, made.counts, made.taken) == (4, {"failed": 1, "ok": 2}, {"left": 1, "right": 2})
    assert (made.notes, made.warnings) == ((), ())


def test_a_cell_brings_the_files_of_the_attempt_that_decides_and_all_its_journal_lines(tmp_path: Path) -> None:
    make(tmp_path / "one", [row(A)], [record(A, None, "killed"), record(A, 0.5, attempt=2)])
    make(tmp_path / "two", [row(B)], [record(B, None, "killed")])

    merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")

    store = RunStore.open(tmp_path / "both")
    assert store.states() == {A: CellState("ok", 2, 1), B: CellState("killed", 1, 1)}
    files = {path.relative_to(store.folder / "cells").as_posix(): path for path in store.folder.rglob("cells/**/*")}
    assert sorted(name for name, path in files.items() if path.is_file()) == [
        f"{cell}/{name}" for cell in (A, B) for name in ("predictions.safetensors", "raw/timings.npy", "record.json")
    ]
    assert files[f"{A}/predictions.safetensors"].read_text() == f"one {A} 2"
    assert json.loads(files[f"{A}/record.json"].read_text()) == record(A, 0.5, attempt=2).to_json()


def test_a_result_goes_before_a_failure_wherever_it_stands(tmp_path: Path) -> None:
    make(tmp_path / "one", [row(A), row(B)], [record(A, None, "oom_host"), record(B, 0.6)])
    make(tmp_path / "two", [row(A), row(B)], [record(A, 0.5), record(B, None, "failed")])

    made = merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")

    found = RunStore.open(tmp_path / "both").records()
    assert found == {A: record(A, 0.5), B: record(B, 0.6)}
    assert made.taken == {"one": 1, "two": 1}


def test_of_failures_the_latest_counts(tmp_path: Path) -> None:
    early, late = (record(A, None, "failed", started_at=f"2026-11-21T0{hour}:00:00+00:00") for hour in (6, 7))
    make(tmp_path / "one", [row(A)], [late])
    make(tmp_path / "two", [row(A)], [early])

    merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")

    assert RunStore.open(tmp_path / "both").records() == {A: late}


def test_equal_results_are_taken_from_the_first_and_it_says_so(tmp_path: Path) -> None:
    make(tmp_path / "one", [row(A), row(B)], [record(A, 0.5), record(B, 0.6)])
    make(tmp_path / "two", [row(A), row(B)], [record(A, 0.5 + 1e-12), record(B, 0.6)])

    made = merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")

    assert made.notes == ("2 cells of two have a result in one too: one's were taken",)
    assert made.warnings == ()
    assert (
        RunStore.open(tmp_path / "both").cell_folder(A).joinpath("predictions.safetensors").read_text() == f"one {A} 1"
    )


def test_scores_that_differ_where_they_should_be_equal_are_named(tmp_path: Path) -> None:
    make(tmp_path / "one", [row(A)], [record(A, 0.5)])
    make(tmp_path / "two", [row(A)], [record(A, 0.50000001)])

    made = merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")

    assert made.warnings == (
        f"cell {A} (digits, image:cnn[width=97], single, seed 0): test digit accuracy is 0.5 in one and 0.50000001 in "
        "two; equal hardware and versions would give equal scores",
    )


@pytest.mark.parametrize(
    ("changes", "info", "words"),
    [
        ({"train": {"epochs": 9}}, {}, "training with epochs 8 and 9"),
        ({"key": "k2"}, {"identity": {"dataset": {"version": "2", "options": {}}}}, "version 1 and 2"),
        ({"key": "k2"}, {}, "other data (k1 and k2)"),
        ({}, {"split_hash": "s2"}, "other splits (s1 and s2)"),
    ],
)
def test_runs_that_disagree_about_a_dataset_are_refused_or_kept_apart(
    tmp_path: Path, changes: dict[str, Any], info: dict[str, Any], words: str
) -> None:
    one = record(A, 0.5)
    make(tmp_path / "one", [row(A)], [one])
    other = record(B, 0.9, info={**one.info, **info})
    make(tmp_path / "two", [row(A), row(B)], [other], datasets={"digits": about_dataset(**changes)})

    with pytest.raises(UsageError) as caught:
        merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    made = merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "apart", force=True)

    line = f"digits is not the same in one and two: {words}"
    assert str(caught.value) == (
        f"{line}\nSuch numbers do not belong in one table: merge fewer runs, or --force to keep the later ones apart "
        "under a name of their own"
    )
    assert not (tmp_path / "both").exists()
    assert made.notes == (f"{line}; what two has is kept apart as 'digits (from two)'",)
    boards = {board.dataset: board.best.score.mean for board in build_report(tmp_path / "apart").boards}  # type: ignore[union-attr]
    assert boards == {"digits": 0.5, "digits (from two)": 0.9}


TUNED = {"values": {"train.lr": 0.1}, "method": "grid", "num_trials": 3, "val_score": 0.5}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tuned": TUNED}, "not tuned and tuned to train.lr=0.1"),
        ({}, "another master_seed, or another version of a part"),
    ],
)
def test_two_cells_never_share_a_place_in_the_tables(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    make(tmp_path / "one", [row(A, encoders="image:cnn")], [record(A, 0.5)])
    make(tmp_path / "agrees", [row(D)], [record(D, 0.6)])
    make(tmp_path / "two", [row(B, encoders="image:cnn", **changes)], [record(B, 0.9)])
    folders = [tmp_path / "agrees", tmp_path / "one", tmp_path / "two"]

    with pytest.raises(UsageError) as caught:
        merge_runs(folders, tmp_path / "both")
    merge_runs(folders, tmp_path / "apart", force=True)

    assert str(caught.value).startswith(
        "digits is not the same in agrees and two: 1 cell made otherwise than in one "
        f"(digits, image:cnn, single, seed 0: {why})\n"
    )
    boards = {
        board.dataset: {made.encoders: made.score.by_seed for made in board.rows if made.score is not None}
        for board in build_report(tmp_path / "apart").boards
    }
    assert boards == {
        "digits": {"image:cnn": {0: 0.5}, "image:cnn[width=100]": {0: 0.6}},
        "digits (from two)": {"image:cnn": {0: 0.9}},
    }


def test_profiles_of_one_setup_measured_in_two_ways_add_up(tmp_path: Path) -> None:
    for name, cell in (("one", A), ("two", B)):
        make(tmp_path / name, [row(cell, encoders="image:cnn", variant="fp32")], [record(cell)], kind="profile")

    made = merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")

    assert (made.num_cells, made.notes) == (2, ())


def test_one_profile_is_the_same_in_a_run_of_a_version_that_did_not_say_what_it_measured(tmp_path: Path) -> None:
    for name, changes in (("old", {}), ("new", {"measured": B})):
        rows = [row(A, encoders="image:cnn", variant="fp32", **changes)]
        make(tmp_path / name, rows, [record(A)], kind="profile")

    made = merge_runs([tmp_path / "old", tmp_path / "new"], tmp_path / "both")

    assert made.num_cells == 1


def test_profiles_of_two_versions_of_a_part_are_no_two_rounds_of_one(tmp_path: Path) -> None:
    for name, cell in (("one", A), ("two", B)):
        rows = [row(cell, encoders="image:cnn", variant="fp32", measured=cell)]
        make(tmp_path / name, rows, [record(cell)], kind="profile")

    with pytest.raises(UsageError) as caught:
        merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")

    assert str(caught.value).startswith(
        "digits is not the same in one and two: 1 cell made otherwise than in one (digits, image:cnn, single, seed 0: "
        "another protocol, device or other setting, or another version of a part)\n"
    )


def test_a_cell_that_waits_to_be_tuned_makes_way_for_the_one_that_was(tmp_path: Path) -> None:
    waits = row(A, encoders="image:cnn", status="pending", reason="its trials come first")
    make(tmp_path / "begun", [waits, row(C, role="trial")], [record(C, None, "killed")])
    make(tmp_path / "done", [row(B, encoders="image:cnn", tuned=TUNED), row(C, role="trial")], [record(B, 0.9)])

    made = merge_runs([tmp_path / "begun", tmp_path / "done"], tmp_path / "both")

    [board] = build_report(tmp_path / "both").boards
    assert (made.num_cells, board.num_planned, board.num_done) == (2, 1, 1)


def test_what_a_run_no_longer_plans_is_left_behind(tmp_path: Path) -> None:
    make(tmp_path / "one", [row(B)], [record(A, None, "failed"), record(B, 0.5)])
    make(tmp_path / "two", [row(C)], [record(C, 0.7)])

    made = merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")

    assert (made.num_cells, made.counts, made.taken) == (2, {"ok": 2}, {"one": 1, "two": 1})
    assert sorted(path.name for path in (tmp_path / "both" / "cells").iterdir()) == [B, C]


def test_where_splits_differ_a_result_never_fills_the_other_sources_cell(tmp_path: Path) -> None:
    make(tmp_path / "one", [row(A), row(B)], [record(A, None, "failed"), record(B, 0.5)])
    other = {"split_hash": "s2"}
    make(tmp_path / "two", [row(A)], [record(A, 0.9, info=other)])

    merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both", force=True)

    assert {found.cell_id: found.status for found in RunStore.open(tmp_path / "both").records().values()} == {
        A: "failed",
        B: "ok",
    }


def test_the_sources_stay_known_and_what_they_share_is_the_runs(tmp_path: Path) -> None:
    environment = {**ABOUT["environment"], "hardware": {"cpu": "other", "num_cpus": 2}}  # type: ignore[dict-item]
    make(tmp_path / "one", [row(A)], [record(A, 0.5)])
    make(tmp_path / "two", [row(B)], [record(B, 0.6)], argv=["run", "-f", "gated"], environment=environment)

    merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both", argv=["merge", "one", "two"])

    about = RunStore.open(tmp_path / "both").read_run()
    assert about["argv"] == ["merge", "one", "two"]
    assert about["config"] == ABOUT["config"]
    assert about["environment"] == {
        "hardware": {"num_cpus": 2}, "packages": {"torch": "2.11.0"}, "git": {"commit": "c0"},
    }  # fmt: skip
    assert [source["run"] for source in about["merged"]] == ["one", "two"]
    assert about["merged"][1]["argv"] == ["run", "-f", "gated"]
    assert about["merged"][1]["environment"]["hardware"]["cpu"] == "other"
    text = render_markdown(build_report(tmp_path / "both"))
    assert "- Merged from one: mmbench run -d digits; started 2026-11-21T05:00:00+00:00; one, 2 CPUs usable" in text
    assert "- Merged from two: mmbench run -f gated; started 2026-11-21T05:00:00+00:00; other, 2 CPUs usable" in text


def test_damaged_lines_and_missing_files_are_counted_and_told(tmp_path: Path) -> None:
    make(tmp_path / "one", [row(A), row(B)], [record(A, 0.5), record(B, 0.6)])
    make(tmp_path / "two", [row(C)], [record(C, 0.7)])
    with (tmp_path / "one" / "journal.jsonl").open("a") as stream:
        stream.write("{half a line\n\x00\n{torn")
    for path in (tmp_path / "one" / "cells" / A).rglob("*"):
        if path.is_file():
            path.unlink()

    made = merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")

    assert made.warnings == (
        "2 damaged lines in the journal of one could not be read",
        "1 cell of one came without files (predictions, timings): paired tests leave them out",
    )
    store = RunStore.open(tmp_path / "both")
    assert set(store.records()) == {A, B, C}
    assert [path.name for path in store.cell_folder(A).iterdir()] == ["record.json"]


def test_files_of_an_attempt_that_the_journal_does_not_know_are_left_behind(tmp_path: Path) -> None:
    """A run is killed between moving the files of attempt 2 and writing its line."""
    make(tmp_path / "one", [row(A)], [record(A, None, "killed"), record(A, 0.5, attempt=2)])
    journal = tmp_path / "one" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    make(tmp_path / "two", [row(B)], [record(B, 0.6)])

    made = merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")

    assert made.counts == {"killed": 1, "ok": 1}
    assert [path.name for path in RunStore.open(tmp_path / "both").cell_folder(A).iterdir()] == ["record.json"]


def test_data_cards_go_along_under_the_names_that_datasets_get(tmp_path: Path) -> None:
    for name, size in (("left", 5), ("right", 6)):
        make(tmp_path / name, [row(A)], [record(A, 0.5)], datasets={"digits": about_dataset(key=name)})
        card = DataCard(name="digits", ref="d/digits", summary="", num_samples={"train": size}, tasks=(), modalities=())
        write_cards(tmp_path / name, {"digits": card})
    merge_runs([tmp_path / "left", tmp_path / "right"], tmp_path / "both", force=True)

    found = {card.name: card.num_samples["train"] for card in read_cards(tmp_path / "both")}
    assert found == {"digits": 5, "digits (from right)": 6}


def test_subgroups_go_along_and_of_one_column_the_first_sources(tmp_path: Path) -> None:
    for name, cell, columns in (("left", A, {"sex": {"s0": "F"}}), ("right", B, {"sex": {"s0": "M"}, "site": {}})):
        make(tmp_path / name, [row(cell)], [record(cell, 0.5)])
        write_subgroups(tmp_path / name, {"digits": columns})
    merge_runs([tmp_path / "left", tmp_path / "right"], tmp_path / "both")

    assert read_subgroups(tmp_path / "both") == {"digits": {"sex": {"s0": "F"}, "site": {}}}


def test_a_link_in_a_cell_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    make(tmp_path / "one", [row(A)], [record(A, 0.5)])
    (tmp_path / "one" / "cells" / A / "link").symlink_to(tmp_path / "secret")
    make(tmp_path / "two", [row(B)], [record(B, 0.6)])

    merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")

    names = [path.name for path in (tmp_path / "both" / "cells" / A).iterdir()]
    assert sorted(names) == ["predictions.safetensors", "raw", "record.json"]


def test_a_cell_that_one_machine_could_not_run_is_planned_as_the_other_could(tmp_path: Path) -> None:
    make(tmp_path / "one", [row(A, status="unavailable", reason="pip install timm")], [])
    make(tmp_path / "two", [row(A)], [])

    merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")

    assert list(RunStore.open(tmp_path / "both").planned()) == [row(A)]


def test_what_cannot_be_merged_says_what_to_do(tmp_path: Path) -> None:
    one, two = make(tmp_path / "one", [row(A)], []), make(tmp_path / "two", [row(B)], [])
    profile = make(tmp_path / "profile", [row(C)], [], kind="profile")

    with pytest.raises(UsageError, match="name at least two runs to merge"):
        merge_runs([one], tmp_path / "both")
    with pytest.raises(UsageError, match="one is named 2 times; name each run once"):
        merge_runs([one, two, tmp_path / "two" / ".." / "one"], tmp_path / "both")
    with pytest.raises(UsageError, match="two exists; merge into another name, or move it away"):
        merge_runs([one, two], two)
    with pytest.raises(UsageError, match="one holds trained cells and profile profiles"):
        merge_runs([one, profile], tmp_path / "both")
    with pytest.raises(UsageError, match="no run is named 'tow'"):
        merge_runs([one, tmp_path / "tow"], tmp_path / "both")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "profile", "two"]


def test_runs_of_one_name_from_two_machines_are_told_apart(tmp_path: Path) -> None:
    for machine, cell in (("alpha", A), ("beta", B)):
        make(tmp_path / machine / "all", [row(cell)], [record(cell, 0.5)])

    made = merge_runs([tmp_path / "alpha" / "all", tmp_path / "beta" / "all"], tmp_path / "both")

    assert made.taken == {"alpha/all": 1, "beta/all": 1}


def test_a_merge_that_is_killed_leaves_nothing_and_can_be_typed_again(tmp_path: Path) -> None:
    cells = [f"{number:016x}" for number in range(48)]
    for name, chosen in (("one", cells[:30]), ("two", cells[18:])):
        rows = [row(cell, encoders=f"image:cnn[width={cell}]") for cell in chosen]
        make(tmp_path / name, rows, [record(cell, 0.5) for cell in chosen])
    # It kills itself: on a busy machine another process might come to it when the merge is long done.
    code = (
        "import os, signal, sys, threading; from pathlib import Path; from mmbench.merge import merge_runs\n"
        "threading.Timer(float(sys.argv[4]), os.kill, (os.getpid(), signal.SIGKILL)).start()\n"
        "merge_runs([Path(sys.argv[1]), Path(sys.argv[2])], Path(sys.argv[3]))"
    )
    command = [sys.executable, "-c", code, *(str(tmp_path / name) for name in ("one", "two", "both"))]
    draw = random.Random(0)
    num_killed = 0
    for _ in range(4):
        done = subprocess.run([*command, str(draw.uniform(0, 0.1))], check=False)
        assert done.returncode == -signal.SIGKILL
        if (tmp_path / "both").exists():
            break  # it was ready before the signal: whole, as below
        num_killed += 1
    if not (tmp_path / "both").exists():
        merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")

    assert num_killed > 0
    store = RunStore.open(tmp_path / "both")
    assert sorted(store.records()) == cells
    assert all((store.cell_folder(cell) / "predictions.safetensors").is_file() for cell in cells)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".both.merging") == ["both", "one", "two"]


def test_a_source_that_is_being_written_is_read_as_it_is(tmp_path: Path) -> None:
    make(tmp_path / "one", [row(A)], [record(A, 0.5)])
    with RunStore.create(tmp_path / "two") as store:
        store.write_run(ABOUT)
        store.write_plan([row(B), row(C)], {"digits": about_dataset()})
        store.finish(record(B, 0.6), store.begin(B, 1))
        begun = store.begin(C, 1)

        merge_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")

        assert begun.is_dir()
    assert set(RunStore.open(tmp_path / "both").records()) == {A, B}
    assert sorted(path.name for path in (tmp_path / "both" / "cells").iterdir()) == [A, B]


@pytest.mark.slow
def test_merged_runs_of_the_command_line_equal_one_run_of_the_whole_and_go_on(tmp_path: Path) -> None:
    """Scores only: how long things took is another matter on every run."""

    def mmbench(*words: str) -> str:
        command = [sys.executable, "-m", "mmbench.cli", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    settings = ("-f", "concat", "--epochs", "1", "--protocol", "none", "--diagnostics", "none", "--cache", "cache")
    both = ("-d", "xor", "-d", "synergy", "-e", "mlp", "-e", "gru", "-e", "embedding-lstm", *settings)
    mmbench("run", "-d", "xor", *settings, "--run", "one")
    mmbench("run", "-d", "synergy", "-e", "gru", "-e", "embedding-lstm", *settings, "--run", "two")
    mmbench("run", *both, "--run", "whole")

    mmbench("merge", "one", "two", "--into", "merged")

    whole, merged = (
        [line.partition(",")[2] for line in mmbench("export", name).splitlines() if ",evaluate," in line]
        for name in ("whole", "merged")
    )
    assert sorted(merged) == sorted(whole)
    assert "\n0 cells in " in mmbench("run", *both, "--run", "merged")  # and a report, which it had not yet
    assert [source["run"] for source in RunStore.open(tmp_path / "results" / "merged").read_run()["merged"]] == [
        "one", "two",
    ]  # fmt: skip
    assert "| xor |" in mmbench("report", "--index") + (tmp_path / "results" / "README.md").read_text()
