"""Commands about runs that are there: how far they are, what they found, compared, joined."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mmbench.cli_options import Json, Results, RunName, emit
from mmbench.errors import UsageError


def status(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="Name of a run, or its folder; without one, all runs.", show_default=False
        ),
    ] = None,
    results: Results = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the run live until it ends, from any machine that sees its files.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the progress of a run: cells by status, failures with their reasons. Without RUN, list all runs."""
    if run is None:
        if watch:
            raise UsageError("--watch needs the name of a run; `mmbench runs` lists them")
        runs(results, as_json=as_json)
        return
    store = store_of(run, results)
    if watch:
        from mmbench.status_session import watch as look_on

        raise typer.Exit(look_on(store, as_json=as_json))
    from mmbench import views

    emit(as_json, lambda: views.status_json(store), lambda: views.print_status(store))


def export(
    run: RunName,
    results: Results = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="csv|json|jsonl|parquet|xlsx|html|md|tex|pytest-benchmark",
            help="By the suffix of FILE where that says it, else csv.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Standard output where none is given.", show_default=False),
    ] = None,
) -> None:
    """Write one row per number: run, cell, combo, status, phase, split, condition, task, metric, value, unit.

    With html, md or tex it is the report: the page, or its tables.
    """
    from mmbench.report.export import export_run, format_of

    chosen = format_of(output, format_)
    export_run(store_of(run, results), chosen, output)


def runs(results: Results = None, as_json: Json = False) -> None:
    """List the runs of a folder: cells done, state, last command, datasets."""
    from mmbench import run_list

    folder = Path(results or "results").expanduser()
    emit(as_json, lambda: run_list.summaries_json(folder), lambda: run_list.print_runs(folder))


def view(
    run: RunName,
    results: Results = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=0,
            max=65535,
            help="Serve it on this port, to this machine alone; 0 takes a free one.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Open the report of a run in a browser, or serve it at http://127.0.0.1:PORT."""
    from mmbench.report_viewer import open_in_browser, report_file, serve

    file = report_file(store_of(run, results).folder)
    if port is not None:
        raise typer.Exit(serve(file.parent, file.name, port))
    typer.echo(str(file))
    if not open_in_browser(file):
        typer.echo(f"no browser here: open that file, or `mmbench view {run} --port 8000` and the address it prints")


def compare(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help="The run to compare with, by name or folder.")],
    second: Annotated[
        str | None, typer.Argument(metavar="[RUN_B]", help="The run that may have changed.", show_default=False)
    ] = None,
    results: Results = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Instead of RUN_B: a published run. Its report's per-sample scores are enough; its rows and those of "
            "RUN_A are ranked, grouped and tested together.",
        ),
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", metavar="'throughput<-5%'", help="Exit 5 when a change goes beyond. Repeatable."),
    ] = None,
    any_: Annotated[
        bool, typer.Option("--any", help="Fail on changes that are not statistically significant, too.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Compare although the data differ.")] = False,
    as_json: Json = False,
) -> None:
    """Compare two runs: scores on the same test samples, costs by their raw timings; exit 5 when a limit is crossed."""
    if (second is None) == (against is None):
        raise UsageError("name one other run: `mmbench compare RUN_A RUN_B`, or `mmbench compare RUN_A --against RUN`")
    if against is not None:
        from mmbench.compare_session import compare_published

        if fail_if or any_ or force:
            raise UsageError("--against takes none of --fail-if, --any and --force; they are for two runs of your own")
        compare_published(store_of(first, results), store_of(against, results), as_json=as_json)
        return
    assert second is not None
    from mmbench.compare_session import compare as compare_stores

    stores = store_of(first, results), store_of(second, results)
    raise typer.Exit(compare_stores(*stores, fail_if=fail_if or (), force=force, include_chance=any_, as_json=as_json))


def ensemble(run: RunName, results: Results = None, as_json: Json = False) -> None:
    """Join kept predictions without training again: a combo's seeds, and cells chosen on val; tested in pairs."""
    from mmbench.ensemble_session import ensemble as show_ensembles
    from mmbench.store import RunStore

    folder = _run_folder(run, results)
    RunStore.open(folder).close()
    show_ensembles(folder, as_json=as_json)


def merge(
    runs: Annotated[list[str], typer.Argument(metavar="RUN_A RUN_B …", help="Runs to join, by name or folder.")],
    into: Annotated[str, typer.Option("--into", metavar="NAME", help="Name of the new run.")],
    results: Results = None,
    force: Annotated[
        bool, typer.Option("--force", help="Keep datasets apart that are not the same in all runs, and merge the rest.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Join runs, from several machines or of several selections, into a new one."""
    from mmbench import views
    from mmbench.merge import merge_runs

    folders = [_run_folder(run, results) for run in runs]
    made = merge_runs(folders, _run_folder(into, results), argv=sys.argv[1:], force=force)
    emit(as_json, made.to_json, lambda: views.print_merged(made))


def report(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Name of a run, or its folder.")] = None,
    index: Annotated[
        bool, typer.Option("--index", help="Write README.md beside all runs instead: the leaderboard over them.")
    ] = False,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Rebuild the report of a run and print its tables."""
    if index == (run is not None):
        raise UsageError("name a run: mmbench report RUN; or list all runs: mmbench report --index")
    if run is None:
        from mmbench.report.index import write_index

        file = write_index(Path(results or "results").expanduser())
        emit(as_json, lambda: {"index": str(file)}, lambda: typer.echo(str(file)))
        return
    store = store_of(run, results)
    if store.read_run().get("kind") == "profile":
        from mmbench.profile_session import show_costs

        show_costs(store, as_json=as_json)
        return
    from mmbench.session import show_report

    show_report(store, as_json=as_json)


def store_of(run: str, results: str | None = None) -> Any:
    """Return the store of a run that `--results` or the current folder has."""
    from mmbench.store import RunStore

    return RunStore.open(_run_folder(run, results))


def _run_folder(run: str, results: str | None) -> Path:
    return Path(run) if "/" in run or os.sep in run else Path(results or "results").expanduser() / run
