"""One call of `mmbench compare`: two runs, a table of what changed, and whether a limit was crossed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.text import Text

from mmbench.encoding import json_text
from mmbench.report.answer import metric_words
from mmbench.report.comparison import Comparison, Difference, compare_runs
from mmbench.report.gate import change_of, crossed, parse_condition
from mmbench.report.markdown import group_cell, interval
from mmbench.report.pairwise import ALPHA
from mmbench.report.published import JointBoard, PublishedComparison, RunRow, compare_with_published
from mmbench.report.text import amount, clean, counted, number, p_value, seconds, signed
from mmbench.store import RunStore
from mmbench.terminal_table import Column, TerminalTable
from mmbench.views import console

CROSSED = 5
MAX_LISTED = 10
#: Costs that a table shows; the rest is in --json.
_SHOWN_COSTS = ("throughput_samples_per_s", "latency_p50_s", "step_time_s", "flops_per_sample")


def compare(
    first: RunStore,
    second: RunStore,
    *,
    fail_if: Sequence[str] = (),
    force: bool = False,
    include_chance: bool = False,
    as_json: bool = False,
) -> int:
    """Compare two runs, show it, and return 5 when a limit is crossed, else 0.

    Args:
        first: The one to compare with.
        second: The one that may have changed.
        fail_if: Conditions such as ``throughput<-5%``.
        force: Compare scores on different data too.
        include_chance: Let differences cross a limit that chance explains.
        as_json: Print JSON.

    Raises:
        UsageError: nothing in common, different data, or a condition that cannot be read or applied.
    """
    conditions = [parse_condition(text) for text in fail_if]
    made = compare_runs(first, second, force=force)
    lines = crossed(made, conditions, include_chance=include_chance)
    if as_json:
        sys.stdout.write(json_text({**made.to_json(), "crossed": lines}) + "\n")
    else:
        named = {row.metric for row in made.rows if any(condition.is_about(row.metric) for condition in conditions)}
        _print(made, named, lines)
    return CROSSED if lines else 0


def compare_published(run: RunStore, published: RunStore, *, as_json: bool = False) -> None:
    """Rank and test the rows of a run together with those of a published one, and show it.

    Raises:
        UsageError: the runs have no task in common, or stand on different data.
    """
    found = compare_with_published(run, published)
    if as_json:
        sys.stdout.write(json_text(found.to_json()) + "\n")
        return
    out = console()
    for joint in found.boards:
        _print_joint(joint, found)
    for words in found.problems:
        out.print(Text(f"not compared: {clean(words, 300)}", style="magenta"))


def _print_joint(joint: JointBoard, found: PublishedComparison) -> None:
    out, board = console(), joint.board
    out.print(Text(f"{clean(board.dataset, 160)}: {clean(found.run, 80)} against {clean(found.published, 80)}", "bold"))
    if joint.reference is not None:
        label = clean(joint.reference.label, 200)
        out.print(Text(f"Compared with the row of {clean(found.published, 80)} that is best on val: {label}"))
    ranked = [(at, row) for at, row in enumerate(board.rows) if isinstance(row, RunRow) and row.rank is not None]
    own = [at for at, row in ranked if row.run == found.run][:MAX_LISTED]
    shown = sorted(
        {*(at for at, _ in ranked[:MAX_LISTED]), *own, *(at for at, row in ranked if row is joint.reference)}
    )
    view = TerminalTable(
        [
            Column(heading="#", kind="lead"),
            Column(heading="group", kind="lead", priority=1),
            *(Column(heading=name, kind="name") for name in ("run", "encoders", "fusion")),
            Column(heading=metric_words(board.metric)),
            Column(heading="95 % CI", priority=3),
            Column(heading="difference"),
            Column(heading="95 % CI of it", priority=2),
            Column(heading="p (Holm)"),
        ]
    )
    for at in shown:
        row = board.rows[at]
        assert isinstance(row, RunRow) and row.score is not None
        against = joint.against.get(at)
        view.add_row(
            str(row.rank) + (" ►" if row is joint.reference else ""),
            group_cell(row),
            clean(row.run, 40),
            clean(row.encoders.replace("+", " + "), 160),
            clean(row.fusion, 48),
            number(row.score.mean),
            interval(row.score),
            "" if against is None else signed(against.difference),
            "" if against is None else f"{signed(against.low)} to {signed(against.high)}",
            "" if against is None else p_value(against.p_value),
            style="bold" if against is not None and against.p_value < ALPHA and against.difference > 0 else "",
        )
    view.print(out)
    if len(ranked) > len(shown):
        out.print(Text(f"{counted(len(ranked) - len(shown), 'other row')} in --json", style="dim"))
    out.print(Text(f"Test: {joint.test}; over {counted(len(board.seeds), 'common seed')}"))


def _print(made: Comparison, named: set[str], lines: Sequence[str]) -> None:
    out = console()
    out.print(f"{made.first} -> {made.second}")
    for words in made.differing[:MAX_LISTED]:
        out.print(Text(f"differs: {clean(words, 300)}", style="magenta"))
    if len(made.differing) > MAX_LISTED:
        out.print(Text(f"… {len(made.differing) - MAX_LISTED} more differences; --json has all", style="dim"))
    shown = [row for row in made.rows if _is_shown(row) or row.metric in named]
    many = len({row.dataset for row in made.rows}) > 1
    varied = any(row.variant != "clean" for row in made.rows)
    heads = [*(["dataset"] if many else []), "encoders", "fusion", *(["variant"] if varied else []), "metric"]
    view = TerminalTable(
        [
            *(Column(heading=name, kind="name") for name in heads),
            Column(heading="before"),
            Column(heading="after"),
            Column(heading="change"),
            Column(heading="95 % interval", priority=1),
            Column(heading="p (Holm)"),
        ]
    )
    for row in shown:
        names = [*([row.dataset] if many else []), row.encoders.replace("+", " + "), row.fusion]
        names += [*([row.variant] if varied else []), row.metric]
        cells = [_read(row, row.first), _read(row, row.second), change_of(row), _interval(row), p_value(row.p_value)]
        view.add_row(*(clean(name, 160) for name in names), *cells, style=_style(row))
    view.print(out)
    if len(made.rows) > len(shown):
        out.print(Text(f"{counted(len(made.rows) - len(shown), 'other number')} in --json", style="dim"))
    for run, only in ((made.first, made.only_first), (made.second, made.only_second)):
        for words in only[:MAX_LISTED]:
            out.print(Text(f"only in {run}: {clean(words, 200)}", style="dim"))
        if len(only) > MAX_LISTED:
            out.print(Text(f"only in {run}: {len(only) - MAX_LISTED} more", style="dim"))
    for line in lines:
        out.print(Text(f"crossed: {clean(line, 400)}", style="red"))


def _is_shown(row: Difference) -> bool:
    return row.p_value is not None if row.phase == "evaluate" else row.metric in _SHOWN_COSTS


def _style(row: Difference) -> str:
    if not row.significant or not row.direction:
        return "dim"
    return "bold" if (row.change > 0) == (row.direction == "max") else "red"


def _read(row: Difference, value: float) -> str:
    if row.phase == "evaluate":
        return number(value)
    return seconds(value) if row.metric.endswith("_s") and not row.metric.endswith("per_s") else amount(value)


def _interval(row: Difference) -> str:
    if row.low is None or row.high is None:
        return "–"
    if row.phase == "profile":
        return f"{row.low:+.1%} … {row.high:+.1%}"
    return f"{row.low:+.4f} … {row.high:+.4f}"
