"""The command line: each command imports what it needs inside its function, so that all answer at once.

Here are commands that select cells; `cli_runs`, `cli_machine` and `cli_authors` have the others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from mmbench import cli_authors, cli_machine, cli_runs
from mmbench.cli_arguments import list_name, resolve_aliases
from mmbench.cli_errors import usage_message
from mmbench.cli_options import (
    BatchSize,
    Cache,
    Config,
    CudaGraphs,
    Dataset,
    Datasets,
    Device,
    Encoder,
    Epochs,
    Exclude,
    Fusion,
    Grid,
    Jobs,
    Json,
    Limit,
    Lr,
    MasterSeed,
    MaxCells,
    Metric,
    ModalityName,
    NoBaselines,
    Objective,
    Plugin,
    Precision,
    Race,
    Results,
    Run,
    Seeds,
    Set,
    Together,
    defer_checks,
    emit,
    flags_of,
    measuring,
    registry_of,
    running,
)
from mmbench.errors import MmbenchError, UsageError

#: Commands that do more than print: they continue if standard output cannot be written.
_COMMANDS_WITH_EFFECTS = frozenset(
    {"run", "profile", "prepare", "report", "merge", "ensemble", "clean", "check", "new"}
)

app = typer.Typer(
    name="mmbench",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, evaluate and profile every combination of encoder, fusion and dataset; say which are worth it.",
)
app.add_typer(cli_authors.plugins_app, name="plugins", invoke_without_command=True)


#: What `list` can list.
LISTS = ("encoders", "fusions", "datasets", "objectives", "trackers", "executors")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mmbench {version('mmbench')}")
        raise typer.Exit


@app.callback()
def global_options(
    version: Annotated[
        bool, typer.Option("-V", "--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train, evaluate and profile every combination of encoder, fusion and dataset; say which are worth it."""


@app.command("list")
def list_command(
    role: Annotated[
        str | None,
        typer.Argument(metavar=f"[{'|'.join(LISTS)}]", help="One kind of component; all by default."),
    ] = None,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """List the installed encoders, fusions, datasets, objectives, trackers and executors."""
    from mmbench import views

    chosen = [list_name(role, LISTS)] if role else list(LISTS)
    registry = registry_of(plugin)
    emit(as_json, lambda: views.parts_json(registry, chosen), lambda: views.print_parts(registry, chosen))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A part, by name or dist/name, or data as in -d.")],
    plugin: Plugin = None,
    as_json: Json = False,
    croissant: Annotated[
        bool, typer.Option("--croissant", help="Print a dataset's Croissant metadata (JSON-LD).")
    ] = False,
) -> None:
    """Show everything that is known of one part, and the data card of a dataset: splits, classes, sizes, warnings."""
    from mmbench.show_session import print_part, show_json

    registry = registry_of(plugin)
    emit(
        as_json or croissant,
        lambda: show_json(registry, name, as_croissant=croissant),
        lambda: print_part(registry, name),
    )


@app.command()
def plan(
    datasets: Datasets = None,
    grid: Grid = None,
    dataset: Dataset = None,
    encoder: Encoder = None,
    fusion: Fusion = None,
    objective: Objective = None,
    modality: ModalityName = None,
    exclude: Exclude = None,
    metric: Metric = None,
    seeds: Seeds = None,
    master_seed: MasterSeed = None,
    max_cells: MaxCells = None,
    no_baselines: NoBaselines = False,
    race: Race = None,
    config: Config = None,
    set_: Set = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    precision: Precision = None,
    limit: Limit = None,
    jobs: Jobs = None,
    together: Together = None,
    plugin: Plugin = None,
    rows: Annotated[int, typer.Option("--rows", help="Cells to print; 0 prints all.")] = 40,
    as_json: Json = False,
) -> None:
    """Show every cell of a selection with its status and reasons, and run nothing."""
    made = _plan(flags_of(locals()), config)
    _show_plan(made, rows, as_json=as_json)


@app.command()
def prepare(
    datasets: Datasets = None,
    grid: Grid = None,
    dataset: Dataset = None,
    encoder: Encoder = None,
    fusion: Fusion = None,
    objective: Objective = None,
    modality: ModalityName = None,
    exclude: Exclude = None,
    metric: Metric = None,
    seeds: Seeds = None,
    master_seed: MasterSeed = None,
    max_cells: MaxCells = None,
    no_baselines: NoBaselines = False,
    config: Config = None,
    set_: Set = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    precision: Precision = None,
    limit: Limit = None,
    jobs: Jobs = None,
    plugin: Plugin = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only verify what is here, byte by byte; exit 1 when something is amiss.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be fetched.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    mirror: Annotated[
        str, typer.Option("--mirror", metavar="URL", help="Fetch files from this server; $HF_ENDPOINT is the hub's.")
    ] = "",
    source: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="Take files from this folder, by name or by hash.")
    ] = None,
    patience: Annotated[
        str, typer.Option("--patience", metavar="30s", help="How long a server may be silent before another attempt.")
    ] = "30s",
    as_json: Json = False,
) -> None:
    """Fetch the weights and data that a selection needs; everything else works without a network."""
    flags = flags_of(locals())
    from mmbench.config import data_dir, load_config, parse_seconds
    from mmbench.download import Patience
    from mmbench.executors import OFFLINE
    from mmbench.prepare import Sources, run_prepare

    if check or source is not None:
        os.environ.update(OFFLINE)
    if source is not None and not source.is_dir():
        raise UsageError(f"--from {source}: there is no such folder")
    if source is not None and mirror:
        raise UsageError("--from and --mirror exclude each other")
    if mirror and not mirror.startswith(("https://", "http://")):
        raise UsageError(f"--mirror {mirror}: write an address such as https://mirror.example.org/mmbench")
    try:
        timeout_s = float(parse_seconds(patience))
    except ValueError as error:
        raise UsageError(f"--patience: {error}") from None
    loaded = load_config(flags, config_file=config)
    sources = Sources(mirror=mirror, folder=source, patience=Patience(timeout_s=timeout_s))
    registry = registry_of([Path(file) for file in loaded.plugin])
    raise typer.Exit(
        run_prepare(
            loaded, registry, data_dir(), sources=sources, check=check, dry_run=dry_run, yes=yes, as_json=as_json
        )
    )


@app.command()
def run(
    datasets: Datasets = None,
    grid: Grid = None,
    dataset: Dataset = None,
    encoder: Encoder = None,
    fusion: Fusion = None,
    objective: Objective = None,
    modality: ModalityName = None,
    exclude: Exclude = None,
    metric: Metric = None,
    seeds: Seeds = None,
    master_seed: MasterSeed = None,
    max_cells: MaxCells = None,
    no_baselines: NoBaselines = False,
    race: Race = None,
    config: Config = None,
    set_: Set = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    precision: Precision = None,
    limit: Limit = None,
    run: Run = None,
    results: Results = None,
    jobs: Jobs = None,
    threads: Annotated[int | None, running("--threads", help="CPU threads of each cell; 1 by default.")] = None,
    device: Device = None,
    cuda_graphs: CudaGraphs = None,
    isolate: Annotated[
        str | None,
        running(
            "--isolate",
            metavar="process|none",
            help="process by default; none runs cells in this process, for debuggers.",
        ),
    ] = None,
    executor: Annotated[
        str | None,
        running(
            "--executor",
            metavar="NAME",
            help="Where cells run: local, the default, or one of `mmbench list executors`.",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        running(
            "--protocol",
            metavar="none|quick|standard|rigorous",
            help="How long to measure speed and memory; quick by default.",
        ),
    ] = None,
    diagnostics: Annotated[
        str | None,
        running(
            "--diagnostics",
            metavar="none|quick|full",
            help="Modality analysis; quick by default. full adds every test sample and disturbed inputs.",
        ),
    ] = None,
    no_feature_cache: Annotated[
        bool, running("--no-feature-cache", help="Run frozen encoders in every cell instead of once for all.")
    ] = False,
    together: Together = None,
    keep_train: Annotated[
        bool | None,
        running("--keep-train", help="Keep predictions of the training split too: what a cell is distilled from."),
    ] = None,
    timeout: Annotated[
        str | None, running("--timeout", metavar="TIME", help="Limit for one cell; 30m by default.")
    ] = None,
    memory: Annotated[float | None, running("--memory", metavar="GIB", help="Limit for one cell.")] = None,
    max_failures: Annotated[
        str | None,
        running("--max-failures", metavar="N|10%", help="Stop after so many failed cells; never by default."),
    ] = None,
    budget: Annotated[
        str | None,
        running("--budget", metavar="2h", help="Start no cell after this long."),
    ] = None,
    retry: Annotated[
        list[str] | None,
        running("--retry", metavar="STATUS", help="Run finished cells of this status again, such as failed."),
    ] = None,
    tracker: Annotated[
        list[str] | None,
        running("--tracker", metavar="NAME", help="Log to tensorboard, mlflow, wandb or a webhook. Repeatable."),
    ] = None,
    cache: Cache = None,
    cache_limit: Annotated[
        str | None,
        running(
            "--cache-limit",
            metavar="50GiB|none",
            help="How much of it may be left when the run ends; 50GiB by default.",
        ),
    ] = None,
    plugin: Plugin = None,
    strict_plugins: Annotated[bool, running("--strict-plugins", help="Exit 4 when any plugin failed to load.")] = False,
    dry_run: Annotated[bool, running("--dry-run", help="Plan only.")] = False,
    as_json: Json = False,
) -> None:
    """Run every cell of a selection; the same command again runs only what is missing."""
    flags = flags_of(locals())
    made = _plan(flags, config, strict_plugins=strict_plugins)
    if dry_run:
        _show_plan(made, 40, as_json=as_json)
        return
    from mmbench.session import run_plan

    raise typer.Exit(run_plan(made, argv=sys.argv[1:], as_json=as_json))


@app.command()
def profile(
    datasets: Datasets = None,
    grid: Grid = None,
    dataset: Dataset = None,
    encoder: Encoder = None,
    fusion: Fusion = None,
    objective: Objective = None,
    modality: ModalityName = None,
    exclude: Exclude = None,
    max_cells: MaxCells = None,
    no_baselines: NoBaselines = False,
    config: Config = None,
    set_: Set = None,
    batch_size: BatchSize = None,
    limit: Limit = None,
    run: Run = None,
    results: Results = None,
    threads: Annotated[int | None, running("--threads", help="CPU threads of the measured process.")] = None,
    device: Device = None,
    protocol: Annotated[
        str, measuring("--protocol", metavar="quick|standard|rigorous", help="How carefully to measure.")
    ] = "standard",
    rounds: Annotated[
        int | None,
        measuring(
            "--rounds",
            min=1,
            help="Processes for each, in turn (A B A B), so that drift meets all; quick 1, standard 3, rigorous 5.",
        ),
    ] = None,
    batch_sizes: Annotated[
        str, measuring("--batch-sizes", metavar="sweep|none|1,8,64", help="sweep: 1, 2, 4, … while it fits.")
    ] = "sweep",
    memory_limit: Annotated[
        str | None, measuring("--memory-limit", metavar="4GiB", help="Of the sweep; half of what is free by default.")
    ] = None,
    precision: Annotated[
        str, measuring("--precision", metavar="fp32,tf32,bf16,fp16,int8", help="Number formats, each a row.")
    ] = "fp32",
    compile_: Annotated[
        str, measuring("--compile", metavar="none,default,reduce-overhead", help="torch.compile modes, each a row.")
    ] = "none",
    memory_format: Annotated[
        str, measuring("--memory-format", metavar="contiguous,channels_last", help="Layouts of images, each a row.")
    ] = "contiguous",
    isolate: Annotated[
        str | None, running("--isolate", metavar="process|none", help="none measures in this process, for debuggers.")
    ] = None,
    timeout: Annotated[str | None, running("--timeout", metavar="30m", help="Limit for one profile.")] = None,
    memory: Annotated[float | None, running("--memory", metavar="GIB", help="Limit for one profile.")] = None,
    retry: Annotated[
        list[str] | None, running("--retry", metavar="STATUS", help="Measure again what has this status. Repeatable.")
    ] = None,
    cache: Cache = None,
    plugin: Plugin = None,
    as_json: Json = False,
) -> None:
    """Measure what a selection costs, without training it: speed, memory, stages, batch sizes, number formats."""
    from mmbench.config import parse_bytes
    from mmbench.profile_plan import ROUNDS, ProfileOptions, read_batch_sizes
    from mmbench.variant import variants

    try:
        limit_bytes = None if memory_limit is None else parse_bytes(memory_limit)
    except ValueError as error:
        raise UsageError(f"--memory-limit: {error}") from None
    options = ProfileOptions(
        variants=variants(precision.split(","), compile_.split(","), memory_format.split(",")),
        batch_sizes=read_batch_sizes(batch_sizes),
        memory_limit_bytes=limit_bytes,
    )
    if protocol == "none":
        raise UsageError("--protocol none measures nothing; there is quick, standard and rigorous")
    # `--precision` here says how models are run; how they would be trained is none of it.
    flags = flags_of({**locals(), "precision": None, "seeds": str(rounds or ROUNDS.get(protocol, 1)), "jobs": 1})
    made = _plan(flags, config)
    from mmbench.profile_session import profile_plan

    raise typer.Exit(profile_plan(made, options, argv=sys.argv[1:], as_json=as_json))


for command in (
    cli_runs.status,
    cli_runs.runs,
    cli_runs.view,
    cli_runs.export,
    cli_runs.compare,
    cli_runs.ensemble,
    cli_runs.merge,
    cli_runs.report,
    cli_authors.check,
    cli_authors.new,
    cli_machine.env,
    cli_machine.clean,
):
    app.command()(command)


def main(name: str = "mmbench") -> None:
    """Run the command line; a person's mistake becomes one sentence and its exit code.

    Args:
        name: How the command is typed, for `--help`.
    """
    from mmbench.encoding import printable, use_safe_streams
    from mmbench.executors import OFFLINE
    from mmbench.standard_streams import robust_streams

    if sys.argv[1:2] != ["prepare"]:
        os.environ.update(OFFLINE)
    defer_checks()
    try:
        argv = resolve_aliases(sys.argv[1:])
        with robust_streams(continue_on_error=bool(_COMMANDS_WITH_EFFECTS.intersection(argv[:1]))):
            use_safe_streams()
            with _one_command(argv[:1]):
                code = app(args=argv, prog_name=name, standalone_mode=False)
    except BrokenPipeError:
        raise SystemExit(1) from None
    except MmbenchError as error:
        sys.stderr.write(printable(f"error: {error}\n"))
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stdout.write(str(error.ctx.get_help()) + "\n")  # type: ignore[attr-defined]
            raise SystemExit(2) from None
        if type(error).__name__ == "Abort":
            sys.stderr.write("aborted: nothing was changed\n")
            raise SystemExit(1) from None
        text = usage_message(error, sys.argv[1:])
        if not text:
            raise
        sys.stderr.write(printable(f"error: {text}\n"))
        raise SystemExit(2) from None
    raise SystemExit(code if isinstance(code, int) else 0)


@contextmanager
def _one_command(names: Sequence[str]) -> Iterator[None]:
    """Let typer build the parameters of the named command alone; of all commands where the name is unknown."""
    everything = app.registered_commands
    chosen = [item for item in everything if item.name in names or item.callback.__name__ in names]  # type: ignore[union-attr]
    app.registered_commands = chosen or everything
    try:
        yield
    finally:
        app.registered_commands = everything


def _plan(flags: dict[str, Any], config_file: Path | None, *, strict_plugins: bool = False) -> Any:
    from mmbench.config import cache_dir, data_dir, load_config
    from mmbench.environment import usable_cpus
    from mmbench.plan import local_runtime, make_plan

    config = load_config(flags, config_file=config_file)
    registry = registry_of([Path(file) for file in config.plugin], strict=strict_plugins)
    jobs = config.jobs or max(1, usable_cpus() // config.threads)
    runtime = local_runtime(config, cache=cache_dir(config), data=data_dir(), jobs=jobs)
    made = make_plan(config, registry, runtime=runtime)
    from mmbench.encoding import printable

    for note in made.notes:
        sys.stderr.write(printable(f"note: {note}\n"))
    return made


def _show_plan(made: Any, rows: int, *, as_json: bool) -> None:
    from mmbench import views

    if as_json:
        views.write_plan_json(made, sys.stdout)
    else:
        views.print_plan(made, rows)


if __name__ == "__main__":
    main()
