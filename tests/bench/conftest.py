"""What holds for all measurements of training and inference."""

from __future__ import annotations

import pytest


@pytest.fixture
def one_thread(one_thread: None) -> None:
    """Keep freed memory too, as the process of a cell does: fresh pages cost more on one day than on another."""
    from mmbench.executors.child import keep_freed_memory

    keep_freed_memory()
