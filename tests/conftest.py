"""What holds for all tests of the core."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from browser import Browser
    from prepare_cases import Server
    from profile_cases import Clock


def pytest_configure() -> None:
    """Let Ctrl-C reach the processes that tests start: a suite run in the background inherits it as ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch compute on one: small products gain nothing from two, and lose much where other tests run beside."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The profiler's clock on the CPU, in the test's hands: a busy machine changes nothing."""
    from profile_cases import Clock

    clock = Clock()
    monkeypatch.setattr("mmbench.profiling.meter.perf_counter", clock)
    monkeypatch.setattr("mmbench.profiling.sweep.perf_counter", clock)
    return clock


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on this machine, for as long as a test runs."""
    from prepare_cases import Server

    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of one module, where one is installed."""
    from browser import Browser, find_chromium

    executable = find_chromium()
    if executable is None:
        pytest.skip("no chromium is installed")
    with Browser(executable) as found:
        yield found
