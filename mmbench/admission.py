"""Which cells may run beside one another on one GPU, by the memory that cells like them were measured to take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

#: From coarse to fine: dataset, encoders, fusion, objective.
Kind: TypeAlias = tuple[str, ...]

#: What the cells that run together may fill of the memory that one alone found.
MEMORY_SHARE = 0.9
#: What the most that was measured is multiplied by, the finer the likeness the less: by how many parts of the kind
#: agree. Cells of another dataset say nothing.
MARGINS = {4: 1.1, 3: 1.2, 2: 1.5, 1: 2.0}
#: A cell that ran out of memory beside others makes all estimates larger by this.
CAUTION = 1.5


class Admission:
    """Keeps account of the cells that run on a GPU.

    A cell runs alone where nothing is known of its like; its record then says how much memory it took at most, and how
    much there was. Later ones start beside others while all estimates together fit. A cell that is alone always may
    start, so that every cell runs, whatever the estimates; the caller asks for cells in their order, so none is passed
    over for ever.
    """

    def __init__(self) -> None:
        self.available_bytes: float | None = None
        self._most: dict[Kind, float] = {}
        self._running: dict[str, tuple[Kind, float | None]] = {}
        self._accompanied: set[str] = set()
        self._alone: set[str] = set()
        self._caution = 1.0

    def admits(self, cell_id: str, kind: Kind) -> bool:
        """Return whether a cell may start now."""
        if not self._running:
            return True
        wanted = self.estimate(kind)
        held = [estimate for _, estimate in self._running.values()]
        if cell_id in self._alone or wanted is None or self.available_bytes is None or self._alone & set(self._running):
            return False
        known = [estimate for estimate in held if estimate is not None]
        return len(known) == len(held) and sum(known) + wanted <= MEMORY_SHARE * self.available_bytes

    def started(self, cell_id: str, kind: Kind) -> None:
        """Note that a cell runs."""
        if self._running:
            self._accompanied |= {cell_id, *self._running}
        self._running[cell_id] = (kind, self.estimate(kind))

    def ended(self, cell_id: str, memory: Mapping[str, Any]) -> bool:
        """Note that a cell has ended; return whether others ran beside it at any time.

        Args:
            cell_id: Which.
            memory: ``peak_bytes`` and ``available_bytes`` as its record gives them; empty where it gives none.
        """
        kind, _ = self._running.pop(cell_id)
        accompanied = cell_id in self._accompanied
        self._accompanied.discard(cell_id)
        if "peak_bytes" in memory:
            for depth in range(1, len(kind) + 1):
                self._most[kind[:depth]] = max(self._most.get(kind[:depth], 0.0), float(memory["peak_bytes"]))
        if not accompanied and "available_bytes" in memory:
            self.available_bytes = float(memory["available_bytes"])
        return accompanied

    def demand_solitude(self, cell_id: str) -> None:
        """Let a cell that ran out of memory beside others start alone the next time, and be more careful with all."""
        self._alone.add(cell_id)
        self._caution *= CAUTION

    def estimate(self, kind: Kind) -> float | None:
        """Return how much memory a cell may take, in bytes; None where no cell of its dataset was measured."""
        for depth in range(len(kind), 0, -1):
            most = self._most.get(kind[:depth])
            if most is not None:
                return most * MARGINS.get(depth, MARGINS[1]) * self._caution
        return None


def kind_of(row: Mapping[str, Any]) -> Kind:
    """Return what decides how much memory a cell takes, of its line in the plan.

    >>> kind_of({"dataset": "digits", "encoders": "image:cnn", "fusion": "single", "objective": "joint", "seed": 3})
    ('digits', 'image:cnn', 'single', 'joint')
    """
    return tuple(str(row.get(name) or "") for name in ("dataset", "encoders", "fusion", "objective"))
