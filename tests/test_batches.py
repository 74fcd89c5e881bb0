"""Gathered batches hold what the columns hold, resident or streamed, complete or with gaps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmbench.batches import SplitData, limited, split_order
from mmbench.columns import Column

CPU = torch.device("cpu")


def column(rows):
    """A column of variable length from a list of arrays, None where absent."""
    present = np.array([row is not None for row in rows])
    lengths = [0 if row is None else len(row) for row in rows]
    values = np.concatenate([row for row in rows if row is not None])
    return Column(values, np.cumsum([0, *lengths]), present)


def split(columns, count, **options):
    return SplitData(columns, {"y": np.arange(count)}, CPU, **options)


@given(
    lengths=st.lists(st.one_of(st.none(), st.integers(1, 5)), min_size=2, max_size=8).filter(any),
    resident=st.booleans(),
    data=st.data(),
)
def test_a_batch_holds_its_samples_and_says_which_are_missing(lengths, resident, data):
    rows = [None if size is None else np.random.default_rng(0).normal(size=(size, 2)).astype("f4") for size in lengths]
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6))
    made = split({"x": column(rows)}, len(rows), resident_bytes=None if resident else 0)

    given_ = made.batch(torch.tensor(index)).inputs["x"]

    expected = [rows[i] for i in index if rows[i] is not None]
    positions = [place for place, i in enumerate(index) if rows[i] is not None]
    assert given_.values.shape[0] == len(expected)
    assert (given_.rows is None and len(positions) == len(index)) or given_.rows.tolist() == positions
    for row, values, mask in zip(expected, given_.values, given_.mask):
        np.testing.assert_array_equal(values[: len(row)].numpy(), row)
        assert mask.tolist() == [True] * len(row) + [False] * (len(mask) - len(row))
        assert values[len(row) :].abs().sum() == 0
    if expected:
        assert given_.values.shape[1] == max(map(len, expected))


def test_samples_of_one_shape_need_no_mask():
    made = split({"x": Column(np.arange(6, dtype="u1").reshape(3, 2), None, np.ones(3, bool))}, 3)
    batch = made.batch(torch.tensor([2, 0]))

    assert batch.inputs["x"].mask is None
    assert batch.inputs["x"].values.tolist() == [[4, 5], [0, 1]]
    assert batch.targets["y"].tolist() == [2, 0]


@pytest.mark.parametrize("resident_bytes", [None, 0])
def test_streamed_and_resident_batches_are_equal(resident_bytes):
    values = np.random.default_rng(1).normal(size=(50, 3)).astype("f4")
    made = split({"x": Column(values, None, np.ones(50, bool))}, 50, resident_bytes=resident_bytes)

    batches = list(made.batches(torch.arange(50), 7))

    assert made.resident == (resident_bytes is None)
    np.testing.assert_array_equal(torch.cat([batch.inputs["x"].values for batch in batches]).numpy(), values)


def test_an_error_while_reading_ahead_reaches_the_reader():
    made = split({"x": Column(np.zeros((4, 1), "f4"), None, np.ones(4, bool))}, 4, resident_bytes=0)

    with pytest.raises(IndexError):
        list(made.batches(torch.tensor([0, 99]), 1))


def test_a_reader_that_stops_early_leaves_no_thread():
    import threading

    before = threading.active_count()
    made = split({"x": Column(np.zeros((400, 1), "f4"), None, np.ones(400, bool))}, 400, resident_bytes=0)
    batches = made.batches(torch.arange(400), 1)
    next(batches)
    batches.close()

    assert threading.active_count() == before


def test_a_last_batch_of_one_can_be_left_out():
    made = split({"x": Column(np.zeros((5, 1), "f4"), None, np.ones(5, bool))}, 5)

    assert [batch.size for batch in made.gathered(split_order(torch.arange(5), 4, min_size=2))] == [4]
    assert [batch.size for batch in made.batches(torch.arange(5), 4)] == [4, 1]
    assert [batch.size for batch in made.gathered(split_order(torch.arange(1), 4, min_size=2))] == [1]


def test_a_limit_keeps_the_same_samples_everywhere():
    subset = limited(10, 4)
    made = split({"x": Column(np.arange(10, dtype="f4")[:, None], None, np.ones(10, bool))}, 10, subset=subset)

    assert limited(10, 0) is None
    assert limited(10, 10) is None
    assert len(made) == 4
    batch = made.batch(torch.arange(4))
    assert batch.inputs["x"].values[:, 0].tolist() == subset.tolist() == batch.targets["y"].tolist()


def test_fit_sees_present_samples_of_the_subset_only():
    rows = [np.full((1, 1), n, "f4") for n in range(6)]
    rows[2] = None
    made = split({"x": column(rows)}, 6, subset=np.array([1, 2, 3]))

    values, _ = made.fit_inputs("x")

    assert values.flatten().tolist() == [1.0, 3.0]


def test_an_encoder_fits_to_as_many_samples_as_asked_for_where_enough_have_the_modality():
    rows = [np.full((1, 1), i, "f4") if i % 3 == 0 else None for i in range(60)]
    made = split({"x": column(rows)}, len(rows))

    values, _ = made.fit_inputs("x", max_samples=10)

    assert values.flatten().tolist() == [3.0 * place for place in np.linspace(0, 19, 10).astype(int)]
