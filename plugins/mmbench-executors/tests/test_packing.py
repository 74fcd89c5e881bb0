"""Cells into jobs, by walltime and by how many jobs are free."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmbench_executors.packing import pack_size, share_out


@pytest.mark.parametrize(
    ("seconds", "walltime_s", "expected"),
    [
        ([], 3600, 1),  # nothing has finished
        ([60.0], None, 1),  # the walltime is the partition's affair
        ([60.0], 3600, 47),  # 0.8 * (3600 - 30) / 60 = 47.6
        ([10.0] * 8 + [100.0, 1000.0], 3600, 28),  # the second slowest of ten decides
        ([4000.0], 3600, 1),  # longer than the walltime: there is no better than one
        ([0.01], 3600, 100),
    ],
)
def test_as_many_cells_as_fit_the_walltime(seconds: list[float], walltime_s: float | None, expected: int) -> None:
    assert pack_size(seconds, walltime_s) == expected


def test_no_cell_waits_in_a_pack_while_a_job_is_free() -> None:
    assert share_out("abcdef", size=10, free=3, fixed=False) == [["a", "b"], ["c", "d"], ["e", "f"]]


def test_a_given_number_of_cells_is_kept() -> None:
    assert share_out("abcdef", size=4, free=3, fixed=True) == [["a", "b", "c", "d"], ["e", "f"]]


def test_a_cell_that_must_be_first_begins_a_pack() -> None:
    assert share_out("abc", size=3, free=1, fixed=True, first={"b"}) == [["a"]]
    assert share_out("abc", size=3, free=2, fixed=True, first={"b"}) == [["a"], ["b", "c"]]


@given(
    keys=st.lists(st.integers(), unique=True, min_size=1).map(lambda numbers: [str(number) for number in numbers]),
    size=st.integers(1, 10),
    free=st.integers(1, 10),
    fixed=st.booleans(),
)
def test_packs_keep_the_order_and_their_bounds(keys: list[str], size: int, free: int, fixed: bool) -> None:
    packs = share_out(keys, size=size, free=free, fixed=fixed)

    assert 1 <= len(packs) <= free
    assert all(1 <= len(pack) <= size for pack in packs)
    assert [key for pack in packs for key in pack] == keys[: sum(map(len, packs))]
