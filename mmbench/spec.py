"""The words of mmbench: frozen descriptors that say everything about a plugin's parts without importing them.

A descriptor states facts (kinds, layouts, limits, default options, version, licence) and names its code as
``"package.module:attribute"``. Planning reads facts only, so it needs neither torch nor the plugin's dependencies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

from mmbench.errors import SpecError
from mmbench.spec_values import (
    MODULE_NAME,
    check_count,
    check_flag,
    check_part_name,
    check_reference,
    check_text,
    check_word,
    checked_members,
    checked_words,
    frozen_json,
    is_number,
)

API_VERSION = 1

Kind: TypeAlias = Literal["image", "audio", "text", "video", "tabular", "sequence"]
Split: TypeAlias = Literal["train", "val", "test"]
Layout: TypeAlias = Literal["vector", "sequence", "pyramid"]
TaskKind: TypeAlias = Literal["multiclass", "multilabel", "regression", "retrieval"]
Tuning: TypeAlias = Literal["scratch", "frozen", "finetune", "adapter"]
FusionLevel: TypeAlias = Literal["feature", "decision"]
Target: TypeAlias = Literal["none", "optional", "required"]
MissingPolicy: TypeAlias = Literal["mask", "drop", "zero", "mean", "interpolate", "impute", "learned-token"]
Options: TypeAlias = Mapping[str, Any]

KINDS: tuple[Kind, ...] = get_args(Kind)
SPLITS: tuple[Split, ...] = get_args(Split)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
TASK_KINDS: tuple[TaskKind, ...] = get_args(TaskKind)
TUNINGS: tuple[Tuning, ...] = get_args(Tuning)
#: What a fusion's reference may say of missing modalities, the default first: `gated[missing=impute]`.
MISSING_POLICIES: tuple[MissingPolicy, ...] = get_args(MissingPolicy)
#: Bumped when a policy other than the default gives other results.
MISSING_VERSION = "1"
#: What a reference may say of each tuning beside it, with the defaults: `resnet18[tuning=finetune,lr_factor=0.05]`.
TUNING_OPTIONS: Mapping[Tuning, Options] = MappingProxyType(
    {
        "scratch": {},
        "frozen": {"feature_dtype": "fp32", "standardise": True},
        "finetune": {"lr_factor": 0.1, "freeze_epochs": 0, "gradual": False},
        "adapter": {"lr_factor": 1.0, "lora_rank": 8, "lora_alpha": 16.0},
    }
)
TUNING_NAMES: tuple[str, ...] = tuple(sorted({name for options in TUNING_OPTIONS.values() for name in options}))
#: What an encoder's reference may ask to be done to its inputs in training, `cnn[augment="crop+flip"]`: by kind, in the
#: order of doing.
AUGMENTATIONS: Mapping[Kind, tuple[str, ...]] = MappingProxyType(
    {
        "image": ("crop", "flip", "rotate", "scale", "color"),
        "audio": ("noise", "shift", "time-mask", "frequency-mask"),
        "text": ("drop",),
        "video": ("crop", "flip", "noise", "drop"),
        "tabular": ("noise", "drop"),
        "sequence": ("noise", "drop"),
    }
)
#: Bumped when an augmentation gives other results.
AUGMENT_VERSION = "1"
#: Options that no descriptor may have, by role: mmbench itself gives the factory, or reads, what is so named.
RESERVED_OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "encoder": ("modality", "layout", "target", "tuning", "augment", *TUNING_NAMES),
        "fusion": ("dims", "tasks", "missing"),
        "objective": ("dims", "tasks"),
        "dataset": ("root", "target", "subgroups"),
        "tracker": ("folder",),
        "executor": ("folder", "jobs", "threads"),
    }
)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Modality:
    """One named input of a dataset.

    Attributes:
        name: As users write it, "front_camera"; letters, digits, "_", "-", "."; at most 64.
        kind: What its samples are; decides which encoders accept it.
        facts: What is known of its samples: image ``channels`` and ``size`` [H, W], audio ``rate`` (Hz),
            tabular and sequence ``num_features``. Facts left out are read off all samples of train (medians).
    """

    name: str
    kind: Kind
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_part_name("a modality", self.name)
        check_word(f"modality {self.name!r}: kind", self.kind, KINDS)
        _set(self, "facts", frozen_json(f"modality {self.name!r}: facts", self.facts))


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One thing to predict from a sample. The core owns its head, loss and metrics.

    Attributes:
        name: As it appears in results; letters, digits, "_", "-", "."; at most 64.
        kind: "multiclass" (target: an int), "multilabel" (K zeros and ones), "regression" (K floats), "retrieval" (the
            number of a group of samples that are each other's partners across modalities: an int).
        num_outputs: Classes, labels or values: K. At least 2 for multiclass, else at least 1. For retrieval the width
            of the vectors that are compared.
        class_names: K names for classes or labels, or empty.
        primary: The metric that chooses the epoch and leads the tables; "" takes the kind's usual one.
        weight: Factor of this task's loss beside other tasks'.
    """

    name: str
    kind: TaskKind
    num_outputs: int
    class_names: tuple[str, ...] = ()
    primary: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_part_name("a task", self.name)
        where = f"task {self.name!r}"
        check_word(f"{where}: kind", self.kind, TASK_KINDS)
        check_count(f"{where}: num_outputs", self.num_outputs, minimum=2 if self.kind == "multiclass" else 1)
        if isinstance(self.class_names, str) or not isinstance(self.class_names, Iterable):
            raise SpecError(f"{where}: class_names must be a tuple of strings, got {self.class_names!r}")
        _set(self, "class_names", tuple(str(name) for name in self.class_names))
        if self.class_names and len(self.class_names) != self.num_outputs:
            raise SpecError(f"{where} has num_outputs={self.num_outputs} but {len(self.class_names)} class_names")
        check_text(f"{where}: primary", self.primary)
        if not (is_number(self.weight) and self.weight >= 0):
            raise SpecError(f"{where}: weight must be finite and not negative, got {self.weight!r}")


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What planning must know of a dataset: returned by `DatasetSpec.describe`, or made from the descriptor.

    Attributes:
        modalities: The dataset's inputs.
        tasks: What to predict; at least one.
        missing: Names of the modalities that some samples lack.
        fingerprint: Changes whenever the data change (a hash over content); "" when `version` says it all.
        title: A short name for tables, such as that of a file; "" shows the reference.
        notes: What people should see of how the data were understood, and warnings ("warning: …"), a line each.
        inferred: Whether the modalities were guessed, because no option named any.
    """

    modalities: tuple[Modality, ...]
    tasks: tuple[TaskSpec, ...]
    missing: tuple[str, ...] = ()
    fingerprint: str = ""
    title: str = ""
    notes: tuple[str, ...] = ()
    inferred: bool = False

    def __post_init__(self) -> None:
        _set(self, "modalities", checked_members("modalities", self.modalities, Modality))
        _set(self, "tasks", checked_members("tasks", self.tasks, TaskSpec))
        _set(self, "missing", checked_words("missing", self.missing))
        check_text("fingerprint", self.fingerprint)
        check_text("title", self.title)
        _set(self, "notes", checked_words("notes", self.notes))
        check_flag("inferred", self.inferred)
        unknown = set(self.missing) - {modality.name for modality in self.modalities}
        if unknown:
            raise SpecError(f"missing names modalities that are not there: {', '.join(sorted(unknown))}")


@dataclass(frozen=True, kw_only=True)
class AssetSpec:
    """A file of weights or data that a part needs and `mmbench prepare` can fetch.

    Attributes:
        name: File or repository name, as the person who has to fetch it will look for it; a relative path under the
            part's own folder where `url` is a file.
        url: Where it comes from: ``https://…`` for one file, ``hf:ORGANISATION/NAME[@REVISION]`` for a repository of
            the Hugging Face hub (of models for an encoder, of data for a dataset), kept in that library's own cache;
            "" when only a person can get it.
        sha256: Hex digest of the file, or "" where the source publishes none.
        size_bytes: Size, or None when unknown.
        licence: SPDX name or the publisher's words.
        files: Glob patterns of the files wanted of a repository; empty for all.
        unpack: Whether the file is a zip or tar archive to unpack beside itself; links become copies.
    """

    name: str
    url: str = ""
    sha256: str = ""
    size_bytes: int | None = None
    licence: str = ""
    files: tuple[str, ...] = ()
    unpack: bool = False

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name.strip()):
            raise SpecError(f"asset: name must say which file or repository to look for, got {self.name!r}")
        where = f"asset {self.name!r}"
        _set(self, "files", checked_words(f"{where}: files", self.files))
        check_flag(f"{where}: unpack", self.unpack)
        for text in ("url", "sha256", "licence"):
            check_text(f"{where}: {text}", getattr(self, text))
        if self.sha256 and not _SHA256.fullmatch(self.sha256):
            raise SpecError(f"{where}: sha256 must be 64 lower-case hex digits, got {self.sha256!r}")
        if self.size_bytes is not None:
            check_count(f"{where}: size_bytes", self.size_bytes, minimum=0)


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """What planning must know of an encoder whose weights lie in files: returned by `EncoderSpec.describe`.

    Attributes:
        fingerprint: Changes whenever the weights change (a hash over the files, a commit of their repository); it
            stands for the target in keys, so that a moved folder changes no result.
        licence: Of the weights, where they say it.
    """

    fingerprint: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        check_text("fingerprint", self.fingerprint)
        check_text("licence", self.licence)


@dataclass(frozen=True, kw_only=True)
class _Spec:
    """What every descriptor of a plugin's part states."""

    name: str
    factory: str
    version: str
    defaults: Options = field(default_factory=dict)
    summary: str = ""
    paper: str = ""
    licence: str = ""
    requires: tuple[str, ...] = ()
    must_give: tuple[str, ...] = ()
    in_all: bool = True

    def __post_init__(self) -> None:
        role = role_of(self)
        if not (isinstance(self.name, str) and _NAME.fullmatch(self.name)):
            raise SpecError(
                f"{self.name!r} cannot name {role}: use 1 to 64 of a-z, 0-9, '.', '_', '-', "
                "starting with a letter or digit"
            )
        where = f"{role} {self.name!r}"
        check_reference(f"{where}: factory", self.factory)
        if not (isinstance(self.version, str) and self.version):
            raise SpecError(f"{where}: version must be a non-empty string, bumped when results would change")
        for text in ("summary", "paper", "licence"):
            check_text(f"{where}: {text}", getattr(self, text))
        check_flag(f"{where}: in_all", self.in_all)
        _set(self, "defaults", frozen_json(f"{where}: defaults", self.defaults))
        reserved = sorted(self.defaults.keys() & set(RESERVED_OPTIONS[role]))
        if reserved:
            raise SpecError(f"{where}: defaults must not hold {reserved[0]!r}, which mmbench itself gives")
        _set(self, "requires", checked_words(f"{where}: requires", self.requires))
        for package in self.requires:
            if not MODULE_NAME.fullmatch(package):
                raise SpecError(f"{where}: requires must hold names to import, as 'sklearn', got {package!r}")
        _set(self, "must_give", checked_words(f"{where}: must_give", self.must_give))
        for option in self.must_give:
            if option not in self.defaults:
                raise SpecError(f"{where}: must_give names {option!r}, which defaults do not hold")


@dataclass(frozen=True, kw_only=True)
class EncoderSpec(_Spec):
    """A network for one modality.

    The factory is called as ``factory(modality, layout, **options)`` and returns an ``nn.Module`` with
    ``feature_dim``, ``transform(sample) -> array`` and ``forward(values, mask) -> Features``. Where there is anything
    to choose it is also told ``tuning``, and ``target``: "scratch" wants fresh weights, every other tuning the
    pretrained ones. Freezing, learning rates and adapters are the core's work.

    Attributes:
        name: Unique among the encoders that accept the same kind, within reach of the user's short name.
        factory: ``"package.module:attribute"``.
        version: Bumped when results would change.
        kinds: Kinds of modality it accepts.
        layouts: Layouts it can produce; the factory is told which one is wanted.
        tunings: How it can be trained, its usual way first.
        target: Whether a reference carries more after the name, as in ``timm/resnet18``.
        describe: ``"package.module:function"``, called while planning as ``describe(target, tuning=…, **options) ->
            EncoderInfo`` (without target where it takes none) for every tuning but "scratch"; it raises `Unavailable`
            when the weights are not at hand, answers within a second, uses no network, imports no torch.
        vectorises: Whether several seeds may be trained in one vectorised pass (`--together auto`): every operation
            of its forward has a rule under ``torch.func.vmap``, no forward changes a buffer, ``nn.Dropout`` is all
            that it draws at random, and padding changes nothing.
        wraps: Whether the target names another encoder, as in ``frames/timm/resnet18``: `describe` is then called for
            "scratch" too, and its fingerprint covers what is inside.
        weights: Files it needs; `mmbench prepare` puts them into `mmbench.config.part_root(data_dir(), "DIST/NAME")`.
        prepare: ``"package.module:function"``, called as `describe` is by `mmbench prepare`; returns the `AssetSpec`
            of the target's files. It may import anything, and use the network.
        defaults: Every option with its default; the only source of hyperparameters.
        requires: Importable names of the packages its code needs.
        must_give: Options without a usable default; a cell that was given none is unavailable, with what to write.
        in_all: Whether ``--grid all`` takes it.
        summary, paper, licence: For the people who read `mmbench show` and the report.
    """

    kinds: tuple[Kind, ...]
    layouts: tuple[Layout, ...] = ("vector",)
    tunings: tuple[Tuning, ...] = ("scratch",)
    target: Target = "none"
    vectorises: bool = False
    wraps: bool = False
    describe: str = ""
    weights: tuple[AssetSpec, ...] = ()
    prepare: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"encoder {self.name!r}"
        _set(self, "kinds", checked_words(f"{where}: kinds", self.kinds, KINDS, at_least_one=True))
        _set(self, "layouts", checked_words(f"{where}: layouts", self.layouts, LAYOUTS, at_least_one=True))
        _set(self, "tunings", checked_words(f"{where}: tunings", self.tunings, TUNINGS, at_least_one=True))
        check_word(f"{where}: target", self.target, get_args(Target))
        check_flag(f"{where}: vectorises", self.vectorises)
        check_flag(f"{where}: wraps", self.wraps)
        if self.wraps and not (self.target == "required" and self.describe):
            raise SpecError(f"{where} wraps another encoder, so it needs target='required' and describe")
        _set(self, "weights", checked_members(f"{where}: weights", self.weights, AssetSpec, at_least_one=False))
        for function in ("describe", "prepare"):
            if getattr(self, function):
                check_reference(f"{where}: {function}", getattr(self, function))

    @property
    def takes_tuning(self) -> bool:
        """Whether the factory is told how it will be trained."""
        return self.tunings != ("scratch",)


@dataclass(frozen=True, kw_only=True)
class FusionSpec(_Spec):
    """A network that joins the features of several modalities.

    The factory is called as ``factory(dims, tasks, **options)`` with ``dims`` the feature width by modality name.
    A feature-level module has ``fused_dim`` and maps ``{modality: Features}`` to (B, fused_dim); a decision-level
    module maps ``(task name, {modality: Features of logits})`` to logits (B, K).

    Attributes:
        accepts: The layout it needs of every modality.
        level: "feature" or "decision".
        min_modalities, max_modalities: How many it can join; None is no limit.
        task_kinds: Kinds of task it serves.
        missing: Whether it honours masks, so that absent modalities may reach it.
        vectorises: As of an encoder.
        solves: Ceiling sets that it must solve by its form.
        cannot_solve: Ceiling sets that it cannot solve, each with the reason.
    """

    accepts: Layout = "vector"
    level: FusionLevel = "feature"
    min_modalities: int = 2
    max_modalities: int | None = None
    task_kinds: tuple[TaskKind, ...] = ("multiclass", "multilabel", "regression")
    missing: bool = False
    vectorises: bool = False
    solves: tuple[str, ...] = ()
    cannot_solve: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"fusion {self.name!r}"
        check_word(f"{where}: accepts", self.accepts, LAYOUTS)
        check_word(f"{where}: level", self.level, get_args(FusionLevel))
        check_count(f"{where}: min_modalities", self.min_modalities, minimum=1)
        if self.max_modalities is not None:
            check_count(f"{where}: max_modalities", self.max_modalities, minimum=self.min_modalities)
        _set(self, "task_kinds", checked_words(f"{where}: task_kinds", self.task_kinds, TASK_KINDS, at_least_one=True))
        _set(self, "solves", checked_words(f"{where}: solves", self.solves))
        check_flag(f"{where}: missing", self.missing)
        check_flag(f"{where}: vectorises", self.vectorises)
        _set(self, "cannot_solve", frozen_json(f"{where}: cannot_solve", self.cannot_solve))
        for name, reason in self.cannot_solve.items():
            if not (isinstance(reason, str) and reason):
                raise SpecError(f"{where}: cannot_solve must give the reason for {name!r}, got {reason!r}")
        both = sorted(set(self.solves) & set(self.cannot_solve))
        if both:
            raise SpecError(f"{where}: {both[0]!r} stands both in solves and in cannot_solve")


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec(_Spec):
    """What training minimises and how gradients are used.

    The factory is called as ``factory(dims, tasks, **options)`` and returns an ``nn.Module`` whose
    ``forward(step)`` gives named losses; they are summed. It may have ``after_backward(step)``, which may change
    gradients; ``needs_unimodal_heads``, for heads on each modality alone; ``before_epoch(start)``, which sees the model
    and training data before each epoch; and ``held_out_share``, the share of train that no step is taken on, so that
    ``start.held_out()`` tells how training generalises. ``before_training(sample_ids)`` is told once which samples
    train holds; a batch's ``rows`` say where its samples stand among them. ``observe_targets(targets)`` is given the
    training samples' targets by task once, before the first step.

    Attributes:
        min_modalities, max_modalities: How many modalities it can serve; None is no limit.
        task_kinds: Kinds of task it serves.
        levels: Levels of fusion it works with.
        vectorises: As of an encoder; also, that it draws nothing from ``step.generator`` and has none
            of `after_backward`, `before_epoch` and `before_training`.
    """

    min_modalities: int = 1
    max_modalities: int | None = None
    task_kinds: tuple[TaskKind, ...] = ("multiclass", "multilabel", "regression")
    levels: tuple[FusionLevel, ...] = ("feature", "decision")
    vectorises: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"objective {self.name!r}"
        check_flag(f"{where}: vectorises", self.vectorises)
        check_count(f"{where}: min_modalities", self.min_modalities, minimum=1)
        if self.max_modalities is not None:
            check_count(f"{where}: max_modalities", self.max_modalities, minimum=self.min_modalities)
        _set(self, "task_kinds", checked_words(f"{where}: task_kinds", self.task_kinds, TASK_KINDS, at_least_one=True))
        _set(self, "levels", checked_words(f"{where}: levels", self.levels, get_args(FusionLevel), at_least_one=True))


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(_Spec):
    """A dataset with train, val and test splits.

    The factory is called as ``factory(root, **options)`` and returns ``{"train": …, "val": …, "test": …}``, each a
    sequence of `mmbench.data.Sample`. ``root`` is the folder that the core gives this dataset to keep files in.

    Attributes:
        modalities, tasks: What a sample holds, where that does not depend on options.
        missing: Names of modalities that some samples lack.
        describe: ``"package.module:function"``, called as ``describe(target, **options) -> DatasetInfo`` where the
            above depends on options or on files; it must import neither torch nor pandas.
        target: Whether a reference carries more after the name, as in ``manifest:PATH.csv``.
        open_options: Whether options beyond `defaults` are allowed, as for the columns of a manifest. The factory then
            takes its folder by position only, as in ``def factory(root, /, **options)``.
        accepts: ``"package.module:function"``, called with a path that was given in place of a dataset's name; returns
            whether this dataset reads it as its target. It must import neither torch nor pandas.
        ceilings: Best reachable test score by subset of modalities ("image", "audio+image"; names sorted), where
            that is known by construction; the primary metric of the first task.
        train: Training settings that suit this dataset, overridden by the user's.
        cell_time_s: Measured seconds that a typical cell takes on one CPU core, for estimates.
        files: What `mmbench prepare` fetches into the dataset's folder.
        prepare: ``"package.module:function"``, called as ``prepare(target, **options)`` by `mmbench prepare` where the
            files depend on target or options; returns their `AssetSpec`.
        subgroups: ``"package.module:function"``, called as ``subgroups(target, columns, **options)`` while planning
            where a reference says ``[subgroups=sex+site]``: {column: {id of a test sample: value}}. No result depends
            on it; it must import neither torch nor pandas.
    """

    modalities: tuple[Modality, ...] = ()
    tasks: tuple[TaskSpec, ...] = ()
    missing: tuple[str, ...] = ()
    describe: str = ""
    target: Target = "none"
    open_options: bool = False
    accepts: str = ""
    ceilings: Mapping[str, float] = field(default_factory=dict)
    train: Options = field(default_factory=dict)
    cell_time_s: float | None = None
    files: tuple[AssetSpec, ...] = ()
    prepare: str = ""
    subgroups: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"dataset {self.name!r}"
        if self.subgroups:
            check_reference(f"{where}: subgroups", self.subgroups)
        _set(self, "files", checked_members(f"{where}: files", self.files, AssetSpec, at_least_one=False))
        if self.prepare:
            check_reference(f"{where}: prepare", self.prepare)
        if self.accepts:
            check_reference(f"{where}: accepts", self.accepts)
        check_word(f"{where}: target", self.target, get_args(Target))
        check_flag(f"{where}: open_options", self.open_options)
        _set(self, "ceilings", frozen_json(f"{where}: ceilings", self.ceilings))
        for modalities, ceiling in self.ceilings.items():
            if modalities != "+".join(sorted(modalities.split("+"))):
                raise SpecError(f"{where}: ceilings must name modalities sorted and joined by '+', got {modalities!r}")
            if not is_number(ceiling):
                raise SpecError(f"{where}: the ceiling of {modalities!r} must be a number, got {ceiling!r}")
        if self.cell_time_s is not None and not (is_number(self.cell_time_s) and self.cell_time_s > 0):
            raise SpecError(f"{where}: cell_time_s must be a positive number of seconds, got {self.cell_time_s!r}")
        _set(self, "train", frozen_json(f"{where}: train", self.train))
        if self.describe:
            check_reference(f"{where}: describe", self.describe)
            for facts, fact_type in (("modalities", Modality), ("tasks", TaskSpec)):
                given = checked_members(f"{where}: {facts}", getattr(self, facts), fact_type, at_least_one=False)
                _set(self, facts, given)
            _set(self, "missing", checked_words(f"{where}: missing", self.missing))
        else:
            try:
                info = DatasetInfo(modalities=self.modalities, tasks=self.tasks, missing=self.missing)
            except SpecError as error:
                raise SpecError(f"{where}: {error} (or give `describe`)") from None
            _set(self, "modalities", info.modalities)
            _set(self, "tasks", info.tasks)
            _set(self, "missing", info.missing)


@dataclass(frozen=True, kw_only=True)
class TrackerSpec(_Spec):
    """Something that is told how a run goes, such as a tool that draws curves; it changes no result and no key.

    The factory is called as ``factory(folder, **options)`` in the process that keeps the journal, where nothing imports
    torch; ``folder`` is the tracker's own, inside the run. What it returns may have `on_run_start(info)`,
    `on_cell_end(row, record)`, `on_run_end(summary)`, and `on_epoch(row, epoch)` to be told while cells train
    (`mmbench.trackers.Tracker`). Calls come one after the other from one thread. A tracker that raises, or takes longer
    than 10 s over a call, is left out of the rest of the run with a warning; no cell waits for it.
    """


@dataclass(frozen=True, kw_only=True)
class ExecutorSpec(_Spec):
    """A place where cells run, such as a cluster; it changes no result and no key.

    The factory is called as ``factory(folder, jobs=…, threads=…, **options)`` in the process that keeps the journal,
    where nothing imports torch, and returns an `mmbench.executors.Executor`. ``folder`` is its own, inside the run, and
    is kept between commands: what still runs there when the command is typed again is taken up, not begun anew.
    ``jobs`` is how many cells may run at once, 0 where the user left that to it; ``threads`` is for each cell.
    """


Spec: TypeAlias = EncoderSpec | FusionSpec | ObjectiveSpec | DatasetSpec | TrackerSpec | ExecutorSpec
Role: TypeAlias = Literal["encoder", "fusion", "objective", "dataset", "tracker", "executor"]
SPEC_OF_ROLE: Mapping[Role, type[Spec]] = MappingProxyType(
    {
        "encoder": EncoderSpec,
        "fusion": FusionSpec,
        "objective": ObjectiveSpec,
        "dataset": DatasetSpec,
        "tracker": TrackerSpec,
        "executor": ExecutorSpec,
    }
)


def role_of(spec: Spec | _Spec) -> Role:
    """Return which part a descriptor describes."""
    for role, spec_type in SPEC_OF_ROLE.items():
        if isinstance(spec, spec_type):
            return role
    raise SpecError(f"{type(spec).__name__} is not a descriptor of mmbench")


def _set(instance: Any, name: str, value: Any) -> None:
    object.__setattr__(instance, name, value)
