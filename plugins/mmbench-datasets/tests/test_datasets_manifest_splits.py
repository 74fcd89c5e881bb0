"""Which rows of a manifest train, choose and test, and when a split is refused."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from manifest_cases import opened, refuse, table, texts
from mmbench_datasets.splits import split_groups

from mmbench.data import SPLITS

pytestmark = pytest.mark.usefixtures("own_cache")


def test_rows_keep_their_order_within_the_split_that_they_name(tmp_path):
    splits = opened(texts(tmp_path))

    assert [sample.sample_id for sample in splits["val"]] == ["s4", "s5"]
    assert [sample.sample_id for sample in splits["train"]] == ["s0", "s1", "s2", "s3", "s8", "s9", "s10", "s11"]
    assert [dict(sample.targets) for sample in splits["test"]] == [{"label": 0}, {"label": 1}]


@pytest.mark.parametrize(
    ("word", "split"), [("valid", "val"), ("Validation", "val"), ("dev", "val"), ("TEST ", "test")]
)
def test_other_words_for_a_split_are_understood(tmp_path, word, split):
    target = texts(tmp_path, row0=f"s0,{word},cat,a text 0")

    assert "s0" in [sample.sample_id for sample in opened(target)[split]]


def test_without_a_split_rows_are_split_70_15_15_in_every_class(tmp_path):
    target = table(tmp_path, "label,text", [f"{'aab'[row % 3]},some text {row}" for row in range(300)])

    splits = opened(target)
    counts = {split: Counter(sample.targets["label"] for sample in splits[split]) for split in SPLITS}
    assert counts == {"train": {0: 140, 1: 70}, "val": {0: 30, 1: 15}, "test": {0: 30, 1: 15}}


def multilabel_rows(seed, count=200):
    """Rows of twelve labels, each on 1 to 30 % of the rows; some rows have none."""
    rng = np.random.default_rng(seed)
    labels = rng.random((count, 12)) < np.concatenate([[0.012], rng.uniform(0.01, 0.3, 11)])
    return labels, [frozenset(np.flatnonzero(row).tolist()) for row in labels]


def test_every_label_reaches_train_and_test_holds_its_share_of_each():
    absent, misses, misses_at_random = 0, [], []
    for seed in range(60):
        labels, strata = multilabel_rows(seed)
        ids = [f"row {number}" for number in range(len(labels))]
        for found, rows in (
            (misses, split_groups(ids, strata, seed)),
            (misses_at_random, split_groups(ids, [0] * len(ids), seed)),
        ):
            found.append(np.abs(labels[rows["test"]].sum(axis=0) - 0.15 * labels.sum(axis=0)).max())
            if found is misses:
                absent += int((labels.any(axis=0) & ~labels[rows["train"]].any(axis=0)).sum())
                assert [len(rows[split]) for split in SPLITS] == pytest.approx([140, 30, 30], abs=4)

    assert absent == 0
    assert np.mean(misses) < 1.3
    assert np.mean(misses_at_random) > 3


def test_groups_with_labels_stay_together():
    labels, strata = multilabel_rows(0, 400)
    groups = [f"g{number // 4}" for number in range(400)]

    rows = split_groups(groups, strata, 0)

    held = {split: {groups[row] for row in rows[split]} for split in SPLITS}
    assert not (held["train"] & held["test"] or held["train"] & held["val"] or held["val"] & held["test"])
    assert labels[rows["train"]].any(axis=0).all()
    assert 45 <= len(rows["test"]) <= 75


def test_a_manifest_of_labels_is_never_refused_for_a_label_that_train_lacks(tmp_path):
    for seed in range(20):
        labels, _ = multilabel_rows(seed, 60)
        rows = [f"{';'.join(f'l{k}' for k in np.flatnonzero(row))},some text {at}" for at, row in enumerate(labels)]

        splits = opened(table(tmp_path, "label,text", rows, f"{seed}.csv"), label="label:multilabel", seed=seed)

        assert sum(map(len, splits.values())) == 60


def test_the_classes_of_a_second_task_reach_train(tmp_path):
    rows = [f"{'ab'[row % 2]},{f'rare{row // 20}' if row % 20 < 2 else 'often'},some text {row}" for row in range(200)]

    for seed in range(10):
        splits = opened(table(tmp_path, "label,kind,text", rows), label="label+kind", seed=seed, note="text")

        counts = {split: Counter(sample.targets["kind"] for sample in splits[split]) for split in SPLITS}
        assert set(counts["train"]) == set(range(11))
        assert Counter(sample.targets["label"] for sample in splits["test"])[0] == pytest.approx(15, abs=4)


def test_a_number_is_split_by_its_quantiles(tmp_path):
    values = np.random.default_rng(0).lognormal(0, 2, 200)
    target = table(tmp_path, "label,text", [f"{value!r},some text {row}" for row, value in enumerate(values.tolist())])

    splits = opened(target)

    tenths = np.argsort(np.argsort(values)) // 20
    of_value = dict(zip(values.tolist(), tenths.tolist()))
    for split, each in (("train", 14), ("val", 3), ("test", 3)):
        counts = Counter(of_value[sample.targets["label"]] for sample in splits[split])
        assert counts == dict.fromkeys(range(10), each)


def test_the_split_depends_on_the_seed_and_on_ids_and_not_on_the_order_of_rows(tmp_path):
    rows = [f"id{row},{'ab'[row % 2]},some text {row}" for row in range(100)]
    first = table(tmp_path, "id,label,text", rows, "first.csv")
    random.Random(0).shuffle(rows)
    second = table(tmp_path, "id,label,text", rows, "second.csv")

    def test_ids(target, **options):
        return {sample.sample_id for sample in opened(target, **options)["test"]}

    assert test_ids(first) == test_ids(second)
    assert test_ids(first) != test_ids(first, seed=1)


def test_groups_stay_together_in_the_split(tmp_path):
    rows = [f"{'ab'[row // 4 % 2]},some text {row},person{row // 4}" for row in range(200)]
    target = table(tmp_path, "label,text,who", rows)

    splits = opened(target, group="who", note="text")
    people = {split: {sample.inputs["note"].split()[-1] for sample in splits[split]} for split in SPLITS}
    groups = {split: {int(number) // 4 for number in people[split]} for split in SPLITS}
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["val"]
    assert not groups["val"] & groups["test"]
    assert 20 <= len(splits["test"]) <= 40


def test_split_auto_overrules_the_column(tmp_path):
    target = table(tmp_path, "split,label,text", [f"train,{'ab'[row % 2]},some text {row}" for row in range(40)])

    assert len(opened(target, split="auto")["test"]) == 6


def test_one_class_in_train_only(tmp_path):
    rows = [
        f"{'train' if row < 10 else 'val' if row < 15 else 'test'},{'a' if row < 10 else 'b'},t {row}"
        for row in range(20)
    ]

    assert "train holds one class only of 'label' ('a')" in refuse(table(tmp_path, "split,label,text", rows))


def test_val_is_taken_from_train_where_no_row_has_it(tmp_path):
    rows = [f"{'train' if row < 40 else 'testing'},{'ab'[row % 2]},some text {row},g{row // 2}" for row in range(60)]
    target = table(tmp_path, "split,label,text,group", rows)

    splits = opened(target)
    counts = {split: Counter(sample.targets["label"] for sample in splits[split]) for split in SPLITS}
    assert counts == {"train": {0: 17, 1: 17}, "val": {0: 3, 1: 3}, "test": {0: 10, 1: 10}}
    groups = {split: {(int(sample.sample_id[4:]) - 1) // 2 for sample in splits[split]} for split in SPLITS}
    assert not groups["train"] & groups["val"]


def test_a_split_without_test_or_train_is_refused(tmp_path):
    rows = [f"{'val' if row < 10 else 'test'},{'ab'[row % 2]},some text {row}" for row in range(20)]

    message = refuse(table(tmp_path, "split,label,text", rows))
    assert "no row has the split 'train' (there is val, test)" in message
    assert "[split=auto]" in message


def test_too_few_rows_to_split(tmp_path):
    assert "do not fill train, val and test" in refuse(table(tmp_path, "label,text", ["a,one two", "b,two three"]))


def test_a_split_that_is_no_split(tmp_path):
    assert "line 2: the split (column 'split') is 'holdout'; write train, val or test" in refuse(
        texts(tmp_path, row0="s0,holdout,cat,x y")
    )


def test_a_class_that_is_never_in_train(tmp_path):
    message = refuse(texts(tmp_path, row6="s6,test,bird,x y"))

    assert "line 8: the class 'bird' of 'label' occurs in test and never in train" in message
    assert "cannot be learned" in message


def test_a_group_in_two_splits(tmp_path):
    rows = [f"{('train', 'val', 'test')[row % 3]},{'ab'[row % 2]},some text {row},g{row % 4}" for row in range(24)]

    assert "keep a group in one split" in refuse(table(tmp_path, "split,label,text,who", rows), group="who")


def test_a_column_called_group_is_checked_without_being_named(tmp_path):
    """A given split that divides a group is refused also where only the column's name says that it holds groups."""
    rows = [f"{('train', 'val', 'test')[row % 3]},{'ab'[row % 2]},some text {row},g{row % 4}" for row in range(24)]

    message = refuse(table(tmp_path, "split,label,text,group", rows))

    assert "(column 'group') is in train and in" in message
    assert 'ignore the column by [group=""] if it does not hold groups' in message


def _pareto_groups(seed):
    rng = np.random.default_rng(seed)
    sizes = np.ceil(3 * rng.pareto(1.2, 60)).clip(1, 25).astype(int)
    return [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)], sizes


def test_large_groups_reach_each_split_as_often_as_its_share_says():
    """Groups are drawn at random: the largest one is in test in about 15 of 100 splits, not in none."""
    found = dict.fromkeys(SPLITS, 0)
    for seed in range(400):
        groups, sizes = _pareto_groups(seed)
        largest = f"g{int(sizes.argmax())}"
        splits = split_groups(groups, [0] * len(groups), seed)
        found[next(split for split in SPLITS if largest in {groups[row] for row in splits[split]})] += 1

    assert found["train"] / 400 == pytest.approx(0.7, abs=0.1)
    assert found["test"] / 400 == pytest.approx(0.15, abs=0.08)


def test_splits_of_whole_groups_keep_their_shares():
    shares = []
    for seed in range(200):
        groups, _ = _pareto_groups(seed)
        shares.append(len(split_groups(groups, [0] * len(groups), seed)["test"]) / len(groups))

    assert np.mean(shares) == pytest.approx(0.15, abs=0.01)
    assert np.quantile(np.abs(np.subtract(shares, 0.15)), 0.95) < 0.05
