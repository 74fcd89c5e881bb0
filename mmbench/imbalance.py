"""Imbalanced classes, whose rare ones accuracy hides: the test for them, and the warning before training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from mmbench.metric_catalog import primary_metric

if TYPE_CHECKING:
    from mmbench.data_card import DataCard
    from mmbench.parts import DatasetPart


def is_imbalanced(majority_share: float, num_classes: int) -> bool:
    """Whether one class has so many of the samples that accuracy hardly depends on the others.

    >>> is_imbalanced(0.55, 2), is_imbalanced(0.7, 2), is_imbalanced(0.25, 10)
    (False, True, True)
    """
    return num_classes >= 2 and majority_share > min(0.6, 2 / num_classes)


def imbalance_warnings(parts: Iterable[DatasetPart], cards: Mapping[str, DataCard]) -> Iterator[str]:
    """Yield a warning for each task of imbalanced classes that accuracy ranks, where a data card counts its classes."""
    for part in parts:
        card = cards.get(part.label)
        if card is None:
            continue
        counted = {task.name: task for task in card.tasks}
        num_train = card.num_samples.get("train", 0)
        for task in part.info.tasks:
            counts = counted[task.name].counts.get("train", {}) if task.name in counted else {}
            if task.kind != "multiclass" or primary_metric(task) != "accuracy" or not counts or not num_train:
                continue
            name, most = max(counts.items(), key=lambda item: item[1])
            if is_imbalanced(most / num_train, task.num_outputs):
                yield (
                    f"warning: {part.label}: {name!r} has {most / num_train:.0%} of the training samples of "
                    f"{task.name!r}, and accuracy ranks the rows; --metric balanced_accuracy or --metric f1_macro "
                    "counts classes alike"
                )
