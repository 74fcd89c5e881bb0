"""What holds for all measurements of training and inference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread, and freed memory kept, as in the process of a cell: fresh pages cost more on one day than on another."""
    import torch

    from mmbench.executors.child import keep_freed_memory

    keep_freed_memory()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
