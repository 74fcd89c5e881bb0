"""Commands about this machine: its hardware and versions, and what mmbench may remove from its disk."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mmbench.cli_arguments import split_list
from mmbench.cli_options import Json, Results, emit
from mmbench.cli_runs import store_of
from mmbench.errors import UsageError


def env(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="What a run ran on; this machine by default.")
    ] = None,
    freeze: Annotated[
        bool, typer.Option("--freeze", help="Print a constraints file for pip that gives the same distributions again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show hardware and versions, as they are kept with every run."""
    from mmbench import views
    from mmbench.environment import constraints, environment, libraries

    if run is None:
        found = {**environment(), "libraries": libraries()}
    else:
        found = store_of(run).read_run().get("environment") or {}
        if not found:
            raise UsageError(f"the run {run!r} does not say what it ran on")
    if freeze:
        sys.stdout.write("\n".join(constraints(found)) + "\n")
        return
    emit(as_json, lambda: found, lambda: views.print_environment(found))


def clean(
    cache: Annotated[bool, typer.Option("--cache", help="What cells share: transformed data, features.")] = False,
    runs: Annotated[
        list[str] | None,
        typer.Option(
            "--runs", metavar="NAME", help="A run with all its results, or a glob such as 'try-*'. Repeatable."
        ),
    ] = None,
    results: Results = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="30d", help="Only what was not used for so long.")
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="10GiB", help="Only until no more is left; the longest unused goes first."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what is there and what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Delete cached data, which is rebuilt when needed, or runs; what a running command uses stays."""
    if not (cache or runs):
        raise UsageError("say what to remove: `mmbench clean --cache`, or `mmbench clean --runs NAME`")
    if runs:
        if cache or older_than or max_size:
            raise UsageError("--runs takes none of --cache, --older-than and --max-size; call clean twice")
        _clean_runs(Path(results or "results").expanduser(), runs, dry_run=dry_run, yes=yes, as_json=as_json)
        return
    from mmbench import views
    from mmbench.cache import ArrayCache
    from mmbench.config import cache_dir, parse_bytes, parse_seconds

    try:
        older_than_s = None if older_than is None else float(parse_seconds(older_than))
        max_bytes = None if max_size is None else parse_bytes(max_size)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if older_than is None and max_size is None:
        max_bytes = 0
    folder = cache_dir()
    store = ArrayCache(folder)
    if not (yes or dry_run):
        size = sum(
            item.size_bytes for item in store.trim(max_bytes=max_bytes, older_than_s=older_than_s, dry_run=True).removed
        )
        if size:
            typer.confirm(f"Remove {views.size_text(size)} under {folder}?", abort=True, err=as_json)
    done = store.trim(max_bytes=max_bytes, older_than_s=older_than_s, dry_run=dry_run)
    emit(
        as_json,
        lambda: views.cache_json(folder, done, dry_run=dry_run),
        lambda: views.print_cache(folder, done, dry_run=dry_run),
    )


def _clean_runs(results: Path, patterns: Sequence[str], *, dry_run: bool, yes: bool, as_json: bool) -> None:
    from mmbench import run_list

    folders = run_list.runs_to_remove(results, split_list(patterns))
    words = run_list.removal_words(folders)
    if not (yes or dry_run):
        typer.confirm(f"Remove {words}, with all results?", abort=True, err=as_json)
    if not dry_run:
        run_list.remove_runs(folders)
    data = {"dry_run": dry_run, "runs": [str(folder) for folder in folders]}
    emit(as_json, lambda: data, lambda: typer.echo(f"{'would remove' if dry_run else 'removed'} {words}"))
