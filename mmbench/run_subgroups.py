"""Subgroups of a run's test samples, as the option `subgroups` of a dataset names them: kept beside the results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from mmbench.durable import write_atomically
from mmbench.encoding import parse_json
from mmbench.store import SUBGROUPS_FILE

if TYPE_CHECKING:
    from mmbench.plan import Plan

#: Value of each test sample, by column and sample id; a sample without a known value is left out.
Subgroups: TypeAlias = Mapping[str, Mapping[str, str]]


def subgroups_of(plan: Plan) -> dict[str, Subgroups]:
    """Return the subgroups that a plan names, by the label of the dataset."""
    return {part.label: part.subgroups for part in plan.datasets if part.subgroups}


def write_subgroups(folder: Path, named: Mapping[str, Subgroups]) -> bool:
    """Write subgroups beside those of other datasets that a run has; return whether anything changed.

    Raises:
        OSError: they cannot be written.
    """
    known = read_subgroups(folder)
    if not named or {**known, **named} == known:
        return False
    write_atomically(folder / SUBGROUPS_FILE, [json.dumps({**known, **named}, sort_keys=True), "\n"])
    return True


def read_subgroups(folder: Path) -> dict[str, Subgroups]:
    """Return a run's subgroups by the label of the dataset; nothing where they are damaged or not there."""
    try:
        data = parse_json((folder / SUBGROUPS_FILE).read_text(encoding="utf-8"))
        return {
            str(label): {
                str(column): {str(sample): str(value) for sample, value in values.items()}
                for column, values in columns.items()
            }
            for label, columns in data.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
