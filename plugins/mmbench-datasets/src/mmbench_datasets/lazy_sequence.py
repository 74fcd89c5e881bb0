"""Sequences whose items are made when they are asked for: the columns of tables."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

Item = TypeVar("Item")


class LazySequence(Sequence[Item]):
    """A sequence that is defined by its length and by `item`."""

    @abstractmethod
    def item(self, position: int) -> Item:
        """Return the item at a position from 0 to the length, exclusive."""

    def items(self, positions: range) -> list[Item]:
        """Return the items at some positions."""
        return [self.item(position) for position in positions]

    @overload
    def __getitem__(self, position: int) -> Item: ...
    @overload
    def __getitem__(self, position: slice) -> list[Item]: ...
    def __getitem__(self, position: int | slice) -> Item | list[Item]:
        if isinstance(position, slice):
            return self.items(range(*position.indices(len(self))))
        at = position + len(self) if position < 0 else position
        if not 0 <= at < len(self):
            raise IndexError(position)
        return self.item(at)
