"""Chosen parts: a reference with its label for tables, its identity for keys, and whether it can be used here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from mmbench.config import RunConfig, TrainConfig, resolve_train
from mmbench.dataset_paths import is_path
from mmbench.errors import DataError, MmbenchError, Unavailable
from mmbench.metric_catalog import primary_metric, with_ranking_metrics
from mmbench.part_code import call_function, lacking_packages
from mmbench.reference import complete_hints, format_reference
from mmbench.registry import Reference, Registry
from mmbench.spec import (
    AUGMENT_VERSION,
    MISSING_POLICIES,
    MISSING_VERSION,
    TUNING_OPTIONS,
    DatasetInfo,
    DatasetSpec,
    EncoderInfo,
    EncoderSpec,
)
from mmbench.spec_values import to_json

KEY_VERSION = 1


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
    """A chosen dataset with what planning knows of its data.

    Attributes:
        info: Its description; tasks have the ranking metrics that the selection chose.
        train: Settings of its training.
        metrics: Ranking metrics that the selection chose in place of the tasks' own, by task.
        key: Of its cached arrays, which no metric changes.
        subgroups: By column and test sample, the values that the report divides samples by; in no key.
    """

    info: DatasetInfo
    train: TrainConfig
    metrics: Mapping[str, str]
    key: str
    subgroups: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    @property
    def ranked_by(self) -> tuple[str, str]:
        """The task and metric by which reports rank the rows: those of the first task."""
        return self.info.tasks[0].name, primary_metric(self.info.tasks[0])

    @property
    def train_identity(self) -> dict[str, Any]:
        """Training settings that are part of the quality key, with a chosen metric that decides results.

        The metric of the only task chooses the epoch; that of a regression also decides the majority baseline. A task
        that keeps its own metric has none here.
        """
        by_metric = self.train.select == "primary" and len(self.info.tasks) == 1
        decisive = {
            task.name: self.metrics[task.name]
            for task in self.info.tasks
            if task.name in self.metrics and (by_metric or task.kind == "regression")
        }
        names = ",".join(f"{task}={name}" for task, name in decisive.items())
        chosen = next(iter(decisive.values()), "") if len(self.info.tasks) == 1 else names
        return {**self.train.model_dump(), **({"metric": chosen} if chosen else {})}

    @cached_property
    def train_digest(self) -> str:
        """Hash of `train_identity`."""
        return digest(self.train_identity)

    @property
    def full_reference(self) -> str:
        """The reference that selects this dataset again."""
        target = f":{self.reference.target}" if self.reference.target else ""
        return format_reference(f"{self.reference.entry.ref}{target}", _given_options(self.reference))

    def short_reference(self, modalities: str) -> str:
        """Return what somebody types to select this dataset with other modalities, for messages."""
        given = [f"{key}={value}" for key, value in self.reference.options.items()]
        name = self.reference.target or self.reference.entry.spec.name
        return f"{name}[{','.join([*given, modalities])}]"


def _given_options(reference: Reference) -> dict[str, Any]:
    """Return the options of a dataset's reference that differ from its defaults, and its name."""
    defaults = reference.entry.spec.defaults
    given = {key: value for key, value in reference.options.items() if key not in defaults or defaults[key] != value}
    return {**given, **({"name": reference.name} if reference.name else {})}


def _complete_hints(reference: Reference, message: str) -> str:
    """Return a message of a dataset with its recommended options as the whole reference to type."""
    spec, target = reference.entry.spec, reference.target
    head = spec.name if not target else target if is_path(target) else f"{spec.name}:{target}"
    subgroups = {"subgroups": "+".join(reference.subgroups)} if reference.subgroups else {}
    return complete_hints(message, head, {**_given_options(reference), **subgroups})


def make_dataset_part(config: RunConfig, registry: Registry, reference: Reference) -> DatasetPart:
    spec = reference.entry.spec
    assert isinstance(spec, DatasetSpec)
    unavailable = _unavailable(reference)
    info = (
        DatasetInfo(modalities=spec.modalities, tasks=spec.tasks, missing=spec.missing) if not spec.describe else None
    )
    if info is None:
        try:
            info = call_plugin(spec.describe, reference)
        except Unavailable as error:
            raise DataError(f"dataset {reference.entry.ref}: {_complete_hints(reference, str(error))}") from None
        except MmbenchError as error:
            error.args = (_complete_hints(reference, str(error)),)
            raise
        if not isinstance(info, DatasetInfo):
            raise DataError(
                f"dataset {reference.entry.ref}: describe must return DatasetInfo, got {type(info).__name__}"
            )
    identity = _identity(reference)
    info = replace(info, notes=tuple(_complete_hints(reference, note) for note in info.notes))
    if info.fingerprint:
        # The content decides, wherever the files lie.
        identity.pop("target", None)
    identity["fingerprint"] = info.fingerprint
    train = resolve_train(config, spec.train)
    key = digest({**identity, "info": _content(info)})
    tasks = with_ranking_metrics(info.tasks, config.metric)
    before = {task.name: primary_metric(task) for task in info.tasks}
    return DatasetPart(
        reference=reference,
        label=reference.name or info.title or label_of(registry, reference),
        identity=identity,
        digest=digest(identity),
        unavailable=unavailable,
        info=replace(info, tasks=tasks),
        train=train,
        subgroups=_subgroups(reference, spec),
        metrics={task.name: task.primary for task in tasks if primary_metric(task) != before[task.name]},
        key=key,
    )


def _subgroups(reference: Reference, spec: DatasetSpec) -> dict[str, dict[str, str]]:
    """Return the subgroup of each test sample, by the columns in the option `subgroups`; {} without the option."""
    if not reference.subgroups:
        return {}
    try:
        found = call_function(
            reference.entry, spec.subgroups, reference.target, list(reference.subgroups), **reference.options
        )
        return {
            str(column): {str(sample): str(value) for sample, value in values.items()}
            for column, values in found.items()
        }
    except MmbenchError:
        raise
    except Exception as error:
        raise DataError(f"{spec.subgroups} failed: {type(error).__name__}: {error}") from error


def _content(info: DatasetInfo) -> dict[str, Any]:
    """Return what of a dataset's description depends on its data, and not on what it is called."""
    return {name: value for name, value in to_json(info).items() if name not in ("title", "notes", "inferred")}


def make_part(registry: Registry, reference: Reference) -> Part:
    identity = _identity(reference)
    unavailable = _unavailable(reference)
    spec = reference.entry.spec
    described = isinstance(spec, EncoderSpec) and spec.describe and (reference.tuning != "scratch" or spec.wraps)
    if described and not unavailable:
        assert isinstance(spec, EncoderSpec)
        try:
            identity.update(_identity_of_weights(reference, spec))
        except Unavailable as error:
            unavailable = f"{reference.entry.ref}: {error}"
        if identity.get("fingerprint"):
            # The content decides, wherever the files lie.
            identity.pop("target", None)
    return Part(
        reference=reference,
        label=label_of(registry, reference),
        identity=identity,
        digest=digest(identity),
        unavailable=unavailable,
    )


def _identity_of_weights(reference: Reference, spec: EncoderSpec) -> dict[str, Any]:
    info = call_plugin(spec.describe, reference, tuning=reference.tuning)
    if not isinstance(info, EncoderInfo):
        raise Unavailable(f"its describe must return EncoderInfo, got {type(info).__name__}")
    return {"fingerprint": info.fingerprint} if info.fingerprint else {}


def call_plugin(function: str, reference: Reference, **facts: Any) -> Any:
    """Call a plugin's `describe` or `prepare`, whose every failure but its own words is a fault of that plugin.

    Raises:
        MmbenchError: as the plugin raised it.
        Unavailable: it raised anything else.
    """
    takes_target = getattr(reference.entry.spec, "target", "none") != "none"
    target = (reference.target,) if takes_target else ()
    try:
        return call_function(reference.entry, function, *target, **facts, **reference.options)
    except MmbenchError:
        raise
    except Exception as error:
        raise Unavailable(f"{function} failed: {type(error).__name__}: {error}") from error


def _identity(reference: Reference) -> dict[str, Any]:
    entry = reference.entry
    identity = {"ref": entry.ref, "version": entry.version, "options": to_json(reference.options)}
    if reference.target:
        identity["target"] = reference.target
    if isinstance(entry.spec, EncoderSpec):
        identity["tuning"] = reference.tuning
        if reference.tuning_options:
            identity["tuning_options"] = to_json(reference.tuning_options)
    if reference.augment:
        identity["augment"] = {"names": list(reference.augment), "version": AUGMENT_VERSION}
    if reference.missing != MISSING_POLICIES[0]:
        identity["missing"] = {"policy": reference.missing, "version": MISSING_VERSION}
    return identity


def label_of(registry: Registry, reference: Reference) -> str:
    """Return what tables show: the short name, its target, and options that differ from their defaults."""
    spec = reference.entry.spec
    name = spec.name if registry.is_unique(reference.entry) else reference.entry.ref
    target = reference.target
    if target:
        name += (":" if isinstance(spec, DatasetSpec) or ":" in target else "/") + target
    options = {key: value for key, value in reference.options.items() if spec.defaults.get(key) != value}
    if isinstance(spec, EncoderSpec):
        if reference.tuning != spec.tunings[0]:
            options["tuning"] = reference.tuning
        usual = TUNING_OPTIONS[reference.tuning]  # type: ignore[index]
        options.update({key: value for key, value in reference.tuning_options.items() if usual[key] != value})
    if reference.augment:
        options["augment"] = "+".join(reference.augment)
    if reference.missing != MISSING_POLICIES[0]:
        options["missing"] = reference.missing
    if not options:
        return name
    return f"{name}[{','.join(f'{key}={_shown(options[key])}' for key in sorted(options))}]"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(to_json(value), separators=(",", ":"))


def _unavailable(reference: Reference) -> str:
    spec = reference.entry.spec
    lacking = lacking_packages(reference.entry)
    if lacking:
        return lacking
    options = [name for name in spec.must_give if reference.options.get(name) in ("", None)]
    if options:
        given = ",".join(f"{name}=…" for name in options)
        return f"{reference.entry.ref} must be given {', '.join(options)}: write {spec.name}[{given}]"
    return ""


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()


def quality_key(identity: Mapping[str, Any]) -> str:
    """Return the content key of a cell's result: 64 hex digits, whatever the order of keys in `identity`.

    Equal keys mean equal data, parts, versions, options, training settings and seeds; hardware is not in it.
    """
    return combine_key(
        digest(identity["dataset"]),
        {name: digest(part) for name, part in identity["encoders"].items()},
        digest(identity["fusion"]) if identity["fusion"] else "",
        digest(identity["objective"]) if identity["objective"] else "",
        digest(identity["train"]),
        identity["master_seed"],
        identity["seed"],
        val_only=identity.get("val_only", False),
    )


def combine_key(
    dataset: str,
    encoders: Mapping[str, str],
    fusion: str,
    objective: str,
    train: str,
    master_seed: int,
    seed: int,
    *,
    val_only: bool = False,
) -> str:
    """Join the digests of a cell's parts into its quality key."""
    joined = ",".join(f"{name}={encoders[name]}" for name in sorted(encoders))
    text = f"quality/{KEY_VERSION}|{dataset}|{joined}|{fusion}|{objective}|{train}|{master_seed}|{seed}"
    if val_only:
        text += "|val only"
    return hashlib.sha256(text.encode()).hexdigest()


def perf_key(identity: Mapping[str, Any], setup: Mapping[str, Any]) -> str:
    """Return the content key of a cost: 64 hex digits, whatever the order of keys.

    Equal keys mean equal data, parts, versions and options, measured the same way on equal hardware and software. What
    decides only the quality of a result (seeds, epochs, learning rate) is not in it.

    Args:
        identity: As for `quality_key`.
        setup: Plain JSON: device, driver, torch, version of the measuring code, threads, precision, batch size,
            optimiser, compilation, memory format and protocol, as `mmbench.cell.perf_facts` gathers them.
    """
    combo = {role: identity[role] for role in ("dataset", "encoders", "fusion", "objective")}
    text = f"perf/{KEY_VERSION}|{digest(combo)}|{digest(dict(setup))}"
    return hashlib.sha256(text.encode()).hexdigest()
