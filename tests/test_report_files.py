"""What the report writes and prints: whole files, and hostile names that stay text in every format."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from mmbench.errors import UsageError
from mmbench.record import Metric, Record
from mmbench.report import build_report, print_report, write_report
from mmbench.report.provenance import provenance
from mmbench.report.reproduce import reproduce
from mmbench.report.text import amount, clean, markdown, number, seconds, signed
from mmbench.store import RunStore

HOSTILE = [
    "<script>alert(1)</script>",
    "a|b|c",
    "two\nlines\r\nthree",
    "\u202eright to left\u2066",
    "x" * 500,
    "nul\0bell\x07esc\x1b[31mred\x1b[0m",
    "[link](http://example.com) ![img](x) `code` **bold** _it_ $x$ ~~no~~",
    "[bold red]rich[/bold red] [/]",
    "=HYPERLINK(1)",
    "\ud800 lone",
    "&amp; <!-- -->",
    "\\\\ \\|",
]


def write_run(folder: Path, names: list[str], *, reason: str = "") -> Path:
    rows, records = [], []
    for index, name in enumerate(names):
        for seed in range(2):
            cell_id = f"{2 * index + seed:016x}"
            rows.append(
                {
                    "cell_id": cell_id,
                    "dataset": names[0],
                    "encoders": f"image:{name}+text:lstm",
                    "fusion": name,
                    "objective": name,
                    "seed": seed,
                    "role": "cell",
                    "status": "run",
                    "reason": "",
                }
            )
            metric = Metric(phase="evaluate", split="test", task="t", name="accuracy", value=0.5 + index / 100, n=50)
            if seed == 0 or index % 2:
                records.append(Record(cell_id=cell_id, status="ok", metrics=(metric,)))
            else:
                records.append(Record(cell_id=cell_id, status="failed", reason=reason or name))
    datasets = {
        names[0]: {
            "summary": names[0],
            "tasks": [{"name": "t", "kind": "multiclass", "num_outputs": 2, "class_names": names[:2], "primary": ""}],
            "ceilings": {"image": 0.5},
        }
    }
    with RunStore.create(folder) as store:
        # A lone surrogate cannot be stored: the plan's file is UTF-8, and refuses it before the report sees it.
        store.write_plan([{**row, **_storable(row)} for row in rows], _storable_all(datasets))
        store.write_run({"argv": ["run", "-d", names[0].encode("utf-8", "replace").decode()]})
        for record in records:
            store.journal.append(record)
    return folder


def _storable(row: dict) -> dict:
    return {key: value.encode("utf-8", "replace").decode() for key, value in row.items() if isinstance(value, str)}


def _storable_all(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_storable_all(item) for item in value]
    if isinstance(value, dict):
        return {_storable_all(key): _storable_all(item) for key, item in value.items()}
    return value


def printed(folder: Path, width: int = 160) -> str:
    out = Console(file=io.StringIO(), width=width, force_terminal=False, emoji=False, highlight=False)
    print_report(folder, out)
    return out.file.getvalue()


def test_the_report_is_four_files_that_are_replaced_whole(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r1", ["gated", "concat"])

    first = write_report(folder)
    before = [path.read_bytes() for path in first]
    second = write_report(folder)

    assert [path.relative_to(folder).as_posix() for path in first] == [
        "report/report.html",
        "report/report.md",
        "report/leaderboard.csv",
        "report/leaderboard.tex",
    ]
    assert [path.read_bytes() for path in second] == before
    assert sorted(path.name for path in (folder / "report").iterdir()) == [
        "leaderboard.csv",
        "leaderboard.tex",
        "report.html",
        "report.md",
    ]


def test_markdown_holds_answer_every_row_failures_and_provenance(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r1", ["gated", "concat", "sum"])

    text = write_report(folder)[1].read_text()

    assert text.startswith("# r1\n\nOn gated (accuracy on 50 test samples, 2 seeds), concat fusion of ")
    assert "4 of 6 cells done: 4 ok, 2 failed." in text
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert table[0].startswith("| # | group | encoders | fusion | objective | test accuracy ↑ |")
    assert table[2].startswith("| 1 ► |  | image:concat + text:lstm | concat | concat | 0.510 ± 0.000 |")
    assert table[3].startswith("|  |  | image:sum + text:lstm | sum | sum | 0.520 | – |")
    assert "1/2 incomplete" in table[3]
    assert "| 1 | failed | gated | gated | image:gated+text:lstm, gated, gated, seed 1 |" in table
    assert "- Command: mmbench run -d gated" in text
    assert (
        "- Ceiling of image: 0.500 (best possible on average, by construction; luck may pass it on one test set)"
        in text
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text_in_markdown(name: str, tmp_path: Path) -> None:
    text = write_report(write_run(tmp_path / "r1", [name, "plain"]))[1].read_text(encoding="utf-8")

    columns = {"leaderboard": 14, "failures": 5}
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) - 1 in columns.values(), line
    assert "<" not in text.replace("\\<", "")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)
    assert "](http" not in text.replace("\\[link](http", "")
    assert max(len(line) for line in text.splitlines()) < 6000


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text_on_the_terminal(name: str, tmp_path: Path) -> None:
    text = printed(write_run(tmp_path / "r1", [name, "plain"]))

    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)
    if name.startswith("[bold"):
        assert "[bold" in text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text_in_the_leaderboard_csv(name: str, tmp_path: Path) -> None:
    text = write_report(write_run(tmp_path / "r1", [name, "plain"]))[2].read_text(encoding="utf-8")

    lines = list(csv.reader(io.StringIO(text, newline="")))

    assert {len(line) for line in lines} == {len(lines[0])}
    assert len(lines) == 3
    for line in lines[1:]:
        for cell in line:
            assert cell[:1] not in ("=", "@", "\t", "\r") and (cell[:1] not in ("+", "-") or float(cell) is not None)


def test_the_terminal_shows_the_top_the_best_of_each_modality_and_how_much_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "r1"
    rows, records = [], []
    for index in range(30):
        encoders = "image:cnn" if index == 29 else f"image:cnn+text:e{index}"
        rows.append(
            {
                "cell_id": f"{index:016x}",
                "dataset": "digits",
                "encoders": encoders,
                "fusion": "single" if index == 29 else "gated",
                "objective": "supervised",
                "seed": 0,
                "role": "cell",
                "status": "run",
                "reason": "",
            }
        )
        metric = Metric(phase="evaluate", split="test", task="t", name="accuracy", value=0.9 - index / 100, n=400)
        records.append(Record(cell_id=f"{index:016x}", status="ok", metrics=(metric,)))
    with RunStore.create(folder) as store:
        store.write_plan(rows, {"digits": {"tasks": [{"name": "t", "kind": "multiclass", "num_outputs": 10}]}})
        for record in records:
            store.journal.append(record)

    lines = printed(folder).splitlines()

    table = [line for line in lines if re.match(r" *\d+ ", line)]
    assert [int(line.split()[0]) for line in table[:-1]] == [*range(1, 11), 30]
    assert "… 19 more rows, see" in "\n".join(lines)
    assert "report.md" in "\n".join(lines)


def test_a_run_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    write_run(tmp_path / "demo", ["gated"])

    with pytest.raises(UsageError, match="no run is named 'dem'"):
        build_report(tmp_path / "dem")


def test_provenance_survives_whatever_run_json_holds() -> None:
    assert provenance({}) == []
    assert provenance({"argv": 3, "environment": [1], "started_at": None}) == []
    assert reproduce({"argv": ["run", "-e", "image=cnn[width=32]", "--run", "a b"]}) == (
        "mmbench run -e 'image=cnn[width=32]' --run 'a b'"
    )
    assert reproduce({"argv": ["/usr/bin/mmbench", "run"]}) == "/usr/bin/mmbench run"


def test_numbers_read_well() -> None:
    assert [number(value) for value in (0.96249, 12.345, 123.45, 12345.6, 0.0, 0.00001, None)] == [
        "0.962",
        "12.35",
        "123.5",
        "12346",
        "0.000",
        "1.00e-05",
        "–",
    ]
    assert [signed(value) for value in (0.1, -0.1, 0.0)] == ["+0.100", "-0.100", "+0.000"]
    assert [seconds(value) for value in (1.5, 0.0105, 0.00000012, None)] == ["1.50 s", "10.5 ms", "0.12 µs", "–"]
    assert [amount(value) for value in (12, 1234, 2_500_000, 0.5, None)] == ["12", "1.23 k", "2.50 M", "0.50", "–"]


def test_clean_and_markdown_keep_scripts_of_the_world() -> None:
    assert clean("日本語 עברית עִבְרִית हिन्दी") == "日本語 עברית עִבְרִית हिन्दी"
    assert markdown("a_b*c") == "a\\_b\\*c"
    assert clean("x" * 10_000_000, 20) == "x" * 19 + "…"


@pytest.mark.parametrize("name", [*HOSTILE, r"\input{/etc/passwd}", "50% & #1 $x^2_3$ ~ {", "^^5c"])
def test_hostile_names_stay_text_in_latex(name: str, tmp_path: Path) -> None:
    text = write_report(write_run(tmp_path / "r1", [name, "plain"]))[3].read_text(encoding="utf-8")

    known = [
        "textbackslash",
        "textasciitilde",
        "textasciicircum",
        "textless",
        "textgreater",
        "textbar",
        "textquotedbl",
        "dots",
        "textbf",
        "underline",
        "pm",
        "usepackage",
        "begin",
        "end",
        "centering",
        "toprule",
        "midrule",
        "bottomrule",
        "caption",
        "uparrow",
    ]
    assert set(re.findall(r"\\([a-zA-Z]+)", text)) <= set(known)
    for line in text.splitlines()[1:]:
        if line.endswith("\\\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == 4, line
        unescaped = re.sub(r"\\.", "", line)
        assert unescaped.count("{") == unescaped.count("}")
        assert not re.search(r"[%#^~]|(?<!\$)_", unescaped)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)


def test_latex_marks_the_best_bold_and_the_second_underlined(tmp_path: Path) -> None:
    text = write_report(write_run(tmp_path / "r1", ["a", "b", "c", "d"]))[3].read_text(encoding="utf-8")

    assert r"image:d + text:lstm & d, d & \textbf{0.530} $\pm$ 0.000 & [0.530, 0.530] &  \\" in text
    assert r"image:b + text:lstm & b, b & \underline{0.510} $\pm$ 0.000 & [0.510, 0.510] &  \\" in text
    assert "6 of 8 cells have a result" in text
