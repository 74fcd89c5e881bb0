"""What models cost, from a run of `mmbench profile`: one line for each way to run each combo, over all rounds."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from mmbench.profile_plan import setup_of
from mmbench.record import Metric, Record
from mmbench.report import write_files
from mmbench.report.export import spreadsheet_text
from mmbench.report.text import amount, clean, markdown, seconds, size_bytes
from mmbench.samples import process_interval
from mmbench.terminal_table import Column, TerminalTable

if TYPE_CHECKING:
    from rich.console import Console

    from mmbench.store import RunStore

#: Units of what every measurement finds a little different; anything else is counted.
_MEASURED_UNITS = ("s", "samples/s", "flop/s", "J")

#: Columns of the tables: what is shown, the metric, and how its value reads.
SHOWN = (
    ("samples/s", "throughput_samples_per_s", amount),
    ("best batch", "best_batch_size", amount),
    ("best samples/s", "best_throughput_samples_per_s", amount),
    ("largest batch", "largest_batch_size", amount),
    ("latency", "latency_p50_s", seconds),
    ("p95", "latency_p95_s", seconds),
    ("step", "step_time_s", seconds),
    ("cold start", "cold_start_s", seconds),
    ("FLOP", "flops_per_sample", amount),
    ("of peak", "share_of_measured_peak", lambda value: "–" if value is None else f"{value:.0%}"),
    ("memory", "inference_peak_memory", size_bytes),
    ("params", "num_parameters_registered", amount),
)
#: Columns that a terminal always shows have 0; of the others those with the highest number make room first.
_PRIORITY = {"samples/s": 0, "latency": 0, "memory": 2, "params": 3, "step": 4, "p95": 5, "best samples/s": 6,
             "best batch": 7, "FLOP": 8, "of peak": 9, "largest batch": 10, "cold start": 11}  # fmt: skip
#: Memory has a name of its own on each kind of device; the first that is there is shown.
_MEMORY = ("inference_peak_memory_rss_bytes", "inference_peak_memory_allocated_bytes")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number over all rounds.

    Attributes:
        value: Mean of what is measured, median of what is counted; None where no round has one.
        low, high: 95 % interval: Student's over rounds, each a process with its own luck of memory layout, which no
            number of iterations averages out (Georges et al. 2007, "Statistically rigorous Java performance
            evaluation"); of one round, what that process could tell. Smallest and largest of what is counted.
        unit: As in the metric.
        note: Of the last round.
    """

    value: float | None
    low: float | None
    high: float | None
    unit: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One combo, run one way.

    Attributes:
        dataset, encoders, fusion, objective, variant: As in the plan.
        num_rounds: Measured so far.
        status, reason: Of the last round that has no result; "ok" where all have.
        contended: How many rounds others disturbed.
        measuring: Versions of the measuring code of its rounds, sorted.
        figures: By metric's name; those of the sweep by "name batch:N".
    """

    dataset: str
    encoders: str
    fusion: str
    objective: str
    variant: str
    num_rounds: int
    status: str
    reason: str
    contended: int
    measuring: tuple[str, ...]
    figures: Mapping[str, Figure] = field(repr=False)

    def value(self, name: str) -> float | None:
        """Return a figure's value, or None where there is none."""
        names = _MEMORY if name == "inference_peak_memory" else (name,)
        found = (self.figures[each].value for each in names if each in self.figures)
        return next((value for value in found if value is not None), None)


def costs_of(store: RunStore) -> list[Cost]:
    """Return every profile of a run, rounds joined, in plan order."""
    records = store.records()
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in store.planned():
        groups.setdefault(setup_of(row), []).append(row)
    return [_cost(setup, rows, records) for setup, rows in groups.items()]


def print_costs(costs: Sequence[Cost], out: Console) -> None:
    """Print one table, the remarks under it."""
    many = len({cost.dataset for cost in costs}) > 1
    varied = any(cost.variant != "clean" for cost in costs)
    heads = [*(["dataset"] if many else []), "encoders", "fusion", *(["variant"] if varied else [])]
    made = TerminalTable(
        [
            *(Column(heading=name, kind="name") for name in heads),
            *(Column(heading=name, priority=_PRIORITY.get(name, 1)) for name, _, _ in SHOWN),
        ]
    )
    for cost in costs:
        names = [*([cost.dataset] if many else []), cost.encoders.replace("+", " + "), cost.fusion]
        names += [cost.variant] if varied else []
        style = "" if cost.status == "ok" else "magenta"
        cells = [clean(name, 160) for name in names]
        made.add_row(*cells, *(show(cost.value(name)) for _, name, show in SHOWN), style=style)
    made.print(out)
    for line in remarks(costs):
        out.print(Text(line, style="magenta"))


def remarks(costs: Sequence[Cost]) -> list[str]:
    """Return what a reader must know before believing the table, each thing once."""
    lines: dict[str, None] = {}
    for cost in costs:
        who = f"{cost.encoders}, {cost.fusion}" + ("" if cost.variant == "clean" else f", {cost.variant}")
        if cost.status != "ok":
            lines[f"{cost.status}: {clean(who, 120)}: {clean(cost.reason, 300)}"] = None
        throughput = cost.figures.get("throughput_samples_per_s")
        if throughput is not None and throughput.value is None:
            lines[f"not measured: {clean(who, 120)}: {clean(throughput.note, 300)}"] = None
        parts = throughput.note.split("; ") if throughput is not None else []
        for part in parts:
            if part.startswith("fails at batch size "):
                lines[f"batch size 1 only: {clean(who, 120)}: {clean(part, 300)}"] = None
    disturbed = sum(cost.contended for cost in costs)
    rounds = sum(cost.num_rounds for cost in costs)
    if disturbed:
        lines[f"warning: others computed on the device in {disturbed} of {rounds} measurements; see notes"] = None
    versions = sorted({version for cost in costs for version in cost.measuring})
    if len(versions) > 1:
        lines[
            f"warning: figures were measured by versions {' and '.join(versions)} of the measuring code, "
            "which cannot be compared; measure all again in a run of another name"
        ] = None
    return list(lines)


def write_costs(folder: Path, costs: Sequence[Cost]) -> list[Path]:
    """Write ``report/costs.md`` and ``report/costs.csv``; return both.

    Raises:
        UsageError: the folder cannot be written.
    """
    name = folder.resolve().name
    return write_files(folder / "report", {"costs.md": _markdown(name, costs), "costs.csv": _csv(costs)})


def costs_json(store: RunStore, costs: Sequence[Cost]) -> dict[str, Any]:
    """Return every figure as plain JSON data."""
    return {
        "run": str(store.folder),
        "remarks": remarks(costs),
        "profiles": [
            {
                **{name: getattr(cost, name) for name in ("dataset", "encoders", "fusion", "objective", "variant")},
                **{name: getattr(cost, name) for name in ("num_rounds", "status", "reason", "contended", "measuring")},
                "figures": {name: asdict(figure) for name, figure in cost.figures.items()},
            }
            for cost in costs
        ],
    }


def _cost(setup: tuple[str, ...], rows: Sequence[Mapping[str, Any]], records: Mapping[str, Record]) -> Cost:
    done: list[Record] = []
    status, reason = "ok", ""
    for row in rows:
        record = records.get(row["cell_id"])
        if record is not None and record.status == "ok":
            done.append(record)
        elif record is not None:
            status, reason = record.status, record.reason
        else:
            status = "pending" if row["status"] == "run" else row["status"]
            reason = row["reason"] or "not measured yet"
    named: dict[str, list[Metric]] = {}
    for record in done:
        for metric in record.metrics:
            sizes = metric.condition.partition("batch:")
            named.setdefault(f"{metric.name} batch:{sizes[2]}" if sizes[1] else metric.name, []).append(metric)
    dataset, encoders, fusion, objective, variant = setup
    return Cost(
        dataset=dataset,
        encoders=encoders,
        fusion=fusion,
        objective=objective,
        variant=variant,
        num_rounds=len(done),
        status=status,
        reason=reason,
        contended=sum(bool(record.info.get("contended")) for record in done),
        measuring=tuple(sorted({_version(record) for record in done})),
        figures={name: _figure(metrics) for name, metrics in named.items()},
    )


def _version(record: Record) -> str:
    return str(record.info.get("perf_setup", {}).get("measuring_version", "unknown"))


def _figure(metrics: Sequence[Metric]) -> Figure:
    known = [(metric.value, metric) for metric in metrics if metric.value is not None]
    values = [value for value, _ in known]
    value: float | None = None
    low, high = None, None
    if len(known) == 1:
        value, low, high = values[0], known[0][1].ci_low, known[0][1].ci_high
    elif known and metrics[-1].unit in _MEASURED_UNITS:
        value, (low, high) = statistics.fmean(values), process_interval(values)
    elif known:
        value, low, high = statistics.median(values), min(values), max(values)
    return Figure(
        value=value,
        low=low,
        high=high,
        unit=metrics[-1].unit,
        note=metrics[-1].note,
    )


def _markdown(run_name: str, costs: Sequence[Cost]) -> str:
    heads = ["dataset", "encoders", "fusion", "variant", *(name for name, _, _ in SHOWN)]
    lines = [f"# Cost of models: {markdown(run_name)}", "", _row(heads), _row(["---"] * len(heads))]
    for cost in costs:
        names = (cost.dataset, cost.encoders.replace("+", " + "), cost.fusion, cost.variant)
        lines.append(_row([*map(markdown, names), *(show(cost.value(name)) for _, name, show in SHOWN)]))
    lines += ["", *(f"- {markdown(line)}" for line in remarks(costs))]
    for cost in costs:
        stages = {name: figure for name, figure in cost.figures.items() if name.startswith("stage_time_s:")}
        sizes = {name: figure for name, figure in cost.figures.items() if " batch:" in name}
        if not stages and not sizes:
            continue
        title = f"{cost.dataset}: {cost.encoders.replace('+', ' + ')}, {cost.fusion}"
        lines += ["", f"## {markdown(title)}{'' if cost.variant == 'clean' else f', {markdown(cost.variant)}'}", ""]
        lines += [_row(["stage", "time", "note"]), _row(["---"] * 3)]
        lines += [
            _row([name.partition(":")[2], seconds(figure.value), markdown(figure.note)])
            for name, figure in stages.items()
        ]
        if sizes:
            lines += ["", _row(["batch size", "samples/s", "note"]), _row(["---"] * 3)]
        lines += [
            _row([name.rpartition(":")[2], amount(figure.value), markdown(figure.note)])
            for name, figure in sizes.items()
        ]
    return "\n".join(lines) + "\n"


def _csv(costs: Sequence[Cost]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        (
            *("dataset", "encoders", "fusion", "objective", "variant", "rounds", "status"),
            *("metric", "value", "low", "high", "unit", "note"),
        )
    )
    for cost in costs:
        names = (cost.dataset, cost.encoders, cost.fusion, cost.objective, cost.variant)
        head = (*map(spreadsheet_text, names), cost.num_rounds, cost.status)
        for name, figure in cost.figures.items():
            numbers = ("" if value is None else repr(value) for value in (figure.value, figure.low, figure.high))
            writer.writerow((*head, name, *numbers, figure.unit, spreadsheet_text(figure.note)))
    return stream.getvalue()


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
