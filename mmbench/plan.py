"""From a selection to cells: every combination once, with its key, its status and all reasons, before anything runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mmbench.compatibility import choose_layout, frozen_reason, incompatibilities, layout_reason, reasons_apart
from mmbench.config import RunConfig, TrainConfig
from mmbench.errors import EmptySelection, MmbenchError, UsageError, did_you_mean
from mmbench.parts import DatasetPart, Part, combine_key, digest, make_dataset_part, make_part
from mmbench.registry import Registry
from mmbench.selection import dataset_references, encoder_references, is_excluded, split_selector
from mmbench.spec import DatasetInfo, EncoderSpec, Layout, Modality, to_json

MAJORITY = "majority"
PlanStatus = Literal["run", "incompatible", "unavailable", "pending", "stopped"]
CellRole = Literal["cell", "baseline", "rung", "trial"]
#: Roles of cells that only help to choose others: they are scored on val alone and stand in no leaderboard.
CHOOSING: tuple[CellRole, ...] = ("rung", "trial")


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
        assert self.fusion is not None
        assert self.objective is not None
        key = combine_key(
            self.dataset.digest,
            {name: part.digest for name, part in self.encoders.items()},
            self.fusion.digest,
            self.objective.digest,
            self.dataset.train_digest,
            self.runtime["master_seed"],
            seed,
        )
        return replace(self, cell_id=key[:16], seed=seed)

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the cell's quality, as plain JSON: what `quality_key` takes."""
        return {
            "dataset": dict(self.dataset.identity),
            "encoders": {name: dict(part.identity) for name, part in self.encoders.items()},
            "fusion": dict(self.fusion.identity) if self.fusion else None,
            "objective": dict(self.objective.identity) if self.objective else None,
            "train": self.dataset.train.model_dump(),
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
            # What only helps to choose is not described beyond the score that it is chosen by.
            **({"protocol": "none", "diagnostics": "none"} if self.val_only else {}),
            **({"tuned": self.about["tuned"]} if "tuned" in self.about else {}),
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A selection, ready to be walked through.

    Cells come in an order in which a run cut short is already informative: all baselines, then every combo once,
    then the same for the next seed. Datasets and fusions take turns, each with a cell that can run: wherever the run
    ends, no fusion on no dataset is more than a cell ahead of another that has cells left; within one, encoders and
    objectives are balanced in the same way.
    """

    config: RunConfig
    registry: Registry
    datasets: tuple[DatasetPart, ...]
    notes: tuple[str, ...]
    runtime: Mapping[str, Any] = field(repr=False)

    def cells(self) -> Iterator[Cell]:
        """Yield every cell; nothing is kept but the ids of the baselines, the only cells that can be named twice."""
        cells = itertools.chain.from_iterable(
            self._of_all_seeds(cell, first=position == 0)
            for position, seed in enumerate(self.config.seeds)
            for cell in self._cells_of_seed(seed, first=position == 0)
        )
        seen: set[str] = set()
        kept = (
            cell
            for cell in cells
            if cell.role == "cell" or not (cell.cell_id in seen or seen.add(cell.cell_id))  # type: ignore[func-returns-value]
        )
        return itertools.islice(kept, self.config.max_cells)

    def variant(
        self,
        cell: Cell,
        *,
        role: CellRole,
        seed: int | None = None,
        train: Mapping[str, Any] | None = None,
        encoders: Mapping[str, Part] | None = None,
        fusion: Part | None = None,
        objective: Part | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Cell:
        """Return a cell's combo otherwise trained, with its own key, looked at anew for whether it can run.

        Args:
            cell: Of this plan.
            role: Of the new cell.
            seed: Its own by default.
            train: Training settings that differ.
            encoders, fusion, objective: Parts that take the places of the cell's.
            about: As in `Cell`.

        Raises:
            ValueError: a training setting cannot be.
        """
        settings = TrainConfig.model_validate({**cell.dataset.train.model_dump(), **(train or {})})
        key = (cell.dataset.digest, digest(settings.model_dump()))
        if key not in self._variants:
            dataset = replace(cell.dataset, train=settings, train_digest=key[1])
            self._variants[key] = _DatasetGrid(self, dataset)
        made = self._variants[key]._cell(
            {**cell.encoders, **(encoders or {})},
            fusion or cell.fusion,
            objective or cell.objective,
            cell.seed if seed is None else seed,
            role,
        )
        return replace(made, about=about or {})

    @property
    def jobs(self) -> int:
        """How many cells run at a time."""
        return int(self.runtime["jobs"])

    def estimate_s(self) -> float | None:
        """Return the wall time that the cells to run will take, or None when no dataset says what a cell takes."""
        return self._survey[1]

    def count(self) -> dict[str, int]:
        """Return how many cells there are to run, as baselines, incompatible and unavailable."""
        return dict(self._survey[0])

    @cached_property
    def _survey(self) -> tuple[dict[str, int], float | None]:
        """What one walk through all cells tells of them: the counts and the estimate."""
        counts = {"cells": 0, "run": 0, "baselines": 0, "incompatible": 0, "unavailable": 0}
        times = {part.digest: part.spec.cell_time_s for part in self.datasets}
        num_trained = num_told = 0
        told_s = 0.0
        for cell in self.cells():
            counts["cells"] += 1
            if cell.status != "run":
                counts[cell.status] += 1
                continue
            counts["baselines" if cell.role == "baseline" else "run"] += 1
            if cell.fusion is None:
                continue
            num_trained += 1
            time_s = times[cell.dataset.digest]
            if time_s is not None:
                num_told += 1
                told_s += time_s
        return counts, told_s / num_told * num_trained / self.jobs if num_told else None

    def paths(self) -> list[dict[str, Any]]:
        """Return how combos train their seeds, why, and how many cells that is; [] where there is no choice."""
        if self.config.together == "never":
            return []
        found: dict[tuple[str, str], int] = {}
        for cell in self.cells():
            if cell.group or cell.apart:
                key = ("together" if cell.group else "alone", cell.apart)
                found[key] = found.get(key, 0) + 1
        return [{"path": path, "apart": apart, "num_cells": count} for (path, apart), count in found.items()]

    def shared(self) -> list[dict[str, Any]]:
        """Return what is computed once for several cells: the features that each frozen encoder gives of a dataset."""
        if not self.config.feature_cache:
            return []
        found: dict[tuple[str, str, str, str], int] = {}
        for cell in self.cells():
            if cell.status != "run":
                continue
            for name, part in cell.encoders.items():
                if part.reference.tuning == "frozen" and cell.layouts[name] != "pyramid":
                    key = (cell.dataset.label, name, part.label, cell.layouts[name])
                    found[key] = found.get(key, 0) + 1
        return [
            {"dataset": dataset, "modality": name, "encoder": encoder, "layout": layout, "num_cells": count}
            for (dataset, name, encoder, layout), count in found.items()
        ]

    def datasets_json(self) -> dict[str, Any]:
        """Return what reports must know of the datasets, by label."""
        return {
            part.label: {
                "ref": part.reference.entry.ref,
                "summary": part.spec.summary,
                "tasks": to_json(part.info.tasks),
                "modalities": to_json(part.info.modalities),
                "ceilings": to_json(part.spec.ceilings),
                "train": part.train.model_dump(),
                "key": part.key,
            }
            for part in self.datasets
        }

    def _of_all_seeds(self, cell: Cell, *, first: bool) -> Iterable[Cell]:
        """Give seeds that are trained together where their first stands; all other cells where they stand."""
        if not cell.group:
            return (cell,)
        return map(cell.of_seed, self.config.seeds) if first else ()

    def _cells_of_seed(self, seed: int, *, first: bool) -> Iterator[Cell]:
        if self.config.baselines:
            yield from _in_turn(grid.baselines(seed, floor=first) for grid in self._grids)
        # A fusion of one modality is a unimodal model: one row per modality, never a product.
        alone = [fusion for fusion in self._fusions if fusion.spec.max_modalities == 1]
        joint = [fusion for fusion in self._fusions if fusion.spec.max_modalities != 1]
        yield from _in_turn(grid.alone(fusion, seed) for fusion in alone for grid in self._grids)
        for grid in self._grids:
            yield from grid.without_encoder(seed)
        yield from _in_turn(grid.combos(fusion, seed) for fusion in joint for grid in self._grids)

    @cached_property
    def _grids(self) -> tuple[_DatasetGrid, ...]:
        return tuple(_DatasetGrid(self, dataset) for dataset in self.datasets)

    @cached_property
    def _variants(self) -> dict[tuple[str, str], _DatasetGrid]:
        """Grids of datasets by their digest and that of other training settings."""
        return {}

    @cached_property
    def _fusions(self) -> tuple[Part, ...]:
        return tuple(self._parts("fusion", self.config.fusion))

    @cached_property
    def _objectives(self) -> tuple[Part, ...]:
        return tuple(self._parts("objective", self.config.objective or ("supervised",)))

    @cached_property
    def _baseline_parts(self) -> tuple[Part, Part] | None:
        """The fusion and the objective of unimodal rows, or None where no plugin offers them."""
        try:
            single = self.registry.resolve("fusion", "single")
            supervised = self.registry.resolve("objective", "supervised")
        except MmbenchError:
            return None
        return make_part(self.registry, single), make_part(self.registry, supervised)

    def _parts(self, role: Literal["fusion", "objective"], patterns: Sequence[str]) -> list[Part]:
        if patterns:
            references = [ref for pattern in patterns for ref in self.registry.match(role, pattern)]
        else:
            references = [
                self.registry.resolve(role, entry.ref) for entry in self.registry.entries(role) if entry.spec.in_all
            ]
        parts = {part.digest: part for part in (make_part(self.registry, reference) for reference in references)}
        return [part for part in parts.values() if not is_excluded(part.label, self.config.exclude)]


class _DatasetGrid:
    """The part of a plan that belongs to one dataset; what does not depend on the combo is worked out once."""

    def __init__(self, plan: Plan, dataset: DatasetPart) -> None:
        self.plan = plan
        self.dataset = dataset
        self.modalities = tuple(
            sorted(_chosen_modalities(dataset.info, plan.config.modality), key=lambda modality: modality.name)
        )
        self._layouts: dict[tuple[str, str], Layout | None] = {}
        self._fusion_reasons: dict[tuple[str, ...], list[str]] = {}

    @cached_property
    def encoders(self) -> dict[str, tuple[Part, ...]]:
        """Those that the selection means, by modality."""
        return {modality.name: _encoders_of(self.plan, self.dataset, modality) for modality in self.modalities}

    def baselines(self, seed: int, *, floor: bool) -> Iterator[Cell]:
        if floor:
            yield self._cell({}, None, None, seed, "baseline")
        parts = self.plan._baseline_parts
        if parts is None:
            return
        for name, encoders in self.encoders.items():
            for encoder in encoders:
                yield self._cell({name: encoder}, *parts, seed, "baseline")

    def alone(self, fusion: Part, seed: int) -> Iterator[Cell]:
        chosen = [(name, encoder) for name, encoders in self.encoders.items() for encoder in encoders]
        for (name, encoder), objective in diagonal([chosen, self.plan._objectives]):
            yield self._cell({name: encoder}, fusion, objective, seed, "baseline")

    def combos(self, fusion: Part, seed: int) -> Iterator[Cell]:
        names = [name for name, encoders in self.encoders.items() if encoders]
        for *chosen, objective in diagonal([*(self.encoders[name] for name in names), self.plan._objectives]):
            yield self._cell(dict(zip(names, chosen)), fusion, objective, seed, "cell")

    def without_encoder(self, seed: int) -> Iterator[Cell]:
        return (self._without_encoder(name, seed) for name, encoders in self.encoders.items() if not encoders)

    def _without_encoder(self, name: str, seed: int) -> Cell:
        modality = next(item for item in self.modalities if item.name == name)
        accepting = [
            entry.spec.name
            for entry in self.plan.registry.entries("encoder")
            if isinstance(entry.spec, EncoderSpec) and modality.kind in entry.spec.kinds
        ]
        reason = (
            f"no selected encoder accepts {name!r} ({modality.kind}); installed for this kind: {', '.join(accepting)}"
            if accepting
            else f"no installed encoder accepts {name!r} ({modality.kind}); install a plugin that offers one"
        )
        key = digest(["no encoder", self.dataset.digest, name, seed])
        return self._make(key, {}, f"{name}:-", {}, None, None, seed, "cell", "incompatible", [reason])

    def _cell(
        self,
        encoders: Mapping[str, Part],
        fusion: Part | None,
        objective: Part | None,
        seed: int,
        role: CellRole,
    ) -> Cell:
        reasons: list[str] = []
        layouts: dict[str, Layout] = {}
        missing: list[str] = [self.dataset.unavailable]
        if fusion is not None and objective is not None:
            for name, part in encoders.items():
                if part.reference.augment and part.reference.tuning == "frozen":
                    reasons.append(frozen_reason(part.label, name))
                layout, reason = self._layout(name, part, fusion)
                if layout is None:
                    reasons.append(reason)
                else:
                    layouts[name] = layout
            reasons += self._reasons(fusion, objective, encoders)
            missing += [part.unavailable for part in (*encoders.values(), fusion, objective)]
        key = combine_key(
            self.dataset.digest,
            {name: part.digest for name, part in encoders.items()},
            fusion.digest if fusion else "",
            objective.digest if objective else "",
            self.dataset.train_digest,
            self.plan.config.master_seed,
            seed,
            val_only=role in CHOOSING,
        )
        label = "+".join(f"{name}:{part.label}" for name, part in encoders.items())
        status: PlanStatus = "run"
        if reasons:
            status = "incompatible"
        elif any(missing):
            status, reasons = "unavailable", list(dict.fromkeys(reason for reason in missing if reason))
        return self._make(key, encoders, label, layouts, fusion, objective, seed, role, status, reasons)

    def _make(
        self,
        key: str,
        encoders: Mapping[str, Part],
        label: str,
        layouts: Mapping[str, Layout],
        fusion: Part | None,
        objective: Part | None,
        seed: int,
        role: CellRole,
        status: PlanStatus,
        reasons: Sequence[str],
    ) -> Cell:
        return Cell(
            cell_id=key[:16],
            dataset=self.dataset,
            encoders=encoders,
            encoders_label=label,
            layouts=layouts,
            fusion=fusion,
            objective=objective,
            seed=seed,
            role=role,
            status=status,
            reason="; ".join(reasons),
            runtime=self.plan.runtime,
            **self._path(status, role, encoders, layouts, fusion, objective),
        )

    def _path(
        self,
        status: PlanStatus,
        role: CellRole,
        encoders: Mapping[str, Part],
        layouts: Mapping[str, Layout],
        fusion: Part | None,
        objective: Part | None,
    ) -> dict[str, Any]:
        """Return `group` and `apart` of a cell."""
        config = self.plan.config
        if config.together == "never" or status != "run" or fusion is None or objective is None:
            return {}
        reasons = ["there is one seed"] if len(config.seeds) < 2 else []
        if role in CHOOSING:
            reasons.append("what only helps to choose is trained alone")
        if config.budget is not None:
            reasons.append("a run with a budget takes every combo once before any twice")
        reasons += reasons_apart(
            {name: part.spec for name, part in encoders.items()},
            {name: _tuning(part, layouts[name], config.feature_cache) for name, part in encoders.items()},
            [name for name, part in encoders.items() if part.reference.augment],
            [name for name in self.dataset.info.missing if name in encoders],
            fusion.spec,
            objective.spec,
            fusion.reference.missing,
            self.dataset.train.precision,
        )
        if reasons:
            return {"apart": "; ".join(reasons)}
        parts = [
            role,
            self.dataset.digest,
            self.dataset.train_digest,
            sorted((name, part.digest) for name, part in encoders.items()),
        ]
        return {"group": digest([*parts, fusion.digest, objective.digest])[:16]}

    def _layout(self, name: str, encoder: Part, fusion: Part) -> tuple[Layout | None, str]:
        memo = (encoder.digest, fusion.spec.accepts)
        if memo not in self._layouts:
            self._layouts[memo] = choose_layout(encoder.spec, fusion.spec)
        layout = self._layouts[memo]
        return layout, "" if layout else layout_reason(encoder.spec, fusion.spec, name)

    def _reasons(self, fusion: Part, objective: Part, encoders: Mapping[str, Part]) -> list[str]:
        memo = (fusion.digest, objective.digest, *encoders)
        if memo not in self._fusion_reasons:
            missing = [name for name in self.dataset.info.missing if name in encoders]
            self._fusion_reasons[memo] = incompatibilities(
                self.dataset.info, len(encoders), missing, fusion.spec, objective.spec, fusion.reference.missing
            )
        reasons = list(self._fusion_reasons[memo])
        if self.plan.registry.has_skip:
            reasons += self.plan.registry.skip_reasons(
                {
                    "dataset": self.dataset.to_json(),
                    "encoders": {name: part.to_json() for name, part in encoders.items()},
                    "fusion": fusion.to_json(),
                    "objective": objective.to_json(),
                }
            )
        return reasons


def make_plan(config: RunConfig, registry: Registry, *, runtime: Mapping[str, Any] | None = None) -> Plan:
    """Select datasets and parts.

    Args:
        config: The selection.
        registry: What is installed.
        runtime: What every payload carries besides the combo: device, protocol, folders.

    Raises:
        UsageError: a reference or a selector cannot be used as written.
        EmptySelection: nothing is selected.
        DataError: a dataset that was named outright cannot be used.
    """
    if not (config.grid or config.dataset or config.fusion or config.encoder or config.objective):
        raise UsageError(
            "nothing is selected: say --grid all for everything, --grid smoke for a quick look, or -d DATASET "
            "(see `mmbench list datasets`)"
        )
    notes: list[str] = []
    datasets = _datasets(config, registry, notes)
    if not datasets:
        raise EmptySelection("the selection matches no dataset; see `mmbench list datasets`")
    full = {
        "jobs": 1,
        "master_seed": config.master_seed,
        "plugin_files": [str(path) for path in registry.plugin_files],
        **(runtime or {}),
    }
    plan = Plan(config=config, registry=registry, datasets=tuple(datasets), notes=tuple(notes), runtime=full)
    _check_selectors(plan)
    if not plan._fusions and not config.baselines:
        raise EmptySelection("the selection leaves no fusion; see `mmbench list fusions`")
    return plan


def diagonal(axes: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    """Yield every combination once, so ordered that every beginning uses all values of each axis equally often, +-1.

    A step moves along every axis at once; where the walk would close before all combinations were met, the later axis
    is shifted by one.

    >>> list(diagonal(["ab", "xyz"]))
    [('a', 'x'), ('b', 'y'), ('a', 'z'), ('b', 'x'), ('a', 'y'), ('b', 'z')]
    >>> list(diagonal(["ab", "xy"]))
    [('a', 'x'), ('b', 'y'), ('a', 'y'), ('b', 'x')]
    """
    before = [math.prod(len(axis) for axis in axes[:place]) for place in range(len(axes))]
    closes = [math.lcm(num_before, len(axis)) or 1 for num_before, axis in zip(before, axes)]
    for step in range(math.prod(len(axis) for axis in axes)):
        places, at = [], step
        for place in reversed(range(len(axes))):
            places.append((at + at // closes[place]) % len(axes[place]))
            at %= before[place]
        yield tuple(axis[at] for axis, at in zip(axes, reversed(places)))


def _in_turn(lanes: Iterable[Iterator[Cell]]) -> Iterator[Cell]:
    """Yield from each lane up to its next cell that can run, then from the next lane, until all are empty."""
    waiting = list(lanes)
    while waiting:
        left = []
        for lane in waiting:
            for cell in lane:
                yield cell
                if cell.status == "run":
                    left.append(lane)
                    break
        waiting = left


def _datasets(config: RunConfig, registry: Registry, notes: list[str]) -> list[DatasetPart]:
    parts: dict[str, DatasetPart] = {}
    for pattern, reference in dataset_references(config, registry):
        by_name = bool(pattern) and not any(character in pattern.split("[")[0] for character in "*?")
        try:
            part = make_dataset_part(config, registry, reference)
        except MmbenchError as error:
            if by_name:
                raise
            notes.append(f"{reference.entry.ref} is left out: {error}")
            continue
        if not is_excluded(part.label, config.exclude):
            parts[part.digest] = part
    return list(parts.values())


def _encoders_of(plan: Plan, dataset: DatasetPart, modality: Modality) -> tuple[Part, ...]:
    references = encoder_references(plan.config, plan.registry, modality, _names(dataset.info))
    parts = {part.digest: part for part in (make_part(plan.registry, reference) for reference in references)}
    kept = [part for part in parts.values() if not is_excluded(part.label, plan.config.exclude, modality.name)]
    return tuple(sorted(kept, key=lambda part: part.label))


def _check_selectors(plan: Plan) -> None:
    """Refuse selectors that can apply to nothing: a typing error must not silently widen the grid."""
    modalities = {modality.name: modality.kind for part in plan.datasets for modality in part.info.modalities}
    known = sorted({*modalities, *modalities.values()})
    for selector in plan.config.encoder:
        name, pattern = split_selector(selector)
        if name and name not in known:
            raise EmptySelection(
                f"-e {selector}: no selected dataset has a modality or kind {name!r}; "
                f"there is {', '.join(known)}.{did_you_mean(name, known)}"
            )
        plan.registry.match("encoder", pattern, modalities.get(name, name) if name else None)  # type: ignore[arg-type]
    for name in plan.config.modality:
        if name not in modalities:
            raise EmptySelection(
                f"--modality {name}: no selected dataset has it; there is {', '.join(sorted(modalities))}."
                f"{did_you_mean(name, modalities)}"
            )
    _ = plan._fusions, plan._objectives


def _tuning(encoder: Part, layout: Layout, feature_cache: bool) -> str:
    """Return how an encoder is trained; "stored" where its features are computed once.

    Not as bf16, which travels as int16: looking at numbers as another type has no rule under `torch.func.vmap`.
    """
    stored = encoder.reference.tuning == "frozen" and layout != "pyramid" and feature_cache
    as_bf16 = encoder.reference.tuning_options.get("feature_dtype") == "bf16"
    return "stored" if stored and not as_bf16 else str(encoder.reference.tuning)


def _chosen_modalities(info: DatasetInfo, names: Sequence[str]) -> list[Modality]:
    return [modality for modality in info.modalities if not names or modality.name in names]


def _names(info: DatasetInfo) -> set[str]:
    return {modality.name for modality in info.modalities}


def local_runtime(config: RunConfig, *, cache: Path, data: Path, jobs: int) -> dict[str, Any]:
    """Return what payloads carry about this machine: device, threads, protocol, diagnostics and folders."""
    return {
        "device": config.device,
        "cuda_graphs": config.cuda_graphs,
        "threads": config.threads,
        "protocol": config.protocol,
        "feature_cache": config.feature_cache,
        "keep_train": config.keep_train,
        "diagnostics": config.diagnostics,
        "jobs": jobs,
        "contended": jobs > 1,
        "cache_dir": str(cache),
        "data_dir": str(data),
    }
