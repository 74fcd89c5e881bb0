"""What `--help` says of defaults is what a run does."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer.main

from mmbench.cli import app
from mmbench.config import RunConfig, TrainConfig, load_config


def help_of(option: str) -> str:
    group: Any = typer.main.get_command(app)
    return next(item.help for item in group.commands["run"].params if option in item.opts)


@pytest.mark.parametrize(
    ("option", "default"),
    [
        ("--epochs", TrainConfig().epochs),
        ("--batch-size", TrainConfig().batch_size),
        ("--lr", TrainConfig().lr),
        ("--precision", TrainConfig().precision),
        ("--master-seed", RunConfig().master_seed),
        ("--jobs", RunConfig().jobs),
        ("--device", RunConfig().device),
        ("--threads", RunConfig().threads),
        ("--protocol", RunConfig().protocol),
        ("--diagnostics", RunConfig().diagnostics),
        ("--together", RunConfig().together),
        ("--cuda-graphs", RunConfig().cuda_graphs),
        ("--executor", RunConfig().executor),
        ("--results", RunConfig().results),
        ("--seeds", len(RunConfig().seeds)),
    ],
)
def test_the_help_of_an_option_names_its_default(option: str, default: object) -> None:
    assert re.search(rf"(?<![\w.]){re.escape(str(default))}(?![\w.]\w)", help_of(option)), help_of(option)


def test_the_help_gives_limits_that_are_read_as_the_defaults() -> None:
    config = load_config({"timeout": "30m", "cache_limit": "50GiB"})

    assert (config.timeout, config.cache_limit) == (RunConfig().timeout, RunConfig().cache_limit)
    assert "30m by default" in help_of("--timeout")
    assert "50GiB by default" in help_of("--cache-limit")


def test_every_option_of_every_command_has_words() -> None:
    group: Any = typer.main.get_command(app)

    silent = [
        f"{name} {item.opts[-1]}"
        for name, command in group.commands.items()
        for item in command.params
        if item.param_type_name == "option" and not item.help
    ]
    assert silent == []
