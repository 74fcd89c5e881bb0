"""The transform of feature sequences: the steps themselves, up to a greatest number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Steps:
    """The first steps of a sequence, unchanged.

    Attributes:
        max_length: At most so many steps; what comes later is cut off.
    """

    version: ClassVar[str] = "1"

    max_length: int

    def __call__(self, sequence: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shapes: float32 (T, F) -> float32 (min(T, max_length), F)."""
        return sequence[: self.max_length]
