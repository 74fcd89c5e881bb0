"""How a data card is made: a dataset is opened, or its index read from the cache, and counted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmbench.cache import ArrayCache
from mmbench.config import part_root
from mmbench.data_card import MAX_CLASSES, DataCard, ModalityCard, TaskCard, keep_card
from mmbench.dataset_index import Index
from mmbench.dataset_source import DatasetSource
from mmbench.errors import DataError, MmbenchError
from mmbench.input_statistics import PERCENTILES
from mmbench.part_code import load_attribute
from mmbench.parts import DatasetPart
from mmbench.spec import SPLITS, Split, TaskSpec


def open_source(part: DatasetPart, *, cache_dir: Path, data_dir: Path) -> DatasetSource:
    """Return a chosen dataset, as cells open it; its plugin is called only when the cache lacks something."""
    spec, reference = part.spec, part.reference

    def open_splits() -> Mapping[str, Any]:
        root = part_root(data_dir, reference.entry.ref)
        root.mkdir(parents=True, exist_ok=True)
        target = {"target": reference.target} if part.spec_takes_target else {}
        opened: Mapping[str, Any] = load_attribute(spec.factory)(root, **target, **reference.options)
        return opened

    return DatasetSource(part.info, part.key, open_splits, ArrayCache(cache_dir))


def read_card(part: DatasetPart, *, cache_dir: Path, data_dir: Path, cached_only: bool = False) -> DataCard | None:
    """Return the card of a chosen dataset, or None where it cannot be had.

    Args:
        part: The dataset.
        cache_dir, data_dir: Where arrays and downloaded data lie.
        cached_only: Open nothing: there is a card only where a cell, or an earlier card, read the data.

    Raises:
        DataError: the data cannot be used.
    """
    source = open_source(part, cache_dir=cache_dir, data_dir=data_dir)
    try:
        index = source.cached_index if cached_only else source.index
    except DataError:
        raise
    except (MmbenchError, ImportError, OSError):
        return None
    return None if index is None else keep_card(part, ArrayCache(cache_dir), make_card(part, index))


def make_card(part: DatasetPart, index: Index) -> DataCard:
    """Return the card of a dataset whose index was read."""
    info = part.info
    return DataCard(
        name=part.label,
        ref=part.reference.entry.ref,
        summary=part.spec.summary,
        num_samples={split: len(index.sample_ids[split]) for split in SPLITS},
        tasks=tuple(_task_card(task, index) for task in info.tasks),
        modalities=tuple(
            ModalityCard(
                name=modality.name,
                kind=modality.kind,
                facts={**index.facts.get(modality.name, {}), **modality.facts},
                splits={split: index.statistics[split][modality.name] for split in SPLITS},
                num_distinct=_num_distinct(index, modality.name),
                repeated=_repeated(index, modality.name),
                warnings=tuple(index.warnings.get(modality.name, ())),
                fault=index.faults.get(modality.name, ""),
            )
            for modality in info.modalities
        ),
        num_conflicting=_num_conflicting(index, info.tasks[0]),
        notes=info.notes,
        fingerprint=info.fingerprint,
        title=info.title,
    )


def _task_card(task: TaskSpec, index: Index) -> TaskCard:
    targets = {split: index.targets[split][task.name] for split in SPLITS}
    if task.kind == "regression":
        percentiles: dict[str, tuple[float, ...]] = {
            split: tuple(np.percentile(values, PERCENTILES, axis=0).mean(axis=1).tolist())
            for split, values in targets.items()
        }
        return TaskCard(name=task.name, kind=task.kind, num_outputs=task.num_outputs, percentiles=percentiles)
    if task.kind not in ("multiclass", "multilabel"):
        return TaskCard(name=task.name, kind=task.kind, num_outputs=task.num_outputs)
    counts = {
        split: np.bincount(values, minlength=task.num_outputs) if task.kind == "multiclass" else values.sum(axis=0)
        for split, values in targets.items()
    }
    names = task.class_names or tuple(map(str, range(task.num_outputs)))
    order = np.argsort(-counts["train"], kind="stable")
    absent = [names[number] for number in np.flatnonzero((counts["train"] == 0) & (counts["val"] + counts["test"] > 0))]
    return TaskCard(
        name=task.name,
        kind=task.kind,
        num_outputs=task.num_outputs,
        counts={
            split: {names[number]: int(counts[split][number]) for number in order[:MAX_CLASSES].tolist()}
            for split in SPLITS
        },
        absent=tuple(absent[:MAX_CLASSES]),
        num_absent=len(absent),
    )


def _num_distinct(index: Index, name: str) -> int | None:
    digests = index.digests["train"][name]
    return int(np.unique(digests[digests != 0]).size) if digests.size else None


def _repeated(index: Index, name: str) -> dict[str, int]:
    """Return how many inputs of test stand in train and in val, too."""
    test = index.digests["test"][name]
    found: dict[str, int] = {}
    others: tuple[Split, ...] = ("train", "val")
    for split in others:
        other = index.digests[split][name]
        if test.size and other.size:
            found[split] = int((np.isin(test, other) & (test != 0)).sum())
    return found


def _num_conflicting(index: Index, task: TaskSpec) -> int | None:
    """Return how many samples have inputs that occur with several targets; None where inputs are not known."""
    if task.kind != "multiclass":
        return None
    total = np.zeros(sum(len(index.sample_ids[split]) for split in SPLITS), dtype=np.uint64)
    for name in index.statistics["train"]:
        digests = np.concatenate([index.digests[split][name] for split in SPLITS])
        if digests.size != total.size:
            return None
        total = total * np.uint64(0x9E3779B97F4A7C15) + digests  # wraps around, as it may
    target = np.concatenate([index.targets[split][task.name] for split in SPLITS])
    inputs = np.unique(total, return_inverse=True)[1].ravel()
    pairs = np.unique(np.stack([inputs, target]), axis=1)
    targets_of = np.bincount(pairs[0])
    return int((targets_of[inputs] > 1).sum())
