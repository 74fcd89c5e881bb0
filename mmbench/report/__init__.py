"""What people read: tables, Markdown and exports made from a run's records."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmbench.errors import UsageError
from mmbench.isolation import shortened

if TYPE_CHECKING:
    from rich.console import Console

    from mmbench.report.tables import Report


def build_report(folder: Path) -> Report:
    """Build the report of a run from its folder.

    Raises:
        UsageError: there is no run, or its plan is damaged.
    """
    from mmbench.report.assembly import build_report
    from mmbench.report.by_class import with_classes
    from mmbench.report.by_subgroup import with_subgroups
    from mmbench.report.evidence import with_evidence
    from mmbench.report.modalities import with_modalities

    with _sound(folder):
        made = with_modalities(with_evidence(build_report(folder), folder), folder)
        return with_subgroups(with_classes(made, folder), folder)


@contextmanager
def _sound(folder: Path) -> Iterator[None]:
    """Say in one sentence that a file of a run holds what mmbench does not write.

    The types of what is read are checked where it is read; this is for what remains, such as a number out of range.

    Raises:
        UsageError: the body failed.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise UsageError(
            f"the report of {folder} cannot be made: its plan.json, run.json or a file of a cell holds what mmbench "
            f"does not write ({type(error).__name__}: {shortened(' '.join(str(error).split()), 200)}); "
            "if nobody changed them, please report it"
        ) from error


def write_report(folder: Path, report: Report | None = None) -> list[Path]:
    """Write ``report.html``, ``report.md``, ``leaderboard.csv``, ``leaderboard.tex`` and ``scores.safetensors``.

    They go to ``report/``; each is replaced only when its successor is complete. ``scores.safetensors``, written where
    there are predictions, holds the test scores of single samples: the report can be made again without predictions.

    Args:
        folder: Of the run.
        report: What to write, where it is already built.

    Returns:
        The files, in that order.

    Raises:
        UsageError: there is no run, its plan is damaged, or the folder cannot be written.
    """
    from mmbench.report.html import render_html
    from mmbench.report.latex import render_latex
    from mmbench.report.leaderboard import leaderboard_csv
    from mmbench.report.markdown import render_markdown
    from mmbench.report.packed_scores import PACKED_FILE
    from mmbench.report.score_reader import packed_file

    made = report or build_report(folder)
    with _sound(folder):
        files: dict[str, str | bytes] = {
            "report.html": render_html(made, folder),
            "report.md": render_markdown(made),
            "leaderboard.csv": leaderboard_csv(made),
            "leaderboard.tex": render_latex(made),
        }
        if packed := packed_file(made, folder):
            files[PACKED_FILE] = packed
    return write_files(folder / "report", files)


def print_report(folder: Path, out: Console, report: Report | None = None) -> None:
    """Print the top of every leaderboard, cautions and failures; the complete tables are in ``report/report.md``."""
    from mmbench.report.terminal import print_tables

    print_tables(report or build_report(folder), out, folder / "report" / "report.md")


def report_json(report: Report) -> dict[str, Any]:
    """Return the report as plain JSON data, the answer in words first."""
    from mmbench.report.answer import answer, board_answer, cautions

    data: dict[str, Any] = _plain(report)
    for board, shown in zip(report.boards, data["boards"]):
        shown["answer"], shown["cautions"] = board_answer(board), cautions(board)
    return {"answer": answer(report), **data}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def write_files(place: Path, files: Mapping[str, str | bytes]) -> list[Path]:
    """Write files, by name, into a folder; return them in that order.

    Raises:
        UsageError: the folder cannot be written, or is a link, which a stranger's run may have.
    """
    if place.is_symlink():
        raise UsageError(f"{place} is a link, which a report does not follow; remove it")
    try:
        place.mkdir(exist_ok=True)
        return [replace_file(place / name, content) for name, content in files.items()]
    except OSError as error:
        raise UsageError(f"{place} cannot be written: {error.strerror}") from None


def replace_file(path: Path, content: str | bytes) -> Path:
    """Write a file, which is replaced only when its successor is complete; text is written as UTF-8."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.writing")
    unfinished.unlink(missing_ok=True)
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    try:
        # "x" follows no link that somebody may have put there.
        with unfinished.open("xb") as stream:
            stream.write(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
