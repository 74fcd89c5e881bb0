"""One call of `mmbench profile`: measure what is missing, alone on the device, then show and write what it cost."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.text import Text

from mmbench.device_lock import alone_on
from mmbench.encoding import json_text
from mmbench.environment import environment
from mmbench.errors import UsageError
from mmbench.heartbeat import Heartbeat
from mmbench.plan import Plan
from mmbench.profile_plan import HOW, ProfileCell, ProfileOptions, profile_cells, setup_of
from mmbench.progress import Progress
from mmbench.report.costs import costs_json, costs_of, print_costs, write_costs
from mmbench.report.text import counted, duration
from mmbench.runner import run
from mmbench.session import (
    default_name,
    foreign_write_warnings,
    known_libraries,
    make_executor,
    memory_limit,
    missing,
    nothing_to_run,
    preflight,
)
from mmbench.standing import Standing
from mmbench.store import RunStore, check_run_name
from mmbench.views import console

PROFILE_FUNCTION = "mmbench.profile_cell:profile_cell"


def profile_plan(plan: Plan, options: ProfileOptions, *, argv: Sequence[str], as_json: bool = False) -> int:
    """Measure a plan's combos that have no figures yet, write the cost report, and return the exit code.

    Raises:
        EmptySelection, Unavailable: nothing of the selection can be measured.
        UsageError: the run exists and is no profile or one of another protocol, device or number of threads, or
            another process writes it.
    """
    config = plan.config
    cells = list(profile_cells(plan, options))
    if not any(cell.status == "run" for cell in cells):
        raise nothing_to_run(plan)
    name = config.run or f"profile-{default_name(plan)}"
    check_run_name(name)
    out = console(stderr=as_json)
    folder = Path(config.results).expanduser() / name
    with RunStore.create(folder) as store, make_executor(plan, folder) as executor:
        _settle(store, plan, cells, argv)
        try:
            due = (item.cell for item in missing(cells, store, frozenset(config.retry)))
            checked = preflight(plan, due, store, executor, out)
        except KeyboardInterrupt:
            out.print(Text("interrupted before the first profile", style="magenta"))
            return 128 + signal.SIGINT
        if checked is not plan:
            plan, cells = checked, list(profile_cells(checked, options))
            _settle(store, plan, cells, argv)
        states = store.states()
        standing = Standing(retry=frozenset(config.retry))
        for cell in cells:
            standing.expect(cell.row(), states.get(cell.cell_id))
        out.print(f"run {store.name}: {counted(len(cells), 'profile')}, {standing.num_left} to measure, one at a time")
        began = time.monotonic()

        def on_wait(holder: str) -> None:
            out.print(Text(f"waiting: {holder}", style="magenta"))

        with (
            Heartbeat(store, standing, measured=False) as heart,  # what is measured is not to be disturbed
            alone_on(devices_of(config.device), on_wait=on_wait),
            Progress(out, standing, heart) as progress,
        ):
            summary = run(
                cells,
                store,
                executor,
                retry=frozenset(config.retry),
                function=PROFILE_FUNCTION,
                timeout_s=config.timeout,
                memory_bytes=memory_limit(plan),
                max_failures=config.max_failures,
                budget_s=config.budget,
                on_event=progress.on_event,
            )
        _keep_peaks(store)
        show_costs(store, as_json=as_json)
        for line in foreign_write_warnings(store):
            out.print(Text(line, style="magenta"))
        out.print(f"{counted(summary.num_launched, 'profile')} in {duration(time.monotonic() - began)}")
    return summary.exit_code or int(bool(plan.broken or plan.unavailable_by_name()))


def devices_of(device: str) -> tuple[str, ...]:
    """Return the devices that `--device` can mean here; a process that measures on a GPU also needs a quiet CPU.

    >>> devices_of("cpu"), devices_of("cuda"), devices_of("cuda:1")
    (('cpu',), ('cpu', 'cuda:0'), ('cpu', 'cuda:1'))
    """
    if device == "auto":
        from mmbench.environment import hardware

        device = "cuda" if hardware()["gpus"] else "cpu"
    if device == "cpu":
        return ("cpu",)
    return ("cpu", "cuda:0" if device == "cuda" else device)


def show_costs(store: RunStore, *, as_json: bool = False) -> None:
    """Write the cost report of a run of profiles and print it."""
    out = console(stderr=as_json)
    costs = costs_of(store)
    files = write_costs(store.folder, costs)
    if as_json:
        sys.stdout.write(json_text(costs_json(store, costs)) + "\n")
    else:
        print_costs(costs, out)
    out.print(f"report: {' '.join(str(file) for file in files)}")


def _settle(store: RunStore, plan: Plan, cells: Sequence[ProfileCell], argv: Sequence[str]) -> None:
    """Write run.json and plan.json, keeping profiles of earlier commands that added to the same run."""
    about = store.read_run()
    if about and about.get("kind") != "profile":
        raise UsageError(f"the run {store.name!r} holds trained cells; choose another name for the profiles with --run")
    config = json.loads(plan.config.model_dump_json())
    for option in HOW:
        before = about.get("config", {}).get(option, config[option])
        if before != config[option]:
            raise UsageError(
                f"the run {store.name!r} was measured with --{option} {before}, and this is --{option} "
                f"{config[option]}; such figures do not belong in one table. Choose another name with --run"
            )
    rows = [cell.row() for cell in cells]
    planned = {row["cell_id"] for row in rows}
    measured = {setup_of(row): row["measured"] for row in rows}
    kept = [
        row
        for row in store.planned()
        # A setup of another version of a part, or of other settings, makes way: it is no other round of the same.
        if row["cell_id"] not in planned and measured.get(setup_of(row), row.get("measured")) == row.get("measured")
    ]
    store.write_plan([*kept, *rows], {**store.datasets(), **plan.datasets_json()})
    store.write_run(
        {
            "kind": "profile",
            **({"merged": about["merged"]} if about.get("merged") else {}),
            "argv": list(argv),
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": config,
            "environment": {**environment(), **known_libraries(about)},
        }
    )


def _keep_peaks(store: RunStore) -> None:
    """Write what the device reaches at most beside the rest of the environment."""
    about = store.read_run()
    peaks = {
        f"{peak['precision']}, {peak['threads']} threads": peak
        for record in store.records().values()
        if (peak := record.info.get("device_peak"))
    }
    about["environment"]["device_peaks"] = peaks
    store.write_run(about)
