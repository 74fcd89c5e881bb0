"""What holds for all measurements of training and inference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def one_thread(one_thread: None) -> Iterator[None]:
    """What the process of a cell has beside it: one thread in numpy's algebra too, and freed memory kept.

    Threads of algebra spin for a while after each product, and fresh pages cost more on one day than on another.
    """
    from threadpoolctl import threadpool_limits

    from mmbench.executors.child import keep_freed_memory

    keep_freed_memory()
    with threadpool_limits(1):
        yield
