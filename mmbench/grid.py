"""All combos of one dataset, in a balanced order, each looked at for whether it can run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from mmbench.combo import ID_DIGITS, Cell, PlanStatus, cell_id_of
from mmbench.compatibility import choose_layout, frozen_reason, incompatibilities, layout_reason, reasons_apart
from mmbench.config import RunConfig
from mmbench.parts import DatasetPart, Part, digest, make_part
from mmbench.record import CHOOSING, CellRole
from mmbench.registry import Registry
from mmbench.selection import encoder_references, is_excluded
from mmbench.spec import EncoderSpec, Layout, Modality

#: Stands for the device among what cannot be used.
DEVICE = "--device"


class DatasetGrid:
    """The part of a plan that belongs to one dataset; what does not depend on the combo is worked out once.

    Args:
        config: The selection.
        registry: What is installed.
        runtime: What every payload carries besides the combo.
        dataset: Which.
        broken: As in `Plan.without`.
    """

    def __init__(
        self,
        config: RunConfig,
        registry: Registry,
        runtime: Mapping[str, Any],
        dataset: DatasetPart,
        broken: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config
        self.registry = registry
        self.runtime = runtime
        self.dataset = dataset
        self.broken = broken or {}
        chosen = (item for item in dataset.info.modalities if not config.modality or item.name in config.modality)
        self.modalities = tuple(sorted(chosen, key=lambda modality: modality.name))
        self._layouts: dict[tuple[str, str], Layout | None] = {}
        self._fusion_reasons: dict[tuple[str, ...], list[str]] = {}

    @cached_property
    def encoders(self) -> dict[str, tuple[Part, ...]]:
        """Those that the selection means, by modality."""
        return {modality.name: self._encoders_of(modality) for modality in self.modalities}

    def floor(self, seed: int) -> Cell:
        """Return the majority floor."""
        return self.cell({}, None, None, seed, "baseline")

    def alone(self, fusion: Part, objectives: Sequence[Part], seed: int) -> Iterator[Cell]:
        """Yield a fusion of one modality on every encoder."""
        chosen = [(name, encoder) for name, encoders in self.encoders.items() for encoder in encoders]
        for (name, encoder), objective in diagonal([chosen, objectives]):
            yield self.cell({name: encoder}, fusion, objective, seed, "baseline")

    def combos(self, fusion: Part, objectives: Sequence[Part], seed: int) -> Iterator[Cell]:
        """Yield a fusion over one encoder of each modality."""
        names = [name for name, encoders in self.encoders.items() if encoders]
        for *chosen, objective in diagonal([*(self.encoders[name] for name in names), objectives]):
            yield self.cell(dict(zip(names, chosen)), fusion, objective, seed, "cell")

    def without_encoder(self, seed: int) -> Iterator[Cell]:
        """Yield a cell for each modality that no encoder was chosen for; it says why."""
        return (self._without_encoder(name, seed) for name, encoders in self.encoders.items() if not encoders)

    def _without_encoder(self, name: str, seed: int) -> Cell:
        modality = next(item for item in self.modalities if item.name == name)
        accepting = [
            entry.spec.name
            for entry in self.registry.entries("encoder")
            if isinstance(entry.spec, EncoderSpec) and modality.kind in entry.spec.kinds
        ]
        reason = (
            f"no selected encoder accepts {name!r} ({modality.kind}); installed for this kind: {', '.join(accepting)}"
            if accepting
            else f"{self.registry.lacks('encoder', modality.kind)} (for {name!r})"
        )
        cell_id = digest(["no encoder", self.dataset.digest, name, seed])[:ID_DIGITS]
        return self._make(cell_id, {}, f"{name}:-", {}, None, None, seed, "cell", "incompatible", [reason])

    def cell(
        self,
        encoders: Mapping[str, Part],
        fusion: Part | None,
        objective: Part | None,
        seed: int,
        role: CellRole,
    ) -> Cell:
        """Return one combo, looked at for whether it can run."""
        reasons: list[str] = []
        layouts: dict[str, Layout] = {}
        missing: list[str] = [self._missing(self.dataset)]
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
            missing += [self._missing(part) for part in (*encoders.values(), fusion, objective)]
            missing.append(self.broken.get(DEVICE, ""))
        cell_id = cell_id_of(self.dataset, encoders, fusion, objective, self.config.master_seed, seed, role)
        label = "+".join(f"{name}:{part.label}" for name, part in encoders.items())
        status: PlanStatus = "run"
        if reasons:
            status = "incompatible"
        elif any(missing):
            status, reasons = "unavailable", list(dict.fromkeys(reason for reason in missing if reason))
        return self._make(cell_id, encoders, label, layouts, fusion, objective, seed, role, status, reasons)

    def _missing(self, part: Part) -> str:
        """Return why a part cannot be used, or ""."""
        return part.unavailable or (self.broken.get(part.reference.entry.ref, "") if self.broken else "")

    def _make(
        self,
        cell_id: str,
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
            cell_id=cell_id,
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
            runtime=self.runtime,
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
        config = self.config
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

    def _encoders_of(self, modality: Modality) -> tuple[Part, ...]:
        names = {item.name for item in self.dataset.info.modalities}
        references = encoder_references(self.config, self.registry, modality, names)
        parts = {part.digest: part for part in (make_part(self.registry, reference) for reference in references)}
        kept = [part for part in parts.values() if not is_excluded(part.label, self.config.exclude, modality.name)]
        return tuple(sorted(kept, key=lambda part: part.label))

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
        if self.registry.has_skip:
            reasons += self.registry.skip_reasons(
                {
                    "dataset": self.dataset.to_json(),
                    "encoders": {name: part.to_json() for name, part in encoders.items()},
                    "fusion": fusion.to_json(),
                    "objective": objective.to_json(),
                }
            )
        return reasons


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


def in_turn(lanes: Iterable[Iterator[Cell]]) -> Iterator[Cell]:
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


def _tuning(encoder: Part, layout: Layout, feature_cache: bool) -> str:
    """Return how an encoder is trained; "stored" where its features are computed once.

    Not as bf16, which travels as int16: looking at numbers as another type has no rule under `torch.func.vmap`.
    """
    stored = encoder.reference.tuning == "frozen" and layout != "pyramid" and feature_cache
    as_bf16 = encoder.reference.tuning_options.get("feature_dtype") == "bf16"
    return "stored" if stored and not as_bf16 else str(encoder.reference.tuning)
