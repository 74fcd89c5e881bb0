"""What measured times allow to be said: which are disturbed, which rest on too few calls, and which row is faster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from mmbench.record import Metric
from mmbench.samples import process_interval

if TYPE_CHECKING:
    from mmbench.report.tables import Board, Row

Disturbance: TypeAlias = Literal["", "cells", "programs"]

LATENCY = "latency_p50_s"
#: A median of fewer calls moves by some percent from one run to the next, and the fastest of many rows by more.
MIN_CALLS = 30
#: Rows whose score is this close to the best one's, as a share of it, are asked for the fastest.
NEAR_BEST = 0.01
#: What `mmbench.profiling` notes of a time that was taken beside other cells of the run.
_BESIDE_CELLS = ("others computed on the device", "cells ran side by side")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How a row's time or rate was measured, over its seeds.

    Attributes:
        calls: Calls that the value of one seed rests on, the fewest of all seeds; None where that is not known.
        low, high: 95 % interval: of one seed over its calls, of several over seeds; None where nothing gives one.
        disturbed_by: Who else computed on the machine meanwhile.
    """

    calls: int | None
    low: float | None
    high: float | None
    disturbed_by: Disturbance

    @property
    def reliable(self) -> bool:
        """Whether rows can be compared by it: nobody disturbed it, and it rests on `MIN_CALLS` calls at least."""
        return not self.disturbed_by and self.calls is not None and self.calls >= MIN_CALLS

    @property
    def doubtful(self) -> bool:
        """Whether it is known to be disturbed or to rest on too few calls."""
        return bool(self.disturbed_by) or (self.calls is not None and self.calls < MIN_CALLS)


def timing_of(items: Sequence[Metric]) -> Timing | None:
    """Return how a time or rate was measured, from the metrics of a row's seeds; None for a number that is neither."""
    known = [item for item in items if item.value is not None]
    if not known or not known[0].name.partition(":")[0].endswith("_s"):
        return None
    values = [item.value for item in known if item.value is not None]
    low, high = (known[0].ci_low, known[0].ci_high) if len(known) == 1 else process_interval(values)
    calls = [item.n for item in known]
    disturbances = {disturbance_of(item.note) for item in known}
    return Timing(
        calls=None if None in calls else min(count for count in calls if count is not None),
        low=low,
        high=high,
        disturbed_by="cells" if "cells" in disturbances else "programs" if "programs" in disturbances else "",
    )


def disturbance_of(note: str) -> Disturbance:
    """Return who disturbed a measurement, by the note that it has."""
    if "contended: " not in note:
        return ""
    return "cells" if any(words in note for words in _BESIDE_CELLS) else "programs"


def mark(row: Row, name: str) -> str:
    """Return "*" for a number that was disturbed."""
    timing = row.timings.get(name)
    return "*" if timing is not None and timing.disturbed_by else ""


def footnotes(board: Board) -> list[str]:
    """Return what the marks in a board's table mean, and how far its times can be trusted."""
    found = []
    if any(timing.disturbed_by for row in board.rows for timing in row.timings.values()):
        found.append("* marks a time or rate that was measured while others computed on the machine.")
    calls = [timing.calls for row in board.rows if (timing := row.timings.get(LATENCY)) and timing.calls is not None]
    if calls and min(calls) < MIN_CALLS:
        count = str(min(calls)) if min(calls) == max(calls) else f"{min(calls)} to {max(calls)}"
        found.append(
            f"A latency is the median of {count} calls; where they are fewer than {MIN_CALLS}, nothing is said of "
            "which row is faster. `mmbench profile` and `--protocol standard` take more."
        )
    return found


def timing_cautions(rows: Iterable[Row]) -> list[str]:
    """Return who disturbed the times of some rows, and what helps."""
    disturbances = {timing.disturbed_by for row in rows for timing in row.timings.values()}
    found = []
    if "cells" in disturbances:
        found.append(
            "times marked * were measured while other cells ran on the same machine: compare them with care, or run "
            "with -j 1."
        )
    if "programs" in disturbances:
        found.append(
            "times marked * were measured while other programs kept the machine's processors busy: compare them with "
            "care, or measure again on an idle machine."
        )
    return found


def faster_than(board: Board, best: Row) -> Row | None:
    """Return the fastest row within `NEAR_BEST` of `best`, where it is faster than that beyond doubt; else None.

    Beyond doubt: both latencies are reliable, and their 95 % intervals do not overlap.
    """
    if best.score is None:
        return None
    reliable: Mapping[int, float] = {
        place: value
        for place, row in enumerate(board.rows)
        if row.rank is not None and row.score is not None
        if (value := row.numbers.get(LATENCY)) is not None
        if (timing := row.timings.get(LATENCY)) is not None and timing.reliable
        if board.better(best.score.mean, row.score.mean) <= NEAR_BEST * abs(best.score.mean)
    }
    if not reliable:
        return None
    fastest = board.rows[min(reliable, key=lambda place: reliable[place])]
    own, other = best.timings.get(LATENCY), fastest.timings[LATENCY]
    if fastest is best or own is None or not own.reliable or own.low is None or other.high is None:
        return None
    return fastest if other.high < own.low else None
