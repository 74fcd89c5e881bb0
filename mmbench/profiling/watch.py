"""Takes the times of a training while it goes on: what a cell does anyway needs not be done again to be measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mmbench.model import Batch, MultimodalModel, Output
from mmbench.profiling.device import Neighbours
from mmbench.profiling.meter import Meter, Timing
from mmbench.profiling.protocol import Protocol
from mmbench.profiling.stages import StageClock, staged

Item = TypeVar("Item")
TakeStep = Callable[[Batch, int, dict[str, Tensor] | None], Tensor]

#: Full steps, and full passes after some of them, before any is counted.
WARM_UP_STEPS, WARM_UP_PASSES = 10, 1
#: One step in so many is taken apart into stages. It is not among those that are timed as a whole.
APART_EVERY = 16
#: So many times are kept at most, spread over the whole training.
MAX_TIMES, MAX_APART = 256, 32


class Thinned(Generic[Item]):
    """Keeps every n-th of what comes, where n doubles whenever there is more than `limit`."""

    def __init__(self, limit: int, every: int = 1) -> None:
        self.kept: list[Item] = []
        self._limit, self._every, self._place = limit, every, 0

    def due(self) -> bool:
        """Move on by one; return whether it is to be added."""
        self._place += 1
        return (self._place - 1) % self._every == 0

    def add(self, item: Item) -> None:
        """Keep one that is due."""
        self.kept.append(item)
        if len(self.kept) > self._limit:
            self.kept = self.kept[::2]
            self._every *= 2


class TrainingWatch:
    """Times the steps of a training and the passes over val, and takes some steps apart into stages.

    Nothing is computed twice or otherwise: a training that is watched gives the same weights to the last bit. Only on
    a CPU, where a call returns when its work is done; a GPU would have to be waited for.

    The times of steps are those of the training as it ends: where an epoch trains other parameters than the one before
    it, as when layers are opened one after the other, steps are watched anew.

    Args:
        model: What is trained, on the CPU.
        batch_size: Of a full step. Others, such as the last of an epoch, do not count.
        pass_size: Of a full forward pass over val.
        protocol: Under which the times go into the record.
    """

    def __init__(self, model: MultimodalModel, *, batch_size: int, pass_size: int, protocol: Protocol) -> None:
        self.batch_size, self.pass_size = batch_size, pass_size
        self.neighbours = Neighbours(torch.device("cpu"))
        self._model, self._parameters = model, list(model.parameters())
        self._meter, self._protocol = Meter(torch.device("cpu"), protocol), protocol
        self._began = self._meter.mark()
        self._num_passes = 0
        self._passes: Thinned[float] = Thinned(MAX_TIMES)
        self._epoch, self._trained = -1, list[bool]()
        self._forget_steps()

    def step(self, take: TakeStep, batch: Batch, epoch: int, grad_norms: dict[str, Tensor] | None) -> Tensor:
        """Take a step and return its loss; one that also measures gradients does not count."""
        if epoch != self._epoch:
            before, self._trained = self._trained, [item.requires_grad for item in self._parameters]
            self._epoch = epoch
            if self._trained != before:
                self._forget_steps()
        if batch.size != self.batch_size or grad_norms is not None:
            return take(batch, epoch, grad_norms)
        self._num_steps += 1
        if self._num_steps <= WARM_UP_STEPS:
            return take(batch, epoch, None)
        if self._apart.due():
            clock = StageClock(self._meter)
            with self._gradients(), staged(self._model, clock):
                clock.reset()
                loss = take(batch, epoch, None)
                self._apart.add(clock.times())
            return loss
        counts = self._steps.due()
        began = self._meter.mark()
        loss = take(batch, epoch, None)
        if counts:
            self._steps.add(self._meter.between(began, self._meter.mark()))
        return loss

    def infer(self, batch: Batch) -> Output:
        """Run the model, in evaluation mode, over a batch of val."""
        self._num_passes += batch.size == self.pass_size
        if batch.size != self.pass_size or self._num_passes <= WARM_UP_PASSES or not self._passes.due():
            return self._model(batch)
        began = self._meter.mark()
        output = self._model(batch)
        self._passes.add(self._meter.between(began, self._meter.mark()))
        return output

    def elapsed_s(self) -> float:
        """Return seconds since the training began."""
        return self._meter.between(self._began, self._meter.mark())

    def steps(self) -> Timing | None:
        """Return the times of full steps; None where they were too few, or none was taken apart."""
        return self._timing(self._steps, WARM_UP_STEPS) if self._apart.kept else None

    def passes(self) -> Timing | None:
        """Return the times of full passes; None where they were too few."""
        return self._timing(self._passes, WARM_UP_PASSES)

    def stages(self) -> list[Mapping[str, float]]:
        """Return seconds by stage of each step that was taken apart."""
        return list(self._apart.kept)

    def _forget_steps(self) -> None:
        self.num_reached_parameters = self._num_steps = 0
        self._steps: Thinned[float] = Thinned(MAX_TIMES)
        self._apart: Thinned[dict[str, float]] = Thinned(MAX_APART, every=APART_EVERY)

    def _timing(self, times: Thinned[float], num_warm_up: int) -> Timing | None:
        if len(times.kept) < self._protocol.min_iterations:
            return None
        return Timing(tuple(times.kept), math.fsum(times.kept), None, (num_warm_up, "limit"))

    @contextmanager
    def _gradients(self) -> Iterator[None]:
        """See which parameters a gradient has reached when the optimiser takes its step, before it drops them."""

        def look(*_: Optimizer | Any) -> None:
            reached = sum(item.numel() for item in self._parameters if item.grad is not None)
            self.num_reached_parameters = max(self.num_reached_parameters, reached)

        handle = register_optimizer_step_pre_hook(look)
        try:
            yield
        finally:
            handle.remove()
