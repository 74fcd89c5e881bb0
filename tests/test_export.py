"""The export is a contract: these tests hold it byte for byte."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbench.errors import Unavailable, UsageError
from mmbench.record import Metric, Record
from mmbench.report.export import COLUMNS, export_csv, export_json, export_jsonl, export_parquet, export_run, load_frame
from mmbench.report.outcomes import outcomes, split_encoders
from mmbench.store import RunStore


def row(cell_id: str, *, seed: int = 0, status: str = "run", reason: str = "", **changes: object) -> dict:
    return {
        "cell_id": cell_id,
        "dataset": "digits",
        "encoders": "image:cnn+text:embedding-lstm",
        "fusion": "gated",
        "objective": "supervised",
        "seed": seed,
        "role": "cell",
        "status": status,
        "reason": reason,
        **changes,
    }


def record(cell_id: str, *metrics: Metric, status: str = "ok", reason: str = "") -> Record:
    return Record(cell_id=cell_id, status=status, reason=reason, metrics=metrics)


ACCURACY = Metric(phase="evaluate", split="test", task="digit", name="accuracy", value=0.9625, direction="max")


def as_csv(planned: list[dict], records: dict[str, Record], run: str = "r1") -> str:
    stream = io.StringIO()
    export_csv(run, planned, records, stream)
    return stream.getvalue()


def test_the_csv_has_the_columns_of_the_contract_and_a_row_per_number() -> None:
    loss = Metric(phase="evaluate", split="val", task="digit", name="log_loss", value=0.1, unit="nat", direction="min")
    throughput = Metric(phase="profile", name="throughput_samples_per_s", value=2e6, unit="samples/s", direction="max")

    text = as_csv(
        [row("aaaaaaaaaaaaaaaa")], {"aaaaaaaaaaaaaaaa": record("aaaaaaaaaaaaaaaa", throughput, ACCURACY, loss)}
    )

    combo = "r1,aaaaaaaaaaaaaaaa,digits,image:cnn+text:embedding-lstm,gated,supervised,0,ok,"
    assert text == (
        "run,cell_id,dataset,encoders,fusion,objective,seed,status,reason,"
        "phase,split,condition,task,metric,value,unit,direction\n"
        f"{combo},evaluate,val,clean,digit,log_loss,0.1,nat,min\n"
        f"{combo},evaluate,test,clean,digit,accuracy,0.9625,1,max\n"
        f"{combo},profile,,clean,,throughput_samples_per_s,2000000.0,samples/s,max\n"
    )


def test_cells_that_did_not_run_appear_once_with_empty_numbers() -> None:
    planned = [
        row("a" * 16, status="incompatible", reason="gated needs vectors, but x gives none"),
        row("b" * 16, status="unavailable", reason="pip install timm"),
        row("c" * 16),
        row("d" * 16),
        row("e" * 16),
    ]
    records = {
        "c" * 16: record("c" * 16, status="failed", reason="ValueError: bad"),
        "d" * 16: record("d" * 16, ACCURACY, status="timeout", reason="after 10 s"),
    }

    lines = list(csv.DictReader(io.StringIO(as_csv(planned, records))))

    assert [(line["cell_id"][0], line["status"], line["reason"]) for line in lines] == [
        ("a", "incompatible", "gated needs vectors, but x gives none"),
        ("b", "unavailable", "pip install timm"),
        ("c", "failed", "ValueError: bad"),
        ("d", "timeout", "after 10 s"),
        ("e", "pending", "not run yet"),
    ]
    empty = ("phase", "split", "condition", "task", "metric", "value", "unit", "direction")
    assert {line[name] for line in lines for name in empty} == {""}


def test_a_null_number_keeps_its_row_with_an_empty_value() -> None:
    nothing = Metric(
        phase="evaluate", split="test", task="digit", name="auroc", value=None, direction="max", note="one class"
    )
    infinite = Metric(phase="evaluate", split="test", task="digit", name="map", value=math.inf, direction="max")

    lines = list(csv.DictReader(io.StringIO(as_csv([row("a" * 16)], {"a" * 16: record("a" * 16, nothing, infinite)}))))

    assert [(line["metric"], line["value"]) for line in lines] == [("auroc", ""), ("map", "")]


def test_a_result_counts_even_when_the_plan_can_no_longer_run_the_cell() -> None:
    planned = [row("a" * 16, status="unavailable", reason="gone")]

    (outcome,) = outcomes(planned, {"a" * 16: record("a" * 16, ACCURACY)})

    assert (outcome.status, outcome.reason, outcome.done) == ("ok", "", True)


@pytest.mark.parametrize(
    ("reason", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", '"\'\n=1"'),
        ("＝1", "'＝1"),
        ("-5", "-5"),
        ("+0.5e3", "+0.5e3"),
        ("-inf", "'-inf"),
        ("a,b", '"a,b"'),
        ('say "x"', '"say ""x"""'),
        ("two\nlines", '"two\nlines"'),
        ("nul\0esc\x1b[31m", "nul\ufffdesc\ufffd[31m"),
        ("lone \ud800", "lone \\ud800"),
    ],
)
def test_text_from_plugins_is_quoted_and_never_a_formula(reason: str, written: str) -> None:
    text = as_csv([row("a" * 16, status="incompatible", reason=reason)], {})

    assert text.split("\n", 1)[1] == (
        f"r1,{'a' * 16},digits,image:cnn+text:embedding-lstm,gated,supervised,0,incompatible,{written},,,,,,,,\n"
    )
    text.encode("utf-8")


def test_negative_values_and_conditions_come_through_as_numbers_and_text() -> None:
    drop = Metric(
        phase="evaluate", split="test", condition="drop:audio", task="t", name="r2", value=-1.5, direction="max"
    )

    (line,) = csv.DictReader(io.StringIO(as_csv([row("a" * 16)], {"a" * 16: record("a" * 16, drop)})))

    assert (line["condition"], line["value"]) == ("drop:audio", "-1.5")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_values_round_trip_through_the_csv(value: float) -> None:
    found = Metric(phase="evaluate", name="x", value=value)

    (line,) = csv.DictReader(io.StringIO(as_csv([row("a" * 16)], {"a" * 16: record("a" * 16, found)})))

    assert float(line["value"]) == value


@given(st.text(), st.text())
def test_any_text_survives_as_one_field(dataset: str, reason: str) -> None:
    text = as_csv([row("a" * 16, dataset=dataset, reason=reason, status="incompatible")], {})

    lines = list(csv.reader(io.StringIO(text, newline="")))

    assert [len(line) for line in lines] == [17, 17]
    for given_text, found in ((dataset, lines[1][2]), (reason, lines[1][8])):
        plain = "".join(character for character in given_text if character.isprintable() and character not in "\r\n")
        if plain == given_text:
            assert found.removeprefix("'") == given_text.removeprefix("'")


def test_json_lines_and_json_say_the_same_as_the_csv() -> None:
    planned = [row("a" * 16), row("b" * 16, status="incompatible", reason="=no")]
    records = {"a" * 16: record("a" * 16, ACCURACY)}
    lines, whole, empty = io.StringIO(), io.StringIO(), io.StringIO()

    export_jsonl("r1", planned, records, lines)
    export_json("r1", planned, records, whole)
    export_json("r1", [], {}, empty)

    found = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert found == json.loads(whole.getvalue())
    assert json.loads(empty.getvalue()) == []
    assert list(found[0]) == list(COLUMNS)
    assert (found[0]["value"], found[0]["seed"], found[0]["metric"]) == (0.9625, 0, "accuracy")
    assert (found[1]["reason"], found[1]["value"], found[1]["phase"]) == ("=no", None, None)


def test_parquet_holds_typed_columns_and_nulls(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    planned = [row("a" * 16), row("b" * 16, status="incompatible", reason="no")]
    path = tmp_path / "x.parquet"

    with path.open("wb") as stream:
        export_parquet("r1", planned, {"a" * 16: record("a" * 16, ACCURACY)}, stream)

    table = pq.read_table(path)
    assert table.column_names == list(COLUMNS)
    assert (str(table.schema.field("seed").type), str(table.schema.field("value").type)) == ("int64", "double")
    assert table.column("value").to_pylist() == [0.9625, None]
    assert table.column("metric").to_pylist() == ["accuracy", None]


def test_parquet_without_pyarrow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)

    with pytest.raises(Unavailable, match=r"pip install 'mmbench\[parquet\]'"):
        export_parquet("r1", [], {}, io.BytesIO())


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    with RunStore.create(tmp_path / "r1") as made:
        made.write_plan([row("a" * 16), row("b" * 16, reason="é|,", status="incompatible")])
        made.journal.append(record("a" * 16, ACCURACY))
    return RunStore.open(tmp_path / "r1")


def test_a_run_exports_to_standard_output_as_utf8(store: RunStore, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    export_run(store)

    written = capfdbinary.readouterr().out.decode("utf-8")
    assert written.splitlines()[1].startswith(f"r1,{'a' * 16},digits,")
    assert 'incompatible,"é|,",' in written


def test_a_run_exports_to_a_file_whole_or_not_at_all(store: RunStore, tmp_path: Path) -> None:
    export_run(store, "jsonl", tmp_path / "out.jsonl")
    before = (tmp_path / "out.jsonl").read_bytes()
    (store.folder / "plan.json").write_text('{"schema":1,"cells":[\n{"cell_id"\n')

    with pytest.raises(UsageError, match="damaged"):
        export_run(store, "jsonl", tmp_path / "out.jsonl")

    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_an_unknown_format_names_those_there_are(store: RunStore) -> None:
    with pytest.raises(UsageError, match="there is csv, json, jsonl, parquet"):
        export_run(store, "jsnl")


def test_a_run_loads_as_a_frame_with_numbers(store: RunStore) -> None:
    frame = load_frame(store.folder)

    assert list(frame.columns) == list(COLUMNS)
    assert (str(frame.seed.dtype), str(frame.value.dtype)) == ("int64", "float64")
    assert frame.value.tolist()[0] == 0.9625
    assert math.isnan(frame.value.tolist()[1])


def test_encoders_split_by_modality_whatever_their_options_hold() -> None:
    assert split_encoders("image:cnn[norm=a+b]+text:timm/x:y[k=[1]]") == {
        "image": "cnn[norm=a+b]",
        "text": "timm/x:y[k=[1]]",
    }
    assert split_encoders("") == {}
