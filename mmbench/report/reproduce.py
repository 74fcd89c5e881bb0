"""The commands that make a run, or one row of its leaderboards, again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from mmbench.config import SMOKE_TRAIN
from mmbench.redaction import redacted, short_paths
from mmbench.report.outcomes import split_encoders
from mmbench.report.tables import Board, Report, Row


def reproduce(about: Mapping[str, Any]) -> str:
    """Return the command that made the run, quoted for a shell, or "" where it is not known."""
    argv = about.get("argv")
    if not isinstance(argv, list) or not argv:
        return ""
    # A run of an earlier version may hold secrets; paths are of no use on another machine, and say whose this was.
    program, *rest = [str(word) for word in redacted(argv)]
    words = [program, *map(short_paths, rest)]
    if words[0].rsplit("/", 1)[-1] != "mmbench":
        words = ["mmbench", *words]
    return " ".join(shlex.quote(word) for word in words)


def row_command(row: Row, board: Board, report: Report) -> str:
    """Return the shell command that plans this row's cells alone, in a run of the same name.

    "" where a name cannot be typed: it holds a line end or a control character.
    """
    config = report.provenance.get("config")
    config = config if isinstance(config, Mapping) else {}
    words = ["mmbench", "run", "--run", report.run, "-d", board.reference or board.dataset]
    encoders = split_encoders(row.encoders)
    if row.unimodal:
        words += ["-m", row.modalities[0]]
    for modality, encoder in encoders.items():
        words += ["-e", f"{modality}={encoder}"]
    words += ["-f", row.fusion]
    if row.objective not in ("", "supervised"):
        words += ["-o", row.objective]
    words += ["--seeds", _seeds(board.seeds)]
    for metric in _listed(config.get("metric")):
        words += ["--metric", str(metric)]
    if config.get("master_seed"):
        words += ["--master-seed", str(config["master_seed"])]
    for file in _listed(config.get("plugin")):
        words += ["--plugin", str(file)]
    train = config.get("train")
    # The command of a single row has no grid, so what its grid set is said outright.
    smoke = SMOKE_TRAIN if config.get("grid") == "smoke" else {}
    settings = {**smoke, **(train if isinstance(train, Mapping) else {})}
    for key, value in settings.items():
        words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    command = " ".join(shlex.quote(short_paths(word)) for word in redacted(words))
    return command if command.isprintable() else ""


def _seeds(seeds: tuple[int, ...]) -> str:
    counted = seeds == tuple(range(len(seeds))) and seeds
    return str(len(seeds)) if counted else ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
