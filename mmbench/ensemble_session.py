"""One call of `mmbench ensemble`: what joined predictions of a run's cells reach, on the terminal or as JSON."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from mmbench.encoding import json_text
from mmbench.report.ensemble import Ensembles, Member, SeedEnsemble, Tested, ensembles_of
from mmbench.report.text import clean, counted, number, p_value
from mmbench.terminal_table import Column, TerminalTable
from mmbench.views import console

MAX_LISTED = 10


def ensemble(folder: Path, *, as_json: bool = False) -> None:
    """Show ensembles over seeds and over cells, made of kept predictions.

    Args:
        folder: Of the run.
        as_json: Print JSON.

    Raises:
        UsageError: there is no run, or its plan is damaged.
    """
    made = ensembles_of(folder)
    if as_json:
        data = {"run": folder.resolve().name, "ensembles": [dataclasses.asdict(item) for item in made]}
        sys.stdout.write(json_text(data) + "\n")
        return
    for place, item in enumerate(made):
        if place:
            console().print()
        print_ensembles(item, console())


def print_ensembles(item: Ensembles, out: Console) -> None:
    """Print the ensembles of one task."""
    out.print(Text(clean(f"{item.dataset}: {item.task} ({item.metric} on test)", 200), style="bold"))
    if item.best_score is not None:
        out.print(Text(clean(f"best single row: {item.best} with {number(item.best_score)}, its seeds' mean", 300)))
    view = TerminalTable(
        [
            Column(heading="ensemble", kind="name"),
            Column(heading="of", kind="name"),
            Column(heading="seeds alone", priority=2),
            Column(heading=item.metric),
            Column(heading="change"),
            Column(heading="95 % interval", priority=1),
            Column(heading="p (Holm)"),
        ]
    )
    for row in item.seeds:
        view.add_row(
            clean(_name(row).replace("+", " + "), 200),
            counted(len(row.seeds), "seed"),
            number(row.single),
            *_figures(row.tested),
        )
    if item.greedy is not None:
        greedy = item.greedy
        of = f"{len(greedy.members)} of {counted(greedy.num_candidates, 'cell')}"
        view.add_row("chosen on val, one by one", of, "–", *_figures(greedy.tested), style="bold")
    if item.seeds or item.greedy:
        view.print(out)
    if item.greedy is not None:
        for member in item.greedy.members[:MAX_LISTED]:
            out.print(Text(clean(f"{member.weight:>4.0%} {_name(member)} seed {member.seed}", 300), style="dim"))
        if len(item.greedy.members) > MAX_LISTED:
            out.print(Text(f"… {len(item.greedy.members) - MAX_LISTED} more; --json has all", style="dim"))
        out.print(
            Text(
                "change: against the best single row, which test itself chose. An ensemble costs as much to run as all "
                "of its members.",
                style="dim",
            )
        )
    for reason in item.left_out[:MAX_LISTED]:
        out.print(Text(clean(f"left out: {reason}", 300), style="magenta"))
    if len(item.left_out) > MAX_LISTED:
        out.print(Text(f"left out: {len(item.left_out) - MAX_LISTED} more reasons; --json has all", style="magenta"))


def _name(combo: SeedEnsemble | Member) -> str:
    return " ".join(part for part in (combo.encoders, combo.fusion, combo.objective) if part)


def _figures(tested: Tested) -> tuple[str, str, str, str]:
    interval = "–" if tested.low is None or tested.high is None else f"{tested.low:+.4f} … {tested.high:+.4f}"
    return number(tested.score), f"{tested.change:+.4f}", interval, p_value(tested.p_value)
