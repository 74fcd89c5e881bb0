"""One call of `mmbench run`: open the run, run what is missing under a live table, write and show the report."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rich.console import Console
from rich.text import Text

from mmbench.admission import Admission
from mmbench.combo import Cell
from mmbench.config import QUICK_SELECTION, TrainConfig
from mmbench.encoding import json_text
from mmbench.errors import EmptySelection, MmbenchError, Unavailable, UsageError
from mmbench.executors.watch import default_memory_bytes
from mmbench.grid import DEVICE
from mmbench.heartbeat import Heartbeat
from mmbench.part_code import check_packages, load_factory
from mmbench.parts import DatasetPart
from mmbench.plan import Plan
from mmbench.planners import planner_of
from mmbench.preflight import check_components
from mmbench.progress import Progress
from mmbench.reasons import Reasons
from mmbench.record import DONE, FAILURES
from mmbench.registry import Reference
from mmbench.report.decisions import decision_lines
from mmbench.report.text import counted, duration
from mmbench.run_cards import plan_cards, write_cards
from mmbench.run_subgroups import subgroups_of, write_subgroups
from mmbench.runner import Event, PlannedCell, Summary, is_final, run
from mmbench.stage import Stage
from mmbench.staged import run_stages
from mmbench.standing import Standing
from mmbench.store import EXECUTORS_FOLDER, RunStore, check_run_name
from mmbench.trackers import Trackers, open_tracker
from mmbench.views import console, plan_headline, print_data, size_text

if TYPE_CHECKING:
    from mmbench.executors import Executor


PlannedT = TypeVar("PlannedT", bound=PlannedCell)


def run_plan(plan: Plan, *, argv: Sequence[str], as_json: bool = False) -> int:
    """Run a plan's missing cells, report, and return the exit code.

    Raises:
        EmptySelection, Unavailable: no cell of the plan can run; the message gives the reasons.
        UsageError: the run exists and was made with other training settings, or another process writes it.
    """
    planner = planner_of(plan)
    counts = plan.count()
    if not counts["run"] + counts["baselines"]:
        raise nothing_to_run(plan)
    config = plan.config
    name = config.run or default_name(plan)
    check_run_name(name)
    folder = Path(config.results).expanduser() / name
    wanted = tracker_references(plan)
    out = console(stderr=as_json)
    cards = plan_cards(plan)
    with RunStore.create(folder) as store, make_executor(plan, folder) as executor:
        _settle(store, plan, argv)
        first = missing(next(planner_of(plan).stages()).cells(), store, frozenset(config.retry))
        try:
            with out.status("loading torch and the selected components"):
                checked = preflight(plan, first, store, executor, out)
        except KeyboardInterrupt:
            out.print(Text("interrupted before the first cell", style="magenta"))
            return 128 + signal.SIGINT
        if checked is not plan:
            plan, planner = checked, planner_of(checked)
            counts = plan.count()
        reasons = Reasons()
        lacks_named = bool(plan.unavailable_by_name())
        standing = Standing(
            at_once=executor.capacity,
            retry=frozenset(config.retry),
            epochs={part.label: part.train.epochs for part in plan.datasets},
        )
        with Heartbeat(store, standing, measured=config.executor in ("inline", "local")) as heart:
            trackers = Trackers(store.folder, [open_tracker(store.folder, reference) for reference in wanted])
            out.print(f"run {store.name}: {plan_headline(plan, planner)}")
            print_data(out, plan, cards)
            began = time.monotonic()
            admission = make_admission(plan)
            ranked_by = {part.label: part.ranked_by for part in plan.datasets}
            trackers.start(store.read_run(), counts["run"] + counts["baselines"])

            def launch(stage: Stage, num_missing: int, *, spent_s: float, max_failures: float | None) -> Summary:
                if stage.title and num_missing:
                    out.print(f"{stage.title}: {counted(num_missing, 'cell')} to run")
                standing.take_plan(planner.rows(), store.states())

                def on_event(event: Event) -> None:
                    nonlocal lacks_named
                    if event.record is not None and event.record.status == "unavailable":
                        lacks_named = lacks_named or plan.names_any(cast(Cell, event.cell))
                    progress.on_event(event)

                with Progress(out, standing, heart, trackers, reasons, ranked_by) as progress:
                    return run(
                        stage.cells(),
                        store,
                        executor,
                        retry=frozenset(config.retry),
                        timeout_s=config.timeout,
                        memory_bytes=memory_limit(plan),
                        max_failures=max_failures,
                        budget_s=config.budget,
                        spent_s=spent_s,
                        admission=admission,
                        on_event=on_event,
                    )

            def say(decisions: Sequence[Mapping[str, Any]]) -> None:
                for line in decision_lines(decisions):
                    out.print(Text(line))

            summary = run_stages(planner, store, launch, max_failures=config.max_failures, on_decisions=say)
            heart.phase, reported = "reporting", True
            regrouped = _keep_subgroups(store, plan)
            if summary.num_launched or regrouped or not (store.folder / "report").is_dir():
                _keep_cards(store, plan)
                reported = _report_or_warn(store, out)
                out.print(f"{counted(summary.num_launched, 'cell')} in {duration(time.monotonic() - began)}")
                _bound_cache(plan, out)
            else:
                out.print("nothing left to do")
                out.print(f"report: {store.folder / 'report'}")
            for line in foreign_write_warnings(store):
                out.print(Text(line, style="magenta"))
            for text, advice in reasons.summary(store.folder):
                out.print(Text(text, style="red"))
                if advice:
                    out.print(Text(f"  hint: {advice}"))
            for text in continuation(summary, argv, num_new=reasons.num_cells):
                out.print(Text(text), soft_wrap=True)
            trackers.end(summary)
            for warning in trackers.warnings():
                out.print(Text(warning, style="magenta"))
    if as_json:
        sys.stdout.write(json.dumps({"run": str(store.folder), "counts": dict(summary.counts)}, indent=2) + "\n")
    return summary.exit_code or int(not reported or bool(plan.broken or lacks_named))


def foreign_write_warnings(store: RunStore) -> list[str]:
    """Return the warning about bytes that other programs appended to the journal of the run under way, if any."""
    count = store.journal.num_foreign_bytes
    if not count:
        return []
    path = store.journal.path
    return [
        f"warning: another program, such as a plugin, wrote {counted(count, 'byte')} into {path} while the run was "
        f"under way; they are in {path.name}.foreign and count as no results"
    ]


def continuation(summary: Summary, argv: Sequence[str], *, num_new: int = 0) -> Iterator[str]:
    """Yield the command that continues a stopped run, or retries the failures of earlier commands.

    Args:
        summary: How the run stands.
        argv: The arguments of the command.
        num_new: Cells that failed by this command; their reasons are shown with what to do.
    """
    command = shlex.join(["mmbench", *argv])
    if summary.signum is not None or summary.cause == "budget":
        done = sum(summary.counts.get(status, 0) for status in DONE)
        yield f"stopped with {counted(done, 'cell')} done; to continue: {command}"
    failed = {status: summary.counts[status] for status in FAILURES if summary.counts.get(status)}
    failed.pop("interrupted", None)
    if sum(failed.values()) > num_new:
        words = ", ".join(f"{count} {status}" for status, count in failed.items())
        retry = " ".join(f"--retry {status}" for status in failed)
        yield f"cells of earlier commands stay without a result ({words}); to try them again: {command} {retry}"


def missing(cells: Iterable[PlannedT], store: RunStore, retry: frozenset[str]) -> Iterator[PlannedT]:
    """Yield the cells that a command would launch."""
    states = store.states()
    for cell in cells:
        state = states.get(cell.cell_id)
        if cell.status == "run" and (state is None or not is_final(state, retry)):
            yield cell


def preflight(plan: Plan, cells: Iterable[Cell], store: RunStore, executor: Executor, out: Console) -> Plan:
    """Import what cells need, say what is broken, and return the plan without it.

    Nothing is imported for no cell, or where an executor of a plugin runs the cells elsewhere.

    Args:
        plan: Of the run.
        cells: Those that are missing.
        store: Of the run; what the libraries are is kept with its environment.
        executor: Where they will run.
        out: Where to say it.
    """
    if plan.config.executor not in ("inline", "local"):
        return plan
    report = check_components(
        plan.entries(cells),
        executor,
        plugin_files=plan.registry.plugin_files,
        device=plan.config.device if plan.config.device.startswith("cuda") else "",
        memory_bytes=memory_limit(plan),
        facts=True,
    )
    if report.libraries:
        about = store.read_run()
        about["environment"]["libraries"] = dict(report.libraries)
        store.write_run(about)
    if report.skipped:
        out.print(Text(f"warning: not every component was checked before the first cell: {report.skipped}", "magenta"))
    broken = {**report.reasons, **({DEVICE: report.device} if report.device else {})}
    if not broken:
        return plan
    checked = plan.without(broken)
    lost = Counter(cell.reason for cell in checked.cells() if cell.status == "unavailable")

    def say(text: str, reason: str) -> None:
        count = sum(number for joined, number in lost.items() if reason in joined)
        out.print(Text(f"unavailable ({counted(count, 'cell')}): {text}", style="magenta"))

    for item in report.broken:
        say(f"{item.subject} {item.problem}", item.reason)
        if item.hint:
            out.print(Text(f"  hint: {item.hint}"))
    if report.device:
        say(report.device, report.device)
    return checked


def show_report(store: RunStore, *, as_json: bool = False) -> None:
    """Write a run's report again and print its tables."""
    if as_json:
        from mmbench.report import build_report, report_json

        sys.stdout.write(json_text(report_json(build_report(store.folder))) + "\n")
        return
    _report(store, console())


def default_name(plan: Plan) -> str:
    """Name a run by its grid, or by its datasets.

    A different selection over the same datasets adds its cells to the same run.
    """
    config = plan.config
    if config.grid and (config.grid != "quick" or list(config.dataset) == QUICK_SELECTION["dataset"]):
        return config.grid
    if not config.dataset:
        return "all"
    names = sorted({_own_name(part) for part in plan.datasets})
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(names))[:80]


def _own_name(part: DatasetPart) -> str:
    """Return what a run calls a dataset: its own short name, or that of its kind."""
    return part.reference.name or part.info.title or str(part.spec.name)


def tracker_references(plan: Plan) -> list[Reference]:
    """Return the trackers that the run is to tell how it goes.

    Raises:
        UsageError: no tracker has that name, or its options do not fit.
        Unavailable: a package that a tracker needs is not installed.
    """
    references = [plan.registry.resolve("tracker", name) for name in dict.fromkeys(plan.config.tracker)]
    for reference in references:
        check_packages(reference.entry)
    return references


def _keep_cards(store: RunStore, plan: Plan) -> None:
    """Write the data cards of what cells read, for the report; a run is no less without them."""
    with suppress(MmbenchError, OSError):
        write_cards(store.folder, plan_cards(plan, cached_only=True))


def _keep_subgroups(store: RunStore, plan: Plan) -> bool:
    """Write the subgroups of test samples that the plan names, for reports; return whether they changed."""
    try:
        return write_subgroups(store.folder, subgroups_of(plan))
    except OSError:
        return False


def _report_or_warn(store: RunStore, out: Console) -> bool:
    """Write and show the report; a warning when that cannot be done, for the cells have their results all the same."""
    try:
        _report(store, out)
    except (MmbenchError, OSError) as error:
        why = str(error) if isinstance(error, MmbenchError) else f"{error.strerror or error}"
        said = f"the report is not written: {why}; `mmbench report {store.name}` writes it another time"
        out.print(Text(said, style="magenta"))
        return False
    return True


def _report(store: RunStore, out: Console) -> None:
    from mmbench.report import build_report, print_report, write_report

    made = build_report(store.folder)
    files = write_report(store.folder, made)
    print_report(store.folder, out, made)
    opens = store.name if store.folder.parent == Path("results") else store.folder
    out.print(Text(f"report: {files[0]}"), soft_wrap=True)
    out.print(Text(f"`mmbench view {opens}` opens it"), soft_wrap=True)


def _settle(store: RunStore, plan: Plan, argv: Sequence[str]) -> None:
    """Write run.json, once it is sure that the run can take the plan's cells."""
    from mmbench.environment import environment

    trains = {part.label: part.train_identity for part in plan.datasets}
    earlier = store.datasets()
    for label, dataset in earlier.items():
        differing = ", ".join(_changed_settings(dataset.get("train", {}), trains.get(label, {})))
        if differing:
            raise UsageError(
                f"the run {store.name!r} trained {label} with other settings ({differing}); such numbers do not belong "
                "in one table. Choose another name with --run"
            )
    for part in plan.datasets:
        before = earlier.get(part.label, {}).get("reference", part.full_reference)
        if before != part.full_reference:
            raise UsageError(
                f"in the run {store.name!r}, {part.label!r} is {before}, and now {part.full_reference}: rows of the "
                f"two do not belong in one table. Choose another run with --run {store.name}-2, or another name with "
                f"[name={part.label}-2]"
            )
    about = store.read_run()
    before = about.get("config", {}).get("sweep") or {}
    if about and before != json.loads(plan.config.model_dump_json())["sweep"]:
        raise UsageError(
            f"the run {store.name!r} was {'tuned by another' if before else 'not tuned by a'} [sweep]; such numbers "
            "do not belong in one table. Choose another name with --run"
        )
    drawn = about.get("config", {}).get("master_seed", plan.config.master_seed)
    if drawn != plan.config.master_seed:
        raise UsageError(
            f"the run {store.name!r} draws its seeds from --master-seed {drawn}; those of {plan.config.master_seed} "
            "would take their place in its table. Choose another name with --run"
        )
    merged = about.get("merged")
    store.write_run(
        {
            **({"merged": merged} if merged else {}),
            "argv": list(argv),
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": json.loads(plan.config.model_dump_json()),
            "environment": {**environment(), **known_libraries(about)},
        }
    )


def _changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield in words which training settings differ; what only one side names had its default on the other."""
    if not before or not now:
        return
    usual = {**TrainConfig.all_defaults(), "metric": "the task's own"}
    for key in dict.fromkeys([*now, *before]):
        old, new = (side.get(key, usual.get(key)) for side in (before, now))
        # A setting that neither side nor this version knows the default of was left out by an earlier version.
        if old != new and (key in usual or (key in before and key in now)):
            yield f"{key} was {old!r} and is now {new!r}"


def known_libraries(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an earlier command found out of the libraries; a command with cells to run finds it out anew."""
    libraries = about.get("environment", {}).get("libraries")
    return {"libraries": libraries} if libraries else {}


def _bound_cache(plan: Plan, out: Console) -> None:
    """Remove from the cache what was not used for longest, where it holds more than `cache_limit`."""
    from mmbench.cache import ArrayCache

    limit = plan.config.cache_limit
    done = ArrayCache(Path(plan.runtime["cache_dir"])).trim(max_bytes=limit)
    if done.removed and limit is not None:
        size = sum(entry.size_bytes for entry in done.removed)
        out.print(
            f"cache: {counted(len(done.removed), 'entry')} removed ({size_text(size)}), the longest unused ones, "
            f"to stay within cache_limit = {size_text(limit)}"
        )


def make_executor(plan: Plan, run_folder: Path) -> Executor:
    """Return where the plan's cells run.

    Raises:
        UsageError: no executor has that name, or its options do not fit.
        Unavailable: a package or a program that it needs is not there.
    """
    config = plan.config
    if config.executor == "inline":
        from mmbench.executors.inline import InlineExecutor

        return InlineExecutor()
    if config.executor == "local":
        from mmbench.executors.local import LocalExecutor

        return LocalExecutor(capacity=plan.jobs, threads=config.threads)
    reference = plan.registry.resolve("executor", config.executor)
    check_packages(reference.entry)
    folder = run_folder / EXECUTORS_FOLDER / reference.entry.spec.name
    folder.mkdir(parents=True, exist_ok=True)
    factory = load_factory(reference.entry)
    made: Executor = factory(folder, jobs=config.jobs, threads=config.threads, **reference.options)
    return made


def make_admission(plan: Plan) -> Admission | None:
    """Return what lets cells of this machine's GPU run beside one another; None where none of them shares one."""
    from mmbench.environment import hardware

    config = plan.config
    if config.executor != "local" or config.device == "cpu" or plan.jobs == 1:
        return None
    # A driver without its tools is enough for torch.
    has_gpu = config.device != "auto" or hardware()["gpus"] or Path("/dev/nvidiactl").exists()
    return Admission() if has_gpu else None


def memory_limit(plan: Plan) -> int | None:
    """Return the host memory that one cell may hold; None leaves it to an executor that reaches other hosts."""
    if plan.config.memory is not None:
        return int(plan.config.memory * 2**30)
    return default_memory_bytes(plan.jobs) if plan.config.executor in ("inline", "local") else None


def nothing_to_run(plan: Plan) -> MmbenchError:
    """Return the error that says why no cell of a selection can run: `Unavailable` where it names what is not here."""
    reasons = Counter(cell.reason for cell in plan.cells())
    if not reasons:
        return EmptySelection("the selection matches no cell; see `mmbench plan` with the same selection")
    lines = [f"  {counted(count, 'cell')}: {reason}" for reason, count in reasons.most_common(5)]
    kind = Unavailable if plan.unavailable_by_name() else EmptySelection
    return kind("no cell of the selection can run:\n" + "\n".join(lines))
