"""The leaderboard over a folder of runs: what it takes from where, and what it never touches."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmbench.errors import UsageError
from mmbench.record import Metric, Record
from mmbench.report import index, write_report
from mmbench.report.index import MARK, write_index
from mmbench.report.text import markdown
from mmbench.store import RunStore

CELLS = [f"{number:016x}" for number in range(4)]
EVIL = "<script>alert(1)</script>|`x`|[a](b)"


def make_run(
    results: Path, name: str, *, argv: tuple[str, ...] = ("run", "-d", "digits"), fusion: str = "gated"
) -> Path:
    task = {"name": "digit", "kind": "multiclass", "num_outputs": 10, "class_names": [], "primary": "", "weight": 1.0}
    combos = [
        ("", "majority", ""),
        ("image:cnn", "single", "supervised"),
        ("text:gru", "single", "supervised"),
        ("image:cnn+text:gru", fusion, "supervised"),
    ]
    with RunStore.create(results / name) as store:
        store.write_run(
            {
                "argv": list(argv),
                "started_at": "2026-11-21T05:01:53+00:00",
                "environment": {
                    "hardware": {"cpu": "Toy", "num_cpus": 2, "memory_bytes": 4 * 2**30},
                    "python": "3.11.7",
                    "packages": {"mmbench": "0.1.0", "torch": "2.11.0"},
                },
            }
        )
        store.write_plan(
            [
                {
                    "cell_id": cell,
                    "dataset": "digits",
                    "encoders": encoders,
                    "fusion": fused,
                    "objective": objective,
                    "seed": 0,
                    "role": "cell",
                    "status": "run",
                    "reason": "",
                }
                for cell, (encoders, fused, objective) in zip(CELLS, combos)
            ],
            {"digits": {"tasks": [task], "train": {}, "key": "k"}},
        )
        for cell, value, began in zip(CELLS, (0.1, 0.8, 0.7, 0.9), (0, 0, 30, 300)):
            metric = Metric(
                phase="evaluate",
                split="test",
                task="digit",
                name="accuracy",
                value=value,
                direction="max",
                n=100,
                ci_low=value - 0.05,
                ci_high=value + 0.05,
            )
            record = Record(
                cell_id=cell,
                status="ok",
                started_at=f"2026-11-21T05:{2 + began // 60:02}:{began % 60:02}.000+00:00",
                duration_s=40.0,
                metrics=(metric,),
                info={"device": "cpu"},
            )
            store.finish(record, store.begin(cell, 1))
    return results / name


def as_published(folder: Path) -> Path:
    """Leave the cells out and change the written report's interval and group, as evidence would have."""
    write_report(folder)
    shutil.rmtree(folder / "cells")
    path = folder / "report" / "leaderboard.csv"
    lines = path.read_text().splitlines()
    heads, best = lines[0].split(","), lines[1].split(",")
    best[heads.index("group")], best[heads.index("ci_low")], best[heads.index("ci_high")] = "1", "0.861", "0.939"
    path.write_text("\n".join([lines[0], ",".join(best), *lines[2:]]) + "\n")
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_runs_with_packed_scores_are_said_to_be_testable(tmp_path: Path) -> None:
    folder = as_published(make_run(tmp_path, "all"))
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report" / "scores.safetensors").write_bytes(b"")

    text = " ".join(write_index(tmp_path).read_text().split())

    assert "rows can still be tested: `mmbench compare RUN --against` that folder." in text


def test_a_published_run_is_shown_as_its_written_report_has_it(tmp_path: Path) -> None:
    as_published(make_run(tmp_path, "all"))

    path = write_index(tmp_path)

    assert (
        path.read_text()
        == f"""{MARK}

# Reference runs

Each folder is a run as `mmbench run` leaves it: `run.json` (command, versions, hardware), `plan.json`, `journal.jsonl`
and `report/` (open `report.html` in a browser). The per-sample predictions under `cells/` are left out for their size,
so rows can be read and exported, not tested in pairs again.

<!-- notes: * -->
<!-- /notes -->

## all

`mmbench run -d digits`: 4 cells in 1 min 50 s on Toy, 2 CPUs usable, 4.0 GiB, trained on the CPU; started 2026-11-21 05:01 UTC; mmbench 0.1.0, torch 2.11.0, Python 3.11.7.

<!-- notes: all -->
<!-- /notes -->

| dataset | best on val | its test score | floor | gain over one modality | told apart from | cells |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
| digits | gated fusion of image:cnn + text:gru | accuracy 0.900 [0.861, 0.939] | 0.100 | +0.100 | – | 4/4 |

[report.html](all/report/report.html), [report.md](all/report/report.md), [leaderboard.csv](all/report/leaderboard.csv), [leaderboard.tex](all/report/leaderboard.tex), [run.json](all/run.json), [plan.json](all/plan.json), [journal.jsonl](all/journal.jsonl)
"""
    )


def test_twice_gives_the_same_bytes_and_no_run_is_touched(tmp_path: Path) -> None:
    as_published(make_run(tmp_path, "all"))
    make_run(tmp_path, "beta")
    before = digests(tmp_path)

    once = write_index(tmp_path).read_bytes()
    twice = write_index(tmp_path).read_bytes()

    assert once == twice
    after = digests(tmp_path)
    after.pop("README.md")
    assert after == before


def test_notes_between_their_markers_stay(tmp_path: Path) -> None:
    make_run(tmp_path, "all")
    make_run(tmp_path, "beta")
    path = write_index(tmp_path)
    text = path.read_text()
    for name, words in (("*", "Read this first."), ("beta", "Trained on a train.\n\n- really")):
        text = text.replace(f"<!-- notes: {name} -->\n", f"<!-- notes: {name} -->\n{words}\n")
    path.write_text(text.replace("# Reference runs", "# Something else"))

    first = write_index(tmp_path).read_text()
    shutil.rmtree(tmp_path / "beta")
    second = write_index(tmp_path).read_text()

    assert first == text
    assert "<!-- notes: * -->\nRead this first.\n<!-- /notes -->" in second
    assert second.endswith(
        "## beta (no longer here)\n\n<!-- notes: beta -->\nTrained on a train.\n\n- really\n<!-- /notes -->\n"
    )
    assert write_index(tmp_path).read_text() == second


def test_a_written_report_that_the_journal_has_outgrown_is_not_believed(tmp_path: Path) -> None:
    folder = as_published(make_run(tmp_path, "all"))
    lines = (folder / "journal.jsonl").read_text().splitlines()
    changed = json.loads(lines[3])
    changed["metrics"][0] |= {"value": 0.6, "ci_low": 0.55, "ci_high": 0.65}
    (folder / "journal.jsonl").write_text("\n".join([*lines[:3], json.dumps(changed)]) + "\n")

    text = write_index(tmp_path).read_text()

    assert "| digits | image:cnn alone | accuracy 0.800 [0.750, 0.850] | 0.100 | -0.200 | – | 4/4 |" in text
    assert "**Careful:** the written report does not hold the results of the journal; `mmbench report all`" in text


def test_a_run_without_a_report_is_shown_by_its_journal(tmp_path: Path) -> None:
    make_run(tmp_path, "all")

    text = write_index(tmp_path).read_text()

    assert "accuracy 0.900 [0.850, 0.950]" in text
    assert "report.html](" not in text
    assert not (tmp_path / "all" / "report").exists()


def test_names_and_commands_cannot_break_the_page(tmp_path: Path) -> None:
    make_run(tmp_path, "all", argv=("run", "-f", EVIL, "--plugin", "/home/me/secret/my_fusion.py"), fusion=EVIL)

    text = write_index(tmp_path).read_text()

    (line,) = [line for line in text.splitlines() if line.startswith("| digits")]
    assert "<script>" not in line
    assert line.replace("\\|", "").count("|") == 8
    assert "``mmbench" not in text.replace("`` mmbench", "")
    assert "/home" not in text
    assert "--plugin '…/my_fusion.py'" in text


@pytest.mark.parametrize("damage", ["{", ""])
def test_a_damaged_run_says_so_and_the_others_are_shown(tmp_path: Path, damage: str) -> None:
    make_run(tmp_path, "all")
    (make_run(tmp_path, "broken") / "plan.json").write_text(damage)

    text = write_index(tmp_path).read_text()

    assert "accuracy 0.900" in text
    assert "## broken\n\n**Cannot be read:** " in text


def test_a_run_of_profiles_has_its_links_and_no_table(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "costs")
    about: dict[str, Any] = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**about, "kind": "profile"}))
    (folder / "report").mkdir()
    (folder / "report" / "costs.md").touch()

    text = write_index(tmp_path).read_text()

    assert "`mmbench run -d digits`: 4 profiles in 1 min 50 s on Toy" in text
    assert "[costs.md](costs/report/costs.md)" in text
    assert "| dataset |" not in text


def test_what_somebody_else_wrote_is_not_overwritten(tmp_path: Path) -> None:
    make_run(tmp_path, "all")
    (tmp_path / "README.md").write_text("# My results\n")

    with pytest.raises(UsageError, match=r"README\.md was not written by this command, and would be lost"):
        write_index(tmp_path)

    assert (tmp_path / "README.md").read_text() == "# My results\n"
    with pytest.raises(UsageError, match="has no runs to list"):
        write_index(tmp_path / "all")


def test_the_committed_index_is_what_the_committed_runs_give(tmp_path: Path) -> None:
    results = Path(__file__).parents[1] / "results"
    if not (results / "README.md").is_file():
        pytest.skip("the reference runs are not beside this copy of the tests")
    committed = (results / "README.md").read_text(encoding="utf-8")

    names = [name for name in index.list_runs(results) if f"\n## {markdown(name)}\n" in committed]

    assert index.render_index(results, names, index.read_notes(committed)) == committed
