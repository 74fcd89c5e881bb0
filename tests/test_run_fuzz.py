"""A run folder with anything changed in it is read: damage costs one sentence, and nothing else of the run."""

from __future__ import annotations

import copy
import json
import random
import shutil
import zlib
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import bounds, damaged
from safetensors.numpy import save_file

from mmbench.errors import MmbenchError
from mmbench.journal import Journal
from mmbench.record import Record
from mmbench.report import build_report, write_report
from mmbench.report.by_subgroup import with_subgroup_metrics
from mmbench.report.export import export_jsonl
from mmbench.report.index import write_index
from mmbench.run_cards import read_cards
from mmbench.run_list import summaries
from mmbench.run_subgroups import read_subgroups
from mmbench.store import RunStore

SOURCE = Path(__file__).parents[1] / "results" / "ceilings-long"
ODD: list[Any] = [
    None,
    -1,
    7,
    2**70,
    1.5,
    float("nan"),
    "",
    "x" * 3000,
    "\x1b[31m",
    [],
    {},
    [[1]],
    {"a": {"b": []}},
    True,
]


def small_run(folder: Path) -> list[dict[str, Any]]:
    """Write a run of eight cells from a reference run; return its records."""
    source = RunStore.open(SOURCE)
    rows = list(source.planned())[:8]
    chosen = {row["cell_id"] for row in rows}
    records = [record.to_json() for record in source.journal if record.cell_id in chosen]
    with RunStore.create(folder) as store:
        store.write_run(source.read_run())
        store.write_plan(rows, {name: source.datasets()[name] for name in {row["dataset"] for row in rows}})
        for record in records:
            store.journal.append(Record.from_json(record))
    return records


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [path] * bool(path) + [leaf for key, item in items for leaf in leaves(item, (*path, key))]


def mutate_json(value: Any, source: random.Random) -> Any:
    value = copy.deepcopy(value)
    path = source.choice(leaves(value))
    place = value
    for key in path[:-1]:
        place = place[key]
    if source.random() < 0.15:
        del place[path[-1]]
    else:
        place[path[-1]] = source.choice(ODD)
    return value


def mutate(folder: Path, source: random.Random) -> str:
    kind = source.choice(["run", "plan", "row", "record", "record", "bytes"])
    if kind == "run":
        data = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(mutate_json(data, source)))
    elif kind == "plan":
        lines = (folder / "plan.json").read_text().split("\n")
        lines[0] = json.dumps(mutate_json(json.loads(lines[0] + "]}"), source), separators=(",", ":")).removesuffix(
            "]}"
        )
        (folder / "plan.json").write_text("\n".join(lines))
    elif kind == "row":
        lines = (folder / "plan.json").read_text().split("\n")
        lines[1] = json.dumps(mutate_json(json.loads(lines[1].removesuffix(",")), source)) + ","
        (folder / "plan.json").write_text("\n".join(lines))
    elif kind == "record":  # with the checksum that belongs to it, as somebody who means it would write
        lines = (folder / "journal.jsonl").read_text().splitlines()
        data = json.loads(lines[0])
        data.pop("crc32")
        text = json.dumps(mutate_json(data, source), separators=(",", ":"))
        lines[0] = f'{text[:-1]},"crc32":{zlib.crc32(text.encode())}}}'
        (folder / "journal.jsonl").write_text("\n".join(lines) + "\n")
    else:
        file = folder / source.choice(["run.json", "plan.json", "journal.jsonl"])
        data = bytearray(file.read_bytes())
        for _ in range(source.randint(1, 20)):
            data[source.randrange(len(data))] = source.randrange(256)
        file.write_bytes(bytes(data))
    return kind


def fuzz(tmp_path: Path, rounds: int) -> None:
    records = {item["cell_id"]: item for item in small_run(tmp_path / "pristine")}
    source = random.Random(1)
    for number in range(rounds):
        folder = tmp_path / "run"
        shutil.copytree(tmp_path / "pristine", folder)
        kind = mutate(folder, source)

        store = RunStore.open(folder)
        try:
            with bounds():
                found = store.records()
                states = store.states()
                report = build_report(folder)
                export_jsonl("run", list(store.planned()), found, StringIO())
                if number % 5 == 0:
                    write_report(folder, report)
        except MmbenchError as error:
            assert kind in ("plan", "row", "bytes"), f"round {number}, {kind}: {error}"
            assert "\n" not in str(error)
        else:
            assert set(states) == set(found), f"round {number}, {kind}"
        if kind in ("run", "plan", "row"):
            assert set(found) == set(records)
        elif kind == "record":
            assert len(set(found) & set(records)) >= len(records) - 1
        shutil.rmtree(folder)


def test_100_changed_runs_are_read_without_a_traceback(tmp_path: Path) -> None:
    fuzz(tmp_path, 100)


@pytest.mark.full
def test_2000_changed_runs_are_read_without_a_traceback(tmp_path: Path) -> None:
    fuzz(tmp_path, 2000)


def test_flipped_bytes_never_change_a_record_unnoticed(tmp_path: Path) -> None:
    originals = small_run(tmp_path / "run")
    text = (tmp_path / "run" / "journal.jsonl").read_bytes()
    known = {json.dumps(item, sort_keys=True) for item in originals}
    source = random.Random(2)

    for _ in range(60):
        data = bytearray(text)
        for _ in range(5):
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        (tmp_path / "run" / "journal.jsonl").write_bytes(bytes(data))
        for record in Journal(tmp_path / "run" / "journal.jsonl"):
            assert json.dumps(record.to_json(), sort_keys=True) in known


def test_lines_of_earlier_versions_have_no_checksum_and_are_read(tmp_path: Path) -> None:
    originals = small_run(tmp_path / "run")
    lines = [json.dumps(item, separators=(",", ":")) for item in originals]
    (tmp_path / "run" / "journal.jsonl").write_text("\n".join(lines) + "\n")

    journal = Journal(tmp_path / "run" / "journal.jsonl")

    assert [record.to_json() for record in journal] == originals
    assert journal.num_damaged == 0


def test_a_record_that_cannot_be_read_is_not_done(tmp_path: Path) -> None:
    record = small_run(tmp_path / "run")[0]
    path = tmp_path / "run" / "journal.jsonl"
    path.write_text(json.dumps({**record, "attempt": 10**400}) + "\n" + json.dumps({**record, "metrics": [1]}) + "\n")

    journal = Journal(path)

    assert list(journal) == []
    assert journal.states() == {}


def test_a_journal_that_is_a_folder_is_said_in_a_sentence(tmp_path: Path) -> None:
    small_run(tmp_path / "run")
    (tmp_path / "run" / "journal.jsonl").unlink()
    (tmp_path / "run" / "journal.jsonl").mkdir()

    with pytest.raises(MmbenchError, match=r"journal\.jsonl cannot be read: Is a directory"):
        RunStore.open(tmp_path / "run").states()


def test_a_packed_journal_without_a_line_end_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    monkeypatch.setattr("mmbench.journal.MAX_LINE_BYTES", 1 << 20)
    records = small_run(tmp_path / "run")
    path = tmp_path / "run" / "journal.jsonl"
    with gzip.open(path.with_name("journal.jsonl.gz"), "wb") as stream:
        stream.write(b"x" * (50 << 20) + b"\n" + path.read_bytes())
    path.unlink()

    journal = Journal(path)

    assert [record.to_json() for record in journal] == records
    assert journal.num_damaged == 1


def whole_run(folder: Path) -> None:
    """Add the files to a run that cells, reports and races write beside its records."""
    cells = [record.cell_id for record in Journal(folder / "journal.jsonl")]
    (folder / "decisions.json").write_text(json.dumps([{"stage": 1, "kept": cells[:2]}]))
    card = {"name": "x", "num_samples": {"train": 3}, "modalities": [{"name": "a", "kind": "tabular"}], "tasks": []}
    (folder / "data_cards.json").write_text(json.dumps([card]))
    (folder / "subgroups.json").write_text(json.dumps({"x": {"sex": {"s0": "F", "s1": "M"}}}))
    scores = {"label.test": np.linspace(0, 1, 50), "label.val": np.ones((50, 2), np.float32)}
    for cell in cells:
        place = folder / "cells" / cell
        place.mkdir(parents=True)
        save_file(scores, place / "predictions.safetensors", metadata={"mmbench": json.dumps({"tasks": ["label"]})})
        (place / "timings.json").write_text(json.dumps({"step_time_s": [0.1, 0.2], "batch_size": 4}))
        (place / "record.json").write_text((folder / "plan.json").read_text().split("\n")[1].rstrip(","))


def damage_any(folder: Path, source: random.Random) -> str:
    names = {path.name: path for path in sorted(folder.rglob("*"), key=lambda path: source.random()) if path.is_file()}
    file = names[source.choice(sorted(name for name in names if names[name].stat().st_size))]
    if file.suffix == ".json" and source.random() < 0.6:
        data = json.loads(file.read_text()) if file.name != "plan.json" else {"deep": "["}
        file.write_text(json.dumps(mutate_json(data, source)))
    elif file.suffix == ".json" and source.random() < 0.3:
        file.write_text("[" * 200_000)
    else:
        file.write_bytes(damaged(file.read_bytes(), source))
    return file.name


def readers(results: Path, folder: Path) -> list[Callable[[], object]]:
    """Return what commands read of a run."""
    store = RunStore.open(folder)
    return [
        lambda: list(summaries(results)),
        lambda: read_cards(folder),
        lambda: read_subgroups(folder),
        lambda: with_subgroup_metrics(store.records(), store),
        store.decisions,
        store.writer,
        lambda: write_report(folder, build_report(folder)),
        lambda: export_jsonl("run", list(store.planned()), store.records(), StringIO()),
        lambda: write_index(results),
    ]


def fuzz_files(tmp_path: Path, rounds: int) -> None:
    small_run(tmp_path / "pristine")
    whole_run(tmp_path / "pristine")
    write_report(tmp_path / "pristine", build_report(tmp_path / "pristine"))
    source = random.Random(3)
    shutil.copytree(tmp_path / "pristine", tmp_path / "results" / "other")
    for number in range(rounds):
        folder = tmp_path / "results" / "run"
        shutil.copytree(tmp_path / "pristine", folder)
        name = damage_any(folder, source)
        for read in readers(tmp_path / "results", folder):
            try:
                with bounds():
                    read()
            except MmbenchError as error:
                assert "\n" not in str(error), f"round {number}, {name}"
        assert "other" in (tmp_path / "results" / "README.md").read_text()
        shutil.rmtree(folder)


def test_100_runs_with_any_file_damaged_are_read_without_a_traceback(tmp_path: Path) -> None:
    fuzz_files(tmp_path, 100)


@pytest.mark.full
def test_2000_runs_with_any_file_damaged_are_read_without_a_traceback(tmp_path: Path) -> None:
    fuzz_files(tmp_path, 2000)
