"""From a selection to cells: every combination once, with its key, its status and all reasons, before anything runs."""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mmbench.config import RunConfig, TrainConfig, resolve_train
from mmbench.errors import DataError, EmptySelection, MmbenchError, Unavailable, UsageError, did_you_mean
from mmbench.registry import Reference, Registry, load_attribute, missing_packages
from mmbench.spec import (
    DatasetInfo,
    DatasetSpec,
    EncoderSpec,
    FusionSpec,
    Layout,
    Modality,
    ObjectiveSpec,
    to_json,
)

KEY_VERSION = 1
MAJORITY = "majority"
PlanStatus = Literal["run", "incompatible", "unavailable"]

_LAYOUT_WORDS: Mapping[Layout, str] = {
    "vector": "one vector (B, D)",
    "sequence": "token sequences (B, T, D)",
    "pyramid": "features of several layers",
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One chosen dataset, encoder, fusion or objective: a reference with everything that follows from it.

    Attributes:
        reference: What the registry found.
        label: What tables show: the short name, its target, and options that differ from their defaults.
        identity: What the quality key covers.
        digest: Hash of `identity`.
        unavailable: Why it cannot be used on this machine, or "".
    """

    reference: Reference
    label: str
    identity: Mapping[str, Any]
    digest: str
    unavailable: str = ""

    @property
    def spec(self) -> Any:
        """The descriptor."""
        return self.reference.entry.spec

    def to_json(self) -> dict[str, Any]:
        """Return what a child process needs to build this part."""
        return {
            "ref": self.reference.entry.ref,
            "label": self.label,
            "factory": self.spec.factory,
            "target": self.reference.target if self.spec_takes_target else None,
            "options": to_json(self.reference.options),
        }

    @property
    def spec_takes_target(self) -> bool:
        """Whether the factory is called with `target`."""
        return getattr(self.spec, "target", "none") != "none"


@dataclass(frozen=True, kw_only=True)
class DatasetPart(Part):
    """A chosen dataset with what planning knows of its data."""

    info: DatasetInfo
    train: TrainConfig
    train_digest: str
    key: str


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
        role: "baseline" for unimodal cells and the floor, else "cell".
        status: "run", or why not.
        reason: All reasons, joined by "; ".
    """

    cell_id: str
    dataset: DatasetPart
    encoders: Mapping[str, Part]
    encoders_label: str
    layouts: Mapping[str, Layout]
    fusion: Part | None
    objective: Part | None
    seed: int
    role: Literal["cell", "baseline"]
    status: PlanStatus
    reason: str
    runtime: Mapping[str, Any] = field(repr=False)

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
        }

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
        }

    def payload(self) -> dict[str, Any]:
        """Return what the process that trains this cell is given: plain JSON."""
        encoders = {
            name: {**part.to_json(), "layout": self.layouts[name], "tuning": part.reference.tuning, "digest": part.digest}
            for name, part in self.encoders.items()
        }
        fusion = None
        if self.fusion:
            fusion = {**self.fusion.to_json(), "level": self.fusion.spec.level, "accepts": self.fusion.spec.accepts}
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
        }


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A selection, ready to be walked through.

    Cells come in an order in which a run cut short is already informative: all baselines, then every combo once,
    then the same for the next seed.
    """

    config: RunConfig
    registry: Registry
    datasets: tuple[DatasetPart, ...]
    notes: tuple[str, ...]
    runtime: Mapping[str, Any] = field(repr=False)

    def cells(self) -> Iterator[Cell]:
        """Yield every cell; nothing is kept."""
        cells = itertools.chain.from_iterable(
            self._cells_of_seed(seed, first=position == 0) for position, seed in enumerate(self.config.seeds)
        )
        seen: set[str] = set()
        kept = (cell for cell in cells if not (cell.cell_id in seen or seen.add(cell.cell_id)))  # type: ignore[func-returns-value]
        return itertools.islice(kept, self.config.max_cells)

    def count(self) -> dict[str, int]:
        """Return how many cells there are to run, as baselines, incompatible and unavailable."""
        counts = {"cells": 0, "run": 0, "baselines": 0, "incompatible": 0, "unavailable": 0}
        for cell in self.cells():
            counts["cells"] += 1
            if cell.status == "run":
                counts["baselines" if cell.role == "baseline" else "run"] += 1
            else:
                counts[cell.status] += 1
        return counts

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

    def _cells_of_seed(self, seed: int, *, first: bool) -> Iterator[Cell]:
        grids = [_DatasetGrid(self, dataset) for dataset in self.datasets]
        if self.config.baselines:
            for grid in grids:
                yield from grid.baselines(seed, floor=first)
        for grid in grids:
            yield from grid.combos(seed)

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
        return _part(self.registry, single), _part(self.registry, supervised)

    def _parts(self, role: Literal["fusion", "objective"], patterns: Sequence[str]) -> list[Part]:
        if patterns:
            references = [ref for pattern in patterns for ref in self.registry.match(role, pattern)]
        else:
            references = [self.registry.resolve(role, entry.ref) for entry in self.registry.entries(role) if entry.spec.in_all]
        parts = {part.digest: part for part in (_part(self.registry, reference) for reference in references)}
        return [part for part in parts.values() if not _excluded(part.label, self.config.exclude)]


class _DatasetGrid:
    """The part of a plan that belongs to one dataset; what does not depend on the combo is worked out once."""

    def __init__(self, plan: Plan, dataset: DatasetPart) -> None:
        self.plan = plan
        self.dataset = dataset
        self.modalities = tuple(
            sorted(_chosen_modalities(dataset.info, plan.config.modality), key=lambda modality: modality.name)
        )
        self.encoders = {modality.name: _encoders_of(plan, dataset, modality) for modality in self.modalities}
        self._layouts: dict[tuple[str, str], tuple[Layout | None, str]] = {}
        self._fusion_reasons: dict[tuple[str, int], list[str]] = {}

    def baselines(self, seed: int, *, floor: bool) -> Iterator[Cell]:
        if floor:
            yield self._cell({}, None, None, seed, "baseline")
        parts = self.plan._baseline_parts
        if parts is None:
            return
        for name, encoders in self.encoders.items():
            for encoder in encoders:
                yield self._cell({name: encoder}, *parts, seed, "baseline")

    def combos(self, seed: int) -> Iterator[Cell]:
        for name, encoders in self.encoders.items():
            if not encoders:
                yield self._without_encoder(name, seed)
        names = [name for name, encoders in self.encoders.items() if encoders]
        for chosen in itertools.product(*(self.encoders[name] for name in names)):
            encoders = dict(zip(names, chosen))
            for fusion in self.plan._fusions:
                if fusion.spec.max_modalities == 1:
                    # A fusion of one modality is a unimodal model: one row per modality, never a product.
                    continue
                for objective in self.plan._objectives:
                    yield self._cell(encoders, fusion, objective, seed, "cell")
        singles = [part for part in self.plan._fusions if part.spec.max_modalities == 1]
        for fusion, objective in itertools.product(singles, self.plan._objectives):
            for name in names:
                for encoder in self.encoders[name]:
                    yield self._cell({name: encoder}, fusion, objective, seed, "baseline")

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
        digest = _digest(["no encoder", self.dataset.digest, name, seed])
        return self._make(digest, {}, f"{name}:-", {}, None, None, seed, "cell", "incompatible", [reason])

    def _cell(
        self,
        encoders: Mapping[str, Part],
        fusion: Part | None,
        objective: Part | None,
        seed: int,
        role: Literal["cell", "baseline"],
    ) -> Cell:
        reasons: list[str] = []
        layouts: dict[str, Layout] = {}
        missing: list[str] = [self.dataset.unavailable]
        if fusion is not None and objective is not None:
            for name, part in encoders.items():
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
        role: Literal["cell", "baseline"],
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
        )

    def _layout(self, name: str, encoder: Part, fusion: Part) -> tuple[Layout | None, str]:
        memo = (encoder.digest, fusion.spec.accepts)
        if memo not in self._layouts:
            layout = choose_layout(encoder.spec, fusion.spec)
            self._layouts[memo] = (layout, "")
        layout, _ = self._layouts[memo]
        if layout is not None:
            return layout, ""
        gives = " or ".join(_LAYOUT_WORDS[item] for item in encoder.spec.layouts)
        return None, (
            f"{fusion.spec.name} needs {_LAYOUT_WORDS[fusion.spec.accepts]}, "
            f"but {encoder.spec.name} gives {gives} for {name!r}"
        )

    def _reasons(self, fusion: Part, objective: Part, encoders: Mapping[str, Part]) -> list[str]:
        memo = (fusion.digest + objective.digest, ",".join(encoders))
        if memo not in self._fusion_reasons:
            missing = [name for name in self.dataset.info.missing if name in encoders]
            self._fusion_reasons[memo] = incompatibilities(  # type: ignore[index]
                self.dataset.info, len(encoders), missing, fusion.spec, objective.spec
            )
        reasons = list(self._fusion_reasons[memo])  # type: ignore[index]
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


def choose_layout(encoder: EncoderSpec, fusion: FusionSpec) -> Layout | None:
    """Return the layout to ask of an encoder for a fusion, or None when they do not fit.

    A sequence may become a vector by masked mean; a vector never poses as a sequence of one token.
    """
    if fusion.accepts in encoder.layouts:
        return fusion.accepts
    if fusion.accepts == "vector" and "sequence" in encoder.layouts:
        return "sequence"
    return None


def incompatibilities(
    info: DatasetInfo, num_modalities: int, missing: Sequence[str], fusion: FusionSpec, objective: ObjectiveSpec
) -> list[str]:
    """Return all reasons why a fusion and an objective cannot serve a dataset, apart from layouts."""
    reasons = []
    for spec in (fusion, objective):
        if num_modalities < spec.min_modalities:
            reasons.append(f"{spec.name} needs at least {spec.min_modalities} modalities, got {num_modalities}")
        if spec.max_modalities is not None and num_modalities > spec.max_modalities:
            reasons.append(f"{spec.name} takes at most {spec.max_modalities} modalities, got {num_modalities}")
        for task in info.tasks:
            if task.kind not in spec.task_kinds:
                reasons.append(f"{spec.name} does not serve {task.kind} tasks such as {task.name!r}")
    if missing and not fusion.missing:
        reasons.append(f"{fusion.name} does not take missing modalities, and some samples lack {', '.join(missing)}")
    if fusion.level not in objective.levels:
        reasons.append(f"{objective.name} does not work with {fusion.level}-level fusion such as {fusion.name}")
    return reasons


def quality_key(identity: Mapping[str, Any]) -> str:
    """Return the content key of a cell's result: 64 hex digits, whatever the order of keys in `identity`.

    Equal keys mean equal data, parts, versions, options, training settings and seeds; hardware is not in it.
    """
    return combine_key(
        _digest(identity["dataset"]),
        {name: _digest(part) for name, part in identity["encoders"].items()},
        _digest(identity["fusion"]) if identity["fusion"] else "",
        _digest(identity["objective"]) if identity["objective"] else "",
        _digest(identity["train"]),
        identity["master_seed"],
        identity["seed"],
    )


def combine_key(
    dataset: str, encoders: Mapping[str, str], fusion: str, objective: str, train: str, master_seed: int, seed: int
) -> str:
    """Join the digests of a cell's parts into its quality key."""
    joined = ",".join(f"{name}={encoders[name]}" for name in sorted(encoders))
    text = f"quality/{KEY_VERSION}|{dataset}|{joined}|{fusion}|{objective}|{train}|{master_seed}|{seed}"
    return hashlib.sha256(text.encode()).hexdigest()


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
        "master_seed": config.master_seed,
        "plugin_files": [str(path) for path in registry.plugin_files],
        **(runtime or {}),
    }
    plan = Plan(config=config, registry=registry, datasets=tuple(datasets), notes=tuple(notes), runtime=full)
    _check_selectors(plan)
    if not plan._fusions and not config.baselines:
        raise EmptySelection("the selection leaves no fusion; see `mmbench list fusions`")
    return plan


def _datasets(config: RunConfig, registry: Registry, notes: list[str]) -> list[DatasetPart]:
    if config.dataset:
        asked = [(pattern, reference) for pattern in config.dataset for reference in registry.match("dataset", pattern)]
    else:
        asked = [("", registry.resolve("dataset", entry.ref)) for entry in registry.entries("dataset") if entry.spec.in_all]
    parts: dict[str, DatasetPart] = {}
    for pattern, reference in asked:
        by_name = bool(pattern) and not any(character in pattern.split("[")[0] for character in "*?")
        try:
            part = _dataset_part(config, registry, reference)
        except MmbenchError as error:
            if by_name:
                raise
            notes.append(f"{reference.entry.ref} is left out: {error}")
            continue
        if not _excluded(part.label, config.exclude):
            parts[part.digest] = part
    return list(parts.values())


def _dataset_part(config: RunConfig, registry: Registry, reference: Reference) -> DatasetPart:
    spec = reference.entry.spec
    assert isinstance(spec, DatasetSpec)
    unavailable = _unavailable(reference)
    info = DatasetInfo(modalities=spec.modalities, tasks=spec.tasks, missing=spec.missing) if not spec.describe else None
    if info is None:
        try:
            describe = load_attribute(spec.describe)
            target = (reference.target,) if spec.target != "none" else ()
            info = describe(*target, **reference.options)
        except Unavailable as error:
            raise DataError(f"dataset {reference.entry.ref}: {error}") from None
        if not isinstance(info, DatasetInfo):
            raise DataError(f"dataset {reference.entry.ref}: describe must return DatasetInfo, got {type(info).__name__}")
    identity = _identity(reference)
    if info.fingerprint:
        # The content decides, wherever the files lie.
        identity.pop("target", None)
    identity["fingerprint"] = info.fingerprint
    train = resolve_train(config, spec.train)
    return DatasetPart(
        reference=reference,
        label=_label(registry, reference),
        identity=identity,
        digest=_digest(identity),
        unavailable=unavailable,
        info=info,
        train=train,
        train_digest=_digest(train.model_dump()),
        key=_digest({**identity, "info": to_json(info)}),
    )


def _encoders_of(plan: Plan, dataset: DatasetPart, modality: Modality) -> tuple[Part, ...]:
    general, specific = [], []
    for selector in plan.config.encoder:
        name, pattern = split_selector(selector)
        if not name:
            general += _matching(plan.registry, pattern, modality)
        elif name == modality.name or (name == modality.kind and name not in _names(dataset.info)):
            specific += plan.registry.match("encoder", pattern, modality.kind)
    references = specific or general
    if not references:
        entries = plan.registry.entries("encoder")
        references = [
            plan.registry.resolve("encoder", entry.ref, modality.kind)
            for entry in entries
            if isinstance(entry.spec, EncoderSpec) and modality.kind in entry.spec.kinds and entry.spec.in_all
        ]
        if plan.config.grid == "smoke":
            references = references[:1]
    parts = {part.digest: part for part in (_part(plan.registry, reference) for reference in references)}
    kept = [part for part in parts.values() if not _excluded(part.label, plan.config.exclude, modality.name)]
    return tuple(sorted(kept, key=lambda part: part.label))


def _matching(registry: Registry, pattern: str, modality: Modality) -> list[Reference]:
    """Encoders that an unqualified `-e PATTERN` means for this modality: those that accept its kind."""
    found = registry.match("encoder", pattern)
    return [ref for ref in found if isinstance(ref.entry.spec, EncoderSpec) and modality.kind in ref.entry.spec.kinds]


def split_selector(selector: str) -> tuple[str, str]:
    """Split `-e [MODALITY=]ENCODER[options]` into modality ("" when not given) and reference.

    >>> split_selector("image=cnn[width=32]")
    ('image', 'cnn[width=32]')
    >>> split_selector("cnn[width=32]")
    ('', 'cnn[width=32]')
    """
    head = selector.split("[", 1)[0]
    if "=" not in head:
        return "", selector
    name, _, pattern = selector.partition("=")
    return name.strip(), pattern.strip()


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


def _chosen_modalities(info: DatasetInfo, names: Sequence[str]) -> list[Modality]:
    return [modality for modality in info.modalities if not names or modality.name in names]


def _names(info: DatasetInfo) -> set[str]:
    return {modality.name for modality in info.modalities}


def _excluded(label: str, patterns: Sequence[str], modality: str = "") -> bool:
    """Whether `--exclude` names this part, as "gated", "vit*" or "image=vit*"."""
    for pattern in patterns:
        name, wanted = split_selector(pattern)
        if name in ("", modality) and (fnmatch.fnmatchcase(label, wanted) or label.split("[")[0] == wanted):
            return True
    return False


def _part(registry: Registry, reference: Reference) -> Part:
    identity = _identity(reference)
    return Part(
        reference=reference,
        label=_label(registry, reference),
        identity=identity,
        digest=_digest(identity),
        unavailable=_unavailable(reference),
    )


def _identity(reference: Reference) -> dict[str, Any]:
    entry = reference.entry
    identity = {"ref": entry.ref, "version": entry.version, "options": to_json(reference.options)}
    if reference.target:
        identity["target"] = reference.target
    if isinstance(entry.spec, EncoderSpec):
        identity["tuning"] = reference.tuning
    return identity


def _label(registry: Registry, reference: Reference) -> str:
    spec = reference.entry.spec
    name = spec.name if registry.is_unique(reference.entry) else reference.entry.ref
    target = reference.target
    if target:
        name += (":" if isinstance(spec, DatasetSpec) or ":" in target else "/") + target
    options = {key: value for key, value in reference.options.items() if spec.defaults.get(key) != value}
    if isinstance(spec, EncoderSpec) and reference.tuning != spec.tunings[0]:
        options["tuning"] = reference.tuning
    if not options:
        return name
    return f"{name}[{','.join(f'{key}={_shown(options[key])}' for key in sorted(options))}]"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(to_json(value), separators=(",", ":"))


def _unavailable(reference: Reference) -> str:
    absent = missing_packages(reference.entry.spec)
    if not absent:
        return ""
    return f"{reference.entry.ref} needs {', '.join(absent)}: pip install {' '.join(absent)}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()


def local_runtime(config: RunConfig, *, cache: Path, data: Path, jobs: int) -> dict[str, Any]:
    """Return what payloads carry about this machine: device, threads, protocol and folders."""
    return {
        "device": config.device,
        "threads": config.threads,
        "protocol": config.protocol,
        "contended": jobs > 1,
        "cache_dir": str(cache),
        "data_dir": str(data),
    }
