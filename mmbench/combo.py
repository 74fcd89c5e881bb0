"""One combo with one seed: what a plan holds, with its key, its line of plan.json and what trains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mmbench.parts import DatasetPart, Part, combine_key
from mmbench.record import CHOOSING, CellRole
from mmbench.spec import Layout
from mmbench.spec_values import to_json

MAJORITY = "majority"
#: Hex digits of a quality key that tell cells apart.
ID_DIGITS = 16
PlanStatus = Literal["run", "incompatible", "unavailable", "pending", "stopped"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combo with one seed: the unit of result.

    Attributes:
        cell_id: First 16 hex digits of the quality key.
        dataset: Chosen dataset.
        encoders: By modality name, sorted.
        layouts: What each encoder will be asked to give.
        fusion: None for the majority floor.
        objective: None for the majority floor.
        seed: Which repeat.
        role: "baseline" for unimodal cells and the floor, "rung" and "trial" for those of `CHOOSING`, else "cell".
        status: "run", or why not: "pending" and "stopped" are said of combos in a race.
        reason: All reasons, joined by "; ".
        about: What else its line of plan.json says: the rung, the values of a trial, what was tuned.
        group: Equal for the seeds of a combo that are trained in one vectorised pass; "" for a cell trained alone.
        apart: Why it is trained alone, where seeds may be trained together and it runs at all; else "".
    """

    cell_id: str
    dataset: DatasetPart
    encoders: Mapping[str, Part]
    encoders_label: str
    layouts: Mapping[str, Layout]
    fusion: Part | None
    objective: Part | None
    seed: int
    role: CellRole
    status: PlanStatus
    reason: str
    runtime: Mapping[str, Any] = field(repr=False)
    about: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    apart: str = ""

    @property
    def val_only(self) -> bool:
        """Whether it is scored on val and never on test."""
        return self.role in CHOOSING

    @property
    def combo(self) -> str:
        """What it shares with its other seeds, and with its rungs: the digests of its parts."""
        parts = [f"{name}={part.digest}" for name, part in sorted(self.encoders.items())]
        parts += [part.digest if part else "" for part in (self.fusion, self.objective)]
        return "|".join([self.dataset.digest, *parts])

    def row(self) -> dict[str, Any]:
        """Return the cell as a line of plan.json."""
        return {
            "cell_id": self.cell_id,
            "dataset": self.dataset.label,
            "encoders": self.encoders_label,
            "fusion": self.fusion.label if self.fusion else MAJORITY if self.role == "baseline" else "",
            "objective": self.objective.label if self.objective else "",
            "seed": self.seed,
            "role": self.role,
            "status": self.status,
            "reason": self.reason,
            **({"path": "together"} if self.group else {"path": "alone", "apart": self.apart} if self.apart else {}),
            **self.about,
        }

    def of_seed(self, seed: int) -> Cell:
        """Return the cell of the same combo with another seed."""
        cell_id = cell_id_of(
            self.dataset, self.encoders, self.fusion, self.objective, self.runtime["master_seed"], seed, self.role
        )
        return replace(self, cell_id=cell_id, seed=seed)

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the cell's quality, as plain JSON: what `quality_key` takes."""
        return {
            "dataset": dict(self.dataset.identity),
            "encoders": {name: dict(part.identity) for name, part in self.encoders.items()},
            "fusion": dict(self.fusion.identity) if self.fusion else None,
            "objective": dict(self.objective.identity) if self.objective else None,
            "train": self.dataset.train_identity,
            "master_seed": self.runtime["master_seed"],
            "seed": self.seed,
            **({"val_only": True} if self.val_only else {}),
        }

    def payload(self) -> dict[str, Any]:
        """Return what the process that trains this cell is given: plain JSON."""
        encoders = {
            name: {
                **part.to_json(),
                "layout": self.layouts[name],
                "tuning": part.reference.tuning,
                "takes_tuning": part.spec.takes_tuning,
                "tuning_options": to_json(part.reference.tuning_options),
                "augment": list(part.reference.augment),
                "requires": list(part.spec.requires),
                "digest": part.digest,
            }
            for name, part in self.encoders.items()
        }
        fusion = None
        if self.fusion:
            facts = self.fusion.spec
            policy = self.fusion.reference.missing
            fusion = {
                **self.fusion.to_json(),
                "level": facts.level,
                "accepts": facts.accepts,
                "missing": facts.missing or policy not in ("mask", "drop"),
                "missing_policy": policy,
            }
        return {
            "cell_id": self.cell_id,
            "identity": self.identity(),
            "dataset": {**self.dataset.to_json(), "key": self.dataset.key, "info": to_json(self.dataset.info)},
            "encoders": encoders,
            "fusion": fusion,
            "objective": self.objective.to_json() if self.objective else None,
            "train": self.dataset.train.model_dump(),
            "seed": self.seed,
            **self.runtime,
            "plugin_files": self.plugin_files(),
            # What only helps to choose is not described beyond the score that it is chosen by.
            **({"protocol": "none", "diagnostics": "none"} if self.val_only else {}),
            **({"tuned": self.about["tuned"]} if "tuned" in self.about else {}),
        }

    def plugin_files(self) -> list[str]:
        """Return the local plugin files that this cell uses: no other may change it by being imported.

        An encoder that wraps another may mean one of any file.
        """
        parts = [self.dataset, *self.encoders.values(), *filter(None, (self.fusion, self.objective))]
        if any(getattr(part.spec, "wraps", False) for part in parts):
            return list(self.runtime.get("plugin_files", ()))
        processes = [part.reference.entry.process for part in parts]
        return sorted({str(process.path) for process in processes if process is not None and process.path is not None})


def cell_id_of(
    dataset: DatasetPart,
    encoders: Mapping[str, Part],
    fusion: Part | None,
    objective: Part | None,
    master_seed: int,
    seed: int,
    role: CellRole,
) -> str:
    """Return the id of a cell: the beginning of its quality key."""
    key = combine_key(
        dataset.digest,
        {name: part.digest for name, part in encoders.items()},
        fusion.digest if fusion else "",
        objective.digest if objective else "",
        dataset.train_digest,
        master_seed,
        seed,
        val_only=role in CHOOSING,
    )
    return key[:ID_DIGITS]


def place_in_tables(row: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return what no two cells of a run may share, of a line of plan.json; None where it only helps to choose others.

    Cells of one place and different ids are the same combo and seed made otherwise: tuned to other values, say.
    """
    if row.get("role") in CHOOSING:
        return None
    return tuple(row.get(name) for name in ("dataset", "encoders", "fusion", "objective", "variant", "seed"))
