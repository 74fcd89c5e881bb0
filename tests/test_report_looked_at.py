"""What a report shows of the samples that a cell was asked about: checked where it is read, drawn in a real browser."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser

from mmbench.record import Metric, Record
from mmbench.report import build_report
from mmbench.report.html import render_html
from mmbench.report.looked_at import FILE_NAME, VERSION, looked_at
from mmbench.store import RunStore

HOSTILE = "</script><img src=x onerror=document.title='owned'>\u202e\u2028"


def picture(width: int = 3, height: int = 2) -> dict[str, Any]:
    from mmbench.diagnostics.depiction import png

    pixels = np.random.default_rng(0).integers(0, 256, (3, height, width), dtype=np.uint8)
    return {"png": base64.b64encode(png(pixels)).decode(), "width": width, "height": height}


def sample(**changed: Any) -> dict[str, Any]:
    """A sample with one modality of every kind."""
    about = {"present": True, "by": "inputs"}
    modalities = [
        {**about, "name": "image", "kind": "image", "evidence": 2.0, "picture": picture(), "grid": [[100, 0], [-50, 0]]},
        {**about, "name": "text", "kind": "text", "evidence": -1.0, "words": [["a ", 0], ["stamp", -100], [" of", 40]]},
        {**about, "name": "speech", "kind": "audio", "evidence": 0.5, "picture": picture(96, 64), "steps": [5, -100, 0], "seconds": 1.5},
        {**about, "name": "row", "kind": "tabular", "evidence": 0.5, "columns": [[2, 1.25, 100], [0, None, -30]], "length": 40},
        {**about, "name": "clip", "kind": "video", "evidence": 0.0, "picture": picture(), "grid": [[1]], "steps": [1, 100]},
        {"name": "sound", "kind": "audio", "present": False, "evidence": 0.0},
    ]  # fmt: skip
    common = {"id": "stamp-7", "why": "surest wrong", "output": 1, "confidence": 0.9, "true": 0, "predicted": 1}
    return {**common, "from": -2.0, "to": -0.1, "modalities": modalities, **changed}


def write_run(folder: Path, samples: Any, *, best: str = "image:cnn+text:t", **document: Any) -> Path:
    """One dataset of a fusion and a single modality; the files of both hold the samples."""
    rows, records = [], []
    for number, (encoders, fusion) in enumerate((("image:cnn+text:t", "gated"), ("image:cnn", "single"))):
        cell_id = f"{number:016x}"
        about = {"cell_id": cell_id, "dataset": "stamps", "encoders": encoders, "fusion": fusion, "seed": 3}
        rows.append({**about, "objective": "supervised", "role": "cell", "status": "run", "reason": ""})
        score = Metric(
            phase="evaluate", task="kind", name="accuracy", direction="max", n=50, split="test",
            value=0.9 if encoders == best else 0.5,
        )  # fmt: skip
        records.append(Record(cell_id=cell_id, status="ok", metrics=(score,), info={}))
    task = {"name": "kind", "kind": "multiclass", "num_outputs": 2, "class_names": ["<b>cat", "dog"], "primary": ""}
    with RunStore.create(folder) as store:
        store.write_plan(rows, {"stamps": {"tasks": [task], "summary": "", "ceilings": {}}})
        store.write_run({"argv": ["run"], "config": {}})
        for record in records:
            place = store.cell_folder(record.cell_id)
            place.mkdir()
            (place / "record.json").write_text(json.dumps(record.to_json()))
            if samples is not None:
                made = {"version": VERSION, "task": "kind", "samples": samples, **document}
                (place / FILE_NAME).write_text(json.dumps(made))
        store.journal.path.write_text("".join(json.dumps(record.to_json()) + "\n" for record in records))
    return folder


def shown(folder: Path, **options: Any) -> list[dict[str, Any]]:
    (board,) = build_report(folder).boards
    return looked_at(board, folder, **options)


def modality(**changed: Any) -> dict[str, Any]:
    return {"name": "image", "kind": "image", "present": True, "evidence": 1.0, **changed}


def first_modality(folder: Path, **changed: Any) -> dict[str, Any]:
    found = shown(write_run(folder, [sample(modalities=[modality(**changed)])]))
    one: dict[str, Any] = found[0]["samples"][0]["modalities"][0]
    return one


def test_the_best_row_s_samples_are_shown_with_the_names_of_classes(tmp_path: Path) -> None:
    (found,) = shown(write_run(tmp_path / "r", [sample()]))

    assert (found["row"], found["seed"]) == (0, 3)
    (one,) = found["samples"]
    assert (one["true"], one["predicted"], one["right"], one["of"]) == ("<b>cat", "dog", False, "dog")
    assert [item["name"] for item in one["modalities"]] == ["image", "text", "speech", "row", "clip", "sound"]
    assert one["modalities"][3]["columns"] == [["column 3", 1.25, 100], ["column 1", None, -30]]
    assert one["modalities"][0]["grid"] == [[100, 0], [-50, 0]]


def test_where_one_modality_is_best_the_best_fusion_is_shown_too(tmp_path: Path) -> None:
    found = shown(write_run(tmp_path / "r", [sample()], best="image:cnn"))

    assert [item["row"] for item in found] == [0, 1]


def test_a_run_without_the_files_shows_nothing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", None)

    assert shown(folder) == []
    assert "looked" in render_html(build_report(folder), folder)  # the script knows the section


@pytest.mark.parametrize(
    "samples",
    [
        "text", {}, [], [None], [[]], [{}], [sample(true=2)], [sample(true=True)], [sample(predicted=-1)],
        [sample(predicted="dog")], [sample(modalities=[None])], [sample(modalities=[{"name": 3}])], [sample(modalities={})],
    ],
)  # fmt: skip
def test_what_mmbench_does_not_write_is_left_out(tmp_path: Path, samples: Any) -> None:
    assert shown(write_run(tmp_path / "r", samples)) == []


@pytest.mark.parametrize("document", [{"version": 2}, {"task": "other"}, {"task": None}])
def test_files_of_another_version_or_task_are_left_out(tmp_path: Path, document: dict[str, Any]) -> None:
    assert shown(write_run(tmp_path / "r", [sample()], **document)) == []


def test_damaged_and_huge_files_are_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", [sample()])
    for content in (b"{", b"\xff", b"[" * 100_000, b" " * 400_001):
        for cell in (folder / "cells").iterdir():
            (cell / FILE_NAME).write_bytes(content)
        assert shown(folder) == []


@pytest.mark.parametrize(
    "given",
    [
        {"png": "x\" onerror=\"1"}, {"png": base64.b64encode(b"<svg onload=1>").decode()}, {"png": 5}, [], "png",
        picture(129, 1), {"png": picture()["png"][:8]},
    ],
)  # fmt: skip
def test_a_picture_that_is_no_small_png_is_not_shown(tmp_path: Path, given: Any) -> None:
    assert "picture" not in first_modality(tmp_path / "r", picture=given)


@pytest.mark.parametrize("grid", [[[101]], [[0.5]], [[True]], [[1], [1, 2]], [[]], [], [[0] * 17], "ab", [[0]] * 17])
def test_a_map_that_is_no_small_rectangle_of_hundredths_is_not_shown(tmp_path: Path, grid: Any) -> None:
    assert "grid" not in first_modality(tmp_path / "r", grid=grid)


def test_texts_are_cut_and_their_control_marks_made_visible(tmp_path: Path) -> None:
    found = first_modality(tmp_path / "r", name="\u202eevil", words=[["a\u202e\n", 5], ["x" * 999, -5]], evidence="NaN")

    assert found["name"] == "\ufffdevil"
    assert found["words"] == [["a\ufffd ", 5], ["x" * 397, -5]]
    assert found["evidence"] is None


def test_a_page_has_room_for_so_many_samples_only(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", [sample()] * 9)

    (found,) = shown(folder)
    (fewer,) = shown(folder, max_bytes=2 * len(json.dumps(found["samples"][0])) + 10)

    assert len(found["samples"]) == 4
    assert len(fewer["samples"]) == 2
    assert shown(folder, max_bytes=10) == []


def test_the_report_reads_what_the_diagnostics_write() -> None:
    from mmbench.diagnostics import attribution

    assert (FILE_NAME, VERSION) == (attribution.FILE_NAME, attribution.VERSION)


# In a browser


@pytest.fixture(scope="module")
def browser(browser: Browser) -> Iterator[Browser]:
    yield browser
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []


def page(folder: Path, samples: Any) -> Path:
    write_run(folder, samples)
    (folder / "report.html").write_text(render_html(build_report(folder), folder), encoding="utf-8")
    return folder / "report.html"


def test_pictures_words_spectrograms_and_columns_are_drawn(browser: Browser, tmp_path: Path) -> None:
    browser.open(page(tmp_path / "r", [sample(), sample(why="surest right", true=1)]))

    def count(selector: str) -> int:
        found: int = browser.run(f"document.querySelectorAll({json.dumps('.looked ' + selector)}).length")
        return found

    assert count(".look") == 2
    assert (
        browser.run("document.querySelector('.look .verdict').textContent")
        == "surest wrong says dog (0.90), true <b>cat"
    )
    assert browser.run("[...document.querySelectorAll('.looked img')].every((img) => img.complete && img.naturalWidth)")
    assert (count(".look:first-child img"), count(".look:first-child canvas")) == (5, 2)
    assert browser.run("[...document.querySelectorAll('.look:first-child .strip rect.against')].length") == 1
    widths = browser.run("[...document.querySelectorAll('.look:first-child .evidence i')].map((e) => e.style.width)")
    assert widths == ["50%", "25%", "12.5%", "12.5%"]
    assert count(".look:first-child .evidence .minus") == 1
    tints = browser.run(
        "[...document.querySelectorAll('.look:first-child .words span')].map((e) => [e.textContent, getComputedStyle(e).backgroundColor])"
    )
    assert tints == [["stamp", "rgba(224, 102, 0, 0.55)"], [" of", "rgba(0, 114, 178, 0.22)"]]
    assert "… of 40 columns" in browser.run("document.querySelector('.look .columns').textContent")
    assert browser.run("document.querySelector('.looked').textContent.includes('[object')") is False
    # Blue where the map is 100, orange and fainter where it is -50, clear where it is 0.
    pixels = browser.run("[...document.querySelector('.look canvas').getContext('2d').getImageData(0, 0, 2, 2).data]")
    assert pixels[3] == 230
    assert pixels[0] < pixels[2]
    assert pixels[7] == 0
    assert pixels[11] == 115
    assert pixels[8] > pixels[10]


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_needs_no_scrolling_sideways(browser: Browser, tmp_path: Path, dark: bool) -> None:
    wide = sample(id="y" * 300)
    wide["modalities"][1]["words"] = [["w" * 400, 50]]

    browser.open(page(tmp_path / "r", [wide] * 4), width=390, height=844, dark=dark)

    assert browser.run("document.documentElement.scrollWidth") == 390
    assert (
        browser.run(
            "Math.max(...[...document.querySelectorAll('.look *')].map((e) => e.getBoundingClientRect().right))"
        )
        <= 390
    )


def test_paper_has_the_samples_too(browser: Browser, tmp_path: Path) -> None:
    browser.open(page(tmp_path / "r", [sample()] * 4), width=718, height=1000)
    browser.call("Emulation.setEmulatedMedia", media="print")

    assert browser.run("document.documentElement.scrollWidth") <= 718
    assert browser.run("document.querySelector('.looked').getBoundingClientRect().height") > 300
    assert browser.pdf().startswith(b"%PDF")


def test_hostile_samples_run_nothing(browser: Browser, tmp_path: Path) -> None:
    bad = sample(id=HOSTILE, why=HOSTILE)
    for item in bad["modalities"]:
        item["name"] = HOSTILE
    bad["modalities"][1]["words"] = [[HOSTILE, 100]]

    browser.open(page(tmp_path / "hostile", [bad]))

    assert browser.run("document.title") == "hostile · mmbench"
    assert browser.run("document.querySelectorAll('.looked script').length") == 0
    assert browser.run(
        "[...document.querySelectorAll('.looked img')].every((img) => img.src.startsWith('data:image/png;base64,'))"
    )


def test_what_gradients_do_not_account_for_is_said(browser: Browser, tmp_path: Path) -> None:
    whole, part = sample(**{"from": -2.0, "to": 0.0}), sample(**{"from": -2.0, "to": 3.0})

    browser.open(page(tmp_path / "r", [whole, part]))

    notes = browser.run("[...document.querySelectorAll('.look .note')].map((e) => e.textContent)")
    assert notes == [
        "stamp-7: log probability -2.00 → 0.00",
        "stamp-7: log probability -2.00 → 3.00; gradients account for +2.000 of +5.000",
    ]


def test_a_page_without_samples_has_no_such_section(browser: Browser, tmp_path: Path) -> None:
    browser.open(page(tmp_path / "r", None))

    assert browser.run("document.querySelectorAll('.looked').length") == 0
