"""Which modalities are left: every subset of them, its condition in words, and the model's logits on it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmbench.batches import SplitData
from mmbench.diagnostics.encoded import Encoded, Fill, take
from mmbench.features import Features
from mmbench.model import MultimodalModel

Subset = tuple[str, ...]
#: With more modalities than this only single ones, and all but one, are left in; there are no Shapley shares.
MAX_MODALITIES = 5


def proper_subsets(modalities: Sequence[str]) -> list[Subset]:
    """Return every non-empty subset but the whole, small ones first, each in the order of `modalities`.

    >>> proper_subsets(["a", "b", "c"])
    [('a',), ('b',), ('c',), ('a', 'b'), ('a', 'c'), ('b', 'c')]
    """
    count = len(modalities)
    sizes = range(1, count) if count <= MAX_MODALITIES else sorted({1, count - 1})
    return [subset for size in sizes for subset in itertools.combinations(modalities, size)]


def condition(subset: Subset, modalities: Sequence[str]) -> str:
    """Name what was done to the inputs: one modality dropped, or only some left.

    >>> condition(("image", "text"), ["audio", "image", "text"]), condition(("image",), ["audio", "image", "text"])
    ('drop:audio', 'only:image')
    """
    gone = [name for name in modalities if name not in subset]
    return f"drop:{gone[0]}" if len(gone) == 1 else f"only:{'+'.join(subset)}"


def predict_subsets(
    model: MultimodalModel,
    data: SplitData,
    subsets: Sequence[Subset],
    fill: Fill,
    *,
    keep: Sequence[int] = (),
    batch_size: int,
    autocast: bool = False,
) -> tuple[dict[Subset, dict[str, Tensor]], dict[str, list[Features]]]:
    """Encode a split once and fuse it with every subset of its modalities.

    Args:
        model: In evaluation mode.
        data: The split.
        subsets: Which modalities are left.
        fill: What stands in for the others.
        keep: Ascending positions of the samples whose features are wanted afterwards.
        batch_size: Samples encoded at a time.
        autocast: Whether the model runs in bfloat16.

    Returns:
        Logits (N, K) by subset and task, and the kept features by modality, in parts.
    """
    found: dict[Subset, dict[str, list[Tensor]]] = {subset: {} for subset in subsets}
    kept: dict[str, list[Features]] = {name: [] for name in model.modalities}
    wanted = torch.tensor(list(keep), dtype=torch.int64)
    start = 0
    with torch.inference_mode(), torch.autocast(data.device.type, torch.bfloat16, enabled=autocast):
        for batch in data.in_order(batch_size):
            features = model.encode(batch)
            for subset in subsets:
                for task, logits in fuse(model, features, subset, fill).items():
                    found[subset].setdefault(task, []).append(logits)
            inside = wanted[(wanted >= start) & (wanted < start + batch.size)] - start
            if len(inside):
                rows = inside.to(data.device)
                for name, given in features.items():
                    kept[name].append(take(given, rows))
            start += batch.size
    joined = {subset: {task: torch.cat(parts) for task, parts in by_task.items()} for subset, by_task in found.items()}
    return joined, kept


def fuse(model: MultimodalModel, features: Encoded, subset: Subset, fill: Fill) -> Mapping[str, Tensor]:
    """Return logits by task with only some modalities left in."""
    left = {name: given if name in subset else fill(name, given) for name, given in features.items()}
    return model.fuse(left).logits
