"""Listing, removing and viewing runs."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from comparison_cases import make_run

from mmbench import run_list
from mmbench.errors import UsageError
from mmbench.report.export import COLUMNS, export_run, format_of
from mmbench.report_viewer import make_server, report_file
from mmbench.store import RunStore


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for name in ("try-1", "try-2", "kept"):
        make_run(tmp_path / "results" / name, ("concat", "sum"))
    return tmp_path / "results"


def test_a_run_is_complete_once_each_cell_has_a_result(results: Path) -> None:
    store = RunStore.open(results / "kept")
    with RunStore.create(results / "kept") as writer:
        rows = list(store.planned())
        more = {**rows[0], "cell_id": f"{7:016x}", "fusion": "gated"}
        impossible = {**more, "cell_id": f"{8:016x}", "status": "incompatible", "reason": "it is"}
        writer.write_plan([*rows, more, impossible], store.datasets())

    found = {run.name: run for run in run_list.summaries(results)}

    assert (found["try-1"].num_done, found["try-1"].num_cells, found["try-1"].state) == (2, 2, "complete")
    assert (found["kept"].num_done, found["kept"].num_cells, found["kept"].state) == (2, 3, "1 to continue")


def test_runs_are_removed_by_name_or_glob_with_all_their_files_and_no_others(results: Path) -> None:
    run_list.remove_runs(run_list.runs_to_remove(results, ["try-*"]))

    assert sorted(path.name for path in results.iterdir()) == ["kept"]


def test_a_run_that_is_being_written_and_a_link_are_not_removed(results: Path) -> None:
    (results / "link").symlink_to(results / "kept")
    with RunStore.create(results / "try-1"), pytest.raises(UsageError, match="try-1"):
        run_list.runs_to_remove(results, ["try-1"])
    with pytest.raises(UsageError, match="is a link"):
        run_list.runs_to_remove(results, ["link"])
    with pytest.raises(UsageError, match=r"has no run 'tri-1'.*Did you mean 'try-1'"):
        run_list.runs_to_remove(results, ["tri-1"])


FOREIGN = {
    "a plan of another program": {"plan.json": '{"tasks": []}', "src/code.py": "precious"},
    "a run of another program": {"run.json": '{"id": 7}', "src/code.py": "precious"},
    "a journal of another program": {"journal.jsonl": '{"entry": "dear diary"}\n', "photo.jpg": "precious"},
    "notes in a run": {"run.json": '{"argv": ["run"]}', "notes.md": "precious"},
    "a repository in a run": {"run.json": '{"argv": ["run"]}', ".git/config": "precious"},
    "a hidden file in a run": {"run.json": '{"argv": ["run"]}', ".env": "precious"},
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_with_anything_of_others_is_not_removed_and_not_written_into(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "results" / "theirs"
    for file, content in FOREIGN[name].items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(content)
    before = sorted(folder.rglob("*"))

    with pytest.raises(UsageError, match=r"holds what is not of a run: .*; move it away"):
        run_list.runs_to_remove(tmp_path / "results", ["*"])

    assert sorted(folder.rglob("*")) == before


def test_what_links_in_a_run_lead_to_is_not_removed_with_it(results: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "id_ed25519").write_text("precious")
    for name in ("cells/0123456789abcdef", "report/x", "trackers"):
        (results / "kept" / name).parent.mkdir(exist_ok=True)
        (results / "kept" / name).symlink_to(tmp_path / "home", target_is_directory=True)

    run_list.remove_runs(run_list.runs_to_remove(results, ["kept"]))

    assert not (results / "kept").exists()
    assert (tmp_path / "home" / "id_ed25519").read_text() == "precious"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.html").write_text("<p>the page</p>")
    (folder / "leaderboard.csv").write_text("a,b\n")
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    with make_server(folder, "report.html", 0) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        assert made.server_address[0] == "127.0.0.1"
        yield int(made.server_address[1])
        made.shutdown()
        thread.join()


def get(port: int, path: str, host: str = "") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.getheader("Content-Security-Policy", "")


def test_the_report_is_served_with_its_files_and_may_load_nothing_else(server: int) -> None:
    status, page, policy = get(server, "/")

    assert (status, page) == (200, "<p>the page</p>")
    assert policy.startswith("default-src 'none'")
    assert get(server, "/leaderboard.csv")[:2] == (200, "a,b\n")


@pytest.mark.parametrize(
    "path", ["/../secret.txt", "/%2e%2e/secret.txt", "/link.txt", "//secret.txt", "/no.html", "/%00"]
)
def test_nothing_outside_of_the_report_is_served(server: int, path: str) -> None:
    assert get(server, path)[0] == 404


def test_a_page_of_another_site_gets_no_answer_by_a_name_of_its_own(server: int) -> None:
    assert get(server, "/", host=f"evil.example:{server}")[0] == 403
    assert get(server, "/", host=f"localhost:{server}")[0] == 200


def test_a_report_folder_that_is_a_link_is_not_served(results: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "report.html").write_text("")
    (results / "kept" / "report").symlink_to(tmp_path / "home", target_is_directory=True)

    with pytest.raises(UsageError, match="is a link, which is not followed"):
        report_file(results / "kept")


def test_a_run_without_a_report_names_the_command_that_writes_it(results: Path) -> None:
    with pytest.raises(UsageError, match="`mmbench report kept` writes it"):
        report_file(results / "kept")


@pytest.mark.parametrize(
    ("name", "asked", "wanted"),
    [
        ("x.csv", None, "csv"),
        ("x.PARQUET", None, "parquet"),
        ("x.xlsx", None, "xlsx"),
        ("x.tex", None, "tex"),
        ("x.md", None, "md"),
        ("x.html", None, "html"),
        ("x.json", "pytest-benchmark", "pytest-benchmark"),
        ("x.dat", "csv", "csv"),
        ("x.tex", "latex", "tex"),
    ],
)
def test_the_suffix_of_a_file_says_its_format(name: str, asked: str | None, wanted: str) -> None:
    assert format_of(Path(name), asked) == wanted


def test_an_export_holds_what_its_suffix_says(results: Path, tmp_path: Path) -> None:
    store = RunStore.open(results / "kept")
    for suffix in ("parquet", "html", "md", "tex", "json"):
        export_run(store, format_of(tmp_path / f"x.{suffix}", None), tmp_path / f"x.{suffix}")

    assert (tmp_path / "x.parquet").read_bytes()[:4] == b"PAR1"
    assert (tmp_path / "x.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "x.md").read_text().startswith("# kept\n")
    assert "\\begin{tabular}" in (tmp_path / "x.tex").read_text()
    assert {row["fusion"] for row in json.loads((tmp_path / "x.json").read_text())} == {"concat", "sum"}


def test_a_workbook_has_the_columns_of_the_csv_and_no_formulas(results: Path, tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed: pip install openpyxl")
    store = RunStore.open(results / "kept")
    rows = list(store.planned())
    with RunStore.create(results / "kept") as writer:
        formula = {**rows[0], "cell_id": f"{7:016x}", "fusion": "=1+1"}
        writer.write_plan([*rows, formula], store.datasets())

    export_run(RunStore.open(results / "kept"), "xlsx", tmp_path / "x.xlsx")

    sheet = openpyxl.load_workbook(tmp_path / "x.xlsx").active
    lines = list(sheet.iter_rows())
    assert tuple(cell.value for cell in lines[0]) == COLUMNS
    [cell] = [cell for line in lines for cell in line if cell.value == "=1+1"]
    assert cell.data_type == "s"
