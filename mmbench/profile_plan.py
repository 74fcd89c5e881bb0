"""From a selection to profiles: every combo in every way to run it, round by round, without training."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmbench.combo import Cell
from mmbench.errors import UsageError
from mmbench.parts import digest
from mmbench.plan import Plan
from mmbench.variant import MEASURING_VERSION, Variant

#: How many processes measure each combo under a protocol, unless told otherwise; one tells nothing of another's luck.
ROUNDS: Mapping[str, int] = {"quick": 1, "standard": 3, "rigorous": 5}
#: Options that all figures of a run share.
HOW = ("protocol", "device", "threads")


@dataclass(frozen=True, kw_only=True)
class ProfileOptions:
    """What is measured of every combo.

    Attributes:
        variants: Ways to run it.
        batch_sizes: "sweep" (1, 2, 4, … up to the best and the largest that fits), "none", or sizes.
        memory_limit_bytes: What the sweep may hold on the device; None for half of what is free.
    """

    variants: tuple[Variant, ...]
    batch_sizes: str | tuple[int, ...] = "sweep"
    memory_limit_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class ProfileCell:
    """One combo, run one way, in one round. It has what `mmbench.runner.PlannedCell` asks for.

    Attributes:
        cell: The combo; its seed is the round.
        variant: The way.
        options: What is measured.
    """

    cell: Cell
    variant: Variant
    options: ProfileOptions

    @property
    def cell_id(self) -> str:
        """Return 16 hex digits: what is measured and how; not the machine, which a run has one of."""
        combo, train, how = self._measured()
        return digest([MEASURING_VERSION, combo, train, self.cell.seed, self.variant.to_json(), self._asked(), how])[
            :16
        ]

    @property
    def status(self) -> str:
        """Return "run", or why it does not."""
        return self.cell.status

    @property
    def reason(self) -> str:
        """Return why it does not run."""
        return self.cell.reason

    def row(self) -> dict[str, Any]:
        """Return a line of plan.json; rows of one setup belong together where ``measured`` is the same as well."""
        own = {"variant": self.variant.condition, "measured": digest([MEASURING_VERSION, *self._measured()])[:16]}
        return {**self.cell.row(), "cell_id": self.cell_id, **own}

    def payload(self) -> dict[str, Any]:
        """Return what `mmbench.profile_cell.profile_cell` is given: plain JSON."""
        # Whole models are measured: features that somebody stored cost nothing.
        return {
            **self.cell.payload(),
            "feature_cache": False,
            "profile": {"variant": self.variant.to_json(), **self._asked()},
        }

    def _measured(self) -> list[Any]:
        """What figures of one thing have in common: parts and their versions, settings of the training, how it runs."""
        identity, runtime = self.cell.identity(), self.cell.runtime
        combo = {role: identity[role] for role in ("dataset", "encoders", "fusion", "objective")}
        return [combo, identity["train"], {name: runtime[name] for name in HOW}]

    def _asked(self) -> dict[str, Any]:
        sizes = self.options.batch_sizes
        return {
            "batch_sizes": sizes if isinstance(sizes, str) else list(sizes),
            "memory_limit_bytes": self.options.memory_limit_bytes,
        }


def profile_cells(plan: Plan, options: ProfileOptions) -> Iterator[ProfileCell]:
    """Yield every combo in every way, all of one round before the next: A B A B, so that drift meets all alike.

    The majority floor has no cost and is left out; `--max-cells` counts the others.
    """
    costly = (cell for cell in plan.all_cells() if cell.fusion is not None or cell.role != "baseline")
    for cell in itertools.islice(costly, plan.config.max_cells):
        for variant in options.variants:
            yield ProfileCell(cell=cell, variant=variant, options=options)


def read_batch_sizes(text: str) -> str | tuple[int, ...]:
    """Read "sweep", "none" or "1,8,64".

    Raises:
        UsageError: it is none of these.
    """
    if text in ("sweep", "none"):
        return text
    try:
        sizes = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        sizes = ()
    if not sizes or sizes[0] < 1:
        raise UsageError(f"--batch-sizes takes sweep, none or sizes such as 1,8,64; got {text!r}")
    return sizes


def setup_of(row: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """Return what a row of plan.json measures, whatever the round."""
    return (row["dataset"], row["encoders"], row["fusion"], row["objective"], str(row.get("variant", "clean")))
