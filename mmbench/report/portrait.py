"""What a report says about modalities, as data: portraits of the best fusions, curves under noise, errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Solved:
    """Test samples by who gets them right, mean over seeds: the fusion, or the best row of any of its modalities alone.

    Attributes:
        only_fusion: Right by the fusion and by no modality alone.
        only_single: Right by some modality alone and not by the fusion.
        both, neither: The rest.
        n: All samples.
        modalities: Those that have a row to compare with.
    """

    only_fusion: float
    only_single: float
    both: float
    neither: float
    n: int
    modalities: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How well a diagnosed number is known.

    Attributes:
        n: Test samples that it rests on, the fewest of all seeds; None where the record does not say.
        low, high: 95 % interval over those samples, mean over seeds; None where nothing gives one.
    """

    n: int | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """What one row of several modalities makes of them.

    Attributes:
        place: Of the row, in its board.
        shares: Shapley share by modality, in the metric's unit; positive is better.
        emap_gap: What interactions add to the score of the best additive approximation; positive is better.
        emap: That score.
        emap_precision: How well the gap is known; None without one.
        subsets: Score by condition, "drop:audio" or "only:image".
        solved: Which samples only fusion gets right; None where nothing can be compared.
        gradients: By modality: norm of its encoder's gradient by epoch, of the first seed.
    """

    place: int
    shares: Mapping[str, float | None]
    emap_gap: float | None
    emap: float | None
    subsets: Mapping[str, float | None]
    emap_precision: Precision | None = None
    solved: Solved | None = None
    gradients: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The score of one row under one disturbance.

    Attributes:
        place: Of the row, in its board.
        disturbance: "image.gaussian".
        severities: From 0, which is clean, to 1.
        scores: The board's metric, mean over seeds.
        relative: MultiBench's relative robustness: the area under the curve.
        effective: MultiBench's effective robustness: by how much more of its clean score it keeps than the late
            fusion of the same encoders, area between the two curves shifted to one start; positive is better.
        late: Place of that late fusion, or None where the run has none.
    """

    place: int
    disturbance: str
    severities: tuple[float, ...]
    scores: tuple[float | None, ...]
    relative: float | None
    effective: float | None
    late: int | None


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Where one row is wrong on test, summed over its seeds.

    Attributes:
        place: Of the row.
        bins: (count, mean confidence, share right) of each bin of confidence.
        confusion: Counts by true class (rows) and predicted class, or ().
    """

    place: int
    bins: tuple[tuple[float, float, float], ...]
    confusion: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Modalities:
    """What the diagnostics of a board's cells say.

    Attributes:
        portraits: Of the first ranked rows of several modalities.
        curves: Of those rows, their late fusions and the best row of each single modality.
        units: What severity means, by disturbance.
        errors: Of the board's best row.
    """

    portraits: tuple[Portrait, ...] = ()
    curves: tuple[Curve, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    errors: Errors | None = None
