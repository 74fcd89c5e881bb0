"""The page: its structure by an HTML parser, its behaviour in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import Browser

from mmbench.record import Metric, Record
from mmbench.report import build_report
from mmbench.report.html import render_html, script_json
from mmbench.report.page import ROW_FIELDS
from mmbench.store import RunStore

HOSTILE = (
    "<script>document.title='owned'</script>",
    "</script><img src=x onerror=document.title='owned'>",
    "\"'><svg onload=document.title='owned'>",
    "\u202eright to left",
    "a|b {{ 7*7 }} {% x %}",
    "x" * 500,
    "__proto__",
    "line\u2028separator",
)
VOID = {"meta", "link", "input", "br", "img"}


class Parsed(HTMLParser):
    """Checks that elements nest, and collects what could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.tags and self.open[-1] in ("script", "title", "style", "h1"):
            name = dict(self.tags[-1][1]).get("id") or self.open[-1]
            self.texts[name] = self.texts.get(name, "") + data


def write_run(
    folder: Path, *, num_encoders: int = 4, names: tuple[str, ...] = (), num_seeds: int = 2, note: str = ""
) -> Path:
    """A run of two datasets with curves, stages, a condition, a failure and whatever names one likes."""
    rows: list[dict[str, Any]] = []
    records: list[Record] = []

    def add(
        dataset: str, encoders: str, fusion: str, seed: int, score: float, speed: float, *, fails: bool = False
    ) -> None:
        cell_id = f"{len(rows):016x}"
        rows.append(
            {
                "cell_id": cell_id,
                "dataset": dataset,
                "encoders": encoders,
                "fusion": fusion,
                "objective": "" if fusion == "majority" else "supervised",
                "seed": seed,
                "role": "cell",
                "status": "run",
                "reason": "",
            }
        )
        if fails:
            records.append(Record(cell_id=cell_id, status="failed", reason=names[0] if names else "ValueError: no"))
            return
        common: dict[str, Any] = {
            "phase": "evaluate",
            "task": "digit",
            "name": "accuracy",
            "direction": "max",
            "n": 400,
        }
        metrics = [Metric(split="test", value=score, **common), Metric(split="val", value=score, **common)]
        if fusion != "majority":
            metrics += [
                Metric(split="test", value=score / 2, **{**common, "condition": "drop:image"}),
                Metric(phase="profile", name="latency_p50_s", value=speed, unit="s", direction="min", note=note),
                Metric(phase="profile", name="throughput_samples_per_s", value=1 / speed, direction="max"),
                Metric(phase="profile", name="num_parameters_trainable", value=1e6 * speed, direction="min"),
                Metric(phase="profile", name="stage_time_s:fusion", value=speed / 3, unit="s", direction="min"),
                Metric(phase="profile", name="stage_time_s:backward", value=speed / 2, unit="s", direction="min"),
            ]
        history = [{"train_loss": 1 / (at + 1), "val_loss": 1.0, "val_score": score * (at + 1) / 5} for at in range(5)]
        info = {"history": history, "selected_by": "accuracy"}
        records.append(Record(cell_id=cell_id, status="ok", metrics=tuple(metrics), info=info))

    for seed in range(num_seeds):
        for dataset in ("digits", "stamps"):
            if seed == 0:
                add(dataset, "", "majority", 0, 0.1, 1.0)
            add(dataset, "image:cnn", "single", seed, 0.5 + seed / 100, 0.001)
            for at in range(num_encoders):
                for place, fusion in enumerate(("gated", "concat", *names)):
                    encoders = f"image:cnn+text:t{at}" if not names else f"image:{names[at % len(names)]}+text:t{at}"
                    score = 0.6 + at / (4 * num_encoders) + place / 40 + seed / 100
                    add(
                        dataset,
                        encoders,
                        fusion,
                        seed,
                        score,
                        0.002 + at / 1000,
                        fails=seed == 1 and at == 1 and place == 0,
                    )
    task = {"name": "digit", "kind": "multiclass", "num_outputs": 10, "class_names": [], "primary": ""}
    about = {"tasks": [task], "summary": names[0] if names else "Digits", "ceilings": {"image": 0.55}}
    with RunStore.create(folder) as store:
        store.write_plan(rows, {"digits": about, "stamps": about})
        store.write_run({"argv": ["run", "--grid", "all"], "config": {"train": {"epochs": 5}, "master_seed": 3}})
        for record in records if num_encoders <= 100 else ():
            place = store.cell_folder(record.cell_id)
            place.mkdir()
            (place / "record.json").write_text(json.dumps(record.to_json()))
        store.journal.path.write_text("".join(json.dumps(record.to_json()) + "\n" for record in records))
    return folder


def rendered(folder: Path) -> str:
    return render_html(build_report(folder), folder)


def page_of(text: str) -> dict[str, Any]:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    found: dict[str, Any] = json.loads(data)
    return found


def test_the_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    text = rendered(write_run(tmp_path / "r1"))

    parsed = Parsed(text)

    for tag, attributes in parsed.tags:
        assert "src" not in attributes, (tag, attributes)
        assert attributes.get("href") in (None, "data:,"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    policy = [dict(a)["content"] for tag, a in parsed.tags if tag == "meta" and "http-equiv" in a]
    assert policy[0] is not None
    assert policy[0].startswith("default-src 'none'")
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert "@import" not in text
    assert "url(" not in text


def test_the_answer_coverage_failures_and_command_are_in_the_html_itself(tmp_path: Path) -> None:
    text = rendered(write_run(tmp_path / "r1"))

    body = text[text.index("<body>") : text.index('<script type="application/json"')]

    assert "On digits (accuracy on 400 test samples, 2 seeds)" in body
    assert "34 of 36" not in body
    assert re.search(r"<strong>36</strong> of 38 cells have a result", body)
    assert "ValueError: no" in body
    assert "mmbench run --grid all" in body


def test_the_data_hold_every_row_with_the_command_that_makes_it_again(tmp_path: Path) -> None:
    page = page_of(rendered(write_run(tmp_path / "r1")))

    board = page["boards"][0]

    assert [item["dataset"] for item in page["boards"]] == ["digits", "stamps"]
    assert len(board["rows"]) == 9
    first = dict(zip(page["rowFields"], board["rows"][0]))
    assert page["rowFields"] == list(ROW_FIELDS)
    assert (first["rank"], board["names"][first["fusion"]], first["mean"]) == (1, "concat", 0.8175)
    assert first["command"] == (
        "mmbench run --run r1 -d digits -e image=cnn -e text=t3 -f concat --seeds 2 --master-seed 3 --set epochs=5"
    )
    single = next(row for row in board["rows"] if len(row[2]) == 1)
    assert dict(zip(page["rowFields"], single))["command"] == (
        "mmbench run --run r1 -d digits -m image -e image=cnn -f single --seeds 2 --master-seed 3 --set epochs=5"
    )
    assert [column["key"] for column in board["columns"]] == [
        "latency_p50_s",
        "throughput_samples_per_s",
        "num_parameters_trainable",
    ]
    assert board["curves"][0]["values"] == [0.1625, 0.325, 0.4875, 0.65, 0.8125]
    assert board["stages"]["names"] == ["fusion", "backward"]
    assert board["conditions"]["names"] == ["drop:image"]


def test_json_in_a_script_cannot_end_it() -> None:
    text = script_json({"name": "</script><!-- \u2028 & '"})

    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": "</script><!-- \u2028 & '"}


def test_hostile_names_add_no_element_and_no_attribute(tmp_path: Path) -> None:
    plain = Parsed(rendered(write_run(tmp_path / "plain", names=tuple("abcdefgh"))))

    hostile = Parsed(rendered(write_run(tmp_path / "hostile", names=HOSTILE)))

    shape = [(tag, sorted(attributes)) for tag, attributes in hostile.tags]
    assert shape == [(tag, sorted(attributes)) for tag, attributes in plain.tags]


def test_ten_thousand_rows_fit_in_six_megabytes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "big", num_encoders=2500, num_seeds=1)

    text = rendered(folder)

    assert sum(len(board["rows"]) for board in page_of(text)["boards"]) == 10_002
    assert len(text.encode()) < 6_000_000


# In a browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "r1", num_encoders=20)
    (folder / "report.html").write_text(rendered(folder), encoding="utf-8")
    return folder / "report.html"


@pytest.fixture
def quiet(browser: Browser) -> Iterator[Browser]:
    """The browser; afterwards the page must have complained of nothing and asked for nothing."""
    browser.errors.clear()
    browser.requests.clear()
    yield browser
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


def texts(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")
    return found


def test_rows_sort_by_a_click_and_back(quiet: Browser, page: Path) -> None:
    quiet.open(page)
    ranks = "article:not([hidden]) tr.row td:first-child"
    assert texts(quiet, ranks)[:3] == ["1 ►", "2", "3"]

    quiet.click("article:not([hidden]) th:nth-child(4) button")
    up = texts(quiet, "article:not([hidden]) tr.row td:nth-child(4)")
    sort = quiet.run("document.querySelector('article:not([hidden]) th:nth-child(4)').getAttribute('aria-sort')")
    quiet.click("article:not([hidden]) th:nth-child(1) button")

    assert sort == "descending"
    assert float(up[0].split()[0]) >= float(up[1].split()[0]) >= float(up[2].split()[0])
    assert texts(quiet, ranks)[:3] == ["1 ►", "2", "3"]


def test_rows_filter_as_one_types_and_pages_turn(quiet: Browser, page: Path) -> None:
    quiet.open(page)
    assert len(texts(quiet, "article:not([hidden]) tr.row")) == 25

    quiet.click("article:not([hidden]) .board .bar:last-child button:nth-child(2)")
    second = texts(quiet, "article:not([hidden]) .board .bar:last-child span")
    quiet.click("article:not([hidden]) input[type=search]")
    quiet.type("GATED t1")

    assert second == ["26–41 of 41"]
    names = texts(quiet, "article:not([hidden]) tr.row")
    assert len(names) == 11
    assert all("gated" in name and "text:t1" in name for name in names)


def test_a_row_opens_to_its_seeds_and_the_command_that_makes_it_again(quiet: Browser, page: Path) -> None:
    quiet.open(page)

    quiet.click("article:not([hidden]) tr.row")

    (command,) = texts(quiet, "tr.more pre")
    assert command.startswith("mmbench run --run r1 -d digits -e image=cnn -e text=t19 -f concat")
    assert "seed 0" in texts(quiet, "tr.more .facts")[0]
    quiet.click("article:not([hidden]) tr.row")
    assert texts(quiet, "tr.more") == []


def test_the_front_tells_the_cell_under_the_mouse_and_changes_axes(quiet: Browser, page: Path) -> None:
    quiet.open(page)
    at = quiet.run(
        "(async () => { const dot = document.querySelector('.pareto circle.dot[tabindex]');"
        " dot.scrollIntoView({block: 'center', behavior: 'instant'});"
        " await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));"
        " const b = dot.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2] })()"
    )

    quiet.move(*at)
    tip = texts(quiet, "#tip:not([hidden])")
    quiet.move(5, 5)

    assert len(tip) == 1
    assert "image:cnn + text:t" in tip[0]
    assert "latency" in tip[0]
    assert texts(quiet, "#tip:not([hidden])") == []
    quiet.run(
        "(() => { const s = document.querySelector('.pareto select'); s.value = 2; s.dispatchEvent(new Event('change')) })()"
    )
    assert any("trainable parameters" in text for text in texts(quiet, ".pareto svg text"))


def test_the_front_is_what_nothing_beats_in_both(quiet: Browser, page: Path) -> None:
    quiet.open(page)

    labels = quiet.run(
        "[...document.querySelectorAll('.pareto .dot[tabindex]')].map((e) => e.getAttribute('aria-label'))"
    )

    board = page_of(page.read_text(encoding="utf-8"))["boards"][0]
    points = [(row[-3], row[5]) for row in board["rows"] if row[0] is not None]
    front = [p for p in points if not any(o[0] <= p[0] and o[1] >= p[1] and o != p for o in points)]
    assert len(labels) == len(set(front))


def test_disturbed_times_are_marked_and_have_no_part_in_the_front(quiet: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(rendered(write_run(tmp_path / "r1", note="contended: others kept 1.0 of 2 CPUs busy")))
    quiet.open(path)

    assert quiet.run("document.querySelectorAll('.pareto .dot').length") > 4
    assert quiet.run("document.querySelectorAll('.pareto .dot[tabindex]').length") == 0
    (summary,) = texts(quiet, ".pareto p.note")
    assert "drawn hollow, have no part in the front" in summary
    assert "there is no front" in summary
    row = texts(quiet, "article:not([hidden]) tr.row td")
    assert any(cell.endswith("ms*") for cell in row)
    assert not any(cell.endswith("M*") for cell in row)  # parameters are counted


def test_other_datasets_are_a_click_away(quiet: Browser, page: Path) -> None:
    quiet.open(page)

    quiet.click("#boards button:nth-child(2)")

    assert texts(quiet, "article:not([hidden]) h2") == ["stamps"]
    assert quiet.run("document.querySelectorAll('article').length") == 2


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_scrolls_down_only(quiet: Browser, page: Path, dark: bool) -> None:
    quiet.open(page, width=390, height=844, dark=dark)

    assert quiet.run("document.documentElement.scrollWidth") == 390
    assert quiet.run("document.documentElement.scrollHeight") > 844
    background = quiet.run("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", background)[:3])) > 380
    assert light is not dark


def test_the_page_prints_every_dataset(quiet: Browser, page: Path) -> None:
    quiet.open(page)

    printed = quiet.pdf()

    assert printed.startswith(b"%PDF")
    # The width of A4 between its margins, in CSS pixels.
    quiet.open(page, width=718, height=1000)
    quiet.call("Emulation.setEmulatedMedia", media="print")
    assert quiet.run("document.documentElement.scrollWidth") <= 718
    assert quiet.run("getComputedStyle(document.querySelector('.board thead')).display") == "table-header-group"
    quiet.open(page)
    quiet.run("dispatchEvent(new Event('beforeprint'))")
    assert texts(quiet, "article:not([hidden]) > h2") == ["digits", "stamps"]
    quiet.run("dispatchEvent(new Event('afterprint'))")
    assert texts(quiet, "article:not([hidden]) > h2") == ["digits"]


def test_hostile_names_run_nothing_in_the_browser(quiet: Browser, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "hostile", names=HOSTILE)
    (folder / "report.html").write_text(rendered(folder), encoding="utf-8")

    quiet.open(folder / "report.html", width=390)
    quiet.run("document.querySelectorAll('article tr.row').forEach((row) => row.click())")
    quiet.run("dispatchEvent(new Event('beforeprint'))")

    assert quiet.run("document.title") == "hostile · mmbench"
    assert quiet.run("document.querySelectorAll('article img, article script').length") == 0
    assert quiet.run("document.documentElement.scrollWidth") == 390
    assert quiet.run("Object.keys(Object.prototype).length") == 0


def test_ten_thousand_rows_stay_usable(quiet: Browser, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "big", num_encoders=2500, num_seeds=1)
    (folder / "report.html").write_text(rendered(folder), encoding="utf-8")

    quiet.open(folder / "report.html")
    taken = quiet.run(
        "(() => { const began = performance.now(); const s = document.querySelector('article input[type=search]');"
        " s.value = 't77'; s.dispatchEvent(new Event('input')); document.body.offsetHeight; return performance.now() - began })()"
    )

    assert taken < 1000
    assert quiet.run("document.querySelectorAll('*').length") < 12_000
