"""What all samples of a split say of a modality: counts, percentiles of sizes, rates and lengths, and robust facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported where inputs are counted: a command that shows the statistics does without
    import numpy as np
    from numpy.typing import NDArray

from mmbench.errors import MOST_ERRORS

#: Percentiles that are kept of every amount.
PERCENTILES = (0, 5, 50, 95, 100)
#: Amounts that differ by more than this factor from the one that encoders are built for are worth a warning.
_WIDE = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSummary:
    """What is known of one input, from its header or from its decoded values.

    Attributes:
        facts: Those of `mmbench.spec.Modality` that it shows: channels, size, rate, num_features.
        amounts: Numbers for the data card: height, width, seconds, frames, words, length.
        digest: 64 bits of its content, equal for equal inputs; 0 where it was not computed.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    amounts: Mapping[str, float] = field(default_factory=dict)
    digest: int = 0


@dataclass(frozen=True, kw_only=True)
class InputStatistics:
    """One modality of one split.

    Attributes:
        present: Samples that have it, of those examined.
        missing: Samples that lack it, of those examined.
        examined: Samples that were looked at: all, unless each would have to be decoded.
        amounts: By name, the percentiles `PERCENTILES` over the samples that have it.
        errors: What is wrong with inputs that cannot be read; at most `MOST_ERRORS` of `num_errors`.
    """

    present: int
    missing: int
    examined: int
    amounts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    num_errors: int = 0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> InputStatistics:
        """Return the statistics that `dataclasses.asdict` and JSON wrote."""
        amounts = {name: tuple(map(float, values)) for name, values in data["amounts"].items()}
        return cls(**{**data, "amounts": amounts, "errors": tuple(data["errors"])})


def statistics_of(summaries: Sequence[InputSummary | None], errors: Sequence[str] = ()) -> InputStatistics:
    """Return the statistics of one split's summaries, None where a sample lacks the modality."""
    import numpy as np

    present = [summary for summary in summaries if summary is not None]
    names = dict.fromkeys(name for summary in present for name in summary.amounts)
    amounts = {}
    for name in names:
        values = [summary.amounts[name] for summary in present if name in summary.amounts]
        found = np.percentile(np.array(values, dtype=np.float64), PERCENTILES, method="nearest")
        amounts[name] = tuple(float(value) for value in found)
    return InputStatistics(
        present=len(present) + len(errors),
        missing=len(summaries) - len(present),
        examined=len(summaries) + len(errors),
        amounts=amounts,
        errors=tuple(errors[:MOST_ERRORS]),
        num_errors=len(errors),
    )


def robust_facts(summaries: Sequence[InputSummary | None]) -> dict[str, Any]:
    """Return the facts of a modality over all its samples: medians, which a few odd samples do not move.

    Height, width and rate are the upper medians; `channels` is 3 where any sample has colors; `num_features` is the
    most frequent width.

    >>> odd, usual = {"channels": 1, "size": [1, 1]}, {"channels": 3, "size": [32, 48]}
    >>> robust_facts([InputSummary(facts=facts) for facts in (odd, usual, usual, usual)])
    {'channels': 3, 'size': [32, 48]}
    """
    import numpy as np

    found: dict[str, Any] = {}
    by_name: dict[str, list[Any]] = {}
    for summary in summaries:
        for name, fact in (summary.facts if summary else {}).items():
            by_name.setdefault(name, []).append(fact)
    for name, facts in by_name.items():
        if name == "size":
            found[name] = [_median([size[axis] for size in facts]) for axis in (0, 1)]
        elif name == "channels":
            found[name] = max(facts)
        elif name == "num_features":
            widths, counts = np.unique(facts, return_counts=True)
            found[name] = int(widths[counts.argmax()])
        else:
            found[name] = _median(facts)
    return found


def spread_warning(modality: str, summaries: Sequence[InputSummary | None], facts: Mapping[str, Any]) -> str:
    """Return a warning where sizes or rates differ widely from the facts that encoders are built for, else ""."""
    for name, what, unit in (("size", "longer sides", "px"), ("rate", "sample rates", "Hz")):
        values = [_longer(summary.facts[name]) for summary in summaries if summary and name in summary.facts]
        if name not in facts or not values:
            continue
        taken = _longer(facts[name])
        far = sum(value * _WIDE < taken or value > taken * _WIDE for value in values)
        if far:
            return (
                f"{modality!r}: the {what} in train differ widely, from {min(values):,} to {max(values):,} {unit}; the "
                f"median, {taken:,} {unit}, was taken, and {far:,} of {len(values):,} differ from it by more than a "
                f"factor of {_WIDE:g}"
            )
    return ""


def digests_of(summaries: Sequence[InputSummary | None]) -> NDArray[np.uint64]:
    """Return the digests (N,), 0 where a sample lacks the modality or none was computed."""
    import numpy as np

    return np.array([summary.digest if summary else 0 for summary in summaries], dtype=np.uint64)


def _longer(value: Any) -> int:
    return max(value) if isinstance(value, list | tuple) else int(value)


def _median(values: Sequence[int]) -> int:
    return int(sorted(values)[len(values) // 2])
