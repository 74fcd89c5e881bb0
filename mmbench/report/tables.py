"""The report as data: leaderboards per dataset and task, what is missing and why, and what to be careful about."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mmbench.data_card import DataCard
from mmbench.record import DONE, Direction
from mmbench.report.by_class import ClassTable
from mmbench.report.by_subgroup import SubgroupTable
from mmbench.report.outcomes import STOPPED
from mmbench.report.portrait import Modalities, Precision
from mmbench.report.timing_claims import Timing


def num_to_run(statuses: Mapping[str, int]) -> int:
    """Return how many cells were to run: neither impossible nor stopped by a race.

    >>> num_to_run({"ok": 3, "incompatible": 2, "stopped": 4, "failed": 1})
    4
    """
    return sum(count for status, count in statuses.items() if status not in ("incompatible", STOPPED))


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric over the seeds of one row.

    Attributes:
        by_seed: Its value for every seed that has a result.
        mean: Over those seeds.
        std: Sample standard deviation over seeds, or None for fewer than two.
        ci_low, ci_high: 95 % interval, or None where there is nothing to base one on.
        ci_over: What the interval is over: "seeds and samples", "seeds" (Student's t), "samples" (one seed), or "".
            "groups" stands for "samples" where these come in groups.
        sample_error: Standard error of the mean from the test samples alone, or None where predictions do not tell it.
    """

    by_seed: Mapping[int, float]
    mean: float
    std: float | None
    ci_low: float | None
    ci_high: float | None
    ci_over: str
    sample_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class Gain:
    """How much better a row is than the single modality that is best on val, on the same seeds; positive is better.

    Attributes:
        value: Difference of means on test, in the metric's unit.
        ci_low, ci_high: 95 % interval of the difference, over seeds and test samples where predictions were kept; None
            where nothing gives one. It holds 0 wherever a paired test finds no difference.
        over: Encoders of that unimodal row.
        over_objective: Its objective.
        num_compared, num_planned: How many unimodal rows have all of those seeds, of how many there are.
    """

    value: float
    ci_low: float | None
    ci_high: float | None
    over: str
    over_objective: str
    num_compared: int
    num_planned: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One combo: a line of a leaderboard.

    Attributes:
        encoders, fusion, objective: Labels, as in the plan.
        modalities: Names of the modalities it uses.
        seeds: Seeds that the board compares; `done` of them have a result for this row.
        cell_ids: By planned seed.
        statuses: Cells by status.
        reason: Of its first cell without a result, or "".
        score: The board's metric on test, or None when no seed has it.
        val: Mean of the same metric on val.
        val_by_seed: The same for every seed that has it.
        gain: Against the single modality that is best on val; None for unimodal rows and where nothing can be compared.
        numbers: Mean over seeds of every other number, by name ("latency_p50_s", "f1_macro", …); None where it could
            not be measured.
        conditions: Mean of the board's metric on test by condition other than "clean" ("drop:audio").
        diagnostics: Mean over seeds of what is derived from them ("shapley:audio", "emap_gap"); not of `numbers`.
        emap_precision: How well "emap_gap" of `diagnostics` is known; None without one.
        timings: How those of `numbers` that are times or rates were measured, by name.
        tuned: What a sweep chose for it on val: "values" by name, "num_trials", "val_score", "method".
        rank: By the mean on test: 1 is best; equal means share a rank; None for rows that lack seeds.
        group: 1 for the rows that cannot be told apart from the best, 2 for the next, …; None where nobody tested.
        out_of_order: Whether a row that ranks above it stands in a worse group: single samples tell that one apart from
            the group's first, and not this one.
        differs: Whether a paired test tells it apart from the row that val chooses; None where nobody tested.
    """

    encoders: str
    fusion: str
    objective: str
    modalities: tuple[str, ...]
    seeds: tuple[int, ...]
    done: tuple[int, ...]
    cell_ids: Mapping[int, str]
    statuses: Mapping[str, int]
    reason: str = ""
    score: Score | None = None
    val: float | None = None
    val_by_seed: Mapping[int, float] = field(default_factory=dict)
    gain: Gain | None = None
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    conditions: Mapping[str, float | None] = field(default_factory=dict)
    diagnostics: Mapping[str, float | None] = field(default_factory=dict)
    emap_precision: Precision | None = None
    timings: Mapping[str, Timing] = field(default_factory=dict)
    tuned: Mapping[str, Any] = field(default_factory=dict)
    rank: int | None = None
    group: int | None = None
    out_of_order: bool = False
    differs: bool | None = None

    @property
    def complete(self) -> bool:
        """Whether every seed that the board compares has a score."""
        return self.score is not None and set(self.seeds) <= set(self.score.by_seed)

    @property
    def contended(self) -> bool:
        """Whether a time was taken while others computed on the device."""
        return any(timing.disturbed_by for timing in self.timings.values())

    @property
    def stopped(self) -> bool:
        """Whether a race stopped it before its full training."""
        return set(self.statuses) == {STOPPED}

    @property
    def unimodal(self) -> bool:
        """Whether it uses one modality."""
        return len(self.modalities) == 1

    @property
    def label(self) -> str:
        """The combo in one line."""
        parts = [self.encoders, self.fusion if not self.unimodal or self.fusion != "single" else ""]
        parts.append(self.objective if self.objective != "supervised" else "")
        return ", ".join(part for part in parts if part)


def val_order(row: Row, val: float | None, direction: Direction) -> tuple[float | str, ...]:
    """Return a key by which rows are sorted by a score on val, best first; of equal ones the smaller model is first."""
    size = row.numbers.get("num_parameters_trainable")
    worth = math.inf if val is None else val if direction == "min" else -val
    return worth, math.inf if size is None else size, row.encoders, row.fusion, row.objective


@dataclass(frozen=True, kw_only=True)
class Board:
    """The leaderboard of one task of one dataset.

    Attributes:
        dataset, summary: Label and one line about it.
        reference: What selects the dataset again; "" where only the label is known.
        task, kind, num_outputs, class_names: What is predicted.
        metric, direction, unit: What rows are ranked by.
        first: Whether this is the dataset's first task, which leads the answer.
        num_test: Samples of the test split, or None when no row has a result.
        seeds: All seeds that some row was planned with.
        rows: Ranked rows first, then those that lack seeds, then those without a result.
        floor: The majority baseline's score, or None.
        ceilings: Best possible expected score by modalities ("audio+image"), where it is known.
        num_done, num_planned: Cells with a result, of those that could run.
        statuses: All cells of the dataset by status.
        other_metrics: Names of the task's further metrics on test.
        less_is_better: Those of all its metrics of which less is better.
        num_tested: How many ranked rows were compared in pairs on the same test samples.
        untested: Why some or all rows were not, or "".
        least_gap: True difference of the first two rows that the test made would find in 80 % of cases, or None.
        fewest_positives: Test samples of the rarest class, where rows are ranked by a metric over classes; else None.
        skewness: Of the chosen row's mean error over test samples, where rows are ranked by one; else None.
        val_excess: By how much the row that val chooses is better on val than on test beyond what chance and the choice
            explain; None where it is not, or nothing tells.
        mixed: What differs between cells and should not: counts of cells by value, by what it is ("torch", "split").
        warnings: What cells warned of, with how many did.
        modalities: What the diagnostics of its cells say, or None.
        smoke: That the run only tested whether everything runs, in which case nothing is ranked; else "".
        classes: Scores of each class under the row that val chooses, or None.
        subgroups: Scores of subgroups of test samples, of the row that val chooses and of each single modality's best.
    """

    dataset: str
    summary: str
    task: str
    kind: str
    num_outputs: int
    class_names: tuple[str, ...]
    metric: str
    direction: Direction
    unit: str
    first: bool
    num_test: int | None
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    floor: Score | None
    ceilings: Mapping[str, float]
    num_done: int
    num_planned: int
    statuses: Mapping[str, int]
    other_metrics: frozenset[str] = frozenset()
    less_is_better: frozenset[str] = frozenset()
    num_tested: int = 0
    untested: str = ""
    least_gap: float | None = None
    fewest_positives: int | None = None
    skewness: float | None = None
    val_excess: float | None = None
    mixed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    warnings: Mapping[str, int] = field(default_factory=dict)
    modalities: Modalities | None = None
    reference: str = ""
    smoke: str = ""
    classes: ClassTable | None = None
    subgroups: tuple[SubgroupTable, ...] = ()

    @property
    def best(self) -> Row | None:
        """The row that ranks first on test; which one it is owes something to chance, so nothing is headlined by it."""
        return next((row for row in self.rows if row.rank == 1), None)

    @cached_property
    def chosen(self) -> Row | None:
        """The ranked row that is best on val."""
        return self.best_on_val(self.rows)

    @cached_property
    def chosen_unimodal(self) -> Row | None:
        """The ranked row of one modality that is best on val."""
        return self.best_on_val(row for row in self.rows if row.unimodal)

    @cached_property
    def chosen_fusion(self) -> Row | None:
        """The ranked row of several modalities that is best on val."""
        return self.best_on_val(row for row in self.rows if len(row.modalities) > 1)

    def best_on_val(self, rows: Iterable[Row]) -> Row | None:
        """Return the ranked row that is best on val; where none has a score on val, the one that is best on test."""
        ranked = [row for row in rows if row.rank is not None]
        known = [row for row in ranked if set(row.seeds) <= set(row.val_by_seed)]
        if not known:
            return ranked[0] if ranked else None
        return min(known, key=lambda row: val_order(row, row.val, self.direction))

    def better(self, one: float, other: float) -> float:
        """Return by how much `one` is better than `other`; negative when it is worse."""
        return other - one if self.direction == "min" else one - other


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Cells without a result that share status and reason.

    Attributes:
        status, reason: As the cells have them.
        dataset: Where; "" when in several.
        count: How many cells.
        examples: Up to three of them in words.
    """

    status: str
    reason: str
    dataset: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that the tables, the page and the files show.

    Attributes:
        run: The run's name.
        boards: In the order of the plan.
        statuses: All planned cells by status.
        failures: Cells that should have a result and have none.
        impossible: Cells that no command could run.
        provenance: ``run.json``: command, configuration, versions, hardware, git.
        decisions: ``decisions.json``: what a race or a sweep decided on val before the boards' rows were trained.
        cards: What was read of each dataset.
    """

    run: str
    boards: tuple[Board, ...]
    statuses: Mapping[str, int]
    failures: tuple[Problem, ...]
    impossible: tuple[Problem, ...]
    provenance: Mapping[str, Any]
    decisions: tuple[Mapping[str, Any], ...] = ()
    cards: tuple[DataCard, ...] = ()

    @property
    def num_planned(self) -> int:
        """Cells that were to run."""
        return num_to_run(self.statuses)

    @property
    def num_done(self) -> int:
        """Cells with a result."""
        return sum(self.statuses.get(status, 0) for status in DONE)
