"""From a selection to cells: every combination once, with its key, its status and all reasons, before anything runs."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mmbench.combo import Cell
from mmbench.config import QUICK_SELECTION, RunConfig, TrainConfig
from mmbench.errors import EmptySelection, MmbenchError, UsageError, did_you_mean
from mmbench.grid import DEVICE, DatasetGrid, in_turn
from mmbench.metric_catalog import check_metrics, unaffected_task_notes
from mmbench.parts import DatasetPart, Part, label_of, make_dataset_part, make_part
from mmbench.record import CellRole
from mmbench.registry import Entry, Registry
from mmbench.selection import dataset_references, is_excluded, is_named, nothing_selected, split_selector
from mmbench.spec import Role
from mmbench.spec_values import to_json

#: Cells of one dataset above which guessed modalities must be confirmed.
MAX_INFERRED_CELLS = 2_000


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
    broken: Mapping[str, str] = field(default_factory=dict, repr=False)

    def without(self, broken: Mapping[str, str]) -> Plan:
        """Return the same plan where what cannot be used makes its cells unavailable.

        Args:
            broken: Why, by the reference of a component ("dist/name"), or `mmbench.grid.DEVICE`.
        """
        return replace(self, broken={**self.broken, **broken})

    def entries(self, cells: Iterable[Cell]) -> list[Entry]:
        """Return the components that cells are made of, each once."""
        found: dict[str, Entry] = {}
        for cell in cells:
            for part in (cell.dataset, *cell.encoders.values(), cell.fusion, cell.objective):
                if part is not None:
                    found.setdefault(part.reference.entry.ref, part.reference.entry)
        return list(found.values())

    def unavailable_by_name(self) -> list[str]:
        """Return why components that the selection names outright, not by a glob, cannot be used here."""
        reasons = [
            self.broken.get(part.reference.entry.ref, "") or part.unavailable
            for role, part in self._parts_by_role()
            if is_named(self.config, role, part.reference)
        ]
        if self.config.device.startswith("cuda"):
            reasons.append(self.broken.get(DEVICE, ""))
        return list(dict.fromkeys(filter(None, reasons)))

    def names_any(self, cell: Cell) -> bool:
        """Whether the selection names a part of a cell outright, or the GPU that it is to run on."""
        parts: list[tuple[Role, Part | None]] = [("dataset", cell.dataset), ("fusion", cell.fusion)]
        parts += [("objective", cell.objective), *(("encoder", part) for part in cell.encoders.values())]
        return self.config.device.startswith("cuda") or any(
            part is not None and is_named(self.config, role, part.reference) for role, part in parts
        )

    def _parts_by_role(self) -> Iterator[tuple[Role, Part]]:
        for dataset in self.datasets:
            yield "dataset", dataset
        for grid in self._grids:
            for encoders in grid.encoders.values():
                yield from (("encoder", part) for part in encoders)
        yield from (("fusion", part) for part in self._fusions)
        yield from (("objective", part) for part in self._objectives)

    def cells(self) -> Iterator[Cell]:
        """Yield every cell, `--max-cells` at most."""
        return itertools.islice(self.all_cells(), self.config.max_cells)

    def all_cells(self) -> Iterator[Cell]:
        """Yield every cell; nothing is kept but the ids of the baselines, the only cells that can be named twice."""
        cells = itertools.chain.from_iterable(
            self._of_all_seeds(cell, first=position == 0)
            for position, seed in enumerate(self.config.seeds)
            for cell in self._cells_of_seed(seed, first=position == 0)
        )
        seen: set[str] = set()
        return (
            cell
            for cell in cells
            if cell.role == "cell" or not (cell.cell_id in seen or seen.add(cell.cell_id))  # type: ignore[func-returns-value]
        )

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
        dataset = replace(cell.dataset, train=settings)
        key = (dataset.digest, dataset.train_digest)
        if key not in self._variants:
            self._variants[key] = self._grid(dataset)
        made = self._variants[key].cell(
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
                "reference": part.full_reference,
                "notes": list(part.info.notes),
                "summary": part.spec.summary,
                "tasks": to_json(part.info.tasks),
                "modalities": to_json(part.info.modalities),
                "ceilings": to_json(part.spec.ceilings),
                "train": part.train_identity,
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
            yield from in_turn(self._baselines(grid, seed, floor=first) for grid in self._grids)
        # A fusion of one modality is a unimodal model: one row per modality, never a product.
        alone = [fusion for fusion in self._fusions if fusion.spec.max_modalities == 1]
        joint = [fusion for fusion in self._fusions if fusion.spec.max_modalities != 1]
        yield from in_turn(grid.alone(fusion, self._objectives, seed) for fusion in alone for grid in self._grids)
        for grid in self._grids:
            yield from grid.without_encoder(seed)
        yield from in_turn(grid.combos(fusion, self._objectives, seed) for fusion in joint for grid in self._grids)

    def _baselines(self, grid: DatasetGrid, seed: int, *, floor: bool) -> Iterator[Cell]:
        if floor:
            yield grid.floor(seed)
        if self._baseline_parts is not None:
            single, supervised = self._baseline_parts
            yield from grid.alone(single, [supervised], seed)

    def _grid(self, dataset: DatasetPart) -> DatasetGrid:
        return DatasetGrid(self.config, self.registry, self.runtime, dataset, self.broken)

    @cached_property
    def _grids(self) -> tuple[DatasetGrid, ...]:
        return tuple(self._grid(dataset) for dataset in self.datasets)

    @cached_property
    def _variants(self) -> dict[tuple[str, str], DatasetGrid]:
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
            "nothing is selected: say --grid quick for a first comparison in a minute, --grid all for everything, or "
            "-d DATASET (see `mmbench list datasets`)"
        )
    notes: list[str] = []
    datasets = _datasets(config, registry, notes)
    if not datasets:
        raise EmptySelection(nothing_selected(registry, "dataset"))
    full = {
        "jobs": 1,
        "master_seed": config.master_seed,
        "plugin_files": [str(path) for path in registry.plugin_files],
        **(runtime or {}),
    }
    plan = Plan(config=config, registry=registry, datasets=tuple(datasets), notes=tuple(notes), runtime=full)
    _check_selectors(plan)
    _check_inferred(plan)
    if not plan._fusions and (not config.baselines or registry.lacks("fusion")):
        raise EmptySelection(nothing_selected(registry, "fusion"))
    return replace(plan, notes=(*notes, *_gaps(plan)))


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
    return _with_labels_of_their_own(registry, list(parts.values()))


def _with_labels_of_their_own(registry: Registry, parts: Sequence[DatasetPart]) -> list[DatasetPart]:
    """Return datasets of which no two are called the same: those that are show their references."""
    counts = Counter(part.label for part in parts)
    return [
        replace(part, label=label_of(registry, part.reference)) if counts[part.label] > 1 else part for part in parts
    ]


def _check_inferred(plan: Plan) -> None:
    """Refuse a grid over many guessed modalities: their combinations multiply, and few of them are meant."""
    if plan.config.max_cells is not None or plan.config.modality:
        return
    joint = sum(1 for fusion in plan._fusions if fusion.spec.max_modalities != 1)
    for grid in plan._grids:
        part = grid.dataset
        if not part.info.inferred or len(part.info.modalities) < 2:
            continue
        counts = [len(encoders) for encoders in grid.encoders.values() if encoders]
        num_cells = math.prod(counts) * joint * len(plan._objectives) * len(plan.config.seeds)
        if num_cells > MAX_INFERRED_CELLS:
            names = [f"{item.name} ({item.kind})" for item in part.info.modalities]
            chosen = ",".join(f"{item.name}={item.name}" for item in part.info.modalities[:2])
            raise UsageError(
                f"{len(names)} columns of {part.label} look like modalities, which makes {num_cells:,} cells: "
                f"{', '.join(names)}. Name those that you want, as in -d '{part.short_reference(chosen)}', take some "
                f"with -m {part.info.modalities[0].name} -m {part.info.modalities[1].name}, or choose encoders with -e"
            )


def _gaps(plan: Plan) -> Iterator[str]:
    """Yield what is not planned because no package that is installed offers it."""
    for part in plan.datasets:
        yield from (f"{part.label}: {words}" for words in unaffected_task_notes(plan.config.metric, part.info.tasks))
    kinds = {modality.kind for grid in plan._grids for modality in grid.modalities}
    yield from filter(None, (plan.registry.lacks("encoder", kind) for kind in sorted(kinds)))
    if plan.config.baselines and plan._baseline_parts is None:
        yield (
            "no unimodal baselines are planned: they need the fusion 'single' of mmbench-fusion and the objective "
            "'supervised' of mmbench-objectives: pip install 'mmbench[base]'"
        )


def _check_selectors(plan: Plan) -> None:
    """Refuse selectors that can apply to nothing: a typing error must not silently widen the grid."""
    modalities = {modality.name: modality.kind for part in plan.datasets for modality in part.info.modalities}
    known = sorted({*modalities, *modalities.values()})
    for selector in plan.config.encoder:
        name, pattern = split_selector(selector)
        if name and name not in known:
            if plan.config.grid == "quick" and selector in QUICK_SELECTION["encoder"]:
                continue  # nobody typed it: the grid names one encoder for each kind that a dataset may have
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
    check_metrics(plan.config.metric, [task for part in plan.datasets for task in part.info.tasks])
    _ = plan._fusions, plan._objectives


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
