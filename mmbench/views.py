"""What the commands print: lists, one part, plugins, plans and the state of a run, for people and as JSON."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.segment import Segment
from rich.text import Text

from mmbench.encoding import json_text, printable
from mmbench.errors import UsageError, did_you_mean
from mmbench.imbalance import imbalance_warnings
from mmbench.record import FAILURES
from mmbench.report.outcomes import PENDING, status_of, style_of
from mmbench.report.text import counted, duration
from mmbench.spec import DatasetSpec, EncoderSpec, ExecutorSpec, FusionSpec, ObjectiveSpec, Role, TrackerSpec, role_of
from mmbench.spec_values import to_json
from mmbench.terminal_table import PIPE_WIDTH, Column, TerminalTable, wrap

if TYPE_CHECKING:
    from pathlib import Path

    from mmbench.cache import Trimmed
    from mmbench.data_card import DataCard
    from mmbench.merge import Merged
    from mmbench.plan import Plan
    from mmbench.registry import Entry, Registry
    from mmbench.stage import Planner
    from mmbench.store import RunStore

#: Warnings of a merge that are printed; the rest is in --json.
MAX_WARNINGS = 20
_ROLE_OF_LIST: Mapping[str, Role] = {
    "encoders": "encoder",
    "fusions": "fusion",
    "datasets": "dataset",
    "objectives": "objective",
    "trackers": "tracker",
    "executors": "executor",
}


class SafeConsole(Console):
    """A console that shows the texts it is given and obeys none of them; its own colors and links stay."""

    def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def console(*, stderr: bool = False) -> Console:
    """Return a console that never wraps what a program might read from a pipe."""
    made = SafeConsole(stderr=stderr, highlight=False, emoji=False, markup=False)
    if not made.is_terminal:
        made.width = PIPE_WIDTH
    return made


def size_text(size_bytes: int) -> str:
    """Write a size as people say it.

    >>> size_text(17), size_text(1536), size_text(50 * 2**30)
    ('17 B', '1.5 KiB', '50 GiB')
    """
    size, unit = float(size_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.1f}".removesuffix(".0") + f" {unit}"


def parts_json(registry: Registry, lists: Sequence[str]) -> dict[str, Any]:
    """Return the installed parts by list name."""
    return {name: [entry_json(entry) for entry in registry.entries(_ROLE_OF_LIST[name])] for name in lists}


def print_parts(registry: Registry, lists: Sequence[str]) -> None:
    """Print one table per list."""
    out = console()
    for name in lists:
        entries = registry.entries(_ROLE_OF_LIST[name])
        made = TerminalTable(
            [
                Column(heading="name", kind="name"),
                Column(heading="takes", kind="name", priority=1),
                Column(heading="gives", kind="name", priority=2),
                Column(heading="summary", kind="text", cut=True, min_width=40),
                Column(heading="from", kind="name", priority=3),
            ],
            title=counted(len(entries), name[:-1]),
        )
        for entry in entries:
            name_and_target = entry.spec.name + _target_hint(entry.spec)
            made.add_row(name_and_target, *_takes_and_gives(entry.spec), entry.spec.summary, entry.dist)
        made.print(out)
        out.print()


def find_entries(registry: Registry, name: str) -> list[Entry]:
    """Return every part of this name, whatever its role.

    Raises:
        UsageError: there is none.
    """
    everything = [entry for role in _ROLE_OF_LIST.values() for entry in registry.entries(role)]
    found = [entry for entry in everything if name in (entry.spec.name, entry.ref)]
    if not found:
        known = sorted({entry.spec.name for entry in everything})
        raise UsageError(f"nothing is named {name!r}.{did_you_mean(name, known)} See `mmbench list`.")
    return found


def entry_json(entry: Entry) -> dict[str, Any]:
    """Return one part as plain JSON."""
    return {
        "ref": entry.ref,
        "role": role_of(entry.spec),
        "dist": entry.dist,
        "dist_version": entry.dist_version,
        **to_json(entry.spec),
    }


def print_entries(entries: Iterable[Entry]) -> None:
    """Print the description of each component; --json has every field of its descriptor."""
    from mmbench.component_card import card_of

    out = console()
    for entry in entries:
        out.print(Text(f"{role_of(entry.spec)} {entry.ref}", style="bold"))
        if entry.spec.summary:
            out.print(Text(entry.spec.summary))
        facts = list(card_of(entry))
        indent = max(len(heading) for heading, _ in facts) + 4
        above = ""
        for heading, text in facts:
            shown = "" if heading == above else heading
            above = heading
            for line in wrap(text, out.width - indent if out.is_terminal else None):
                out.print(Text(f"  {shown}".ljust(indent) + line), soft_wrap=True)
                shown = ""
        out.print()


def plugins_json(registry: Registry) -> list[dict[str, Any]]:
    """Return every plugin with its state."""
    return [to_json(plugin) for plugin in registry.plugins]


def print_plugins(registry: Registry) -> None:
    """Print every plugin: what it offers, or why it was left out."""
    out = console()
    made = TerminalTable(
        [
            Column(heading="plugin", kind="name"),
            Column(heading="from", kind="text", priority=1),
            Column(heading="status", kind="text"),
            Column(heading="offers", kind="text"),
        ]
    )
    for plugin in registry.plugins:
        offers = ", ".join(counted(count, role) for role, count in plugin.counts.items() if count)
        style = "" if plugin.status == "loaded" else "red"
        made.add_row(
            plugin.name, f"{plugin.dist} {plugin.dist_version}", Text(plugin.status, style), offers or plugin.reason
        )
    made.print(out)
    for plugin in registry.plugins:
        for warning in plugin.warnings:
            out.print(Text(f"warning: {plugin.name}: {warning}", style="magenta"))
        if plugin.traceback:
            out.print(Text(f"\n{plugin.name}\n{plugin.traceback}", style="dim"))


def write_plan_json(plan: Plan, out: TextIO) -> None:
    """Write counts, estimate and every cell as JSON, a cell a line: a plan of a million is never held whole."""
    from mmbench.planners import planner_of
    from mmbench.run_cards import plan_cards

    planner = planner_of(plan)
    stages = planner.outlook()
    if stages:
        next(planner.stages())  # so that its rows hold the first stage, and the rest as pending
    cards = plan_cards(plan)
    head = {
        "counts": plan.count(),
        "estimate_s": plan.estimate_s(),
        "notes": [*plan.notes, *imbalance_warnings(plan.datasets, cards)],
        "datasets": plan.datasets_json(),
        "cards": {name: card.to_json() for name, card in cards.items()},
        "shared": plan.shared(),
        "paths": plan.paths(),
        "stages": [to_json(item) for item in stages],
    }
    out.write(json_text(head, default=str).removesuffix("\n}") + ',\n  "cells": [')
    out.writelines(
        (",\n    " if number else "\n    ") + json_text(row, indent=None) for number, row in enumerate(planner.rows())
    )
    out.write("\n  ]\n}\n")


def print_cards(out: Console, cards: Iterable[DataCard]) -> None:
    """Print data cards, warnings in yellow."""
    from mmbench.data_card import card_lines

    for card in cards:
        for line in card_lines(card):
            out.print(Text(line, style=_style_of_note(line)))


def _style_of_note(line: str) -> str:
    return "magenta" if line.startswith("warning:") else ""


def plan_headline(plan: Plan, planner: Planner | None = None) -> str:
    """Return the one line that leads a plan."""
    from mmbench.planners import planner_of

    counts = plan.count()
    stages = (planner or planner_of(plan)).outlook()
    if stages:
        most = counted(sum(stage.num_cells for stage in stages), "cell")
        words = most if all(stage.exact for stage in stages) else f"at most {most}"
        left = [f"{counts[status]} {status}" for status in ("incompatible", "unavailable") if counts[status]]
        return ", ".join([f"{words} in {counted(len(stages), 'stage')}", *left])
    parts = [f"{counts['run']} to run", counted(counts["baselines"], "baseline")]
    parts += [f"{counts[status]} {status}" for status in ("incompatible", "unavailable") if counts[status]]
    estimate = plan.estimate_s()
    if estimate is not None and counts["run"] + counts["baselines"]:
        parts[0] += f" (about {duration(estimate)} with {counted(plan.jobs, 'cell')} at a time)"
    return f"{counted(counts['cells'], 'cell')}: {', '.join(parts)}"


def print_data(out: Console, plan: Plan, cards: Mapping[str, DataCard]) -> None:
    """Print how the data of a plan were understood, a card or notes of each dataset, and what the plan leaves out."""
    many = len(plan.datasets) > 1
    for part in plan.datasets:
        if part.label in cards:
            print_cards(out, [cards[part.label]])
            continue
        for note in part.info.notes:
            out.print(Text(f"{part.label}: {note}" if many else note, style=_style_of_note(note)))
    for note in (*plan.notes, *imbalance_warnings(plan.datasets, cards)):
        out.print(Text(note, style=_style_of_note(note)))


def print_plan(plan: Plan, rows: int) -> None:
    """Print the headline and the first rows."""
    from mmbench.planners import planner_of
    from mmbench.report.decisions import tuned_words
    from mmbench.run_cards import plan_cards

    out = console()
    planner = planner_of(plan)
    out.print(plan_headline(plan, planner))
    print_data(out, plan, plan_cards(plan))
    stages = planner.outlook()
    for stage in stages:
        out.print(Text(f"  {stage.title}: {'' if stage.exact else 'at most '}{counted(stage.num_cells, 'cell')}"))
    cells = plan.cells()
    if stages:
        # What else there will be hangs on results: the first stage, and what cannot run at all.
        cells = itertools.chain(next(planner.stages()).cells(), (cell for cell in cells if cell.status != "run"))
    made = TerminalTable(
        [
            Column(heading="status", kind="lead"),
            Column(heading="seed", kind="lead"),
            *(Column(heading=name, kind="name") for name in ("dataset", "encoders", "fusion", "objective")),
            *([Column(heading="with", kind="name")] if stages else []),
        ]
    )
    reasons: Counter[tuple[str, str]] = Counter()
    hidden = 0
    for number, cell in enumerate(cells):
        row = cell.row()
        if row["reason"]:
            reasons[row["status"], row["reason"]] += 1
        if rows and number >= rows:
            hidden += 1
            continue
        status = row["role"] if row["role"] != "cell" and row["status"] == "run" else row["status"]
        made.add_row(
            Text(status, style_of(row["status"])), str(row["seed"]),
            row["dataset"], row["encoders"].replace("+", " + "), row["fusion"], row["objective"],
            *([tuned_words(row)] if stages else []),
        )  # fmt: skip
    made.print(out)
    if hidden:
        out.print(f"… {hidden} more; --rows 0 shows all, --json gives them to a program")
    for (status, reason), count in reasons.most_common():
        out.print(Text(f"{status} ({counted(count, 'cell')}): {reason}", style_of(status)))
    for item in plan.shared():
        what = f"{item['layout']} features of {item['modality']} in {item['dataset']} by {item['encoder']}"
        out.print(Text(f"computed once: {what}, for {counted(item['num_cells'], 'cell')}"))
    for item in plan.paths():
        seeds = "seeds together" if item["path"] == "together" else f"seeds one after the other: {item['apart']}"
        out.print(Text(f"{seeds} ({counted(item['num_cells'], 'cell')})"))


def status_json(store: RunStore) -> dict[str, Any]:
    """Return counts by status, every failure, and what a race decided."""
    counts, failures = _progress(store)
    return {
        "run": store.name,
        "folder": str(store.folder),
        "counts": dict(counts),
        "failures": failures,
        "decisions": store.decisions(),
        "writer": store.writer(),
    }


def print_status(store: RunStore) -> None:
    """Print how far a run is."""
    counts, failures = _progress(store)
    out = console()
    total = sum(counts.values())
    done = total - counts.get(PENDING, 0)
    out.print(f"{store.folder}: {done} of {counted(total, 'cell')} settled")
    made = TerminalTable([Column(heading="status", kind="name"), Column(heading="cells")])
    for status, count in counts.most_common():
        made.add_row(Text(status, style_of(status)), str(count))
    made.print(out)
    from mmbench.report.decisions import decision_lines

    for line in decision_lines(store.decisions()):
        out.print(Text(line))
    grouped = Counter((failure["status"], failure["reason"]) for failure in failures)
    for (status, reason), count in grouped.most_common(20):
        out.print(Text(f"{status} ({counted(count, 'cell')}): {reason}", style="red"))
    writer = store.writer()
    if writer is not None:
        from mmbench.heartbeat import who, why_gone  # psutil with it, which a list of parts does not need

        out.print(Text(why_gone(store, writer) or f"{who(writer)} is at it; --watch looks on"))


def print_merged(made: Merged) -> None:
    """Print what a merge took from where, and what to be careful about."""
    out = console()
    out.print(f"run {made.folder.name}: {counted(made.num_cells, 'cell')} of {len(made.sources)} runs")
    for name, count in made.taken.items():
        out.print(Text(f"  {count} from {name}"))
    for note in made.notes:
        out.print(Text(note))
    for warning in made.warnings[:MAX_WARNINGS]:
        out.print(Text(f"warning: {warning}", style="magenta"))
    if len(made.warnings) > MAX_WARNINGS:
        out.print(Text(f"{len(made.warnings) - MAX_WARNINGS} more warnings in --json", style="dim"))
    out.print(Text(f"{made.folder}: `mmbench report` shows it, `mmbench run --run {made.folder.name}` continues it"))


def print_environment(found: Mapping[str, Any]) -> None:
    """Print hardware and versions."""
    out = console()
    hardware = found["hardware"]
    out.print(f"{hardware['cpu']}, {hardware['num_cpus']} CPUs, {hardware['memory_bytes'] / 2**30:.1f} GiB")
    for gpu in hardware["gpus"]:
        out.print(f"{gpu['name']}, {gpu['memory']}, driver {gpu['driver']}")
    out.print(f"{found['system']}, Python {found['python']}")
    for name, value in found.get("libraries", {}).items():
        out.print(Text(f"  {name}: {value}"))
    for name, version in found["packages"].items():
        out.print(f"  {name} {version}")
    if found.get("distributions"):
        out.print(f"{counted(len(found['distributions']), 'distribution')} in all; --freeze lists them for pip")


def _progress(store: RunStore) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Count the cells by status, and return the row of every failure."""
    records = store.records(lambda record: replace(record, metrics=(), info={}))
    counts: Counter[str] = Counter()
    failures = []
    for row in store.planned():
        status, reason = status_of(row, records.get(row["cell_id"]))
        counts[status] += 1
        if status in FAILURES:
            failures.append({**row, "status": status, "reason": reason})
    return counts, failures


def _takes_and_gives(spec: Any) -> tuple[str, str]:
    if isinstance(spec, EncoderSpec):
        return ", ".join(spec.kinds), ", ".join(spec.layouts)
    if isinstance(spec, FusionSpec):
        top = "" if spec.max_modalities == spec.min_modalities else f" to {spec.max_modalities or 'any number'}"
        return f"{spec.accepts}, {spec.min_modalities}{top} modalities", f"{spec.level} level"
    if isinstance(spec, DatasetSpec):
        takes = ", ".join(f"{modality.name} ({modality.kind})" for modality in spec.modalities)
        return takes or "depends on its target", ", ".join(f"{task.kind}" for task in spec.tasks)
    if isinstance(spec, TrackerSpec):
        return "a run", ", ".join(spec.requires)
    if isinstance(spec, ExecutorSpec):
        return "cells", ", ".join(spec.requires)
    assert isinstance(spec, ObjectiveSpec)
    return ", ".join(spec.levels), ", ".join(spec.task_kinds)


def _target_hint(spec: Any) -> str:
    target = getattr(spec, "target", "none")
    return {"none": "", "optional": "[:TARGET]", "required": ":TARGET"}[target]


def cache_json(folder: Path, done: Trimmed, *, dry_run: bool) -> dict[str, Any]:
    """Return what `mmbench clean --cache` did, or would do, as plain JSON."""
    from mmbench.cache import sizes_by_sort

    return {
        "folder": str(folder),
        "dry_run": dry_run,
        **{
            name: {
                "entries": len(entries),
                "bytes": sum(entry.size_bytes for entry in entries),
                "keys": [entry.key for entry in entries],
            }
            for name, entries in (("removed", done.removed), ("kept", done.kept), ("in_use", done.busy))
        },
        "sorts": {
            sort: {"entries": number, "bytes": size}
            for sort, (number, size) in sizes_by_sort((*done.removed, *done.kept, *done.busy)).items()
        },
    }


def print_cache(folder: Path, done: Trimmed, *, dry_run: bool) -> None:
    """Print what lies in the cache and what was removed, by sort."""
    from mmbench.cache import sizes_by_sort

    out = console()
    everything = (*done.removed, *done.kept, *done.busy)
    if not everything:
        out.print(f"the cache {folder} is empty")
        return
    removed = sizes_by_sort(done.removed)
    removed_heading = "would be removed" if dry_run else "removed"
    made = TerminalTable(
        [
            Column(heading="sort", kind="name"),
            *(Column(heading=heading) for heading in ("entries", "size", removed_heading)),
        ],
        title=f"cache {folder}",
    )
    for sort, (number, size) in sizes_by_sort(everything).items():
        made.add_row(sort, str(number), size_text(size), size_text(removed.get(sort, (0, 0))[1]))
    made.print(out)
    for entry in done.removed if dry_run else ():
        out.print(f"would remove {folder / entry.key}", soft_wrap=True, highlight=False)
    size = sum(entry.size_bytes for entry in done.removed)
    verb = "would remove" if dry_run else "removed"
    out.print(f"{verb} {counted(len(done.removed), 'entry')}, {size_text(size)}")
    if done.busy:
        out.print(f"{counted(len(done.busy), 'entry')} left alone: in use by a run")
