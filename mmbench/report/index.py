"""The leaderboard over a folder of runs: ``README.md`` beside them, made from what each run says of itself.

Where a run has a written report, its intervals and groups are taken from there: predictions are often left out of what
is published, so they could not be computed again. Nothing in the runs is changed.
"""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mmbench.errors import UsageError
from mmbench.journal import JOURNAL_FILE, Journal
from mmbench.record import PREDICTIONS_FILE
from mmbench.report import replace_file
from mmbench.report.assembly import build_report
from mmbench.report.decisions import choice_words
from mmbench.report.export import spreadsheet_text
from mmbench.report.markdown import overview_lines
from mmbench.report.packed_scores import PACKED_FILE
from mmbench.report.provenance import hardware_words
from mmbench.report.reproduce import reproduce
from mmbench.report.tables import Board, Gain, Report, Row, Score
from mmbench.report.text import clean, counted, duration, markdown
from mmbench.store import PLAN_FILE, RUN_FILE, RunStore, check_run_name, list_runs

FILE = "README.md"
#: The first line of a file that this module wrote, and may write again.
MARK = "<!-- written by `mmbench report --index`; notes between their markers are kept -->"
#: The name of the notes above all runs; no run can have it.
TOP = "*"
#: Report files that are linked, in this order.
_FILES = ("report.html", "report.md", "leaderboard.csv", "leaderboard.tex", "costs.md", "costs.csv")
_VERSIONS = ("mmbench", "torch")
_NOTES = re.compile(r"<!-- notes: (\S+) -->\n(.*?)<!-- /notes -->", re.DOTALL)
_FOLDERS = re.compile(r"(?<![\w.])…?/(?:[^\s/'\"]+/)+(?=[^\s/'\"])")
_SAME = 1e-9


@dataclass(frozen=True)
class _Pace:
    """What the journal tells without its numbers: seconds in which cells ran, and on which devices."""

    busy_s: float
    devices: tuple[str, ...]


def write_index(results: Path) -> Path:
    """Write ``README.md`` into a folder of runs, keeping the notes in the one that is there.

    The same runs and notes give the same bytes.

    Raises:
        UsageError: there is no such folder or no run in it, or its ``README.md`` was written by somebody else.
    """
    names = [name for name in list_runs(results) if _is_name(name)]
    if not names:
        raise UsageError(f"{results} has no runs to list; choose another folder with --results")
    path = results / FILE
    try:
        before = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        before = MARK
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}); move it away") from None
    if not before.startswith(MARK):
        raise UsageError(
            f"{path} was not written by this command, and would be lost; move it away, or make {MARK!r} its first line"
        )
    try:
        return replace_file(path, render_index(results, names, read_notes(before)))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def read_notes(text: str) -> dict[str, str]:
    r"""Return the notes of an index by run.

    >>> read_notes("<!-- notes: all -->\nMind the gap.\n<!-- /notes -->")
    {'all': 'Mind the gap.\n'}
    """
    return {name: notes for name, notes in _NOTES.findall(text) if notes.strip()}


def render_index(results: Path, names: Sequence[str], notes: Mapping[str, str] | None = None) -> str:
    """Return the index of these runs as Markdown, with notes by run; every name in it is escaped."""
    return "\n".join(_lines(results, names, notes or {})) + "\n"


def _lines(results: Path, names: Sequence[str], notes: Mapping[str, str]) -> Iterator[str]:
    yield MARK
    yield ""
    yield "# Reference runs"
    yield ""
    packed = " (packed by gzip)" if any((results / name / f"{JOURNAL_FILE}.gz").is_file() for name in names) else ""
    intro = (
        "Each folder is a run as `mmbench run` leaves it: `run.json` (command, versions, hardware), `plan.json`, "
        f"`{JOURNAL_FILE}`{packed} and `report/` (open `report.html` in a browser)."
    )
    bare = [name for name in names if not any((results / name).glob(f"cells/*/{PREDICTIONS_FILE}"))]
    if bare:
        which = "" if len(bare) == len(names) else f" of {', '.join(bare)}"
        intro += f" The per-sample predictions{which} under `cells/` are left out for their size"
        testable = [name for name in bare if (results / name / "report" / PACKED_FILE).is_file()]
        if testable:
            which = "" if len(testable) == len(bare) else f" of {', '.join(testable)}"
            intro += (
                f"; `report/{PACKED_FILE}`{which} holds the score of each test sample, so that rows can still be "
                "tested: `mmbench compare RUN --against` that folder."
            )
        else:
            intro += ", so rows can be read and exported, not tested in pairs again."
    yield from textwrap.wrap(intro, 120, break_long_words=False, break_on_hyphens=False)
    yield ""
    yield from _note(TOP, notes)
    for name in names:
        yield ""
        yield f"## {markdown(name)}"
        yield ""
        try:
            yield from _run(results / name, notes)
        except UsageError as error:
            yield f"**Cannot be read:** {markdown(str(error))}"
    for name in notes:
        if name not in names and name != TOP:
            yield ""
            yield f"## {markdown(name)} (no longer here)"
            yield ""
            yield from _note(name, notes)


def _note(name: str, notes: Mapping[str, str]) -> Iterator[str]:
    yield f"<!-- notes: {name} -->"
    if name in notes:
        yield notes[name].removesuffix("\n")
    yield "<!-- /notes -->"


def _run(folder: Path, notes: Mapping[str, str]) -> Iterator[str]:
    store = RunStore.open(folder)
    about = store.read_run()
    trained = about.get("kind") != "profile"
    report, caution = _report(folder) if trained else (None, "")
    num_cells = report.num_planned if report is not None else sum(1 for _ in store.planned())
    yield _headline(about, num_cells, "cell" if trained else "profile", _pace(store.journal))
    yield ""
    yield from _note(folder.name, notes)
    yield ""
    if report is not None:
        yield from overview_lines(report.boards)
        yield ""
        if words := choice_words(report.decisions):
            yield markdown(words, 10_000)
            yield ""
    if caution:
        yield f"**Careful:** {caution}"
        yield ""
    files = [f"report/{name}" for name in _FILES] + [
        RUN_FILE,
        PLAN_FILE,
        store.journal.path.name,
        store.journal.packed.name,
    ]
    links = [f"[{file.rpartition('/')[2]}]({quote(folder.name)}/{file})" for file in files if (folder / file).is_file()]
    yield ", ".join(links)


def _headline(about: Mapping[str, Any], num_cells: int, noun: str, pace: _Pace) -> str:
    """Say in a sentence how the run came about."""
    command = _FOLDERS.sub("…/", reproduce(about))
    words = f"{code(command)}: " if command else ""
    words += counted(num_cells, noun)
    words += f" in {duration(pace.busy_s)}" if pace.busy_s else ""
    environment = about.get("environment")
    environment = environment if isinstance(environment, Mapping) else {}
    machine = hardware_words(environment)
    merged = about.get("merged")
    if isinstance(merged, list) and not machine:
        machine = "; ".join(dict.fromkeys(filter(None, (hardware_words(_environment(source)) for source in merged))))
    if machine:
        words += f" on {markdown(machine)}"
    if pace.devices:
        words += f", trained on {markdown(' and '.join(pace.devices))}" if noun == "cell" else ""
    packages = environment.get("packages")
    packages = packages if isinstance(packages, Mapping) else {}
    versions = [f"{name} {packages[name]}" for name in _VERSIONS if packages.get(name)]
    versions += [f"Python {environment['python']}"] if environment.get("python") else []
    git = environment.get("git")
    if isinstance(git, Mapping) and git.get("commit"):
        versions.append(f"commit {str(git['commit'])[:10]}{' with local changes' if git.get('dirty') else ''}")
    sentences = [words]
    started = str(about.get("started_at", ""))
    if started:
        sentences.append(f"started {markdown(_minute(started))}")
    if versions:
        sentences.append(markdown(", ".join(versions)))
    return "; ".join(sentences) + "."


def code(text: str) -> str:
    """Return text as a code span of GitHub's Markdown, whatever it holds.

    >>> code("mmbench run"), code("a`b")
    ('`mmbench run`', '`` a`b ``')
    """
    text = clean(text, 1000)
    longest = max((len(found) for found in re.findall("`+", text)), default=0)
    if not longest:
        return f"`{text}`"
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}"


def _environment(source: Any) -> Mapping[str, Any]:
    found = source.get("environment") if isinstance(source, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _minute(text: str) -> str:
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return text


def _pace(journal: Journal) -> _Pace:
    """Read when cells ran, as the union of all attempts: pauses between two calls of the command do not count."""
    spans: list[tuple[float, float]] = []
    devices: dict[str, None] = {}
    for data in journal.lines():
        try:
            began = datetime.fromisoformat(data["started_at"]).timestamp()
            spans.append((began, began + float(data["duration_s"])))
            device = data["info"].get("device")
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            continue
        if isinstance(device, str):
            devices["the CPU" if device == "cpu" else device] = None
    busy, reached = 0.0, float("-inf")
    for began, ended in sorted(spans):
        busy += max(0.0, ended - max(began, reached))
        reached = max(reached, ended)
    return _Pace(busy, tuple(sorted(devices)))


# What the written report adds


def _report(folder: Path) -> tuple[Report, str]:
    """Return a run's report, with intervals and groups from its written one, and a caution in Markdown."""
    found = build_report(folder)
    written = _written(folder / "report" / "leaderboard.csv")
    if written is not None:
        boards = [_as_written(board, written) for board in found.boards]
        if all(board is not None for board in boards):
            return replace(found, boards=tuple(board for board in boards if board is not None)), ""
    caution = ""
    if written is not None:
        caution = (
            f"the written report does not hold the results of the journal; `mmbench report {folder.name}` writes it "
            "again. This table has what the journal says."
        )
    if any(folder.glob(f"cells/*/{PREDICTIONS_FILE}")):
        from mmbench.report.evidence import with_evidence

        return with_evidence(found, folder), caution
    return found, caution


def _written(path: Path) -> list[dict[str, str]] | None:
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    return rows


def _as_written(board: Board, written: Sequence[Mapping[str, str]]) -> Board | None:
    """Return a board as the written report has it: order, ranks, intervals, groups; None where results differ."""
    place = (spreadsheet_text(board.dataset), spreadsheet_text(board.task))
    lines = [line for line in written if (line.get("dataset"), line.get("task")) == place]
    rows = {tuple(map(spreadsheet_text, (row.encoders, row.fusion, row.objective))): row for row in board.rows}
    if len(lines) != len(rows):
        return None
    found: list[Row] = []
    for line in lines:
        row = rows.get((line.get("encoders", ""), line.get("fusion", ""), line.get("objective", "")))
        merged = _row_as_written(row, line) if row is not None else None
        if merged is None:
            return None
        found.append(merged)
    return replace(board, rows=tuple(found))


def _row_as_written(row: Row, line: Mapping[str, str]) -> Row | None:
    try:
        numbers = {name: float(line[name]) for name in _NUMBERS if line[name]}
    except (ValueError, KeyError, TypeError):
        return None
    score: Score | None = row.score
    if score is None or "mean" not in numbers:
        return row if score is None and "mean" not in numbers else None
    if abs(score.mean - numbers["mean"]) > _SAME * max(1.0, abs(score.mean)):
        return None
    score = replace(
        score, ci_low=numbers.get("ci_low"), ci_high=numbers.get("ci_high"), ci_over=str(line.get("ci_over") or "")
    )
    gain: Gain | None = row.gain
    if gain is not None and abs(gain.value - numbers.get("gain", math.inf)) <= _SAME * max(1.0, abs(gain.value)):
        gain = replace(gain, ci_low=numbers.get("gain_ci_low"), ci_high=numbers.get("gain_ci_high"))
    rank, group = numbers.get("rank"), numbers.get("group")
    return replace(
        row,
        score=score,
        gain=gain,
        rank=None if rank is None else int(rank),
        group=None if group is None else int(group),
        out_of_order=line.get("out_of_order") == "yes",
        differs={"yes": True, "no": False}.get(line.get("differs") or ""),
    )


_NUMBERS = ("rank", "group", "mean", "ci_low", "ci_high", "gain", "gain_ci_low", "gain_ci_high")


def _is_name(name: str) -> bool:
    try:
        check_run_name(name)
    except UsageError:
        return False
    return True
