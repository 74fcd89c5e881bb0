"""Features that were encoded once: taken by row, joined, emptied, averaged, so that only the fusion runs again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmbench.features import Features

Encoded = Mapping[str, Features]
#: Features (B, …) of one modality -> what stands in its place where it is taken away.
Fill = Callable[[str, Features], Features]


def take(features: Features, rows: Tensor) -> Features:
    """Return the features of some rows: (B, …) and (R,) -> (R, …)."""
    mask = _each(lambda given: given.index_select(0, rows), features.mask)
    return Features(_of_values(_each(lambda given: given.index_select(0, rows), features.values)), mask)


def join(parts: Sequence[Features]) -> Features:
    """Lay batches one behind the other; shorter sequences get masked zeros behind them."""
    first = parts[0]
    if isinstance(first.values, tuple):
        layers = [join(same) for same in zip(*(part.layers for part in parts), strict=True)]
        return Features(tuple(layer.tensor for layer in layers), tuple(layer.token_mask for layer in layers))
    if first.layout == "vector":
        return Features(torch.cat([part.tensor for part in parts]), torch.cat([part.present for part in parts]))
    longest = max(part.tensor.shape[1] for part in parts)
    values, masks = [], []
    for part in parts:
        room = longest - part.tensor.shape[1]
        values.append(F.pad(part.tensor, (0, 0, 0, room)))
        masks.append(F.pad(part.token_mask, (0, room), value=False))
    return Features(torch.cat(values), torch.cat(masks))


def absent(name: str, features: Features) -> Features:
    """Return what the model is given for a modality that nobody has: zeros under a False mask."""
    if isinstance(features.values, tuple):
        masks = tuple(_no_tokens(values) for values in features.values)
        return Features(tuple(torch.zeros_like(values) for values in features.values), masks)
    values = features.tensor
    mask = torch.zeros_like(features.present) if features.layout == "vector" else _no_tokens(values)
    return Features(torch.zeros_like(values), mask)


def average(batches: Iterable[Encoded]) -> dict[str, Features]:
    """Return the mean features of each modality over the samples that have it, as a batch of one.

    The mean of sequences is taken at each position over the samples that have a token there; a position is real when
    at least half of those samples have one.
    """
    joined: dict[str, list[Features]] = {}
    for batch in batches:
        for name, features in batch.items():
            joined.setdefault(name, []).append(features)
    return {name: _mean(join(parts)) for name, parts in joined.items()}


def filled_with(means: Encoded) -> Fill:
    """Return the filling for fusions that take no mask: the mean features in every row."""

    def fill(name: str, features: Features) -> Features:
        size = len(features.present)

        def expand(given: Tensor) -> Tensor:
            return given.expand(size, *given.shape[1:])

        return Features(_of_values(_each(expand, means[name].values)), _each(expand, means[name].mask))

    return fill


def _mean(features: Features) -> Features:
    if isinstance(features.values, tuple):
        layers = [_mean(layer) for layer in features.layers]
        return Features(tuple(layer.tensor for layer in layers), tuple(layer.token_mask for layer in layers))
    real = features.real  # (B,) or (B, T)
    count = real.sum(dim=0)  # () or (T,)
    total = features.tensor.masked_fill(~real.unsqueeze(-1), 0.0).sum(dim=0)  # (D,) or (T, D)
    mean = (total / count.clamp(min=1).unsqueeze(-1)).unsqueeze(0)
    if features.layout == "vector":
        return Features(mean, (count > 0).reshape(1))
    common = count * 2 >= features.present.sum()
    common = common & (count > 0)
    longest = max(int(common.sum()), 1)  # real tokens come first, so the common ones do
    return Features(mean[:, :longest], common[None, :longest])


def _no_tokens(values: Tensor) -> Tensor:
    return torch.zeros(values.shape[:2], dtype=torch.bool, device=values.device)


def _each(
    change: Callable[[Tensor], Tensor], given: Tensor | tuple[Tensor, ...] | None
) -> Tensor | tuple[Tensor, ...] | None:
    if given is None:
        return None
    return tuple(map(change, given)) if isinstance(given, tuple) else change(given)


def _of_values(values: Tensor | tuple[Tensor, ...] | None) -> Tensor | tuple[Tensor, ...]:
    assert values is not None
    return values
