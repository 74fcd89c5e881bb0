"""What a sweep tries: the table `[sweep]` of a run file, checked, and the values that each trial draws from it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from mmbench.combo import Cell
from mmbench.config import TrainConfig, validated
from mmbench.errors import Unavailable, UsageError, did_you_mean
from mmbench.grid import diagonal
from mmbench.parts import Part
from mmbench.reference import format_reference
from mmbench.registry import Registry
from mmbench.spec import Role

DEFAULT_TRIALS = 10
Values: TypeAlias = dict[str, Any]
#: Settings that decide what a score on val means, so that trials could not be compared.
_FIXED = ("select", "limit")
_ROLES: tuple[Role, ...] = ("encoder", "fusion", "objective")
_EXAMPLE = "write a list such as [1e-3, 3e-3] or a range such as {low = 1e-4, high = 1e-2, log = true}"


class SweepConfig(BaseModel):
    """The table `[sweep]` of a run file.

    Attributes:
        method: "grid" tries every point, "random" draws, "optuna" asks Optuna's TPE sampler, trial after trial.
        trials: How many each combo gets; with "grid" as many as the largest of the combos' grids has points.
        seed: Of what is drawn.
        train: Training settings, by name.
        encoder, fusion, objective: Options by part and name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["grid", "random", "optuna"] = "random"
    trials: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0
    train: Mapping[str, Any] = {}
    encoder: Mapping[str, Mapping[str, Any]] = {}
    fusion: Mapping[str, Mapping[str, Any]] = {}
    objective: Mapping[str, Mapping[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One hyperparameter and what it may be.

    Attributes:
        name: As in the run file: "train.lr", "fusion.gated.fused_dim".
        role: "train", or the role of the part that it is an option of.
        ref, target: Of that part; "" for training settings.
        option: Its own name.
        choices: What it may be; empty where it is a range.
        low, high: The range, both ends included.
        log: Whether the range is even in its logarithm.
        integer: Whether it holds whole numbers only.
    """

    name: str
    role: str
    ref: str
    target: str
    option: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False

    def applies_to(self, cell: Cell) -> bool:
        """Whether a cell's combo has it."""
        if self.role == "train":
            return True
        return any(role == self.role and self.belongs_to(part) for role, _, part in parts_of(cell))

    def belongs_to(self, part: Part) -> bool:
        """Whether it is an option of a part."""
        return (part.reference.entry.ref, part.reference.target) == (self.ref, self.target)

    def draw(self, generator: random.Random) -> Any:
        """Return a value at random."""
        if self.choices:
            return generator.choice(self.choices)
        if self.log:
            drawn = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        else:
            drawn = generator.uniform(self.low, self.high)
        drawn = min(max(drawn, self.low), self.high)
        # Four digits are more than a sweep can tell apart, and can be read.
        return round(drawn) if self.integer else float(f"{drawn:.4g}")


def parts_of(cell: Cell) -> Iterator[tuple[str, str, Part]]:
    """Yield role, name (an encoder's is its modality) and part of whatever in a cell can have options swept."""
    for name, part in cell.encoders.items():
        yield "encoder", name, part
    if cell.fusion is not None:
        yield "fusion", "", cell.fusion
    if cell.objective is not None:
        yield "objective", "", cell.objective


class Sampler(Protocol):
    """Says what each of a combo's trials tries."""

    def ask(self) -> Values:
        """Return the next trial's values by axis name."""

    def tell(self, score: float | None) -> None:
        """Take what the trial asked for last came to, more being better; None for one that failed."""


class GridSampler:
    """Every point, in an order in which every beginning is balanced; from the start again when all were met."""

    def __init__(self, axes: Sequence[Axis]) -> None:
        self._names = [axis.name for axis in axes]
        self._points = list(diagonal([axis.choices for axis in axes]))
        self._next = 0

    def ask(self) -> Values:
        """Return the next point."""
        point = self._points[self._next % len(self._points)]
        self._next += 1
        return dict(zip(self._names, point))

    def tell(self, score: float | None) -> None:
        """Take no notice."""


class RandomSampler:
    """Independent draws: the n-th of an axis is the same for every combo that has it, so that trials are paired."""

    def __init__(self, axes: Sequence[Axis], seed: int) -> None:
        self._axes, self._seed, self._next = axes, seed, 0

    def ask(self) -> Values:
        """Return the next draw."""
        self._next += 1
        return {axis.name: axis.draw(random.Random(f"{self._seed}|{axis.name}|{self._next}")) for axis in self._axes}

    def tell(self, score: float | None) -> None:
        """Take no notice."""


class OptunaSampler:
    """Optuna's tree-structured Parzen estimator, seeded: asked the same, told the same, it says the same again.

    Raises:
        Unavailable: Optuna is not installed.
    """

    def __init__(self, axes: Sequence[Axis], seed: int, num_trials: int) -> None:
        try:
            import optuna
        except ImportError:
            raise Unavailable("[sweep] method = \"optuna\" needs Optuna: pip install 'mmbench[optuna]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._axes = optuna, axes
        # Its own ten draws at random before it learns would be all of a short sweep.
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(1, num_trials // 3)))
        self._study = optuna.create_study(direction="maximize", sampler=sampler)

    def ask(self) -> Values:
        """Return what Optuna suggests."""
        self._trial = self._study.ask()
        return {axis.name: self._suggest(axis) for axis in self._axes}

    def tell(self, score: float | None) -> None:
        """Tell Optuna."""
        if score is None or not math.isfinite(score):
            self._study.tell(self._trial, state=self._optuna.trial.TrialState.FAIL)
        else:
            self._study.tell(self._trial, score)

    def _suggest(self, axis: Axis) -> Any:
        if axis.choices:
            # By place: Optuna takes no lists for choices.
            return axis.choices[self._trial.suggest_categorical(axis.name, list(range(len(axis.choices))))]
        if axis.integer:
            return self._trial.suggest_int(axis.name, int(axis.low), int(axis.high), log=axis.log)
        return float(f"{self._trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log):.4g}")


def sampler_of(axes: Sequence[Axis], config: SweepConfig) -> Sampler:
    """Return what says which values a combo's trials try."""
    if config.method == "grid":
        return GridSampler(axes)
    if config.method == "random":
        return RandomSampler(axes, config.seed)
    return OptunaSampler(axes, config.seed, config.trials or DEFAULT_TRIALS)


def read_sweep(table: Mapping[str, Any], registry: Registry) -> tuple[SweepConfig, tuple[Axis, ...]]:
    """Check a table `[sweep]`.

    Raises:
        UsageError: a key, a part or an option is unknown, a value cannot be, or nothing is swept.
    """
    config = validated(SweepConfig, table, "[sweep]")
    axes = [_train_axis(option, given) for option, given in config.train.items()]
    for role in _ROLES:
        for part, options in getattr(config, role).items():
            axes += [_part_axis(registry, role, part, option, given) for option, given in options.items()]
    if not axes:
        raise UsageError("[sweep] sweeps nothing; add a table such as [sweep.train] with lr = [1e-3, 3e-3]")
    ranges = [axis.name for axis in axes if not axis.choices]
    if config.method == "grid" and ranges:
        raise UsageError(
            f'[sweep] method = "grid" takes lists, and {ranges[0]} is a range; list its values, or use random'
        )
    if config.method == "grid" and config.trials is not None:
        raise UsageError('[sweep] method = "grid" tries every point: leave trials out, or use random')
    return config, tuple(axes)


def num_points(axes: Sequence[Axis]) -> int | None:
    """Return how many points axes span, or None where one of them is a range."""
    return math.prod(len(axis.choices) for axis in axes) if all(axis.choices for axis in axes) else None


def _train_axis(option: str, given: Any) -> Axis:
    name, known = f"train.{option}", [key for key in TrainConfig.model_fields if key not in _FIXED]
    if option not in known:
        raise UsageError(
            f"[sweep.train]: {option!r} cannot be swept; there is {', '.join(known)}.{did_you_mean(option, known)}"
        )
    axis = _axis(name, "train", "", "", option, given)
    for value in axis.choices or (axis.low, axis.high):
        validated(TrainConfig, {option: int(value) if axis.integer else value}, "[sweep.train]")
    return axis


def _part_axis(registry: Registry, role: Role, part: str, option: str, given: Any) -> Axis:
    reference = registry.resolve(role, part)
    if option not in reference.options:
        known = list(reference.options)
        raise UsageError(
            f"[sweep.{role}.{part}]: {part} has no option {option!r}; "
            + (f"there is {', '.join(known)}.{did_you_mean(option, known)}" if known else "it has none")
        )
    axis = _axis(f"{role}.{part}.{option}", role, reference.entry.ref, reference.target, option, given)
    for value in axis.choices or (axis.low, axis.high):
        registry.resolve(role, format_reference(part, {option: int(value) if axis.integer else value}))
    return axis


def _axis(name: str, role: str, ref: str, target: str, option: str, given: Any) -> Axis:
    axis = Axis(name=name, role=role, ref=ref, target=target, option=option)
    if isinstance(given, list | tuple) and given:
        return replace(axis, choices=tuple(value for at, value in enumerate(given) if value not in given[:at]))
    if not isinstance(given, Mapping) or not {"low", "high"} <= set(given) <= {"low", "high", "log"}:
        raise UsageError(f"[sweep] {name} = {given!r}: {_EXAMPLE}")
    low, high, log = given["low"], given["high"], given.get("log", False)
    numbers = all(
        isinstance(end, int | float) and not isinstance(end, bool) and math.isfinite(end) for end in (low, high)
    )
    if not numbers or not isinstance(log, bool) or not low < high or (log and low <= 0):
        below = "0 < low < high" if log is True else "low < high"
        raise UsageError(f"[sweep] {name} = {dict(given)!r}: a range needs numbers with {below}, and log true or false")
    return replace(axis, low=low, high=high, log=log, integer=isinstance(low, int) and isinstance(high, int))
