"""Made-up canonical samples of every kind, and batches of them after an encoder's transform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmbench.data import Waveform
from mmbench.spec import Kind, Modality

_TEXT = (
    "seven red boats drift past an old harbour wall while gulls argue over bread and nobody hears the bell of "
    "the ferry that brought them here zwölf drei 七 δύο пять"
)
_WORDS = _TEXT.split()
_RATE = 8000

#: What a modality may be, by kind: the facts of each variant that is tried, the common one first.
VARIANTS: dict[Kind, tuple[dict[str, Any], ...]] = {
    "image": ({"channels": 3, "size": [32, 32]}, {"channels": 1, "size": [29, 37]}),
    "video": ({"channels": 3, "size": [24, 24]}, {"channels": 1, "size": [21, 27]}),
    "audio": ({"rate": _RATE}, {"rate": 16000}),
    "text": ({},),
    "tabular": ({"num_features": 9}, {"num_features": 1}),
    "sequence": ({"num_features": 5}, {"num_features": 1}),
}


def sample(modality: Modality, rng: np.random.Generator, length: float) -> Any:
    """Return one canonical input.

    Args:
        modality: Kind and facts to follow.
        rng: Decides the content.
        length: 0 is the shortest that must work, 1 an ordinary long one.
    """
    facts = modality.facts
    match modality.kind:
        case "image":
            return _pictures(rng, (facts["channels"], *facts["size"]))
        case "video":
            return _pictures(rng, (1 + round(length * 8), facts["channels"], *facts["size"]))
        case "audio":
            num_samples = 401 + round(length * facts["rate"] * 0.6)
            time = np.arange(num_samples) / facts["rate"]
            tone = np.sin(2 * np.pi * rng.uniform(80, 1500) * time) * rng.uniform(0.1, 0.8)
            return Waveform((tone + rng.normal(0, 0.05, num_samples)).astype(np.float32), int(facts["rate"]))
        case "text":
            return " ".join(rng.choice(_WORDS, size=round(length * 11) + (1 if length else 0)))
        case "tabular":
            return rng.normal(0, 2, facts["num_features"]).astype(np.float32)
        case "sequence":
            return rng.normal(0, 2, (1 + round(length * 12), facts["num_features"])).astype(np.float32)


def batch_of(encoder: Any, samples: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
    """Transform samples and lay them side by side, as the core does: zeros behind the short ones.

    Shapes: (P, …) and no mask where all have one shape; else (P, T, …) and mask (P, T), True = real.
    """
    rows = [np.asarray(encoder.transform(item)) for item in samples]
    if len({row.shape for row in rows}) == 1 and rows[0].size:
        return torch.from_numpy(np.stack(rows)), None
    longest = max(1, *(len(row) for row in rows))
    values = np.zeros((len(rows), longest, *rows[0].shape[1:]), dtype=rows[0].dtype)
    mask = np.zeros((len(rows), longest), dtype=bool)
    for position, row in enumerate(rows):
        values[position, : len(row)] = row
        mask[position, : len(row)] = True
    return torch.from_numpy(values), torch.from_numpy(mask)


def _pictures(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Smooth blobs with noise: uint8."""
    *leading, height, width = shape
    coarse = rng.uniform(0, 255, (*leading, 4, 4))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    smooth = coarse[..., rows[:, None], columns[None, :]]
    return np.clip(smooth + rng.normal(0, 12, shape), 0, 255).astype(np.uint8)
