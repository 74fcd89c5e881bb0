"""One call of `mmbench run`: open the run, run what is missing under a live table, write and show the report."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mmbench.errors import EmptySelection, UsageError
from mmbench.plan import Plan
from mmbench.record import FAILURES, Status
from mmbench.runner import Event, Summary, memory_per_cell, run
from mmbench.store import RunStore
from mmbench.views import console, counted, duration, plan_headline, table

if TYPE_CHECKING:
    from mmbench.executors import Executor

#: Cells above which a run says how long it will take before it starts.
_PLAIN_LINE_EVERY_S = 10.0


def run_plan(plan: Plan, *, argv: Sequence[str], as_json: bool = False) -> int:
    """Run a plan's missing cells, report, and return the exit code.

    Raises:
        EmptySelection: no cell of the plan can run; the message gives the reasons.
        UsageError: the run exists and was made with other training settings, or another process writes it.
    """
    counts = plan.count()
    if not counts["run"] + counts["baselines"]:
        raise EmptySelection(_nothing_to_run(plan))
    config = plan.config
    store = RunStore.create(_results_folder(plan) / (config.run or default_name(plan)))
    with store.lock():
        _settle(store, plan, argv)
        out = console(stderr=as_json)
        out.print(f"run {store.folder.name}: {plan_headline(plan)}")
        began = time.monotonic()
        progress = _Progress(out, plan)
        with progress:
            summary = run(
                plan.cells(),
                store,
                lambda: _executor(plan),
                retry=frozenset(config.retry),
                timeout_s=config.timeout,
                memory_bytes=_memory(plan),
                max_failures=config.max_failures,
                budget_s=config.budget,
                on_event=progress.on_event,
            )
        if summary.num_attempts or not (store.folder / "report").is_dir():
            _report(store, out)
            out.print(f"{counted(summary.num_attempts, 'cell')} in {duration(time.monotonic() - began)}")
        else:
            out.print("nothing left to do")
            out.print(f"report: {store.folder / 'report'}")
    if as_json:
        sys.stdout.write(json.dumps({"run": str(store.folder), "counts": dict(summary.counts)}, indent=2) + "\n")
    return exit_code(summary)


def exit_code(summary: Summary) -> int:
    """Return 130 or 143 after a signal, 1 when a cell failed, else 0."""
    if summary.signal is not None:
        return 128 + int(summary.signal)
    return 1 if any(summary.counts.get(status, 0) for status in FAILURES) else 0


def show_report(store: RunStore, *, as_json: bool = False) -> None:
    """Write a run's report again and print its tables."""
    if as_json:
        from mmbench.report import build_report, report_json

        sys.stdout.write(json.dumps(report_json(build_report(store.folder)), indent=2, ensure_ascii=False) + "\n")
        return
    _report(store, console())


def default_name(plan: Plan) -> str:
    """Name a run by its grid, or by its datasets.

    A different selection over the same datasets adds its cells to the same run.
    """
    config = plan.config
    if config.grid:
        return config.grid
    if not config.dataset:
        return "all"
    names = sorted({part.spec.name for part in plan.datasets})
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(names))[:80]


def _report(store: RunStore, out: Console) -> None:
    from mmbench.report import print_report, write_report

    files = write_report(store.folder)
    print_report(store.folder, out)
    out.print(f"report: {' '.join(str(file) for file in files)}")


def _results_folder(plan: Plan) -> Any:
    from pathlib import Path

    return Path(plan.config.results).expanduser()


def _settle(store: RunStore, plan: Plan, argv: Sequence[str]) -> None:
    """Write run.json and plan.json, keeping planned cells of earlier commands that added to the same run."""
    from mmbench.environment import environment

    trains = {part.label: part.train.model_dump() for part in plan.datasets}
    earlier = store.plan_header()
    for label, dataset in (earlier.get("datasets") or {}).items():
        if label in trains and dataset.get("train") != trains[label]:
            differing = ", ".join(
                f"{key} {dataset['train'].get(key)!r} then, {value!r} now"
                for key, value in trains[label].items()
                if dataset["train"].get(key) != value
            )
            raise UsageError(
                f"the run {store.folder.name!r} trained {label} with other settings ({differing}); their numbers do "
                "not belong in one table. Choose another name with --run"
            )
    rows = {row["cell_id"]: row for row in store.planned()} if earlier else {}
    order = [cell.row() for cell in plan.cells()]
    kept = [row for cell_id, row in rows.items() if cell_id not in {row["cell_id"] for row in order}]
    header = {"datasets": {**(earlier.get("datasets") or {}), **plan.datasets_json()}}
    store.write_plan(header, kept + order if kept else order)
    store.write_run(
        {
            "argv": list(argv),
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": json.loads(plan.config.model_dump_json()),
            "environment": environment(),
        }
    )


def _executor(plan: Plan) -> Executor:
    if plan.config.executor == "inline":
        from mmbench.executors.inline import InlineExecutor

        return InlineExecutor()
    from mmbench.executors.local import LocalExecutor

    return LocalExecutor(capacity=plan.jobs, threads=plan.config.threads)


def _memory(plan: Plan) -> int:
    if plan.config.memory is not None:
        return int(plan.config.memory * 2**30)
    return memory_per_cell(plan.jobs)


def _nothing_to_run(plan: Plan) -> str:
    reasons = Counter(cell.reason for cell in plan.cells())
    if not reasons:
        return "the selection matches no cell; see `mmbench plan` with the same selection"
    lines = [f"  {counted(count, 'cell')}: {reason}" for reason, count in reasons.most_common(5)]
    return "no cell of the selection can run:\n" + "\n".join(lines)


class _Progress:
    """A live table on a terminal, a plain line now and then elsewhere."""

    def __init__(self, out: Console, plan: Plan) -> None:
        self.out = out
        self.plan = plan
        self.total = 0
        self.counts: Counter[str] = Counter()
        self.running: dict[str, tuple[str, float]] = {}
        self.durations: list[float] = []
        self.began = time.monotonic()
        self.last_line = self.began
        self.live: Live | None = None

    def __enter__(self) -> _Progress:
        if self.out.is_terminal:
            self.live = Live(get_renderable=self.render, console=self.out, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live is not None:
            self.live.stop()

    def on_event(self, event: Event) -> None:
        """Take note of what the runner says."""
        match event.kind:
            case "planned":
                self.total = event.total
            case "started":
                self.running[event.cell_id] = (event.label, time.monotonic())
            case "finished":
                self.running.pop(event.cell_id, None)
                self.counts[event.status] += 1
                self.durations.append(event.duration_s)
                if event.status != "ok":
                    self._say(Text(f"{event.status}: {event.label}: {event.reason}", style=_style(event.status)))
            case "stopping":
                self._say(Text(event.reason, style="yellow"))
        now = time.monotonic()
        if self.live is None and now - self.last_line > _PLAIN_LINE_EVERY_S and event.kind == "finished":
            self.last_line = now
            self.out.print(self.line())

    def line(self) -> str:
        """Return progress in one line."""
        done = sum(self.counts.values())
        parts = [f"{done}/{self.total} cells"]
        parts += [f"{count} {status}" for status, count in self.counts.items() if status != "ok"]
        left = self.remaining_s()
        if left is not None:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def remaining_s(self) -> float | None:
        """Return the estimated time left, from the pace so far."""
        done = sum(self.counts.values())
        if done < 3:
            return None
        return (time.monotonic() - self.began) / done * max(self.total - done, 0)

    def render(self) -> Any:
        """Return the live table."""
        made = table("", "", title=self.line())
        now = time.monotonic()
        for label, started in list(self.running.values()):
            made.add_row(Text(f"{now - started:6.1f} s", style="cyan"), label)
        return made

    def _say(self, text: Text) -> None:
        (self.live.console if self.live is not None else self.out).print(text)


def _style(status: Status | str) -> str:
    return "yellow" if status in ("unavailable", "interrupted") else "red"


OnEvent = Callable[[Event], None]
