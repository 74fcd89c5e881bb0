"""How much a model makes of interactions: its best additive approximation, from the fusion run on pairs of samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmbench.diagnostics.encoded import Encoded, take
from mmbench.model import MultimodalModel

#: Samples that it takes, where the test split has them: the same for every fusion, so that rows can be compared. The
#: fusion runs on the square of it, which is a quarter of a cell's time for cross-attention over tokens at 64 samples.
SAMPLES: Mapping[str, int] = {"quick": 40, "full": 400}
#: Features kept for it, and pairs made at a time.
MAX_KEPT_NUMBERS = 100_000_000
PAIRS_AT_ONCE = 2048


def additive_projection(model: MultimodalModel, features: Encoded, *, autocast: bool = False) -> dict[str, Tensor]:
    """Project the logits of n samples on functions that are sums of one term per modality.

    Two modalities, as published: ``mean_k f(a_i, b_k) + mean_k f(a_k, b_i) - mean_jk f(a_j, b_k)``. More: the same
    for independent modalities, ``sum_m E[f | m = m_i] - (M - 1) E[f]``, each expectation over n combinations in which
    every other modality goes through all n samples in a fixed random order of its own. A model that is additive
    already comes out as it is, for any number of modalities.

    Source: Hessel & Lee 2020, arXiv:2010.06572, algorithm 1; the case of three and more is ours.

    Shapes: {modality: Features of n samples} -> {task: (n, K)}, float64.
    """
    names = list(features)
    n = len(features[names[0]].present)
    device = features[names[0]].present.device
    if len(names) == 2:
        rows, columns = _pair_means(model, features, names, n, device, autocast)
        return {task: rows[task] + columns[task] - rows[task].mean(dim=0) for task in rows}
    terms = [
        _term(model, features, name, _orders(names, number, n, device), autocast) for number, name in enumerate(names)
    ]
    projected = {}
    for task in terms[0]:
        each = torch.stack([term[task] for term in terms])  # (M, n, K)
        projected[task] = each.sum(dim=0) - (len(names) - 1) * each.mean(dim=(0, 1))
    return projected


def num_samples(features: Encoded, num_test: int, depth: str) -> int:
    """Return how many samples to take: all rows of a board take the same, unless features are too wide to keep.

    Args:
        features: Of any batch.
        num_test: Samples of the test split.
        depth: "quick" or "full".
    """
    width = sum(layer.tensor[0].numel() for given in features.values() for layer in given.layers)
    return max(1, min(num_test, SAMPLES[depth], MAX_KEPT_NUMBERS // max(width, 1)))


def gap_interval(differences: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean of differences between two scores of the same samples; None for fewer than 3.

    Of right and wrong answers, differences of -1, 0 and 1: Agresti and Min 2005, "Simple improved confidence intervals
    for comparing matched proportions": Wald's with half a pair more in each of the four cells, which has no width of
    zero where both models answer alike. Else Student's.

    Shapes: (N,).
    """
    from scipy.special import stdtrit

    n = len(differences)
    if n < 3:
        return None
    if np.isin(differences, (-1.0, 0.0, 1.0)).all():
        better, worse = (differences > 0).sum() + 0.5, (differences < 0).sum() + 0.5
        mean = (better - worse) / (n + 2)
        half = 1.959964 * math.sqrt(better + worse - (better - worse) ** 2 / (n + 2)) / (n + 2)
        return max(-1.0, mean - half), min(1.0, mean + half)
    mean = float(differences.mean())
    half = float(stdtrit(n - 1, 0.975)) * float(differences.std(ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def _pair_means(
    model: MultimodalModel, features: Encoded, names: Sequence[str], n: int, device: torch.device, autocast: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Means of f(a_i, b_k) over k, for each i; and of f(a_k, b_i) over k: every pair is fused once."""
    first, second = names
    rows: dict[str, list[Tensor]] = {}
    columns: dict[str, Tensor] = {}
    every = torch.arange(n, device=device)
    for some in _chunks(n, device):
        pairs = {
            first: take(features[first], some.repeat_interleave(n)),
            second: take(features[second], every.repeat(len(some))),
        }
        for task, logits in _fuse(model, pairs, autocast).items():
            table = logits.reshape(len(some), n, -1)
            rows.setdefault(task, []).append(table.mean(dim=1))
            columns[task] = columns.get(task, 0) + table.sum(dim=0) / n
    return {task: torch.cat(parts) for task, parts in rows.items()}, columns


def _term(
    model: MultimodalModel, features: Encoded, name: str, orders: dict[str, Tensor], autocast: bool
) -> dict[str, Tensor]:
    """Means of f over combinations in which `name` is that of sample i, for each i: (n, K) by task."""
    n = len(features[name].present)
    found: dict[str, list[Tensor]] = {}
    for some in _chunks(n, features[name].present.device):
        combined = {
            other: take(given, some.repeat_interleave(n) if other == name else orders[other].repeat(len(some)))
            for other, given in features.items()
        }
        for task, logits in _fuse(model, combined, autocast).items():
            found.setdefault(task, []).append(logits.reshape(len(some), n, -1).mean(dim=1))
    return {task: torch.cat(parts) for task, parts in found.items()}


def _orders(names: Sequence[str], number: int, n: int, device: torch.device) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {name: torch.randperm(n, generator=generator).to(device) for name in names}


def _fuse(model: MultimodalModel, features: Encoded, autocast: bool) -> dict[str, Tensor]:
    device = next(iter(features.values())).present.device
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        logits = model.fuse(features).logits
    return {task: values.double() for task, values in logits.items()}


def _chunks(n: int, device: torch.device) -> Iterator[Tensor]:
    yield from torch.arange(n, device=device).split(max(1, PAIRS_AT_ONCE // n))
