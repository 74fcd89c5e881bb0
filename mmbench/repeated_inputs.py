"""Warnings of test samples whose inputs stand in another split."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmbench.columns import Column
from mmbench.data import SPLITS, Array, Split
from mmbench.spec import DatasetInfo, Kind

#: Kinds whose inputs do not repeat by chance, as words and table rows do: one that does is the same recording.
RECORDED_KINDS: tuple[Kind, ...] = ("image", "audio", "video", "sequence")
#: Share of test samples with a repeated recording above which there is a warning: a score may be so much too high.
REPEATED_SHARE = 0.01


def repeated_inputs(columns: Mapping[str, Mapping[Split, Column]], info: DatasetInfo) -> list[str]:
    """Return warnings of test samples whose inputs stand in another split, by what a cell reads of them.

    One counts the samples that equal a sample of train or val in every modality of the dataset. One for each recorded
    modality (`RECORDED_KINDS`) counts those with a recording of train, whatever the other modalities are, where they
    are more than `REPEATED_SHARE` of test.

    Args:
        columns: By modality, of every split.
        info: Of the dataset.
    """
    digests = {
        name: {split: column.digests for split in SPLITS if (column := column_of[split]).digests is not None}
        for name, column_of in sorted(columns.items())
    }
    known = {name: of_split for name, of_split in digests.items() if len(of_split) == len(SPLITS)}
    num_equal = _num_equal_samples(known) if set(known) == {modality.name for modality in info.modalities} else 0
    found = []
    if num_equal:
        found.append(
            f"{num_equal} of {len(next(iter(known.values()))['test'])} test samples have exactly the inputs of a "
            "sample of train or val; scores on them say nothing about new data"
        )
    kinds = {modality.name: modality.kind for modality in info.modalities}
    for name in known.keys() & {name for name, kind in kinds.items() if kind in RECORDED_KINDS}:
        test, train = known[name]["test"], known[name]["train"]
        number = int((np.isin(test, train) & (test != 0)).sum())
        if number > max(num_equal, REPEATED_SHARE * len(test)):
            found.append(
                f"{number} of {len(test)} test samples ({number / len(test):.0%}) have exactly the {kinds[name]} "
                f"{name!r} of a sample of train, whose label a model can recall; keep samples that share it in one "
                "split (of a manifest: group=COLUMN)"
            )
    return sorted(found)


def _num_equal_samples(digests: Mapping[str, Mapping[Split, Array]]) -> int:
    """Return how many samples of test equal one of train or val in every modality."""
    joined: dict[Split, Array] = {}
    for split in SPLITS:
        total = np.zeros(1, dtype=np.uint64)
        for of_split in digests.values():
            total = total * np.uint64(0x9E3779B97F4A7C15) + of_split[split]  # wraps around, as it may
        joined[split] = total
    return int(np.isin(joined["test"], np.concatenate([joined["train"], joined["val"]])).sum())
