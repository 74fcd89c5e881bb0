"""Options that several commands share, and what they come to: a run's configuration, what is installed, JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from mmbench.cli_arguments import split_list, with_brackets
from mmbench.encoding import json_text, printable
from mmbench.errors import PluginError, UsageError

selection = partial(typer.Option, rich_help_panel="Selection")
training = partial(typer.Option, rich_help_panel="Training")
running = partial(typer.Option, rich_help_panel="Running")
measuring = partial(typer.Option, rich_help_panel="Measuring")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Plugin = Annotated[
    list[Path] | None, typer.Option("--plugin", metavar="FILE", help="Load a local file as a plugin. Repeatable.")
]
Grid = Annotated[
    str | None,
    selection(
        "--grid",
        metavar="quick|all|smoke|race|NAME",
        help="A first comparison in a minute, everything, a test that all runs, a race on val scores, or a named grid.",
    ),
]
Dataset = Annotated[
    list[str] | None,
    selection(
        "-d",
        "--dataset",
        metavar="DATASET",
        help="For example digits, 'red*', 'data.csv\\[label=y]' or data.csv:label=y.",
    ),
]
Datasets = Annotated[
    list[str] | None,
    typer.Argument(metavar="DATASET", help="Datasets, as with -d.", show_default=False),
]
Encoder = Annotated[
    list[str] | None,
    selection(
        "-e",
        "--encoder",
        metavar="[MODALITY=]ENCODER",
        help="For example 'image=cnn\\[width=32]', or image=cnn:width=32.",
    ),
]
Fusion = Annotated[list[str] | None, selection("-f", "--fusion", metavar="FUSION", help="Name or glob.")]
Objective = Annotated[
    list[str] | None,
    selection("-o", "--objective", metavar="OBJECTIVE", help="Name or glob; supervised by default."),
]
ModalityName = Annotated[
    list[str] | None,
    selection("-m", "--modality", metavar="NAME", help="Use these modalities only."),
]
Exclude = Annotated[
    list[str] | None,
    selection("--exclude", metavar="NAME", help="Leave out a dataset, a fusion, an objective or MODALITY=ENCODER."),
]
Metric = Annotated[
    list[str] | None,
    selection(
        "--metric",
        metavar="[TASK=]METRIC",
        help="What ranks the rows and chooses the epoch, such as balanced_accuracy. Repeatable.",
    ),
]
Seeds = Annotated[
    str | None,
    selection("--seeds", metavar="3|0,1,2", help="How many repeats, or which; 1 by default. `3,` is repeat 3 alone."),
]
MasterSeed = Annotated[int | None, selection("--master-seed", help="Changes every seed; 0 by default.")]
MaxCells = Annotated[int | None, selection("--max-cells", help="Stop planning after N cells.")]
NoBaselines = Annotated[
    bool,
    selection("--no-baselines", help="Plan no unimodal rows and no majority floor."),
]
Config = Annotated[
    Path | None,
    selection("-c", "--config", metavar="FILE", help="TOML run file with the same keys."),
]
Set = Annotated[
    list[str] | None,
    training("--set", metavar="KEY=VALUE", help="Any training setting, such as class_weights=balanced."),
]
Race = Annotated[
    list[str] | None,
    selection("--race", metavar="KEY=VALUE", help="Race the combos: eta=3, min_epochs=1, finalists=3. Repeatable."),
]
Epochs = Annotated[
    int | None, training("--epochs", help="Passes over train at most; 10, or what the dataset suggests.")
]
BatchSize = Annotated[int | None, training("--batch-size", help="Samples in a training step; 64 by default.")]
Lr = Annotated[float | None, training("--lr", help="Peak learning rate; 0.002 by default.")]
Precision = Annotated[
    str | None, training("--precision", metavar="fp32|bf16", help="Number format of training; fp32 by default.")
]
Limit = Annotated[
    int | None, training("--limit", metavar="N", help="Use at most N samples of each split; all by default.")
]
Jobs = Annotated[int | None, running("-j", "--jobs", help="Cells at a time; 0, the default, is one per core.")]
Device = Annotated[
    str | None, running("--device", metavar="auto|cpu|cuda", help="auto, the default, takes a GPU where there is one.")
]
CudaGraphs = Annotated[
    str | None,
    running(
        "--cuda-graphs",
        metavar="auto|never",
        help="Whether a GPU may repeat a training step that was captured; auto by default.",
    ),
]
Together = Annotated[
    str | None,
    running(
        "--together",
        metavar="never|auto",
        help="auto trains all seeds of a combo in one pass where that is possible; never by default.",
    ),
]
Cache = Annotated[
    str | None,
    running(
        "--cache",
        metavar="DIR",
        help="Where transformed data are kept; $MMBENCH_CACHE or the user's cache folder by default.",
    ),
]
Run = Annotated[
    str | None,
    running("--run", metavar="NAME", help="Name of the run; the same name continues it."),
]
Results = Annotated[str | None, running("--results", metavar="DIR", help="Folder of all runs; results by default.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, or its folder.")]

_NOT_CONFIG = ("config", "set_", "dry_run", "as_json", "rows", "strict_plugins", "isolate", "no_baselines", "race")
#: Options whose values may be joined by commas.
_LISTS = ("dataset", "encoder", "fusion", "objective", "modality", "exclude", "retry", "tracker")
_TRAIN_FLAGS = ("epochs", "batch_size", "lr", "precision", "limit")


def defer_checks() -> None:
    """Let typer check only what was given on the command line.

    From 0.27 on it loads pydantic for every option, also one that was left out: a quarter of the time of
    `mmbench list`. Other versions of typer are left as they are.
    """
    parameter = getattr(typer.core, "_TyperParameter", None)
    check_of: Any = getattr(parameter, "get_runtime_param", None)
    if parameter is None or check_of is None or check_of.__module__ == __name__:  # done already
        return

    @dataclass(frozen=True)
    class OfWhatIsGiven:
        of: Any

        def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
            if value is None:
                return () if param.multiple or param.nargs == -1 else None
            return check_of(self.of).coerce(value, param=param, ctx=ctx)

    def get_runtime_param(self: Any) -> OfWhatIsGiven:
        return OfWhatIsGiven(self)

    parameter.get_runtime_param = get_runtime_param


def flags_of(given: dict[str, Any]) -> dict[str, Any]:
    """Turn a command's arguments into keys of `RunConfig`, leaving out what was not given."""
    given = {**given, "dataset": [*(given.get("datasets") or []), *(given.get("dataset") or [])] or None}
    for name in _LISTS:
        if given.get(name):
            given[name] = [with_brackets(reference) for reference in split_list(given[name])]
    flags = {
        name: value
        for name, value in given.items()
        if name not in (*_NOT_CONFIG, *_TRAIN_FLAGS) and name in _config_keys() and value is not None
    }
    if "plugin" in flags:
        flags["plugin"] = [str(path) for path in flags["plugin"]]
    train = {name: given[name] for name in _TRAIN_FLAGS if given.get(name) is not None}
    train.update(_settings("set", given.get("set_") or []))
    if train:
        flags["train"] = train
    if given.get("race"):
        flags["race"] = _settings("race", given["race"])
    if given.get("no_baselines"):
        flags["baselines"] = False
    if given.get("no_feature_cache"):
        flags["feature_cache"] = False
    isolate = given.get("isolate")
    if isolate is not None:
        if isolate not in ("process", "none"):
            raise UsageError(f"--isolate takes process or none, got {isolate!r}")
        if "executor" in flags:
            raise UsageError("--isolate and --executor both say where cells run; give one of them")
        flags["executor"] = "inline" if isolate == "none" else "local"
    return flags


def registry_of(plugin: list[Path] | None, *, strict: bool = False) -> Any:
    """Return what is installed, with the files that `--plugin` names; what failed to load is told.

    Raises:
        PluginError: something failed, and `strict` says that nothing may.
    """
    from mmbench.registry import load_registry

    registry = load_registry(tuple(plugin or ()))
    failed = [item for item in registry.plugins if item.status == "failed"]
    for item in failed:
        sys.stderr.write(printable(f"warning: plugin {item.name!r} ({item.dist}) is left out: {item.reason}\n"))
    if strict and failed:
        raise PluginError(f"{len(failed)} plugin(s) failed to load and --strict-plugins was given")
    return registry


def emit(as_json: bool, data: Callable[[], Any], show: Callable[[], None]) -> None:
    """Write data as JSON where `--json` asks for it, else show them to people."""
    if as_json:
        sys.stdout.write(json_text(data(), default=str) + "\n")
    else:
        show()


def _config_keys() -> tuple[str, ...]:
    from mmbench.config import RunConfig

    return tuple(RunConfig.model_fields)


def _settings(flag: str, items: list[str]) -> dict[str, Any]:
    from mmbench.reference import parse_reference

    settings: dict[str, Any] = {}
    for item in items:
        if "=" not in item:
            example = {"set": "class_weights=balanced", "race": "eta=4"}[flag]
            raise UsageError(f"--{flag} {item}: write KEY=VALUE, such as --{flag} {example}")
        settings.update(parse_reference(f"{flag}[{item}]")[1])
    return settings
