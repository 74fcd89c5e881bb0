"""Records what a device is asked to do as a CUDA graph, and leaves the device usable where that fails."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from mmbench.torch_compat import new_cuda_graph, replace_generator_state

Replay: TypeAlias = Callable[[], Tensor]


class Recorder(Protocol):
    """What capturing needs of a device."""

    def stream(self) -> Any:
        """Return a context in which all steps of an epoch run."""

    def synchronise(self) -> None:
        """Wait until the device has done everything."""

    def record(self, work: Callable[[], Tensor]) -> Replay:
        """Capture some work without doing it; return what does it, and gives its result, each time it is called."""

    def has_room(self) -> bool:
        """Return whether the device can hold a step's memory once more: a graph keeps its own."""

    def random_state(self) -> Tensor:
        """Return the state of the device's generator."""

    def set_random_state(self, state: Tensor) -> None:
        """Put it back."""


class CudaRecorder:
    """Captures on a stream of its own, on which the steps before and between run too."""

    def __init__(self, device: torch.device) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self.side = torch.cuda.Stream(self.device)

    @contextmanager
    def stream(self) -> Iterator[None]:
        outside = torch.cuda.current_stream(self.device)
        self.side.wait_stream(outside)
        try:
            with torch.cuda.stream(self.side):
                yield
        finally:
            outside.wait_stream(self.side)

    def synchronise(self) -> None:
        torch.cuda.synchronize(self.device)

    def record(self, work: Callable[[], Tensor]) -> Replay:
        graph = new_cuda_graph()
        self.synchronise()
        gc.collect()
        torch.cuda.empty_cache()
        state = self.random_state()
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            result = work()
        except BaseException:  # an interrupt, too, must not leave the stream capturing
            with suppress(RuntimeError):  # the capture is broken already, and ending it says so again
                graph.capture_end()
            replace_generator_state(self.device, state)
            raise
        try:
            graph.capture_end()
        except RuntimeError:
            replace_generator_state(self.device, state)
            raise

        def replay() -> Tensor:
            graph.replay()
            return result.clone()

        return replay

    def has_room(self) -> bool:
        free, _ = torch.cuda.mem_get_info(self.device)
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return 2 * torch.cuda.max_memory_allocated(self.device) <= free + unused

    def random_state(self) -> Tensor:
        return torch.cuda.get_rng_state(self.device)

    def set_random_state(self, state: Tensor) -> None:
        torch.cuda.set_rng_state(state, self.device)
