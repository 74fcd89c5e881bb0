"""Commands for authors of plugins: what is loaded and what is wrong with it, check a part, begin a new one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from mmbench.cli_options import Json, Plugin, emit, registry_of

plugins_app = typer.Typer(no_args_is_help=False, help="What is loaded, from where, and what failed.")


class Level(StrEnum):
    """How much `check` checks."""

    api = "api"
    smoke = "smoke"
    full = "full"


@plugins_app.callback()
def plugins(context: typer.Context, plugin: Plugin = None, as_json: Json = False) -> None:
    """Show which plugins are loaded, from where, and which were left out and why."""
    if context.invoked_subcommand:
        return
    from mmbench import views

    registry = registry_of(plugin)
    emit(as_json, lambda: views.plugins_json(registry), lambda: views.print_plugins(registry))


@plugins_app.command()
def doctor(plugin: Plugin = None, as_json: Json = False) -> None:
    """Say what is wrong with the installed plugins and what each needs; exit 4 when one is broken."""
    from mmbench import doctor as clinic
    from mmbench.executors.local import LocalExecutor

    registry = registry_of(plugin)
    with LocalExecutor() as executor:
        findings = clinic.examine(registry, executor)
    emit(as_json, lambda: clinic.findings_json(findings), lambda: clinic.print_findings(findings))
    raise typer.Exit(4 if any(finding.severity == "error" for finding in findings) else 0)


def check(
    target: Annotated[
        str, typer.Argument(help="A reference, an installed distribution, a package's folder or a .py file.")
    ],
    level: Annotated[Level, typer.Option("--level", help="How much to check.")] = Level.smoke,
    gpu: Annotated[bool, typer.Option("--gpu", help="Check on the GPU too.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show what passed as well.")] = False,
    as_json: Json = False,
) -> None:
    """Check that a plugin keeps its promises; exit 4 when it does not."""
    from mmbench.testing.command import run_check

    raise typer.Exit(
        run_check(target, cast(Any, level.value), "cuda" if gpu else "cpu", as_json=as_json, verbose=verbose)
    )


def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="plugin, encoder, fusion, dataset or objective.")],
    name: Annotated[str, typer.Argument(help="Name of the new part, such as my-fusion.")],
    folder: Annotated[Path | None, typer.Option("--into", metavar="DIR", help="Where; the current folder.")] = None,
) -> None:
    """Write a small, complete, installable plugin package."""
    from mmbench.scaffold import new as scaffold

    for file in scaffold(kind, name, folder or Path.cwd()):
        typer.echo(str(file))
